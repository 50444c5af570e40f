"""The PKI: what is made, for whom, and that TLS with it works and refuses."""

import fcntl
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from orchestrator.certificates import subject_alternative_names
from orchestrator.pki import add_clients, provision, revoke_client
from orchestrator.provision import main
from shared.enrolment import Enrolment
from shared.errors import ConfigError, EnrolmentError, KeyMaterialError
from shared.identity import ClientIdentity

REPOSITORY = Path(__file__).parents[1]
HOSTS = ["orchestrator.example.org", "10.0.0.7", "fd00::7"]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation that the tests only read."""
    folder = tmp_path_factory.mktemp("federation") / "config" / "pki"
    provision(folder, 3, HOSTS)
    return folder


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A federation that a test may change."""
    provision(tmp_path / "pki", 2, [])
    return tmp_path / "pki"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "orchestrator/provision.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# The files


def test_the_federation_is_complete_and_its_keys_are_private(pki: Path) -> None:
    private = {
        "ca.key",
        "server.key",
        "roster.key",
        "clients/client-0.key",
        "clients/client-1.key",
        "clients/client-2.key",
        *(f"clients/client-{i}.tls.key" for i in range(3)),
    }
    public = {f"clients/client-{i}.tls.pem" for i in range(3)}
    assert files_of(pki) == private | public | {"ca.pem", "server.pem", "enrolled.json"}
    for name in files_of(pki):
        assert stat.S_IMODE((pki / name).stat().st_mode) & 0o077 == (0 if name in private else 0o044)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (pki, pki / "clients")} == {0o700}


