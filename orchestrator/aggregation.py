"""What surrounds a round's training on the server: nothing where updates are plain ciphertexts, more where masked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.common import Scalar
from flwr.server.client_proxy import ClientProxy

from shared.he_utils import Unmask
from shared.masking import WEIGHTS

Extras = dict[str, dict[str, Scalar]]  # tenant id -> what its FitIns holds in addition


@dataclass(frozen=True)
class Opening:
    """A round that is about to begin.

    Attributes:
        round_number: counted from 1; of the feature statistics it counts the attempts.
        clients: the chosen ones' connections, by tenant id.
        ciphertexts: length of each update.
        encryption: what a client has to know to encrypt one, as `FitIns.config` holds it.
        note_failure: takes a tenant's id and why it is left out.
        bucket: which vector is added up: deltas, or one of the statistics in `shared/feature_statistics.py`.
    """

    round_number: int
    clients: Mapping[str, ClientProxy]
    ciphertexts: int
    encryption: Mapping[str, Scalar]
    note_failure: Callable[[str, str], None]
    bucket: str = WEIGHTS

    @property
    def title(self) -> str:
        """For the log."""
        return f"round {self.round_number}" if self.bucket == WEIGHTS else f"feature {self.bucket}"


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
