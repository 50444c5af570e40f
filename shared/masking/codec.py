"""The bytes under the messages: exact lengths, one canonical form, and the signed envelope that clients speak in.

Every message starts with a magic, a kind and, except the announcement, the round's 32-byte context. Integers are
big-endian. An id is one length byte and 1 to 64 ASCII characters. Lists of ids are strictly ascending, so that one
set has one encoding. Whatever is longer, shorter or otherwise differs from that is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.masking.errors import BrokenRuleError, Rule

MAGIC = b"MSK1"
CONTEXT_BYTES = 32
SIGNATURE_BYTES = 64
_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Kind(IntEnum):
    """What a message is; the byte after the magic, so that a signature over one kind never serves for another."""

    ANNOUNCEMENT = 1
    ADVERT = 2
    ROSTER = 3
    SHARES = 4
    BOXES = 5
    SURVIVORS = 6
    CONFIRM = 7
    REVEAL_REQUEST = 8
    REVEAL = 9
    STATE = 10  # of a suspended client; it never leaves the tenant, and nobody signs it
    OPENED = 11  # of a whole round, for its auditors; what counts in it is signed by its clients
    TOSS = 12  # of a draw of groups; see `shared/groups.py`
    REVEALED_TOSS = 13
    DRAWS = 14
    COMMITMENTS = 15


@dataclass(frozen=True)
class Signed:
    """One client's message, parsed; `verify` says whether it is that client's indeed.

    Attributes:
        sender: the client's id.
        body: what is specific to the kind.
        signature: 64 bytes over everything before them, the magic, the kind and the context included.
        payload: the whole message as it travelled.
    """

    sender: str
    body: bytes
    signature: bytes
    payload: bytes

    def verify(self, enrolled: Mapping[str, Ed25519PublicKey]) -> None:
        """Check the signature under the sender's enrolled key.

        Raises:
            BrokenRuleError of UNKNOWN_PEER: the sender is not enrolled.
            BrokenRuleError of BAD_SIGNATURE: the signature is not the sender's.
        """
        if self.sender not in enrolled:
            raise BrokenRuleError(
                Rule.UNKNOWN_PEER, f"client {self.sender!r} is not enrolled; expected a client of the enrolment list"
            )
        try:
            enrolled[self.sender].verify(self.signature, self.payload[:-SIGNATURE_BYTES])
        except InvalidSignature:
            raise BrokenRuleError(
                Rule.BAD_SIGNATURE, f"the signature of client {self.sender!r} does not verify"
            ) from None


def unsigned(kind: Kind, context: bytes, sender: str, body: bytes) -> bytes:
    """What a client signs: magic, kind, context, id, 4-byte body length, body."""
    return header(kind, context) + encode_id(sender) + encode_number(len(body), 4) + body


def sign(kind: Kind, context: bytes, sender: str, body: bytes, key: Ed25519PrivateKey) -> bytes:
    """A client's message: `unsigned` and the signature over it."""
    signed = unsigned(kind, context, sender, body)
    return signed + key.sign(signed)


def parse_signed(payload: bytes, kind: Kind, context: bytes) -> Signed:
    """A whole client message, its signature not yet verified.

    Raises:
        BrokenRuleError of MALFORMED_MESSAGE: not the canonical form of such a message.
        BrokenRuleError of REPLAYED_MESSAGE: made under another context.
    """
    reader = Reader(payload, kind)
    signed = read_signed(reader, kind, context)
    reader.end()
    return signed


def read_signed(reader: "Reader", kind: Kind, context: bytes) -> Signed:
    """The client message that starts where the reader stands; for raises see `parse_signed`."""
    start = reader.position
    reader.header(kind, context)
    sender = reader.id()
    body = reader.take(reader.number(4))
    signature = reader.take(SIGNATURE_BYTES)
    return Signed(sender, body, signature, reader.payload[start : reader.position])


def header(kind: Kind, context: bytes = b"") -> bytes:
    """The first bytes of every message."""
    return MAGIC + bytes([kind]) + context


