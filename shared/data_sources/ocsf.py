"""OCSF events, of versions 1.x: JSON, and the Parquet of Amazon Security Lake (`ocsf_parquet`).

By `ocsf_events` a row is what a principal did in a time window, from the classes API Activity, Authentication and
Account Change, or what an address did, from Network Activity. Events of other classes are counted, by class,
and left out.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from shared.config import Config
from shared.data_sources import audit, audit_table, calls, ocsf_parquet, record_files, vpc_flow, vpc_flow_features
from shared.data_sources import files as data_files
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.cloudtrail_identity import principal_key
from shared.data_sources.cloudtrail_outcome import is_denial
from shared.data_sources.envelopes import LeftOut
from shared.data_sources.flow_checks import NEEDED, FlowCheck
from shared.data_sources.flow_forms import NETWORK_ACTIVITY, ocsf_flow
from shared.data_sources.json_values import Value, begins_as_json
from shared.data_sources.labels import looked_up
from shared.data_sources.record_fields import text_of
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.source_types import Chunk, Inputs

_CLASSES = {6003: "ocsf_api_activity", 3002: "ocsf_authentication", 3001: "ocsf_account_change"}
_TABLE_OF = dict(zip(_CLASSES, audit_table.shipped(tuple(_CLASSES.values())), strict=True))
_FLOWS = "flows"  # of `ocsf_events`
# Of https://schema.ocsf.io/1.5.0/classes; others are told by their number alone.
_NAMES = {
    1001: "File System Activity", 1007: "Process Activity", 2001: "Security Finding", 2002: "Vulnerability Finding",
    2003: "Compliance Finding", 2004: "Detection Finding", 3001: "Account Change", 3002: "Authentication",
    3003: "Authorize Session", 3004: "Entity Management", 3005: "User Access Management", 3006: "Group Management",
    4001: "Network Activity", 4002: "HTTP Activity", 4003: "DNS Activity", 5001: "Device Inventory Info",
    6001: "Web Resources Activity", 6003: "API Activity", 6005: "Datastore Activity",
}  # fmt: skip
_HIGHEST_CLASS = 10_000_000  # of extensions
_FRAME_EVENTS = 20_000


def files(path: Path) -> list[Path]:
    """The files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    suffixes = (".json", ".jsonl", ".ndjson", ".parquet", ".pq", ".parq")
    return data_files.list_files(path, suffixes, _is_ocsf)


def _is_ocsf(head: str) -> bool:
    return begins_as_json(head) or head.startswith("PAR1") or record_files.is_csv(head)


def schema(config: Config, inputs: Inputs) -> FeatureSchema:
    """The columns, which the settings and the kind of label decide; no event is read.

    Raises:
        DataError: the file of labels is missing or malformed, or has event ids, which flows have not.
    """
    if config.ocsf_events == _FLOWS:
        return vpc_flow_features.schema(vpc_flow.excluded_by(config, inputs), config.window_minutes, "ocsf")
    return _call_schema(audit.excluded_by(config, inputs), config.hash_width, config.window_minutes)


