"""`doctor`, on either side: a healthy set-up is green, and each planted fault is found and its remedy named."""

import json
import os
import resource
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from client import doctor as client_doctor
from client.enrol import Keys
from orchestrator import certificates
from orchestrator import doctor as server_doctor
from orchestrator.certificates import ca_certificate, server_certificate, subject_alternative_names
from orchestrator.doors import Certificates
from orchestrator.keys import new_key
from orchestrator.pki import provision, revoke_client, sign_request
from shared.config import parse_config
from shared.doctor import checks
from shared.doctor.findings import Level, Report, read_facts
from shared.enrolment import Enrolment
from shared.enrolment_request import EnrolmentRequest
from shared.errors import DataError
from shared.identity_files import IDENTITY_PASSPHRASE
from tests.processes import free_port

ROWS = "time,bytes,packets,label\n" + "".join(
    f"{1_760_000_000 + i},{i * 7 % 50},{i % 9},{'scan' if i % 4 == 0 else 'benign'}\n" for i in range(80)
)


class World:
    """An operator, a server and tenant 2 at home, each in a folder of its own.

    Attributes:
        settings: {side: the content of its YAML file}, to be spoilt.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operator, self.server, self.home = (folder / name for name in ("operator", "server", "home"))
        provision(self.operator, 0, [])
        for number in range(3):
            keys = Keys(self.home / f"{number}", number)
            keys.new(self.roster)
            sign_request(self.operator, EnrolmentRequest.load(keys.request))
        self.server.mkdir()
        for name in ("ca.pem", "server.pem", "server.key"):
            shutil.copy(self.operator / name, self.server / name)
        shutil.copy(self.operator / "ca.pem", self.home / "ca.pem")
        for number in range(3):
            shutil.copy(self.operator / f"clients/client-{number}.tls.pem", self.home / f"{number}")
        self.copy_roster()
        key = new_key(self.server / "paillier.json", 512, None)
        for name in ("public", "tenant-2"):
            (folder / f"{name}.csv").write_text(ROWS)
        common = {
            "server_address": f"127.0.0.1:{free_port()}", "he_key_length": 512, "allow_insecure_key": True,
            "roster_signer": self.roster.signer, "pinned_key_fingerprint": key.public.fingerprint(),
            "data_source": "csv", "data_path": str(folder / "tenant-{client_id}.csv"), "num_features": 2,
            "test_path": str(folder / "public.csv"), "csv_label_column": "label", "csv_drop_columns": ["time"],
        }  # fmt: skip
        self.settings: dict[str, dict[str, Any]] = {
            "server": common | {
                "tls_ca": str(self.server / "ca.pem"), "tls_certificate": str(self.server / "server.pem"),
                "tls_key": str(self.server / "server.key"), "enrolled_clients": str(self.server / "enrolled.json"),
                "he_key_file": str(self.server / "paillier.json"), "log_dir": str(self.server / "logs"),
            },
            "client": common | {
                "tls_ca": str(self.home / "ca.pem"), "enrolled_clients": str(self.home / "enrolled.json"),
                "client_identity": str(self.home / "{client_id}/client-{client_id}.key"),
                "tls_client_certificate": str(self.home / "{client_id}/client-{client_id}.tls.pem"),
                "tls_client_key": str(self.home / "{client_id}/client-{client_id}.tls.key"),
                "log_dir": str(self.home / "logs"),
            },
        }  # fmt: skip
        self.against = ""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # of whoever listens at the server's address

    @property
    def roster(self) -> Enrolment:
        return Enrolment.load(self.operator / "enrolled.json")

    @property
    def keys(self) -> Keys:
        return Keys(self.home / "2", 2)

    def copy_roster(self) -> None:
        for side in (self.server, self.home):
            shutil.copy(self.operator / "enrolled.json", side / "enrolled.json")

    def certify(self, name: str, begin: datetime, ca: bool = False) -> None:
        """A certificate that begins then, in the place of the server's, or of the CA's at the tenant's home."""
        key = ec.generate_private_key(ec.SECP256R1())
        if ca:
            (self.home / name).write_bytes(ca_certificate(key, begin).public_bytes(Encoding.PEM))
            return
        signer = checks.read_certificate(str(self.operator / "ca.pem"))
        ca_key = load_pem_private_key((self.operator / "ca.key").read_bytes(), None)
        own = load_pem_private_key((self.server / "server.key").read_bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        made = server_certificate(own.public_key(), subject_alternative_names(["127.0.0.1"]), signer, ca_key, begin)
        (self.server / name).write_bytes(made.public_bytes(Encoding.PEM))

    def show(self, begin: datetime) -> None:
        """Have whoever listens show a certificate that begins then."""
        self.certify("server.pem", begin)
        self.context.load_cert_chain(self.server / "server.pem", self.server / "server.key")

    def report_of_the_server(self, **changes: str) -> None:
        """What the server's doctor printed, altered, for the tenant's to compare."""
        report = json.loads(self.examine("server").to_json())
        report["facts"] |= changes
        path = self.folder / "server.json"
        path.write_text(json.dumps(report))
        self.against = str(path)

    def examine(self, side: str) -> Report:
        path = self.folder / f"{side}.yaml"
        path.write_text(yaml.safe_dump(self.settings[side]))
        if side == "server":
            return server_doctor.examine(str(path), [], self.against)
        return client_doctor.examine(str(path), [], 2, self.against)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy", IDENTITY_PASSPHRASE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(checks, "kernel_state", lambda: 0)  # this machine's own clock is not the matter
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 39))
    return World(tmp_path)


