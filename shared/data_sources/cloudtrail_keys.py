"""Which field of CloudTrail's reference a key means, however an export spells it: in lower or upper case, with blanks
or underscores, and flat, where the fields of a structure became columns.

| written by | for `userIdentity.sessionContext.sessionIssuer.arn` |
|---|---|
| pandas.json_normalize, Elastic, Splunk | `userIdentity.sessionContext.sessionIssuer.arn` |
| views of Athena, dbt | `useridentity_sessioncontext_sessionissuer_arn`, `user_identity__session_context__...` |
| Sentinel | `SessionIssuerArn`, `AwsEventId` for `eventID`, and `UserIdentityArn` |
| Spark, Power BI | `userIdentity/sessionContext/sessionIssuer/arn`, the same with colons |
| Athena, of `SELECT useridentity.sessioncontext.sessionissuer.arn` | `arn`, the end of the path alone |
"""

import copy
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

Path = tuple[str, ...]
IDENTITY = "userIdentity"
_TYPES = frozenset(
    """
    Root IAMUser AssumedRole Role FederatedUser Directory AWSAccount AWSService IdentityCenterUser SAMLUser
    WebIdentityUser Unknown
    """.split()  # noqa: SIM905 (one value per line would fill a screen)
)
_RECORD = """
    eventVersion userIdentity eventTime eventSource eventName awsRegion sourceIPAddress userAgent errorCode errorMessage
    requestParameters responseElements additionalEventData requestID eventID readOnly resources eventType apiVersion
    managementEvent recipientAccountId serviceEventDetails sharedEventID vpcEndpointId vpcEndpointAccountId
    eventCategory addendum sessionCredentialFromConsole eventContext edgeDeviceDetails tlsDetails insightDetails
    summaries digestS3Object CloudTrailEvent eventJson
"""
_IDENTITY = """
    type principalId arn accountId accessKeyId userName invokedBy identityProvider credentialId inScopeOf
    onBehalfOf.userId onBehalfOf.identityStoreArn sessionContext.attributes.mfaAuthenticated
    sessionContext.attributes.creationDate sessionContext.sessionIssuer.type sessionContext.sessionIssuer.principalId
    sessionContext.sessionIssuer.arn sessionContext.sessionIssuer.accountId sessionContext.sessionIssuer.userName
    sessionContext.webIdFederationData.federatedProvider sessionContext.sourceIdentity sessionContext.ec2RoleDelivery
"""
# In structures whose keys are those of services; of these the features ask.
_ANSWERS = "MFAUsed ConsoleLogin SwitchRole CheckMfa"
_OPEN = (
    "requestParameters", "responseElements", "additionalEventData", "serviceEventDetails", "tlsDetails",
    "insightDetails",
)  # fmt: skip
_LONGEST_KEY = 200
_LONGEST_KEYS = 4_000  # characters of a record's keys together, that are remembered
_MARKS = re.compile(r"[._/:\s-]+")
_PREFIX = re.compile(r"(.+[._/:])event[ _]?name", re.IGNORECASE)
_LONGEST_BLANK = 6  # characters, with blanks around
_BLANK = frozenset({"", "-", "null", "none", "nan", "n/a", "<na>", "(null)", "\\n"})  # the last is Hive's \N


def _squashed(key: str) -> str:
    """The letters and digits alone, in lower case: what all spellings of a key share."""
    return re.sub("[^a-z0-9]", "", key.lower())


_LEAVES: tuple[Path, ...] = tuple(tuple(text.split(".")) for text in _IDENTITY.split())
# And the structures that they are in, which may be one column with all that is in them.
_IDENTITY_PATHS = tuple(dict.fromkeys([*_LEAVES, *(path[:end] for path in _LEAVES for end in range(1, len(path)))]))
IDENTITY_NAMES = frozenset(path[0] for path in _LEAVES)
_FIELDS = frozenset(_RECORD.split())
_NAMES = {_squashed(name): name for name in f"{_RECORD} {_ANSWERS} {_IDENTITY}".replace(".", " ").split()}
_ANSWER = {_squashed(name): name for name in _ANSWERS.split()}
_PATHS: dict[str, Path] = (
    {_squashed(name): (name,) for name in _FIELDS}
    | {"awseventid": ("eventID",)}
    | {_squashed(IDENTITY + "".join(path)): (IDENTITY, *path) for path in _IDENTITY_PATHS}
)


def _ends() -> dict[str, Path]:
    """Columns that are called by the end of a path alone, or of whom it is; of two paths the shorter one counts."""
    # The console's event history has "User name" and "AWS access key".
    found: dict[str, Path] = {"awsaccesskey": (IDENTITY, "accessKeyId"), "user": (IDENTITY, "userName")}
    for path in sorted(_IDENTITY_PATHS, key=len):
        for start in range(len(path)):
            if path[start:] != ("attributes",):  # which messages of any kind have
                found.setdefault(_squashed("".join(path[start:])), (IDENTITY, *path))
        for owner in ("user", "identity", "principal"):
            found.setdefault(owner + _squashed("".join(path)), (IDENTITY, *path))
    return found


_ENDS = _ends()


def path_of(key: str) -> Path:
    """The field that a key of a record means, as a path of the reference's names; else the key itself."""
    return _path_of(key) if len(key) <= _LONGEST_KEY else (key,)


