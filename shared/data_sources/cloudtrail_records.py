"""CloudTrail records in the form of the service's reference, out of the forms that queries and exports give them.

Fields as https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html has
them. Athena and Glue write keys in lower case and structures as texts; Lake writes structures as texts; pandas writes
them as Python does; what is made a table of has a column for each field of a structure (`cloudtrail_keys`); log
shippers keep the time in `@timestamp`.
"""

import ast
import re
from datetime import UTC, datetime
from typing import Any

from shared.data_sources import cloudtrail_keys as keys
from shared.data_sources.cloudtrail_identity import tells_who
from shared.data_sources.json_values import json_within, whole_letters
from shared.data_sources.times import epoch_seconds

# Structures in which keys are AWS's own, and not those of an API's parameters.
_KNOWN = (keys.IDENTITY, "additionalEventData", "responseElements")
_STRUCTURES = (*_KNOWN, "requestParameters", "resources", "serviceEventDetails", "tlsDetails", "insightDetails")
_TIMES = ("@timestamp", "_time", "TimeGenerated")  # of the event, in Elastic, Splunk and Sentinel
_SINCE_1970 = re.compile(r"\d{9,}(\.\d*)?")
_LONGEST_LITERAL = 1 << 20  # characters that are parsed as Python's
MOST_LEVELS = 20  # of structures in each other


