"""What a client does to its process, and what it makes of the environment, before it looks for a server."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from client import channel, connection
from tests.conftest import Start
from tests.processes import ROOT, free_port, write_config

SERVER, CLIENTS = "orchestrator/run_server.py", "client/run_clients.py"
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "")  # set first, so that whatever a test leaves is taken back
        monkeypatch.delenv(name)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "127.3.2.1:1"])
def test_no_proxy_is_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    for _ in range(2):
        assert channel.mind_proxy(address) == ""
        assert os.environ[channel._SPARED] == f"example.org,{address[:-2]}"


def test_a_proxy_for_another_machine_is_used_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "server.example:1"
    assert channel.mind_proxy(address) == ""
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    words = channel.mind_proxy(address)
    assert words == "the proxy of http_proxy; name server.example in no_proxy to go without"
    assert channel._SPARED not in os.environ
    monkeypatch.setenv("no_proxy", "other.example,server.example")
    assert channel.mind_proxy(address) == ""


@pytest.mark.long
def test_a_run_on_one_machine_needs_no_proxy(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No client reached even 127.0.0.1 where http_proxy was set."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    config = str(write_config(tmp_path, num_rounds=1, server_wait_timeout=30.0))
    server, clients = start(SERVER, "--config", config), start(CLIENTS, "--config", config)
    client_end, server_end = clients.finish(), server.finish()
    assert (client_end.code, server_end.code) == (0, 0), client_end.output + server_end.output


@pytest.mark.long
def test_an_import_changes_nothing_of_the_process() -> None:
    code = (
        "import threading; before = threading.excepthook; import client.connection;"
        "assert threading.excepthook is before"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_one_thread_is_quiet_and_the_others_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(str(args.exc_value)))
    for _ in range(3):
        connection._quieten_channel_watcher()

    def end(words: str) -> None:
        raise ValueError(words)

    for words in ("Cannot monitor channel state: Channel closed!", "something else"):
        thread = threading.Thread(target=end, args=(words,))
        thread.start()
        thread.join()
    assert told == ["something else"], "once, however many clients a process has"
