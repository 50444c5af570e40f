"""What a density learns by: nothing beside the sum before round 1, which makes the whole of it."""

from collections.abc import Mapping, Sequence

import numpy as np

from shared.data_sources.scaling import AnyScaler
from shared.data_sources.schema import FeatureSchema
from shared.errors import EncodingError
from shared.he.scheme import Vector
from shared.learner import State, Wanted

_NONE = "a density is whole before round 1: it wants no sum, and none moves it"


class GivenDensity:
    """Wants no sum, and is finished after one round, in which the density is measured."""

    def __init__(self) -> None:
        self._measured = False

    @property
    def finished(self) -> bool:
        """Whether that round was."""
        return self._measured

    def sizes(self, schema: FeatureSchema) -> Mapping[str, int]:
        return {}

    def wanted(self) -> Wanted:
        raise EncodingError(_NONE)

    def step(self, total: Vector, contributors: Sequence[str]) -> None:
        raise EncodingError(_NONE)

    def skip(self) -> None:
        """End the one round."""
        self._measured = True

    def scale_by(self, scaler: AnyScaler, schema: FeatureSchema) -> None:
        """The density itself is filled with the sums."""

    def state(self) -> State:
        return {"measured": np.array([self._measured], dtype=np.int64)}

    def restore(self, state: State) -> None:
        self._measured = bool(state["measured"][0])
