"""What a forest makes of the sums: one level of a batch of trees from each sum.

A batch's sums are over the same tenants, from its roots to its leaves. Otherwise the sum of a node less those of its
children would be the rows of whoever came or went, and a right child would not be its parent less its sibling. So where
a level comes to no sum, the batch ends there: its nodes are leaves, and the next batch begins with all who are there.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from shared.config import Config
from shared.data_sources.scaling import AnyScaler, Quantiles
from shared.data_sources.schema import FeatureSchema
from shared.errors import ConfigError
from shared.forest.bins import Columns, edges_of
from shared.forest.growing import Level, grow
from shared.forest.model import ThreatForest
from shared.forest.plan import ForestPlan
from shared.forest.sums import LevelCode
from shared.he.scheme import Vector
from shared.learner import State, Wanted


class GrownForest:
    """Grows a forest, sum by sum.

    Args:
        config: the settings.
        model: the forest.
    """

    def __init__(self, config: Config, model: ThreatForest) -> None:
        self._forest = model
        self._plan, self._code = ForestPlan.of(config), LevelCode(config)
        self._columns: Columns
        self._scaler: Quantiles
        self._above: Level | None = None
        self._whom: list[str] = []  # of the batch that is being grown

    @property
    def finished(self) -> bool:
        """Whether all trees are grown."""
        return int(self._forest.grown) >= self._plan.sums

    def sizes(self, schema: FeatureSchema) -> Mapping[str, int]:
        columns = Columns.of(self._plan, schema)
        return {turn.bucket: self._code.size(turn, columns) for turn in self._plan.levels()}

    def scale_by(self, scaler: AnyScaler, schema: FeatureSchema) -> None:
        """Take the bins from the scaling.

        Raises:
            ConfigError: it has none.
        """
        if not isinstance(scaler, Quantiles):
            raise ConfigError("scaling = 'zscore': model forest takes its bins from quantile scaling")
        self._scaler, self._columns = scaler, Columns.of(self._plan, schema)

    def wanted(self) -> Wanted:
        turn = self._plan.turn(int(self._forest.grown))
        whom = frozenset(self._whom) if turn.level else None
        return Wanted(turn.bucket, self._code.size(turn, self._columns), whom)

    def step(self, total: Vector, contributors: Sequence[str]) -> None:
        turn = self._plan.turn(int(self._forest.grown))
        asked = self._code.decode(total, turn, self._columns)
        edges = edges_of(self._scaler, self._plan.bins)
        self._above = grow(self._forest, self._plan, edges, self._columns, asked, self._above)
        self._whom = list(contributors) if self._above else []

    def skip(self) -> None:
        """End the batch where it is; one that has not begun waits."""
        turn = self._plan.turn(int(self._forest.grown))
        if turn.level:
            self._forest.grown.fill_(turn.after)
            self._above, self._whom = None, []

    def state(self) -> State:
        if self._above is None:
            return {}
        whom = np.frombuffer(json.dumps(self._whom).encode(), dtype=np.uint8)
        return {"counts": self._above.counts, "left": self._above.left, "whom": whom}

    def restore(self, state: State) -> None:
        self._above, self._whom = None, []
        if state:
            self._above = Level(state["counts"].astype(np.int64), state["left"].astype(np.int64))
            self._whom = [str(tenant) for tenant in json.loads(state["whom"].astype(np.uint8).tobytes())]
        if bool(self._above) != bool(self._plan.turn(int(self._forest.grown)).level):
            raise ValueError("the level above the trees' next nodes is missing, or of no use")
