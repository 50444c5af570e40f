"""Who is connected, with connections that come, go and misbehave; no network needed."""

import sys
import threading
from typing import NoReturn

import pytest
from flwr.common import Code, GetPropertiesIns, GetPropertiesRes, Status
from flwr.server.client_proxy import ClientProxy

from orchestrator.roster import Roster
from orchestrator.strategy import _number
from shared.errors import TooFewClientsError


class Connection(ClientProxy):
    """Answers the greeting with `client_id`, or raises it, and keeps what it was told."""

    def __init__(self, cid: str, client_id: object) -> None:
        super().__init__(cid)
        self._client_id = client_id
        self.refused: list[object] = []

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        if "refused" in ins.config:
            self.refused.append(ins.config["refused"])
            raise ConnectionError  # a client that hears this ends the connection
        if isinstance(self._client_id, Exception):
            raise self._client_id
        return GetPropertiesRes(Status(Code.OK, ""), {"client_id": self._client_id})  # type: ignore[dict-item]

    def _never(self, *_arguments: object, **_keywords: object) -> NoReturn:
        raise NotImplementedError

    get_parameters = fit = evaluate = reconnect = _never


def make_roster() -> Roster:
    return Roster("20260101-000000-abcdef", "session", greeting_timeout=1.0)


@pytest.mark.parametrize("answer", ["0", -1, True, None, ValueError("no such setting")])
def test_a_client_that_fails_its_greeting_is_told(answer: object) -> None:
    """One that is merely forgotten would wait for its first round forever."""
    roster, stranger = make_roster(), Connection("a", answer)
    roster.register(stranger)
    with pytest.raises(TooFewClientsError):
        roster.gather(1, timeout=0.1)
    assert len(stranger.refused) == 1
    assert roster.all() == {}


def test_an_id_that_is_taken_is_refused() -> None:
    roster = make_roster()
    first, second = Connection("a", 7), Connection("b", 7)
    roster.register(first)
    assert roster.gather(1, timeout=1.0) == [first]
    roster.register(second)
    assert roster.gather(1, timeout=1.0) == [first]
    assert (len(first.refused), len(second.refused)) == (0, 1)
    roster.unregister(first)  # it is free again
    third = Connection("c", 7)
    roster.register(third)
    assert roster.gather(1, timeout=1.0) == [third]


def test_clients_may_come_and_go_while_the_roster_is_read() -> None:
    """Flower walks through `all()`, and `gather` through the connections, while gRPC's threads change them."""
    roster, over = make_roster(), threading.Event()
    errors: list[BaseException] = []
    for number in range(2000):  # a long walk
        roster.register(Connection(f"stays-{number}", number))
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # seconds; threads take turns often

    def come_and_go(start: int) -> None:
        try:
            number = start
            while not over.is_set():
                connection = Connection(str(number), number)
                roster.register(connection)
                roster.unregister(connection)
                roster.unregister(connection)  # a lost connection and a failed greeting may both come to it
                number += 8
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            connected = roster.all()
            assert len([connected[cid] for cid in connected.keys()]) == len(connected)  # noqa: SIM118 (as Flower does)
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
