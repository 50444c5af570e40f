"""Flower's grid as a transport: whoever is silent, gone or broken is lost, and holds nobody up."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flower_app import grid_transport
from flower_app.grid_transport import GridTransport
from orchestrator.patience import OF_DEPLOYMENT, Patience, of_simulation
from orchestrator.seats import Seats
from shared.exchange import Exchange, Kind, Lost, Outcome, Reply, Request
from shared.frames import decode_request, encode_answer, receive_frame, send_frame
from tests.grids import FakeGrid, until

RUN = "20260101-000000-abcdef"


class Sockets:
    """Tenants that answer anything: their number to a greeting, and the kind of the request to all else."""

    def __init__(self, folder: Path, count: int) -> None:
        import socket

        self.paths = {number: folder / f"{number}.sock" for number in range(count)}
        self.tenants = {number: number for number in self.paths}
        self.asked: list[tuple[int, Kind]] = []
        self._listeners = {}
        for number, path in self.paths.items():
            self._listeners[number] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listeners[number].bind(str(path))
            self._listeners[number].listen(300)
            threading.Thread(target=self._serve, args=(number,), daemon=True).start()

    def _serve(self, number: int) -> None:
        while True:
            try:
                connection, _ = self._listeners[number].accept()
            except OSError:
                return
            with connection:
                request = decode_request(*receive_frame(connection))
                self.asked.append((number, request.kind))
                values: Any = {"client_id": self.tenants[number]} if request.kind is Kind.GREET else {}
                send_frame(connection, encode_answer(Reply(request.kind.value.encode(), values)))

    def close(self) -> None:
        import socket

        for listener in self._listeners.values():
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


Make = Callable[..., tuple[GridTransport, FakeGrid, Sockets]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(grid_transport, "_NODES_SECONDS", 0.02)
    opened: list[Any] = []

    def make_one(count: int = 3, patience: Patience = Patience(), grid_of: Any = FakeGrid) -> Any:  # noqa: B008
        sockets = Sockets(tmp_path, count)
        grid = grid_of(sockets.paths)
        transport = GridTransport(Seats(RUN, "session"), grid, patience, idle_seconds=0.005)
        opened.extend((transport, sockets))
        until(lambda: len(transport.seats.tenants()) == len({*sockets.tenants.values()}))
        return transport, grid, sockets

    yield make_one
    for each in opened:
        each.close()


def ask(transport: GridTransport, tenants: int = 3, timeout: float = 20.0) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    requests = {str(number): Request(Kind.TRAIN, {}) for number in range(tenants)}
    transport.ask(Exchange(Kind.TRAIN, requests, timeout, "stage_timeout: 20", outcomes.__setitem__))
    assert sorted(outcomes) == sorted(requests), "each outcome exactly once"
    return outcomes


BEYOND_THE_TEST = 1000.0  # seconds; pytest ends a test before
LOST = Lost("disconnected, or no answer within stage_timeout: 20")


def test_all_answer(make: Make) -> None:
    transport, grid, _ = make()
    assert list(ask(transport).values()) == [Reply(b"train", {})] * 3
    types = {kind for _, kind, _ in grid.pushed}
    assert types == {"query.greet", "train"}
    assert all(0 < ttl <= 30.0 for _, _, ttl in grid.pushed), "Flower would keep a message for 12 hours"


@pytest.mark.parametrize("fault", ["absent", "errors"])
def test_who_is_gone_is_lost_at_once(make: Make, fault: str) -> None:
    transport, grid, _ = make()
    getattr(grid, fault).add(1)
    outcomes = ask(transport, timeout=BEYOND_THE_TEST)
    assert outcomes["1"] == LOST
    assert isinstance(outcomes["0"], Reply)
    assert isinstance(outcomes["2"], Reply)


def test_who_is_silent_is_lost_after_its_time(make: Make) -> None:
    transport, grid, _ = make()
    grid.silent.add(2)
    start = time.monotonic()
    assert ask(transport, timeout=0.5)["2"] == LOST
    assert time.monotonic() - start > 0.4


def test_who_was_never_there_is_lost(make: Make) -> None:
    transport, _, _ = make()
    assert ask(transport, tenants=5)["4"] == LOST


def test_an_engine_s_patience_stretches_time_outs() -> None:
    assert of_simulation(100, 2).seconds(30.0) == 1500.0
    assert of_simulation(1, 2).seconds(30.0, first=True) == 180.0, "a cold start"
    assert OF_DEPLOYMENT.seconds(30.0) == 120.0
    assert OF_DEPLOYMENT.seconds(300.0) == 300.0
    assert Patience().seconds(1.0) == 1.0


def test_who_leaves_has_no_seat_and_who_comes_back_has_one(make: Make) -> None:
    transport, grid, _ = make()
    grid.nodes.discard(1)
    until(lambda: list(transport.seats.tenants()) == ["0", "2"])
    assert ask(transport)["1"] == LOST
    grid.nodes.add(1)
    until(lambda: len(transport.seats.tenants()) == 3)
    assert isinstance(ask(transport)["1"], Reply)


@pytest.mark.long
def test_a_second_node_of_a_tenant_is_sent_away_and_not_asked_again_at_once(make: Make) -> None:
    transport, _, sockets = make(3)
    sockets.tenants[2] = 1
    transport.seats.leave("2")
    until(lambda: (2, Kind.DISMISS) in sockets.asked)
    time.sleep(0.3)
    assert sockets.asked.count((2, Kind.GREET)) == 2
    assert list(transport.seats.tenants()) == ["0", "1"]


def test_a_grid_that_breaks_loses_its_messages_and_nothing_else(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    class Breaking(FakeGrid):
        broken = False

        def push_messages(self, messages: Any) -> list[str]:
            if self.broken:
                raise ConnectionError("413 Payload Too Large")
            return super().push_messages(messages)

    transport, grid, _ = make(grid_of=Breaking)
    grid.broken = True  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        assert set(map(str, ask(transport).values())) == {str(LOST)}
        until(lambda: "413 Payload Too Large" in caplog.text)  # told by the thread that carries the messages
    grid.broken = False  # type: ignore[attr-defined]
    assert isinstance(ask(transport)["0"], Reply)


def test_many_answers_are_taken_as_they_come_and_wait_in_no_pile(make: Make) -> None:
    transport, _, _ = make(60)
    requests = {str(number): Request(Kind.TRAIN, {}) for number in range(60)}
    waiting: list[int] = []

    def slowly(_tenant: str, _outcome: Outcome) -> None:
        time.sleep(0.01)
        waiting.append(len(transport._pending))

    transport.ask(Exchange(Kind.TRAIN, requests, 20.0, "", slowly))
    assert len(waiting) == 60
    assert waiting[-1] == 0


def test_after_the_end_nobody_waits(make: Make) -> None:
    transport, _, _ = make()
    transport.close()
    assert ask(transport)["0"] == LOST
    assert isinstance(transport.ask_one("0", Request(Kind.GREET, {}), 20.0), Lost)
