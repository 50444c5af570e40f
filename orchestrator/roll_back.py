"""A sum that the orchestrator's validation rows speak against does not become the model."""

from orchestrator.global_model import GlobalModel
from shared.errors import RolledBackError
from shared.exchange import Model
from shared.learner import State


class RollBack:
    """Judges each round's step.

    Args:
        limit: `gate_loss`; 0: every step is accepted.
        model: the global model.
    """

    def __init__(self, limit: float, model: GlobalModel) -> None:
        self._limit, self._model = limit, model
        self._accepted_loss: float | None = None  # on the validation rows, of the model as it is

    def judge(self, before: Model, state: State) -> None:
        """Undo the round if its sum makes the model worse by more than the limit: somebody's vector is a bad one.

        Args:
            before: the parameters that it began with.
            state: of the learner, at that time.

        Raises:
            RolledBackError: it was undone.
        """
        if not self._limit:
            return
        model = self._model
        if self._accepted_loss is None:  # the first round since the server's start
            after = model.parameters, model.learner.state()
            model.roll_back(before, state)
            self._accepted_loss = model.validation_loss()
            model.roll_back(*after)
        loss = model.validation_loss()
        if loss <= self._accepted_loss + self._limit:
            self._accepted_loss = loss
            return
        model.roll_back(before, state)
        raise RolledBackError(
            f"rolled back: the loss on the validation rows rose from {self._accepted_loss:.3f} to {loss:.3f}, by more "
            f"than gate_loss, which is {self._limit:g}"
        )
