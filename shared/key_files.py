"""The orchestrator's Paillier private key as a file: one JSON object, mode 0600, encrypted when a passphrase is set.

    {"format": "paillier-private-key", "version": 1, "kind": "blum", "key_length": 3072, "fingerprint": "<hex>",
     "created": "2026-01-31T12:00:00Z", "n": "<hex>", "protection": null, "secret": {"p": "<hex>", "q": "<hex>"}}

With a passphrase, `protection` names the key derivation and the cipher with their salt and nonce, and `secret` is the
ciphertext of that object in hex. All else in the file is its associated data, so no header can be exchanged.
"""

import contextlib
import json
import os
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from math import gcd, isqrt, prod
from pathlib import Path
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from phe.paillier import PaillierPrivateKey, PaillierPublicKey
from phe.util import first_primes, is_prime

from shared.errors import KeyMaterialError, PassphraseError
from shared.private_files import PRIVATE_MODE, create_file, read_private_file, replace_file
from shared.strict_json import parse_strict_json

PASSPHRASE_VARIABLE: Final = "ORCHESTRATOR_KEY_PASSPHRASE"  # noqa: S105 (the name of a variable)
KINDS: Final = ("blum", "subgroup")
FORMAT: Final = "paillier-private-key"
VERSION: Final = 1
MAX_KEY_BITS: Final = 16_384
PRIME_ROUNDS: Final = 40

