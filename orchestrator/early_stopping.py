"""When more rounds no longer help, and which round's model was the best."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.run_folder import RoundRecord

Model = dict[str, NDArray[np.float32]]


class EarlyStopping:
    """Early stopping with patience on the validation loss (Prechelt, "Early Stopping - But When?", 1998).

    The loss and not an area under a curve, because the loss is defined for any validation set and still tells models
    apart that rank all rows rightly.

    Attributes:
        best_round: the round with the lowest validation loss so far; 0 while there is none.
        best_parameters: the model of that round; None while there is none, and always where early stopping is off.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best_loss = float("inf")
        self._rounds_since_best = 0
        self.best_round = 0
        self.best_parameters: Model | None = None

    def note(self, server_round: int, loss: float, parameters: Model) -> None:
        """Take account of one round's model."""
        if self._patience == 0:
            return
        if loss < self._best_loss:
            self.best_parameters = parameters
        self._count(server_round, loss)

    def restore(self, records: Sequence[RoundRecord], best_parameters: Model | None) -> None:
        """Come to the state after these rounds; the losses are in their records."""
        if self._patience == 0:
            return
        for record in records:
            if record.skipped is None and record.validation_loss is not None:
                self._count(record.round, record.validation_loss)
        self.best_parameters = best_parameters

    def final(self, last: Model) -> Model:
        """The model to keep if the run ended now."""
        return last if self.best_parameters is None else self.best_parameters

    @property
    def exhausted(self) -> bool:
        """Whether `patience` rounds in a row brought no better model."""
        return 0 < self._patience <= self._rounds_since_best

    def _count(self, server_round: int, loss: float) -> None:
        if loss < self._best_loss:
            self._best_loss, self.best_round, self._rounds_since_best = loss, server_round, 0
        else:
            self._rounds_since_best += 1
