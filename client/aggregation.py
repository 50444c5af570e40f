"""How a client's update is made to add up: as plain ciphertexts, or masked (`client/masked_round.py`)."""

from collections.abc import Mapping
from typing import Any, Protocol

from shared.errors import RoundRefusedError
from shared.he_utils import Encrypted, Progress, PublicScheme, Vector
from shared.task import Task

_UNLIKE = (
    "the server masks updates and this client doesn't; both sides need the same secure_aggregation, and masking needs "
    "enrolled_clients and client_identity"
)


class Aggregation(Protocol):
    """A client's part in it beside training and encrypting. Whatever is raised, the client is out of this round."""

    def enter(self, announcement: bytes, scheme: PublicScheme[Any], sizes: Mapping[str, int]) -> bytes:
        """Enter a masked round in which this client will encrypt one of its vectors with `scheme`.

        Args:
            announcement: the round's terms; they name the vector.
            scheme: what it will encrypt with.
            sizes: values of each vector that it has, by name ("weights", "evaluation" and those of
                `shared/feature_statistics.py`).

        Raises:
            OrchestratorError: the client refuses.
        """

    def answer(self, stage: str, payload: bytes) -> bytes:
        """One of the later stages, by the name that `orchestrator/masked_round.py` gives it.

        Raises:
            OrchestratorError: the client refuses.
        """

    def encrypt(
        self,
        scheme: PublicScheme[Any],
        vector: Vector,
        round_number: int,
        boxes: object,
        progress: Progress,
        task: Task,
        work: bytes,
    ) -> Encrypted[Any]:
        """The vector, (size,), as the ciphertexts to send.

        Args:
            scheme: what to encrypt with.
            vector: the delta, weighted; or statistics, or the sums of an evaluation.
            round_number: which round it answers.
            boxes: what the server sent along for masking; None where it sent nothing.
            progress: called with the number of ciphertexts just made.
            task: what this client was really given and asked to do.
            work: what it computed from which rows; see `Task.work`.

        Raises:
            OrchestratorError: the client refuses.
        """


class PlainAggregation:
    """Nothing but ciphertexts: the holder of the private key could open each of them."""

    def enter(self, announcement: bytes, scheme: PublicScheme[Any], sizes: Mapping[str, int]) -> bytes:
        raise RoundRefusedError(_UNLIKE)

    def answer(self, stage: str, payload: bytes) -> bytes:
        raise RoundRefusedError(_UNLIKE)

    def encrypt(
        self,
        scheme: PublicScheme[Any],
        vector: Vector,
        round_number: int,
        boxes: object,
        progress: Progress,
        task: Task,
        work: bytes,
    ) -> Encrypted[Any]:
        return scheme.encrypt(vector, progress)
