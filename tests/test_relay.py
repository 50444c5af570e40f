"""A tenant's seat: nobody takes it by passing its greeting on, and whoever loses it is told.

A real server's port and seats, real tenants and a real relay, over TLS on loopback.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from client import channel as client_channel
from client.channel import load_client_certificate, open_channel
from orchestrator import doors as doors_module
from orchestrator.admission import Admission
from orchestrator.doors import Certificates, Doors
from orchestrator.flower_transport import FlowerTransport
from orchestrator.pki import identity_settings, provision, renew_server
from orchestrator.seats import Seats
from shared.config import Config, parse_config
from shared.roster import Roster
from tests.federations import mutual_tls_settings
from tests.living import Living, those_who_live
from tests.processes import SMALL, free_port
from tests.test_doors import METHOD
from tests.test_seats import wait_until

RUN = "20260101-120000-abcdef"


class Port:
    """A server's port and seats, without rounds."""

    def __init__(self, config: Config) -> None:
        admission = Admission(Roster(config.enrolled_clients), "session")
        self.seats = Seats(RUN, "session", admission)
        transport = FlowerTransport(self.seats)
        self.doors = Doors(
            config, Certificates.load(config), 1 << 20, transport.come, transport.gone, self.seats.why_not
        )
        self.doors.open()


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    provision(tmp_path / "pki", 3, [])
    for name in ("server.pem", "server.key"):  # a server of before, whose key somebody has
        shutil.copy(tmp_path / "pki" / name, tmp_path / f"stolen-{name}")
    renew_server(tmp_path / "pki")
    return tmp_path / "pki"


@pytest.fixture
def config(pki: Path, tmp_path: Path) -> Config:
    own = {"server_wait_timeout": 0.5, "secure_aggregation": "none", "log_dir": str(tmp_path / "logs")}
    address = {"server_address": f"127.0.0.1:{free_port()}"}
    return parse_config(SMALL | own | address | identity_settings(pki) | mutual_tls_settings(pki))


@pytest.fixture
def port(config: Config) -> Iterator[Port]:
    made = Port(config)
    yield made
    made.doors.close()


Lives = Callable[..., Living]


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch, port: Port) -> Iterator[Lives]:
    """Begins to run clients. They end once the port is closed."""
    with those_who_live(monkeypatch, pause=0.5) as begin:
        yield begin
        port.doors.close()


@contextlib.contextmanager
def relay(config: Config, tmp_path: Path) -> Iterator[Config]:
    """An insider between a tenant and the server: it has a key of a server of before, and tenant 1's certificate."""

    def pass_on(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        channel, _ = open_channel(config, load_client_certificate(config, 1))
        with channel:
            try:
                yield from channel.stream_stream(METHOD)(messages)
            except grpc.RpcError as error:
                context.set_code(error.code())
                context.set_details(error.details())

    service, method = METHOD.strip("/").split("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.stream_stream_rpc_method_handler(pass_on)})
    server = grpc.server(ThreadPoolExecutor(4), handlers=(handler,))
    key, certificate = ((tmp_path / f"stolen-server.{end}").read_bytes() for end in ("key", "pem"))
    ca = Path(config.tls_ca).read_bytes()
    number = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials(((key, certificate),), ca, require_client_auth=True)
    )
    server.start()
    yield config.replace(server_address=f"127.0.0.1:{number}")
    server.stop(0).wait()


def test_a_greeting_that_a_relay_passes_on_takes_no_seat(
    config: Config, port: Port, lives: Lives, tmp_path: Path
) -> None:
    with relay(config, tmp_path) as by_way_of_the_relay:
        victim = lives(by_way_of_the_relay, 0)
        victim.thread.join(60)
    assert "that nobody between the two ends opens TLS" in victim.error
    assert port.seats.tenants() == {}


def test_without_the_binding_a_relay_takes_the_seat(
    config: Config, port: Port, lives: Lives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin: the certificate of another tenant is still one too many, so its name is not looked at either."""
    for module in (client_channel, doors_module):
        monkeypatch.setattr(module, "channel_binding", lambda *_: b"whatever")
    monkeypatch.setattr("orchestrator.seats._check_name", lambda *_: None)
    with relay(config, tmp_path) as by_way_of_the_relay:
        lives(by_way_of_the_relay, 0)
        wait_until(lambda: list(port.seats.tenants()) == ["0"])


def test_a_tenant_with_anothers_certificate_takes_no_seat(config: Config, port: Port, lives: Lives, pki: Path) -> None:
    mixed = config.replace(
        tls_client_certificate=str(pki / "clients/client-2.tls.pem"),
        tls_client_key=str(pki / "clients/client-2.tls.key"),
    )
    tenant = lives(mixed, 0)
    tenant.thread.join(60)
    assert "client 0 came with the certificate of client-2" in tenant.error
    assert port.seats.tenants() == {}


def test_a_tenant_whose_seat_another_process_of_its_takes_is_told_and_ends(
    config: Config, port: Port, lives: Lives, tmp_path: Path
) -> None:
    """N4: it hung for ever."""
    first = lives(config, 0)
    wait_until(lambda: list(port.seats.tenants()) == ["0"])
    before = port.seats.tenants()["0"]
    second = lives(config.replace(log_dir=str(tmp_path / "other"), server_wait_timeout=600.0), 0)
    wait_until(lambda: port.seats.tenants().get("0") not in (None, before))
    wait_until(lambda: "has connected anew, and a client has one connection" in first.error)
    assert second.thread.is_alive()