@pytest.fixture
def listening(world: World) -> Iterator[None]:
    """Somebody who speaks TLS with the server's certificate at its address."""
    context = world.context
    context.load_cert_chain(world.server / "server.pem", world.server / "server.key")
    host, port = world.settings["client"]["server_address"].split(":")
    listener = socket.create_server((host, int(port)))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with connection, context.wrap_socket(connection, server_side=True) as secured:
                    secured.sendall(b"\0\0\0\4\0\0\0\0\0")  # HTTP/2 begins so: SETTINGS, RFC 9113, section 6.5
            except OSError:
                pass  # the client went away, or refused

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_a_healthy_server_is_green(world: World) -> None:
    report = world.examine("server")
    assert [f.line() for f in report.findings if f.level is not Level.OK] == []
    assert {f.check for f in report.findings} == {
        "settings", "version", "roster", "certificate", "key", "clock", "port", "data", "disk", "state", "descriptors",
    }  # fmt: skip


@pytest.mark.usefixtures("listening")
def test_a_healthy_tenant_is_green_and_so_are_both_ends_together(world: World) -> None:
    address = world.settings["server"]["server_address"]
    world.settings["server"]["server_address"] = f"127.0.0.1:{free_port()}"  # as seen before the server was started
    world.report_of_the_server()
    world.settings["server"]["server_address"] = address
    report = world.examine("client")
    assert [f.line() for f in report.findings if f.level is not Level.OK] == []
    found = [f.check for f in report.findings]
    assert {"identity", "enrolment", "proxy", "port", "data", "schema", "settings", "public_key"} <= set(found)
    assert found.count("roster") == 2, "its own, and the same on both ends"


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def renamed_identity(w: World) -> None:
    shutil.copy(w.home / "1/client-1.key", w.keys.path)


def other_key(w: World) -> None:
    """Its own, in form; but not the one that is listed."""
    w.keys.rotate(w.roster)
    w.keys.next.replace(w.keys.path)


def encrypted(w: World) -> None:
    os.environ[IDENTITY_PASSPHRASE] = "correct horse"
    try:
        w.keys.protect()
    finally:
        del os.environ[IDENTITY_PASSPHRASE]


def shorter(w: World, days: int) -> None:
    w.keys.renew(w.roster)
    sign_request(w.operator, EnrolmentRequest.load(w.keys.request), days)
    w.copy_roster()


def expired(w: World) -> None:
    shorter(w, 1)
    real = Enrolment.today.fget  # type: ignore[attr-defined]
    patch = pytest.MonkeyPatch()
    patch.setattr(Enrolment, "today", property(lambda self: real(self) + timedelta(days=2)))
    w.undo = patch.undo  # type: ignore[attr-defined]


