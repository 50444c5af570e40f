"""NSL-KDD (Tavallaee, Bagheri, Lu, Ghorbani, 2009): network-flow records, benign (0) or attack (1).

A tenth of KDDTrain+, the same rows in every run, is withheld from all clients: the orchestrator validates on it.
Clients share out the rest by the setting `partition`. KDDTest+ is the common test set: it never trains or chooses.
A record becomes 122 float32 features: 38 numbers, then one-hot protocol (3), service (70) and flag (11).
"""

import csv
import io
import textwrap
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.bounded_files import read_bounded
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_sources.nsl_kdd_schema import (
    ATTACK_NAME,
    BENIGN_NAME,
    COLUMNS,
    DIFFICULTY,
    FAMILY_OF,
    HEAVY_TAILED,
    NUM_FEATURES,
    NUMERIC,
    SYMBOLS,
)
from shared.data_sources.partition import partition_rows
from shared.data_sources.schema import Column, FeatureSchema, number_column
from shared.data_sources.stores import local_path
from shared.data_sources.streams import Stream, generator
from shared.errors import DataError

TRAIN_FILE = "KDDTrain+.txt"
TEST_FILE = "KDDTest+.txt"
VALIDATION_SHARE = 0.1  # of the rows of each family
VALIDATION_SEED = 0  # fixed, so that runs with different seeds still validate alike
MOST_BYTES = 1 << 28  # of a file; KDDTrain+ has 19 MB
MAX_NUMBER = 1e12  # far above any count in a record, and safe in float32

_GOOD_COPY = (
    "get a good copy of NSL-KDD from the Canadian Institute for Cybersecurity, University of New Brunswick "
    "(https://www.unb.ca/cic/datasets/nsl.html), and put its folder in data_path"
)
_LOCK = threading.Lock()


@dataclass(frozen=True)
class _Records:
    """One parsed file.

    Attributes:
        numbers: as in the file, float64, (rows, 38).
        symbols: index into the public list of each symbolic column, -1 where it is not in it, (rows, 3).
        families: (rows,).
    """

    numbers: NDArray[np.float64]
    symbols: NDArray[np.int64]
    families: NDArray[np.str_]

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.not_equal(self.families, FAMILY_OF[BENIGN_NAME]).astype(np.int64)


def schema(config: Config, client_id: int | None) -> FeatureSchema:
    """The public columns: 38 numbers, and a category for each known value of the 3 symbolic columns."""
    numbers = [number_column(name, log=name in HEAVY_TAILED) for name in NUMERIC]
    values = [Column(f"{field}={value}", field, "category") for field, known in SYMBOLS.items() for value in known]
    return FeatureSchema("nsl_kdd", (*numbers, *values), excluded=(ATTACK_NAME, DIFFICULTY))


def client_rows(config: Config, client_id: int) -> Dataset:
    """The rows of KDDTrain+ that the setting `partition` gives to one client.

    Raises:
        DataError: the file is missing or malformed, or can't be shared out among so many clients.
    """
    train = _records(local_path(config.data_path) / TRAIN_FILE)
    private = np.setdiff1d(np.arange(len(train.families)), _withheld_rows(train))
    parts = partition_rows(
        config.partition,
        train.labels[private],
        train.families[private],
        config.num_clients,
        dirichlet_alpha=config.dirichlet_alpha,
        seed=config.seed,
    )
    return _encode(train, private[parts[client_id]])


def test_rows(config: Config) -> Dataset:
    """All of KDDTest+, in the file's order.

    Raises:
        DataError: the file is missing or malformed.
    """
    test = _records(local_path(config.data_path) / TEST_FILE)
    return _encode(test, np.arange(len(test.families)))


def unseen_attacks(config: Config) -> NDArray[np.bool_]:
    """Which rows of KDDTest+, in the file's order, are attacks of types that KDDTrain+ does not have, (rows,).

    Raises:
        DataError: a file is missing or malformed.
    """
    names = [_read_table(local_path(config.data_path) / file)[ATTACK_NAME] for file in (TRAIN_FILE, TEST_FILE)]
    return ~np.isin(names[1].to_numpy(dtype=str), np.unique(names[0].to_numpy(dtype=str)))


def validation_rows(config: Config) -> Dataset:
    """The rows of KDDTrain+ that no client has.

    Raises:
        DataError: the file is missing or malformed.
    """
    train = _records(local_path(config.data_path) / TRAIN_FILE)
    return _encode(train, _withheld_rows(train))


def _withheld_rows(train: _Records) -> NDArray[np.int64]:
    """Sorted row numbers, about `VALIDATION_SHARE` of all: drawn family by family, so that rare families are in it."""
    rows = generator(VALIDATION_SEED, Stream.WITHHELD).permutation(len(train.families))
    drawn = []
    for family in np.unique(train.families):
        of_family = rows[train.families[rows] == family]
        drawn.append(of_family[: max(round(VALIDATION_SHARE * len(of_family)), 1)])
    return np.sort(np.concatenate(drawn))


