"""What leaves a tenant: one vector, masked, encrypted, pickled and signed for the request that it answers."""

from dataclasses import dataclass
from typing import Any

from client.private_sum import Part
from client.request_values import data, integer, text
from shared.exchange import Value, Values
from shared.he.scheme import Encrypted, Progress, PublicScheme, Vector, no_progress
from shared.identity import ClientIdentity, UpdateStatement
from shared.task import Task
from shared.wire import Header, dump_update, vector_encoding


@dataclass(frozen=True)
class Sealed:
    """One encrypted vector, ready to leave.

    Attributes:
        payload: the pickled update.
        saturated: values that were cut to the range of the encoding.
        signature: `signature` alone, or nothing where the tenant has no identity.
    """

    payload: bytes
    saturated: int
    signature: dict[str, Value]


class Sealer:
    """Seals the vectors of one tenant.

    Args:
        identity: what it signs with; None where nothing is signed.
        part: masks and encrypts.

    Attributes:
        session: of the server, from its greeting; what is signed counts in no other.
    """

    def __init__(self, identity: ClientIdentity | None, part: Part) -> None:
        self._identity, self._part = identity, part
        self.session = ""

    def greeting(self, asked: Values, channel: bytes) -> dict[str, Value]:
        """The signature that answers the server's greeting; nothing without an identity.

        Args:
            asked: the greeting, with `session` and `nonce`.
            channel: the name of this tenant's TLS connection; empty without one.
        """
        if self._identity is None:
            return {}
        self.session = text(asked, "session")
        return {"signature": self._identity.sign_greeting(self.session, data(asked, "nonce"), channel)}

    def seal(
        self,
        asked: Values,
        scheme: PublicScheme[Any],
        vector: Vector,
        task: Task,
        work: bytes,
        progress: Progress = no_progress,
    ) -> Sealed:
        """Mask, encrypt, pickle and sign a vector, in answer to a request.

        Args:
            asked: the request's values.
            scheme: what to encrypt with.
            vector: (size,).
            task: what this tenant was really given and asked to do.
            work: what it computed from which rows; see `Task.work`.
            progress: called with the number of ciphertexts just made.

        Raises:
            OrchestratorError: the tenant's part in the sum is refused.
        """
        round_number = integer(asked, "round")
        encrypted = self._part.encrypt(scheme, vector, round_number, asked.get("boxes"), progress, task, work)
        payload = _pickled(scheme, encrypted, round_number, len(vector), task.bucket)
        return Sealed(payload, encrypted.saturated, self._sign(asked, round_number, task, payload))

    def _sign(self, asked: Values, round_number: int, task: Task, payload: bytes) -> dict[str, Value]:
        """Sign for what this payload answers; nothing where this tenant has no identity."""
        if self._identity is None:
            return {}
        statement = UpdateStatement(
            session=self.session,
            server_round=round_number,
            nonce=data(asked, "nonce"),
            key_fingerprint=task.key,
            task_sha256=task.digest().hex(),
            payload=payload,
        )
        return {"signature": self._identity.sign(statement)}


def _pickled(scheme: PublicScheme[Any], encrypted: Encrypted[Any], round_number: int, size: int, bucket: str) -> bytes:
    """Step 7: the list of ciphertexts, pickled, and the block where the scheme has one."""
    header = Header(
        scheme=scheme.name,
        round=round_number,
        key=scheme.fingerprint(),
        size=size,
        encoding=vector_encoding(scheme, bucket),
    )
    return dump_update(header, *scheme.to_bytes(encrypted.ciphertexts))
