"""The server's port under attack: what a stranger and a careless client can take, and what they are told.

Real gRPC servers, channels, sockets and certificates, on loopback.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from client import channel as channel_module
from client.channel import load_client_certificate, look_at_server, open_channel
from orchestrator import doors as doors_module
from orchestrator.admission import Admission
from orchestrator.certificates import read_certificate
from orchestrator.doors import Certificates, Doors
from orchestrator.pki import add_clients, provision, renew_server, revoke_client
from orchestrator.seats import Channel, Seats
from orchestrator.sockets import Doorkeeper, connections
from orchestrator.streams import GREETING_BYTES, Peer, Stream, Why
from orchestrator.told import PER_MINUTE, Told
from shared.config import Config, parse_config
from shared.errors import Flaw, NetworkError
from shared.identity import ClientIdentity, channel_binding
from shared.roster import Roster
from tests.breaking import breaks
from tests.federations import mutual_tls_settings
from tests.processes import free_port
from tests.test_seats import wait_until

METHOD = "/flwr.proto.FlowerService/Join"
GREETING = b"who are you?"


class Hall:
    """Doors whose streams are each asked who they are, and are proven by any answer.

    Attributes:
        inside: streams that have answered, by what they said.
    """

    def __init__(self, config: Config, longest: int = 1 << 20, why_not: Callable[[str], str] | None = None) -> None:
        self.inside: dict[bytes, Stream] = {}
        self.config = config
        self.doors = Doors(config, Certificates.load(config), longest, self._come, lambda _stream: None, why_not)
        self.doors.open()

    def _come(self, stream: Stream) -> bool:
        threading.Thread(target=self._greet, args=(stream,), daemon=True).start()
        return True

    def _greet(self, stream: Stream) -> None:
        with contextlib.suppress(ConnectionError):
            answer = stream.ask(GREETING, 30.0)
            stream.prove()
            self.inside[answer] = stream


@pytest.fixture
def config() -> Config:
    return Config(server_address=f"127.0.0.1:{free_port()}")


@pytest.fixture
def hall(config: Config) -> Iterator[Hall]:
    made = Hall(config)
    yield made
    made.doors.close()


class Caller:
    """A gRPC client without Flower. It answers the greeting with its name, and says the rest whenever it likes.

    Attributes:
        heard: what the server asked.
    """

    def __init__(self, channel: grpc.Channel, name: bytes | None = None, *more: bytes) -> None:
        self._over, self._asked, self._more = threading.Event(), threading.Event(), threading.Event()
        self.channel = channel
        self.heard: list[bytes] = []
        self._ended: tuple[str, str] | None = None
        self._stream = channel.stream_stream(METHOD)(self._messages(name, more))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _messages(self, name: bytes | None, more: tuple[bytes, ...]) -> Iterator[bytes]:
        self._asked.wait(60)
        if name is not None:
            yield name
        yield from more
        self._more.wait(60)

    def _listen(self) -> None:
        try:
            for message in self._stream:
                self.heard.append(message)
                self._asked.set()
            self._ended = ("OK", "")
        except grpc.RpcError as error:
            self._ended = (error.code().name, str(error.details()))
        self._asked.set()

    def end(self) -> tuple[str, str]:
        """How the stream ended: gRPC's code and details."""
        self._thread.join(30)
        assert self._ended is not None, "it is still open"
        self.close()
        return self._ended

    def close(self) -> None:
        self._asked.set()
        self._more.set()
        self.channel.close()


def call(config: Config, name: bytes | None = None, *more: bytes) -> Caller:
    options = [("grpc.use_local_subchannel_pool", 1)]  # or all callers would share one connection
    return Caller(grpc.insecure_channel(config.server_address, options=options), name, *more)


def port_of(config: Config) -> int:
    return int(config.server_address.rpartition(":")[2])


