"""The certificates of a federation: a CA of its own, the server's, which the tenants' TLS checks, and the tenants'."""

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.bounded_files import MAX_CERTIFICATE_BYTES, read_bounded
from shared.errors import ConfigError, KeyMaterialError
from shared.private_files import read_private_file

CA_VALIDITY: Final = timedelta(days=3650)
SERVER_VALIDITY: Final = timedelta(days=825)  # the longest that common TLS libraries accept of a private CA
CLOCK_SKEW: Final = timedelta(hours=1)  # a client whose clock is slow must not find the certificate "not yet valid"

_DNS_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label holds a letter: "10.0.0.256" is a mistyped address and not a name.
_DNS_NAME: Final = re.compile(rf"(?:{_DNS_LABEL}\.)*(?=[a-z0-9-]*[a-z]){_DNS_LABEL}")


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


def ca_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """RFC 5280, section 4.2.1: what a CA certificate must carry. Path length 0: it signs no other CA."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Cloud Security Orchestrator CA")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _certificate(name, name, key.public_key(), now, now + CA_VALIDITY)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def server_certificate(
    key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    builder = _end_entity("Cloud Security Orchestrator server", key, ca, now, now + SERVER_VALIDITY)
    return (
        builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def client_certificate(
    key: ec.EllipticCurvePublicKey,
    name: str,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    last_day: date,
) -> x509.Certificate:
    """For a tenant, to the end of the last day (UTC) that its enrolment counts. No server can be posed as with it."""
    end = min(datetime.combine(last_day + timedelta(days=1), time(), UTC), ca.not_valid_after_utc)
    builder = _end_entity(name, key, ca, now, end)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    return builder.add_extension(usage, critical=False).sign(ca_key, hashes.SHA256())


@dataclass(frozen=True)
class Authority:
    """The federation's CA: its certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> "Authority":
        """Of a federation's folder.

        Raises:
            KeyMaterialError: `ca.key` or `ca.pem` is missing or malformed, or they don't belong together.
        """
        key = load_pem_private_key(read_private_file(folder / "ca.key", "it is kept offline; bring it here"), None)
        certificate = read_certificate(folder / "ca.pem")
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise KeyMaterialError(f"{folder / 'ca.key'}: not the key of ca.pem; bring the one of this federation")
        return cls(certificate, key)

    @classmethod
    def find(cls, folder: Path) -> "Authority | None":
        """The same; None where `ca.key` is kept elsewhere."""
        return cls.load(folder) if os.path.lexists(folder / "ca.key") else None

    def certify(self, name: str, key: ec.EllipticCurvePublicKey, expires: date) -> bytes:
        """A tenant's TLS certificate, PEM, to the end of that day."""
        made = client_certificate(key, name, self.certificate, self.key, now_utc(), expires)
        return made.public_bytes(Encoding.PEM)


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate in PEM.

    Raises:
        KeyMaterialError: it is missing or none.
    """
    try:
        return x509.load_pem_x509_certificate(read_bounded(path, MAX_CERTIFICATE_BYTES))
    except (OSError, ValueError) as error:
        raise KeyMaterialError(f"{path}: can't be used: {error}; bring the one of this federation") from None


def now_utc() -> datetime:
    """The present second; certificates know no shorter time."""
    return datetime.now(UTC).replace(microsecond=0)


def _end_entity(
    name: str, key: ec.EllipticCurvePublicKey, ca: x509.Certificate, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _certificate(subject, ca.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(key_cert_sign=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
    )


def _key_usage(*, key_cert_sign: bool) -> x509.KeyUsage:
    """A CA signs certificates and revocation lists, an end its part of the TLS handshake; neither does the other."""
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
