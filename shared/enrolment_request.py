"""A tenant's request to the operator: enrol this key under this name, or let it count for longer, or take a new key.

    {"format": "enrolment-request", "version": 2, "federation": "<signer of the roster, hex>", "client_id": "client-2",
     "public_key": "<hex>", "certificate_request": "<PEM>", "of": null, "made": "2026-01-31", "consent": "",
     "signature": "<hex>"}

The tenant makes it with `client/enrol.py`, and `orchestrator/provision.py --sign` reads it. No private key is in it:
`signature`, over all the rest, shows that the tenant has the one of `public_key`. Where the name is enrolled already,
`of` is what the roster says of it now, `{"public_key", "expires"}`, and `consent` is a signature over the same by that
key: nobody else can renew or exchange it, and no request counts twice, since the first one changes what it is of.
`certificate_request` is a PKCS #10 request (RFC 2986) for the tenant's TLS certificate, by a P-256 key of its own: TLS
libraries know no better key that all of them take.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from shared.bounded_files import read_bounded
from shared.enrolment import Enrolment
from shared.errors import EnrolmentError
from shared.strict_json import parse_strict_json

REQUEST_PREFIX: Final = b"cloud-security-orchestrator enrolment request v2\0"
LIFETIME: Final = timedelta(days=30)  # a request that is older was forgotten, or held back for a better moment
_SKEW: Final = timedelta(days=1)
_MOST_BYTES: Final = 1 << 14
_FIELDS: Final = {
    "format", "version", "federation", "client_id", "public_key", "certificate_request", "of", "made", "consent",
    "signature",
}  # fmt: skip
_KEY: Final = re.compile("[0-9a-f]{64}")
_SIGNATURE: Final = re.compile("[0-9a-f]{128}")
_NAME: Final = re.compile(r"client-(0|[1-9]\d{0,8})")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True)
class Present:
    """What the roster says of a name when the request is made."""

    public_key: str
    expires: date


@dataclass(frozen=True)
class EnrolmentRequest:
    """A request whose signatures hold. `make` makes one, `load` reads one.

    Attributes:
        federation: public key of whoever signs the roster that it is for, 64 hex digits.
        client_id: the name, `client-<number>`.
        public_key: the tenant's, 64 hex digits; it may be the one that is listed.
        of: what the roster says of the name now; None: nothing yet.
        made: the day, UTC.
        certificate_request: for its TLS certificate, PEM; empty: it asks for none.
    """

    federation: str
    client_id: str
    public_key: str
    of: Present | None
    made: date
    certificate_request: str = ""

    def tls_key(self) -> ec.EllipticCurvePublicKey | None:
        """The key that its TLS certificate is to be for; None: it asks for none.

        Raises:
            ValueError: the certificate request is none, of another name or kind of key, or its signature does not hold.
        """
        if not self.certificate_request:
            return None
        asked = x509.load_pem_x509_csr(self.certificate_request.encode())
        key = asked.public_key()
        named = [attribute.value for attribute in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if named != [self.client_id] or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError(f"certificate_request is not for {self.client_id} and a key of P-256")
        if key.curve.name != "secp256r1" or not asked.is_signature_valid:
            raise ValueError("certificate_request is not signed by a key of P-256")
        return key

    @property
    def title(self) -> str:
        """What signing it does."""
        if self.of is None:
            return f"Enrolled {self.client_id}"
        return f"Renewed {self.client_id}{'' if self.of.public_key == self.public_key else ', with its new key,'}"

    def message(self) -> bytes:
        """What is signed."""
        return REQUEST_PREFIX + json.dumps(self._raw(), sort_keys=True, separators=(",", ":")).encode()

    def fingerprint(self) -> str:
        """SHA-256 in hex, which the tenant tells the operator on another way."""
        return hashlib.sha256(self.message()).hexdigest()

    def signed(self, key: Ed25519PrivateKey, former: Ed25519PrivateKey | None = None) -> bytes:
        """The request's file.

        Args:
            key: of `public_key`.
            former: of the key that is listed; None where `of` is.
        """
        consent = "" if former is None else former.sign(self.message()).hex()
        raw = {**self._raw(), "consent": consent, "signature": key.sign(self.message()).hex()}
        return json.dumps(raw, indent=2).encode() + b"\n"

    def check(self, roster: Enrolment, today: date, fingerprint: str = "") -> None:
        """Whether it is for this federation, of these days and of the present state of the roster.

        Raises:
            EnrolmentError: it is not.
        """
        if fingerprint and fingerprint != self.fingerprint():
            raise EnrolmentError(
                f"the request's fingerprint is {self.fingerprint()}, --fingerprint says {fingerprint}; it is not "
                "the one that the tenant made: get it anew"
            )
        if self.federation != roster.signer:
            raise EnrolmentError(
                f"the request is for the federation whose roster {self.federation[:16]}… signs, this one is signed "
                f"by {roster.signer[:16]}…; the tenant has to make it with this federation's enrolled.json"
            )
        if self.made > today + _SKEW:
            raise EnrolmentError(
                f"the request was made on {self.made}, and it is {today} here; set the clock that is wrong by NTP: "
                "this one, or the tenant's, who then makes it anew"
            )
        if self.made < today - LIFETIME:
            raise EnrolmentError(
                f"the request was made on {self.made}; expected one of the last {LIFETIME.days} days; have it made "
                f"anew: client/enrol.py {'new' if self.of is None else 'renew, or rotate'}, with the same keys"
            )
        listed = roster.clients.get(self.client_id)
        if self.of is None and listed is not None and listed.public_key == self.public_key and not listed.revoked:
            raise EnrolmentError(
                f"the request was signed before, and the roster lists {self.client_id} with its key; if its "
                "certificate is missing: orchestrator/provision.py --certify"
            )
        present = None if listed is None else Present(listed.public_key, listed.expires)
        if self.of is not None and self.of != present:
            raise EnrolmentError(
                f"the request is of an earlier state of {self.client_id}: it was signed before, or the roster has "
                "changed since; have it made anew with the present enrolled.json; if its certificate alone is missing: "
                "orchestrator/provision.py --certify"
            )

    @classmethod
    def load(cls, path: Path) -> "EnrolmentRequest":
        """Read a request and check its signatures.

        Raises:
            EnrolmentError: it can't be read, is malformed, or a signature does not hold.
        """
        try:
            return _parse(parse_strict_json(read_bounded(path, _MOST_BYTES)))
        except OSError as error:
            raise EnrolmentError(f"{path}: can't be read: {error.strerror}; give a file of client/enrol.py") from None
        except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
            why = str(error) or "altered, or not signed by the key that it asks for"
            raise EnrolmentError(f"{path}: no request: {why}; have the tenant make it anew") from None

    def _raw(self) -> dict[str, Any]:
        of = None if self.of is None else {"public_key": self.of.public_key, "expires": self.of.expires.isoformat()}
        return {
            "format": "enrolment-request", "version": 2, "federation": self.federation, "client_id": self.client_id,
            "public_key": self.public_key, "certificate_request": self.certificate_request, "of": of,
            "made": self.made.isoformat(),
        }  # fmt: skip


def _parse(raw: Any) -> EnrolmentRequest:
    if not isinstance(raw, dict) or raw.keys() != _FIELDS or raw["format"] != "enrolment-request":
        raise ValueError(f"expected the fields {', '.join(sorted(_FIELDS))}")
    if raw["version"] != 2:
        raise ValueError("expected version 2")
    of = raw["of"]
    if of is not None and (not isinstance(of, dict) or of.keys() != {"public_key", "expires"}):
        raise ValueError("expected 'of' to be null, or to have 'public_key' and 'expires'")
    present = None if of is None else Present(_form(of, "public_key", _KEY), _day(of, "expires"))
    request = EnrolmentRequest(
        _form(raw, "federation", _KEY), _form(raw, "client_id", _NAME), _form(raw, "public_key", _KEY), present,
        _day(raw, "made"), _text(raw, "certificate_request"),
    )  # fmt: skip
    request.tls_key()
    _verify(request.public_key, _form(raw, "signature", _SIGNATURE), request)
    if present is not None:
        _verify(present.public_key, _form(raw, "consent", _SIGNATURE), request)
    elif raw["consent"] != "":
        raise ValueError("a consent, of no key")
    return request


def make_certificate_request(name: str, key: ec.EllipticCurvePrivateKey) -> str:
    """A PKCS #10 request for a tenant's TLS certificate, as PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is malformed")
    return value


def _form(raw: dict[str, Any], name: str, form: re.Pattern[str]) -> str:
    value = raw[name]
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{name} is malformed")
    return value


def _day(raw: dict[str, Any], name: str) -> date:
    return date.fromisoformat(_form(raw, name, _DATE))


def _verify(public_key: str, signature: str, request: EnrolmentRequest) -> None:
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), request.message())
