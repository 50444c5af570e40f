"""Audit logs of Kubernetes, Google Cloud, Okta, Entra ID and Azure, of AWS, and of any service that a table of its
fields is given for (`audit_table`), as features per principal and time window.

Reads JSON in whatever `envelopes` unwraps, plain or packed, a file or a folder, of several services side by side.
CloudTrail's records among them are read by the code of `cloudtrail`: its principals take more than a table.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shared.config import Config
from shared.data_sources import (
    audit_table,
    call_features,
    calls,
    cloudtrail,
    cloudtrail_features,
    envelopes,
    record_files,
)
from shared.data_sources import files as data_files
from shared.data_sources.audit_table import AuditTable
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.call_features import Memory
from shared.data_sources.envelopes import LeftOut
from shared.data_sources.json_values import Value, begins_as_json
from shared.data_sources.labels import ADDRESS, EVENT_ID, TIME, label_origin
from shared.data_sources.schema import Column, FeatureSchema, Kind, bucket_columns
from shared.data_sources.source_types import Chunk, Inputs

_MACHINES = "AWSService"  # of CloudTrail's types of identity
# Feature: kind, and the entries of a table that it is made from.
_FEATURES: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "events": ("numeric", ()),
    "apis": ("numeric", ("service", "action")),
    "services": ("numeric", ("service",)),
    "regions": ("numeric", ("region",)),
    "addresses": ("numeric", ("address",)),
    "targets": ("numeric", ("target",)),
    "error_share": ("numeric", ("failed", "succeeded", "denied")),
    "denied_share": ("numeric", ("denied",)),
    "write_share": ("numeric", ("writes",)),
    "machine_share": ("numeric", ("machines",)),
    "new_api_share": ("numeric", ("service", "action")),
    "new_region_share": ("numeric", ("region",)),
    "new_address_share": ("numeric", ("address",)),
    "hour_sin": ("cyclic", ("time",)),
    "hour_cos": ("cyclic", ("time",)),
}
_FIELDS_OF_CLOUDTRAIL = cloudtrail_features.FIELDS | {
    "targets": frozenset({"resources"}),
    "machine_share": frozenset({"userIdentity.type"}),
}
_ENTRY_OF = {EVENT_ID: "id", TIME: "time", ADDRESS: "address"}  # by what a file of labels goes by
_OF_FILE = "table entry "  # before such an entry in `FeatureSchema.excluded`, where fields of records stand as well


def files(path: Path) -> list[Path]:
    """The files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    return data_files.list_files(path, (".json", ".jsonl", ".ndjson"), _is_audit)


def _is_audit(head: str) -> bool:
    # Or a time before each record, as CloudWatch Logs export.
    return begins_as_json(head) or '{"' in head or record_files.is_csv(head)


def schema(config: Config, inputs: Inputs) -> FeatureSchema:
    """The columns, which the settings and the kind of label decide; no record is read.

    Raises:
        ConfigError: a table of `audit_map` is missing or malformed.
        DataError: the file of labels is missing or malformed.
    """
    tables = audit_table.tables_of(config.audit_map)
    return call_schema("audit", tables, excluded_by(config, inputs), config.hash_width, config.window_minutes)


def excluded_by(config: Config, inputs: Inputs) -> tuple[str, ...]:
    """What the label comes from: a field of records, or entries of their tables."""
    origin = label_origin(config, inputs.label_path)
    return tuple(_OF_FILE + _ENTRY_OF[role] for role in origin) if inputs.label_path else origin


def call_schema(
    source: str, tables: Sequence[AuditTable], excluded: tuple[str, ...], hash_width: int, window_minutes: int
) -> FeatureSchema:
    """All features but those that some table makes from an excluded field, from a part of it, or from what it is in."""
    fields = [tuple(name.split(".")) for name in excluded if not name.startswith(_OF_FILE)]

    def allowed(name: str) -> bool:
        entries = _FEATURES[name][1]
        if any(_OF_FILE + entry in excluded for entry in entries):
            return False
        paths = [path for table in tables for entry in entries for path in table.paths(entry)]
        paths += [tuple(field.split(".")) for field in _FIELDS_OF_CLOUDTRAIL.get(name, ())]
        return not any(path[: len(field)] == field or field[: len(path)] == path for path in paths for field in fields)

    columns = [
        Column(name, name, kind, log=kind == "numeric" and not name.endswith("_share"))
        for name, (kind, _) in _FEATURES.items()
        if allowed(name)
    ]
    if allowed("apis"):
        columns += bucket_columns("api", hash_width, "numeric")
    return FeatureSchema(source, tuple(columns), hash_width, window_minutes, tuple(sorted(excluded)))


def schema_like(config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
    """The columns that this code makes of new records, by the settings that `learned` was made with."""
    tables = audit_table.tables_of(config.audit_map)
    return call_schema("audit", tables, learned.excluded, learned.hash_width, learned.window_minutes)


def stream(config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None = None) -> Iterator[Chunk]:
    """One row per principal and window, as `calls.stream` makes them.

    Raises:
        ConfigError: a table of `audit_map` is missing or malformed.
        DataError: a file is damaged, or too many records are broken.
    """
    reader = _Reader(audit_table.tables_of(config.audit_map))
    form = calls.Form(files, reader.records, reader.prepared, reader.call, rows)
    return calls.stream(form, config, inputs, schema, broken)


def rows(records: pd.DataFrame, schema: FeatureSchema, memory: Memory, *, labelled: bool) -> Chunk:
    """One row for each principal and window among records of closed windows, sorted by time."""
    return call_features.chunk(records, schema, memory, labelled=labelled)


class _Reader:
    """Records by the tables that they fit."""

    def __init__(self, tables: Sequence[AuditTable]) -> None:
        self._tables = tables
        self._last: tuple[Any, AuditTable | None] = None, None

    def records(self, path: Path) -> Iterator[Value]:
        found = record_files.records(path, lambda value: self._table(value) is not None or envelopes.is_event(value))
        return cloudtrail.with_principals(path, found)

    def prepared(self, record: Any) -> Any:
        table = self._table(record)
        if table is None:
            return cloudtrail.prepared(record)
        why = table.left_out(record)
        return LeftOut(why) if why else record

    def call(self, record: Any) -> dict[str, Any]:
        """The record's call.

        Raises:
            ValueError: it fits no table, or lacks a time or an action.
        """
        if not isinstance(record, dict):
            raise ValueError(f"expected an audit record, found {str(record)[:60]!r}")
        table = self._table(record)
        if table is not None:
            return table.call(record)
        if not envelopes.is_event(record):
            names = ", ".join(map(str, list(record)[:6]))
            raise ValueError(f"of no service that there is a table for: it has {names[:120]}; see audit_map")
        call = cloudtrail_features.fields_of(record)
        resource = record.get("resources")
        first = resource[0] if isinstance(resource, list) and resource else None
        target = str(first.get("ARN") or first.get("arn") or "") if isinstance(first, dict) else ""
        key = json.dumps([cloudtrail.NAME, call["key"]])
        return call | {"key": key, "target": target, "machine": call["kind"] == _MACHINES}

    def _table(self, record: Any) -> AuditTable | None:
        if self._last[0] is not record:  # each record is asked about some times, one after another
            self._last = record, next((table for table in self._tables if table.fits(record)), None)
        return self._last[1]
