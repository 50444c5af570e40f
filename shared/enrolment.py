"""The clients that the operator enrolled: the roster (`enrolled.json`), and the check of what they sign against it.

    {"version": 2, "number": 7, "signer": "<hex>", "signature": "<hex>", "clients": {"client-0": {"public_key": "<hex>",
     "added": "2026-01-31", "expires": "2027-01-31", "revoked": false, "former": []}, ...}}

`number` counts the rosters of a federation. The signature, Ed25519 by `signer`, is over all the rest in one spelling.
Whom to believe, and that no older roster comes back, is for `shared/roster.py`.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.bounded_files import open_regular, read_at_most
from shared.enrolled_clients import EnrolledClient, is_public_key, parse_clients
from shared.errors import EnrolmentError, Flaw, Reason, UpdateRejectedError
from shared.identity import UpdateStatement, greeting_bytes
from shared.strict_json import parse_strict_json

ENROLMENT_VERSION: Final = 2
MAX_ENROLMENT_BYTES: Final = 1 << 24  # 16 MiB: fifty thousand clients
# As in `shared/identity.py`: whatever a key signs begins with a prefix of its own.
ROSTER_PREFIX: Final = b"cloud-security-orchestrator roster v1\0"


@dataclass(frozen=True)
class Enrolment:
    """The clients that the operator enrolled. Immutable; a change makes a new one.

    Attributes:
        clients: {client id: `EnrolledClient`}.
        number: of the roster, from 1; 0: none was signed yet.
        signer: the public key that signed it, 64 hex digits; empty: none.
        signature: of `signer` over all the rest, 128 hex digits.
        fingerprint: SHA-256 in hex of what was signed. Two sides that show one fingerprint have one roster.
        day: the day to judge by, UTC; None: the present one.
    """

    clients: MappingProxyType[str, EnrolledClient]
    number: int = 0
    signer: str = ""
    signature: str = ""
    fingerprint: str = ""
    day: date | None = None

    @classmethod
    def load(cls, path: str | Path) -> "Enrolment":
        """Read `enrolled.json`. Load it anew in each round, and a revocation takes effect in the next one.

        The file holds no secret, but who writes it decides whose updates count and whose keys mask a tenant's: nobody
        but this user and root may.

        Raises:
            EnrolmentError: missing, unreadable, another user's, open to others' writing, or malformed; two clients with
                one key count as malformed.
            EnrolmentError of ROSTER_SIGNATURE: not signed by the key that it names. Whether to believe that one, the
                caller knows.
        """
        try:
            with open_regular(path) as file:
                _check_owner(path, os.fstat(file.fileno()))
                data = read_at_most(file, MAX_ENROLMENT_BYTES, str(path))
        except FileNotFoundError:
            raise EnrolmentError(
                f"{path}: no such file; get it from whoever runs the federation, who makes it with "
                "orchestrator/provision.py"
            ) from None
        except OSError as error:
            raise EnrolmentError(f"{path}: can't be read: {error.strerror}; check the path and its mode") from None
        try:
            raw = parse_strict_json(data)
            if isinstance(raw, dict) and raw.get("version") == 1 and raw.keys() == {"version", "clients"}:
                raise EnrolmentError(
                    f"{path}: an unsigned list of an earlier version; whoever made it runs: "
                    "orchestrator/provision.py --upgrade --out FOLDER",
                    Reason.ROSTER_SIGNATURE,
                )
            return _parse_roster(raw, str(path))
        except ValueError as error:
            raise EnrolmentError(
                f"{path}: not a list of enrolled clients: {error}; restore the file that provision.py wrote"
            ) from None

    def as_of(self, day: date) -> "Enrolment":
        """The same roster, judged by another day."""
        return replace(self, day=day)

    def ever(self) -> "Enrolment":
        """The same roster, in which whoever was ever enrolled counts: for rounds of before."""
        clients = {name: replace(client, revoked=False) for name, client in self.clients.items()}
        return replace(self, clients=MappingProxyType(clients), day=date.min)

    @property
    def today(self) -> date:
        """The day that ends are judged by, UTC."""
        return self.day or datetime.now(UTC).date()

    def public_key(self, client_id: str) -> Ed25519PublicKey:
        """The key of a client that is enrolled, not revoked and not expired.

        Raises:
            UpdateRejectedError of NOT_ENROLLED, REVOKED, EXPIRED: it is not.
        """
        client = self.clients.get(client_id)
        if client is None:
            raise UpdateRejectedError(
                Flaw.NOT_ENROLLED,
                f"client {client_id[:64]!r} is not enrolled; the operator enrols it with orchestrator/provision.py",
            )
        if client.revoked:
            raise UpdateRejectedError(
                Flaw.REVOKED,
                f"client {client_id!r} is revoked; the operator may enrol a new one with orchestrator/provision.py",
            )
        if client.expires < self.today:
            raise UpdateRejectedError(
                Flaw.EXPIRED,
                f"client {client_id!r}: its enrolment ended on {client.expires}; the operator may enrol a new one with "
                "orchestrator/provision.py (before an end, client/enrol.py renew asks for more)",
            )
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(client.public_key))

    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        """The keys of all clients that are enrolled, not revoked and not expired, by id."""
        today = self.today
        counts = (name for name, client in self.clients.items() if not client.revoked and client.expires >= today)
        return {client_id: self.public_key(client_id) for client_id in counts}

    def verify(self, client_id: str, expected: UpdateStatement, signature: object) -> None:
        """Accept that a client stands for an update, or say why not.

        Args:
            client_id: whom the server asked.
            expected: the server's own session, round, nonce, key and task, and the payload that arrived.
            signature: whatever the client sent beside the payload, `ClientIdentity.sign`.

        Raises:
            UpdateRejectedError: it is not signed by a client that may take part.
        """
        key = self.public_key(client_id)
        hint = (
            "for this very session, round, request, key, task and payload; another round, key or task, or an altered "
            "payload"
        )
        _verify_signature(key, signature, expected.to_bytes(client_id), client_id, hint)

    def verify_greeting(
        self, client_id: str, session: str, nonce: bytes, signature: object, channel: bytes = b""
    ) -> None:
        """Accept that a client is who it says it is, or say why not.

        Args:
            client_id: who the client says it is.
            session: the server's own session.
            nonce: the bytes that the server made for this greeting; it must accept each only once.
            signature: whatever the client sent, `ClientIdentity.sign_greeting`.
            channel: `channel_binding` of the connection that it came through; empty without TLS.

        Raises:
            UpdateRejectedError: it is not signed by a client that may take part.
        """
        key = self.public_key(client_id)
        hint = "for this greeting; check that the client has the identity file that was made for this id"
        if channel:
            hint += ", and that nobody between the two ends opens TLS"
        _verify_signature(key, signature, greeting_bytes(session, nonce, client_id, channel), client_id, hint)

    def with_client(self, client_id: str, public_key: str, added: date, expires: date) -> "Enrolment":
        """A list with one client more.

        Raises:
            EnrolmentError: the id was given out before, revoked ids included, or the key belongs to another.
        """
        if client_id in self.clients:
            raise EnrolmentError(f"client {client_id!r} is in the list already; an id is given out once, take another")
        self._check_unused(public_key)
        return self._with(client_id, EnrolledClient(public_key, added, expires))

    def renewed(self, client_id: str, public_key: str, expires: date) -> "Enrolment":
        """A list in which this client counts for longer, and may have another key.

        Raises:
            EnrolmentError: the key belongs to another, or belonged to anybody before.
            UpdateRejectedError: the client is not enrolled, is revoked or has expired.
        """
        self.public_key(client_id)
        client = self.clients[client_id]
        if public_key == client.public_key:
            return self._with(client_id, replace(client, expires=expires))
        self._check_unused(public_key)
        former = (*client.former, client.public_key)
        return self._with(client_id, replace(client, public_key=public_key, expires=expires, former=former))

    def without(self, client_id: str) -> "Enrolment":
        """A list in which this client is revoked. It stays listed, so that its id is never given out again.

        Raises:
            EnrolmentError: there is no such client, or it is revoked already.
        """
        client = self.clients.get(client_id)
        if client is None or client.revoked:
            state = "not in the list" if client is None else "revoked already"
            raise EnrolmentError(f"client {client_id!r} is {state}; enrolled.json lists every client and its state")
        return self._with(client_id, replace(client, revoked=True))

    def _with(self, client_id: str, client: EnrolledClient) -> "Enrolment":
        return replace(self, clients=MappingProxyType({**self.clients, client_id: client}))

    def _check_unused(self, public_key: str) -> None:
        for name, client in self.clients.items():
            if public_key in (client.public_key, *client.former):
                raise EnrolmentError(f"client {name!r} has or had this public key; make another")

    def signed(self, key: Ed25519PrivateKey) -> tuple["Enrolment", bytes]:
        """The next roster of the federation, with the content of its `enrolled.json`.

        Raises:
            EnrolmentError of ROSTER_SIGNATURE: the one before it was signed by another key.
        """
        signer = key.public_key().public_bytes_raw().hex()
        if self.signer not in ("", signer):
            raise EnrolmentError(
                f"the roster was signed by {self.signer[:16]}…, this key is {signer[:16]}…; use its roster.key",
                Reason.ROSTER_SIGNATURE,
            )
        unsigned = replace(self, number=self.number + 1, signer=signer)
        message = _signed_bytes(unsigned._raw())
        made = replace(unsigned, signature=key.sign(message).hex(), fingerprint=hashlib.sha256(message).hexdigest())
        return made, made.to_json()

    def to_json(self) -> bytes:
        """The content of its `enrolled.json`, which `load` reads back to an equal roster."""
        return json.dumps(self._raw(), indent=2).encode() + b"\n"

    def _raw(self) -> dict[str, Any]:
        clients = {
            name: {**asdict(c), "added": c.added.isoformat(), "expires": c.expires.isoformat()}
            for name, c in self.clients.items()
        }
        return {
            "version": ENROLMENT_VERSION, "number": self.number, "signer": self.signer, "clients": clients,
            "signature": self.signature,
        }  # fmt: skip


def _signed_bytes(raw: Mapping[str, Any]) -> bytes:
    """What the signature is over: the prefix, and all but the signature in one spelling."""
    rest = {name: value for name, value in raw.items() if name != "signature"}
    return ROSTER_PREFIX + json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()


def parse_unsigned(data: bytes, expires: date) -> Enrolment:
    """A list of version 1, which nobody signed, to be signed by whoever made it.

    Args:
        data: the content of `enrolled.json`.
        expires: the last day of all its clients.

    Raises:
        EnrolmentError: it is none.
    """
    try:
        raw = parse_strict_json(data)
        if not isinstance(raw, dict) or raw.keys() != {"version", "clients"} or raw["version"] != 1:
            raise ValueError("expected version 1")
        clients = {
            name: {**entry, "expires": expires.isoformat(), "former": []} if isinstance(entry, dict) else entry
            for name, entry in dict(raw["clients"]).items()
        }
        return Enrolment(MappingProxyType(parse_clients(clients)))
    except (ValueError, TypeError) as error:
        raise EnrolmentError(f"not a list of the earlier version: {error}; there is nothing to upgrade") from None


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
        raise UpdateRejectedError(
            Flaw.SIGNATURE,
            f"client {client_id!r} sent no signature; set client_identity to the file that was made for it",
        )
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise UpdateRejectedError(
            Flaw.SIGNATURE, f"not signed by the enrolled key of client {client_id!r} {hint}"
        ) from None


def _parse_roster(raw: Any, name: str) -> Enrolment:
    """The checked roster; a `ValueError` says what is wrong.

    Raises:
        EnrolmentError of ROSTER_SIGNATURE: the signature does not hold.
    """
    fields = {"version", "number", "signer", "clients", "signature"}
    if not isinstance(raw, dict) or raw.get("version") != ENROLMENT_VERSION:
        raise ValueError(f"expected version {ENROLMENT_VERSION}")
    if raw.keys() != fields or not isinstance(raw["clients"], dict):
        raise ValueError(f"expected the keys {', '.join(sorted(fields))}")
    number, signer, signature = raw["number"], raw["signer"], raw["signature"]
    if type(number) is not int or not 1 <= number < 1 << 53:
        raise ValueError("expected 'number' to be a whole number from 1")
    if not is_public_key(signer):
        raise ValueError("expected 'signer' to be a public key of 64 lower-case hex digits")
    if not isinstance(signature, str) or not re.fullmatch("[0-9a-f]{128}", signature):
        raise ValueError("expected 'signature' to be 128 lower-case hex digits")
    clients = parse_clients(raw["clients"])
    message = _signed_bytes(raw)
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        raise EnrolmentError(
            f"{name}: altered after it was signed, or not signed by the key that it names; get enrolled.json anew from "
            "whoever runs the federation",
            Reason.ROSTER_SIGNATURE,
        ) from None
    return Enrolment(MappingProxyType(clients), number, signer, signature, hashlib.sha256(message).hexdigest())
