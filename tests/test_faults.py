"""Clients and servers that die, hang, lag and repeat themselves, as real processes; every update counted at most once.

`FAULT_KILLS=50 pytest tests/test_faults.py` kills the server more often; `make faults` does that.
"""

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file

from orchestrator import checkpoint, coordinator, run_server
from orchestrator.aggregator import Aggregator, RoundSum
from orchestrator.checkpoint import load_checkpoint
from orchestrator.run_folder import RoundRecord, RunFolder
from shared.addresses import split_address
from shared.atomic import replace_file
from shared.config import Config, load_config
from shared.data_utils import load_schema
from shared.feature_statistics import StatisticsCode
from shared.he_utils import make_keys
from shared.model import build_model, get_parameters
from tests.forked import Forked
from tests.one_hot import counts, run_clients
from tests.processes import write_config

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("FAULT_KILLS", "10"))
WELL = ("", 0)


class Fork(Protocol):
    """Run a function of this module as a process that ends with the test; what it prints goes to `name`.log."""

    def __call__(self, name: str, target: Callable[..., int], *arguments: Any) -> Forked: ...


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[Fork]:
    started: list[Forked] = []

    def start(name: str, target: Callable[..., int], *arguments: Any) -> Forked:
        started.append(Forked(tmp_path / f"{name}.log", target, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The finished rounds so far: as many lines of the log as the checkpoint says; none before the first."""
    run = RunFolder(folder / "logs" / "latest")
    if not run.checkpoint.exists():
        return []
    finished = load_checkpoint(run.checkpoint).finished.count
    lines = run.metrics.read_bytes().split(b"\n")[:-1]
    assert len(lines) >= finished, "a round that the checkpoint counts is not in the log"
    return [json.loads(line) for line in lines[:finished]]


def await_rounds(folder: Path, rounds: int, process: Forked, timeout: float = 90.0) -> list[dict[str, Any]]:
    """Wait until `rounds` rounds are finished, or the server is."""
    deadline = time.monotonic() + timeout
    while len(records := read_records(folder)) < rounds:
        assert process.alive, process.output
        assert time.monotonic() < deadline, process.output
        time.sleep(0.02)
    return records


class CuttingProxy:
    """Passes bytes between a client and the server, until the client has sent `limit` of them; then calls `on_limit`
    and passes no more."""

    def __init__(self, server_address: str, limit: int) -> None:
        self.on_limit: Callable[[], None] = lambda: None
        self.cut = threading.Event()
        self._target, self._left = split_address(server_address), limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                upstream = socket.create_connection(self._target)
            except OSError:  # the server is not there yet
                client.close()
                continue
            threading.Thread(target=self._send, args=(client, upstream), daemon=True).start()
            threading.Thread(target=self._pass, args=(upstream, client), daemon=True).start()

    def _send(self, client: socket.socket, upstream: socket.socket) -> None:
        self._pass(client, upstream, counted=True)

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool = False) -> None:
        try:
            while data := source.recv(4096):
                if counted:
                    self._left -= len(data)
                    if self._left <= 0:
                        self.on_limit()
                        self.cut.set()
                        break
                sink.sendall(data)
        except OSError:
            pass  # the other direction has ended
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # a close alone would wait for the thread that reads from it
            end.close()


def serve(config: str, *arguments: str) -> int:
    return run_server.main(["--config", config, *arguments])


def half_of_the_first_update(config: Config) -> int:
    """Bytes that a client has sent by then; the statistics of its features come before."""
    aggregator = Aggregator(make_keys(config), config.min_contributors, config.num_clients)
    statistics = StatisticsCode(config, load_schema(config)).sizes.items()
    model = sum(p.size for p in get_parameters(build_model(config)))
    return sum(aggregator.update_bytes(size, name) for name, size in statistics) + aggregator.update_bytes(model) // 2


LATE, TWICE, REPLAY, HUNG, KILLED_BEFORE, KILLED_DURING, KILLED_AFTER = range(2, 9)


def test_faulty_clients_of_every_kind_in_one_run(fork: Fork, tmp_path: Path) -> None:
    path = write_config(
        tmp_path, num_clients=9, min_available_clients=9, min_fit_clients=6, num_rounds=5, round_timeout=20.0,
        num_features=500, num_hidden_units=40, fraction_evaluate=0.0, num_samples_per_client=20, server_wait_timeout=60,
    )  # fmt: skip
    config = load_config(path)
    server = fork("server", serve, str(path))
    faults = {0: WELL, 1: WELL, LATE: ("late", 2), TWICE: ("twice", 2), REPLAY: ("replay", 2), HUNG: ("hung", 2)}
    survivors = fork("survivors", run_clients, str(path), faults)
    killed_before = fork("killed-before", run_clients, str(path), {KILLED_BEFORE: ("killed", 2)})
    killed_after = fork("killed-after", run_clients, str(path), {KILLED_AFTER: ("killed after", 2)})
    proxy = CuttingProxy(config.server_address, limit=half_of_the_first_update(config))
    killed_during = fork("killed-during", run_clients, str(path), {KILLED_DURING: WELL}, 0.0, proxy.address)
    proxy.on_limit = killed_during.kill

    await_rounds(tmp_path, 1, server)
    assert proxy.cut.is_set()
    assert killed_before.finish() == -signal.SIGKILL
    restarted = fork("restarted", run_clients, str(path), {KILLED_BEFORE: WELL})
    # Round 3 begins when the late, the cut off and the restarted client are back: six are needed.
    assert server.finish(150.0) == 0, server.output
    assert (survivors.finish(), restarted.finish()) == (0, 0), survivors.output + restarted.output
    assert killed_after.finish() == -signal.SIGKILL
    assert "Traceback" not in server.output
    proxy.close()

    records = read_records(tmp_path)
    assert [r["round"] for r in records] == [1, 2, 3, 4, 5]
    expected = [
        set(range(9)) - {KILLED_DURING},
        {0, 1, TWICE, REPLAY, KILLED_AFTER},
        {0, 1, LATE, TWICE, KILLED_BEFORE},  # who answered twice was cut off, and has come back
        {0, 1, LATE, TWICE, KILLED_BEFORE, REPLAY},
        {0, 1, LATE, TWICE, KILLED_BEFORE, REPLAY},
    ]
    assert [{int(i) for i in r["contributor_ids"]} for r in records] == expected
    reasons = {(r["round"], int(i)): reason for r in records for i, reason in r["failed"].items()}
    lost = {(1, KILLED_DURING), (2, LATE), (2, HUNG), (2, KILLED_BEFORE)}
    stale = {(3, REPLAY)}
    assert reasons.keys() == lost | stale
    assert all(reasons[key].startswith("lost: ") for key in lost)
    assert all(reasons[key].startswith("update: header: header says round = ") for key in stale)

    model = RunFolder(tmp_path / "logs" / "latest").model
    found = counts(config, model, {r["round"]: r["contributors"] for r in records})
    exact = [[float(i in contributors) for i in range(9)] for contributors in expected]
    np.testing.assert_allclose(found, exact, atol=1e-3)  # 2**-16 of rounding, times the contributors
    accepted = [(i, r["round"]) for r in records for i in r["contributor_ids"]]
    assert len(accepted) == len(set(accepted))


def test_a_round_ends_without_a_client_that_is_frozen(fork: Fork, tmp_path: Path) -> None:
    """Its connection stays open, and nobody reads the 4 MB of model that are sent to it."""
    path = write_config(
        tmp_path, num_rounds=3, min_fit_clients=2, round_timeout=15.0, num_features=2000, num_hidden_units=500,
        he_scheme="none", fraction_evaluate=0.0, num_samples_per_client=20,
    )  # fmt: skip
    server = fork("server", serve, str(path))
    clients = fork("clients", run_clients, str(path), {0: WELL, 1: WELL}, 1.0)
    frozen = fork("frozen", run_clients, str(path), {2: WELL})
    await_rounds(tmp_path, 1, server)
    frozen.freeze()
    assert server.finish() == 0, server.output
    assert clients.finish() == 0, clients.output
    # It was frozen about when round 2 began: round 3 at the latest is without it.
    records = read_records(tmp_path)
    assert [r["contributors"] for r in records] in ([3, 2, 2], [3, 3, 2])


APPEND = RunFolder.append_record


def nothing(*_arguments: Any, **_keywords: Any) -> None:
    """In the place of a function before which the server is killed."""


def append_half(folder: RunFolder, record: RoundRecord) -> None:
    """A line of which half is on the disk."""
    before = folder.metrics.stat().st_size
    APPEND(folder, record)
    os.truncate(folder.metrics, (before + folder.metrics.stat().st_size) // 2)


def write_without_placing(path: Path, data: bytes) -> None:
    """A checkpoint that is on the disk under its temporary name alone."""
    with mock.patch.object(Path, "replace", side_effect=lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
        replace_file(path, data)


# Where the server is killed: owner of a function, its name, and what is still done of it; None: all.
MOMENTS: dict[str, tuple[Any, str, Callable[..., Any] | None]] = {
    "updates are added": (RoundSum, "add", None),
    "the sum is decrypted": (RoundSum, "decrypt_sum", None),
    "the round's line is not written": (RunFolder, "append_record", nothing),
    "half of the line is written": (RunFolder, "append_record", append_half),
    "the line is appended, the checkpoint is not written": (RunFolder, "append_record", None),
    "the line is appended, the checkpoint is not in place": (checkpoint, "replace_file", write_without_placing),
    "the checkpoint is in place, the model is not": (RunFolder, "save_model", nothing),
    "the round is complete": (coordinator, "save_bundle", None),
}
LEAVES_A_LINE = {moment for moment in MOMENTS if "line is appended" in moment or "half of the line" in moment}


def serve_until(config: str, resume: bool, moment: str, calls: int) -> int:
    """Serve until the given moment has come for the `calls`-th time in the life of this process."""
    owner, name, last = MOMENTS[moment]
    original, seen = getattr(owner, name), 0

    def killing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal seen
        seen += 1
        result = (last if last and seen == calls else original)(*arguments, **keywords)
        if seen == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with mock.patch.object(owner, name, killing):
        return serve(config, *(["--resume"] if resume else []))


def test_a_server_killed_ten_times_makes_the_same_model(fork: Fork, tmp_path: Path) -> None:
    rounds = 2 * KILLS + 20
    models, figures = [], []
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        path = write_config(
            folder, num_rounds=rounds, num_features=6, num_hidden_units=[3 * rounds // 5], min_fit_clients=3,
            fraction_evaluate=0.0, server_wait_timeout=60.0,
        )  # fmt: skip
        config = load_config(path)
        clients = fork(f"clients-{name}", run_clients, str(path), {0: WELL, 1: WELL, 2: WELL}, 0.1)
        if name == "killed":
            kill_often(fork, folder, path)
        arguments = ["--resume"] if name == "killed" else []
        last = fork(f"server-{name}", serve, str(path), *arguments)
        assert last.finish(120.0) == 0, last.output
        assert clients.finish() == 0, clients.output

        records = read_records(folder)
        assert [r["round"] for r in records] == list(range(1, rounds + 1))
        assert all(r["contributor_ids"] == ["0", "1", "2"] for r in records)
        run = RunFolder(folder / "logs" / "latest")
        assert len(run.metrics.read_bytes().splitlines()) == rounds
        np.testing.assert_allclose(counts(config, run.model, dict.fromkeys(range(1, rounds + 1), 3)), 1.0, atol=1e-4)
        models.append(load_file(run.model))
        figures.append([{name: r[name] for name in r if not name.endswith("seconds")} for r in records])
    undisturbed, killed = models
    assert undisturbed.keys() == killed.keys()
    for name, tensor in undisturbed.items():
        assert tensor.tobytes() == killed[name].tobytes(), f"{name} differs"
    assert figures[0] == figures[1]


def kill_often(fork: Fork, folder: Path, path: Path) -> None:
    """Kill the server at moments of its work and at random times, and see that no finished round is ever lost."""
    chance = random.Random(20)
    moments = list(MOMENTS)
    known: list[dict[str, Any]] = []
    for kill in range(KILLS):
        resume = RunFolder(folder / "logs" / "latest").checkpoint.exists()
        if kill < len(moments):  # then one of each kind has been; the first call is sometimes one of the start
            process = fork(f"server-{kill}", serve_until, str(path), resume, moments[kill], chance.randint(2, 4))
            assert process.finish() == -signal.SIGKILL, process.output
        else:
            process = fork(f"server-{kill}", serve, str(path), *(["--resume"] if resume else []))
            await_rounds(folder, len(known) + 1, process)
            time.sleep(chance.uniform(0.0, 0.5))  # a round takes about 0.2 s
            assert process.alive, process.output
            process.kill()
        if kill and moments[min(kill, len(moments)) - 1] in LEAVES_A_LINE:
            assert "of a round that was not finished" in process.output, "the next start cuts it off"
        records = read_records(folder)
        assert records[: len(known)] == known, f"a finished round is lost or has changed after kill {kill}"
        known = records
