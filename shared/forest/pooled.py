"""A forest of rows that are all in one place: the reference that a federation's must equal, tree for tree."""

from shared.data_sources.dataset import Dataset
from shared.data_sources.scaling import Quantiles
from shared.forest.bins import Columns, binned, edges_of
from shared.forest.growing import Level, grow
from shared.forest.model import ThreatForest
from shared.forest.plan import ForestPlan
from shared.forest.sums import count


def grow_pooled(plan: ForestPlan, rows: Dataset, scaler: Quantiles) -> ThreatForest:
    """The whole forest.

    Args:
        plan: its settings.
        rows: scaled.
        scaler: that they are scaled by.

    Raises:
        EncodingError: there are no rows.
    """
    forest = ThreatForest(plan.trees, plan.depth)
    edges, columns = edges_of(scaler, plan.bins), Columns.of(plan, scaler.schema)
    bins = binned(rows.features, edges)
    above: Level | None = None
    while int(forest.grown) < plan.sums:
        turn = plan.turn(int(forest.grown))
        above = grow(forest, plan, edges, columns, count(forest, turn, rows, bins, columns), above)
    return forest
