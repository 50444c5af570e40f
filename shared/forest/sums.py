"""What is added up for a level of trees: rows, gradients and hessians by node, column and bin, in whole numbers.

A row with the log odds m has p = 1 / (1 + exp(-m)), the gradient p - y and the hessian p (1 - p) of its log loss
(Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 2001; second order as in
Chen and Guestrin, "XGBoost", KDD 2016, section 2.2). Each is rounded to a multiple of 1 / `GRADIENT` or 1 / `HESSIAN`,
so that sums are exact, and the same in whatever order and over whatever tenants they are made.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_sources.schema import Features
from shared.errors import DataError, EncodingError
from shared.forest.bins import Bins, Columns
from shared.forest.model import ThreatForest
from shared.forest.plan import Turn
from shared.he.scheme import Vector
from shared.limbs import LimbCode

Counts = NDArray[np.int64]  # (trees, nodes, slots, 3): of each bin the rows, the gradients and the hessians
ROWS, GRADIENTS, HESSIANS = range(3)
GRADIENT, HESSIAN = 1 << 12, 1 << 14  # a gradient is at most 1, a hessian at most 1/4: 12 bits and a sign, and 12
_BITS = 32  # two limbs
MOST_ROWS = (1 << _BITS) // GRADIENT - 1  # of a tenant


def gradients(log_odds: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of rows with these log odds, (rows,), what each adds to its bins, whole numbers, (3, rows)."""
    attack = 1.0 / (1.0 + np.exp(-log_odds))
    rounded = np.rint([(attack - (labels != 0)) * GRADIENT, attack * (1.0 - attack) * HESSIAN])
    return np.concatenate([np.ones((1, len(labels))), rounded])


def count(forest: ThreatForest, turn: Turn, rows: Dataset, bins: Bins, columns: Columns) -> Counts:
    """What these rows add to a sum, (trees of the batch, turn.asked, slots, 3).

    Args:
        forest: so far.
        turn: which sum comes next.
        rows: scaled.
        bins: of the rows, as `binned` makes them.
        columns: of each tree.
    """
    added = gradients(log_odds_before(forest, turn, rows.features), rows.labels)
    with torch.no_grad():
        reached = forest.nodes(torch.from_numpy(rows.features), turn.level, turn.trees).numpy()  # (rows, trees)
    first = (1 << turn.level) - 1
    result = np.empty((reached.shape[1], turn.asked, columns.slots, 3), dtype=np.int64)
    for tree, node in enumerate(reached.T):
        # Of each pair of siblings the left one, which a root is, too. Whatever is above is in a leaf.
        inside = np.flatnonzero((node >= first) & ((node - first) % 2 == 0))
        asked, weights = (node[inside] - first) // 2, added[:, inside]
        ends = [*columns.starts[1:].tolist(), columns.slots]
        for column, start, end in zip(columns.drawn[turn.trees.start + tree], columns.starts, ends, strict=True):
            slots = asked * (end - start) + bins[column, inside]  # (inside,)
            for what, values in enumerate(weights):
                sums = np.bincount(slots, values, minlength=turn.asked * (end - start))
                result[tree, :, start:end, what] = sums.reshape(turn.asked, end - start)  # whole numbers, exact
    return result


def log_odds_before(forest: ThreatForest, turn: Turn, features: Features) -> NDArray[np.float64]:
    """The log odds of the batches before this one, (rows,): what the gradients of this one are taken at.

    Values are multiples of 2**-16, and their sum in float64 is exact, in whatever order it is made.
    """
    before = slice(0, turn.trees.start)
    with torch.no_grad():
        values = forest.values_at(forest.nodes(torch.from_numpy(features), forest.depth, before), before)
        return values.double().sum(dim=1).numpy()


class LevelCode:
    """How the sums of a level travel.

    Args:
        config: its fixed point says how much one value of a vector holds.
    """

    def __init__(self, config: Config) -> None:
        self._code = LimbCode(config)

    def size(self, turn: Turn, columns: Columns) -> int:
        """Values of the vector."""
        trees = turn.trees.stop - turn.trees.start
        return int(trees * turn.asked * columns.slots * 3 * self._code.limbs(_BITS))

    def encode(self, counts: Counts) -> Vector:
        """One tenant's counts, (size,).

        Raises:
            DataError: the tenant has too many rows.
        """
        if counts[..., ROWS].max(initial=0) > MOST_ROWS:
            raise DataError(f"model forest adds up at most {MOST_ROWS:,} rows of a client")
        return self._code.encode(counts.ravel().tolist(), _BITS)

    def decode(self, total: Vector, turn: Turn, columns: Columns) -> Counts:
        """The counts over all tenants, from the sum of their vectors.

        Raises:
            EncodingError: no rows can have such counts.
        """
        numbers = np.array(self._code.decode(total, _BITS), dtype=np.int64)
        counts = numbers.reshape(-1, turn.asked, columns.slots, 3)
        check(counts, columns)
        return counts


def of_nodes(counts: Counts, columns: Columns) -> Counts:
    """All rows of each node, (trees, nodes, 3): any column has them all."""
    return np.asarray(counts[:, :, : columns.starts[1] if len(columns.starts) > 1 else None].sum(axis=2))


def check(counts: Counts, columns: Columns) -> None:
    """Refuse counts that no rows have.

    Raises:
        EncodingError: a number is out of its range, or two columns of a node are of different rows.
    """
    rows, gradient, hessian = np.moveaxis(counts, -1, 0)
    totals = np.add.reduceat(counts, columns.starts, axis=2)  # (trees, nodes, columns, 3)
    if (
        (rows < 0).any()
        or (np.abs(gradient) > rows * GRADIENT).any()
        or ((hessian < 0) | (4 * hessian > rows * HESSIAN)).any()
        or (totals != totals[:, :, :1]).any()
    ):
        raise EncodingError("the sums of a level are none that rows can have; at least one client's can't be right")
