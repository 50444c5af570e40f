"""What would make figures that mean nothing, said at the start: labels of one class, and a column that is the label.

A tenant without an attack is no mistake by itself, so most of this is a line in the log, in capitals. What can only be
a wrong setting is refused.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.data_sources.dataset import Dataset
from shared.data_sources.once import tell_once
from shared.data_sources.times import plausible, unit_of_most
from shared.errors import DataError

if TYPE_CHECKING:  # it loads pandas, which not every source needs
    import pandas as pd

    from shared.data_sources.schema import FeatureSchema

_log = logging.getLogger("data")
TELLING_AUC = 0.98  # of one column alone: attacks are not that easy, and a copy of the label is
FEWEST_OF_A_CLASS = 10  # with fewer of either class some column of many is as good by chance
_FEWEST_STEPS_OF_AN_INDEX = 19  # fewer may count up by chance
MOST_ROWS = 20_000  # that are looked at
_TIMES_SHARE = 0.95  # of a column's numbers: some are broken, and counters and addresses as numbers are rarely so alike
_PARTS = 16  # of equally many rows, by which a column tells the label whose attacks are in the middle of its values
_FEWEST_ROWS_OF_PARTS = 200  # with fewer the parts tell labels of noise, too
_MOST_VALUES = 1_000  # distinct ones that are counted of either class
_LONGEST_VALUE = 60  # characters of each that are kept
_NAMED = 8


class LabelTally:
    """The values that labels are made from, counted, and how many records are of either class."""

    def __init__(self) -> None:
        self._benign: Counter[str] = Counter()
        self._attacks: Counter[str] = Counter()
        self.attacks = 0
        self.records = 0

    def add(self, values: "pd.Series", attacks: NDArray[np.bool_]) -> None:
        """Some records: the value of each, and which of them are attacks, (rows,)."""
        self.records += len(values)
        self.attacks += int(np.count_nonzero(attacks))
        for counter, part in ((self._benign, values[~attacks]), (self._attacks, values[attacks])):
            for whole, count in part.value_counts().to_dict().items():
                value = str(whole)[:_LONGEST_VALUE]
                if value in counter or len(counter) < _MOST_VALUES:
                    counter[value] += count

    @property
    def there(self) -> str:
        """The most frequent values with their numbers, for a person."""
        return _counted(self._benign + self._attacks)

    def _tell_values(self, path: Path, origin: str) -> None:
        tell_once(
            f"{path}: by {origin} benign: {_counted(self._benign)}; attacks: {_counted(self._attacks)}", logging.INFO
        )

    def check_table(self, path: Path, column: str, benign: Sequence[str]) -> None:
        """For a column whose values mean benign or an attack.

        Raises:
            DataError: no row is benign, so the values that mean it are not those that are there.
        """
        if self.records and self.attacks == self.records:
            raise DataError(
                f"{path}: no row is benign: no label in column {column!r} is one of csv_benign_values = "
                f"{list(benign)}; those that are there: {self.there}; set csv_benign_values to those that mean benign"
            )
        if self.records and not self.attacks:
            _log.warning(
                "%s: NO ATTACK: all %d labels in column %r mean benign: %s; nothing can be learned from these rows",
                path, self.records, column, self.there,
            )  # fmt: skip
        elif self.records:
            self._tell_values(path, f"column {column!r}")

    def tell_log(self, path: Path, origin: str) -> None:
        """For log records, labelled by what `origin` says."""
        by_values = any(self._benign) or any(self._attacks)
        there = f"; the values that are there: {self.there}" if by_values else ""
        if self.records and not self.attacks:
            _log.warning("%s: NO ATTACK among %d records: none matches %s%s", path, self.records, origin, there)
        elif self.records and self.attacks == self.records:
            _log.warning("%s: NOTHING BENIGN: all %d records match %s%s", path, self.records, origin, there)
        elif self.records and by_values:
            self._tell_values(path, origin)


def _counted(values: Counter[str]) -> str:
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return ", ".join(f"{value!r} {count}" for value, count in values.most_common(_NAMED)) + more


class IndexSearch:
    """Which columns count the rows of the files, by one from row to row, and which say when a record was made: an index
    and a time, by which attacks are known that were recorded together, and none of tomorrow.

    Args:
        names: of all columns.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._indexes = set(names)
        self._times = set(self._indexes)
        self._timed: set[str] = set()  # that have a number at all
        self._steps = 0

    @property
    def candidates(self) -> set[str]:
        """The columns that `add` needs."""
        return self._indexes | self._times

    def add(self, values: Mapping[str, NDArray[np.float64]], lines: NDArray[np.int64]) -> None:
        """Good rows in the order of their file: the numbers in each column of `candidates`, (rows,), and their lines.

        An index goes on over a row that is refused, so it may leave out as many numbers as there are lines missing.
        """
        self._steps += max(len(lines) - 1, 0)
        most = np.maximum(np.diff(lines), 1)
        for name, column in values.items():
            steps = np.diff(column) if np.isfinite(column).all() else None
            if steps is None or ((steps < 1) | (steps > most) | (steps % 1 != 0)).any():
                self._indexes.discard(name)
            given = column[np.isfinite(column) & (column != 0)]
            if name in self._times and len(given):
                self._timed.add(name)
                if not _are_times(given):
                    self._times.discard(name)

    def tell(self, path: Path) -> None:
        """Name them."""
        if self._steps < _FEWEST_STEPS_OF_AN_INDEX:
            return
        if self._indexes:
            names = ", ".join(sorted(self._indexes))
            _log.warning("%s: AN INDEX IS A FEATURE: %s counts the rows; name it in csv_drop_columns", path, names)
        if times := self._times & self._timed:
            _log.warning(
                "%s: A TIME IS A FEATURE: %s reads like seconds since 1970, or parts of them; a model that knows when "
                "attacks were recorded finds those and no other; name it in csv_drop_columns",
                path, ", ".join(sorted(times)),
            )  # fmt: skip


