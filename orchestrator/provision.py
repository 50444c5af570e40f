"""Make the keys and certificates of a federation, enrol more clients, revoke one.

python orchestrator/provision.py --clients 3 --out config/pki --host orchestrator.example.org
python orchestrator/provision.py --add 2 --out config/pki
python orchestrator/provision.py --revoke client-1 --out config/pki
python orchestrator/provision.py --node_keys --out config/pki      # for Flower's SuperNodes, see docs/deployment.md
"""

import argparse
import contextlib
import fcntl
import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.node_keys import NODES, node_key_files
from shared import cli
from shared.enrolment import Enrolment
from shared.errors import ConfigError, KeyFileError
from shared.private_files import PRIVATE_MODE, PUBLIC_MODE, create_file, make_private_folder, replace_file

CA_VALIDITY: Final = timedelta(days=3650)
SERVER_VALIDITY: Final = timedelta(days=825)  # the longest that common TLS libraries accept of a private CA
CLOCK_SKEW: Final = timedelta(hours=1)  # a client whose clock is slow must not find the certificate "not yet valid"
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
MAX_CLIENTS: Final = 10_000
ENROLLED: Final = "enrolled.json"

_DNS_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label holds a letter: "10.0.0.256" is a mistyped address and not a name.
_DNS_NAME: Final = re.compile(rf"(?:{_DNS_LABEL}\.)*(?=[a-z0-9-]*[a-z]){_DNS_LABEL}")


@dataclass(frozen=True)
class NewFile:
    """A file to be made: its name within the folder, its bytes and its mode."""

    name: str
    data: bytes
    mode: int


def provision(folder: Path, num_clients: int, hosts: Sequence[str]) -> list[NewFile]:
    """Make a federation's CA, server certificate, client identities and enrolled list. Returns what was made.

    Args:
        folder: where the files go; made if it is missing.
        num_clients: identities to make.
        hosts: DNS names or IP addresses, beside those of this machine, under which clients reach the server.

    Raises:
        ConfigError: a host is neither a DNS name nor an IP address.
        KeyFileError: a file of that name exists (nothing is made then), or can't be written.
    """
    names = subject_alternative_names([*LOCAL_HOSTS, *hosts])
    now = datetime.now(UTC).replace(microsecond=0)
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _ca_certificate(ca_key, now)
    server = _server_certificate(server_key.public_key(), names, ca, ca_key, now)
    enrolment, identities = _new_identities(Enrolment(MappingProxyType({})), num_clients)
    files = [
        NewFile("ca.key", _pem(ca_key), PRIVATE_MODE),
        NewFile("ca.pem", ca.public_bytes(Encoding.PEM), PUBLIC_MODE),
        NewFile("server.key", _pem(server_key), PRIVATE_MODE),
        NewFile("server.pem", server.public_bytes(Encoding.PEM), PUBLIC_MODE),
        *identities,
        NewFile(ENROLLED, enrolment.to_json(), PUBLIC_MODE),
    ]
    make_private_folder(folder)
    with _locked(folder):
        _create_all(folder, files, "use --add N to enrol more clients, or another --out for a new federation")
    return files


def add_clients(folder: Path, num_clients: int) -> list[NewFile]:
    """Make identities for more clients and enrol them. Returns the identities' files.

    Raises:
        EnrolmentError: the folder has no well-formed list of enrolled clients.
        KeyFileError: a file can't be written; nobody is enrolled then.
    """
    with _locked(folder):
        enrolment, identities = _new_identities(Enrolment.load(folder / ENROLLED), num_clients)
        # The list comes last: a client that is enrolled always has its file.
        _create_all(folder, identities, "it is of a client that is not in the list; remove it and repeat")
        replace_file(folder / ENROLLED, enrolment.to_json(), mode=PUBLIC_MODE)
    return identities


def revoke_client(folder: Path, client_id: str) -> None:
    """Mark one client as revoked in the enrolled list.

    Raises:
        EnrolmentError: there is no such client, it is revoked already, or the list is missing or malformed.
        KeyFileError: the list can't be written.
    """
    with _locked(folder):
        enrolment = Enrolment.load(folder / ENROLLED).without(client_id)
        replace_file(folder / ENROLLED, enrolment.to_json(), mode=PUBLIC_MODE)


def add_node_keys(folder: Path) -> list[NewFile]:
    """Make the key of a Flower node for each enrolled client that has none. Returns the files.

    Raises:
        EnrolmentError: the folder has no well-formed list of enrolled clients.
        KeyFileError: a file can't be written; none is made then.
    """
    with _locked(folder):
        clients = Enrolment.load(folder / ENROLLED).public_keys()
        files = [
            NewFile(name, data, PUBLIC_MODE if name.endswith(".pub") else PRIVATE_MODE)
            for client_id in clients
            if not os.path.lexists(folder / NODES / f"{client_id}.key")
            for name, data in node_key_files(client_id).items()
        ]
        _create_all(folder, files, "it is of a key that is gone; remove it and repeat")
    return files


def subject_alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """The names that a server certificate is valid for, each once.

    Raises:
        ConfigError: neither a DNS name nor an IP address; wildcards count as neither.
    """
    names: list[x509.GeneralName] = []
    for host in hosts:
        name: x509.GeneralName
        try:
            name = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            dns = host.lower()
            if len(dns) > 253 or not _DNS_NAME.fullmatch(dns):
                raise ConfigError(
                    f"--host {host!r}: expected a DNS name such as orchestrator.example.org or an IP address, "
                    "without port (an international name in its xn-- form)"
                ) from None
            name = x509.DNSName(dns)
        if name not in names:
            names.append(name)
    return names


