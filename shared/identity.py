"""Who sent an update: a client signs a statement about it with Ed25519, and `shared/enrolment.py` verifies it.

The statement binds the encrypted payload to one session, one round, one request, one client, one public key and one
task. The server knows all of these, so the 64 bytes of the signature alone are sent: the server writes the statement
that should have been signed, and verifies the signature over it. So an update that was recorded, forged, sent on behalf
of another or made from another model is refused: what was signed is another statement.

A greeting, signed when a client joins, proves who it is before it has anything to send. It is bound to the TLS
connection that it goes through, so whoever passes it on through a connection of their own proves nothing.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.errors import RoundRefusedError
from shared.identity_files import load_identity_key

NONCE_BYTES: Final = 32
# A prefix separates its signatures from every other use of the same key, now or later; the version is part of it.
STATEMENT_PREFIX: Final = b"cloud-security-orchestrator update statement v1\0"
GREETING_PREFIX: Final = b"cloud-security-orchestrator greeting v2\0"

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # also safe as a file name and in a log line
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")


_NAME_PREFIX: Final = "client-"


def identity_name(client_id: str) -> str:
    """The name that `orchestrator/provision.py` gives to the client that the launcher numbers `client_id`."""
    return f"{_NAME_PREFIX}{client_id}"


def client_number(name: str) -> str:
    """The inverse of `identity_name`."""
    return name.removeprefix(_NAME_PREFIX)


def digest_arrays(arrays: Iterable[NDArray[Any]]) -> str:
    """SHA-256 of a list of arrays in hex: the name of a global model, the same on every machine.

    Type and shape are part of it, and each item is length-prefixed, so no two different lists hash alike.
    """
    digest = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        for item in (f"{little.dtype.str}{array.shape}".encode(), little.tobytes()):
            digest.update(len(item).to_bytes(8, "big") + item)
    return digest.hexdigest()


def digest_model(parameters: Iterable[NDArray[Any]], scaler: bytes) -> str:
    """SHA-256 in hex of what a client trains from: the global model, and the scaler of its features."""
    return digest_arrays([*parameters, np.frombuffer(scaler, dtype=np.uint8)])


@dataclass(frozen=True, kw_only=True)
class UpdateStatement:
    """What a client signs about its update, beside its own id. Both sides write it; it is never sent.

    Attributes:
        session: this start of the server, 1 to 64 characters of A-Z a-z 0-9 . _ -
        server_round: the round, from 1.
        nonce: `NONCE_BYTES` random bytes that the server made for this client in this round.
        key_fingerprint: of the public key that the payload is encrypted under, SHA-256 in hex.
        task_sha256: of the task that the client worked on (`shared/task.py`), in hex.
        payload: the encrypted update, as it travels.

    Raises:
        RoundRefusedError: on construction, when a field is out of its form; a client has three of them from a server.
    """

    session: str
    server_round: int
    nonce: bytes
    key_fingerprint: str
    task_sha256: str
    payload: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require_name(self.session, "statement's session")
        for name in ("key_fingerprint", "task_sha256"):
            _require(
                _matches(_SHA256_HEX, getattr(self, name)),
                f"statement's {name}",
                "a SHA-256 as 64 lower-case hex digits",
            )
        _require(
            type(self.server_round) is int and 1 <= self.server_round < 1 << 63,
            "statement's server_round",
            "a whole number from 1 to 2**63 - 1",
        )
        _require_nonce(self.nonce, "statement's nonce")

    def to_bytes(self, client_id: str) -> bytes:
        """What this client signs: the one encoding of these fields, and no other statement's.

        `STATEMENT_PREFIX`, then seven fields, each after its length as 4 bytes, big-endian:

        1. the session, ASCII;
        2. the round, 8 bytes, big-endian;
        3. the nonce, 32 bytes;
        4. the client's id, as `enrolled.json` lists it, ASCII;
        5. the SHA-256 of the public key, 32 bytes;
        6. the SHA-256 of the task, 32 bytes;
        7. the SHA-256 of the payload, 32 bytes.
        """
        return STATEMENT_PREFIX + _join_fields(
            self.session.encode(),
            self.server_round.to_bytes(8, "big"),
            self.nonce,
            client_id.encode(),
            bytes.fromhex(self.key_fingerprint),
            bytes.fromhex(self.task_sha256),
            hashlib.sha256(self.payload).digest(),
        )


def channel_binding(server_certificate: bytes, client_certificate: bytes = b"") -> bytes:
    """The name of a TLS connection: SHA-256 of each end's certificate, each after its length.

    Args:
        server_certificate: DER.
        client_certificate: DER; empty where none was asked for.
    """
    certificates = (server_certificate, client_certificate)
    return _join_fields(*(hashlib.sha256(data).digest() if data else b"" for data in certificates))


def greeting_bytes(session: str, nonce: bytes, client_id: str, channel: bytes = b"") -> bytes:
    """What a client signs when it joins: `GREETING_PREFIX`, then session, nonce, the client's id and its channel.

    Each has its length in front of it, and its form, as in `UpdateStatement.to_bytes`. The channel is `channel_binding`
    of the TLS connection, and empty without TLS.

    Raises:
        RoundRefusedError: the session or the nonce is out of its form.
    """
    _require_name(session, "greeting's session")
    _require_nonce(nonce, "greeting's nonce")
    return GREETING_PREFIX + _join_fields(session.encode(), nonce, client_id.encode(), channel)


def _join_fields(*items: bytes) -> bytes:
    return b"".join(len(item).to_bytes(4, "big") + item for item in items)


def _matches(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _require_name(value: object, what: str) -> None:
    _require(_matches(NAME, value), what, "1 to 64 letters, digits, '.', '_' or '-'")


def _require_nonce(value: object, what: str) -> None:
    _require(type(value) is bytes and len(value) == NONCE_BYTES, what, f"{NONCE_BYTES} bytes")


def _require(holds: bool, what: str, expected: str) -> None:
    if not holds:  # the value itself is left out: it may be long, or unfit for a log
        raise RoundRefusedError(f"the {what} is out of its form; expected {expected}")


@dataclass(frozen=True)
class ClientIdentity:
    """A client's id and its Ed25519 private key. Its repr shows no secret, and it refuses to be pickled.

    Attributes:
        client_id: as `enrolled.json` lists it.
        signing_key: also for the masking rounds, which sign their own messages under a domain of their own.
    """

    client_id: str
    signing_key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, path: str | Path, client_id: str) -> "ClientIdentity":
        """Read the file that `client/enrol.py` or `orchestrator/provision.py` made for this client.

        Raises:
            KeyMaterialError: the file is missing, another user's, open to other users, without an Ed25519 private key,
                or another client's.
            PassphraseError: it is encrypted, and TENANT_KEY_PASSPHRASE does not open it.
        """
        advice = "make it with client/enrol.py new, or ask whoever runs orchestrator/provision.py"
        return cls(client_id, load_identity_key(Path(path), client_id, advice))

    @property
    def public_key_hex(self) -> str:
        """The 32 bytes of the public key in hex, as `enrolled.json` lists it."""
        return self.signing_key.public_key().public_bytes_raw().hex()

    def sign(self, statement: UpdateStatement) -> bytes:
        """The 64 bytes of an Ed25519 signature over the statement, made in this client's own name."""
        return self.signing_key.sign(statement.to_bytes(self.client_id))

    def sign_greeting(self, session: str, nonce: bytes, channel: bytes = b"") -> bytes:
        """The 64 bytes of an Ed25519 signature that proves, to whoever chose the nonce, that this client is here.

        Args:
            session: the start of the server that the client joins.
            nonce: `NONCE_BYTES` random bytes that the server made for this greeting.
            channel: `channel_binding` of the connection, as this client sees it; empty without TLS.

        Raises:
            RoundRefusedError: the server sent a session or a nonce out of its form.
        """
        return self.signing_key.sign(greeting_bytes(session, nonce, self.client_id, channel))
