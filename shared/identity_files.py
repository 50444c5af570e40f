"""An Ed25519 private key as a file: a tenant's identity that `client/enrol.py` made, or what signs the roster.

    {"format": "ed25519-private-key", "version": 1, "name": "client-2", "public_key": "<hex>", "protection": null,
     "secret": "<hex>"}

Under a passphrase `secret` is a ciphertext (`shared/passphrases.py`). The name is whose key it is; it is bound to the
secret, so a file can't be taken for another tenant's. `orchestrator/provision.py --clients` makes PEM files, which have
neither a name nor a passphrase.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.errors import KeyMaterialError, PassphraseError
from shared.passphrases import opened, passphrase_in, read_blob, sealed
from shared.private_files import read_private_file
from shared.strict_json import parse_strict_json

IDENTITY_PASSPHRASE: Final = "TENANT_KEY_PASSPHRASE"  # noqa: S105 (the name of a variable)
FORMAT: Final = "ed25519-private-key"
_FIELDS: Final = {"format", "version", "name", "public_key", "protection", "secret"}


def encode_identity(name: str, key: Ed25519PrivateKey, passphrase: str | None) -> bytes:
    """The content of a key's file, encrypted unless `passphrase` is None."""
    public, secret = key.public_key().public_bytes_raw().hex(), key.private_bytes_raw().hex()
    raw: dict[str, Any] = {"format": FORMAT, "version": 1, "name": name, "public_key": public, "protection": None}
    raw = {**raw, "secret": secret} if passphrase is None else sealed(raw, secret.encode(), passphrase)
    return json.dumps(raw, indent=2).encode() + b"\n"


def load_identity_key(path: Path, name: str, advice: str, variable: str = IDENTITY_PASSPHRASE) -> Ed25519PrivateKey:
    """Read a key's file.

    Args:
        path: the file, of this module's form or PEM.
        name: whose key it must be; a PEM file does not say.
        advice: what to do when it is missing, for the error.
        variable: the environment variable with its passphrase.

    Raises:
        KeyMaterialError: the file is missing, another user's, open to other users, no such file, or another's key.
        PassphraseError: it is encrypted, and the passphrase is missing or wrong (or the file was changed).
    """
    data = read_private_file(path, advice)
    if data.startswith(b"{"):
        try:
            return _decode(data, name, variable)
        except PassphraseError as error:
            raise PassphraseError(f"{path}: {error}") from None
        except KeyMaterialError as error:
            raise KeyMaterialError(f"{path}: {error}") from None
    key: object = None
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(data, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyMaterialError(
            f"{path}: not a key file: neither one of client/enrol.py nor an unencrypted Ed25519 private key in PEM "
            "(PKCS8); restore it from a backup"
        )
    return key


def _decode(data: bytes, name: str, variable: str) -> Ed25519PrivateKey:
    try:
        raw = parse_strict_json(data)
    except ValueError as error:
        raise KeyMaterialError(f"not a key file: {error}; restore it from a backup") from None
    if not isinstance(raw, dict) or raw.keys() != _FIELDS or (raw["format"], raw["version"]) != (FORMAT, 1):
        raise KeyMaterialError(f"not a key file of format {FORMAT!r}, version 1; restore it from a backup")
    if raw["name"] != name:
        raise KeyMaterialError(f"the key of {raw['name']!r:.70}, expected that of {name!r}; give the right file")
    secret = raw["secret"] if raw["protection"] is None else opened(raw, passphrase_in(variable), variable).decode()
    key = Ed25519PrivateKey.from_private_bytes(read_blob(secret, 32))
    if key.public_key().public_bytes_raw().hex() != raw["public_key"]:
        raise KeyMaterialError("the private key is not that of the public key beside it; restore it from a backup")
    return key
