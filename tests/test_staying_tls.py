"""A tenant that stays, while its certificate, the CA and the pinned keys are exchanged and the server is not there.

A real port with client certificates, real tenants, on loopback.
"""

import contextlib
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.proto.transport_pb2 import Scalar, ServerMessage

from client.channel import load_ca, look_at_server, open_channel
from client.connection import run_client
from client.flower_client import FlowerClient
from client.launch import load_identity
from client.server_key import ServerKey
from client.stream import _answer
from client.tenant import Tenant
from orchestrator.certificates import Authority
from orchestrator.pki import identity_settings, provision
from shared.addresses import split_address
from shared.config import Config, parse_config
from shared.data_utils import load_client_data
from shared.errors import ConfigError, FrameError, KeyMaterialError, NetworkError
from tests.federations import mutual_tls_settings
from tests.living import those_who_live
from tests.processes import SMALL, free_port
from tests.test_relay import Port
from tests.test_seats import wait_until


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    provision(tmp_path / "pki", 2, [])
    return tmp_path / "pki"


@pytest.fixture
def config(pki: Path, tmp_path: Path) -> Config:
    own = {"secure_aggregation": "none", "log_dir": str(tmp_path / "logs")}
    address = {"server_address": f"127.0.0.1:{free_port()}"}
    return parse_config(SMALL | own | address | identity_settings(pki) | mutual_tls_settings(pki))


@contextlib.contextmanager
def port_of(config: Config) -> Iterator[Port]:
    port = Port(config)
    try:
        yield port
    finally:
        port.doors.close()


Stays = Callable[..., FlowerClient]


@pytest.fixture
def stays(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stays]:
    """Begins to run a tenant that stays, and tries again at once; it ends with the test."""
    with those_who_live(monkeypatch, pause=0.05) as begin:
        yield lambda settings=None: begin(config, 0, stay=True, settings=settings).client


def renew(pki: Path) -> bytes:
    """A new certificate of client-0 over the same key, as it is sent back."""
    key: Any = load_pem_private_key((pki / "clients/client-0.tls.key").read_bytes(), None)
    return Authority.load(pki).certify("client-0", key.public_key(), date.today() + timedelta(days=7))