def _are_times(numbers: NDArray[np.float64]) -> bool:
    """Whether nearly all numbers, (numbers,), are times from 1990 to now in one unit."""
    latest = time.time()
    unit = unit_of_most(numbers, latest)
    return unit is not None and bool(plausible(numbers, unit, latest).mean() > _TIMES_SHARE)


def tell_classes(whose: str, rows: Dataset) -> None:
    """Say so where rows are of one class alone: nothing is learned from them, or no figure of them means anything.

    Args:
        whose: the rows are, for a person.
        rows: labelled.
    """
    attacks = int(np.count_nonzero(rows.labels))
    if len(rows) and not attacks:
        _log.warning("%s: NO ATTACK among %d rows", whose, len(rows))
    elif len(rows) and attacks == len(rows):
        _log.warning("%s: NOTHING BENIGN among %d rows", whose, len(rows))


def tell_telling_columns(whose: str, schema: "FeatureSchema", rows: Dataset, advice: str) -> None:
    """Name each column that alone tells the label, which a column does that was made from it, or an index of rows that
    are sorted by it.

    Args:
        whose: the rows are, for a person.
        schema: of their raw features.
        rows: in any order that has nothing to do with the label: the first `MOST_ROWS` are looked at.
        advice: what to do about it.
    """
    features, attacks = rows.features[:MOST_ROWS], rows.labels[:MOST_ROWS] > 0
    if min(attacks.sum(), (~attacks).sum()) < FEWEST_OF_A_CLASS:
        return
    fields: dict[str, list[int]] = {}
    for index, column in enumerate(schema.columns):
        fields.setdefault(column.field if column.kind == "category" else column.name, []).append(index)
    found = []
    for name, columns in fields.items():
        values = features[:, columns]
        # Of a category, how often each of its values is an attack.
        score = values[:, 0] if len(columns) == 1 else _attack_share(values.argmax(axis=1), attacks)
        area = _roc_auc(score, attacks)
        area = max(area, 1 - area)
        if len(columns) == 1 and len(values) >= _FEWEST_ROWS_OF_PARTS:
            area = max(area, _roc_auc(_attack_share(_part(score), attacks), attacks))
        if area > TELLING_AUC:
            found.append(f"{name} ({area:.3f})")
    if found:
        _log.warning(
            "%s: EACH OF THESE COLUMNS ALONE TELLS THE LABEL, with a ROC-AUC above %g: %s; %s",
            whose, TELLING_AUC, ", ".join(found), advice,
        )  # fmt: skip


def tell_constant_columns(whose: str, rows: Dataset) -> None:
    """Say so where all rows are the same: there is nothing by which one is told from another.

    Args:
        whose: the rows are, for a person.
        rows: of raw features.
    """
    if len(rows) < 2:
        return
    parts = (
        rows.features[start : start + MOST_ROWS] for start in range(0, len(rows), MOST_ROWS)
    )  # mostly one is asked
    if all((part == rows.features[0]).all() for part in parts):
        _log.warning(
            "%s: NO FEATURE VARIES: all %d rows have the same values in all %d columns, so nothing can be learned from "
            "them; are the columns empty, or is everything else in csv_drop_columns?",
            whose, len(rows), rows.features.shape[1],
        )  # fmt: skip


def _part(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """In which of `_PARTS` parts of equally many rows each value is, (rows,); equal values are in one part."""
    bounds = np.quantile(values, np.linspace(0, 1, _PARTS + 1)[1:-1])
    return np.asarray(np.searchsorted(np.unique(bounds), values, side="right"))


def _attack_share(values: NDArray[np.int64], attacks: NDArray[np.bool_]) -> NDArray[np.float64]:
    share = np.bincount(values, weights=attacks) / np.maximum(np.bincount(values), 1)
    return np.asarray(share[values])


def _roc_auc(score: NDArray[np.floating], attacks: NDArray[np.bool_]) -> float:
    """The share of pairs of an attack and a benign row in which the attack's score is higher; equal ones count half."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # the mean rank of equal scores, from 1
    number = int(attacks.sum())
    return float((rank[attacks].sum() - number * (number + 1) / 2) / (number * (len(attacks) - number)))
