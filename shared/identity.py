"""Who sent an update: a client signs a statement about it with Ed25519, and `shared/enrolment.py` verifies it.

The statement binds the encrypted payload to one run, one round, one request, one client, one public key and one global
model. So an update that was recorded, forged, sent on behalf of another or trained from another model is refused, with
an error that names which of these it was.

A greeting, signed when a client joins, proves who it is before it has anything to send.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from numpy.typing import NDArray

from shared.errors import KeyMaterialError, MalformedStatementError, WrongClientError
from shared.private_files import read_private_file

NONCE_BYTES: Final = 32
# A prefix separates its signatures from every other use of the same key, now or later; the version is part of it.
STATEMENT_PREFIX: Final = b"cloud-security-orchestrator update statement v1\0"
GREETING_PREFIX: Final = b"cloud-security-orchestrator greeting v1\0"
MAX_STATEMENT_BYTES: Final = 512

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # also safe as a file name and in a log line
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")


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
    """What a client says about its update, and signs.

    Attributes:
        run_id: the run, 1 to 64 characters of A-Z a-z 0-9 . _ -
        server_round: the round, from 1.
        nonce: `NONCE_BYTES` random bytes that the server made for this client in this round.
        client_id: who signs; the same form as `run_id`.
        key_fingerprint: of the public key that the payload is encrypted under, SHA-256 in hex.
        task_sha256: of the task that the client worked on (`shared/task.py`), in hex.
        payload_sha256: of the payload's bytes, in hex.

    Raises:
        MalformedStatementError: on construction, when a field is out of its form.
    """

    run_id: str
    server_round: int
    nonce: bytes
    client_id: str
    key_fingerprint: str
    task_sha256: str
    payload_sha256: str

    def __post_init__(self) -> None:
        _require_name(self.run_id, "statement's run_id")
        _require_name(self.client_id, "statement's client_id")
        for name in ("key_fingerprint", "task_sha256", "payload_sha256"):
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

    def to_bytes(self) -> bytes:
        """The canonical encoding: the prefix, then each field after its length as 4 bytes, big-endian."""
        return STATEMENT_PREFIX + _join_fields(
            self.run_id.encode(),
            self.server_round.to_bytes(8, "big"),
            self.nonce,
            self.client_id.encode(),
            bytes.fromhex(self.key_fingerprint),
            bytes.fromhex(self.task_sha256),
            bytes.fromhex(self.payload_sha256),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "UpdateStatement":
        """The inverse of `to_bytes`, for bytes of unknown origin: whatever it accepts encodes back to the same bytes.

        Raises:
            MalformedStatementError: these bytes are no statement's canonical encoding.
        """
        if type(data) is not bytes or len(data) > MAX_STATEMENT_BYTES or not data.startswith(STATEMENT_PREFIX):
            raise MalformedStatementError(
                f"the statement is not up to {MAX_STATEMENT_BYTES} bytes that begin with the version-1 prefix; "
                "run the same version on the client and on the server"
            )
        items = _split_fields(data[len(STATEMENT_PREFIX) :])
        lengths = [len(item) for item in items]
        if len(items) != 7 or lengths[1] != 8:
            raise MalformedStatementError(
                f"the statement holds {len(items)} fields of {lengths} bytes, expected 7 with a round of 8 bytes; "
                "build it with UpdateStatement.to_bytes"
            )
        return cls(
            # Whatever is not ASCII becomes a character that the form of a name refuses.
            run_id=items[0].decode("ascii", "replace"),
            server_round=int.from_bytes(items[1], "big"),
            nonce=items[2],
            client_id=items[3].decode("ascii", "replace"),
            key_fingerprint=items[4].hex(),
            task_sha256=items[5].hex(),
            payload_sha256=items[6].hex(),
        )


def greeting_bytes(run_id: str, nonce: bytes, client_id: str) -> bytes:
    """What a client signs when it joins: the prefix, then each field after its length as 4 bytes, big-endian.

    Raises:
        MalformedStatementError: a field is out of its form, which is that of `UpdateStatement`.
    """
    _require_name(run_id, "greeting's run_id")
    _require_nonce(nonce, "greeting's nonce")
    _require_name(client_id, "greeting's client_id")
    return GREETING_PREFIX + _join_fields(run_id.encode(), nonce, client_id.encode())


def _join_fields(*items: bytes) -> bytes:
    return b"".join(len(item).to_bytes(4, "big") + item for item in items)


def _split_fields(data: bytes) -> list[bytes]:
    items, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if at + 4 > len(data) or end > len(data):
            raise MalformedStatementError("the statement ends inside a field; send the bytes of to_bytes unchanged")
        items.append(data[at + 4 : end])
        at = end
    return items


def _matches(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _require_name(value: object, what: str) -> None:
    _require(_matches(NAME, value), what, "1 to 64 letters, digits, '.', '_' or '-'")


def _require_nonce(value: object, what: str) -> None:
    _require(type(value) is bytes and len(value) == NONCE_BYTES, what, f"{NONCE_BYTES} bytes")


def _require(holds: bool, what: str, expected: str) -> None:
    if not holds:  # the value itself is left out: it may be long, or unfit for a log
        raise MalformedStatementError(f"the {what} is out of its form; expected {expected}")


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
        """Read the PEM file that `orchestrator/provision.py` made for this client.

        Raises:
            KeyFileError: the file is missing, or open to other users.
            KeyMaterialError: it holds no unencrypted Ed25519 private key.
        """
        pem = read_private_file(Path(path), "ask the operator for this client's identity (orchestrator/provision.py)")
        key: object = None
        with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
            key = load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyMaterialError(
                f"{path}: expected an unencrypted Ed25519 private key in PEM (PKCS8), found something else; "
                "give the .key file that orchestrator/provision.py made for this client"
            )
        return cls(client_id, key)

    @property
    def public_key_hex(self) -> str:
        """The 32 bytes of the public key in hex, as `enrolled.json` lists it."""
        return self.signing_key.public_key().public_bytes_raw().hex()

    def sign(self, statement: UpdateStatement) -> bytes:
        """The 64 bytes of an Ed25519 signature over `statement.to_bytes()`.

        Raises:
            WrongClientError: the statement is of another client.
        """
        if statement.client_id != self.client_id:
            raise WrongClientError(
                f"asked to sign for client {statement.client_id!r} with the identity of {self.client_id!r}; "
                "a client signs for itself alone"
            )
        return self.signing_key.sign(statement.to_bytes())

    def sign_greeting(self, run_id: str, nonce: bytes) -> bytes:
        """The 64 bytes of an Ed25519 signature that proves, to whoever chose the nonce, that this client is here.

        Args:
            run_id: the run that the client joins.
            nonce: `NONCE_BYTES` random bytes that the server made for this greeting.

        Raises:
            MalformedStatementError: the server sent a run or a nonce out of its form.
        """
        return self.signing_key.sign(greeting_bytes(run_id, nonce, self.client_id))
