"""Check the clients' encrypted updates, add them, decrypt the sum: steps 9 to 11 of the flow. Knows nothing of Flower.

The private key is used in one place, `RoundSum.decrypt_average`, on the sum of at least `min_contributors` updates.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.admission import Admission, SignedStatement
from shared.config import MIN_CONTRIBUTORS
from shared.errors import ContributorLimitError, DuplicateUpdateError, TooFewContributorsError
from shared.he_utils import PrivateScheme, Unmask
from shared.masking import WEIGHTS
from shared.weighting import Limits, average, encrypted_size
from shared.wire import Header, check_length, load_update, tensor_length, unwrap_tensor, vector_encoding


@dataclass(frozen=True)
class Aggregate:
    """What a round yields.

    Attributes:
        average_delta: mean of the contributors' deltas, (size,).
        contributors: ids of the clients whose updates are in it.
        aggregate_seconds: time spent on checking and adding ciphertexts.
        decrypt_seconds: time spent on decrypting the one sum.
    """

    average_delta: NDArray[np.float64]
    contributors: tuple[str, ...]
    aggregate_seconds: float
    decrypt_seconds: float


class Aggregator:
    """Holds the private key for a run and opens one `RoundSum` a round.

    Args:
        keys: the private scheme.
        min_contributors: below this nothing is decrypted; 2 at least, since a sum of one update is that update.
        max_contributors: the most updates that one sum may hold.
        weighting: `uniform` or `examples`, see `shared/weighting.py`.
        admission: whose updates count; None where anyone may take part.
        limits: beyond which no honest average lies; None where the scheme has none.
    """

    def __init__(
        self,
        keys: PrivateScheme[Any],
        min_contributors: int,
        max_contributors: int,
        weighting: str = "uniform",
        admission: Admission | None = None,
        limits: Limits | None = None,
    ) -> None:
        if min_contributors < MIN_CONTRIBUTORS:
            raise TooFewContributorsError(
                f"min_contributors = {min_contributors}: a sum of one update is that update; use at least 2"
            )
        self._keys = keys
        self.public = keys.public
        self.min_contributors = min_contributors
        self.max_contributors = max_contributors
        self.weighting = weighting
        self.admission = admission
        self.limits = limits

    def key_proof(self) -> bytes:
        """The proof that the public key is sound, made once."""
        return self._keys.key_proof()

    def open_round(self, round_number: int, size: int, task_sha256: str = "", bucket: str = WEIGHTS) -> "RoundSum":
        """Begin the encrypted sum of one round's vectors.

        Args:
            round_number: from 1; of the feature statistics it counts the attempts.
            size: values of a delta, or of the other vector.
            task_sha256: digest of the task that all contributors work on (`shared/task.py`), in hex.
            bucket: what is added up: deltas, figures of an evaluation, or one of the features' statistics.
        """
        return RoundSum(self._keys, self, round_number, size, task_sha256, bucket)

    def update_bytes(self, size: int, bucket: str = WEIGHTS) -> int:
        """The length of one honest update, as it travels inside Flower's message."""
        round_sum = self.open_round(1, size, bucket=bucket)
        return tensor_length(round_sum.header, round_sum.layout)


class RoundSum:
    """The running encrypted sum of one round: memory for one vector of ciphertexts, however many clients add to it."""

    def __init__(
        self, keys: PrivateScheme[Any], limits: Aggregator, round_number: int, size: int, task_sha256: str, bucket: str
    ) -> None:
        self._keys = keys
        self._limits = limits
        # Statistics are sums: a client's weight is in them already.
        self._weighting = limits.weighting if bucket == WEIGHTS else "uniform"
        self._bounded = bucket == WEIGHTS
        self._size = encrypted_size(size, self._weighting)
        self._sum: list[Any] | None = None
        self._seconds = 0.0
        self.contributors: list[str] = []
        self.header = Header(
            scheme=keys.public.name,
            round=round_number,
            key=keys.public.fingerprint(),
            size=self._size,
            encoding=vector_encoding(keys.public, bucket),
        )
        self.layout = keys.public.layout(self._size)
        self._admission = (
            limits.admission.open_round(round_number, self.header.key, task_sha256) if limits.admission else None
        )

    def nonce_for(self, client_id: str) -> bytes:
        """What this client has to sign in this round; empty where updates are not signed."""
        return self._admission.nonce_for(client_id) if self._admission else b""

    def add(self, client_id: str, tensor: bytes, signed: SignedStatement | None = None) -> None:
        """Check one client's update, as the serialised uint8 array that Flower carried, and add it to the sum.

        Its length comes first and its signature second, so that nothing is parsed that no enrolled client stands for.
        Whatever is refused leaves the sum as it was.

        Raises:
            UpdateRejectedError: one of its subclasses says why.
        """
        self._add(client_id, lambda: unwrap_tensor(tensor, self.header, self.layout), signed)

    def add_payload(self, client_id: str, payload: bytes, signed: SignedStatement | None = None) -> None:
        """The same for an update that comes without an array around it.

        Raises:
            UpdateRejectedError: as in `add`.
        """
        self._add(client_id, lambda: payload, signed)

    def _add(self, client_id: str, unwrap: Callable[[], bytes], signed: SignedStatement | None) -> None:
        start = time.perf_counter()
        try:
            if client_id in self.contributors:
                raise DuplicateUpdateError(f"client {client_id} has sent an update in this round already")
            if len(self.contributors) == self._limits.max_contributors:
                raise ContributorLimitError(f"the sum has its {len(self.contributors)} contributors already")
            payload = unwrap()
            check_length(payload, self.header, self.layout)
            if self._admission is not None:
                self._admission.check(client_id, payload, signed or SignedStatement(None, None))
            blobs = load_update(payload, self.header, self.layout)
            ciphertexts = self._keys.public.from_bytes(blobs)
            self._sum = ciphertexts if self._sum is None else self._keys.public.add(self._sum, ciphertexts)
            self.contributors.append(client_id)
        finally:
            self._seconds += time.perf_counter() - start

    def decrypt_average(self, unmask: Unmask | None = None) -> Aggregate:
        """Decrypt the sum, and divide by the number of contributors, or by the sum of their weights.

        Args:
            unmask: takes the masks off the decrypted sum; None where the updates are not masked.

        Raises:
            TooFewContributorsError: fewer than `min_contributors`; nothing was decrypted.
            EncodingError: the sum is beyond what honest updates add up to.
            RoundAbandonedError: the masks can't be taken off.
        """
        count = len(self.contributors)
        if self._sum is None or count < self._limits.min_contributors:
            raise TooFewContributorsError(
                f"{count} valid updates; at least {self._limits.min_contributors} are needed before a sum is decrypted"
            )
        start = time.perf_counter()
        if unmask is None:
            total = self._keys.decrypt_sum(self._sum, self._size, count)
        else:
            total = self._keys.decrypt_masked_sum(self._sum, self._size, count, unmask)
        return Aggregate(
            average_delta=average(total, count, self._weighting, self._limits.limits if self._bounded else None),
            contributors=tuple(self.contributors),
            aggregate_seconds=self._seconds,
            decrypt_seconds=time.perf_counter() - start,
        )
