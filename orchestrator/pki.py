"""The folder of a federation: its CA, the server's certificate, the signed roster, and what is made for tenants.

`orchestrator/provision.py` is its command line. Whoever has `roster.key` decides who takes part, and whoever has
`ca.key` which certificates count; no running server needs either.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orchestrator.certificates import (
    Authority,
    ca_certificate,
    now_utc,
    read_certificate,
    server_certificate,
    subject_alternative_names,
)
from shared.bounded_files import read_bounded
from shared.enrolment import MAX_ENROLMENT_BYTES, Enrolment, parse_unsigned
from shared.enrolment_request import EnrolmentRequest
from shared.errors import EnrolmentError, KeyMaterialError
from shared.identity_files import encode_identity, load_identity_key
from shared.key_files import PASSPHRASE_VARIABLE
from shared.node_keys import NODES, node_key_files
from shared.passphrases import passphrase_in
from shared.private_files import (
    PRIVATE_MODE,
    PUBLIC_MODE,
    create_file,
    make_private_folder,
    replace_file,
)

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
DEFAULT_DAYS: Final = 365  # that an identity counts, before it is renewed
ENROLLED: Final = "enrolled.json"
ROSTER_KEY: Final = "roster.key"


@dataclass(frozen=True)
class NewFile:
    """A file to be made: its name within the folder, its bytes and its mode."""

    name: str
    data: bytes
    mode: int


def provision(folder: Path, num_clients: int, hosts: Sequence[str], days: int = DEFAULT_DAYS) -> list[NewFile]:
    """Make a federation: its CA, server certificate and roster, and identities. Returns what was made.

    Args:
        folder: where the files go; made if it is missing.
        num_clients: identities to make here; 0 where the tenants make their own.
        hosts: DNS names or IP addresses, beside those of this machine, under which clients reach the server.
        days: that the identities count.

    Raises:
        ConfigError: a host is neither a DNS name nor an IP address.
        KeyMaterialError: a file of that name exists (nothing is made then), or can't be written.
    """
    names = subject_alternative_names([*LOCAL_HOSTS, *hosts])
    now = now_utc()
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = ca_certificate(ca_key, now)
    server = server_certificate(server_key.public_key(), names, ca, ca_key, now)
    roster_key = Ed25519PrivateKey.generate()
    authority = Authority(ca, ca_key)
    listed, identities = _new_identities(Enrolment(MappingProxyType({})), num_clients, last_day(days), authority)
    files = [
        NewFile("ca.key", _pem(ca_key), PRIVATE_MODE),
        NewFile("ca.pem", ca.public_bytes(Encoding.PEM), PUBLIC_MODE),
        NewFile("server.key", _pem(server_key), PRIVATE_MODE),
        NewFile("server.pem", server.public_bytes(Encoding.PEM), PUBLIC_MODE),
        NewFile(ROSTER_KEY, encode_identity("roster", roster_key, passphrase_in(PASSPHRASE_VARIABLE)), PRIVATE_MODE),
        *identities,
        NewFile(ENROLLED, listed.signed(roster_key)[1], PUBLIC_MODE),
    ]
    make_private_folder(folder)
    with _locked(folder):
        _create_all(folder, files, "use --add N to enrol more clients, or another --out for a new federation")
    return files


def identity_settings(folder: Path) -> dict[str, Any]:
    """The settings that name the roster and the tenants' identities of a federation's folder."""
    return {
        "enrolled_clients": str(folder / ENROLLED), "client_identity": str(folder / "clients/client-{client_id}.key"),
    }  # fmt: skip


def last_day(days: int) -> date:
    """The last day, UTC, of what counts for so many days from now."""
    return datetime.now(UTC).date() + timedelta(days=days)


def add_clients(folder: Path, num_clients: int, days: int = DEFAULT_DAYS) -> list[NewFile]:
    """Make identities for more clients and enrol them. Returns the identities' files, without TLS if `ca.key` is away.

    Raises:
        EnrolmentError: the folder has no well-formed roster.
        KeyMaterialError: a file can't be written, or the key of the roster or the CA can't be used;
            nobody is enrolled then.
    """
    with _locked(folder):
        enrolled, authority = Enrolment.load(folder / ENROLLED), Authority.find(folder)
        listed, identities = _new_identities(enrolled, num_clients, last_day(days), authority)
        key = _roster_key(folder)
        # The list comes last: a client that is enrolled always has its file.
        _create_all(folder, identities, "it is of a client that is not in the list; remove it and repeat")
        replace_file(folder / ENROLLED, listed.signed(key)[1], mode=PUBLIC_MODE)
    return identities


def revoke_client(folder: Path, client_id: str) -> Enrolment:
    """Mark one client as revoked in the roster.

    Raises:
        EnrolmentError: there is no such client, it is revoked already, or the roster is missing or malformed.
        KeyMaterialError: the roster can't be written, or its key can't be used.
    """
    return _change(folder, lambda roster: roster.without(client_id))


def sign_request(folder: Path, request: EnrolmentRequest, days: int = DEFAULT_DAYS, fingerprint: str = "") -> Enrolment:
    """Enrol a tenant by its own request, or renew it, or give it the new key that it asks for.

    Where it asks for a TLS certificate and `ca.key` is here, that is `clients/<name>.tls.pem` then; see `certify`.

    Args:
        folder: of the federation.
        request: what the tenant sent; its signatures are checked when it is read.
        days: that it counts, from today.
        fingerprint: what the tenant said on another way; empty: it is not compared.

    Raises:
        EnrolmentError: for another federation, too old, for another state of the roster than the present one,
            or with another fingerprint.
        EnrolmentError: the name or the key is taken, or the roster is missing or malformed.
        UpdateRejectedError: the tenant is revoked, or its enrolment has ended.
        KeyMaterialError: the roster can't be written, or its key or the CA's can't be used.
    """

    def change(roster: Enrolment) -> Enrolment:
        request.check(roster, datetime.now(UTC).date(), fingerprint)
        if request.of is None:
            return roster.with_client(request.client_id, request.public_key, roster.today, last_day(days))
        return roster.renewed(request.client_id, request.public_key, last_day(days))

    made = _change(folder, change)
    if request.certificate_request and Authority.find(folder) is not None:
        certify(folder, request)
    return made


def certify(folder: Path, request: EnrolmentRequest) -> Path:
    """Make the TLS certificate that an enrolled tenant's request asks for. Returns its file.

    Raises:
        EnrolmentError: it asks for none, or its key is not the one that the roster lists.
        EnrolmentError, UpdateRejectedError: the roster can't be read, or the tenant may not take part.
        KeyMaterialError: the CA can't be used, or the file can't be written.
    """
    roster, key = Enrolment.load(folder / ENROLLED), request.tls_key()
    roster.public_key(request.client_id)
    listed = roster.clients[request.client_id]
    if key is None or listed.public_key != request.public_key:
        raise EnrolmentError(
            f"the request of {request.client_id} asks for no certificate, or is of another key than the roster lists; "
            "have it made anew, and sign it first"
        )
    path = folder / certificate_file(request.client_id)
    make_private_folder(path.parent)
    pem = Authority.load(folder).certify(request.client_id, key, listed.expires)
    replace_file(path, pem, mode=PUBLIC_MODE)
    return path


def certificate_file(name: str) -> str:
    """Where a tenant's TLS certificate is made, within the federation's folder."""
    return f"clients/{name}.tls.pem"


def upgrade(folder: Path, days: int = DEFAULT_DAYS) -> Enrolment:
    """Sign a list of an earlier version as the first roster, with a new key.

    Raises:
        EnrolmentError: there is no such list.
        KeyMaterialError: a file can't be read or written.
    """
    with _locked(folder):
        try:
            data = read_bounded(folder / ENROLLED, MAX_ENROLMENT_BYTES)
        except OSError as error:
            raise EnrolmentError(f"{folder / ENROLLED}: can't be read: {error.strerror}") from None
        listed = parse_unsigned(data, last_day(days))
        key = Ed25519PrivateKey.generate()
        made, content = listed.signed(key)
        secret = encode_identity("roster", key, passphrase_in(PASSPHRASE_VARIABLE))
        _create_all(folder, [NewFile(ROSTER_KEY, secret, PRIVATE_MODE)], "it signs the roster; remove nothing of it")
        replace_file(folder / ENROLLED, content, mode=PUBLIC_MODE)
    return made


def renew_server(folder: Path) -> datetime:
    """Make the server a new key and certificate, for the same names. Returns when it ends.

    Raises:
        KeyMaterialError: `ca.key`, `ca.pem` or `server.pem` is missing or malformed, or can't be written.
    """
    with _locked(folder):
        authority = Authority.load(folder)
        try:
            old = read_certificate(folder / "server.pem")
            names = list(old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except x509.ExtensionNotFound as error:
            raise KeyMaterialError(f"{folder / 'server.pem'}: can't be used: {error}") from None
        key = ec.generate_private_key(ec.SECP256R1())
        made = server_certificate(key.public_key(), names, authority.certificate, authority.key, now_utc())
        replace_file(folder / "server.key", _pem(key), mode=PRIVATE_MODE)
        replace_file(folder / "server.pem", made.public_bytes(Encoding.PEM), mode=PUBLIC_MODE)
    return made.not_valid_after_utc


def _roster_key(folder: Path) -> Ed25519PrivateKey:
    advice = "it signs the roster: bring it here from where it is kept, or make it with --upgrade for an earlier list"
    return load_identity_key(folder / ROSTER_KEY, "roster", advice, PASSPHRASE_VARIABLE)


def _change(folder: Path, change: Callable[[Enrolment], Enrolment]) -> Enrolment:
    with _locked(folder):
        changed = change(Enrolment.load(folder / ENROLLED))
        made, content = changed.signed(_roster_key(folder))
        replace_file(folder / ENROLLED, content, mode=PUBLIC_MODE)
    return made


def add_node_keys(folder: Path) -> list[NewFile]:
    """Make the key of a Flower node for each enrolled client that has none. Returns the files.

    Raises:
        EnrolmentError: the folder has no well-formed list of enrolled clients.
        KeyMaterialError: a file can't be written; none is made then.
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


