"""Growing a forest by one level: splits and leaf values from the sums over all tenants' rows, and from nothing else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import EncodingError
from shared.forest.bins import Columns
from shared.forest.model import ThreatForest
from shared.forest.plan import ForestPlan
from shared.forest.sums import GRADIENT, GRADIENTS, HESSIAN, HESSIANS, ROWS, Counts, check, of_nodes

_LAMBDA = 1.0  # of the penalty on leaf values
_MOST_STEP = 8.0  # log odds that one batch may add to a record: e**8 is 3,000 to 1
_VALUE = 1 << 16  # a value is a multiple of 1 / this, so that sums of values are exact
_LEAST_GAIN = 1e-6  # less is rounding


@dataclass(frozen=True)
class Level:
    """What the next level of a batch is derived from, and checked by.

    Attributes:
        counts: of all nodes of this level, (trees, nodes, slots, 3).
        left: of all rows that go left at each, (trees, nodes, 3); 0 where a node is a leaf.
    """

    counts: Counts
    left: Counts


def grow(
    forest: ThreatForest,
    plan: ForestPlan,
    edges: NDArray[np.float32],
    columns: Columns,
    asked: Counts,
    above: Level | None,
) -> Level | None:
    """Split the nodes that come next, in place.

    A split is the one of the largest gain (XGBoost, section 2.2, eq. 7, with gamma 0) of those that leave
    `least_rows` and `least_hessian` on either side; of equal ones the first.

    Args:
        forest: so far.
        plan: its settings.
        edges: between the bins, as `edges_of` makes them.
        columns: of each tree.
        asked: the sums of this turn over all tenants, (trees of the batch, turn.asked, slots, 3).
        above: what the turn before returned; None at the roots.

    Returns:
        What the next turn takes; None where the batch is done.

    Raises:
        EncodingError: no rows have such sums; the forest is as it was.
    """
    turn = plan.turn(int(forest.grown))
    column, threshold, value, gain = (
        getattr(forest, name).numpy()[turn.trees] for name in ("column", "threshold", "value", "gain")
    )
    counts = asked if above is None else _with_siblings(asked, above, columns)
    check(counts, columns)
    if above is None and not counts.any():
        raise EncodingError("no client has any row in this sum: see their logs for what keeps them from it")
    left, by_column, by_edge = _left_sides(counts, columns)
    right = of_nodes(counts, columns)[:, :, None] - left  # (trees, nodes, splits, 3)
    gains = np.where(_allowed(left, plan) & _allowed(right, plan), _gain(left, right), 0.0)  # (trees, nodes, splits)
    best = gains.argmax(axis=2)
    first, below = (1 << turn.level) - 1, (1 << turn.level + 1) - 1
    step = plan.learning_rate / plan.parallel
    if turn.level == 0:
        value[:, 0] = _value(of_nodes(counts, columns)[:, 0], step)
    split = np.argwhere(gains.max(axis=2) > _LEAST_GAIN)
    goes_left = np.zeros_like(counts[:, :, 0])
    for tree, node in split:
        chosen = best[tree, node]
        by = columns.drawn[turn.trees.start + tree, by_column[chosen]]
        column[tree, first + node], threshold[tree, first + node] = by, edges[by, by_edge[chosen]]
        gain[tree, first + node] = gains[tree, node, chosen]
        goes_left[tree, node] = left[tree, node, chosen]
        for child, side in enumerate((left, right)):
            value[tree, below + 2 * node + child] = _value(side[tree, node, chosen], step)
    last = turn.level == plan.depth - 1 or not len(split)
    forest.grown.fill_(turn.after if last else int(forest.grown) + 1)
    return None if last else Level(counts, goes_left)


def _with_siblings(asked: Counts, above: Level, columns: Columns) -> Counts:
    """Of left children and their parents the counts of all children, (trees, 2 * parents, slots, 3).

    Raises:
        EncodingError: not of the rows that went left, by the sums of the level above: a tenant is in one of the two
            only, or counts other rows.
    """
    if (of_nodes(asked, columns) != above.left).any():
        raise EncodingError("the sums of a level are of other rows than those of the level above it")
    split = above.left[..., ROWS] > 0  # `least_rows` of them at least
    right = np.where(split[..., None, None], above.counts - asked, 0)
    return np.stack([asked, right], axis=2).reshape(len(asked), -1, *asked.shape[2:])


def _left_sides(counts: Counts, columns: Columns) -> tuple[Counts, NDArray[np.int64], NDArray[np.int64]]:
    """All splits: what goes left, (trees, nodes, splits, 3), and index of column and edge of each, (splits,)."""
    wide = columns.many * columns.bins
    many = counts[:, :, :wide].reshape(*counts.shape[:2], columns.many, columns.bins, 3)
    many = many.cumsum(axis=3)[:, :, :, :-1].reshape(*counts.shape[:2], -1, 3)
    two = counts[:, :, wide::2]
    edges = columns.bins - 1
    by_column = np.concatenate([np.repeat(np.arange(columns.many), edges), columns.many + np.arange(two.shape[2])])
    by_edge = np.concatenate([np.tile(np.arange(edges), columns.many), np.zeros(two.shape[2], dtype=np.int64)])
    return np.concatenate([many, two], axis=2), by_column, by_edge


def _allowed(side: Counts, plan: ForestPlan) -> NDArray[np.bool_]:
    return (side[..., ROWS] >= plan.least_rows) & (side[..., HESSIANS] >= plan.least_hessian * HESSIAN)


def _gain(left: Counts, right: Counts) -> NDArray[np.float64]:
    """By how much the loss is lowered, in nats over all rows."""
    return 0.5 * (_fit(left) + _fit(right) - _fit(left + right))


def _fit(side: Counts) -> NDArray[np.float64]:
    return np.square(side[..., GRADIENTS] / GRADIENT) / (side[..., HESSIANS] / HESSIAN + _LAMBDA)


def _value(side: Counts, step: float) -> NDArray[np.float32]:
    """Of a leaf: the share `step` of the Newton step."""
    newton = -(side[..., GRADIENTS] / GRADIENT) / (side[..., HESSIANS] / HESSIAN + _LAMBDA)
    return (np.rint(np.clip(newton, -_MOST_STEP, _MOST_STEP) * step * _VALUE) / _VALUE).astype(np.float32)
