"""CloudTrail: management and data events of an AWS account, as features per principal and time window.

Reads what AWS and its tools write: {"Records": [...]}, {"Events": [{"CloudTrailEvent": "..."}]} of `lookup-events`, a
JSON list, a single record, or any of these on lines of their own; plain or gzip, a file or a folder of them.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shared.bounded_files import read_at_most
from shared.config import Config
from shared.data_sources import cloudtrail_features
from shared.data_sources import files as data_files
from shared.data_sources.file_source import Chunk, Inputs
from shared.data_sources.files import BrokenLines, opened
from shared.data_sources.labels import (
    ADDRESS,
    BENIGN,
    EVENT_ID,
    TIME,
    IgnoredRecords,
    label_origin,
    load_label_rules,
    looked_up,
)
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.windows import LATENESS, closed_windows
from shared.errors import DataError
from shared.rules.rule import LABEL_LEVEL, label_of

_log = logging.getLogger("data")
_FIELD_OF = {EVENT_ID: "eventID", TIME: "eventTime", ADDRESS: "sourceIPAddress"}
# AWS writes these beside the logs: signatures of log files, and findings about many records.
_OTHER_FOLDERS = ("CloudTrail-Digest", "CloudTrail-Insight")
MOST_BYTES = 1 << 28  # of one file, unpacked: all of it is in memory at once, some times over; AWS writes 50 MB
_EXPECTED = "expected CloudTrail records as JSON: {'Records': [...]}, a list, or one on each line"


def files(path: Path) -> list[Path]:
    """The JSON files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    return data_files.list_files(path, (".json", ".jsonl", ".ndjson"), _OTHER_FOLDERS)


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
    """One row per principal and window. `meta` has `start` and `end` (seconds since 1970), `principal`, `account`,
    `events`, `first_event_id` and, of records to score, `apis` and `addresses`, the most frequent first, `rules` (the
    hits of `inputs.rules`, as `RuleHit`) and `rare_calls`, as in `cloudtrail_context`.

    A window is an attack if any of its events is; its family is that of the first such event. Records to score are
    held for `LATENESS` seconds; to learn from, all are read before the first row, whatever their order.

    Raises:
        DataError: a file is damaged, or too many records are broken.
    """
    broken = broken or BrokenLines(inputs.path, config.max_broken_share)
    frames = _frames(config, inputs, broken)
    by_rules = inputs.labelled and config.labels == "rules"
    given = load_label_rules(config, inputs.label_path) if inputs.labelled and not by_rules else None
    memory = cloudtrail_features.Memory()
    attacks = 0
    for records in closed_windows(frames, schema.window_minutes, None if inputs.labelled else LATENESS):
        # AWS may deliver an event twice, and exports overlap.
        again = records.duplicated("event_id") & (records["event_id"] != "")
        records = records[~again].reset_index(drop=True)
        families = given.families(records) if given else np.full(len(records), BENIGN, dtype=object)
        if by_rules:
            families = np.array([label_of(hits) for hits in records["hits"]], dtype=object)
        yield cloudtrail_features.chunk(records.assign(family=families), schema, memory, labelled=inputs.labelled)
        attacks += int(np.count_nonzero(families != BENIGN))
    broken.report()
    if by_rules:
        _log.log(
            logging.INFO if attacks else logging.WARNING,
            "%s: %d records are attacks, by rules of level %s and above, and all others benign; figures say how well a "
            "model agrees with the rules, not how many attacks it finds", inputs.path, attacks, LABEL_LEVEL,
        )  # fmt: skip


def _frames(config: Config, inputs: Inputs, broken: BrokenLines) -> Iterator[pd.DataFrame]:
    """The records of each file, one frame a file; where they are labelled, without those of neither class."""
    label_field = tuple(config.label_field.split(".")) if inputs.labelled and config.label_field else None
    group_field = tuple(config.partition_column.split(".")) if config.partition_column else None
    ignored = IgnoredRecords.of(config) if inputs.labelled else IgnoredRecords(())
    for path in files(inputs.path):
        rows = []
        lines = 0
        for line, record in _records(path):
            lines += 1
            try:
                row = cloudtrail_features.fields_of(record)
                row["hits"] = inputs.rules.hits(record) if inputs.rules else ()
            except (TypeError, ValueError, AttributeError, RecursionError) as error:
                broken.add(path, line, str(error))
                continue
            if record in ignored:
                continue
            row["label_value"] = looked_up(record, label_field) if label_field else ""
            row["group"] = looked_up(record, group_field) if group_field else ""
            rows.append(row)
        broken.seen(lines)
        if rows:
            yield pd.DataFrame(rows)


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Each record with its number in the file, or its line where records are on lines, from 1.

    What is no JSON comes as its own text, which is no record.
    """
    with opened(path) as stream:
        content = read_at_most(stream, MOST_BYTES, str(path))
    try:
        # `json` tells UTF-8, UTF-16 and UTF-32 apart; a bad byte within a text costs one letter, not the file.
        text = content.decode(json.detect_encoding(content), errors="replace")
        whole = json.loads(text)
    except RecursionError:
        raise DataError(f"{path}: nested too deeply; {_EXPECTED}") from None
    except ValueError:
        # Not `splitlines`, which also cuts at U+2028 and others that may stand within a JSON text.
        lines = text.split("\n")
        if not text.strip():
            raise DataError(f"{path}: empty; {_EXPECTED}") from None
    else:
        yield from enumerate(_unpacked(whole), start=1)
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            for record in _unpacked(json.loads(line)):
                yield number, record
        except (ValueError, RecursionError):
            yield number, line


def _unpacked(value: Any) -> list[Any]:
    """The records in one JSON value; what is not a known envelope is its own only record."""
    if isinstance(value, list):
        return [record for item in value for record in _unpacked(item)]
    if isinstance(value, dict):
        for envelope in ("Records", "Events"):
            if isinstance(value.get(envelope), list):
                return _unpacked(value[envelope])
        if isinstance(value.get("CloudTrailEvent"), str):
            try:
                return [json.loads(value["CloudTrailEvent"])]
            except ValueError:
                return [value]
        if "digestS3Object" in value:
            return []
    return [value]