def _encode(records: _Records, rows: NDArray[np.int64]) -> Dataset:
    features = raw_features(records.numbers[rows], records.symbols[rows])
    return Dataset(features, records.labels[rows], records.families[rows])


def raw_features(numbers: NDArray[np.float64], symbols: NDArray[np.int64]) -> NDArray[np.float32]:
    """The features, (rows, 122), of numbers as in the file, (rows, 38), and indices of symbols, (rows, 3)."""
    features = np.zeros((len(numbers), NUM_FEATURES), dtype=np.float32)
    features[:, : len(NUMERIC)] = _compressed(numbers)
    start = len(NUMERIC)
    for column, known in enumerate(SYMBOLS.values()):
        index = symbols[:, column]
        present = np.flatnonzero(index >= 0)
        features[present, start + index[present]] = 1.0
        start += len(known)
    return features


def _compressed(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    heavy = [NUMERIC.index(name) for name in HEAVY_TAILED]
    compressed: NDArray[np.float64] = numbers.copy()
    compressed[:, heavy] = np.log1p(compressed[:, heavy])
    return compressed


def _records(path: Path) -> _Records:
    """The parsed file, from memory when it has not changed since.

    Several client threads ask at once: `lru_cache` alone would let each of them parse the file.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected {TRAIN_FILE} and {TEST_FILE}: {_GOOD_COPY}") from None
    with _LOCK:
        return _parse(path.resolve(), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _parse(path: Path, _mtime_ns: int, _size: int) -> _Records:
    table = _read_table(path)
    numbers = np.column_stack([_numbers(path, table, name) for name in NUMERIC])
    _numbers(path, table, DIFFICULTY)  # unused, but a bad value shows a damaged record
    # KDDTest+ stands for traffic of the future, which may hold what no list knows; in KDDTrain+ it is damage.
    symbols = np.column_stack([_symbols(path, table, name, required=path.name == TRAIN_FILE) for name in SYMBOLS])
    attack = pd.Index(FAMILY_OF).get_indexer(table[ATTACK_NAME])
    _refuse_first(path, table, ATTACK_NAME, attack < 0, f"an attack name of NSL-KDD or {BENIGN_NAME!r}")
    return _Records(numbers, symbols, np.array(list(FAMILY_OF.values()))[attack])


def _read_table(path: Path) -> pd.DataFrame:
    """One row per line under the names of `COLUMNS`; a numeric column that holds anything else comes as texts."""
    try:
        with io.TextIOWrapper(io.BytesIO(read_bounded(path, MOST_BYTES)), encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}; expected a text file: {_GOOD_COPY}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; expected a text file: {_GOOD_COPY}") from None
    lines = text.removesuffix("\n").split("\n")
    if not text.strip():
        raise DataError(f"{path}: empty; expected lines of {len(COLUMNS)} comma-separated columns: {_GOOD_COPY}")
    # Checked here because pandas fills a short line with blanks and skips an empty one without a word.
    for number, line in enumerate(lines, start=1):
        found = line.count(",") + 1
        if found != len(COLUMNS):
            where = f"column {COLUMNS[found]} is missing" if found < len(COLUMNS) else f"too many after {COLUMNS[-1]}"
            raise DataError(
                f"{path}, line {number}: {found} columns ({where}), expected {len(COLUMNS)} "
                f"separated by commas, without a header; {_GOOD_COPY}"
            )
    return pd.read_csv(
        io.StringIO(text),
        header=None,
        names=list(COLUMNS),
        dtype=dict.fromkeys((*SYMBOLS, ATTACK_NAME), str),
        na_filter=False,
        low_memory=False,  # else one column may come as texts in some chunks and as numbers in others
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
    )


def _numbers(path: Path, table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
    # Written so that NaN, which compares False with everything, is refused too.
    _refuse_first(path, table, name, ~((numbers >= 0) & (numbers <= MAX_NUMBER)), f"a number from 0 to {MAX_NUMBER:g}")
    return numbers


def _symbols(path: Path, table: pd.DataFrame, name: str, *, required: bool) -> NDArray[np.int64]:
    index = pd.Index(SYMBOLS[name]).get_indexer(table[name])
    if required:
        choices = textwrap.shorten(", ".join(SYMBOLS[name]), width=80)
        _refuse_first(path, table, name, index < 0, f"one of {len(SYMBOLS[name])} known values ({choices})")
    return np.asarray(index, dtype=np.int64)


def _refuse_first(path: Path, table: pd.DataFrame, name: str, wrong: NDArray[np.bool_], expected: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        found = str(table[name].iloc[row])
        raise DataError(f"{path}, line {row + 1}, column {name}: found {found!r}, expected {expected}; {_GOOD_COPY}")
