"""One client's stream: the server asks, the client answers, and each request has one answer. Free of gRPC and Flower.

Flower's own server reads whatever a client sends into a queue without an end. Here a message that nobody asked for ends
the stream, so no more than one message of each client is ever held, and before it has said who it is no long one.
"""

import ipaddress
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import unquote

from orchestrator.seats import Channel
from shared.errors import FrameError
from shared.pieces import Joiner

GREETING_BYTES: Final = 1 << 14  # the longest answer to a greeting: some 200 bytes, or an error of 2,000 letters


class Why(Enum):
    """What kind of reason a stream ends for, by the names of gRPC's status codes."""

    REFUSED = "PERMISSION_DENIED"
    CROWDED = "RESOURCE_EXHAUSTED"
    RULES = "INVALID_ARGUMENT"
    SILENT = "DEADLINE_EXCEEDED"
    LATER = "UNAVAILABLE"
    GONE = "CANCELLED"


@dataclass(frozen=True)
class End:
    """Why a stream has ended, as its client is told."""

    why: Why
    reason: str


@dataclass(frozen=True)
class Peer:
    """The other end of a socket.

    Attributes:
        host: its address, as `of` spells it.
        port: its port.
    """

    host: str
    port: int

    @property
    def address(self) -> str:
        """What limits count by: an IPv4 address, or the first 64 bits of an IPv6 one, which one host has all of."""
        if ":" not in self.host:
            return self.host
        return str(ipaddress.ip_network((self.host, 64), strict=False))

    @classmethod
    def of(cls, host: str, port: int) -> "Peer":
        """One spelling for one peer: an IPv4 address may come as an IPv6 one, and an IPv6 one in many ways."""
        try:
            found = ipaddress.ip_address(host.strip("[]").partition("%")[0])
        except ValueError:
            return cls(host.replace(":", "."), port)
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
        return cls(str(mapped or found), port)

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Of gRPC's `ipv4:127.0.0.1:5000` and `ipv6:%5B::1%5D:5000`; another form counts as a host by itself."""
        _, _, rest = unquote(text).partition(":")
        host, _, port = rest.rpartition(":")
        return cls.of(host, int(port)) if port.isdecimal() else cls.of(rest, 0)


class Stream:
    """One stream, from its first message to its end. Safe from any thread.

    Args:
        peer: the other end.
        channel: what is known of the connection.
        on_end: called once, when the stream has ended, in whatever thread ended it.
        longest: bytes of the longest message of an honest client.

    Attributes:
        name: random.
        since: `time.monotonic` of its beginning.
        proven: whether it has said who it is.
    """

    def __init__(self, peer: Peer, channel: Channel, on_end: Callable[["Stream"], None], longest: int) -> None:
        self.peer, self.channel, self._longest = peer, channel, longest
        self.name, self.since = uuid.uuid4().hex, time.monotonic()
        self.proven = False
        self._on_end = on_end
        self._turn = threading.Lock()  # of whoever asks
        self._changed = threading.Condition()
        self._request: bytes | None = None
        self._asked = False
        self._answer: bytes | None = None
        self._joiner = Joiner()
        self._end: End | None = None

    @property
    def end(self) -> End | None:
        """Why it has ended; None while it has not."""
        return self._end

    def prove(self) -> None:
        """It has said who it is: from now on it may send long messages."""
        self.proven = True

    def ask(self, request: bytes, timeout: float | None) -> bytes:
        """Send a request, and wait for its answer.

        Args:
            request: one message.
            timeout: seconds; the stream ends with it.

        Raises:
            ConnectionError: it has ended, or ends before there is an answer.
        """
        with self._turn:
            with self._changed:
                if self._end is None:
                    self._request, self._asked, self._answer = request, True, None
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._answer is not None or self._end is not None, timeout)
                answer, self._answer = self._answer, None
            if answer is None:
                self.close(Why.SILENT, f"no answer within {timeout or 0.0:g} s")
                raise ConnectionError(self._end.reason if self._end else "")
            return answer

    def requests(self) -> Iterator[bytes]:
        """What is to be sent, as it comes, until the stream ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._request is not None or self._end is not None)
                if self._end is not None or self._request is None:
                    return
                request, self._request = self._request, None
            yield request

    def read(self, pieces: Iterable[bytes]) -> None:
        """Take what comes, as `shared/pieces.py` cuts it, until nothing comes any more."""
        for piece in pieces:
            self._take(piece)
            if self._end is not None:
                return
        self.close(Why.GONE, "the client has stopped sending")

    def _take(self, piece: bytes) -> None:
        with self._changed:
            if not self._asked:
                reason = "a message that nobody asked for; expected one answer to each request"
            else:
                try:
                    message = self._joiner.take(piece, self._longest if self.proven else GREETING_BYTES)
                except FrameError as error:
                    reason = f"in answer to {'a request' if self.proven else 'the greeting'}: {error}"
                else:
                    if message is not None:
                        self._answer, self._asked = message, False
                        self._changed.notify_all()
                    return
        self.close(Why.RULES, reason)

    def close(self, why: Why, reason: str) -> None:
        """End it; the first reason counts."""
        with self._changed:
            if self._end is not None:
                return
            self._end = End(why, reason)
            self._request = None  # an answer that has come still counts
            self._changed.notify_all()
        self._on_end(self)
