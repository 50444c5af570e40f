"""CloudTrail: management and data events of an AWS account, as features per principal and time window.

Reads what `envelopes` unwraps, and CSV with CloudTrail's fields as columns; plain or packed, a file or a folder.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from shared.config import Config
from shared.data_sources import cloudtrail_features
from shared.data_sources import files as data_files
from shared.data_sources.cloudtrail_records import canonical, csv_records, is_csv, other_kind
from shared.data_sources.envelopes import LeftOut, records
from shared.data_sources.file_source import Chunk, Inputs
from shared.data_sources.files import BrokenLines, opened_text
from shared.data_sources.json_values import Value, begins_as_json
from shared.data_sources.label_checks import LabelTally
from shared.data_sources.labels import (
    ADDRESS,
    BENIGN,
    EVENT_ID,
    TIME,
    IgnoredRecords,
    label_origin,
    load_label_rules,
    looked_up,
    origin_in_words,
)
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.windows import LATENESS, closed_windows
from shared.errors import OddFileError
from shared.findings.joining import FindingJoin
from shared.rules.rule import LABEL_LEVEL, label_of

_log = logging.getLogger("data")
_FIELD_OF = {EVENT_ID: "eventID", TIME: "eventTime", ADDRESS: "sourceIPAddress"}
# AWS writes these beside the logs: signatures of log files, and findings about and sums of many records.
_OTHER_FOLDERS = ("CloudTrail-Digest", "CloudTrail-Insight", "CloudTrail-Aggregated")
FRAME_RECORDS = 20_000


def files(path: Path) -> list[Path]:
    """The files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    return data_files.list_files(path, (".json", ".jsonl", ".ndjson"), _is_cloudtrail, _OTHER_FOLDERS)


def _is_cloudtrail(head: str) -> bool:
    # Or a time before each record, as CloudWatch Logs export, or a line of syslog.
    return is_csv(head) or begins_as_json(head) or ("{" in head and "eventsource" in head.casefold())


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
    `events`, `first_event_id` and, of records to score, `apis` with their `call_counts`, `regions` and `addresses`, the
    most frequent first, `rules` (the hits of `inputs.rules`, as `RuleHit`) and `rare_calls` (`cloudtrail_context`).

    A window is an attack if any of its events is; its family is that of the first such event. Records to score are
    held for `LATENESS` seconds; to learn from, all are read before the first row, whatever their order.

    Raises:
        DataError: a file is damaged, or too many records are broken.
    """
    broken = broken or BrokenLines(inputs.path, config.max_broken_share)
    by_rules = inputs.labelled and config.labels == "rules"
    joined = FindingJoin(inputs.findings) if inputs.labelled and inputs.findings else None
    given = load_label_rules(config, inputs.label_path) if inputs.labelled and not config.labels else None
    frames = _frames(config, inputs, broken, joined)
    memory = cloudtrail_features.Memory()
    tally = LabelTally()
    for events in closed_windows(frames, schema.window_minutes, None if inputs.labelled else LATENESS):
        # AWS may deliver an event twice, and exports overlap.
        again = events.duplicated("event_id") & (events["event_id"] != "")
        broken.leave_out("events that were there already", int(again.sum()))
        events = events[~again].reset_index(drop=True)
        families = given.families(events) if given else np.full(len(events), BENIGN, dtype=object)
        if by_rules or joined:
            families = np.array([label_of(hits) for hits in events["hits"]], dtype=object)
        if joined:
            families = joined.over(families, events["finding"])
        yield cloudtrail_features.chunk(events.assign(family=families), schema, memory, labelled=inputs.labelled)
        if inputs.labelled:
            tally.add(events["label_value"], int(np.count_nonzero(families != BENIGN)))
    broken.report()
    if by_rules:
        _log.log(
            logging.INFO if tally.attacks else logging.WARNING,
            "%s: %d records are attacks, by rules of level %s and above, and all others benign; figures say how well a "
            "model agrees with the rules, not how many attacks it finds", inputs.path, tally.attacks, LABEL_LEVEL,
        )  # fmt: skip
    elif joined:
        joined.tell(inputs.path)
    elif inputs.labelled:
        tally.tell_log(inputs.path, origin_in_words(config, inputs.label_path))


def _frames(config: Config, inputs: Inputs, broken: BrokenLines, joined: FindingJoin | None) -> Iterator[pd.DataFrame]:
    """The records of the files, some at a time; where they are labelled, without those of neither class."""
    label_field = tuple(config.label_field.split(".")) if inputs.labelled and config.label_field else None
    group_field = tuple(config.partition_column.split(".")) if config.partition_column else None
    ignored = IgnoredRecords.of(config) if inputs.labelled else IgnoredRecords(())
    for path in files(inputs.path):
        rows = []
        for found in _read(path, broken):
            record = found.value
            try:
                if isinstance(record, dict):
                    if other := other_kind(record):
                        broken.leave_out(other)
                        continue
                    record = canonical(record)
                row = cloudtrail_features.fields_of(record)
                row["hits"] = inputs.rules.hits(record) if inputs.rules else ()
                row["finding"] = joined.of_record(record, row) if joined else -1
                if record in ignored:
                    broken.leave_out("records of label_ignored")
                    continue
                row["label_value"] = looked_up(record, label_field) if label_field else ""
                row["group"] = looked_up(record, group_field) if group_field else ""
            except (TypeError, ValueError, AttributeError, RecursionError, OverflowError, OSError) as error:
                broken.add(path, found.where, str(error))
                continue
            rows.append(row)
            if len(rows) == FRAME_RECORDS:
                yield pd.DataFrame(rows)
                rows = []
        if rows:
            yield pd.DataFrame(rows)


def _read(path: Path, broken: BrokenLines) -> Iterator[Value]:
    """The records of one file; what else is in it is counted, as are all of them."""
    count = 0
    try:
        for found in _records(path):
            count += 1
            if found.broken:
                broken.add(path, found.where, found.broken)
            elif isinstance(found.value, LeftOut):
                broken.leave_out(found.value)
            else:
                yield found
            if count % FRAME_RECORDS == 0:
                broken.seen(FRAME_RECORDS)
    except OddFileError as error:
        broken.cut_file(error)
    broken.seen(count % FRAME_RECORDS)
    if not count and not data_files.head(path).strip():
        broken.empty_file(path)


def _records(path: Path) -> Iterator[Value]:
    """What is in one file, of whatever form."""
    if not is_csv(data_files.head(path)):
        yield from records(path)
        return
    with opened_text(path) as text:
        yield from csv_records(text)