def revoked(w: World) -> None:
    revoke_client(w.operator, "client-2")
    w.copy_roster()


def rolled_back(w: World) -> None:
    old = (w.home / "enrolled.json").read_bytes()
    revoked(w)
    w.examine("client")  # which has seen it
    overwrite(w.home / "enrolled.json", old)


def foreign_roster(w: World) -> None:
    provision(w.folder / "evil", 3, [])
    shutil.copy(w.folder / "evil/enrolled.json", w.home / "enrolled.json")


def other_ca(w: World) -> None:
    w.certify("ca.pem", datetime.now(UTC), ca=True)


def half(side: str, name: str) -> Callable[[World], object]:
    def cut(w: World) -> None:
        path: Path = getattr(w, side) / name
        path.write_bytes(path.read_bytes()[:100])

    return cut


def other_report(w: World) -> None:
    w.against = str(w.folder / "server.json")
    Path(w.against).write_text("{}")


def one_class(w: World) -> None:
    (w.folder / "tenant-2.csv").write_text(ROWS.replace("scan", "benign"))


def two_keys(w: World) -> None:
    provision(w.folder / "other", 0, [])
    shutil.copy(w.folder / "other/server.key", w.server / "server.key")


def anothers_certificate(w: World) -> None:
    """With its key: TLS takes it, and the server, which looks at the name, does not."""
    for end in ("pem", "key"):
        shutil.copy(w.home / f"1/client-1.tls.{end}", w.home / f"2/client-2.tls.{end}")


def certificate_of_another_request(w: World) -> None:
    shutil.copy(w.home / "1/client-1.tls.pem", w.home / "2/client-2.tls.pem")


def foreign_certificate(w: World) -> None:
    provision(w.folder / "evil", 3, [])
    for end in ("pem", "key"):
        shutil.copy(w.folder / f"evil/clients/client-2.tls.{end}", w.home / f"2/client-2.tls.{end}")


def watched_at_a_taken_port(setting: str) -> Callable[[World], None]:
    def plant(w: World) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        w.undo = listener.close  # type: ignore[attr-defined]
        w.settings["server"][setting] = f"127.0.0.1:{listener.getsockname()[1]}"

    return plant


def without(side: str, module: str, **settings: Any) -> Callable[[World], None]:
    """Settings that need a library which is not installed."""

    def plant(w: World) -> None:
        patch = pytest.MonkeyPatch()
        patch.setitem(sys.modules, module, None)
        w.undo = patch.undo  # type: ignore[attr-defined]
        w.settings[side] |= settings

    return plant


def set_to(side: str, **changes: Any) -> Callable[[World], None]:
    def plant(w: World) -> None:
        w.settings[side] |= changes

    return plant


def not_a_folder(w: World) -> None:
    w.settings["client"]["log_dir"] = str(w.folder / "public.csv")


def taken(w: World) -> None:
    host, port = w.settings["server"]["server_address"].split(":")
    w.undo = socket.create_server((host, int(port))).close  # type: ignore[attr-defined]


def few_descriptors(w: World) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(resource, "getrlimit", lambda _which: (128, 4096))
    w.undo = patch.undo  # type: ignore[attr-defined]


def full_disk(w: World) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 20))
    w.undo = patch.undo  # type: ignore[attr-defined]


def proxy(w: World) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("https_proxy", "http://proxy.example:3128")
    w.undo = patch.undo  # type: ignore[attr-defined]
    w.settings["client"]["server_address"] = "server.invalid:8443"


def policy(rules: str, mode: int = 0o600) -> Callable[[World], None]:
    def plant(w: World) -> None:
        path = w.home / "policy.yaml"
        path.write_text(rules)
        path.chmod(mode)
        w.settings["client"]["tenant_policy"] = str(path)

    return plant


def unwritable_state(w: World) -> None:
    policy(f"state_dir: {w.folder / 'public.csv'}")(w)


