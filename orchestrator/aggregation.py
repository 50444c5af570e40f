"""What surrounds a round's training on the server: nothing where updates are plain ciphertexts, more where masked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.common import Code, GetPropertiesIns, Scalar
from flwr.server.client_proxy import ClientProxy

from shared.errors import UpdateRejectedError
from shared.he_utils import Unmask
from shared.masking import EVALUATION, WEIGHTS
from shared.refusals import spelt_out

Properties = dict[str, Scalar]
Extras = dict[str, Properties]  # tenant id -> what its FitIns holds in addition


@dataclass(frozen=True)
class Opening:
    """A round that is about to begin.

    Attributes:
        round_number: counted from 1; of the feature statistics it counts the attempts.
        clients: the chosen ones' connections, by tenant id.
        ciphertexts: length of each update.
        encryption: what a client has to know to encrypt one, as `FitIns.config` holds it.
        note_failure: takes a tenant's id and why it is left out.
        task: what all of them work on, 32 bytes; see `shared/task.py`.
        bucket: which vector is added up: deltas, an evaluation's figures, or one of the features' statistics.
    """

    round_number: int
    clients: Mapping[str, ClientProxy]
    ciphertexts: int
    encryption: Mapping[str, Scalar]
    note_failure: Callable[[str, str], None]
    task: bytes
    bucket: str = WEIGHTS

    @property
    def title(self) -> str:
        """For the log."""
        if self.bucket == WEIGHTS:
            return f"round {self.round_number}"
        return f"round {self.round_number}, evaluation" if self.bucket == EVALUATION else f"feature {self.bucket}"


def ask(
    client: ClientProxy, request: Properties, timeout: float, setting: str, round_number: int
) -> tuple[bytes, Properties]:
    """Put one question to a client, outside the training.

    Args:
        client: its connection.
        request: what it is asked.
        timeout: seconds that the answer may take.
        setting: where they come from, for whoever has to change them.
        round_number: for Flower's bookkeeping.

    Returns:
        The payload of its answer, and all of the answer, of whatever types the network delivered.

    Raises:
        UpdateRejectedError: the client is lost, refuses, or answers without a payload.
    """
    try:
        answer = client.get_properties(GetPropertiesIns(request), timeout=timeout, group_id=round_number)
    except Exception:  # Flower's, or gRPC's: whatever it is, this client is gone and the others are served
        raise UpdateRejectedError(f"lost: disconnected, or no answer within {setting}") from None
    if answer.status.code != Code.OK:
        raise UpdateRejectedError(f"refused: {spelt_out(answer.status.message):.500}")
    payload = answer.properties.get("payload")
    if type(payload) is not bytes:
        raise UpdateRejectedError("its answer holds no message")
    return payload, answer.properties


class Aggregation(Protocol):
    """How the updates of a round are made to add up."""

    def begin(self, opening: Opening) -> Extras:
        """Before the training: whom to ask for an update, and what each of them needs for it.

        Raises:
            RoundAbandonedError: too few clients for a sum.
        """

    def finish(self, contributors: Sequence[str]) -> Unmask | None:
        """After it: how to unmask the decrypted sum of these tenants' updates; None where nothing is masked.

        Raises:
            RoundAbandonedError: too few clients for a sum.
        """


class PlainAggregation:
    """Each update is a list of ciphertexts that the private key opens; that it opens the sum alone is up to us."""

    def begin(self, opening: Opening) -> Extras:
        """All of them, and nothing."""
        return {tenant: {} for tenant in opening.clients}

    def finish(self, contributors: Sequence[str]) -> Unmask | None:
        """Nothing is masked."""
        return None
