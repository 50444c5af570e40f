"""VPC flow logs: records of network flows, as features per source address and time window.

A file is text or gzip, one flow on each line. The fields of a line come from the file's header line, as the logs in S3
have, else from the setting `vpc_fields`, else they are those of the default format, version 2. NODATA and SKIPDATA
lines tell of no flow and are left out.
"""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from shared.config import Config
from shared.data_sources import files as data_files
from shared.data_sources import vpc_flow_features
from shared.data_sources.file_source import Chunk, Inputs
from shared.data_sources.files import BrokenLines, opened_text
from shared.data_sources.labels import ADDRESS, BENIGN, EVENT_ID, TIME, label_origin, load_label_rules
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.windows import LATENESS, closed_windows, latest_time
from shared.errors import DataError

CHUNK_LINES = 100_000
DEFAULT_FIELDS = (
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
)
_NUMBERS = ("srcport", "dstport", "protocol", "packets", "bytes", "start", "end")
_NEEDED = ("srcaddr", "dstaddr", *_NUMBERS, "action")
_FIELD_OF = {TIME: "start", ADDRESS: "srcaddr"}


def files(path: Path) -> list[Path]:
    """The log files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    return data_files.list_files(path, (".log", ".txt"))


def schema(config: Config, inputs: Inputs) -> FeatureSchema:
    """The columns, which the settings and the kind of label decide; no flow is read.

    Raises:
        DataError: the file of labels is missing or malformed, or has event ids, which flows have not.
    """
    origin = label_origin(config, inputs.label_path)
    if inputs.label_path and EVENT_ID in origin:
        raise DataError(f"label_path {inputs.label_path}: column event_id, but flows have no ids; use address or start")
    excluded = tuple(_FIELD_OF[role] for role in origin) if inputs.label_path else origin
    return vpc_flow_features.schema(excluded, config.window_minutes)


def schema_like(config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
    """The columns that this code makes of new flows, by the settings that `learned` was made with."""
    return vpc_flow_features.schema(learned.excluded, learned.window_minutes)


def stream(config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None = None) -> Iterator[Chunk]:
    """One row per source address and window of flow starts. `meta` has `start` and `end` (seconds since 1970),
    `source`, `flows` and, of flows to score, `destinations`, address and port, the most frequent first.

    A window is an attack if any of its flows is. Flows to score are held for `LATENESS` seconds; to learn from, all
    are read before the first row, whatever their order.

    Raises:
        DataError: a file is damaged or lacks a field, or too many lines are broken.
    """
    broken = broken or BrokenLines(inputs.path, config.max_broken_share)
    rules = load_label_rules(config, inputs.label_path) if inputs.labelled else None
    frames = _frames(config, inputs, broken)
    for flows in closed_windows(frames, schema.window_minutes, None if inputs.labelled else LATENESS):
        families = rules.families(flows) if rules else np.full(len(flows), BENIGN)
        yield vpc_flow_features.chunk(flows.assign(family=families), schema, labelled=inputs.labelled)
    broken.report()


def _frames(config: Config, inputs: Inputs, broken: BrokenLines) -> Iterator[pd.DataFrame]:
    label_field = config.label_field if inputs.labelled else ""
    for path in files(inputs.path):
        for flows in _flows(config, path, broken):
            columns = {
                **{name: flows[name] for name in _NEEDED},
                "time": flows["start"],
                "address": flows["srcaddr"],
                "label_value": _column(path, flows, label_field),
                "group": _column(path, flows, config.partition_column),
            }
            yield pd.DataFrame(columns)


def _column(path: Path, flows: pd.DataFrame, name: str) -> pd.Series | str:
    if name and name not in flows:
        raise DataError(f"{path}: no field {name!r} for the labels or the partition; it has {', '.join(flows)}")
    return flows[name].astype(str) if name else ""


def _fields(config: Config, path: Path) -> tuple[tuple[str, ...], bool]:
    """The fields of each line, and whether the first line is their header."""
    with opened_text(path) as text:
        first = text.readline()
    header = "srcaddr" in first.split()
    # The console shows a format as ${srcaddr} ${dstaddr}, and that is what people paste.
    custom = tuple(name.strip("${}") for name in config.vpc_fields.replace(",", " ").split())
    fields = tuple(first.split()) if header else custom or DEFAULT_FIELDS
    if missing := [name for name in _NEEDED if name not in fields]:
        raise DataError(
            f"{path}: its lines have no {', '.join(missing)} ({'by the header' if header else 'by vpc_fields'}); "
            f"expected a format with {', '.join(_NEEDED)}"
        )
    return fields, header


def _flows(config: Config, path: Path, broken: BrokenLines) -> Iterator[pd.DataFrame]:
    """The well-formed flows of a file, some at a time: numbers as int64, all else as texts."""
    fields, header = _fields(config, path)
    with opened_text(path) as text:
        line = 1
        if header:
            text.readline()
            line += 1
        while lines := list(islice(text, CHUNK_LINES)):
            numbers, good = [], []
            # Checked here because pandas fills a short line with blanks.
            for number, content in enumerate(lines, start=line):
                found = content.count(" ") + 1
                if found == len(fields):
                    numbers.append(number)
                    good.append(content)
                elif content.strip():
                    broken.add(path, number, f"{found} fields, expected {len(fields)}")
            if good:
                yield _checked(path, _table(good, fields), np.array(numbers), broken)
            broken.seen(len(lines))
            line += len(lines)


def _table(lines: list[str], fields: tuple[str, ...]) -> pd.DataFrame:
    return pd.read_csv(
        io.StringIO("".join(lines)),
        sep=" ",
        header=None,
        names=list(fields),
        dtype=dict.fromkeys(set(fields) - set(_NUMBERS), str),
        na_filter=False,
        low_memory=False,  # else one column may come as texts in some parts and as numbers in others
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
    )


def _checked(path: Path, flows: pd.DataFrame, lines: np.ndarray, broken: BrokenLines) -> pd.DataFrame:
    """The flows whose numbers are numbers; NODATA and SKIPDATA lines, which have dashes for them, are no damage."""
    empty = flows["srcaddr"] == "-"
    if "log-status" in flows:
        empty |= flows["log-status"].isin(["NODATA", "SKIPDATA"])
    flows, lines = flows[~empty].copy(), lines[~empty.to_numpy()]
    good = np.ones(len(flows), dtype=np.bool_)
    latest = latest_time()
    for name in _NUMBERS:
        values = pd.to_numeric(flows[name], errors="coerce").to_numpy(np.float64)
        is_time = name in ("start", "end")
        right = (values >= 0) & (values < 2**53) & (values == np.floor(values))
        if is_time:
            right &= values <= latest
        expected = "seconds since 1970, no more than a day from now" if is_time else "a whole number"
        for row in np.flatnonzero(good & ~right):
            broken.add(path, int(lines[row]), f"{name} = {flows[name].iloc[row]!r}, expected {expected}")
        good &= right
        flows[name] = np.where(right, values, 0).astype(np.int64)
    return flows[good]