def _ca_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """RFC 5280, section 4.2.1: what a CA certificate must carry. Path length 0: it signs servers and no other CA."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Cloud Security Orchestrator CA")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _certificate(name, name, key.public_key(), now, CA_VALIDITY)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Cloud Security Orchestrator server")])
    issuer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = _certificate(subject, ca.subject, key, now, SERVER_VALIDITY)
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(key_cert_sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, validity: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + validity)
    )


def _key_usage(*, key_cert_sign: bool) -> x509.KeyUsage:
    """A CA signs certificates and revocation lists, a server signs its part of the TLS handshake; neither the other."""
    return x509.KeyUsage(
        digital_signature=not key_cert_sign,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _new_identities(enrolment: Enrolment, num_clients: int) -> tuple[Enrolment, list[NewFile]]:
    """The list with `num_clients` clients more, and the file of each.

    The first client is client-0; numbers go on from the highest ever given out.
    """
    given_out = [int(m[1]) for name in enrolment.clients if (m := re.fullmatch(r"client-(0|[1-9]\d{0,8})", name))]
    first = max(given_out, default=-1) + 1
    files = []
    for number in range(first, first + num_clients):
        key = Ed25519PrivateKey.generate()
        public_key = key.public_key().public_bytes_raw().hex()
        enrolment = enrolment.with_client(f"client-{number}", public_key, datetime.now(UTC).date())
        files.append(NewFile(f"clients/client-{number}.key", _pem(key), PRIVATE_MODE))
    return enrolment, files


def _pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One provisioning at a time: two that change the list at once would lose one's change, perhaps a revocation."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeyFileError(f"{folder}: {error.strerror}; make the federation with --clients N --out {folder}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise KeyFileError(
                f"{folder}: can't be locked: {error.strerror}; wait for the other provisioning to end and repeat"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _create_all(folder: Path, files: Sequence[NewFile], advice: str) -> None:
    """Make all files or none."""
    for file in files:
        if os.path.lexists(folder / file.name):
            raise KeyFileError(f"{folder / file.name}: already exists and is never overwritten; {advice}")
    made: list[Path] = []
    try:
        for file in files:
            path = folder / file.name
            make_private_folder(path.parent)
            create_file(path, file.data, mode=file.mode, advice=advice)
            made.append(path)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _describe_clients(identities: Sequence[NewFile]) -> list[str]:
    keys = [file.name for file in identities]
    shown = keys if len(keys) <= 5 else [*keys[:2], "...", keys[-1]]
    return [
        f"  each client     its own key, ca.pem and {ENROLLED}, which lists the public keys of its peers:",
        *(f"                  {key}" for key in shown),
        "Hand each key to its one client over a channel you trust, and to nobody else.",
    ]


def _describe_node_keys(folder: Path, files: Sequence[NewFile]) -> list[str]:
    if not files:
        return [f"Each enrolled client has the key of its node in {folder / NODES}; nothing to do."]
    public = [file.name for file in files if file.name.endswith(".pub")]
    return [
        f"Made keys of {len(public)} nodes in {folder / NODES}. Give each private one to its tenant, and register the",
        "public ones with the SuperLink, by its name in Flower's configuration:",
        *(f"  flwr supernode register {folder / name} <superlink>" for name in public),
    ]


def _run(args: argparse.Namespace) -> list[str]:
    """Do what the command line asks, and say what was done."""
    folder: Path = args.out
    if args.host and args.clients is None:
        raise ConfigError("--host: the certificate is made once, with --clients; leave it out here")
    if args.revoke is not None:
        revoke_client(folder, args.revoke)
        return [f"Revoked {args.revoke}. Copy {folder / ENROLLED} to the server and to every client."]
    if args.node_keys:
        return _describe_node_keys(folder, add_node_keys(folder))
    if args.add is not None:
        added = add_clients(folder, args.add)
        return [
            f"Enrolled {len(added)} more in {folder}. Copy {ENROLLED} to the server and to the present clients too.",
            *_describe_clients(added),
        ]
    files = provision(folder, args.clients, args.host)
    until = (datetime.now(UTC) + SERVER_VALIDITY).date()
    return [
        f"Made a CA, a server certificate and identities ({args.clients}) in {folder}.",
        f"The certificate is for {', '.join(dict.fromkeys([*LOCAL_HOSTS, *args.host]))}; valid until {until}.",
        "Who gets what:",
        "  you, offline    ca.key: it signs certificates, and a running server never needs it",
        f"  the server      server.pem, server.key, {ENROLLED}",
        *_describe_clients([file for file in files if file.name.startswith("clients/")]),
    ]


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,4}", text, re.ASCII) or int(text) > MAX_CLIENTS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 to {MAX_CLIENTS}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    summary, _, commands = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=commands, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--clients", type=_count, metavar="N", help="make a new federation of N clients")
    action.add_argument("--add", type=_count, metavar="N", help="enrol N more clients")
    action.add_argument("--node_keys", action="store_true", help="make keys for the Flower nodes of all clients")
    action.add_argument("--revoke", metavar="ID", help="revoke one client, such as client-1")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the federation's folder")
    parser.add_argument(
        "--host",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="with --clients: DNS names or IP addresses of the server, beside localhost",
    )
    args = parser.parse_args(argv)
    return cli.run(lambda: print("\n".join(_run(args))))


if __name__ == "__main__":
    sys.exit(main())
