"""The clients that the operator enrolled (`enrolled.json`), and the check of what they sign against them."""

import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.errors import (
    BadSignatureError,
    EnrolmentError,
    NotEnrolledError,
    RevokedClientError,
    StaleRoundError,
    UpdateRejectedError,
    WrongClientError,
    WrongKeyError,
    WrongNonceError,
    WrongPayloadError,
    WrongRunError,
    WrongTaskError,
)
from shared.identity import NAME, UpdateStatement, greeting_bytes
from shared.strict_json import parse_strict_json

ENROLMENT_VERSION: Final = 1
MAX_ENROLMENT_BYTES: Final = 1 << 24  # 16 MiB: a hundred thousand clients

# In the order in which a difference is reported: the cause before its consequences.
_MISMATCHES: Final[tuple[tuple[str, type[UpdateRejectedError], str], ...]] = (
    ("client_id", WrongClientError, "each client must send its own update with its own identity"),
    ("run_id", WrongRunError, "restart the client, so that it joins the present run"),
    ("server_round", StaleRoundError, "an update counts in its own round alone; the client may answer the next one"),
    ("nonce", WrongNonceError, "the client must answer the server's latest request"),
    ("key_fingerprint", WrongKeyError, "the client must encrypt under the public key sent in this round"),
    ("task_sha256", WrongTaskError, "the client must work on the global model, settings and key sent in this round"),
    ("payload_sha256", WrongPayloadError, "the payload was altered on its way; connect with TLS"),
)


@dataclass(frozen=True)
class EnrolledClient:
    """One line of the list: the public key (64 hex digits), the date it was added, and whether it still counts."""

    public_key: str
    added: date
    revoked: bool = False