def test_private_keys_are_private_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created: dict[str, tuple[int, int]] = {}
    real_open = os.open

    def spying_open(name: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(name, flags, mode)
        if flags & os.O_CREAT:
            created[Path(name).name] = (stat.S_IMODE(os.fstat(descriptor).st_mode), flags & os.O_EXCL)
        return descriptor

    monkeypatch.setattr(os, "open", spying_open)
    before = os.umask(0)
    try:
        provision(tmp_path / "pki", 1, [])
    finally:
        os.umask(before)
    keys = {name: how for name, how in created.items() if ".key." in name}
    assert len(keys) == 5
    assert set(keys.values()) == {(0o600, os.O_EXCL)}


def test_each_identity_is_the_enrolled_one_and_no_two_are_alike(pki: Path) -> None:
    enrolment = Enrolment.load(pki / "enrolled.json")
    assert list(enrolment.clients) == ["client-0", "client-1", "client-2"]
    for client_id, enrolled in enrolment.clients.items():
        identity = ClientIdentity.load(pki / "clients" / f"{client_id}.key", client_id)
        assert identity.public_key_hex == enrolled.public_key
        assert not enrolled.revoked
        assert abs(enrolled.added - datetime.now(UTC).date()) <= timedelta(days=1)
    assert len({enrolled.public_key for enrolled in enrolment.clients.values()}) == 3


@pytest.mark.parametrize("name", ["ca.key", "server.pem", "enrolled.json", "clients/client-2.key"])
def test_nothing_is_overwritten_and_then_nothing_is_made(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(KeyMaterialError, match=rf"{name}: already exists .* use --add N"):
        provision(tmp_path, 3, [])
    assert files_of(tmp_path) == {name}
    assert (tmp_path / name).read_text() == "precious"


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_link, links = os.link, []

    def failing_link(source: Path, target: Path) -> None:
        links.append(target)
        if len(links) == 4:
            raise OSError(28, "No space left on device")
        real_link(source, target)

    monkeypatch.setattr(os, "link", failing_link)
    with pytest.raises(KeyMaterialError, match="No space left on device"):
        provision(tmp_path / "pki", 3, [])
    assert files_of(tmp_path) == set()


# More clients, and fewer


def test_added_clients_go_on_from_the_highest_number(fresh: Path) -> None:
    before = Enrolment.load(fresh / "enrolled.json").clients
    revoke_client(fresh, "client-1")  # its number is not given out again
    made = [file.name for file in add_clients(fresh, 2)]
    assert made == [f"clients/client-{i}{end}" for i in (2, 3) for end in (".key", ".tls.key", ".tls.pem")]
    after = Enrolment.load(fresh / "enrolled.json").clients
    assert after["client-0"] == before["client-0"]
    assert [name for name, client in after.items() if client.revoked] == ["client-1"]
    for name in ("client-2", "client-3"):
        path = fresh / "clients" / f"{name}.key"
        assert ClientIdentity.load(path, name).public_key_hex == after[name].public_key


def test_clients_are_added_without_the_ca_key(fresh: Path) -> None:
    """Which belongs offline."""
    (fresh / "ca.key").unlink()
    assert [file.name for file in add_clients(fresh, 1)] == ["clients/client-2.key"], "and no certificate"


def test_a_failed_enrolment_leaves_no_key(fresh: Path) -> None:
    before = (fresh / "enrolled.json").read_bytes()
    (fresh / "clients" / "client-3.key").write_text("precious")
    with pytest.raises(KeyMaterialError, match=r"client-3\.key: already exists"):
        add_clients(fresh, 3)
    assert (fresh / "enrolled.json").read_bytes() == before
    assert not (fresh / "clients" / "client-2.key").exists()


@pytest.mark.parametrize(("client_id", "words"), [("client-9", "not in the list"), ("client-1", "revoked already")])
def test_only_an_active_client_can_be_revoked(fresh: Path, client_id: str, words: str) -> None:
    revoke_client(fresh, "client-1")
    with pytest.raises(EnrolmentError, match=words):
        revoke_client(fresh, client_id)


@pytest.mark.parametrize("change", [lambda f: add_clients(f, 1), lambda f: revoke_client(f, "client-1")])
def test_two_changes_at_once_are_refused(fresh: Path, change: Callable[[Path], object]) -> None:
    """Or one of them would be lost, and with it perhaps a revocation."""
    other = os.open(fresh, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(KeyMaterialError, match="can't be locked"):
            change(fresh)
    finally:
        os.close(other)
    change(fresh)


@pytest.mark.parametrize("change", [lambda f: add_clients(f, 1), lambda f: revoke_client(f, "client-1")])
def test_a_change_needs_a_federation(tmp_path: Path, change: Callable[[Path], object]) -> None:
    with pytest.raises(KeyMaterialError, match="make the federation with --clients"):
        change(tmp_path / "none")
    with pytest.raises(EnrolmentError, match="no such file"):
        change(tmp_path)


# The certificates


def test_the_ca_certificate(pki: Path) -> None:
    ca = certificate(pki / "ca.pem")
    ca.verify_directly_issued_by(ca)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value) == (True, x509.BasicConstraints(ca=True, path_length=0))
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    assert timedelta(days=3650) <= ca.not_valid_after_utc - ca.not_valid_before_utc < timedelta(days=3652)


def test_the_server_certificate(pki: Path) -> None:
    ca, server = certificate(pki / "ca.pem"), certificate(pki / "server.pem")
    server.verify_directly_issued_by(ca)
    extensions = server.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "orchestrator.example.org"]
    addresses = ["127.0.0.1", "::1", "10.0.0.7", "fd00::7"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address(address) for address in addresses]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == own.digest
    assert server.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=30)  # for a slow clock
    assert server.not_valid_after_utc < ca.not_valid_after_utc
    for name, cert in (("ca.key", ca), ("server.key", server)):
        key = load_pem_private_key((pki / name).read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == cert.public_key()


def test_a_strict_verifier_accepts_the_chain(pki: Path) -> None:
    verifier = PolicyBuilder().store(Store([certificate(pki / "ca.pem")]))
    for subject in (x509.DNSName("orchestrator.example.org"), x509.IPAddress(ip_address("::1"))):
        chain = verifier.build_server_verifier(subject).verify(certificate(pki / "server.pem"), [])
        assert len(chain) == 2


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*.example.org",
        "a b",
        "a..b",
        ".a",
        "a.",
        "-a",
        "a_b",
        "a/b",
        "host:8080",
        "[::1]",
        "10.0.0.256",
        "é.org",
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "a\n",
    ],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="expected a DNS name"):
        subject_alternative_names([host])


