"""What all sources that read a tenant's files have in common: whose files, whose share, which rows are the test set.

A reader (`csv`, `cloudtrail`, `vpc_flow`) turns files into raw features and knows nothing of clients; `FileSource`
makes a `DataSource` of it.
"""

import filecmp
import logging
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.config import Config
from shared.config_checks import CLIENT_ID
from shared.data_sources.dataset import Dataset
from shared.data_sources.once import tell_once
from shared.data_sources.partition import partition_rows
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.source_types import Chunk, Inputs, Reader, Table
from shared.data_sources.stores import local_path
from shared.data_sources.streams import Stream, generator
from shared.data_sources.verdicts import RowVerdicts, other_labels
from shared.data_sources.widths import check_width, described, differing_fields
from shared.errors import DataError
from shared.feedback import load_feedback

_LOCK = threading.Lock()
_COMPARED_BYTES = 1 << 10  # of a file, kept in memory
_log = logging.getLogger("labels")


@dataclass(frozen=True)
class FileSource:
    """A `DataSource` from a reader of files."""

    reader: Reader

    def client_rows(self, config: Config, client_id: int) -> Dataset:
        """The rows of one client.

        Raises:
            DataError: the files are missing or malformed, can't be shared out, or don't have `num_features` features.
            OrchestratorError: the labels come from rules, and their folder is missing or a file in it is no rule.
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
        self._tell_tested_on(config, str(client_id))
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
            self._tell_tested_on(config, "0")
            return self._table(config, config.test_path, "test")
        return self._common(config)[1]

    def schema(self, config: Config, client_id: int | None) -> FeatureSchema:
        """The columns that the settings make of one client's files, or of the test set's."""
        if client_id is not None and CLIENT_ID in config.data_path:
            return self.reader.schema(config, _inputs(config, config.data_path, str(client_id)))
        if client_id is None and config.test_path:
            return self.reader.schema(config, _inputs(config, config.test_path, "test"))
        return self.reader.schema(config, _inputs(config, config.data_path, "0"))

    def _tell_tested_on(self, config: Config, owner: str) -> None:
        """Say so where a tenant learns from a file of the test set, whose figures then show what was learned by heart.
        Where the one or the other is not on this machine nothing is said.
        """
        own, test = Path(config.data_path.replace(CLIENT_ID, owner)), Path(config.test_path)
        if not config.test_path or not own.exists() or not test.exists():
            return
        sizes: dict[int, list[Path]] = {}
        for file in self.reader.files(own):
            sizes.setdefault(_state(file)[1], []).append(file)
        sizes.pop(0, None)  # empty ones say nothing, and a pipe would be waited for
        try:
            tested = {_begin(file): file for file in self.reader.files(test) if _state(file)[1] in sizes}
            found = [
                (file, tested[_begin(file)])
                for _, alike in sorted(sizes.items() if tested else ())
                for file in alike
                if _begin(file) in tested and _is_same(file, tested[_begin(file)])
            ]
        except OSError:  # what can't be read is said where it is to be read
            return
        for file, same in found:
            tell_once(
                f"{file}: TESTED ON WHAT IS LEARNED: it is in data_path, and {same} of test_path is the same; figures "
                "of such a run mean nothing; take it out of one of both"
            )

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


def _begin(file: Path) -> tuple[int, bytes]:
    """A file's size and the begin of what it holds, by which it is looked up among thousands."""
    with file.open("rb") as stream:
        return file.stat().st_size, stream.read(_COMPARED_BYTES)


def _is_same(file: Path, other: Path) -> bool:
    """Whether two files hold the same, under whatever names."""
    return file.samefile(other) or filecmp.cmp(file, other, shallow=False)


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
