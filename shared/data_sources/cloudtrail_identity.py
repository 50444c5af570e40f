"""Whom a CloudTrail record is about: one key for one principal, so that no two share the rows of a window.

By https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-user-identity.html:

| type | key |
|---|---|
| IAMUser, Role, AssumedRole, AWSAccount | `principalId` before the colon, AIDA... or AROA...; a session follows |
| AssumedRole without it | the session issuer's `principalId`, else its `arn`, else account and name |
| Root, FederatedUser, SAMLUser, WebIdentityUser, Directory, others | type, `identityProvider`, all of `principalId` |
| IdentityCenterUser | `onBehalfOf`: identity store and user id |
| AWSService, and who has no `principalId` | type, account, `invokedBy`, and whatever else says who it is |

A role's session name is the caller's choice, and may be that of a tool: it is in no key. The name of a federated user,
of a SAML subject or of a web identity is the principal itself, and no feature is made from a key.
"""

import re
from collections.abc import Iterable
from typing import Any

from shared.data_sources.cloudtrail_keys import is_blank

_WHO = ("principalId", "arn", "userName", "accessKeyId", "invokedBy", "identityProvider", "credentialId")
# AIDA... of a user, AROA... of a role, and others that AWS makes up; those of accounts are digits alone.
_UNIQUE_ID = re.compile("[A-Z][A-Z0-9]{3,127}")
_WITH_UNIQUE_ID = ("IAMUser", "Role", "AssumedRole", "AWSAccount")
# Of other types, or none, what stands before a colon may be a domain or a provider, whose users are many: CORP:jane.
_USER_OR_ROLE = re.compile("A(IDA|ROA)[A-Z0-9]{1,124}")
_WITHOUT_UNIQUE_ID = ("FederatedUser", "SAMLUser", "WebIdentityUser", "Directory")


def principal_key(identity: dict[str, Any]) -> str:
    """What groups the records of one principal.

    Args:
        identity: `userIdentity` of a record, of any form.
    """
    kind = _text(identity, "type")
    principal = _text(identity, "principalId")
    center = _inner(identity, "onBehalfOf")
    if _text(center, "userId") and kind not in ("AssumedRole", "Role", "IAMUser"):
        return "|".join(("IdentityCenterUser", _text(center, "identityStoreArn"), _text(center, "userId")))
    first = principal.partition(":")[0]
    if kind in ("AssumedRole", "Role") and not _UNIQUE_ID.fullmatch(first):
        issuer = _issuer(identity)
        if issuer:
            return issuer
    unique = _UNIQUE_ID if kind in _WITH_UNIQUE_ID else _USER_OR_ROLE
    if kind not in _WITHOUT_UNIQUE_ID and unique.fullmatch(first):
        return first
    if kind == "AWSService" or not principal:
        return _without_id(identity)
    parts: tuple[str, ...] = ("type", "identityProvider", "principalId")
    if kind == "Unknown" or (principal == _text(identity, "accountId") != "" and kind != "Root"):
        parts = (*parts, "userName")  # a sign-in that failed has the account's number alone
    return _joined(_text(identity, name) for name in parts)


def principal_name(identity: dict[str, Any]) -> str:
    """Who it is, for a person; empty where the record does not say."""
    if arn := _text(identity, "arn"):
        return arn
    places = (identity, _inner(_inner(identity, "sessionContext"), "sessionIssuer"), _inner(identity, "onBehalfOf"))
    names = ("arn", "invokedBy", "principalId", "userName", "userId")  # of each place in this order
    found = (_text(place, name) for place in places for name in names)
    return next(filter(None, found), "") or _text(identity, "accessKeyId")


def tells_who(identity: dict[str, Any]) -> bool:
    """Whether an identity has anything that tells one principal from others of its type and account."""
    if any(_text(identity, name) for name in _WHO) or _issuer(identity):
        return True
    if _text(_inner(identity, "onBehalfOf"), "userId"):
        return True
    return _text(identity, "type") in ("Root", "AWSAccount") and bool(_text(identity, "accountId"))


def _issuer(identity: dict[str, Any]) -> str:
    """The role or user of whom a session is, by the best that there is; empty where the record does not say."""
    issuer = _inner(_inner(identity, "sessionContext"), "sessionIssuer")
    named = _text(issuer, "principalId") or _text(issuer, "arn")
    if named or not _text(issuer, "userName"):
        return named
    account = _text(issuer, "accountId") or _text(identity, "accountId")
    return _joined((_text(issuer, "type"), account, _text(issuer, "userName")))


def _without_id(identity: dict[str, Any]) -> str:
    """The key of who has no `principalId`, by what there is."""
    arn = _text(identity, "arn")
    if ":assumed-role/" in arn:  # .../<role>/<session>, and the session is the caller's choice
        arn = "/".join(arn.split("/")[:2])
    names = ("userName", "identityProvider", "credentialId")
    who = [_text(identity, name) for name in names]
    named = arn or any(who) or _text(identity, "invokedBy")
    key = "" if named else _issuer(identity) or _text(identity, "accessKeyId")  # each session has another key
    return _joined([_text(identity, name) for name in ("type", "accountId", "invokedBy")] + [*who, arn, key])


def _joined(parts: Iterable[str]) -> str:
    """One text of several, such that no two lists of parts make the same; without the empty ones at the end."""
    escaped = [part.replace("\\", "\\\\").replace("|", "\\|") for part in parts]
    while escaped and not escaped[-1]:
        escaped.pop()
    return "|".join(escaped)


def _inner(values: dict[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _text(values: dict[str, Any], name: str) -> str:
    """A value as text; empty where there is none, or what exports write for none."""
    value = values.get(name)
    if is_blank(value):
        return ""
    return value if isinstance(value, str) else str(value)
