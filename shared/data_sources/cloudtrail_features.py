"""What a principal did in a time window, as numbers: CloudTrail's own features beside those of `call_features`.

No feature is made from a name that an account's owner or an attacker's tool chooses: user, role, session, user agent,
request parameters. Records are grouped by principal (`cloudtrail_identity`).
"""

import re
from typing import Any

import pandas as pd

from shared.data_sources import call_features
from shared.data_sources.call_features import Memory
from shared.data_sources.cloudtrail_identity import principal_key, principal_name
from shared.data_sources.cloudtrail_keys import is_blank
from shared.data_sources.cloudtrail_outcome import failed, is_denial
from shared.data_sources.record_fields import seconds_of
from shared.data_sources.schema import Column, FeatureSchema, Kind, bucket_columns
from shared.data_sources.source_types import Chunk

IDENTITY_TYPES = ("Root", "IAMUser", "AssumedRole", "FederatedUser", "AWSAccount", "AWSService")
# Calls that switch off or blind the watching (MITRE ATT&CK T1562.008, T1070), whatever the service.
TAMPERING = frozenset(
    """
    StopLogging DeleteTrail UpdateTrail PutEventSelectors PutInsightSelectors DeleteEventDataStore DeleteFlowLogs
    DeleteLogGroup DeleteLogStream PutRetentionPolicy DisableAlarmActions DeleteAlarms DeleteDetector UpdateDetector
    DisassociateFromMasterAccount DisassociateMembers DeleteMembers StopMonitoringMembers DeleteConfigRule
    DeleteConfigurationRecorder StopConfigurationRecorder DeleteDeliveryChannel DisableSecurityHub DeleteRule
    DisableRule PutBucketLogging PutBucketLifecycle LeaveOrganization
    """.split()  # noqa: SIM905 (one value per line would fill a screen)
)

# Where an account's number stands, which Excel saves as 1.11122E+11: one text for many accounts.
_NUMBERED, _OWNER = ("principalId", "accountId"), "recipientAccountId"
_ROUNDED = re.compile(r"\d([.,]\d+)?E\+\d+")
_SUMS = ("iam", "sts", "kms", "secret", "tampering")

_SERVICE = frozenset({"eventSource"})
_API = frozenset({"eventSource", "eventName"})
_ERROR = frozenset({"errorCode", "errorMessage", "responseElements", "serviceEventDetails"})
_CODE = frozenset({"errorCode"})
_ADDRESS = frozenset({"sourceIPAddress"})
_REGION = frozenset({"awsRegion"})
_TIME = frozenset({"eventTime"})
_TYPE = frozenset({"userIdentity.type"})
_MFA = frozenset({"userIdentity.sessionContext.attributes.mfaAuthenticated", "additionalEventData.MFAUsed"})

# Feature: kind, and the fields of a record that it is made from.
_FEATURES: dict[str, tuple[Kind, frozenset[str]]] = {
    "events": ("numeric", frozenset()),
    "apis": ("numeric", _API),
    "services": ("numeric", _SERVICE),
    "regions": ("numeric", _REGION),
    "addresses": ("numeric", _ADDRESS),
    "error_share": ("numeric", _ERROR),
    "denied_share": ("numeric", _CODE),
    "write_share": ("numeric", frozenset({"readOnly"})),
    "iam_events": ("numeric", _SERVICE),
    "sts_events": ("numeric", _SERVICE),
    "kms_events": ("numeric", _SERVICE),
    "secret_events": ("numeric", _API),
    "tampering_events": ("numeric", frozenset({"eventName"})),
    "no_mfa_share": ("numeric", _MFA),
    "new_api_share": ("numeric", _API),
    "new_region_share": ("numeric", _REGION),
    "new_address_share": ("numeric", _ADDRESS),
    "hour_sin": ("cyclic", _TIME),
    "hour_cos": ("cyclic", _TIME),
    **{f"identity_{name}": ("category", _TYPE) for name in (*IDENTITY_TYPES, "other")},
}
FIELDS = {name: fields for name, (_, fields) in _FEATURES.items()}