@dataclass(frozen=True)
class Enrolment:
    """The clients that the operator enrolled: {client id: `EnrolledClient`}. Immutable; a change makes a new one."""

    clients: MappingProxyType[str, EnrolledClient]

    @classmethod
    def load(cls, path: str | Path) -> "Enrolment":
        """Read `enrolled.json`. Load it anew in each round, and a revocation takes effect in the next one.

        Raises:
            EnrolmentError: missing, unreadable or malformed; two clients with one key count as malformed.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_ENROLMENT_BYTES + 1)
        except FileNotFoundError:
            raise EnrolmentError(f"{path}: no such file; make it with orchestrator/provision.py --clients N") from None
        except OSError as error:
            raise EnrolmentError(f"{path}: can't be read: {error.strerror}; check the path and its mode") from None
        try:
            if len(data) > MAX_ENROLMENT_BYTES:
                raise ValueError(f"larger than {MAX_ENROLMENT_BYTES} bytes")
            return cls(MappingProxyType(_parse_enrolment(parse_strict_json(data))))
        except ValueError as error:
            raise EnrolmentError(
                f"{path}: not a list of enrolled clients: {error}; restore the file that provision.py wrote"
            ) from None

    def public_key(self, client_id: str) -> Ed25519PublicKey:
        """The key of a client that is enrolled and not revoked.

        Raises:
            NotEnrolledError, RevokedClientError: it is not.
        """
        client = self.clients.get(client_id)
        if client is None:
            raise NotEnrolledError(
                f"client {client_id[:64]!r} is not enrolled; the operator adds it with orchestrator/provision.py --add"
            )
        if client.revoked:
            raise RevokedClientError(
                f"client {client_id!r} is revoked; the operator may add a new one with orchestrator/provision.py --add"
            )
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(client.public_key))

    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        """The keys of all clients that are enrolled and not revoked, by id."""
        return {client_id: self.public_key(client_id) for client_id, c in self.clients.items() if not c.revoked}

    def verify(self, statement: bytes, signature: object, expected: UpdateStatement) -> None:
        """Accept an update's statement, or say why not.

        The signature is checked first, under the key of the client that the statement names; then each field is
        compared with what the server expects, so that a difference names its field and is known to be the client's
        own word.

        Args:
            statement: the bytes that the client sent, `UpdateStatement.to_bytes()`.
            signature: the bytes that it sent with them; a valid signature has 64.
            expected: the statement as the server would write it: its own run, round, nonce, key and model, the client
                that it asked, and the SHA-256 of the payload that arrived.

        Raises:
            MalformedStatementError: the bytes are no statement.
            NotEnrolledError, RevokedClientError, BadSignatureError: it is not signed by a client that may take part.
            WrongClientError, WrongRunError, StaleRoundError, WrongNonceError, WrongKeyError, WrongTaskError,
            WrongPayloadError: it is about something else than `expected`.
        """
        sent = UpdateStatement.from_bytes(statement)
        _verify_signature(self.public_key(sent.client_id), signature, statement, sent.client_id)
        for name, error, advice in _MISMATCHES:
            theirs, ours = getattr(sent, name), getattr(expected, name)
            if theirs != ours:
                shown = (theirs.hex(), ours.hex()) if isinstance(theirs, bytes) else (theirs, ours)
                raise error(f"client {sent.client_id!r} signed {name} {shown[0]!r}, expected {shown[1]!r}; {advice}")

    def verify_greeting(self, client_id: str, run_id: str, nonce: bytes, signature: object) -> None:
        """Accept that a client is who it says it is, or say why not.

        Args:
            client_id: who the client says it is.
            run_id: the server's own run.
            nonce: the bytes that the server made for this greeting; it must accept each only once.
            signature: what the client sent, `ClientIdentity.sign_greeting`.

        Raises:
            NotEnrolledError, RevokedClientError, BadSignatureError: it is not signed by a client that may take part.
        """
        key = self.public_key(client_id)
        _verify_signature(key, signature, greeting_bytes(run_id, nonce, client_id), client_id)

    def with_client(self, client_id: str, public_key: str, added: date) -> "Enrolment":
        """A list with one client more.

        Raises:
            EnrolmentError: the id was given out before, revoked ids included.
        """
        if client_id in self.clients:
            raise EnrolmentError(f"client {client_id!r} is in the list already; an id is given out once, take another")
        return Enrolment(MappingProxyType({**self.clients, client_id: EnrolledClient(public_key, added)}))

    def without(self, client_id: str) -> "Enrolment":
        """A list in which this client is revoked. It stays listed, so that its id is never given out again.

        Raises:
            EnrolmentError: there is no such client, or it is revoked already.
        """
        client = self.clients.get(client_id)
        if client is None or client.revoked:
            state = "not in the list" if client is None else "revoked already"
            raise EnrolmentError(f"client {client_id!r} is {state}; enrolled.json lists every client and its state")
        return Enrolment(MappingProxyType({**self.clients, client_id: replace(client, revoked=True)}))

    def to_json(self) -> bytes:
        """The content of `enrolled.json`, which `load` reads back to an equal list."""
        clients = {name: {**asdict(c), "added": c.added.isoformat()} for name, c in self.clients.items()}
        return json.dumps({"version": ENROLMENT_VERSION, "clients": clients}, indent=2).encode() + b"\n"


def _verify_signature(key: Ed25519PublicKey, signature: object, message: bytes, client_id: str) -> None:
    try:
        # Flower may deliver any scalar here; what is not bytes is no signature.
        key.verify(signature if type(signature) is bytes else b"", message)
    except InvalidSignature:
        raise BadSignatureError(
            f"client {client_id!r}: the signature is not that of its enrolled key; "
            "check that the client has the identity file that was made for this id"
        ) from None


def _parse_enrolment(raw: Any) -> dict[str, EnrolledClient]:
    """The checked list; a `ValueError` says what is wrong."""
    if not isinstance(raw, dict) or raw.keys() != {"version", "clients"} or not isinstance(raw["clients"], dict):
        raise ValueError("expected the keys 'version' and 'clients'")
    if raw["version"] != ENROLMENT_VERSION:
        raise ValueError(f"expected version {ENROLMENT_VERSION}")
    clients: dict[str, EnrolledClient] = {}
    owners: dict[str, str] = {}
    for client_id, entry in raw["clients"].items():
        if not NAME.fullmatch(client_id):
            raise ValueError(f"client id {client_id[:64]!r} is not 1 to 64 letters, digits, '.', '_' or '-'")
        if not isinstance(entry, dict) or entry.keys() != {"public_key", "added", "revoked"}:
            raise ValueError(f"client {client_id!r}: expected the keys 'public_key', 'added' and 'revoked'")
        public_key, added, revoked = entry["public_key"], entry["added"], entry["revoked"]
        if not isinstance(public_key, str) or not re.fullmatch("[0-9a-f]{64}", public_key):
            raise ValueError(f"client {client_id!r}: expected a public key of 64 lower-case hex digits")
        if type(revoked) is not bool:
            raise ValueError(f"client {client_id!r}: expected 'revoked' to be true or false")
        if not isinstance(added, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", added, re.ASCII):
            raise ValueError(f"client {client_id!r}: expected 'added' as a date such as 2026-01-31")
        if public_key in owners:  # one tenant would count as two contributors, and see the other's share of a sum
            raise ValueError(f"clients {owners[public_key]!r} and {client_id!r} have the same public key")
        owners[public_key] = client_id
        clients[client_id] = EnrolledClient(public_key, date.fromisoformat(added), revoked)
    return clients