def _new_identities(
    enrolment: Enrolment, num_clients: int, expires: date, authority: Authority | None
) -> tuple[Enrolment, list[NewFile]]:
    """The list with `num_clients` clients more, and the files of each.

    The first client is client-0; numbers go on from the highest ever given out.
    """
    given_out = [int(m[1]) for name in enrolment.clients if (m := re.fullmatch(r"client-(0|[1-9]\d{0,8})", name))]
    first = max(given_out, default=-1) + 1
    files = []
    for number in range(first, first + num_clients):
        key = Ed25519PrivateKey.generate()
        public_key = key.public_key().public_bytes_raw().hex()
        enrolment = enrolment.with_client(f"client-{number}", public_key, datetime.now(UTC).date(), expires)
        name = f"client-{number}"
        files.append(NewFile(f"clients/{name}.key", _pem(key), PRIVATE_MODE))
        if authority is not None:
            tls_key = ec.generate_private_key(ec.SECP256R1())
            certificate = authority.certify(name, tls_key.public_key(), expires)
            files.append(NewFile(f"clients/{name}.tls.key", _pem(tls_key), PRIVATE_MODE))
            files.append(NewFile(certificate_file(name), certificate, PUBLIC_MODE))
    return enrolment, files


def _pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One provisioning at a time: two that change the list at once would lose one's change, perhaps a revocation."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeyMaterialError(
            f"{folder}: {error.strerror}; make the federation with --clients N --out {folder}"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise KeyMaterialError(
                f"{folder}: can't be locked: {error.strerror}; wait for the other provisioning to end and repeat"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _create_all(folder: Path, files: Sequence[NewFile], advice: str) -> None:
    """Make all files or none."""
    for file in files:
        if os.path.lexists(folder / file.name):
            raise KeyMaterialError(f"{folder / file.name}: already exists and is never overwritten; {advice}")
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
