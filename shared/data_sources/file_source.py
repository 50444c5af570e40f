"""What all sources that read a tenant's files have in common: whose files, whose share, which rows are the test set.

A reader (`csv`, `cloudtrail`, `vpc_flow`) turns files into raw features and knows nothing of clients; `FileSource`
makes a `DataSource` of it.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.config import Config
from shared.config_checks import CLIENT_ID
from shared.data_sources.dataset import Dataset
from shared.data_sources.files import BrokenLines
from shared.data_sources.partition import partition_rows
from shared.data_sources.schema import Features, FeatureSchema
from shared.data_sources.stores import local_path
from shared.data_sources.streams import Stream, generator
from shared.data_sources.verdicts import RowVerdicts, other_labels
from shared.errors import DataError
from shared.feedback import load_feedback
from shared.findings.finding import FindingSet
from shared.rules.rule import Rules

_LOCK = threading.Lock()
_log = logging.getLogger("labels")


@dataclass(frozen=True)
class Inputs:
    """The files of one tenant, or those to score.

    Attributes:
        path: a file or a folder.
        label_path: file of labels, if the labels come from one.
        labelled: False for new records: no label is looked for, and the files need none.
        rules: Sigma rules to evaluate on each record, if there are any.
        findings: of other detectors, where labels come from them.
        feedback_path: file of verdicts, if there are any.
    """

    path: Path
    label_path: Path | None = None
    labelled: bool = True
    rules: Rules | None = None
    findings: FindingSet | None = None
    feedback_path: Path | None = None


@dataclass(frozen=True)
class Chunk:
    """Some rows in the order of the data.

    Attributes:
        meta: where each row comes from, for a person; never a feature. Windows have `start`, seconds since 1970.
        features: raw, (rows, features).
        families: "benign" or the attack's family, (rows,); all empty where `Inputs.labelled` is False.
        groups: value of `partition_column`, (rows,); all empty without one.
    """

    meta: pd.DataFrame
    features: Features
    families: NDArray[np.str_]
    groups: NDArray[np.str_]


@dataclass(frozen=True)
class Table:
    """Rows with raw features: what a `Dataset` is before scaling.

    Attributes:
        schema: of the columns.
        features: raw, float32, (rows, features).
        families: (rows,).
        groups: (rows,).
        starts: begin of each row's window, seconds since 1970, (rows,); None where rows are records.
    """

    schema: FeatureSchema
    features: Features
    families: NDArray[np.str_]
    groups: NDArray[np.str_]
    starts: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.families)

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 for benign, 1 for attack, (rows,)."""
        return np.not_equal(self.families, "benign").astype(np.int64)

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """The rows at these positions, in this order."""
        starts = None if self.starts is None else self.starts[rows]
        return Table(self.schema, self.features[rows], self.families[rows], self.groups[rows], starts)

    @property
    def rows(self) -> Dataset:
        """The same rows, labelled."""
        return Dataset(self.features, self.labels, self.families)


