"""The secret part of a key file under a passphrase: scrypt makes a key of it, ChaCha20-Poly1305 encrypts with that.

A key file is a JSON object with the fields `protection` and `secret`. `protection` names the key derivation and the
cipher with their salt and nonce, and `secret` is the ciphertext in hex. All else in the object is its associated data,
so no header can be exchanged.
"""

import json
import os
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shared.errors import KeyMaterialError, PassphraseError

# scrypt at 128 MiB and about half a second a guess (OWASP's first choice). The numbers are part of a file's version: a
# file that states others is refused, or it could ask for all memory there is.
SCRYPT_N: Final = 1 << 17
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
_PROTECTION: Final = {"kdf": "scrypt", "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "cipher": "chacha20-poly1305"}
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12


def passphrase_in(variable: str) -> str | None:
    """The passphrase in an environment variable, or None when it is not set.

    Raises:
        PassphraseError: it is set and empty, which is a slip rather than a wish for no protection.
    """
    passphrase = os.environ.get(variable)
    if passphrase == "":
        raise PassphraseError(f"{variable} is set but empty; give it a passphrase, or unset it")
    return passphrase


def sealed(raw: Mapping[str, Any], secret: bytes, passphrase: str) -> dict[str, Any]:
    """The object with `protection` set and `secret` encrypted; the rest of it is bound to that, in the clear."""
    # A fresh salt makes a fresh key, so no nonce can ever meet the same key twice.
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    whole = {**raw, "protection": _PROTECTION | {"salt": salt.hex(), "nonce": nonce.hex()}}
    return {**whole, "secret": _cipher(passphrase, salt).encrypt(nonce, secret, _associated_data(whole)).hex()}


def opened(raw: Mapping[str, Any], passphrase: str | None, variable: str) -> bytes:
    """The secret part of an object that `sealed` made.

    Args:
        raw: the object.
        passphrase: None where there is none.
        variable: the environment variable that it comes from, for the errors.

    Raises:
        PassphraseError: there is no passphrase, it is wrong, or the file was changed.
        KeyMaterialError: the protection is not of this version.
    """
    if passphrase is None:
        raise PassphraseError(f"the key is encrypted; set the environment variable {variable}")
    protection, secret = raw["protection"], raw["secret"]
    known = isinstance(protection, dict) and {k: protection.get(k) for k in _PROTECTION} == _PROTECTION
    if not known:
        raise KeyMaterialError("an unknown protection; expected the scrypt parameters and the cipher of new files")
    if protection.keys() != _PROTECTION.keys() | {"salt", "nonce"}:
        raise KeyMaterialError("the protection has missing or unknown fields")
    salt, nonce = read_blob(protection["salt"], SALT_BYTES), read_blob(protection["nonce"], NONCE_BYTES)
    try:
        return _cipher(passphrase, salt).decrypt(nonce, read_blob(secret), _associated_data(raw))
    except InvalidTag:
        raise PassphraseError(
            f"the passphrase does not open this file, or the file was changed; check {variable}"
        ) from None


def read_blob(value: Any, length: int | None = None) -> bytes:
    """Bytes that a file spells in lower-case hex, of this length if one is given.

    Raises:
        KeyMaterialError: another form or length.
    """
    form = isinstance(value, str) and re.fullmatch("([0-9a-f]{2})*", value)
    if not form or length not in (None, len(value) // 2):
        raise KeyMaterialError("a field of bytes is malformed; expected lower-case hex")
    return bytes.fromhex(value)


def _cipher(passphrase: str, salt: bytes) -> ChaCha20Poly1305:
    # fsencode: the exact bytes of the environment variable, also where they are not UTF-8.
    derive = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    return ChaCha20Poly1305(derive.derive(os.fsencode(passphrase)))


def _associated_data(raw: Mapping[str, Any]) -> bytes:
    """All of the file but the secret, in one spelling."""
    header = {name: value for name, value in raw.items() if name != "secret"}
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
