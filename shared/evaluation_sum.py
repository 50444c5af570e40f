"""What the clients' own held-out rows say of the global model, as a vector that encryption can add.

Three numbers of each client: the sum of its rows' losses, how many rows the model got right, and how many there are.
The orchestrator learns their sums over all clients that took part, and so one mean loss and one accuracy.
"""

from dataclasses import dataclass

import numpy as np

from shared.config import Config
from shared.errors import EncodingError
from shared.he.scheme import Vector
from shared.limbs import LimbCode, from_fixed, to_fixed

_BITS = 96  # a loss is below 2**6, so there is room for 2**50 rows with 40 fractional bits
_MAX_LOSS = 64.0  # -log of the least probability that float32 knows is 104; beyond this a row counts as this


@dataclass(frozen=True)
class EvaluationSums:
    """Of one client, or of all together.

    Attributes:
        loss: sum of the rows' losses.
        correct: rows whose class the model names.
        rows: all of them.
    """

    loss: float
    correct: int
    rows: int


class EvaluationCode:
    """How these sums travel."""

    def __init__(self, config: Config) -> None:
        self._code = LimbCode(config)

    @property
    def size(self) -> int:
        """Values of the vector."""
        return 3 * self._code.limbs(_BITS)

    def encode(self, sums: EvaluationSums) -> Vector:
        """One client's sums, (size,).

        Raises:
            EncodingError: the loss is no number.
        """
        if not np.isfinite(sums.loss):
            raise EncodingError("the loss on the held-out rows is no number: the global model diverged")
        loss = min(sums.loss, _MAX_LOSS * sums.rows)
        return self._code.encode([to_fixed(loss), sums.correct, sums.rows], _BITS)

    def decode(self, total: Vector) -> EvaluationSums:
        """The sums over all clients, from the sum of their vectors.

        Raises:
            EncodingError: no rows can have such figures, or there are none.
        """
        loss, correct, rows = self._code.decode(total, _BITS)
        if not (0 < rows < 1 << 63 and 0 <= correct <= rows and 0 <= from_fixed(loss) <= _MAX_LOSS * rows):
            raise EncodingError("the sums of the evaluation are none that rows can have; a client's can't be right")
        return EvaluationSums(from_fixed(loss), correct, rows)
