"""A tenant's agent behind its socket: a whole federation through it, and a hostile node at its other end."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client import agent as agent_module
from client.agent import MAX_CONNECTIONS, Agent
from orchestrator.simulation import make_tenants
from shared.config import Config
from shared.errors import NetworkError
from shared.exchange import Kind, Outcome, Refusal, Reply, Request
from shared.frames import decode_answer, encode_request, receive_frame, send_frame
from tests.federations import SHORT, masked_settings, open_in_memory
from tests.processes import ROOT


class ByAgent:
    """A tenant as whoever carries bytes to its socket sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def answer(self, request: Request) -> Reply | Refusal:
        answer = self.send(encode_request(request))
        assert isinstance(answer, Reply | Refusal), answer
        return answer

    def send(self, frame: tuple[bytes, bytes]) -> Outcome:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as node:
            node.settimeout(30.0)
            node.connect(str(self.path))
            send_frame(node, frame)
            return decode_answer(*receive_frame(node))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return masked_settings(tmp_path, 3, **SHORT)


@pytest.fixture
def agents(config: Config, tmp_path: Path) -> Iterator[dict[str, ByAgent]]:
    tenants = make_tenants(config)
    running = {name: Agent(tenant, tmp_path / f"{name}.sock") for name, tenant in tenants.items()}
    threads = [threading.Thread(target=agent.serve) for agent in running.values()]
    for thread in threads:
        thread.start()
    yield {name: ByAgent(tmp_path / f"{name}.sock") for name in tenants}
    for agent in running.values():
        agent.close()
    for thread in threads:
        thread.join()
    assert not list(tmp_path.glob("*.sock"))


def test_a_federation_of_agents_has_the_same_model_run_after_run(
    config: Config, agents: dict[str, ByAgent], tmp_path: Path
) -> None:
    models = []
    for _ in range(2):
        run = open_in_memory(config, agents)
        run.coordinator.run()
        assert [record.contributors for record in run.coordinator.records] == [3, 3]
        models.append({name: array.tobytes() for name, array in run.coordinator.model.named.items()})
        run.close()
    folder = tmp_path / "memory"
    folder.mkdir()
    alike = masked_settings(folder, 3, **SHORT)
    run = open_in_memory(alike, make_tenants(alike))
    run.coordinator.run()
    models.append({name: array.tobytes() for name, array in run.coordinator.model.named.items()})
    run.close()
    assert models[0] == models[1] == models[2]


def test_a_node_that_repeats_and_reorders_gets_nothing(config: Config, agents: dict[str, ByAgent]) -> None:
    class Hostile(ByAgent):
        """Repeats each request, and tries every stage before its time."""

        more: list[Outcome]

        def answer(self, request: Request) -> Reply | Refusal:
            answer = super().answer(request)
            if request.kind is not Kind.GREET:
                self.more.append(super().send(encode_request(request)))
            if request.kind is Kind.REVEAL:
                for kind in set(Kind) - {Kind.GREET, Kind.DISMISS}:
                    self.more.append(super().send(encode_request(Request(kind, request.values, request.model))))
            return answer

    hostile = Hostile(agents["0"].path)
    hostile.more = []
    run = open_in_memory(config, {**agents, "0": hostile})
    with pytest.raises(Exception, match=r".") as ended:
        run.coordinator.run()
    run.close()
    # A stage asked for twice takes the tenant out of the sum: the run ends for lack of tenants, and nothing is opened.
    assert "expected" in str(ended.value) or "clients" in str(ended.value)
    assert len(hostile.more) > 3
    assert not any(isinstance(outcome, Reply) and outcome.payload for outcome in hostile.more)


def test_nonsense_ends_its_own_connection_and_nothing_else(agents: dict[str, ByAgent]) -> None:
    agent = agents["0"]
    assert isinstance(agent.send((b"no JSON", b"")), Refusal)
    assert isinstance(agent.send((b'{"kind": "train", "values": {}, "shapes": []}', b"")), Refusal)
    for nonsense in (b"", b"\0", os.urandom(1000), b"\xff" * 12):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as node:
            node.settimeout(10.0)
            node.connect(str(agent.path))
            with contextlib.suppress(ConnectionError):  # it may have gone already
                node.sendall(nonsense)
                node.shutdown(socket.SHUT_WR)
                assert node.recv(1) == b"", "no answer"
    assert isinstance(agent.send(encode_request(Request(Kind.GREET, {"run": "20260101-000000-abcdef"}))), Refusal)