class RecordReader(Protocol):
    """What scoring needs of a source."""

    def schema_like(self, config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
        """The columns that new records would have: `learned`, unless they don't fit it."""

    def stream(
        self, config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None = None
    ) -> Iterator[Chunk]:
        """All rows, in bounded memory where `inputs.labelled` is False; `broken` counts lines, if the caller asks."""


class Reader(RecordReader, Protocol):
    """What `csv`, `cloudtrail` and `vpc_flow` offer."""

    def schema(self, config: Config, inputs: Inputs) -> FeatureSchema:
        """The columns that these settings make of these files. Reads no more than the first lines."""

    def files(self, path: Path) -> list[Path]:
        """The files that `stream` reads, in that order."""


@dataclass(frozen=True)
class FileSource:
    """A `DataSource` from a reader of files."""

    reader: Reader

    def client_rows(self, config: Config, client_id: int) -> Dataset:
        """The rows of one client.

        Raises:
            DataError: the files are missing or malformed, can't be shared out, or don't have `num_features` features.
            RuleError: the labels come from rules, and their folder is missing or a file in it is no rule.
        """
        return self.client_table(config, client_id).rows

    def test_rows(self, config: Config) -> Dataset:
        """The common test set.

        Raises:
            DataError: as in `client_rows`.
        """
        return self._halves(config)[1].rows

    def validation_rows(self, config: Config) -> Dataset:
        """As many rows beside the test set: of windows the earlier half, of records a random one.

        Raises:
            DataError: as in `client_rows`.
        """
        return self._halves(config)[0].rows

    def _halves(self, config: Config) -> tuple[Table, Table]:
        """What no client has: rows to validate with, and rows to test with."""
        table = self.test_table(config)
        if len(table) < 2:
            raise DataError("1 row to validate and test with; expected at least 2: use more data or a test_path")
        if table.starts is None:
            rows = generator(config.seed, Stream.VALIDATION_ROWS).permutation(len(table))
        else:
            rows = np.argsort(table.starts, kind="stable")
        half = len(table) // 2
        return table.take(np.sort(rows[:half])), table.take(np.sort(rows[half:]))

    def client_table(self, config: Config, client_id: int) -> Table:
        """The raw rows of one client: its own files, or its share of the common ones without the test set."""
        if CLIENT_ID in config.data_path:
            return self._table(config, config.data_path, str(client_id))
        if config.test_path:
            train = self._table(config, config.data_path, "0")
            if difference := train.schema.difference(self.schema(config, None)):
                raise DataError(f"data_path and test_path have different features: {difference}")
        else:
            train = self._common(config)[0]
        parts = partition_rows(
            config.partition,
            train.labels,
            train.families,
            config.num_clients,
            dirichlet_alpha=config.dirichlet_alpha,
            seed=config.seed,
            groups=train.groups if config.partition_column else None,
        )
        return train.take(parts[client_id])

    def test_table(self, config: Config) -> Table:
        """The raw rows that no client has: those to validate with and those to test with."""
        if config.test_path:
            return self._table(config, config.test_path, "test")
        return self._common(config)[1]

    def schema(self, config: Config, client_id: int | None) -> FeatureSchema:
        """The columns that the settings make of one client's files, or of the test set's."""
        if client_id is not None and CLIENT_ID in config.data_path:
            return self.reader.schema(config, _inputs(config, config.data_path, str(client_id)))
        if client_id is None and config.test_path:
            return self.reader.schema(config, _inputs(config, config.test_path, "test"))
        return self.reader.schema(config, _inputs(config, config.data_path, "0"))

    def _common(self, config: Config) -> tuple[Table, Table]:
        """The rows to share out and the test set, of a common `data_path` alone."""
        table = self._table(config, config.data_path, "0")
        train, test = _split(table, config)
        return table.take(train), table.take(test)

    def _table(self, config: Config, path: str, owner: str) -> Table:
        inputs = _inputs(config, path, owner)
        watched = [*self.reader.files(inputs.path), *filter(None, (inputs.label_path, inputs.feedback_path))]
        # Several client threads ask at once: `lru_cache` alone would let each of them read the files.
        with _LOCK:
            if config.labels == "findings":
                from shared.findings.folder import load_findings

                found = Path(config.findings_path.replace(CLIENT_ID, owner))
                inputs = replace(inputs, findings=load_findings(found, config.max_broken_share))
            if config.rules_path:
                # Imported on demand: rules take pySigma to read.
                from shared.data_sources.audit_rules import load_rules

                folder = Path(config.rules_path.replace(CLIENT_ID, owner))
                inputs = replace(inputs, rules=load_rules(config, folder))
            own = CLIENT_ID in path
            return _read(self, config, inputs, own, tuple(_state(file) for file in watched))


def _inputs(config: Config, path: str, owner: str) -> Inputs:
    label_path, feedback_path = (
        local_path(given.replace(CLIENT_ID, owner)) if given else None
        for given in (config.label_path, config.feedback_path)
    )
    # Labels that a CSV file has all the same tell what the test set's alerts are worth.
    labelled = config.labels != "none" or bool(config.csv_label_column)
    return Inputs(local_path(path.replace(CLIENT_ID, owner)), label_path, labelled, feedback_path=feedback_path)


def _state(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; expected a file") from None
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=2)
def _read(source: FileSource, config: Config, inputs: Inputs, own: bool, _states: tuple[tuple[int, int], ...]) -> Table:
    schema = source.reader.schema(config, inputs)
    if own:
        _check_own_width(source, config, inputs, schema)
    else:
        check_width(config, schema)
    chunks = list(source.reader.stream(config, inputs, schema))
    if inputs.feedback_path and inputs.labelled:
        verdicts = RowVerdicts(schema, load_feedback(inputs.feedback_path))
        chunks = [replace(c, families=verdicts.over(c.families, c.meta, c.features)) for c in chunks]
        verdicts.tell(inputs.path, other_labels(config))
    if not sum(len(chunk.features) for chunk in chunks):
        raise DataError(f"{inputs.path}: no rows; expected labelled records")
    if inputs.labelled and config.labels != "none":
        attacks = sum(int(np.count_nonzero(chunk.families != "benign")) for chunk in chunks)
        rows = sum(len(chunk.families) for chunk in chunks)
        by = other_labels(config) + (" and verdicts" if inputs.feedback_path else "")
        _log.info("%s: %d of %d rows are attacks, by %s", inputs.path, attacks, rows, by)
    starts = None
    if schema.window_minutes:
        starts = np.concatenate([chunk.meta["start"].to_numpy(np.int64) for chunk in chunks])
    return Table(
        schema,
        np.concatenate([chunk.features for chunk in chunks]),
        np.concatenate([chunk.families if inputs.labelled else _benign(chunk) for chunk in chunks]),
        np.concatenate([chunk.groups for chunk in chunks]),
        starts,
    )


def _benign(chunk: Chunk) -> NDArray[np.str_]:
    return np.full(len(chunk.features), "benign")


def check_width(config: Config, schema: FeatureSchema) -> None:
    """The model's input must be as wide as the data.

    Raises:
        DataError: it is not; the message names the number to set.
    """
    if config.num_features != len(schema):
        raise DataError(
            f"num_features = {config.num_features}: this data has {len(schema)} features; "
            f"set num_features: {len(schema)}, on every side, if all have these: {described(schema)}"
        )


def _check_own_width(source: FileSource, config: Config, inputs: Inputs, schema: FeatureSchema) -> None:
    """One tenant's files must make what all others' make: another number here would part it from them.

    Raises:
        DataError: they make another number of features; the message names the columns, and those that differ where
            the test set is at hand.
    """
    if config.num_features == len(schema):
        return
    told = f"it makes these: {described(schema)}"
    try:
        common = source.reader.schema(config, _inputs(config, config.test_path, "test"))
        told = f"compared with the test set, {config.test_path}: {differing_fields(schema, common)}"
    except DataError:
        pass  # the orchestrator's file, which need not be here
    raise DataError(
        f"{inputs.path}: {len(schema)} features, and the federation agreed on num_features = {config.num_features}; "
        f"{told}; for csv name columns that others lack in csv_drop_columns, and columns of names or codes, as all "
        "have them, in csv_categorical_columns"
    )


def described(schema: FeatureSchema) -> str:
    """The fields that features are made from, by kind, for a person."""
    kinds: dict[str, list[str]] = {"numbers": [], "names": []}
    for name in dict.fromkeys(column.field for column in schema.columns):
        columns = [column for column in schema.columns if column.field == name]
        kinds["names" if len(columns) > 1 or columns[0].kind == "category" else "numbers"].append(name)
    names = f", names ({schema.hash_width} columns each) {_some(kinds['names'])}" if kinds["names"] else ""
    return f"numbers {_some(kinds['numbers'])}{names}"


def differing_fields(mine: FeatureSchema, common: FeatureSchema) -> str:
    """Which fields are in one schema alone, or of another kind, for a person."""
    here = {column.field: column.kind for column in mine.columns}
    there = {column.field: column.kind for column in common.columns}
    told = [f"column {name!r} is here alone" for name in here if name not in there]
    told += [f"column {name!r} is missing here" for name in there if name not in here]
    words = {"numeric": "numbers", "category": "text", "cyclic": "numbers"}
    told += [
        f"column {name!r} holds {words[kind]} here and {words[there[name]]} there"
        for name, kind in here.items()
        if there.get(name, kind) != kind
    ]
    return _some(told, 10) if told else "no column differs, so num_features is wrong for all"


def _some(names: Sequence[str], most: int = 40) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"


def _split(table: Table, config: Config) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to share out and rows of the test set.

    Windows are split by time: a random split would put neighbours of one attack on both sides, and its result would
    say little about tomorrow's logs.
    """
    if table.starts is None:
        rows = generator(config.seed, Stream.TEST_SPLIT).permutation(len(table))
        cut = round(len(table) * config.test_fraction)
        train, test = np.sort(rows[cut:]), np.sort(rows[:cut])
    else:
        first = np.sort(table.starts)[int(len(table) * (1 - config.test_fraction))]
        train, test = np.flatnonzero(table.starts < first), np.flatnonzero(table.starts >= first)
    if not len(train) or not len(test):
        raise DataError(
            f"test_fraction = {config.test_fraction}: {len(train)} rows to train on and {len(test)} to test on; "
            "expected both, so use more data, shorter windows or a test_path"
        )
    return train, test