def place(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.chmod(0o600)
    new.replace(path)


def test_a_renewed_certificate_is_used_without_a_restart_and_said(
    config: Config, pki: Path, stays: Stays, caplog: pytest.LogCaptureFixture
) -> None:
    """A look at the server took the file of now, and gRPC the one of the start, until it had ended."""
    caplog.set_level("INFO")
    with port_of(config) as port:
        stays()
        wait_until(lambda: "0" in port.seats.tenants())
        shown = port.seats._channels[port.seats.tenants()["0"]].binding
    place(pki / "clients/client-0.tls.pem", renew(pki))
    with port_of(config) as port:
        wait_until(lambda: "0" in port.seats.tenants())
        assert port.seats._channels[port.seats.tenants()["0"]].binding != shown
    said = [line for line in caplog.messages if "certificate has changed" in line]
    assert len(said) == 1
    end = date.today() + timedelta(days=8)
    assert re.fullmatch(
        rf"this client's certificate has changed: SHA-256 [0-9a-f]{{16}}…, until {end} 00:00 UTC", said[0]
    )


@pytest.mark.parametrize(
    "breaking",
    [
        lambda pki: (pki / "clients/client-0.tls.pem").unlink(),
        lambda pki: (pki / "clients/client-0.tls.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB"),
        lambda pki: (pki / "clients/client-0.tls.key").unlink(),
        lambda pki: (pki / "clients/client-0.tls.key").chmod(0o644),
        lambda pki: shutil.copy(pki / "clients/client-1.tls.pem", pki / "clients/client-0.tls.pem"),
        lambda pki: (pki / "ca.pem").unlink(),
        lambda pki: (pki / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB"),
        lambda pki: (pki / "ca.pem").write_text(""),
    ],
    ids=["no certificate", "half of one", "no key", "open key", "another's", "no CA", "half a CA", "empty CA"],
)
def test_files_that_are_being_replaced_end_nobody_who_stays(
    config: Config, pki: Path, stays: Stays, breaking: Callable[[Path], Any], tmp_path: Path, caplog: Any
) -> None:
    shutil.copytree(pki, tmp_path / "whole")
    with port_of(config) as port:
        stays()
        wait_until(lambda: "0" in port.seats.tenants())
    breaking(pki)
    wait_until(lambda: any("trying again, less and less often" in line for line in caplog.messages))
    for path in (tmp_path / "whole").rglob("c*.*"):
        if path.is_file():
            place(pki / path.relative_to(tmp_path / "whole"), path.read_bytes())
    with port_of(config) as port:
        wait_until(lambda: "0" in port.seats.tenants())
    told = [line for line in caplog.messages if "trying again" in line]
    assert len(set(told)) == len(told), "a line each"


def test_a_server_of_another_ca_is_waited_out(
    config: Config, stays: Stays, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its certificate was being replaced, and a tenant that stays was gone for good."""
    provision(tmp_path / "other", 1, [])
    with port_of(config.replace(**{**mutual_tls_settings(tmp_path / "other")})):
        stays()
        wait_until(lambda: any("is not signed by the CA" in line for line in caplog.messages))
    with port_of(config) as port:
        wait_until(lambda: "0" in port.seats.tenants())
    (line,) = [line for line in caplog.messages if "is not signed by the CA" in line]
    assert line.endswith("; trying again, less and less often")


def test_who_does_not_stay_is_told_at_once(config: Config, tmp_path: Path) -> None:
    provision(tmp_path / "other", 1, [])
    client = FlowerClient(Tenant(config, 0, load_client_data(config, 0), load_identity(config, 0)))
    with (
        port_of(config.replace(**{**mutual_tls_settings(tmp_path / "other")})),
        pytest.raises(NetworkError, match="is not signed by the CA"),
    ):
        run_client(client)


def test_what_is_wrong_at_the_start_ends_who_stays_as_well(config: Config, pki: Path) -> None:
    client = FlowerClient(Tenant(config, 0, load_client_data(config, 0), load_identity(config, 0)))
    (pki / "ca.pem").unlink()
    with pytest.raises(ConfigError, match=r"tls_ca = .*: No such file or directory; get ca\.pem from"):
        run_client(client, stay=True)


def test_a_ca_is_said_to_be_missing_and_not_the_server(config: Config, pki: Path) -> None:
    """It was: no server for 60 s, last try: No such file or directory."""
    (pki / "ca.pem").write_text("no certificate")
    with pytest.raises(KeyMaterialError, match=r"ca\.pem: no certificate in PEM; get ca\.pem anew"):
        load_ca(config)
    with pytest.raises(KeyMaterialError, match=r"ca\.pem: no certificate in PEM; get ca\.pem anew"):
        open_channel(config, None)


def test_pins_that_change_count_from_the_next_connection_on(
    config: Config, stays: Stays, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    present = ["ab" * 32]
    with port_of(config) as port:
        stays(lambda: config.replace(pinned_key_fingerprint=tuple(present)))
        wait_until(lambda: "0" in port.seats.tenants())
        present.append("cd" * 32)
    with port_of(config) as port:
        wait_until(lambda: "0" in port.seats.tenants())
    assert [line for line in caplog.messages if "pinned_key_fingerprint has changed" in line] == [
        "pinned_key_fingerprint has changed: abababababababab…",
        "pinned_key_fingerprint has changed: abababababababab…, cdcdcdcdcdcdcdcd…",
    ]


def test_settings_that_can_not_be_read_hold_who_stays_back(config: Config, stays: Stays, caplog: Any) -> None:
    """With the pins of before it would go on under a key that its operator has just taken out."""
    readable = threading.Event()

    def settings() -> Config:
        if not readable.is_set():
            raise ConfigError("config.yaml: no such file; give --config a YAML file")
        return config

    with port_of(config) as port:
        stays(settings)
        wait_until(lambda: any("config.yaml: no such file" in line for line in caplog.messages))
        assert port.seats.tenants() == {}
        readable.set()
        wait_until(lambda: "0" in port.seats.tenants())


def test_a_key_that_is_pinned_no_more_is_refused_though_it_was_in_use(config: Config) -> None:
    made = SimpleNamespace(fingerprint=lambda: "ab" * 32, encoding_name="plain")
    policy: Any = SimpleNamespace(check_key=lambda _fingerprint: None)
    log: Any = SimpleNamespace(info=lambda *_: None)
    key = ServerKey(config, lambda *_: made, policy, log)  # type: ignore[arg-type]
    asked: Any = {"public_key": b"key", "max_contributors": 3, "encoding": "plain"}
    assert key.scheme(asked) is made  # type: ignore[comparison-overlap]
    key.pin(("cd" * 32, "ab" * 32))
    assert key.scheme(asked) is made  # type: ignore[comparison-overlap]
    key.pin(("cd" * 32,))
    with pytest.raises(KeyMaterialError, match="insists on cdcd"):
        key.scheme(asked)


@pytest.mark.parametrize("part", ["get_properties_ins", "fit_ins", "evaluate_ins"])
def test_a_value_without_a_kind_is_a_frame_error(config: Config, part: str) -> None:
    """It was a TypeError out of Flower, which ended the tenant."""
    message = ServerMessage()
    getattr(message, part).config["kind"].CopyFrom(Scalar())
    client = FlowerClient(Tenant(config, 0, load_client_data(config, 0), load_identity(config, 0)))
    with pytest.raises(FrameError, match="a value without a kind"):
        _answer(client, message)


def test_a_proxy_that_speaks_no_http_is_one_that_is_not_there(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer() -> None:
            while True:
                try:
                    one, _ = proxy.accept()
                except OSError:
                    return
                with one:
                    one.recv(1 << 16)
                    one.sendall(b"SSH-2.0-Proxy\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        for name in ("grpc_proxy", "no_grpc_proxy", "no_proxy"):
            monkeypatch.setenv(name, "")
        elsewhere = config.replace(server_address="server.example:8443")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(OSError, match="the proxy answers no HTTP: BadStatusLine"):
            look_at_server(elsewhere, None)
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:eighty")
        with pytest.raises(NetworkError, match="https_proxy names no proxy; expected http://name:port"):
            look_at_server(elsewhere, None)
        proxy.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64])
def test_what_is_no_hosts_name_is_a_wrong_setting(host: str) -> None:
    """The look-up raised a UnicodeError, which ended the tenant with a traceback."""
    with pytest.raises(ConfigError, match="is no host's name"):
        split_address(f"{host}:8443")
    assert split_address("my_server.example.org:8443")[1] == 8443