def test_a_flood_waits_outside(agents: dict[str, ByAgent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "FRAME_SECONDS", 1.0)
    agent = agents["0"]
    threads = threading.active_count()
    idle = []
    for _ in range(20 * MAX_CONNECTIONS):
        node = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        idle.append(node)
        node.settimeout(0.1)
        with contextlib.suppress(OSError):  # nobody takes the call, or hangs up at once
            node.connect(str(agent.path))
            node.sendall(b"\0")  # the first byte of a frame that never comes
    assert threading.active_count() - threads <= MAX_CONNECTIONS
    end = time.monotonic() + 20.0
    while time.monotonic() < end:
        try:
            answer = agent.send(encode_request(Request(Kind.GREET, {"run": "nonsense"})))
            break
        except OSError:
            time.sleep(0.2)
    assert isinstance(answer, Refusal), "once those that say nothing are cut off, the next is heard"
    for node in idle:
        node.close()


def test_the_socket_is_its_user_s_alone(agents: dict[str, ByAgent]) -> None:
    assert stat.S_IMODE(agents["0"].path.stat().st_mode) == 0o600


def test_a_socket_for_a_group(config: Config, tmp_path: Path) -> None:
    group = str(os.getgid())
    with pytest.raises(NetworkError, match="group"):
        Agent(make_tenants(config)["0"], tmp_path / "a.sock", "no such group")
    import grp

    agent = Agent(make_tenants(config)["1"], tmp_path / "b.sock", grp.getgrgid(int(group)).gr_name)
    assert stat.S_IMODE((tmp_path / "b.sock").stat().st_mode) == 0o660
    agent.close()


def test_no_two_agents_have_one_socket(config: Config, agents: dict[str, ByAgent], tmp_path: Path) -> None:
    other: Any = make_other(config, tmp_path)
    with pytest.raises(NetworkError, match="another agent listens"):
        Agent(other, agents["0"].path)
    (tmp_path / "rows.csv").write_text("1,2")
    with pytest.raises(NetworkError, match="no socket"):
        Agent(other, tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == "1,2"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(tmp_path / "old.sock"))
    Agent(other, tmp_path / "old.sock").close()


def make_other(config: Config, tmp_path: Path) -> Any:
    return make_tenants(config.replace(log_dir=str(tmp_path / "other")))["0"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
@pytest.mark.usefixtures("agents")
def test_a_node_s_user_can_read_neither_keys_nor_ledger(tmp_path: Path) -> None:
    """What a hostile app tries first, and it knows each name. Its user gets neither the socket nor a file."""
    script = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
opened = []
for name in sys.argv[1:]:
    try:
        with open(name, "rb") as file:
            file.read()
        opened.append(name)
    except OSError:
        pass
try:
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect("0.sock"); opened.append("0.sock")
except OSError as error:
    print(error.strerror)
print(opened)
"""
    (tmp_path / "for-all.key").touch(0o644)
    tmp_path.chmod(0o755)
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    secret = [name for name in names if "key" in name or name.endswith(".jsonl")]
    assert {"pki/clients/client-0.key", "state/client-0.jsonl"} < set(secret)
    # From within the folder, as what is above it is closed to this user.
    tried = [sys.executable, "-c", script, *secret]
    said = subprocess.run(tried, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert said.stdout.splitlines() == ["Permission denied", "['for-all.key']"], said.stderr


def test_the_command_line_wants_one_tenant_and_a_socket(tmp_path: Path) -> None:
    command = [sys.executable, "client/run_clients.py", "--config", "config/config.yaml", "--agent"]
    for wrong in ([], ["--client_ids", "0"], ["--socket", str(tmp_path / "a.sock")]):
        end = subprocess.run([*command, *wrong], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert end.returncode == 2
        assert "--agent: expected one tenant and its socket" in end.stdout
