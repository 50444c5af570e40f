"""What a principal did in a time window, as numbers.

No feature is made from a name that an account's owner or an attacker's tool chooses: user, role, session, user agent,
request parameters. Records are grouped by principal (`cloudtrail_identity`), and which one it is is no feature.
Addresses count as how many and whether new, never as which.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.data_sources.cloudtrail_context import AccountHistory, rare_calls, rule_hits
from shared.data_sources.cloudtrail_identity import principal_key
from shared.data_sources.cloudtrail_outcome import failed, is_denial
from shared.data_sources.file_source import Chunk
from shared.data_sources.schema import Column, FeatureSchema, Kind, bucket_columns, buckets
from shared.data_sources.windows import frequencies, latest_time, most_frequent, window_families

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


@dataclass
class Memory:
    """What each principal was seen to use before, and each account: grows with distinct values, not with records."""

    seen: set[tuple[str, str, str]] = field(default_factory=set)
    accounts: AccountHistory = field(default_factory=AccountHistory)


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
        ValueError: the record has no event time, name or source, one of the future, or is no record at all.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected a CloudTrail record, found {str(record)[:60]!r}")
    for name in ("eventTime", "eventName", "eventSource"):
        if not isinstance(record.get(name), str):
            raise ValueError(f"no {name}, which every CloudTrail record has")
    identity = record.get("userIdentity")
    identity = identity if isinstance(identity, dict) else {}
    kind = str(identity.get("type") or "other")
    session = identity.get("sessionContext")
    attributes = session.get("attributes") if isinstance(session, dict) else None
    mfa = attributes.get("mfaAuthenticated") if isinstance(attributes, dict) else None
    extra = record.get("additionalEventData")
    login = extra.get("MFAUsed") if isinstance(extra, dict) else None
    name, service = record["eventName"], record["eventSource"]
    return {
        "time": _seconds(record["eventTime"]),
        "key": principal_key(identity),
        "principal": str(identity.get("arn") or identity.get("invokedBy") or identity.get("principalId") or kind),
        "account": str(record.get("recipientAccountId") or identity.get("accountId") or ""),
        "event_id": str(record.get("eventID") or ""),
        "kind": kind if kind in IDENTITY_TYPES else "other",
        "name": name,
        "service": service,
        "api": f"{service}:{name}",
        "region": str(record.get("awsRegion") or ""),
        "address": str(record.get("sourceIPAddress") or ""),
        "error": failed(record),
        "denied": is_denial(str(record.get("errorCode") or "")),
        "write": record.get("readOnly") in (False, "false"),
        "no_mfa": mfa in (False, "false") or login == "No",
    }


def _seconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if seconds > latest_time():
        raise ValueError(f"eventTime = {text!r:.60} is more than a day from now")
    return seconds


def chunk(records: pd.DataFrame, schema: FeatureSchema, memory: Memory, *, labelled: bool) -> Chunk:
    """One row for each principal and window among records of closed windows, sorted by time."""
    records = records.assign(
        iam=records["service"] == "iam.amazonaws.com",
        sts=records["service"] == "sts.amazonaws.com",
        kms=records["service"] == "kms.amazonaws.com",
        secret=_reads_secrets(records),
        tampering=records["name"].isin(TAMPERING),
        **{f"new_{what}": _first_use(records, what, memory) for what in ("api", "region", "address")},
    )
    grouped = records.groupby(["window", "key"], sort=True)
    rows = grouped.ngroup().to_numpy()  # the row of each record
    first, count = grouped.first(), grouped.size()
    windows = first.index.get_level_values("window").to_numpy(np.int64)
    columns: dict[str, NDArray[np.float64]] = {"events": np.log1p(count.to_numpy())}
    for name, what in (
        ("apis", "api"),
        ("services", "service"),
        ("regions", "region"),
        ("addresses", "address"),
    ):
        columns[name] = np.log1p(grouped[what].nunique().to_numpy())
    for name, what in (
        ("error_share", "error"),
        ("denied_share", "denied"),
        ("write_share", "write"),
        ("no_mfa_share", "no_mfa"),
        ("new_api_share", "new_api"),
        ("new_region_share", "new_region"),
        ("new_address_share", "new_address"),
    ):
        columns[name] = grouped[what].mean().to_numpy(np.float64)
    for what in ("iam", "sts", "kms", "secret", "tampering"):
        columns[f"{what}_events"] = np.log1p(grouped[what].sum().to_numpy(np.float64))
    # The middle of the window: it is the same for whoever acts in it.
    angle = 2 * np.pi * ((windows + schema.window_minutes * 30) % 86_400) / 86_400
    columns["hour_sin"], columns["hour_cos"] = np.sin(angle), np.cos(angle)
    for kind in (*IDENTITY_TYPES, "other"):
        columns[f"identity_{kind}"] = (first["kind"] == kind).to_numpy(np.float64)
    counts = np.zeros((len(first), schema.hash_width))
    np.add.at(counts, (rows, buckets("api", records["api"], schema.hash_width)), 1.0)
    of_api = bucket_columns("api", schema.hash_width, "numeric")
    columns |= {column.name: part for column, part in zip(of_api, np.log1p(counts).T, strict=True)}
    meta = pd.DataFrame(
        {
            "start": windows,
            "end": windows + schema.window_minutes * 60,
            "principal": first["principal"].to_numpy(),
            "account": first["account"].to_numpy(),
            "events": count.to_numpy(),
            "first_event_id": first["event_id"].to_numpy(),
        }
    )
    if not labelled:
        calls = frequencies(rows, records["api"], len(first))
        meta["apis"] = [list(of_row) for of_row in calls]
        meta["call_counts"] = [list(of_row.values()) for of_row in calls]
        meta["regions"] = most_frequent(rows, records["region"], len(first))
        meta["addresses"] = most_frequent(rows, records["address"], len(first))
        meta["rules"] = rule_hits(records, rows, len(first))
        meta["rare_calls"] = rare_calls(records, rows, len(first), memory.accounts)
    features = np.column_stack([columns[name] for name in schema.names]).astype(np.float32)
    families = window_families(records["family"], rows, len(first)) if labelled else np.full(len(first), "")
    return Chunk(meta, features, families, first["group"].to_numpy(dtype=np.str_))


def _reads_secrets(records: pd.DataFrame) -> pd.Series:
    parameters = records["name"].isin(["GetParameter", "GetParameters", "GetParametersByPath", "GetPasswordData"])
    return parameters | (records["service"] == "secretsmanager.amazonaws.com")


def _first_use(records: pd.DataFrame, what: str, memory: Memory) -> NDArray[np.bool_]:
    """Which records use an API, region or address that their principal was not seen to use before, (records,)."""
    first = ~records.duplicated(["key", what]).to_numpy()
    candidates = records.loc[first, ["key", what]].itertuples(index=False, name=None)
    for row, (key, value) in zip(np.flatnonzero(first), candidates, strict=True):
        used = (what, key, value)
        first[row] = used not in memory.seen
        memory.seen.add(used)
    return np.asarray(first)
