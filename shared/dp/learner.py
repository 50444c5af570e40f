"""What the orchestrator makes of a noisy sum of gradients: one step of DP-SGD over the rows of all tenants."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from shared.config import Config
from shared.data_sources.scaling import AnyScaler
from shared.data_sources.schema import FeatureSchema
from shared.errors import EncodingError
from shared.he.scheme import Vector
from shared.learner import State, Wanted
from shared.masking import WEIGHTS
from shared.model import flatten, get_parameters, set_parameters, unflatten
from shared.server_optimizer import ServerOptimizer


class NoisySteps:
    """Steps 11 and 12 of the flow, for `privacy: records`.

    The sum is divided by the rows that are expected in it, `dp_sampling_rate * dp_rows`, as the number that really was
    is nobody's to know.

    Args:
        config: the settings.
        model: what is moved.
    """

    finished = False

    def __init__(self, config: Config, model: nn.Module) -> None:
        self._model = model
        self._step = config.learning_rate / (config.dp_sampling_rate * config.dp_rows)
        self._optimizer = ServerOptimizer(config.server_momentum)

    def sizes(self, schema: FeatureSchema) -> Mapping[str, int]:
        wanted = self.wanted()
        return {wanted.bucket: wanted.size}

    def wanted(self) -> Wanted:
        return Wanted(WEIGHTS, flatten(get_parameters(self._model)).size)

    def step(self, total: Vector, contributors: Sequence[str]) -> None:
        before = get_parameters(self._model)
        after = self._optimizer.step(flatten(before), -self._step * total)
        if not (np.abs(after) < np.finfo(np.float32).max).all():
            raise EncodingError("the step leads beyond float32: lower learning_rate")
        set_parameters(self._model, unflatten(after, like=before))

    def skip(self) -> None:
        """The next round asks again, for other rows."""

    def scale_by(self, scaler: AnyScaler, schema: FeatureSchema) -> None:
        """Gradients know no features."""

    def state(self) -> State:
        velocity = self._optimizer.velocity
        return {} if velocity is None else {"velocity": velocity}

    def restore(self, state: State) -> None:
        velocity = state.get("velocity")
        self._optimizer.velocity = None if velocity is None else velocity.astype(np.float64)