def canonical(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the reference's keys; itself where it has them, as what S3, EventBridge and CloudWatch bring has.

    Raises:
        ValueError: a time or a structure in it can't be read.
    """
    identity = record.get(keys.IDENTITY)
    # Who has neither id nor service may stand elsewhere.
    named_there = isinstance(identity, dict) and (identity.get("principalId") or identity.get("invokedBy"))
    if named_there and isinstance(record.get("eventTime"), str):
        return record
    named, flat = keys.nested(record)
    time = next((named[key] for key in ("eventTime", *_TIMES) if not keys.is_blank(named.get(key))), None)
    if time is not None:
        named["eventTime"] = _iso(time)
    for key in _STRUCTURES:
        if key in named:
            value = _structure(named[key]) if isinstance(named[key], str) else named[key]
            named[key] = _renamed(value, key == keys.IDENTITY) if key in _KNOWN else value
    if flat:
        named = keys.merged(named, {key: _renamed(value, key == keys.IDENTITY) for key, value in flat.items()})
    identity = _identity(named)
    return named | {keys.IDENTITY: identity} if identity or keys.IDENTITY in named else named


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    """Who called, whatever of it the record has and wherever."""
    value = record.get(keys.IDENTITY)
    if isinstance(value, list) and len(value) == 1:  # as a search engine's `fields`
        value = value[0]
    if isinstance(value, str) and value[:1] not in ("{", "["):
        value = {"arn" if value.startswith("arn:") else "userName": value}
    if value is None:
        value = {}
    if isinstance(value, dict) and not value.keys() <= keys.IDENTITY_NAMES:
        value = keys.nested_identity(value)
    if not isinstance(value, dict):
        raise ValueError(f"userIdentity = {str(value)[:60]!r}: expected a structure, as JSON or as Athena prints it")
    typed = not keys.is_blank(value.get("type"))
    if typed and tells_who(value):
        return value
    elsewhere = keys.identity_by_ends(record)
    if not tells_who(value):
        value = _renamed(keys.merged(value, elsewhere), True)
    if not typed:
        told = _told_by(str(value.get("arn") or ""))
        value = {**value, **told, **({"type": elsewhere["type"]} if "type" in elsewhere else {})}
    return value


_TYPE_BY_ARN = (
    (re.compile(r"arn:[\w-]+:iam::(\d*):root"), "Root"),
    (re.compile(r"arn:[\w-]+:iam::(\d*):user/.*"), "IAMUser"),
    (re.compile(r"arn:[\w-]+:iam::(\d*):role/.*"), "Role"),
    (re.compile(r"arn:[\w-]+:sts::(\d*):assumed-role/.*"), "AssumedRole"),
    (re.compile(r"arn:[\w-]+:sts::(\d*):federated-user/.*"), "FederatedUser"),
)


def _told_by(arn: str) -> dict[str, str]:
    """The type, and the account for which it counts, of whom an ARN names."""
    for pattern, kind in _TYPE_BY_ARN:
        if found := pattern.fullmatch(arn):
            return {"type": kind} | ({"accountId": found[1]} if kind == "Root" else {})
    return {}


def _iso(time: Any) -> Any:
    """A time as the reference writes it, of seconds or parts of them since 1970 too."""
    if isinstance(time, str) and _SINCE_1970.fullmatch(time):
        time = float(time)
    if isinstance(time, int | float) and not isinstance(time, bool):
        return datetime.fromtimestamp(epoch_seconds(time), UTC).isoformat()
    return time


def other_kind(record: dict[str, Any]) -> str:
    """What a record with the reference's keys is that is no event of a principal, in words; empty for events.

    AWS keeps them in folders of their own, and flat exports do not: findings about many events, sums of many events,
    signatures of log files, and what S3 says of objects, which has the fields of a call.
    """
    if record.get("digestS3Object"):
        return "CloudTrail digest"
    category = record.get("eventCategory")
    findings = record.get("insightDetails")  # in a table a column of all rows, mostly blank
    if category == "Insight" or record.get("eventType") == "AwsCloudTrailInsight" or not _is_empty(findings):
        return "CloudTrail Insights event"
    if category == "Aggregated" or ("summaries" in record and not record.get("eventName")):
        return "aggregated CloudTrail event"
    if str(record.get("eventSource")).startswith("aws:"):  # of a call it is s3.amazonaws.com
        return "notification of S3"
    return ""


def _is_empty(value: Any) -> bool:
    return value == {} or keys.is_blank(value)


def _renamed(value: Any, any_spelling: bool, level: int = 0) -> Any:
    """A structure with the reference's keys; in an identity, texts that hold a structure are one."""
    if any_spelling and isinstance(value, str) and value.startswith("{"):
        value = _structure(value)
    if not isinstance(value, dict) or level > MOST_LEVELS:
        return value
    return {
        keys.name_within(key, any_spelling=any_spelling): _renamed(item, any_spelling, level + 1)
        for key, item in value.items()
    }


def _structure(text: str) -> Any:
    """What a text holds: JSON, Presto's {a=1, b={c=d}} or Python's {'a': 1}; the text itself where it is none of them,
    None for no value.
    """
    text = text.strip()
    if keys.is_blank(text):
        return None
    if text[:1] not in ("{", "[", '"'):
        return text
    try:
        value = json_within(text)
    except (ValueError, RecursionError):
        return _literal(text) if text.startswith(("{'", "[{'")) else _presto(text, 0)
    return _structure(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def _literal(text: str) -> Any:
    """A structure as pandas writes it into a cell; the text itself where it is none."""
    try:
        return whole_letters(ast.literal_eval(text)) if len(text) <= _LONGEST_LITERAL else text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


_MEMBER = re.compile(r"\s*([A-Za-z_@][\w.@-]*)=")


def _presto(text: str, level: int) -> Any:
    """A value as Athena prints it. Texts have no quotes there, so a comma ends one only where a name and = follow."""
    if not text.startswith("{") or not text.endswith("}") or level > MOST_LEVELS:
        return None if text == "null" else text
    first = _MEMBER.match(text, 1)
    if first is None:
        return text
    members: dict[str, Any] = {}
    name, begin, depth = first[1], first.end(), 0
    end = len(text) - 1
    for at in range(begin, len(text)):
        letter = text[at]
        if letter in "{[":
            depth += 1
        elif letter in "}]" and at < end:
            depth -= 1
        following = _MEMBER.match(text, at + 1) if letter == "," and not depth else None
        if following or at == end:
            members[name] = _presto(text[begin:at].strip(), level + 1)
        if following:
            name, begin = following[1], following.end()
    return members
