"""What the server makes of the average delta: step 12 of the flow."""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class ServerOptimizer:
    """FedAvgM: `v <- momentum * v + average_delta`, then `w <- w + v`.

    From Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for federated visual classification",
    2019; the sign of v is that of a delta here, and of a gradient there.

    Momentum evens out rounds that pull in different directions because their clients differ. With momentum 0 this is
    FedAvg. Only the decrypted average enters, so nothing about the encryption changes.

    Attributes:
        velocity: v, (size,); None before the first step and while momentum is 0, since then no round depends on it.
    """

    def __init__(self, momentum: float) -> None:
        self._momentum = momentum
        self.velocity: Vector | None = None

    def step(self, global_vector: Vector, average_delta: Vector) -> Vector:
        """The new global parameters, (size,)."""
        if self._momentum == 0:
            new_vector: Vector = global_vector + average_delta
            return new_vector
        carried = 0.0 if self.velocity is None else self._momentum * self.velocity
        self.velocity = carried + average_delta
        return global_vector + self.velocity
