"""CloudTrail records in the form of the service's reference, out of the forms that queries and exports give them.

Fields as https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html has
them. Athena and Glue write keys in lower case and structures as texts; Lake writes structures as texts; log shippers
keep the time in `@timestamp`.
"""

import csv
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from shared.data_sources.json_values import Value
from shared.data_sources.times import epoch_seconds

_FIELDS = """
    eventVersion userIdentity eventTime eventSource eventName awsRegion sourceIPAddress userAgent errorCode errorMessage
    requestParameters responseElements additionalEventData requestID eventID readOnly resources eventType apiVersion
    managementEvent recipientAccountId serviceEventDetails sharedEventID vpcEndpointId vpcEndpointAccountId
    eventCategory addendum sessionCredentialFromConsole eventContext edgeDeviceDetails tlsDetails insightDetails
    type principalId arn accountId accessKeyId userName sessionContext invokedBy identityProvider onBehalfOf userId
    identityStoreArn credentialId inScopeOf attributes mfaAuthenticated creationDate sessionIssuer webIdFederationData
    federatedProvider sourceIdentity ec2RoleDelivery MFAUsed ConsoleLogin SwitchRole
"""
_NAME = {name.lower(): name for name in _FIELDS.split()}
# Structures in which keys are AWS's own, and not those of an API's parameters.
_KNOWN = ("userIdentity", "additionalEventData", "responseElements")
_STRUCTURES = (*_KNOWN, "requestParameters", "resources", "serviceEventDetails", "tlsDetails", "insightDetails")
_LONGEST_CELL = 1 << 24
MOST_LEVELS = 20  # of structures in each other


def canonical(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the reference's keys; itself where it has them, as what S3, EventBridge and CloudWatch bring has.

    Raises:
        ValueError: a time or a structure in it can't be read.
    """
    if isinstance(record.get("eventTime"), str) and isinstance(record.get("userIdentity"), dict):
        return record
    named = {_NAME.get(key, key) if key.islower() else key: value for key, value in record.items()}
    if "eventTime" not in named and "@timestamp" in named:
        named["eventTime"] = named["@timestamp"]
    if isinstance(named.get("eventTime"), int | float) and not isinstance(named["eventTime"], bool):
        named["eventTime"] = datetime.fromtimestamp(epoch_seconds(named["eventTime"]), UTC).isoformat()
    for key in _STRUCTURES:
        value = named.get(key)
        if isinstance(value, str):
            value = _structure(value)
        if value is not None or key in named:
            named[key] = _renamed(value, 0) if key in _KNOWN else value
    return named


def other_kind(record: dict[str, Any]) -> str:
    """What a record is that is no event of a principal, in words; empty for events.

    AWS keeps them in folders of their own, and flat exports do not: findings about many events, sums of many events,
    and signatures of log files.
    """
    if "digestS3Object" in record:
        return "CloudTrail digest"
    category = str(record.get("eventCategory") or record.get("eventcategory") or "")
    if category == "Insight" or record.get("eventType") == "AwsCloudTrailInsight" or "insightDetails" in record:
        return "CloudTrail Insights event"
    if category == "Aggregated" or ("summaries" in record and "eventName" not in record):
        return "aggregated CloudTrail event"
    return ""


def csv_records(text: TextIO) -> Iterator[Value]:
    """The records of a CSV file with CloudTrail's fields as its columns, as Athena and Lake export a query's result."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.DictReader(text, strict=True)
    try:
        for row in reader:
            cells = {key: value for key, value in row.items() if value}
            if None in row or None in row.values():
                yield Value(reader.line_num, 0, broken="another number of cells than the first line has")
            elif cells:
                yield Value(reader.line_num, 0, cells)
    except csv.Error as error:
        yield Value(reader.line_num, 0, broken=f"no CSV: {error}; the rest of the file is not read")


def is_csv(head: str) -> bool:
    """Whether a file's first characters are the header of such a CSV file."""
    names = head.partition("\n")[0].casefold()
    return "eventname" in names and "eventsource" in names and "{" not in names


def _renamed(value: Any, level: int) -> Any:
    if not isinstance(value, dict) or level > MOST_LEVELS:
        return value
    return {_NAME.get(key, key) if key.islower() else key: _renamed(item, level + 1) for key, item in value.items()}


def _structure(text: str) -> Any:
    """What a text holds: JSON, or Presto's {a=1, b={c=d}}; the text itself where it is neither, None for no value."""
    text = text.strip()
    if text in ("", "null", "-"):
        return None
    if text[:1] not in "{[":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _presto(text, 0)


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
