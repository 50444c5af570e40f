"""What the global model learns by: which sum over the tenants it asks for next, and what it makes of it.

`AveragedDeltas` is federated averaging, steps 11 and 12 of the flow; `shared/forest/learner.py` grows trees. The
orchestrator moves its model so, and each tenant that audits repeats it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shared.config import Config
from shared.data_sources.scaling import AnyScaler
from shared.data_sources.schema import FeatureSchema
from shared.errors import EncodingError
from shared.he.scheme import Vector
from shared.identity import digest_arrays
from shared.masking import WEIGHTS
from shared.model import flatten, get_parameters, set_parameters, unflatten
from shared.server_optimizer import ServerOptimizer
from shared.weighting import Limits, average, encrypted_size

State = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Wanted:
    """The sum that the next round is about.

    Attributes:
        bucket: which vector it is.
        size: values of it.
        whom: the tenants that it has to be over, all of them and no others; None: whoever is there.
    """

    bucket: str
    size: int
    whom: frozenset[str] | None = None


class Learner(Protocol):
    """Moves a model by sums. What it needs beside the model's tensors to go on after a restart is its state."""

    def sizes(self, schema: FeatureSchema) -> Mapping[str, int]:
        """Values of each vector that it may ask for, by bucket."""

    def wanted(self) -> Wanted:
        """The next sum."""

    def step(self, total: Vector, contributors: Sequence[str]) -> None:
        """Move the model.

        Args:
            total: the sum, (size,).
            contributors: whose vectors are in it.

        Raises:
            EncodingError: no honest tenants have such a sum; the model is as it was.
        """

    def skip(self) -> None:
        """The round that `wanted` was for came to no sum."""

    def scale_by(self, scaler: AnyScaler, schema: FeatureSchema) -> None:
        """How all rows are scaled, before the first sum is wanted.

        Raises:
            ConfigError: it is no scaling to learn from.
        """

    @property
    def finished(self) -> bool:
        """Whether no sum would move the model any more."""

    def state(self) -> State:
        """For the checkpoint: finite arrays by names."""

    def restore(self, state: State) -> None:
        """The inverse of `state`, on a model whose tensors are restored.

        Raises:
            KeyError, ValueError: it is no such state.
        """


class AveragedDeltas:
    """Federated averaging: the model moves by the tenants' mean delta.

    Args:
        config: the settings.
        model: what is moved.
    """

    finished = False  # deltas always move a model

    def __init__(self, config: Config, model: nn.Module) -> None:
        self._config, self._model = config, model
        self._optimizer = ServerOptimizer(config.server_momentum)

    def sizes(self, schema: FeatureSchema) -> Mapping[str, int]:
        wanted = self.wanted()
        return {wanted.bucket: wanted.size}

    def wanted(self) -> Wanted:
        return Wanted(WEIGHTS, encrypted_size(flatten(get_parameters(self._model)).size, self._config.weighting))

    def step(self, total: Vector, contributors: Sequence[str]) -> None:
        """Steps 11 to 12: divide, and move by the average delta.

        Raises:
            EncodingError: it leads to no float32 model; or, where updates are masked, it is nothing.
        """
        self.move(self.mean(total, len(contributors)))

    def mean(self, total: Vector, contributors: int) -> Vector:
        """The average delta of so many tenants, from their sum.

        Raises:
            EncodingError: it leads to no float32 model; or, where updates are masked, it is nothing.
        """
        c = self._config
        average_delta = average(total, contributors, c.weighting, Limits.of(c))
        if not (np.abs(average_delta) < np.finfo(np.float32).max).all():  # NaN compares False, too
            raise EncodingError("the average delta is beyond float32: a client's training diverged, or it lies")
        if c.masked and not average_delta.any():  # where failures look like answers
            raise EncodingError("no client has moved the model at all: see their logs for what keeps them from it")
        return average_delta

    def move(self, change: Vector) -> None:
        """One step of the server's optimiser."""
        before = get_parameters(self._model)
        set_parameters(self._model, unflatten(self._optimizer.step(flatten(before), change), like=before))

    def skip(self) -> None:
        """The next round asks again."""

    def scale_by(self, scaler: AnyScaler, schema: FeatureSchema) -> None:
        """Deltas know no features."""

    def state(self) -> State:
        velocity = self._optimizer.velocity
        return {} if velocity is None else {"velocity": velocity}

    def restore(self, state: State) -> None:
        velocity = state.get("velocity")
        self._optimizer.velocity = None if velocity is None else velocity.astype(np.float64)


def digest_state(state: State) -> str:
    """SHA-256 of a state in hex, its names included."""
    names = sorted(state)
    text = np.frombuffer("\0".join(names).encode(), dtype=np.uint8)
    return digest_arrays([text, *(state[name] for name in names)])