def schema(excluded: tuple[str, ...], hash_width: int, window_minutes: int) -> FeatureSchema:
    """All features but those made from an excluded field, or from a part of it."""

    def allowed(fields: frozenset[str]) -> bool:
        return not any(used == name or used.startswith(f"{name}.") for used in fields for name in excluded)

    columns = [
        Column(name, name, kind, log=kind == "numeric" and not name.endswith("_share"))
        for name, (kind, fields) in _FEATURES.items()
        if allowed(fields)
    ]
    if allowed(_API):
        columns += bucket_columns("api", hash_width, "numeric")
    return FeatureSchema("cloudtrail", tuple(columns), hash_width, window_minutes, tuple(sorted(excluded)))


def fields_of(record: Any) -> dict[str, Any]:
    """What features, labels and a reader's eye need of one record.

    Raises:
        ValueError: the record has no event time, name or source, one of the future, a rounded number of an account, or
            is no record at all.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected a CloudTrail record, found {str(record)[:60]!r}")
    for name in ("eventTime", "eventName", "eventSource"):
        if not isinstance(record.get(name), str):
            there = ", ".join(map(str, list(record)[:6]))
            raise ValueError(f"no {name}, which every CloudTrail record has; it has {there[:120]}")
    identity = record.get("userIdentity")
    identity = identity if isinstance(identity, dict) else {}
    for name, text in (*((name, identity.get(name)) for name in _NUMBERED), (_OWNER, record.get(_OWNER))):
        if isinstance(text, str) and "E+" in text and _ROUNDED.fullmatch(text):
            raise ValueError(f"{name} = {text!r}: a spreadsheet has rounded the account's number; save it as a text")
    kind = str(identity.get("type") or "other")
    session = identity.get("sessionContext")
    attributes = session.get("attributes") if isinstance(session, dict) else None
    mfa = attributes.get("mfaAuthenticated") if isinstance(attributes, dict) else None
    extra = record.get("additionalEventData")
    login = extra.get("MFAUsed") if isinstance(extra, dict) else None
    name, service = record["eventName"], record["eventSource"]
    try:
        time = seconds_of(record["eventTime"])
    except ValueError as error:
        raise ValueError(f"eventTime = {str(error).removeprefix('time ')}") from None
    return {
        "time": time,
        "key": principal_key(identity),
        "principal": principal_name(identity) or kind,
        "account": _text(record.get("recipientAccountId")) or _text(identity.get("accountId")),
        "event_id": _text(record.get("eventID")),
        "kind": kind if kind in IDENTITY_TYPES else "other",
        "name": name,
        "service": service,
        "api": f"{service}:{name}",
        "region": _text(record.get("awsRegion")),
        "address": _text(record.get("sourceIPAddress")),
        "error": failed(record),
        "denied": is_denial(str(record.get("errorCode") or "")),
        "write": _is_false(record.get("readOnly")),
        "no_mfa": _is_false(mfa) or login == "No",
    }


def _text(value: Any) -> str:
    """A value as text; empty for what exports write where there is none, which would be one id of many events."""
    return "" if is_blank(value) else str(value)


def _is_false(value: Any) -> bool:
    """Whether a value says no, as JSON has it or as a table does: FALSE in Excel, False in pandas."""
    return value is False or (isinstance(value, str) and value.casefold() == "false")


def chunk(records: pd.DataFrame, schema: FeatureSchema, memory: Memory, *, labelled: bool) -> Chunk:
    """One row for each principal and window among records of closed windows, sorted by time."""
    records = records.assign(
        iam=records["service"] == "iam.amazonaws.com",
        sts=records["service"] == "sts.amazonaws.com",
        kms=records["service"] == "kms.amazonaws.com",
        secret=_reads_secrets(records),
        tampering=records["name"].isin(TAMPERING),
    )
    kinds = (*IDENTITY_TYPES, "other")
    return call_features.chunk(records, schema, memory, labelled=labelled, sums=_SUMS, kinds=kinds)


def _reads_secrets(records: pd.DataFrame) -> pd.Series:
    parameters = records["name"].isin(["GetParameter", "GetParameters", "GetParametersByPath", "GetPasswordData"])
    return parameters | (records["service"] == "secretsmanager.amazonaws.com")