def open_state(w: World) -> None:
    policy("state_dir: memory")(w)
    (w.home / "memory").mkdir(mode=0o755)


def other_end(**facts: str) -> Callable[[World], None]:
    return lambda w: w.report_of_the_server(**facts)


def later(seconds: int) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SOON = datetime.now(UTC) - certificates.SERVER_VALIDITY + timedelta(days=9)
TOMORROW = datetime.now(UTC) + timedelta(days=1)

# name -> the side that looks, the fault, the check that finds it, words of what is said, words of the remedy
FAULTS: dict[str, tuple[str, Callable[[World], object], str, str, str]] = {
    "a misspelt setting": ("client", set_to("client", num_round=1), "settings", "unknown key", "did you mean"),
    "no identity": ("client", lambda w: w.keys.path.unlink(), "identity", "no such file", "client/enrol.py new"),
    "an identity that others can read": (
        "client", lambda w: w.keys.path.chmod(0o644), "identity", "mode 0644", "chmod 600",
    ),
    "another tenant's identity": ("client", renamed_identity, "identity", "the key of 'client-1'", "right file"),
    "an identity under a passphrase": ("client", encrypted, "identity", "encrypted", IDENTITY_PASSPHRASE),
    "a key that is not listed": ("client", other_key, "identity", "lists another key", "client/enrol.py activate"),
    "an enrolment that ends": ("client", lambda w: shorter(w, 5), "enrolment", "ends in 5 days", "enrol.py renew"),
    "an enrolment that has ended": ("client", expired, "identity", "enrolment ended on", "enrol a new one"),
    "a revoked tenant": ("client", revoked, "identity", "is revoked", "enrol a new one"),
    "an older roster": ("client", rolled_back, "identity", "after roster 5 was seen", "newest enrolled.json"),
    "somebody else's roster": ("client", foreign_roster, "identity", "this side goes by", "ask them on another way"),
    "a roster that others can write": (
        "server", lambda w: (w.server / "enrolled.json").chmod(0o666), "roster", "mode 0666", "chmod go-w",
    ),
    "no signer named": ("client", set_to("client", roster_signer=""), "roster", "not set", "set roster_signer"),
    "too few tenants for a round": (
        "server", set_to("server", num_clients=9, min_available_clients=9), "roster", "a round needs 9", "enrol more",
    ),
    "no CA": ("client", lambda w: (w.home / "ca.pem").unlink(), "certificate", "No such file", "provision.py"),
    "a CA that has ended": (
        "client", lambda w: w.certify("ca.pem", datetime(2010, 1, 1, tzinfo=UTC), ca=True), "certificate", "ended on",
        "made anew",
    ),
    "a CA that others may exchange": (
        "client", lambda w: (w.home / "ca.pem").chmod(0o664), "certificate", "mode 0664", "chmod go-w",
    ),
    "another CA": ("client", other_ca, "port", "not signed by the CA", "somebody else"),
    "a server's certificate that has ended": (
        "server", lambda w: w.certify("server.pem", LONG_AGO), "certificate", "ended on", "--renew_server",
    ),
    "a server's certificate that ends": (
        "server", lambda w: w.certify("server.pem", SOON), "certificate", "ends in 8 days", "--renew_server",
    ),
    "a clock that is behind": (
        "server", lambda w: w.certify("server.pem", TOMORROW), "clock", "it is behind", "NTP",
    ),
    "a certificate and another key": ("server", two_keys, "certificate", "not the key of", "one folder"),
    "half a certificate of the server": (
        "server", half("server", "server.pem"), "certificate", "no certificate in PEM", "provision.py",
    ),
    "half a key of the server": (
        "server", half("server", "server.key"), "certificate", "no private key in PEM", "--renew_server",
    ),
    "no key of the server": (
        "server", lambda w: (w.server / "server.key").unlink(), "certificate", "no such file", "--renew_server",
    ),
    "half a certificate of the tenant": (
        "client", half("home", "2/client-2.tls.pem"), "certificate", "client-2.tls.pem: no certificate in PEM",
        "from the operator",
    ),
    "half a key of the tenant's certificate": (
        "client", half("home", "2/client-2.tls.key"), "certificate", "client-2.tls.key: no private key in PEM",
        "client/enrol.py renew",
    ),
    "an empty identity": (
        "client", lambda w: w.keys.path.write_bytes(b""), "identity", "not a key file", "restore it from a backup",
    ),
    "a server whose certificate has ended": ("client", lambda w: w.show(LONG_AGO), "port", "has ended by", "NTP"),
    "a server whose certificate has not begun": (
        "client", lambda w: w.show(TOMORROW), "port", "has not begun by", "NTP",
    ),
    "no roster": (
        "client", lambda w: (w.home / "enrolled.json").unlink(), "identity", "no such file", "get it from whoever",
    ),
    "what is no report": ("client", other_report, "against", "no facts in it", "--json"),
    "a certificate for another name": (
        "server", set_to("server", server_address="127.0.0.2:8443"), "certificate", "not for", "--host",
    ),
    "a signing key on the server": (
        "server", lambda w: shutil.copy(w.operator / "roster.key", w.server), "files", "no running server", "move",
    ),
    "a Paillier key that others can read": (
        "server", lambda w: (w.server / "paillier.json").chmod(0o640), "key", "mode 0640", "chmod 600",
    ),
    "a Paillier key of another length": (
        "server", set_to("server", he_key_length=1024), "key", "512 bits, he_key_length says 1024", "to the key's",
    ),
    "a port that is taken": ("server", taken, "port", "can't listen on", "another server_address"),
    "another tenant's certificate": (
        "client", anothers_certificate, "certificate", "the certificate of client-1, not of client-2", "the operator",
    ),
    "a certificate of another key": (
        "client", certificate_of_another_request, "certificate", "not the key of", "the newest request",
    ),
    "a certificate of another federation": (
        "client", foreign_certificate, "certificate", "not signed by the CA", "one folder",
    ),
    "a port for metrics that is taken": (
        "server", watched_at_a_taken_port("metrics_address"), "port", "can't listen on", "another metrics_address",
    ),
    "a port for the live page that is taken": (
        "server", watched_at_a_taken_port("live_address"), "port", "can't listen on", "another live_address",
    ),
    "metrics without their library": (
        "server", without("server", "prometheus_client", metrics_address=f"127.0.0.1:{free_port()}"), "extras",
        "prometheus_client, which is not installed", ".[metrics]",
    ),
    "event files without their library": (
        "server", without("server", "tensorboard", tensorboard_dir="events"), "extras", "tensorboard", ".[tensorboard]",
    ),
    "MLflow without its library": (
        "server", without("server", "mlflow", mlflow_tracking_uri="sqlite:///m.db"), "extras", "mlflow", ".[mlflow]",
    ),
    "an object store without its library": (
        "client", without("client", "s3fs", data_path="s3://logs/{client_id}/"), "data", "needs s3fs", ".[s3]",
    ),
    "a model of one's own that is not there": (
        "client", set_to("client", model="no_such_package.module:Model"), "extras", "no_such_package", "",
    ),
    "nobody at the address": (
        "client", set_to("client", server_address="127.0.0.1:1"), "port", "127.0.0.1:1", "run_server.py",
    ),
    "a proxy in the way": ("client", proxy, "proxy", "https_proxy", "no_proxy=server.invalid"),
    "no data": ("client", set_to("client", data_path="/none/{client_id}.csv"), "data", "/none/2.csv", ""),
    "columns that are not as agreed": ("client", set_to("client", num_features=3), "data", "2", "num_features"),
    "data of one class": ("client", one_class, "data", "0 of them attacks", "labels read as meant"),
    "nowhere to write": ("client", not_a_folder, "files", "can't be written", "log_dir"),
    "a full disk": ("client", full_disk, "disk", "0.0 GiB free", "make room"),
    "too few descriptors": ("server", few_descriptors, "descriptors", "128 files may be open", "ulimit -n"),
    "a policy against the settings": ("client", policy("local_epochs: 1"), "policy", "local_epochs", "change the"),
    "a policy that others can loosen": ("client", policy("statistics: true", 0o666), "policy", "mode 0666", "chmod"),
    "a policy with a misspelt rule": ("client", policy("local_epoch: 1"), "policy", "local_epoch", "expected"),
    "a memory that can't be written": ("client", unwritable_state, "state", "can't be written", "state_dir"),
    "a memory that others can read": ("client", open_state, "state", "open to other users", "chmod 700"),
    "another version on the other end": ("client", other_end(version="9.9"), "version", "9.9", "same version"),
    "another schema on the other end": ("client", other_end(schema="ab" * 32), "schema", "abab", "data_source"),
    "other settings on the other end": ("client", other_end(settings="ab" * 32), "settings", "abab", "both sides"),
    "another roster on the other end": ("client", other_end(roster="ab" * 32), "roster", "abab", "enrolled.json"),
    "a clock behind the other end's": ("client", other_end(time=later(3600)), "clock", "behind", "NTP"),
    "a report of long ago": ("client", other_end(time=later(-900)), "clock", "s old", "fresh"),
}  # fmt: skip
LATER = {  # what a run survives, for now
    "an enrolment that ends", "no signer named", "a server's certificate that ends", "a signing key on the server",
    "data of one class", "a report of long ago", "a CA that others may exchange",
}  # fmt: skip


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_its_remedy_named(world: World, name: str) -> None:
    side, plant, check, said, remedy = FAULTS[name]
    if side == "server":
        world.settings["server"]["server_address"] = f"127.0.0.1:{free_port()}"
    before = [f.line() for f in world.examine(side).findings if f.level is not Level.OK]
    assert before == []
    plant(world)
    try:
        report = world.examine(side)
    finally:
        getattr(world, "undo", lambda: None)()
    found = [f for f in report.findings if f.check == check and f.level is not Level.OK]
    assert any(said in f.said and remedy in f.remedy for f in found), [f.line() for f in report.findings]
    assert report.healthy is (name in LATER), [f.line() for f in report.findings]
    for finding in report.findings:
        assert finding.line().isprintable()
        assert finding.level is Level.OK or finding.remedy or name == "no data", finding