def encode_id(client_id: str) -> bytes:
    """One length byte and the id.

    Raises:
        BrokenRuleError of MALFORMED_MESSAGE: not 1 to 64 of the characters A-Z a-z 0-9 . _ - with a letter or digit
            first.
    """
    encoded = client_id.encode(errors="replace")
    _check_id(encoded)
    return bytes([len(encoded)]) + encoded


def encode_ids(ids: Iterable[str]) -> bytes:
    """A set of ids: 2-byte count, then the ids in ascending order."""
    ordered = sorted(ids)
    return encode_number(len(ordered), 2) + b"".join(map(encode_id, ordered))


def encode_number(value: int, size: int) -> bytes:
    """`value` in `size` bytes, big-endian.

    Raises:
        BrokenRuleError of MALFORMED_MESSAGE: the value is negative or does not fit.
    """
    if not 0 <= value < 1 << (8 * size):
        raise BrokenRuleError(Rule.MALFORMED_MESSAGE, f"number {value}: expected 0 to 2**{8 * size} - 1")
    return value.to_bytes(size)


class Reader:
    """Takes a message apart from its start; the first byte that is not as it must be ends it."""

    def __init__(self, payload: bytes, kind: Kind) -> None:
        self._name = kind.name.lower().replace("_", " ")
        if not isinstance(payload, bytes):
            raise BrokenRuleError(
                Rule.MALFORMED_MESSAGE, f"{self._name}: expected bytes, found {type(payload).__name__}"
            )
        self.payload = payload
        self.position = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self.position + size
        if end > len(self.payload):
            raise BrokenRuleError(
                Rule.MALFORMED_MESSAGE, f"{self._name}: {len(self.payload)} bytes; expected {end} or more"
            )
        taken = self.payload[self.position : end]
        self.position = end
        return taken

    def number(self, size: int) -> int:
        """The next `size` bytes as a number."""
        return int.from_bytes(self.take(size))

    def id(self) -> str:
        """The next id."""
        encoded = self.take(self.number(1))
        _check_id(encoded)
        return encoded.decode("ascii")

    def ids(self) -> tuple[str, ...]:
        """The next set of ids, ascending."""
        return tuple(self.entries(0))

    def entries(self, size: int) -> dict[str, bytes]:
        """The next list of (id, `size` bytes), 2-byte count first, ids strictly ascending."""
        found: dict[str, bytes] = {}
        last = ""
        for _ in range(self.number(2)):
            client_id = self.id()
            if client_id <= last:
                raise BrokenRuleError(
                    Rule.MALFORMED_MESSAGE, f"{self._name}: ids {last!r}, {client_id!r}; expected ascending order"
                )
            found[client_id] = self.take(size)
            last = client_id
        return found

    def header(self, kind: Kind, context: bytes = b"") -> None:
        """Check the first bytes of a message.

        Raises:
            BrokenRuleError of MALFORMED_MESSAGE: another magic or kind.
            BrokenRuleError of REPLAYED_MESSAGE: another context.
        """
        if self.take(len(MAGIC) + 1) != header(kind):
            raise BrokenRuleError(Rule.MALFORMED_MESSAGE, f"{self._name}: another kind or version of message")
        if self.take(len(context)) != context:
            raise BrokenRuleError(
                Rule.REPLAYED_MESSAGE, f"{self._name}: made for another session, round, bucket or other terms"
            )

    def end(self) -> None:
        """Check that nothing is left."""
        if self.position != len(self.payload):
            raise BrokenRuleError(
                Rule.MALFORMED_MESSAGE, f"{self._name}: {len(self.payload)} bytes; expected {self.position}"
            )


def encode_entries(entries: Mapping[str, bytes]) -> bytes:
    """The inverse of `Reader.entries`; the values have one common length that the kind of message fixes."""
    body = b"".join(encode_id(client_id) + entries[client_id] for client_id in sorted(entries))
    return encode_number(len(entries), 2) + body


def _check_id(encoded: bytes) -> None:
    if not _ID.fullmatch(encoded):
        raise BrokenRuleError(
            Rule.MALFORMED_MESSAGE,
            f"id {encoded[:80]!r}: expected 1 to 64 of A-Z a-z 0-9 . _ -, first a letter or digit",
        )