def test_whoever_answers_is_inside_and_hears_the_reason_of_the_end(hall: Hall) -> None:
    caller = call(hall.config, b"a")
    wait_until(lambda: b"a" in hall.inside)
    hall.inside[b"a"].close(Why.REFUSED, "revoked, “so it is”")
    assert caller.end() == ("PERMISSION_DENIED", "revoked, “so it is”")
    assert caller.heard == [GREETING]


def test_a_message_that_nobody_asked_for_ends_the_stream(hall: Hall) -> None:
    """N1: Flower's server put them all into a queue, 2 GB in seven seconds."""
    code, details = call(hall.config, b"a", *[b"more" * 15_000] * 100).end()
    assert (code, "nobody asked for" in details) == ("INVALID_ARGUMENT", True)
    others = call(hall.config, b"b")
    wait_until(lambda: b"b" in hall.inside)
    assert hall.inside[b"b"].end is None, "others are served"
    others.close()


def test_a_stranger_may_say_little(hall: Hall) -> None:
    code, details = call(hall.config, b"a" * (GREETING_BYTES + 1)).end()
    assert (code, f"expected at most {GREETING_BYTES}" in details) == ("INVALID_ARGUMENT", True)


def test_a_client_that_is_silent_is_told_so(hall: Hall) -> None:
    caller = call(hall.config, b"a")
    wait_until(lambda: b"a" in hall.inside)
    with pytest.raises(ConnectionError, match=r"no answer within 0\.1 s"):
        hall.inside[b"a"].ask(b"?", 0.1)
    assert caller.end() == ("DEADLINE_EXCEEDED", "no answer within 0.1 s")


def test_a_client_that_reads_nothing_is_cut(hall: Hall) -> None:
    """Its window is full, so that gRPC can't tell it of the end, and would keep a thread for it."""
    over = threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"a"
        over.wait(60)

    channel = grpc.insecure_channel(hall.config.server_address)
    stream = channel.stream_stream(METHOD)(messages())
    assert next(stream) == GREETING  # and reads no more
    wait_until(lambda: b"a" in hall.inside)
    with pytest.raises(ConnectionError):
        hall.inside[b"a"].ask(b"x" * (64 << 20), 0.2)  # far more than windows hold
    wait_until(lambda: not hall.doors._contexts)
    over.set()
    channel.close()


def test_the_longest_silent_stream_of_a_crowded_address_makes_room(config: Config) -> None:
    """N3: 1,000 refused streams kept their places, and newcomers were turned away."""
    hall = Hall(config.replace(max_streams_per_address=5))
    tenant = call(hall.config, b"tenant")
    wait_until(lambda: b"tenant" in hall.inside)
    silent = [call(hall.config) for _ in range(12)]
    wait_until(lambda: len([caller for caller in silent if caller._ended]) >= 8)
    returning = call(hall.config, b"returning")
    wait_until(lambda: b"returning" in hall.inside)
    assert {caller._ended[0] for caller in silent if caller._ended} == {"RESOURCE_EXHAUSTED"}
    assert hall.inside[b"tenant"].end is None
    for caller in (tenant, returning, *silent):
        caller.close()
    hall.doors.close()


def test_an_address_has_no_more_streams_than_it_may(config: Config) -> None:
    hall = Hall(config.replace(max_streams_per_address=2))
    inside = [call(hall.config, name) for name in (b"first", b"second")]
    wait_until(lambda: len(hall.inside) == 2)
    code, details = call(hall.config, b"third").end()
    assert (code, "max_streams_per_address" in details) == ("RESOURCE_EXHAUSTED", True)
    for caller in inside:
        caller.close()
    hall.doors.close()


def test_idle_sockets_of_one_address_are_ended_and_others_served(config: Config) -> None:
    """N2: 1,100 idle sockets used up the descriptors, and the checkpoint could not be written."""
    hall = Hall(config.replace(max_streams_per_address=10))
    tenant = call(hall.config, b"tenant")
    wait_until(lambda: b"tenant" in hall.inside)
    host, port = "127.0.0.1", port_of(config)
    idle = [socket.create_connection((host, port)) for _ in range(100)]
    wait_until(lambda: len(list(connections(port))) <= 20)
    newcomer = call(hall.config, b"newcomer")
    wait_until(lambda: b"newcomer" in hall.inside)
    assert hall.inside[b"tenant"].end is None, "whoever has a stream is not cut"
    for one in idle:
        one.close()
    for caller in (tenant, newcomer):
        caller.close()
    hall.doors.close()


