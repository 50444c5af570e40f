"""Real HTTP servers on loopback that take alerts as Splunk, Elasticsearch and webhooks do, or misbehave as told."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """One request; the server's next planned reply answers it, or else its usual one."""

    server: "Server"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            reply = self.server.planned.pop(0) if self.server.planned else self.server.usual
        reply(self, body)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, cut: int = 0) -> None:
        """Answer; the last `cut` bytes of the body never come."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A place that takes alerts.

    Attributes:
        requests: path, headers and body of each.
        planned: replies to the next requests.
        taken: id of each alert that it took, in order; one that it took twice is in it twice.
    """

    daemon_threads = True

    def __init__(self, usual: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.usual = usual
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.planned: list[Reply] = []
        self.taken: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def twice(self) -> list[str]:
        """Ids that it took more than once."""
        return [name for name, count in Counter(self.taken).items() if count > 1]


@contextmanager
def serving(usual: Reply) -> Iterator[Server]:
    """A server while the test needs it."""
    server = Server(usual)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def values(body: bytes) -> list[Any]:
    """The JSON values of a body, one after the other."""
    decoder, text, found, at = json.JSONDecoder(), body.decode(), [], 0
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        while at < len(text) and text[at] in "\n ":
            at += 1
    return found


def splunk(handler: Handler, body: bytes) -> None:
    """As HEC does: all events or, where one is malformed, none."""
    with handler.server.lock:
        handler.server.taken += [event["fields"]["finding_id"] for event in values(body)]
    handler.answer(200, b'{"text":"Success","code":0}')


def bulk(handler: Handler, body: bytes) -> None:
    """As the bulk API does with `create`: a document that is there already is a conflict."""
    answer_bulk(handler, body, {})


def answer_bulk(handler: Handler, body: bytes, statuses: dict[int, int]) -> None:
    """The same, with another status for the document at a place."""
    items: list[dict[str, Any]] = []
    with handler.server.lock:
        for place, name in enumerate(document_ids(body)):
            status = statuses.get(place, 409 if name in handler.server.taken else 201)
            if status == 201:
                handler.server.taken.append(name)
            error = {} if status < 300 else {"error": {"type": "planned", "reason": "of the test"}}
            items.append({"create": {"_index": "alerts", "_id": name, "status": status, **error}})
    wrong = any(item["create"]["status"] >= 300 for item in items)
    handler.answer(200, json.dumps({"took": 1, "errors": wrong, "items": items}).encode())


def document_ids(body: bytes) -> list[str]:
    return [action["create"]["_id"] for action in values(body)[::2]]


def webhook(handler: Handler, body: bytes) -> None:
    with handler.server.lock:
        handler.server.taken += [item["id"] for item in json.loads(body)["findings"]]
    handler.answer(204)


def saying(status: int, body: bytes = b"", **headers: str) -> Reply:
    """An answer, and nothing taken."""
    return lambda handler, _: handler.answer(status, body, {k.replace("_", "-"): v for k, v in headers.items()})


def hang(handler: Handler, body: bytes) -> None:
    """Never answer, until the other side gives up."""
    handler.connection.settimeout(60)
    with suppress(OSError):
        handler.connection.recv(1)
    handler.close_connection = True


def close_in_the_middle(handler: Handler, body: bytes) -> None:
    handler.answer(200, b'{"text":"Success","code":0}', cut=5)


def close_at_once(handler: Handler, body: bytes) -> None:
    handler.close_connection = True


def drip(handler: Handler, body: bytes) -> None:
    """An answer that never ends, a byte now and then."""
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        for _ in range(600):
            handler.wfile.write(b" ")
            time.sleep(0.05)
    handler.close_connection = True
