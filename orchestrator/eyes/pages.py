"""A few pages over HTTP, by the standard library: for people and programs that look on, and for nobody else.

A reader costs a thread, so there are at most `MOST_READERS`, and one that neither asks nor reads is let go after
`PATIENCE_SECONDS`. Nobody is asked who they are: the address is a loopback one unless the settings say otherwise. A
page of somebody else, open in a browser on this machine, must not read along by a name of its own that leads here (DNS
rebinding): requests under other names than this machine's own are refused.
"""

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

from shared.addresses import is_loopback, split_address
from shared.errors import NetworkError

MOST_READERS: Final = 32
PATIENCE_SECONDS: Final = 20.0
_BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    # No script but the page's own file, nothing from elsewhere, and no frame around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger("orchestrator")


class Pages:
    """Serves until `close`.

    Args:
        address: host:port to listen on.
        setting: where the address comes from, for errors.
        pages: by path; each answers one request through its handler.
        any_name: whether requests under any name are answered, as where other machines may read.

    Raises:
        NetworkError: it can't listen there.
    """

    def __init__(
        self, address: str, setting: str, pages: Mapping[str, Callable[["Reader"], None]], *, any_name: bool = False
    ) -> None:
        host, port = split_address(address, setting)
        try:
            family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._server = _Server(family, place, pages, any_name)
        except OSError as error:
            raise NetworkError(
                f"{setting} = {address!r}: can't listen there: {error.strerror or error}; stop what does, or choose "
                "another address"
            ) from None
        threading.Thread(target=self._server.serve_forever, name=setting, daemon=True).start()

    def close(self) -> None:
        """Take no more readers; those that are at work end with the process, or when they notice. Twice is fine."""
        self._server.shutdown()
        self._server.server_close()


class Reader(BaseHTTPRequestHandler):
    """One request of one reader."""

    timeout = PATIENCE_SECONDS  # of the socket, to read and to write
    server_version, sys_version = "orchestrator", ""
    server: "_Server"

    def do_GET(self) -> None:
        """Answer, or say that there is no such page."""
        page = self.server.pages.get(self.path.partition("?")[0])
        if not self.server.any_name and not _is_own_name(self.headers.get("Host", "")):
            self.answer("this name is not one of this machine's own\n", status=HTTPStatus.MISDIRECTED_REQUEST)
        elif page is None:
            self.answer("no such page\n", status=HTTPStatus.NOT_FOUND)
        else:
            page(self)

    def begin(self, content_type: str, length: int | None = None, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Write the head of an answer."""
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer(
        self,
        body: str | bytes,
        content_type: str = "text/plain; charset=utf-8",
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        """Write a whole answer."""
        data = body.encode() if isinstance(body, str) else body
        self.begin(content_type, len(data), status)
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: who looks on is no news of the run."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_READERS

    def __init__(self, family: int, place: Any, pages: Mapping[str, Callable[[Reader], None]], any_name: bool) -> None:
        self.address_family = socket.AddressFamily(family)
        self.pages, self.any_name = pages, any_name
        self._free = threading.BoundedSemaphore(MOST_READERS)
        super().__init__(place, Reader)

    def server_bind(self) -> None:
        """Without the look-up of this machine's full name, which may take a while."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more reader, if there is room."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(_BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In a thread of the reader's own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that has gone is no news; a page that can't be made is."""
        error = sys.exception()
        if not isinstance(error, OSError):
            _log.warning("a page at port %d can't be made: %s: %s", self.server_port, type(error).__name__, error)


def _is_own_name(host: str) -> bool:
    """Whether a Host header names this machine as its own programs do."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name)
