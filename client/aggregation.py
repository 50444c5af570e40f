"""How a client's update is made to add up: as plain ciphertexts, or masked (`client/masked_round.py`)."""

from typing import Any, Protocol

from shared.errors import RoundRefusedError
from shared.he_utils import Encrypted, Progress, PublicScheme, Vector

_UNLIKE = (
    "the server masks updates and this client doesn't; both sides need the same secure_aggregation, and masking needs "
    "enrolled_clients and client_identity"
)


class Aggregation(Protocol):
    """A client's part in it beside training and encrypting. Whatever is raised, the client is out of this round."""

    def enter(self, announcement: bytes, scheme: PublicScheme[Any], size: int) -> bytes:
        """Enter a masked round in which this client will encrypt (size,) values with `scheme`.

        Raises:
            OrchestratorError: the client refuses.
        """

    def answer(self, stage: str, payload: bytes) -> bytes:
        """One of the later stages, by the name that `orchestrator/masked_round.py` gives it.

        Raises:
            OrchestratorError: the client refuses.
        """

    def encrypt(
        self, scheme: PublicScheme[Any], vector: Vector, round_number: int, boxes: object, progress: Progress
    ) -> Encrypted[Any]:
        """The vector, (size,), as the ciphertexts to send.

        Args:
            scheme: what to encrypt with.
            vector: the delta, weighted.
            round_number: which round it answers.
            boxes: what the server sent along for masking; None where it sent nothing.
            progress: called with the number of ciphertexts just made.

        Raises:
            OrchestratorError: the client refuses.
        """


class PlainAggregation:
    """Nothing but ciphertexts: the holder of the private key could open each of them."""

    def enter(self, announcement: bytes, scheme: PublicScheme[Any], size: int) -> bytes:
        raise RoundRefusedError(_UNLIKE)

    def answer(self, stage: str, payload: bytes) -> bytes:
        raise RoundRefusedError(_UNLIKE)

    def encrypt(
        self, scheme: PublicScheme[Any], vector: Vector, round_number: int, boxes: object, progress: Progress
    ) -> Encrypted[Any]:
        return scheme.encrypt(vector, progress)
