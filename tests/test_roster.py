"""The roster: a greeting for each connection, and no connection that holds up the others."""

import sys
import threading
import time
from collections.abc import Callable

import pytest
from flwr.common import Code, GetPropertiesIns, GetPropertiesRes, Scalar, Status
from flwr.server.client_proxy import ClientProxy

from orchestrator import roster as roster_module
from orchestrator.roster import Roster
from orchestrator.strategy import _number
from shared.errors import TooFewClientsError

Answer = Callable[[GetPropertiesIns], dict[str, Scalar]]


class Connection(ClientProxy):
    """A connection whose other end answers `get_properties` by a function."""

    def __init__(self, cid: str, answer: Answer) -> None:
        super().__init__(cid)
        self.answer = answer
        self.heard: list[dict[str, Scalar]] = []

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        self.heard.append(ins.config)
        return GetPropertiesRes(Status(Code.OK, ""), self.answer(ins))

    get_parameters = fit = evaluate = reconnect = None  # type: ignore[assignment]


def tenant(number: Scalar) -> Answer:
    return lambda _ins: {"client_id": number}


def ids(roster: Roster) -> list[str]:
    return [roster.tenant_of(client) for client in roster.connected()]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_clients_are_sorted_by_number_whatever_their_order_and_their_cid() -> None:
    roster = Roster("run", "session")
    for cid, number in (("x", 10), ("y", 2), ("z", 0)):
        roster.register(Connection(cid, tenant(number)))
    roster.gather(3, timeout=20)
    assert ids(roster) == ["0", "2", "10"]


def test_a_silent_connection_delays_nobody() -> None:
    never = threading.Event()
    roster = Roster("run", "session")

    def silent(_ins: GetPropertiesIns) -> dict[str, Scalar]:
        never.wait(30)
        raise ConnectionError

    roster.register(Connection("silent", silent))
    roster.register(Connection("a", tenant(1)))
    assert len(roster.gather(1, timeout=20)) == 1
    never.set()
    wait_until(lambda: "silent" not in roster.clients)


@pytest.mark.parametrize("number", [-1, True, "1", 1.0, b"1"])
def test_what_is_no_client_number_is_dropped(number: Scalar) -> None:
    roster = Roster("run", "session")
    stranger = Connection("a", tenant(number))
    roster.register(stranger)
    wait_until(lambda: not roster.clients)
    assert "no proper answer to the greeting" in str(stranger.heard[-1]["refused"])  # or it would wait forever
    with pytest.raises(TooFewClientsError, match=r"0 clients came within 0.1 s, 1 are needed"):
        roster.gather(1, timeout=0.1)


def test_the_second_of_one_id_is_refused_and_the_first_stays() -> None:
    roster = Roster("run", "session")
    first, second = Connection("a", tenant(1)), Connection("b", tenant(1))
    roster.register(first)
    roster.gather(1, timeout=20)
    roster.register(second)
    wait_until(lambda: "b" not in roster.clients)
    assert roster.connected() == [first]
    assert "a client 1 is connected already" in str(second.heard[-1]["refused"])


def test_a_lost_client_may_come_back() -> None:
    roster = Roster("run", "session")
    first = Connection("a", tenant(1))
    roster.register(first)
    roster.gather(1, timeout=20)
    roster.unregister(first)
    roster.unregister(first)
    assert roster.connected() == []
    roster.register(Connection("b", tenant(1)))
    assert [c.cid for c in roster.gather(1, timeout=20)] == ["b"]


def test_a_flood_of_silent_connections_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_module, "MAX_UNGREETED", 3)
    gate = threading.Event()

    def slow(_ins: GetPropertiesIns) -> dict[str, Scalar]:
        gate.wait(30)
        return {"client_id": 1}

    roster = Roster("run", "session")
    assert [roster.register(Connection(str(i), slow)) for i in range(5)] == [True, True, True, False, False]
    gate.set()
    roster.gather(1, timeout=20)


def test_clients_may_come_and_go_while_the_roster_is_read() -> None:
    """Flower walks through `all()`, and `gather` through the connections, while gRPC's threads change them."""
    roster, over = Roster("run", "session"), threading.Event()
    errors: list[BaseException] = []
    for number in range(100):
        roster.register(Connection(f"stays-{number}", tenant(number)))
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # seconds; threads take turns often

    def come_and_go(start: int) -> None:
        try:
            number = start
            while not over.is_set():
                connection = Connection(str(number), tenant(number))
                roster.register(connection)
                roster.unregister(connection)
                roster.unregister(connection)  # a lost connection and a failed greeting may both come to it
                number += 4
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(1000 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            connected = roster.all()
            assert len([connected[cid] for cid in connected.keys()]) == len(connected)  # noqa: SIM118 (as Flower does)
            roster.connected()
    finally:
        sys.setswitchinterval(usual)
        over.set()
        for thread in threads:
            thread.join()
    assert not errors


@pytest.mark.parametrize("value", [1e308, float("inf"), float("nan"), -1.0, "1", b"1"])
def test_a_figure_that_no_client_can_have_is_not_counted(value: str | bytes | float) -> None:
    """Two of 1e308 add up to infinity, which the checkpoint can't hold: two clients could end the server."""
    assert _number({"accuracy": value}, "accuracy") == 0.0
