"""What the orchestrator makes of a noisy sum of gradients: one step of DP-SGD over the rows of all tenants."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from shared.config import Config
from shared.errors import EncodingError
from shared.he.scheme import Vector
from shared.learner import AveragedDeltas


class NoisySteps(AveragedDeltas):
    """Steps 11 and 12 of the flow, for `privacy: records`.

    The sum is divided by the rows that are expected in it, `dp_sampling_rate * dp_rows`, as the number that really was
    is nobody's to know.

    Args:
        config: the settings.
        model: what is moved.
    """

    def __init__(self, config: Config, model: nn.Module) -> None:
        super().__init__(config, model)
        self._step = config.learning_rate / (config.dp_sampling_rate * config.dp_rows)

    def step(self, total: Vector, contributors: Sequence[str]) -> None:
        """Move against the mean gradient.

        Raises:
            EncodingError: it leads to no float32 model.
        """
        change = -self._step * total
        if not (np.abs(change) < np.finfo(np.float32).max).all():
            raise EncodingError("the step leads beyond float32: lower learning_rate")
        self.move(change)