def schema_like(config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
    """The columns that this code makes of new events, by the settings that `learned` was made with."""
    if config.ocsf_events == _FLOWS:
        return vpc_flow_features.schema(learned.excluded, learned.window_minutes, "ocsf")
    return _call_schema(learned.excluded, learned.hash_width, learned.window_minutes)


def _call_schema(excluded: tuple[str, ...], hash_width: int, window_minutes: int) -> FeatureSchema:
    return audit.call_schema("ocsf", tuple(_TABLE_OF.values()), excluded, hash_width, window_minutes)


def stream(config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None = None) -> Iterator[Chunk]:
    """One row per principal and window, as `calls.stream` makes them, or per address, as `vpc_flow.stream` does.

    Raises:
        DataError: a file is damaged, or too many events are broken.
    """
    broken = broken or BrokenLines(inputs.path, config.max_broken_share)
    if config.ocsf_events == _FLOWS:
        return vpc_flow.windows_of(_flow_frames(config, inputs, broken), config, inputs, schema, broken)
    form = calls.Form(files, _records, _prepared, _call, audit.rows)
    return calls.stream(form, config, inputs, schema, broken)


def _records(path: Path) -> Iterator[Value]:
    if data_files.is_parquet(path):
        return ocsf_parquet.records(path)
    return record_files.records(path, lambda value: "class_uid" in value)


def _prepared(record: Any) -> Any:
    """The event, or which class it is of that has no calls."""
    return record if class_of(record) in _TABLE_OF else _left_out(record)


def class_of(record: Any) -> int:
    """The number of an event's class.

    Raises:
        ValueError: it has none.
    """
    text = text_of(record.get("class_uid")) if isinstance(record, dict) else ""
    if not text.isdecimal() or not text.isascii() or not 0 < int(text[:9]) < _HIGHEST_CLASS:
        raise ValueError(f"expected an OCSF event with a class_uid, found {str(record)[:60]!r}")
    return int(text[:9])


def _left_out(record: Any) -> LeftOut:
    number = class_of(record)
    return LeftOut(f"events of OCSF's class {number} {_NAMES.get(number, '')}".strip())


def _call(record: dict[str, Any]) -> dict[str, Any]:
    call = _TABLE_OF[class_of(record)].call(record)
    product = _inner(_inner(record, "metadata"), "product")
    if text_of(product.get("name")) == "CloudTrail":
        call["key"] = json.dumps(["ocsf_cloudtrail", _aws_principal(record)])
    response = _inner(_inner(record, "api"), "response")
    if is_denial(text_of(response.get("error"))):
        call |= {"denied": True, "error": True}
    return call


def _aws_principal(record: dict[str, Any]) -> str:
    """The key of CloudTrail's principal: a role is one, whatever sessions it has, in both classes."""
    actor = _inner(record, "actor")
    user = _inner(actor, "user") or _inner(record, "user")
    provider = _inner(actor, "idp")
    # The ARN, and beside it CloudTrail's `principalId`, or that one alone, as before OCSF 1.1.
    uid, other = text_of(user.get("uid")), text_of(user.get("uid_alt"))
    identity = {
        "type": text_of(user.get("type")),
        "principalId": other if uid.startswith("arn:") and other else uid or other,
        "accountId": text_of(_inner(user, "account").get("uid")) or text_of(user.get("account_uid")),
        "userName": text_of(user.get("name")),
        "invokedBy": text_of(actor.get("invoked_by")),
        "identityProvider": " ".join(text_of(provider.get(name)) for name in ("name", "uid")),
    }
    return principal_key(identity)


def _inner(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _flow_frames(config: Config, inputs: Inputs, broken: BrokenLines) -> Iterator[pd.DataFrame]:
    label_field = tuple(config.label_field.split(".")) if inputs.labelled and config.label_field else None
    group_field = tuple(config.partition_column.split(".")) if config.partition_column else None
    for path in files(inputs.path):
        found = calls.read(_records, path, broken)
        check = FlowCheck(path, broken)
        while part := list(islice(found, _FRAME_EVENTS)):
            rows, places = [], []
            for event in part:
                try:
                    if class_of(event.value) != NETWORK_ACTIVITY:
                        broken.leave_out(_left_out(event.value))
                        continue
                    row = ocsf_flow(event.value)
                except (ValueError, OverflowError, RecursionError) as error:
                    broken.add(path, event.where, str(error))
                    continue
                row["label_value"] = looked_up(event.value, label_field) if label_field else ""
                row["group"] = looked_up(event.value, group_field) if group_field else ""
                rows.append(row)
                places.append(event.where)
            if rows:
                flows = check.checked(pd.DataFrame(rows).fillna("0"), places)
                names = [*NEEDED, "action", "label_value", "group"]
                yield flows[names].assign(time=flows["start"], address=flows["srcaddr"])
