"""The clients that the operator enrolled (`enrolled.json`), and the check of what they sign against them."""

import json
import os
import re
import stat
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.bounded_files import open_regular, read_at_most
from shared.errors import BadSignatureError, EnrolmentError, NotEnrolledError, RevokedClientError
from shared.identity import NAME, UpdateStatement, greeting_bytes
from shared.strict_json import parse_strict_json

ENROLMENT_VERSION: Final = 1
MAX_ENROLMENT_BYTES: Final = 1 << 24  # 16 MiB: a hundred thousand clients


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

        The file holds no secret, but who writes it decides whose updates count and whose keys mask a tenant's: nobody
        but this user and root may.

        Raises:
            EnrolmentError: missing, unreadable, another user's, open to others' writing, or malformed; two clients with
                one key count as malformed.
        """
        try:
            with open_regular(path) as file:
                _check_owner(path, os.fstat(file.fileno()))
                data = read_at_most(file, MAX_ENROLMENT_BYTES, str(path))
        except FileNotFoundError:
            raise EnrolmentError(f"{path}: no such file; make it with orchestrator/provision.py --clients N") from None
        except OSError as error:
            raise EnrolmentError(f"{path}: can't be read: {error.strerror}; check the path and its mode") from None
        try:
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

    def verify(self, client_id: str, expected: UpdateStatement, signature: object) -> None:
        """Accept that a client stands for an update, or say why not.

        Args:
            client_id: whom the server asked.
            expected: the server's own session, round, nonce, key and task, and the payload that arrived.
            signature: whatever the client sent beside the payload, `ClientIdentity.sign`.

        Raises:
            NotEnrolledError, RevokedClientError, BadSignatureError: it is not signed by a client that may take part.
        """
        key = self.public_key(client_id)
        hint = (
            "for this very session, round, request, key, task and payload; another round, key or task, or an altered "
            "payload"
        )
        _verify_signature(key, signature, expected.to_bytes(client_id), client_id, hint)

    def verify_greeting(self, client_id: str, session: str, nonce: bytes, signature: object) -> None:
        """Accept that a client is who it says it is, or say why not.

        Args:
            client_id: who the client says it is.
            session: the server's own session.
            nonce: the bytes that the server made for this greeting; it must accept each only once.
            signature: whatever the client sent, `ClientIdentity.sign_greeting`.

        Raises:
            NotEnrolledError, RevokedClientError, BadSignatureError: it is not signed by a client that may take part.
        """
        key = self.public_key(client_id)
        hint = "for this greeting; check that the client has the identity file that was made for this id"
        _verify_signature(key, signature, greeting_bytes(session, nonce, client_id), client_id, hint)

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


def _check_owner(path: str | Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise EnrolmentError(
            f"{path}: belongs to another user (id {status.st_uid}), who could enrol whom they like; copy it, or run: "
            f"chown {os.geteuid()} {path}"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        raise EnrolmentError(f"{path}: mode {mode:04o} lets other users enrol whom they like; run: chmod go-w {path}")


def _verify_signature(key: Ed25519PublicKey, signature: object, message: bytes, client_id: str, hint: str) -> None:
    if type(signature) is not bytes:  # Flower may deliver any scalar here
        raise BadSignatureError(
            f"client {client_id!r} sent no signature; set client_identity to the file that was made for it"
        )
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise BadSignatureError(f"not signed by the enrolled key of client {client_id!r} {hint}") from None


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
