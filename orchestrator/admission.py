"""Whose update counts: one signed answer per enrolled client, to this request, in this round, from this model.

Free of Flower. Without an enrolled list anyone who can connect takes part, and the server says so at its start.
"""

import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.enrolment import Enrolment
from shared.errors import Flaw, UpdateRejectedError
from shared.identity import NONCE_BYTES, UpdateStatement, identity_name
from shared.roster import Roster


class Admission:
    """The enrolled list of a run.

    Args:
        roster: who is enrolled. It is read anew each round, so that a revocation takes effect in the next.
        session: names this start of the server, so that nothing recorded before it is ever accepted.
    """

    def __init__(self, roster: Roster, session: str) -> None:
        self._roster = roster
        self.session = session
        roster.read()  # a missing or malformed list is told at the start

    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        """The keys of all clients that may take part now, by their names in the list."""
        return self._roster.read().public_keys()

    def why_not(self, client_id: str) -> str:
        """Why this client may not take part now; empty if it may."""
        try:
            self._roster.read().public_key(identity_name(client_id))
        except UpdateRejectedError as error:
            return str(error)
        return ""

    def greeting_nonce(self) -> bytes:
        """A fresh challenge for a connection that says who it is."""
        return secrets.token_bytes(NONCE_BYTES)

    def check_greeting(self, client_id: str, nonce: bytes, signature: object, channel: bytes = b"") -> None:
        """Accept a connection as this client's.

        Args:
            client_id: who it says it is.
            nonce: of this greeting.
            signature: whatever came.
            channel: the name of its TLS connection; empty without TLS.

        Raises:
            UpdateRejectedError: not enrolled, revoked, or not signed by it.
        """
        self._roster.read().verify_greeting(identity_name(client_id), self.session, nonce, signature, channel)

    def open_round(self, round_number: int, key_fingerprint: str, task_sha256: str) -> "RoundAdmission":
        """The checks of one round."""
        return RoundAdmission(self._roster.read(), self.session, round_number, key_fingerprint, task_sha256)


class RoundAdmission:
    """What each client of one round has to sign."""

    def __init__(
        self, enrolment: Enrolment, session: str, round_number: int, key_fingerprint: str, task_sha256: str
    ) -> None:
        self._enrolment = enrolment
        self._session = session
        self._round = round_number
        self._key_fingerprint = key_fingerprint
        self._task_sha256 = task_sha256
        self._nonces: dict[str, bytes] = {}

    def nonce_for(self, client_id: str) -> bytes:
        """The challenge of this client in this round."""
        return self._nonces.setdefault(client_id, secrets.token_bytes(NONCE_BYTES))

    def check(self, client_id: str, payload: bytes, signature: object) -> None:
        """Accept an update as this client's answer to this round's request.

        Args:
            client_id: through whose connection it came.
            payload: as it arrived.
            signature: whatever came beside it.

        Raises:
            UpdateRejectedError: not enrolled, revoked, or not signed by it for this request.
        """
        nonce = self._nonces.get(client_id)
        if nonce is None:
            raise UpdateRejectedError(
                Flaw.SIGNATURE, f"client {client_id} was not asked in this round: it has no request to sign for"
            )
        expected = UpdateStatement(
            session=self._session,
            server_round=self._round,
            nonce=nonce,
            key_fingerprint=self._key_fingerprint,
            task_sha256=self._task_sha256,
            payload=payload,
        )
        self._enrolment.verify(identity_name(client_id), expected, signature)