@lru_cache(maxsize=4096)  # a file's records have the same keys; a hostile file has as many as it likes
def _path_of(key: str) -> Path:
    known = _PATHS.get(_squashed(key))
    if known:
        return known
    for mark in _MARKS.finditer(key):
        owner = _PATHS.get(_squashed(key[: mark.start()]), ())
        if len(owner) == 1 and (owner[0] in _OPEN or owner[0] == IDENTITY):
            rest = key[mark.end() :]
            answer = _ANSWER.get(_squashed(rest))
            inner = (answer,) if answer else tuple(name_within(name) for name in rest.split(mark[0]))
            return (*owner, *inner) if all(inner) else (key,)
    return (key,)


def fields_in(record: Mapping[str, Any]) -> frozenset[str]:
    """The fields of the reference that a record has, of each path the first name; other keys as they are."""
    return _told_by_names(tuple(record))[0]


def _told_by_names(names: tuple[str, ...]) -> tuple[frozenset[str], str]:
    """The fields that keys mean, and what stands before `eventName` in one of them, empty where nothing does."""
    return _remembered(names) if sum(map(len, names)) <= _LONGEST_KEYS else _remembered.__wrapped__(names)


@lru_cache(maxsize=256)  # the records of a file are of some kinds
def _remembered(names: tuple[str, ...]) -> tuple[frozenset[str], str]:
    return frozenset(path_of(name)[0] for name in names), next(filter(None, map(_prefix_of, names)), "")


def is_field(key: str) -> bool:
    """Whether a key is that of a field of the reference, or of one within."""
    return path_of(key)[0] in _FIELDS


def name_within(key: str, *, any_spelling: bool = False) -> str:
    """A key within a structure as the reference spells it: in one case alone or, where no API chooses the key, any."""
    if key in _NAMES or key.isupper():
        return _NAMES.get(key.lower(), key)
    return _spelt(key) if any_spelling and len(key) <= _LONGEST_KEY else key


@lru_cache(maxsize=4096)
def _spelt(key: str) -> str:
    return _NAMES.get(_squashed(key), key)


def nested(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record's fields by the reference's names, and those that are flat, as the structures that they are of.

    Of two spellings of one field the first that holds something counts.
    """
    named: dict[str, Any] = {}
    flat: dict[str, Any] = {}
    for key, value in record.items():
        path = path_of(key)
        if len(path) > 1:
            _put(flat, path, value)
        elif path[0] not in named or is_blank(named[path[0]]):
            named[path[0]] = value
    return named, flat


def identity_by_ends(record: Mapping[str, Any]) -> dict[str, Any]:
    """What columns such as `arn` and `principalId` say of who called, as a `userIdentity`.

    A `type` or an `arn` may be that of something else: only the reference's types count, and what IAM or STS names.
    """
    found: dict[str, Any] = {IDENTITY: {}}
    for key, value in record.items():
        path = _ENDS.get(_squashed(key)) if len(key) <= _LONGEST_KEY else None
        if path is None or isinstance(value, list) or (isinstance(value, dict) and path[1:] in _LEAVES):
            continue
        text = str(value)
        if path[-1] == "userName" and text.startswith("arn:"):
            path = (IDENTITY, "arn")
        if path[-1] == "type" and text not in _TYPES:
            continue
        if path[-1] == "arn" and not re.match(r"arn:[\w-]+:(iam|sts):", text):
            continue
        _put(found, path, value)
    return dict(found[IDENTITY])


def nested_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity some of whose own keys are flat, such as `sessionContext.sessionIssuer.arn`, as a nested one."""
    found = nested({f"{IDENTITY}.{key}": value for key, value in identity.items()})[1]
    return dict(found.get(IDENTITY, {}))


def without_prefix(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """A record within one that was made flat, such as `detail.eventName`, without what stands before its keys; None
    where there is none.
    """
    prefix = _told_by_names(tuple(record))[1]
    if not prefix:
        return None
    inner = {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}
    return inner if {"eventName", "eventSource"} <= fields_in(inner) else None


def _prefix_of(key: str) -> str:
    """What stands before `eventName` in a key; empty for others, and for an Insights event's, which is no call's."""
    if key[-4:].lower() != "name" or len(key) > _LONGEST_KEY:
        return ""
    found = _PREFIX.fullmatch(key)
    return found[1] if found and not is_field(found[1].rstrip("._/:")) else ""


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """A structure of two: where both hold something, the first counts."""
    result = dict(second)
    for key, value in first.items():
        other = result.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            result[key] = merged(value, other)
        elif is_blank(other) or not is_blank(value):
            result[key] = value
    return result


def is_blank(value: Any) -> bool:
    """Whether a value is none, or what exports write for none."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_BLANK and value.strip().casefold() in _BLANK
    return value is None or value != value


def _put(target: dict[str, Any], path: Path, value: Any) -> None:
    if is_blank(value):
        return
    for name in path[:-1]:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):  # of a flat field of the same name
            return
    # A copy: other fields may be put into what is the record's own.
    target.setdefault(path[-1], _whole(value) if path[0] == IDENTITY else copy.deepcopy(value))


def _whole(value: Any) -> Any:
    """The number of an account, where a table had it as a fraction: 111122223333.0."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return re.sub(r"^(\d+)\.0+$", r"\1", value.strip()) if isinstance(value, str) else copy.deepcopy(value)