# scrypt at 128 MiB and about half a second a guess (OWASP's first choice). The numbers are part of version 1: a file
# that states others is refused, or it could ask for all memory there is.
SCRYPT_N: Final = 1 << 17
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
_PROTECTION: Final = {"kdf": "scrypt", "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "cipher": "chacha20-poly1305"}
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12

_HEADER_FIELDS: Final = {"format", "version", "kind", "key_length", "fingerprint", "created", "n", "protection"}
_HEX: Final = re.compile(r"(0|[1-9a-f][0-9a-f]*)")  # one spelling per number
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class PaillierKey:
    """A Paillier private key with what its file says about it. Its repr shows no secret, and it refuses to be pickled.

    Attributes:
        private: phe's key, which holds p < q.
        kind: "blum" (p = q = 3 mod 4, gcd(p - 1, q - 1) = 2) or "subgroup".
        created: UTC, to the second.
        sub_primes: for "subgroup", if the generator names them: one prime factor of p - 1 and one of q - 1.
    """

    private: PaillierPrivateKey = field(repr=False)
    kind: str
    created: datetime
    sub_primes: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def public(self) -> PaillierPublicKey:
        """What the clients get."""
        return self.private.public_key

    @property
    def key_length(self) -> int:
        """Bits of n."""
        return int(self.public.n).bit_length()

    @property
    def fingerprint(self) -> str:
        """`fingerprint(n)`."""
        return fingerprint(int(self.public.n))

    def __repr__(self) -> str:
        return f"PaillierKey(kind={self.kind!r}, key_length={self.key_length}, fingerprint={self.fingerprint!r})"

    def __reduce__(self) -> NoReturn:
        raise KeyMaterialError("a private key is never pickled or copied; save it with save_key, share the object")


@dataclass(frozen=True)
class KeyHeader:
    """What may be shown of a key file: nothing in it is secret."""

    kind: str
    key_length: int
    fingerprint: str
    created: datetime
    protected: bool


def fingerprint(n: int) -> str:
    """SHA-256 of b"paillier", a zero byte and n (big-endian, no leading zeros), in hex."""
    return sha256(b"paillier\0" + n.to_bytes((n.bit_length() + 7) // 8, "big")).hexdigest()


def passphrase_from_environment() -> str | None:
    """The passphrase in `ORCHESTRATOR_KEY_PASSPHRASE`, or None when it is not set.

    Raises:
        PassphraseError: it is set and empty, which is a slip rather than a wish for no protection.
    """
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    if passphrase == "":
        raise PassphraseError(f"{PASSPHRASE_VARIABLE} is set but empty; give it a passphrase, or unset it")
    return passphrase


def save_key(path: str | Path, key: PaillierKey, passphrase: str | None) -> None:
    """Write a new key file with mode 0600, encrypted unless `passphrase` is None.

    Raises:
        KeyFileError: the file exists, or it can't be written.
        KeyMaterialError: the key is malformed, so that it could not be loaded again.
    """
    advice = "rotate it, or choose another --out"
    create_file(Path(path), _encode(key, passphrase), mode=PRIVATE_MODE, advice=advice)


def replace_key(path: str | Path, key: PaillierKey, passphrase: str | None) -> None:
    """Like `save_key`, in place of the key that is there.

    Raises:
        KeyFileError: it can't be written.
        KeyMaterialError: the key is malformed.
    """
    replace_file(Path(path), _encode(key, passphrase), mode=PRIVATE_MODE)


def load_key(path: str | Path, passphrase: str | None) -> PaillierKey:
    """Read a key file and check all of it.

    Raises:
        KeyFileError: missing, or open to other users.
        PassphraseError: encrypted, and the passphrase is missing, or wrong (or the file was changed).
        KeyMaterialError: not a key file of this version, or the key in it is malformed.
    """
    data = _read(path)
    try:
        raw = _parse(data)
        header, n = _check_header(raw)
        p, q, sub_primes = _parse_secret(_open(raw, passphrase) if header.protected else raw["secret"])
        check_factors(n, p, q, header.kind, sub_primes)
    except KeyMaterialError as error:
        raise type(error)(f"{path}: {error}") from None
    return PaillierKey(PaillierPrivateKey(PaillierPublicKey(n), p, q), header.kind, header.created, sub_primes)


def read_header(path: str | Path) -> KeyHeader:
    """What a key file says about its key; needs no passphrase. An encrypted file's header is proven only by `load_key`.

    Raises:
        KeyFileError: missing, or open to other users.
        KeyMaterialError: not a key file of this version.
    """
    data = _read(path)
    try:
        return _check_header(_parse(data))[0]
    except KeyMaterialError as error:
        raise type(error)(f"{path}: {error}") from None


def check_factors(n: int, p: int, q: int, kind: str, sub_primes: tuple[int, int] | None) -> None:
    """Refuse a private key that would decrypt wrongly or be easy to break. The messages show no part of it.

    Args:
        n: the public modulus.
        p, q: its prime factors, p < q.
        kind: "blum" or "subgroup".
        sub_primes: for "subgroup": a prime factor of p - 1 and one of q - 1.

    Raises:
        KeyMaterialError: at the first thing that is wrong.
    """
    _refuse(p == q, "p and q are the same number; expected two different primes")
    _refuse(p > q, "p is larger than q; expected the smaller prime first")
    _refuse(p * q != n, "n is not p times q; expected the product of the two primes")
    half = n.bit_length() // 2
    _refuse({p.bit_length(), q.bit_length()} != {half}, f"p and q differ in length; expected {half} bits each")
    # Miller-Rabin: a damaged prime passes with a chance below 4**-PRIME_ROUNDS.
    _refuse(not is_prime(p, PRIME_ROUNDS), "p is composite; expected a prime")
    _refuse(not is_prime(q, PRIME_ROUNDS), "q is composite; expected a prime")
    blum = p % 4 == q % 4 == 3 and gcd(p - 1, q - 1) == 2
    _refuse(kind == "blum" and not blum, "kind is 'blum', but p and q are not Blum primes with gcd(p - 1, q - 1) = 2")
    if sub_primes is not None:
        _refuse(kind != "subgroup", "sub-primes are given; expected them with kind 'subgroup' alone")
        for sub_prime, factor in zip(sub_primes, (p, q), strict=True):
            _refuse(not is_prime(sub_prime, PRIME_ROUNDS), "a sub-prime is composite; expected a prime")
            _refuse(
                (factor - 1) % sub_prime != 0, "a sub-prime does not divide its p - 1 or q - 1; expected that it does"
            )


def _check_modulus(n: int, key_length: int) -> None:
    """What can be told of n without its factors."""
    _refuse(n % 2 == 0, "n is even; expected the product of two odd primes")
    _refuse(n.bit_length() != key_length, f"n has {n.bit_length()} bits; expected key_length, which is {key_length}")
    _refuse(isqrt(n) ** 2 == n, "n is a perfect square; expected the product of two different primes")
    _refuse(gcd(n, prod(first_primes)) != 1, "n has a small factor; expected two large primes")


def _refuse(wrong: bool, reason: str) -> None:
    if wrong:
        raise _malformed(reason)


def _malformed(reason: str) -> KeyMaterialError:
    return KeyMaterialError(f"{reason}; restore the file from a backup, or make a new key")


def _read(path: str | Path) -> bytes:
    return read_private_file(Path(path), "make a key with orchestrator/keys.py new")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        raw = parse_strict_json(data)
    except ValueError as error:
        raise KeyMaterialError(f"not a key file: {error}; restore it from a backup") from None
    _refuse(not isinstance(raw, dict) or raw.get("format") != FORMAT, f"not a key file; expected the format {FORMAT!r}")
    _refuse(
        type(raw.get("version")) is not int or raw["version"] != VERSION,
        f"a key file of another version; expected version {VERSION}",
    )
    _refuse(raw.keys() != _HEADER_FIELDS | {"secret"}, "a field is missing or unknown; expected those of version 1")
    return dict(raw)


def _check_header(raw: dict[str, Any]) -> tuple[KeyHeader, int]:
    """The checked header, and n."""
    kind, key_length, created = raw["kind"], raw["key_length"], raw["created"]
    _refuse(kind not in KINDS, f"unknown kind; expected one of {', '.join(KINDS)}")
    in_range = type(key_length) is int and 0 < key_length <= MAX_KEY_BITS
    _refuse(not in_range, f"key_length is out of range; expected up to {MAX_KEY_BITS} bits")
    n = _number(raw, "n")
    _check_modulus(n, key_length)
    _refuse(raw["fingerprint"] != fingerprint(n), "the fingerprint is not that of n; expected its SHA-256")
    moment: datetime | None = None
    with contextlib.suppress(TypeError, ValueError):
        moment = datetime.strptime(created, _TIME_FORMAT).replace(tzinfo=UTC)
    if moment is None:
        raise _malformed("created is malformed; expected a time such as 2026-01-31T12:00:00Z")
    return KeyHeader(kind, key_length, fingerprint(n), moment, raw["protection"] is not None), n


def _parse_secret(secret: Any) -> tuple[int, int, tuple[int, int] | None]:
    """p, q and the sub-primes."""
    _refuse(not isinstance(secret, dict), "the secret part is malformed; expected p and q")
    names = ["p", "q", *(["sub_p", "sub_q"] if "sub_p" in secret else [])]
    _refuse(secret.keys() != set(names), "the secret part has missing or unknown fields; expected p and q")
    numbers = [_number(secret, name) for name in names]
    return numbers[0], numbers[1], (numbers[2], numbers[3]) if len(numbers) == 4 else None


def _number(fields: dict[str, Any], name: str) -> int:
    value = fields[name]
    form = isinstance(value, str) and len(value) <= MAX_KEY_BITS // 4 and _HEX.fullmatch(value)
    _refuse(not form, f"{name} is malformed; expected a number in lower-case hex")
    return int(value, 16)


def _encode(key: PaillierKey, passphrase: str | None) -> bytes:
    n, p, q = int(key.public.n), int(key.private.p), int(key.private.q)
    _check_modulus(n, key.key_length)
    check_factors(n, p, q, key.kind, key.sub_primes)
    secret = {"p": f"{p:x}", "q": f"{q:x}"}
    if key.sub_primes is not None:
        secret |= {"sub_p": f"{int(key.sub_primes[0]):x}", "sub_q": f"{int(key.sub_primes[1]):x}"}
    raw: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": key.kind,
        "key_length": key.key_length,
        "fingerprint": key.fingerprint,
        "created": key.created.astimezone(UTC).strftime(_TIME_FORMAT),
        "n": f"{n:x}",
        "protection": None,
        "secret": secret,
    }
    if passphrase is not None:
        # A fresh salt makes a fresh key, so no nonce can ever meet the same key twice.
        salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
        raw["protection"] = _PROTECTION | {"salt": salt.hex(), "nonce": nonce.hex()}
        cipher = _cipher(passphrase, salt)
        raw["secret"] = cipher.encrypt(nonce, json.dumps(secret).encode(), _associated_data(raw)).hex()
    return json.dumps(raw, indent=2).encode() + b"\n"


def _open(raw: dict[str, Any], passphrase: str | None) -> Any:
    """Decrypt the secret part of an encrypted file."""
    if passphrase is None:
        raise PassphraseError(f"the key is encrypted; set the environment variable {PASSPHRASE_VARIABLE}")
    protection, secret = raw["protection"], raw["secret"]
    known = isinstance(protection, dict) and {k: protection.get(k) for k in _PROTECTION} == _PROTECTION
    _refuse(not known, "an unknown protection; expected the scrypt parameters and the cipher of version 1")
    _refuse(protection.keys() != _PROTECTION.keys() | {"salt", "nonce"}, "the protection has missing or unknown fields")
    salt, nonce = _blob(protection["salt"], SALT_BYTES), _blob(protection["nonce"], NONCE_BYTES)
    try:
        plain = _cipher(passphrase, salt).decrypt(nonce, _blob(secret, None), _associated_data(raw))
    except InvalidTag:
        raise PassphraseError(
            f"the passphrase does not open this file, or the file was changed; check {PASSPHRASE_VARIABLE}"
        ) from None
    return json.loads(plain)


def _blob(value: Any, length: int | None) -> bytes:
    form = isinstance(value, str) and re.fullmatch("([0-9a-f]{2})*", value)
    _refuse(
        not form or length not in (None, len(value) // 2), "an encrypted field is malformed; expected lower-case hex"
    )
    return bytes.fromhex(value)


def _cipher(passphrase: str, salt: bytes) -> ChaCha20Poly1305:
    # fsencode: the exact bytes of the environment variable, also where they are not UTF-8.
    derive = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    return ChaCha20Poly1305(derive.derive(os.fsencode(passphrase)))


def _associated_data(raw: dict[str, Any]) -> bytes:
    """All of the file but the secret, in one spelling."""
    header = {name: raw[name] for name in _HEADER_FIELDS}
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