def test_each_name_is_in_the_certificate_once() -> None:
    names = subject_alternative_names(["localhost", "LOCALHOST", "::1", "0:0::1", "xn--bcher-kva.example"])
    assert [name.value for name in names] == ["localhost", ip_address("::1"), "xn--bcher-kva.example"]


# TLS over loopback


def handshake(pki: Path, client: ssl.SSLContext, host: str) -> bytes:
    """One TLS connection to a server with this PKI's certificate; what it sends, or the client's error."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pki / "server.pem", pki / "server.key")

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            try:
                with server.wrap_socket(connection, server_side=True) as tls:
                    tls.sendall(b"hello")
            except OSError:
                pass  # the client refused, which the test sees on its side

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as connection,
                client.wrap_socket(connection, server_hostname=host) as tls,
            ):
                return tls.recv(5)
        finally:
            thread.join(10)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", *HOSTS])
def test_tls_works_under_every_name(pki: Path, host: str) -> None:
    client = ssl.create_default_context(cafile=pki / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert handshake(pki, client, host) == b"hello"


@pytest.mark.parametrize("host", ["other.example.org", "sub.orchestrator.example.org", "10.0.0.8"])
def test_tls_refuses_a_wrong_name(pki: Path, host: str) -> None:
    client = ssl.create_default_context(cafile=pki / "ca.pem")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        handshake(pki, client, host)


def test_tls_refuses_without_the_ca_and_with_another(pki: Path, fresh: Path) -> None:
    for client in (ssl.create_default_context(), ssl.create_default_context(cafile=fresh / "ca.pem")):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed|signature"):
            handshake(pki, client, "localhost")


# The script, as a person runs it


def test_the_script_makes_adds_and_revokes(tmp_path: Path) -> None:
    pki = tmp_path / "config" / "pki"
    made = run("--clients", "3", "--out", pki)
    assert made.returncode == 0, made.stderr
    for words in ("localhost, 127.0.0.1, ::1", "you, offline    ca.key", "clients/client-2.key", "and to nobody else"):
        assert words in made.stdout
    again = run("--clients", "3", "--out", pki)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: ")
    assert again.stderr.count("\n") == 1
    assert "use --add N" in again.stderr
    for arguments in (("--add", "2"), ("--revoke", "client-1")):
        result = run(*arguments, "--out", pki)
        assert result.returncode == 0, result.stderr
    clients = Enrolment.load(pki / "enrolled.json").clients
    assert [(name, client.revoked) for name, client in clients.items()] == [
        (f"client-{number}", number == 1) for number in range(5)
    ]
    for path in pki.rglob("*.key"):
        for line in path.read_text().splitlines()[1:-1]:
            assert line not in made.stdout + again.stderr


def test_many_clients_make_a_short_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clients", "40", "--out", str(tmp_path / "pki")]) == 0
    shown = capsys.readouterr().out
    assert "client-39.key" in shown
    assert "client-20.key" not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--clients", "-1"],
        ["--clients", "many"],
        ["--clients", "10001"],
        ["--clients", "1", "--add", "1"],
        ["--add", "-1"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--out", str(tmp_path)])
    assert caught.value.code == 2
    assert files_of(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--add", "1", "--host", "a.example"], 2, "--host: the certificate's names are given once"),
        (["--clients", "1", "--host", "a b"], 2, "expected a DNS name"),
        (["--revoke", "a\nb"], 1, "no such file"),
    ],
)
def test_an_error_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert files_of(tmp_path) == set()
