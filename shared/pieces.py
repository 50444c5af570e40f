"""Long messages travel in pieces, so that a server has room for a short one alone until it knows who is speaking.

gRPC has one limit for all messages of a server, and holds what has come of one until it is whole, from whoever it is.
A short message travels as it is. A long one is announced by its length, after a byte that no message of Flower's begins
with, as protobuf has no field 0; its pieces follow, each as long as may be.
"""

from collections.abc import Iterator
from typing import Final

from shared.errors import FrameError

PIECE_BYTES: Final = 1 << 16
_MARK: Final = b"\0"
_HEAD_BYTES: Final = 9  # the mark, and the length in 64 bits, big-endian


def cut(message: bytes) -> Iterator[bytes]:
    """What travels of a message, in order: each at most `PIECE_BYTES` long.

    The law: `Joiner` returns the message with the last of them, and None before.
    """
    if len(message) <= PIECE_BYTES and not message.startswith(_MARK):
        yield message
        return
    yield _MARK + len(message).to_bytes(_HEAD_BYTES - 1, "big")
    for place in range(0, len(message), PIECE_BYTES):
        yield message[place : place + PIECE_BYTES]


class Joiner:
    """Puts the pieces of one side together again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._missing = 0  # bytes of the message that is arriving

    def take(self, piece: bytes, most: int) -> bytes | None:
        """The next that came.

        Args:
            piece: as it travelled.
            most: bytes that a message may have; what is announced as longer is refused before it comes.

        Returns:
            The message that is whole with it; None: more is to come.

        Raises:
            FrameError: it announces or is more than may be, or no such piece was to come.
        """
        if self._missing:
            return self._add(piece)
        if not piece.startswith(_MARK):
            return _checked(piece, len(piece), most)
        length = int.from_bytes(piece[1:], "big")
        if len(piece) != _HEAD_BYTES or not length:
            raise FrameError(f"{len(piece)} bytes that announce no message; expected {_HEAD_BYTES} with its length")
        _checked(piece, length, most)
        self._missing = length
        return None

    def _add(self, piece: bytes) -> bytes | None:
        expected = min(self._missing, PIECE_BYTES)
        if len(piece) != expected:
            raise FrameError(f"a piece of {len(piece)} bytes; expected {expected}, as {self._missing} are missing")
        self._parts.append(piece)
        self._missing -= len(piece)
        if self._missing:
            return None
        message, self._parts = b"".join(self._parts), []
        return message


def _checked(piece: bytes, length: int, most: int) -> bytes:
    if length > most:
        raise FrameError(f"{length} bytes, expected at most {most}")
    return piece
