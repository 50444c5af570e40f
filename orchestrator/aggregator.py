"""Check the tenants' encrypted vectors, add them, decrypt the sum: steps 9 and 10 of the flow.

The private key is used in one place, `RoundSum.decrypt_sum`, on the sum of at least `min_contributors` vectors.
"""

import time
from typing import Any

from orchestrator.admission import Admission
from shared.config import MIN_CONTRIBUTORS
from shared.errors import Flaw, TooFewContributorsError, UpdateRejectedError
from shared.he.scheme import PrivateScheme, Unmask, Vector
from shared.masking import WEIGHTS
from shared.wire import Header, check_length, load_update, tensor_length, vector_encoding


class Aggregator:
    """Holds the private key for a run and opens one `RoundSum` for each sum.

    Args:
        keys: the private scheme.
        min_contributors: below this nothing is decrypted; 2 at least, since a sum of one update is that update.
        max_contributors: the most vectors that one sum may hold.
        admission: whose vectors count; None where anyone may take part.
    """

    def __init__(
        self,
        keys: PrivateScheme[Any],
        min_contributors: int,
        max_contributors: int,
        admission: Admission | None = None,
    ) -> None:
        if min_contributors < MIN_CONTRIBUTORS:
            raise TooFewContributorsError(
                f"min_contributors = {min_contributors}: a sum of one update is that update; use at least 2"
            )
        self._keys = keys
        self.public = keys.public
        self.min_contributors = min_contributors
        self.max_contributors = max_contributors
        self.admission = admission

    def key_proof(self) -> bytes:
        """The proof that the public key is sound, made once."""
        return self._keys.key_proof()

    def open_round(self, round_number: int, size: int, task_sha256: str = "", bucket: str = WEIGHTS) -> "RoundSum":
        """Begin the encrypted sum of one round's vectors.

        Args:
            round_number: from 1; of the feature statistics it counts the attempts.
            size: values of each vector.
            task_sha256: digest of the task that all contributors work on (`shared/task.py`), in hex.
            bucket: what is added up: deltas, figures of an evaluation, or one of the features' statistics.
        """
        return RoundSum(self._keys, self, round_number, size, task_sha256, bucket)

    def update_bytes(self, size: int, bucket: str = WEIGHTS) -> int:
        """The length of one honest vector, as it travels inside Flower's message."""
        round_sum = self.open_round(1, size, bucket=bucket)
        return tensor_length(round_sum.header, round_sum.layout)


class RoundSum:
    """The running encrypted sum: memory for one vector of ciphertexts, however many tenants add to it.

    Attributes:
        contributors: whose vectors are in it, ascending.
        seconds: spent on checking and adding so far.
        header: what each vector has to say of itself.
        layout: how a vector travels.
    """

    def __init__(
        self, keys: PrivateScheme[Any], limits: Aggregator, round_number: int, size: int, task_sha256: str, bucket: str
    ) -> None:
        self._keys = keys
        self._limits = limits
        self._size = size
        self._sum: Any = None
        self._contributors: set[str] = set()
        self._context = bytes.fromhex(task_sha256)
        self.seconds = 0.0
        self.header = Header(
            scheme=keys.public.name,
            round=round_number,
            key=keys.public.fingerprint(),
            size=size,
            encoding=vector_encoding(keys.public, bucket),
        )
        self.layout = keys.public.layout(size)
        self._admission = (
            limits.admission.open_round(round_number, self.header.key, task_sha256) if limits.admission else None
        )

    @property
    def contributors(self) -> list[str]:
        """Ascending, so that nothing depends on who came first."""
        return sorted(self._contributors)

    def nonce_for(self, tenant: str) -> bytes:
        """What this tenant has to sign in this round; empty where vectors are not signed."""
        return self._admission.nonce_for(tenant) if self._admission else b""

    def add(self, tenant: str, payload: bytes, signature: object = None) -> None:
        """Check one tenant's vector and add it to the sum.

        Its length comes first and its signature second, so that nothing is parsed that no enrolled tenant stands for.
        Whatever is refused leaves the sum as it was.

        Raises:
            UpdateRejectedError: its code says why.
        """
        start = time.perf_counter()
        try:
            if tenant in self._contributors:
                raise UpdateRejectedError(Flaw.REPEATED, f"client {tenant} has sent an update in this round already")
            if len(self._contributors) == self._limits.max_contributors:
                raise UpdateRejectedError(
                    Flaw.TOO_MANY, f"the sum has its {len(self._contributors)} contributors already"
                )
            check_length(payload, self.header, self.layout)
            if self._admission is not None:
                self._admission.check(tenant, payload, signature)
            ciphertexts = self._keys.public.from_bytes(*load_update(payload, self.header, self.layout))
            self._sum = ciphertexts if self._sum is None else self._keys.public.add(self._sum, ciphertexts)
            self._contributors.add(tenant)
        finally:
            self.seconds += time.perf_counter() - start

    def roots(self) -> list[int]:
        """The proof that the sum was decrypted truly (`shared/he/openings.py`); after `decrypt_sum`."""
        return self._keys.roots(self._sum)

    def decrypt_sum(self, unmask: Unmask | None = None) -> Vector:
        """Decrypt the sum, (size,), and nothing else.

        Args:
            unmask: takes the masks off the decrypted sum; None where the vectors are not masked.

        Raises:
            TooFewContributorsError: fewer than `min_contributors`; nothing was decrypted.
            EncodingError: the sum is beyond what honest vectors add up to.
            RoundAbandonedError: the masks can't be taken off.
        """
        count = len(self._contributors)
        if self._sum is None or count < self._limits.min_contributors:
            raise TooFewContributorsError(
                f"{count} valid updates; at least {self._limits.min_contributors} are needed before a sum is decrypted"
            )
        if unmask is None:
            return self._keys.decrypt_sum(self._sum, self._size, count, self._context)
        return self._keys.decrypt_masked_sum(self._sum, self._size, count, unmask, self._context)