def test_the_descriptors_that_are_kept_back_are_never_used_up() -> None:
    """Whatever the addresses: the oldest idle connection of the most crowded one goes, and no busy one."""
    crowd = {Peer("192.0.2.1", port): float(port) for port in range(5)}
    seen = {**crowd, Peer("192.0.2.2", 9): 0.0, Peer("192.0.2.3", 9): 0.0}
    busy = {Peer("192.0.2.1", 0)}

    def ended(most: int) -> list[Peer]:
        return list(Doorkeeper(1, most, 100, lambda: busy, Told(doors_module._log))._too_many(seen, busy))

    assert ended(7) == []
    assert ended(6) == [Peer("192.0.2.1", 1)]
    assert ended(3) == [Peer("192.0.2.1", port) for port in (1, 2, 3, 4)]
    assert set(ended(0)) == set(seen) - busy


def test_only_connections_to_the_port_are_looked_at(hall: Hall) -> None:
    port = port_of(hall.config)
    with socket.create_connection(("127.0.0.1", port)) as mine:
        wait_until(lambda: [peer for peer, _ in connections(port)] == [Peer("127.0.0.1", mine.getsockname()[1])])
        before = len(list(Path("/dev/fd").iterdir()))
        for _ in range(100):
            list(connections(port))
        assert len(list(Path("/dev/fd").iterdir())) <= before + 10, "the looking leaves nothing open"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:5000", "192.0.2.1"),
        ("unix:/run/socket", "/run/socket"),
    ],
)
def test_limits_count_by_what_one_host_has(text: str, address: str) -> None:
    assert Peer.parse(text).address == address


def test_what_strangers_cause_fills_no_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    told, now = Told(doors_module._log), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for number in range(1000):
        told.warn("refused %s", "the same" if number % 2 else number)
    assert len(caplog.messages) == PER_MINUTE
    now[0] += 61
    told.warn("refused %s", "another")
    held_back = f"{1000 - PER_MINUTE} more like the last ones in the minute before"
    assert caplog.messages[PER_MINUTE:] == [held_back, "refused another"]


def test_a_second_server_does_not_share_the_port(hall: Hall) -> None:
    with pytest.raises(NetworkError, match="can't listen"):
        Hall(hall.config)


def test_a_stream_has_one_end_and_nobody_waits_for_it() -> None:
    ends: list[Stream] = []
    stream = Stream(Peer("192.0.2.1", 1), Channel(), ends.append, 1 << 20)
    waiting: list[str] = []

    def ask() -> None:
        try:
            stream.ask(b"?", None)
        except ConnectionError as error:
            waiting.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: stream._asked)
    stream.close(Why.REFUSED, "first")
    stream.close(Why.GONE, "second")
    thread.join(20)
    assert waiting == ["first"]
    assert ends == [stream]
    assert list(stream.requests()) == []
    with pytest.raises(ConnectionError, match="first"):
        stream.ask(b"?", None)


