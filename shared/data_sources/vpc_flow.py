"""VPC flow logs: records of network flows, as features per source address and time window.

`flow_records` has the forms they come in; the logs of Transit Gateways, of Zeek and of Suricata are read like those of
VPCs.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from shared.config import Config
from shared.data_sources import files as data_files
from shared.data_sources import vpc_flow_features
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.flow_checks import NEEDED
from shared.data_sources.flow_records import field_name, flows_of, is_flow_log
from shared.data_sources.label_checks import LabelTally
from shared.data_sources.labels import ADDRESS, BENIGN, EVENT_ID, TIME, label_origin, load_label_rules, origin_in_words
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.source_types import Chunk, Inputs
from shared.data_sources.windows import LATENESS, closed_windows
from shared.errors import DataError
from shared.findings.joining import FindingJoin

_FIELD_OF = {TIME: "start", ADDRESS: "srcaddr"}


def files(path: Path) -> list[Path]:
    """The log files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    return data_files.list_files(path, (".log", ".txt", ".parquet", ".pq", ".parq"), is_flow_log)


def schema(config: Config, inputs: Inputs) -> FeatureSchema:
    """The columns, which the settings and the kind of label decide; no flow is read.

    Raises:
        DataError: the file of labels is missing or malformed, or has event ids, which flows have not.
    """
    return vpc_flow_features.schema(excluded_by(config, inputs), config.window_minutes)


def excluded_by(config: Config, inputs: Inputs) -> tuple[str, ...]:
    """The fields that the label comes from.

    Raises:
        DataError: the file of labels is missing or malformed, or has event ids, which flows have not.
    """
    origin = label_origin(config, inputs.label_path)
    if inputs.label_path and EVENT_ID in origin:
        raise DataError(f"label_path {inputs.label_path}: column event_id, but flows have no ids; use address or start")
    return tuple(_FIELD_OF[role] for role in origin) if inputs.label_path else origin


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
    yield from windows_of(_frames(config, inputs, broken), config, inputs, schema, broken)


def windows_of(
    frames: Iterator[pd.DataFrame], config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines
) -> Iterator[Chunk]:
    """The rows of flows that were read, as `stream` has them.

    Args:
        frames: flows: the fields of `NEEDED`, `action`, `time`, `address`, `label_value` and `group`.
        config: of labels.
        inputs: that they were read from.
        schema: of the rows.
        broken: that counted them.

    Raises:
        DataError: the file of labels is malformed, or what `frames` raises.
    """
    joined = FindingJoin(inputs.findings) if inputs.labelled and inputs.findings else None
    rules = load_label_rules(config, inputs.label_path) if inputs.labelled and not joined else None
    tally = LabelTally()
    for flows in closed_windows(frames, schema.window_minutes, None if inputs.labelled else LATENESS):
        families = rules.families(flows) if rules else np.full(len(flows), BENIGN)
        if joined:
            families = joined.over(families, joined.of_flows(flows))
        yield vpc_flow_features.chunk(flows.assign(family=families), schema, labelled=inputs.labelled)
        if inputs.labelled:
            tally.add(flows["label_value"], families != BENIGN)
    broken.report()
    if joined:
        joined.tell(inputs.path)
    elif inputs.labelled:
        tally.tell_log(inputs.path, origin_in_words(config, inputs.label_path))


def _frames(config: Config, inputs: Inputs, broken: BrokenLines) -> Iterator[pd.DataFrame]:
    label_field = config.label_field if inputs.labelled else ""
    for path in files(inputs.path):
        for flows in flows_of(config, path, broken):
            columns = {
                **{name: flows[name] for name in NEEDED},
                "action": flows["action"],
                "time": flows["start"],
                "address": flows["srcaddr"],
                "label_value": _column(path, flows, label_field),
                "group": _column(path, flows, config.partition_column),
            }
            yield pd.DataFrame(columns)


def _column(path: Path, flows: pd.DataFrame, name: str) -> pd.Series | str:
    if not name:
        return ""
    if field_name(name) not in flows:
        raise DataError(f"{path}: no field {name!r} for the labels or the partition; it has {', '.join(flows)}")
    return flows[field_name(name)].astype(str)