@pytest.mark.parametrize(
    ("begin", "said"), [(LONG_AGO, "ended on"), (SOON, "ends in 8 days"), (TOMORROW, "begins on"), (None, "")]
)
def test_the_server_says_at_its_start_that_no_client_takes_its_certificate(
    world: World, caplog: pytest.LogCaptureFixture, begin: datetime | None, said: str
) -> None:
    """It waited for tenants that all had ended, without a word."""
    if begin is not None:
        world.certify("server.pem", begin)
    found = Certificates.load(parse_config(world.settings["server"]))
    assert found is not None
    found.tell_end()
    assert [said in line for line in caplog.messages] == ([True] if said else [])


def test_the_clock_that_nothing_keeps_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "kernel_state", lambda: 5)
    assert any(f.check == "clock" and f.level is Level.WARN for f in world.examine("server").findings)


def test_the_commands_print_a_line_each_or_json_and_end_with_the_documented_codes(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.examine("server")
    arguments = ["--config", str(world.folder / "server.yaml")]
    assert server_doctor.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert server_doctor.main([*arguments, "--json"]) == 0
    printed = capsys.readouterr().out
    assert len(json.loads(printed)["findings"]) == len(lines)
    (world.folder / "r.json").write_text(printed)
    assert read_facts(str(world.folder / "r.json"))["roster"] == world.roster.fingerprint
    secret = json.loads((world.server / "paillier.json").read_text())["secret"]["p"]
    assert secret not in printed
    assert client_doctor.main(["--config", "none.yaml", "--client_id", "2"]) == 1
    assert "FAIL  settings" in capsys.readouterr().out


@pytest.mark.parametrize("data", ["", "[]", "{}", '{"facts": 1}', '{"facts": {"a": 1}}', "[" * 10_000])
def test_what_is_no_report_is_refused(tmp_path: Path, data: str) -> None:
    (tmp_path / "r.json").write_text(data)
    with pytest.raises(DataError, match="--against"):
        read_facts(str(tmp_path / "r.json"))