class TestWithCertificates:
    """Three tenants, each with a certificate of its own."""

    @pytest.fixture
    def pki(self, tmp_path: Path) -> Path:
        provision(tmp_path / "pki", 3, [])
        return tmp_path / "pki"

    @pytest.fixture
    def config(self, pki: Path) -> Config:
        return parse_config({"server_address": f"127.0.0.1:{free_port()}", **mutual_tls_settings(pki)})

    def call(self, config: Config, number: int, name: bytes) -> Caller:
        return Caller(open_channel(config, load_client_certificate(config, number))[0], name)

    def test_the_server_sees_whose_certificate_it_is(self, config: Config, hall: Hall) -> None:
        own = load_client_certificate(config, 2)
        channel, binding = open_channel(config, own)
        caller = Caller(channel, b"a")
        wait_until(lambda: b"a" in hall.inside)
        assert hall.inside[b"a"].channel == Channel(binding, "client-2")
        assert binding == channel_binding(look_at_server(config, own), own.der)
        caller.close()

    def test_without_a_certificate_a_stranger_ends_in_the_handshake(self, config: Config, hall: Hall) -> None:
        with pytest.raises(NetworkError, match="wants a certificate of each client; set tls_client_certificate"):
            open_channel(config, None)
        ca = grpc.ssl_channel_credentials(Path(config.tls_ca).read_bytes())
        assert Caller(grpc.secure_channel(config.server_address, ca), b"a").end()[0] == "UNAVAILABLE"
        assert (hall.inside, hall.doors._streams) == ({}, {})

    def test_a_certificate_of_another_ca_ends_there_as_well(self, config: Config, hall: Hall, tmp_path: Path) -> None:
        provision(tmp_path / "other", 1, [])
        other = config.replace(
            tls_client_certificate=str(tmp_path / "other/clients/client-0.tls.pem"),
            tls_client_key=str(tmp_path / "other/clients/client-0.tls.key"),
        )
        with pytest.raises(NetworkError, match="does not take the certificate in"):
            self.call(other, 0, b"a")
        assert hall.doors._streams == {}

    def test_the_servers_certificate_is_none_of_a_client(self, config: Config, hall: Hall, pki: Path) -> None:
        posing = config.replace(tls_client_certificate=str(pki / "server.pem"), tls_client_key=str(pki / "server.key"))
        with pytest.raises(NetworkError, match="does not take the certificate in"):
            self.call(posing, 0, b"a")

    def test_who_was_revoked_is_told_before_anything_else(self, config: Config, pki: Path) -> None:
        admission = Admission(Roster(pki / "enrolled.json"), "session")
        hall = Hall(config, why_not=Seats("run", "session", admission).why_not)
        revoke_client(pki, "client-1")
        caller = self.call(config, 1, b"a")
        code, details = caller.end()
        assert (code, "'client-1' is revoked" in details, caller.heard) == ("PERMISSION_DENIED", True, [])
        hall.doors.close()

    def test_a_greeting_that_is_passed_on_is_of_another_connection(self, config: Config, hall: Hall, pki: Path) -> None:
        """N4: whoever passed a tenant's greeting on through a connection of their own took its seat."""
        admission = Admission(Roster(pki / "enrolled.json"), "session")
        identity = ClientIdentity.load(pki / "clients/client-0.key", "client-0")
        nonce, bindings = admission.greeting_nonce(), []
        for number in (0, 1):
            channel, binding = open_channel(config, load_client_certificate(config, number))
            bindings.append(binding)
            channel.close()
        greeting = identity.sign_greeting("session", nonce, bindings[0])
        admission.check_greeting("0", nonce, greeting, bindings[0])
        server_alone = channel_binding(look_at_server(config, load_client_certificate(config, 0)))
        for other in (bindings[1], server_alone, b""):
            with breaks(Flaw.SIGNATURE):
                admission.check_greeting("0", nonce, greeting, other)

    def test_a_channel_is_with_the_very_server_that_was_looked_at(
        self, config: Config, hall: Hall, pki: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not with another one of the same CA and name: what is signed of the channel would not be true of it."""
        renew_server(pki)  # the server at work has the certificate of before
        renewed = read_certificate(pki / "server.pem").public_bytes(Encoding.DER)
        monkeypatch.setattr(channel_module, "look_at_server", lambda _config, _own: renewed)
        assert self.call(config, 0, b"a").end()[0] == "UNAVAILABLE"
        assert hall.inside == {}

    def test_a_tenant_that_is_added_gets_a_certificate(self, config: Config, hall: Hall, pki: Path) -> None:
        add_clients(pki, 1)
        caller = self.call(config, 3, b"new")
        wait_until(lambda: b"new" in hall.inside)
        assert hall.inside[b"new"].channel.name == "client-3"
        caller.close()
