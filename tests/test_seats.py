"""Who is here: a greeting for each connection, one seat for each tenant, and no connection that holds up the others."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.common import Code, GetPropertiesIns, GetPropertiesRes, Scalar, Status

from orchestrator import flower_transport
from orchestrator import seats as seats_module
from orchestrator.admission import Admission
from orchestrator.flower_transport import FlowerTransport
from orchestrator.pki import provision, revoke_client
from orchestrator.round_figures import figure
from orchestrator.seats import Channel, Seats
from orchestrator.streams import Peer, Stream
from shared.errors import NetworkError
from shared.exchange import Kind, Lost, Outcome, Refusal, Reply, Request, Value
from shared.identity import ClientIdentity
from shared.roster import Roster

Answer = Callable[[Request], Outcome]


class Ends:
    """A `Line` to other ends that answer by functions.

    Attributes:
        told: why a connection was ended.
    """

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self._answers: dict[str, Answer] = {}

    def connect(self, seats: Seats, node: str, answer: Answer) -> bool:
        self._answers[node] = answer
        if not seats.arrive(node):
            return False
        seats.greet(node, self)
        return True

    def ask_one(self, node: str, request: Request, timeout: float) -> Outcome:
        assert request.kind is Kind.GREET
        return self._answers[node](request)

    def dismiss(self, node: str, reason: str) -> None:
        self.told[node] = reason

    def seated(self, node: str) -> None:
        pass


def tenant(number: Value) -> Answer:
    return lambda _request: Reply(b"", {"client_id": number})


def proven(number: int, identity: ClientIdentity) -> Answer:
    """A tenant that signs its greeting."""

    def answer(request: Request) -> Outcome:
        session, nonce = request.values["session"], request.values["nonce"]
        assert isinstance(session, str)
        assert isinstance(nonce, bytes)
        return Reply(b"", {"client_id": number, "signature": identity.sign_greeting(session, nonce)})

    return answer


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def seats() -> Seats:
    return Seats("run", "session")


@pytest.fixture
def ends() -> Ends:
    return Ends()


def test_clients_are_sorted_by_number_whatever_their_order_and_their_node(seats: Seats, ends: Ends) -> None:
    for node, number in (("x", 10), ("y", 2), ("z", 0)):
        ends.connect(seats, node, tenant(number))
    assert seats.gather(3, timeout=20) == ["0", "2", "10"]
    assert list(seats.tenants().items()) == [("0", "z"), ("2", "y"), ("10", "x")]


def test_whoever_waits_for_a_tenant_has_it_as_soon_as_it_is_there(seats: Seats, ends: Ends) -> None:
    ends.connect(seats, "a", tenant(1))
    later = threading.Timer(0.2, ends.connect, (seats, "b", tenant(2)))
    later.start()
    assert seats.gather(2, timeout=1000) == ["1", "2"]  # longer than a test may take
    later.join()


@pytest.mark.parametrize("number", [-1, True, "1", 1.0, b"1", None])
def test_what_is_no_client_number_is_dropped(
    seats: Seats, ends: Ends, number: Value, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats_module, "MAX_UNGREETED", 1)
    ends.connect(seats, "a", tenant(number))
    assert "no proper answer to the greeting" in ends.told["a"]  # or it would wait forever
    assert seats.tenants() == {}
    with pytest.raises(NetworkError, match=r"0 clients came within 0.1 s, 1 are needed"):
        seats.gather(1, timeout=0.1)
    assert seats.arrive("b"), "it takes up no room any more"


def test_a_greeting_that_is_refused_lost_or_breaks_is_told(seats: Seats, ends: Ends) -> None:
    def broken(_request: Request) -> Outcome:
        raise ConnectionError("reset")

    ends.connect(seats, "a", lambda _request: Refusal("not today"))
    ends.connect(seats, "b", lambda _request: Lost("disconnected"))
    ends.connect(seats, "c", broken)
    assert {node: reason.rpartition(": ")[2] for node, reason in ends.told.items()} == {
        "a": "not today",
        "b": "disconnected",
        "c": "reset",
    }
    assert seats.tenants() == {}


def test_the_second_of_one_id_is_refused_and_the_first_stays(seats: Seats, ends: Ends) -> None:
    ends.connect(seats, "a", tenant(1))
    ends.connect(seats, "b", tenant(1))
    assert seats.tenants() == {"1": "a"}
    assert "a client 1 is connected already" in ends.told["b"]
    assert "a" not in ends.told


def test_a_lost_client_may_come_back(seats: Seats, ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    ends.connect(seats, "a", tenant(1))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        seats.leave("a")
        seats.leave("a")
    assert caplog.messages == ["client 1 disconnected"]
    assert seats.tenants() == {}
    ends.connect(seats, "b", tenant(1))
    assert seats.gather(1, timeout=20) == ["1"]
    assert seats.tenants() == {"1": "b"}


def test_a_client_that_is_gone_before_its_greeting_ends_takes_no_seat(seats: Seats, ends: Ends) -> None:
    def leaving(_request: Request) -> Outcome:
        seats.leave("a")
        return Reply(b"", {"client_id": 1})

    ends.connect(seats, "a", leaving)
    assert seats.tenants() == {}
    ends.connect(seats, "b", tenant(1))
    assert seats.tenants() == {"1": "b"}


class TestWithEnrolment:
    @pytest.fixture
    def seats(self, tmp_path: Path) -> Seats:
        provision(tmp_path / "pki", 2, [])
        return Seats("run", "session", Admission(Roster(tmp_path / "pki/enrolled.json"), "session"))

    @pytest.fixture
    def identities(self, seats: Seats, tmp_path: Path) -> list[ClientIdentity]:
        """Of both clients; `seats` has made them."""
        return [ClientIdentity.load(tmp_path / f"pki/clients/client-{i}.key", f"client-{i}") for i in range(2)]

    def test_the_newer_connection_of_one_id_takes_the_seat(
        self, seats: Seats, ends: Ends, identities: list[ClientIdentity]
    ) -> None:
        """The older one is a connection that the tenant lost without our noticing."""
        ends.connect(seats, "a", proven(1, identities[1]))
        ends.connect(seats, "b", proven(1, identities[1]))
        assert seats.tenants() == {"1": "b"}
        assert "has connected anew" in ends.told.pop("a"), "or it would hang for ever"
        seats.leave("a")  # what is noticed late changes nothing
        assert seats.tenants() == {"1": "b"}
        assert ends.told == {}

    def test_without_the_clients_own_signature_there_is_no_seat(
        self, seats: Seats, ends: Ends, identities: list[ClientIdentity]
    ) -> None:
        ends.connect(seats, "a", proven(1, identities[1]))
        ends.connect(seats, "b", tenant(1))
        ends.connect(seats, "c", proven(1, ClientIdentity("client-1", identities[0].signing_key)))
        ends.connect(seats, "d", proven(7, ClientIdentity("client-7", identities[0].signing_key)))
        assert seats.tenants() == {"1": "a"}
        assert sorted(ends.told) == ["b", "c", "d"]

    def test_a_revoked_client_is_cut_off_at_once_and_holds_nobody_up(
        self, seats: Seats, ends: Ends, identities: list[ClientIdentity], tmp_path: Path
    ) -> None:
        never = threading.Event()

        class Hanging(Ends):
            def dismiss(self, node: str, reason: str) -> None:
                never.wait(30)
                super().dismiss(node, reason)

        hanging = Hanging()
        for number, identity in enumerate(identities):
            hanging.connect(seats, f"node-{number}", proven(number, identity))
        seats.cut_off_revoked(hanging)
        assert list(seats.tenants()) == ["0", "1"]
        revoke_client(tmp_path / "pki", "client-1")
        seats.cut_off_revoked(hanging)
        assert list(seats.tenants()) == ["0"]
        assert hanging.told == {}, "nobody has waited for it"
        never.set()
        wait_until(lambda: "is revoked" in hanging.told.get("node-1", ""))

    def test_flower_forgets_a_connection_whose_seat_another_takes(
        self, seats: Seats, identities: list[ClientIdentity]
    ) -> None:
        def signs(ins: GetPropertiesIns) -> dict[str, Scalar]:
            answer = proven(1, identities[1])(Request(Kind.GREET, ins.config))
            assert isinstance(answer, Reply)
            return {"payload": b"", **answer.values}

        connections = FlowerTransport(seats).connections
        for cid in ("a", "b"):
            connections.register(Connection(cid, signs))
            wait_until(lambda cid=cid: seats.tenants() == {"1": cid})  # type: ignore[misc]
        assert list(connections.all()) == ["b"], "its goodbye would wait for one that is gone"


# Over Flower: each connection is greeted in a thread of its own.


class Connection(flower_transport.Connection):
    """A connection whose other end answers `get_properties` by a function."""

    def __init__(self, cid: str, answer: Callable[[GetPropertiesIns], dict[str, Scalar]]) -> None:
        super().__init__(Stream(Peer("192.0.2.1", 1), Channel(), lambda _stream: None, 1 << 20))
        self.cid = cid
        self.answer = answer
        self.heard: list[dict[str, Scalar]] = []

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        self.heard.append(ins.config)
        return GetPropertiesRes(Status(Code.OK, ""), self.answer(ins))

    @property
    def told(self) -> str:
        """Why it was ended."""
        return self.stream.end.reason if self.stream.end else ""


def says(number: Scalar) -> Callable[[GetPropertiesIns], dict[str, Scalar]]:
    return lambda _ins: {"payload": b"", "client_id": number}


@pytest.fixture
def transport(seats: Seats) -> FlowerTransport:
    return FlowerTransport(seats)


def test_a_silent_connection_delays_nobody(transport: FlowerTransport) -> None:
    never = threading.Event()

    def silent(_ins: GetPropertiesIns) -> dict[str, Scalar]:
        never.wait(30)
        raise ConnectionError

    transport.connections.register(Connection("silent", silent))
    transport.connections.register(Connection("a", says(1)))
    assert transport.seats.gather(1, timeout=20) == ["1"]
    never.set()
    wait_until(lambda: "silent" not in transport.connections.all())


def test_who_is_sent_away_hears_why_and_no_goodbye_at_the_end(transport: FlowerTransport) -> None:
    """Whatever it does then: Flower's goodbye waits for each connection in its list, seconds for a silent one."""
    first, second, stranger = Connection("a", says(1)), Connection("b", says(1)), Connection("c", says("1"))
    transport.connections.register(first)
    transport.seats.gather(1, timeout=20)
    for connection in (second, stranger):
        transport.connections.register(connection)
    wait_until(lambda: transport.connections.all() == {"a": first})
    assert transport.seats.tenants() == {"1": "a"}
    assert "a client 1 is connected already" in second.told
    assert "no proper answer to the greeting" in stranger.told
    assert first.told == ""


