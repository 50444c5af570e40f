"""CloudTrail: management and data events of an AWS account, as features per principal and time window.

Reads what `envelopes` unwraps, and CSV with CloudTrail's fields as columns; plain or packed, a file or a folder.
"""

import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from shared.config import Config
from shared.data_sources import calls, cloudtrail_features, record_files
from shared.data_sources import files as data_files
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.cloudtrail_identity import tells_who
from shared.data_sources.cloudtrail_records import canonical, other_kind
from shared.data_sources.envelopes import LeftOut, is_event
from shared.data_sources.json_values import Value, begins_as_json
from shared.data_sources.labels import ADDRESS, EVENT_ID, TIME, label_origin
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.source_types import Chunk, Inputs

_log = logging.getLogger("data")
NAME = "cloudtrail"
_FIELD_OF = {EVENT_ID: "eventID", TIME: "eventTime", ADDRESS: "sourceIPAddress"}
_LONGEST_TOLD = 1_000  # characters of a record's keys
# AWS writes these beside the logs: signatures of log files, and findings about and sums of many records.
_OTHER_FOLDERS = ("CloudTrail-Digest", "CloudTrail-Insight", "CloudTrail-Aggregated")


def files(path: Path) -> list[Path]:
    """The files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    return data_files.list_files(path, (".json", ".jsonl", ".ndjson"), _is_cloudtrail, _OTHER_FOLDERS)


def _is_cloudtrail(head: str) -> bool:
    # Or a time before each record, as CloudWatch Logs export, or a line of syslog.
    return record_files.is_csv(head) or begins_as_json(head) or ("{" in head and "eventsource" in head.casefold())


def schema(config: Config, inputs: Inputs) -> FeatureSchema:
    """The columns, which the settings and the kind of label decide; no record is read.

    Raises:
        DataError: the file of labels is missing or malformed.
    """
    origin = label_origin(config, inputs.label_path)
    excluded = tuple(_FIELD_OF[role] for role in origin) if inputs.label_path else origin
    return cloudtrail_features.schema(excluded, config.hash_width, config.window_minutes)


def schema_like(config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
    """The columns that this code makes of new records, by the settings that `learned` was made with."""
    return cloudtrail_features.schema(learned.excluded, learned.hash_width, learned.window_minutes)


def stream(config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None = None) -> Iterator[Chunk]:
    """One row per principal and window, as `calls.stream` makes them.

    Raises:
        DataError: a file is damaged, or too many records are broken.
    """
    return calls.stream(_FORM, config, inputs, schema, broken)


def prepared(record: Any) -> Any:
    """A record with the keys of the service's reference, or in words why it is no event of a principal.

    Raises:
        ValueError: a time or a structure in it can't be read.
    """
    if not isinstance(record, dict):
        return record
    named = canonical(record)
    other = other_kind(named)
    return LeftOut(other) if other else named


def _records(path: Path) -> Iterator[Value]:
    return with_principals(path, record_files.records(path))


def with_principals(path: Path, found: Iterator[Value]) -> Iterator[Value]:
    """The records of a file, and in the end one warning where none of those of CloudTrail says who called."""
    nameless, there = 0, ""
    for value in found:
        yield value
        if not isinstance(value.value, dict) or not is_event(value.value):
            continue
        try:
            record = canonical(value.value)
        except (ValueError, OverflowError, OSError, RecursionError):
            continue  # a broken record, which is counted as such
        if other_kind(record):
            continue
        if tells_who(record.get("userIdentity") or {}):
            yield from found  # one is enough, and the rest of a long file costs nothing
            return
        nameless += 1
        there = there or ", ".join(map(str, value.value))[:_LONGEST_TOLD]
    if nameless > 0 and not (told := _files_told(path.parent, there)):
        told.append(path)
        _log.warning(
            "%s: NO PRINCIPAL in any of %d records, so all of one type and account count as one; expected "
            "userIdentity, or columns such as userIdentity.principalId and userIdentity.arn; its keys: %s",
            path, nameless, there,
        )  # fmt: skip


@lru_cache(maxsize=64)
def _files_told(folder: Path, keys: str) -> list[Path]:
    """The first file in a folder that has these keys and names nobody: of thousands of a kind one line is enough."""
    return []


_FORM = calls.Form(files, _records, prepared, cloudtrail_features.fields_of, cloudtrail_features.chunk)
