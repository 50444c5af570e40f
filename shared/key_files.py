"""The orchestrator's Paillier private key as a file: one JSON object, mode 0600, encrypted when a passphrase is set.

    {"format": "paillier-private-key", "version": 2, "kind": "blum", "key_length": 3072, "fingerprint": "<hex>",
     "created": "2026-01-31T12:00:00Z", "n": "<hex>", "base": null, "protection": null,
     "proof": "<hex>", "secret": {"p": "<hex>", "q": "<hex>"}}

`proof` is that of `shared/he/modulus_proof.py`. Files of version 1 have none, and it is made whenever they are loaded.
`kind` and `base` have no other value: they are from when there was another kind of key, which is refused by name.
With a passphrase, `protection` names the key derivation and the cipher with their salt and nonce, and `secret` is the
ciphertext of that object in hex. All else in the file is its associated data, so no header can be exchanged.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from shared.errors import KeyMaterialError, PassphraseError
from shared.he import modulus_proof
from shared.he.keys import PrivateKeyMaterial, PublicKeyMaterial
from shared.passphrases import opened, passphrase_in, read_blob, sealed
from shared.private_files import PRIVATE_MODE, create_file, read_private_file, replace_file
from shared.strict_json import parse_strict_json

PASSPHRASE_VARIABLE: Final = "ORCHESTRATOR_KEY_PASSPHRASE"  # noqa: S105 (the name of a variable)
FORMAT: Final = "paillier-private-key"
VERSION: Final = 2
KIND: Final = "blum"
WITHDRAWN_KIND: Final = "subgroup"
_WITHDRAWN: Final = "key: withdrawn kind"
MAX_KEY_BITS: Final = 16_384

_HEADER_FIELDS: Final = {
    "format",
    "version",
    "kind",
    "key_length",
    "fingerprint",
    "created",
    "n",
    "base",
    "protection",
    "proof",
}
_HEX: Final = re.compile(r"(0|[1-9a-f][0-9a-f]*)")  # one spelling per number
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class PaillierKey:
    """A Paillier key pair with what its file says about it. Its repr shows no secret, and it refuses to be pickled.

    Attributes:
        public: what the clients get.
        private: what decrypts.
        created: UTC, to the second.
        proof: that n is sound, see `shared/he/modulus_proof.py`. A key has many of them, all as good.
    """

    public: PublicKeyMaterial
    private: PrivateKeyMaterial
    created: datetime
    proof: bytes = field(repr=False, compare=False)

    @property
    def key_length(self) -> int:
        """Bits of n."""
        return int(self.public.public_key.n).bit_length()

    def __repr__(self) -> str:
        return f"PaillierKey(key_length={self.key_length}, fingerprint={self.public.fingerprint()!r})"

    def __reduce__(self) -> NoReturn:
        raise KeyMaterialError("a private key is never pickled or copied; save it with save_key, share the object")


@dataclass(frozen=True)
class KeyHeader:
    """What may be shown of a key file: nothing in it is secret. `proven`: whether its proof is stored."""

    key_length: int
    fingerprint: str
    created: datetime
    protected: bool
    proven: bool


def passphrase_from_environment() -> str | None:
    """The passphrase in `ORCHESTRATOR_KEY_PASSPHRASE`, or None when it is not set.

    Raises:
        PassphraseError: it is set and empty, which is a slip rather than a wish for no protection.
    """
    return passphrase_in(PASSPHRASE_VARIABLE)


def save_key(path: str | Path, key: PaillierKey, passphrase: str | None) -> None:
    """Write a new key file with mode 0600, encrypted unless `passphrase` is None.

    Raises:
        KeyMaterialError: the file exists or can't be written, or the key is malformed: it could not be loaded again.
    """
    advice = "rotate it, or choose another --out"
    create_file(Path(path), _encode(key, passphrase), mode=PRIVATE_MODE, advice=advice)


def replace_key(path: str | Path, key: PaillierKey, passphrase: str | None) -> None:
    """Like `save_key`, in place of the key that is there.

    Raises:
        KeyMaterialError: it can't be written, or the key is malformed.
    """
    replace_file(Path(path), _encode(key, passphrase), mode=PRIVATE_MODE)


def load_key(path: str | Path, passphrase: str | None) -> PaillierKey:
    """Read a key file and check all of it.

    Raises:
        KeyMaterialError: missing, open to other users, not a key file of this version, or the key in it is malformed.
        PassphraseError: encrypted, and the passphrase is missing, or wrong (or the file was changed).
    """
    data = _read(path)
    with _errors_of(path):
        raw = _parse(data)
        header, public = _check_header(raw)
        private = _check_secret(
            json.loads(opened(raw, passphrase, PASSPHRASE_VARIABLE)) if header.protected else raw["secret"], public
        )
        proof = _check_proof(raw, public) or modulus_proof.prove(private.private_key.p, private.private_key.q)
    return PaillierKey(public, private, header.created, proof)


def read_header(path: str | Path) -> KeyHeader:
    """What a key file says about its key; needs no passphrase. An encrypted file's header is proven only by `load_key`.

    Raises:
        KeyMaterialError: missing, open to other users, or not a key file of this version.
    """
    data = _read(path)
    with _errors_of(path):
        raw = _parse(data)
        header, public = _check_header(raw)
        _check_proof(raw, public)
    return header


@contextlib.contextmanager
def _errors_of(path: str | Path) -> Iterator[None]:
    """Say of which file an error is, and what to do about it."""
    try:
        yield
    except PassphraseError as error:
        raise PassphraseError(f"{path}: {error}") from None
    except KeyMaterialError as error:
        # Of a kind that is no more, the file is as it should be, and no backup will do.
        advice = "" if error.code == _WITHDRAWN else "; restore the file from a backup, or make a new key"
        raise KeyMaterialError(f"{path}: {error}{advice}") from None


def _refuse(wrong: bool, reason: str) -> None:
    if wrong:
        raise KeyMaterialError(reason)


def _read(path: str | Path) -> bytes:
    return read_private_file(Path(path), "make a key with orchestrator/keys.py new")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        raw = parse_strict_json(data)
    except ValueError as error:
        raise KeyMaterialError(f"not a key file: {error}") from None
    _refuse(not isinstance(raw, dict) or raw.get("format") != FORMAT, f"not a key file; expected the format {FORMAT!r}")
    _refuse(
        type(raw.get("version")) is not int or not 1 <= raw["version"] <= VERSION,
        f"a key file of another version; expected one up to {VERSION}",
    )
    fields = _HEADER_FIELDS | {"secret"} if raw["version"] == VERSION else _HEADER_FIELDS - {"proof"} | {"secret"}
    _refuse(raw.keys() != fields, f"a field is missing or unknown; expected those of version {raw['version']}")
    return dict(raw)


def _check_header(raw: dict[str, Any]) -> tuple[KeyHeader, PublicKeyMaterial]:
    kind, key_length, created = raw["kind"], raw["key_length"], raw["created"]
    if kind == WITHDRAWN_KIND:
        raise KeyMaterialError(
            f"this key is of kind {kind}, which is no longer supported; make a new one with orchestrator/keys.py",
            _WITHDRAWN,
        )
    _refuse(kind != KIND, f"unknown kind; expected {KIND}")
    _refuse(raw["base"] is not None, "base is not null, which it is in every key")
    in_range = type(key_length) is int and 0 < key_length <= MAX_KEY_BITS
    _refuse(not in_range, f"key_length is out of range; expected up to {MAX_KEY_BITS} bits")
    public = PublicKeyMaterial.checked(_number(raw, "n"), key_length)
    fingerprint = public.fingerprint()
    _refuse(raw["fingerprint"] != fingerprint, "the fingerprint is not that of the public key in this file")
    moment: datetime | None = None
    with contextlib.suppress(TypeError, ValueError):
        moment = datetime.strptime(created, _TIME_FORMAT).replace(tzinfo=UTC)
    if moment is None:
        raise KeyMaterialError("created is malformed; expected a time such as 2026-01-31T12:00:00Z")
    return KeyHeader(key_length, fingerprint, moment, raw["protection"] is not None, "proof" in raw), public


def _check_proof(raw: dict[str, Any], public: PublicKeyMaterial) -> bytes:
    """The stored proof that the public key is sound; empty in a file of version 1."""
    if "proof" not in raw:
        return b""
    proof = read_blob(raw["proof"])
    modulus_proof.verify(public.public_key.n, proof)
    return proof


def _check_secret(secret: Any, public: PublicKeyMaterial) -> PrivateKeyMaterial:
    """The private half, from the secret part in the clear."""
    _refuse(not isinstance(secret, dict), "the secret part is malformed; expected p and q")
    _refuse(secret.keys() != {"p", "q"}, "the secret part has missing or unknown fields; expected p, q")
    return PrivateKeyMaterial.checked(public, _number(secret, "p"), _number(secret, "q"))


def _number(fields: dict[str, Any], name: str) -> int:
    value = fields[name]
    form = isinstance(value, str) and len(value) <= MAX_KEY_BITS // 4 and _HEX.fullmatch(value)
    _refuse(not form, f"{name} is malformed; expected a number in lower-case hex")
    return int(value, 16)


def _encode(key: PaillierKey, passphrase: str | None) -> bytes:
    public, private = key.public, key.private
    secret = {"p": f"{private.private_key.p:x}", "q": f"{private.private_key.q:x}"}
    raw: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": KIND,
        "key_length": key.key_length,
        "fingerprint": public.fingerprint(),
        "created": key.created.astimezone(UTC).strftime(_TIME_FORMAT),
        "n": f"{public.public_key.n:x}",
        "base": None,
        "protection": None,
        "proof": key.proof.hex(),
        "secret": secret,
    }
    checked = _check_header(raw)[1]  # what could not be loaded again is not written
    _check_secret(secret, checked)
    _check_proof(raw, checked)
    if passphrase is not None:
        raw = sealed(raw, json.dumps(secret).encode(), passphrase)
    return json.dumps(raw, indent=2).encode() + b"\n"