def test_a_flood_of_silent_connections_is_turned_away(
    transport: FlowerTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats_module, "MAX_UNGREETED", 3)
    gate = threading.Event()

    def slow(_ins: GetPropertiesIns) -> dict[str, Scalar]:
        gate.wait(30)
        return {"payload": b"", "client_id": 1}

    register = transport.connections.register
    assert [register(Connection(str(i), slow)) for i in range(5)] == [True, True, True, False, False]
    assert sorted(transport.connections.all()) == ["0", "1", "2"]
    gate.set()
    transport.seats.gather(1, timeout=20)
    wait_until(lambda: register(Connection("5", says(2))))
    assert transport.seats.gather(2, timeout=20) == ["1", "2"]


def test_clients_may_come_and_go_while_the_seats_are_read(transport: FlowerTransport) -> None:
    """Flower walks through `all()`, and an exchange through the seats, while gRPC's threads change them."""
    connections, over = transport.connections, threading.Event()
    errors: list[BaseException] = []
    for number in range(100):
        connections.register(Connection(f"stays-{number}", says(number)))
    transport.seats.gather(100, timeout=20)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # seconds; threads take turns often

    def come_and_go(start: int) -> None:
        try:
            number = start
            while not over.is_set():
                connection = Connection(str(number), says(number))
                connections.register(connection)
                connections.unregister(connection)
                connections.unregister(connection)  # a lost connection and a failed greeting may both come to it
                number += 4
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(1000 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5_000):
            connected = connections.all()
            assert len([connected[cid] for cid in connected.keys()]) == len(connected)  # noqa: SIM118 (as Flower does)
            assert connected.keys() >= {f"stays-{number}" for number in range(100)}
            assert list(transport.seats.tenants())[:100] == [str(number) for number in range(100)]
    finally:
        sys.setswitchinterval(usual)
        over.set()
        for thread in threads:
            thread.join()
    assert not errors


