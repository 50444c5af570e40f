"""The head of a run's log chain: its number of entries and the hash of the last one, signed by the orchestrator.

The orchestrator gives it to the tenants with each request to train, and once more at the end. A head stands for every
entry before it, so whoever holds one notices when any of them is changed or left out later. `orchestrator/run_log.py`
says what is in the chain; `client/log_heads.py` keeps the heads.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.bounded_files import read_bounded
from shared.errors import RunLogError
from shared.exchange import Values
from shared.strict_json import parse_strict_json

HEAD_PREFIX: Final = b"cloud-security-orchestrator run log head v1\0"
MOST_ENTRIES: Final = 1 << 32
NAMES: Final = ("log_entries", "log_sha256", "log_signer", "log_signature")  # of its parts in a request
_MOST_BYTES: Final = 1 << 28
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")


@dataclass(frozen=True)
class Head:
    """What a log chain was at one moment.

    Attributes:
        run: the run's name.
        entries: how many entries the chain had.
        sha256: of the last one's line, 32 bytes.
        signer: the Ed25519 public key that signed it, 32 bytes.
        signature: over all of the above but the signer, 64 bytes.
    """

    run: str
    entries: int
    sha256: bytes
    signer: bytes
    signature: bytes

    @classmethod
    def sign(cls, run: str, entries: int, sha256: bytes, key: Ed25519PrivateKey) -> "Head":
        """The head of a chain, by the key that signed its entries."""
        signature = key.sign(_statement(run, entries, sha256))
        return cls(run, entries, sha256, key.public_key().public_bytes_raw(), signature)

    def values(self) -> Values:
        """As it travels; the run is what the greeting says."""
        return dict(zip(NAMES, (self.entries, self.sha256, self.signer, self.signature), strict=True))

    @classmethod
    def of(cls, run: str, values: Values) -> "Head | None":
        """The head in a request; None: there is none.

        Raises:
            RunLogError: it is malformed, or the signature does not verify.
        """
        parts: list[Any] = [values.get(name) for name in NAMES]
        if parts == [None] * len(NAMES):
            return None
        match parts:
            case [int(entries), bytes(sha256), bytes(signer), bytes(signature)]:
                head = cls(run, entries, sha256, signer, signature)
                head.check()
                return head
        raise RunLogError("the head of the server's run log is malformed; is the server of the same version?")

    def check(self) -> None:
        """The signature is the signer's.

        Raises:
            RunLogError: it is not, or a part is out of its form.
        """
        try:
            if not 0 < self.entries < MOST_ENTRIES or len(self.sha256) != 32:
                raise ValueError
            signer = Ed25519PublicKey.from_public_bytes(self.signer)
            signer.verify(self.signature, _statement(self.run, self.entries, self.sha256))
        except (InvalidSignature, ValueError):
            raise RunLogError(
                f"the head of the log of run {self.run!r:.40} has no valid signature; expected one of the "
                "orchestrator's log key"
            ) from None

    def plain(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "run": self.run, "entries": self.entries, "sha256": self.sha256.hex(), "signer": self.signer.hex(),
            "signature": self.signature.hex(),
        }  # fmt: skip

    @classmethod
    def from_plain(cls, raw: object) -> "Head":
        """What `plain` returned.

        Raises:
            ValueError: it is something else.
        """
        match raw:
            case {"run": str(run), "entries": int(entries), "sha256": sha256, "signer": signer, "signature": signature}:
                return cls(run, entries, from_hex(sha256), from_hex(signer), from_hex(signature))
        raise ValueError("expected a head: run, entries, sha256, signer, signature")


def from_hex(text: object) -> bytes:
    """Bytes from lower-case hex, of which there is one spelling.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise ValueError("expected lower-case hex digits")
    return bytes.fromhex(text)


def _statement(run: str, entries: int, sha256: bytes) -> bytes:
    """`HEAD_PREFIX`, then run, entries (8 bytes, big-endian) and hash, each after its length as 4 bytes, big-endian."""
    items = (run.encode(), entries.to_bytes(8, "big"), sha256)
    return HEAD_PREFIX + b"".join(len(item).to_bytes(4, "big") + item for item in items)


def read_heads(path: Path) -> list[Head]:
    """The heads that a tenant keeps, in the order in which they came. Half a line at the end is dropped.

    Raises:
        RunLogError: the file can't be read, or holds something else.
    """
    try:
        lines = read_bounded(path, _MOST_BYTES).split(b"\n")[:-1]
        return [Head.from_plain(parse_strict_json(line)) for line in lines]
    except OSError as error:
        raise RunLogError(f"{path}: can't be read: {error.strerror}; expected a tenant's heads") from None
    except ValueError as error:
        raise RunLogError(f"{path}: {error}; expected a tenant's heads of the run log") from None
