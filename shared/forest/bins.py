"""Where a tree may split: the bins of each column, the same for all tenants, and the columns that each tree looks at.

Bins come from the scaling, which all tenants share: a numeric column's scaled values are ranks on the public grid, and
whoever has the scaler has the bins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data_sources.scaling import SPREAD, Quantiles
from shared.data_sources.schema import Features, FeatureSchema
from shared.forest.plan import ForestPlan

_CATEGORY = np.array([0.5], dtype=np.float32)  # between 0 and 1
_NO_EDGE = np.finfo(np.float32).max  # beyond all values: fills up the rows of columns with fewer bins


def edges_of(scaler: Quantiles, bins: int) -> NDArray[np.float32]:
    """Scaled features from which a next bin begins, ascending, (features, bins - 1); `_NO_EDGE` where there are fewer.

    Half of the edges share out the rows evenly, half the values: a column that is nearly always 0 has its few other
    values far apart in meaning, and in very few rows.
    """
    schema = scaler.schema
    edges = np.full((len(schema), bins - 1), _NO_EDGE, dtype=np.float32)
    values = iter(scaler.values)
    for own, column in zip(edges, schema.columns, strict=True):
        if column.kind == "category":
            found = _CATEGORY
        elif column.kind == "cyclic":
            found = np.linspace(-1, 1, bins + 1, dtype=np.float32)[1:-1]
        else:
            found = _numeric_edges(next(values), bins)
        own[: len(found)] = found
    return edges


def _numeric_edges(values: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """Of a column whose scaled values are these, with repeats, ascending."""
    values = np.unique(values)
    between = values[1:]  # each value may begin a bin
    if len(between) < bins:
        return between
    by_rows = np.linspace(-SPREAD / 2, SPREAD / 2, bins // 2 + 1)[1:-1]
    chosen = set(np.searchsorted(between, by_rows).clip(max=len(between) - 1).tolist())
    free = [index for index in range(len(between)) if index not in chosen]
    places = np.linspace(0, len(free) - 1, bins - 1 - len(chosen)).round().astype(int)
    return between[sorted(chosen | {free[place] for place in places})]


@dataclass(frozen=True)
class Columns:
    """What each tree may split by, and where a column's bins are in a tree's part of a vector.

    The number of numeric columns is the same for all trees, and so the size of a sum.

    Attributes:
        drawn: by tree, int64, (trees, columns): first those that have `bins` bins, then those that have two.
        many: columns of a tree that have `bins` bins.
        bins: see above.
    """

    drawn: NDArray[np.int64]
    many: int
    bins: int

    @classmethod
    def of(cls, plan: ForestPlan, schema: FeatureSchema) -> "Columns":
        """Drawn by the seed, so that both sides know them."""
        category = np.array([column.kind == "category" for column in schema.columns])
        drawn = []
        for tree in range(plan.trees):
            draw = np.random.default_rng((plan.seed, tree))
            parts = [
                np.sort(draw.choice(of_kind, _share(len(of_kind), plan.columns), replace=False))
                for of_kind in (np.flatnonzero(~category), np.flatnonzero(category))
            ]
            drawn.append(np.concatenate(parts))
        return cls(np.array(drawn, dtype=np.int64), _share(int((~category).sum()), plan.columns), plan.bins)

    @property
    def slots(self) -> int:
        """Bins of all columns of a tree."""
        slots: int = self.many * self.bins + 2 * (self.drawn.shape[1] - self.many)
        return slots

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where the bins of a tree's columns begin, (columns,)."""
        widths = np.full(self.drawn.shape[1], 2)
        widths[: self.many] = self.bins
        return np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(np.int64)


def _share(columns: int, share: float) -> int:
    return min(columns, max(1, round(columns * share)))


Bins = NDArray[np.uint8]  # (features, rows): a column after the other, as they are counted


def binned(features: Features, edges: NDArray[np.float32]) -> Bins:
    """The bin of each scaled feature of (rows, features)."""
    bins = np.empty(features.T.shape, dtype=np.uint8)
    for own, column, result in zip(edges, features.T, bins, strict=True):
        result[:] = np.searchsorted(own, column, side="right")
    return bins