def test_whatever_comes_of_a_question_is_an_outcome(transport: FlowerTransport) -> None:
    def broken(_ins: GetPropertiesIns) -> dict[str, Scalar]:
        raise ConnectionError("reset")

    connection = Connection("a", says(1))
    transport.connections.register(connection)
    transport.seats.gather(1, timeout=20)
    question = Request(Kind.SHARE, {"payload": b"x"})
    assert transport.ask_one("a", question, 1.0) == Reply(b"", {"payload": b"", "client_id": 1})
    assert connection.heard[-1] == {"kind": "share", "payload": b"x"}
    for answer in ({}, {"payload": "text"}, {"payload": None}):
        connection.answer = lambda _ins, answer=answer: answer  # type: ignore[misc]
        assert transport.ask_one("a", question, 1.0) == Refusal("its answer holds no message")
    connection.answer = broken
    assert transport.ask_one("a", question, 1.0) == Lost("ConnectionError: reset")
    assert transport.ask_one("b", question, 1.0) == Lost("disconnected")
    transport.dismiss("b", "it is gone already")


@pytest.mark.parametrize("value", [1e308, float("inf"), float("nan"), -1.0, "1", b"1"])
def test_a_figure_that_no_client_can_have_is_not_counted(value: Value) -> None:
    """Two of 1e308 add up to infinity, which the checkpoint can't hold: two clients could end the server."""
    assert figure({"accuracy": value}, "accuracy") == 0.0
