"""Strangers that each begin the longest message that a server takes, and never end it. HTTP/2 by hand, no gRPC.

gRPC's own clients send whole messages. A server holds what has come of a message until it is whole, so the costly
stranger is the one that leaves out the last byte.
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_HEADERS = 1, 4
_FRAME_BYTES = 16_384  # the longest frame that a server must take
_WINDOW_BYTES = 65_535  # that may be sent at first, RFC 9113, section 6.9.2


class HalfMessage:
    """One connection, with one stream and a message that lacks its last byte; `step` does what can be done.

    Args:
        sock: to the server, TLS or not.
        path: of the method.
        size: bytes of the message, as its head says.

    Attributes:
        sent: of them.
        ended: whether the server has ended it.
    """

    def __init__(self, sock: socket.socket, path: str, size: int) -> None:
        self._sock, self._left = sock, size - 1
        self.sent, self.ended = 0, False
        self._windows = [_WINDOW_BYTES - 5, _WINDOW_BYTES - 5]  # of the connection, and of the stream, after the head
        self._came = b""
        sock.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, _END_HEADERS, 1, _headers(path)))
        sock.setblocking(False)
        self._out = _frame(_DATA, 0, 1, b"\0" + struct.pack(">I", size))

    def step(self) -> None:
        """Read what has come, and send what may be sent."""
        try:
            while True:
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    came = self._sock.recv(1 << 16)
                    if not came:
                        raise ConnectionError
                    self._came += came
                    self._take()
                while not self._out and self._left and (room := min(*self._windows, self._left, _FRAME_BYTES)) > 0:
                    self._out = _frame(_DATA, 0, 1, bytes(room))
                    self._left -= room
                    self.sent += room
                    self._windows = [window - room for window in self._windows]
                if not self._out:
                    return
                try:
                    self._out = self._out[self._sock.send(self._out) :]
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return
        except OSError:
            self.close()

    def _take(self) -> None:
        for kind, flags, stream, body in self._frames():
            if kind == _WINDOW:
                self._windows[bool(stream)] += struct.unpack(">I", body)[0]
            elif kind == _SETTINGS and not flags & _ACK:
                for place in range(0, len(body), 6):
                    name, value = struct.unpack_from(">HI", body, place)
                    if name == 4:  # the first window of a stream
                        self._windows[1] += value - _WINDOW_BYTES
                self._out += _frame(_SETTINGS, _ACK, 0, b"")
            elif kind == _PING and not flags & _ACK:
                self._out += _frame(_PING, _ACK, 0, body)
            elif kind in (_RESET, _GOAWAY):
                raise ConnectionError

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        while len(self._came) >= 9:
            length, (kind, flags, stream) = int.from_bytes(self._came[:3]), struct.unpack(">BBI", self._came[3:9])
            if len(self._came) < 9 + length:
                return
            body, self._came = self._came[9 : 9 + length], self._came[9 + length :]
            yield kind, flags, stream, body

    def close(self) -> None:
        """End the connection."""
        self.ended = True
        self._sock.close()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + body


def _headers(path: str) -> bytes:
    """HPACK, RFC 7541, without its dictionaries: POST, https, the path, a host, and what makes it gRPC."""

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    kind = b"\x0f\x10" + text("application/grpc")
    return b"\x83\x87\x04" + text(path) + b"\x01" + text("localhost") + kind + b"\x00" + text("te") + text("trailers")


def connect(port: int, tls: ssl.SSLContext | None) -> socket.socket:
    """A socket to a server of this machine.

    Raises:
        OSError: it does not get there.
    """
    raw = socket.create_connection(("127.0.0.1", port), timeout=5.0)
    if tls is None:
        return raw
    try:
        return tls.wrap_socket(raw, server_hostname="localhost")
    except OSError:
        raw.close()
        raise


def hold(
    port: int, tls: ssl.SSLContext | None, path: str, size: int, number: int, over: threading.Event
) -> tuple[int, int, int]:
    """Keep so many half messages at the server, until it is over.

    Args:
        port, path: of the server.
        tls: how; None: in clear text.
        size: bytes of a message.
        number: at once.
        over: says when it is.

    Returns:
        How many connections were begun, how many the server ended, and the most bytes that were there at once.
    """
    here: list[HalfMessage] = []
    begun = ended = most = 0
    while not over.is_set():
        here = [one for one in here if not one.ended]
        if len(here) < number:
            with contextlib.suppress(OSError):
                here.append(HalfMessage(connect(port, tls), path, size))
                begun += 1
        for one in here:
            one.step()
        ended += sum(one.ended for one in here)
        most = max(most, sum(one.sent for one in here if not one.ended))
        time.sleep(0.001)
    for one in here:
        one.close()
    return begun, ended, most
