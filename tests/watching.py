"""Federations that are looked on at while they run, with a tenant that says hostile things."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.run import OpenRun
from orchestrator.transport import Answering
from shared.config import Config
from shared.exchange import Kind, Refusal, Reply, Request
from tests.federations import make_tenants, open_in_memory
from tests.processes import SMALL, free_port

ATTACK = "<script>document.title='taken over'</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\n\u202edata: x"


class Hostile:
    """A tenant that answers each request for training with a text of its own."""

    def __init__(self, tenant: Answering, text: str = ATTACK) -> None:
        self._tenant, self._text = tenant, text

    def answer(self, request: Request) -> Reply | Refusal:
        return Refusal(self._text) if request.kind is Kind.TRAIN else self._tenant.answer(request)


def watched_settings(folder: Path, **changes: Any) -> Config:
    """A small run that shows its figures and its page."""
    settings = {**SMALL, "num_hidden_units": (3,), "log_dir": str(folder / "logs"), **changes}
    for name in ("metrics_address", "live_address"):
        settings.setdefault(name, f"127.0.0.1:{free_port()}")
    return Config(**settings)


def open_hostile(config: Config) -> OpenRun[Any]:
    """A run with one hostile tenant among the others, its last."""
    tenants: dict[str, Answering] = dict(make_tenants(config))
    last = list(tenants)[-1]
    tenants[last] = Hostile(tenants[last])
    return open_in_memory(config, tenants)


def get(address: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of a page."""
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


class Listener:
    """One reader of the page's events, on a socket."""

    def __init__(self, address: str, *, reads: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.sendall(f"GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")
        self.head = self._file.readline().decode() if reads else ""

    def events(self) -> Iterator[tuple[str, dict[str, str]]]:
        """(name, parts of the page) of each event, to the end of them."""
        name = "message"
        for line in self._file:
            field, _, value = line.decode().strip().partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value) if value else {}
                name = "message"
            elif field == "data:":
                yield name, {}

    def close(self) -> None:
        self._file.close()
        self._socket.close()
