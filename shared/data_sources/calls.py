"""Records of calls, read and labelled, as rows of principals and time windows: what `cloudtrail`, `audit` and `ocsf` do
alike. A source says by a `Form` what its files and records are.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from shared.config import Config
from shared.data_sources import files as data_files
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.call_features import Memory
from shared.data_sources.envelopes import LeftOut
from shared.data_sources.json_values import Value
from shared.data_sources.label_checks import LabelTally
from shared.data_sources.labels import (
    BENIGN,
    IgnoredRecords,
    load_label_rules,
    looked_up,
    origin_in_words,
)
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.source_types import Chunk, Inputs
from shared.data_sources.windows import LATENESS, closed_windows
from shared.errors import OddFileError
from shared.findings.joining import FindingJoin
from shared.rules.rule import LABEL_LEVEL, label_of

_log = logging.getLogger("data")
FRAME_RECORDS = 20_000
# By which an event that was delivered twice is known again: an export may have one id for many events.
_SAME = ("event_id", "time", "key", "name")


class Rows(Protocol):
    """The features of a source: `call_features.chunk` with what it adds."""

    def __call__(self, records: pd.DataFrame, schema: FeatureSchema, memory: Memory, *, labelled: bool) -> Chunk:
        """One row for each principal and window among records of closed windows, sorted by time."""


@dataclass(frozen=True)
class Form:
    """What a source is made of.

    Attributes:
        files: at or below a path, in the order in which they are read.
        records: what is in one file, of whatever form.
        prepared: a record in the form that rules and labels are written for, or why it is no event.
        call: of a prepared record what `rows` needs: `time`, `key`, `principal`, `account`, `event_id`, `name`, `api`,
            `address`, and the columns that the source's features are made from.
        rows: of records.
    """

    files: Callable[[Path], list[Path]]
    records: Callable[[Path], Iterator[Value]]
    prepared: Callable[[Any], Any]
    call: Callable[[Any], dict[str, Any]]
    rows: Rows


def stream(
    form: Form, config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None
) -> Iterator[Chunk]:
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
    frames = _frames(form, config, inputs, broken, joined)
    memory = Memory()
    tally = LabelTally()
    for events in closed_windows(frames, schema.window_minutes, None if inputs.labelled else LATENESS):
        # A service may deliver an event twice, and exports overlap.
        again = events.duplicated(list(_SAME)) & (events["event_id"] != "")
        broken.leave_out("events that were there already", int(again.sum()))
        events = events[~again].reset_index(drop=True)
        families = given.families(events) if given else np.full(len(events), BENIGN, dtype=object)
        if by_rules or joined:
            families = np.array([label_of(hits) for hits in events["hits"]], dtype=object)
        if joined:
            families = joined.over(families, events["finding"])
        yield form.rows(events.assign(family=families), schema, memory, labelled=inputs.labelled)
        if inputs.labelled:
            tally.add(events["label_value"], families != BENIGN)
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


def _frames(
    form: Form, config: Config, inputs: Inputs, broken: BrokenLines, joined: FindingJoin | None
) -> Iterator[pd.DataFrame]:
    """The records of the files, some at a time; where they are labelled, without those of neither class."""
    label_field = tuple(config.label_field.split(".")) if inputs.labelled and config.label_field else None
    group_field = tuple(config.partition_column.split(".")) if config.partition_column else None
    ignored = IgnoredRecords.of(config) if inputs.labelled else IgnoredRecords(())
    for path in form.files(inputs.path):
        rows = []
        for found in read(form.records, path, broken):
            try:
                record = form.prepared(found.value)
                if isinstance(record, LeftOut):
                    broken.leave_out(record)
                    continue
                row = form.call(record)
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


def read(records: Callable[[Path], Iterator[Value]], path: Path, broken: BrokenLines) -> Iterator[Value]:
    """The records of one file, as `records` finds them; what else is in it is counted, as are all of them."""
    count, cut = 0, False
    try:
        for found in records(path):
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
        cut = not data_files.is_empty(path)
        if cut:
            broken.cut_file(error)
    broken.seen(count % FRAME_RECORDS)
    if count or cut:
        return
    if data_files.is_empty(path):
        broken.empty_file(path)
    else:
        _log.info("%s: no records, an empty list or a header alone", path)
