"""Which homomorphic encryption scheme is at work, by `he_scheme`; the interface of all is in `shared/he/scheme.py`."""

from typing import Any

from shared.config import Config
from shared.errors import KeyMaterialError
from shared.he.fixed_point import FixedPoint
from shared.he.kahe import KahePrivate, KahePublic
from shared.he.keys import PrivateKeyMaterial, PublicKeyMaterial, generate_keypair
from shared.he.paillier import PaillierPrivate, PaillierPublic
from shared.he.plain import PlainPrivate, PlainPublic
from shared.he.scheme import PrivateScheme, PublicScheme
from shared.key_files import load_key, passphrase_from_environment


def make_keys(config: Config) -> PrivateScheme[Any]:
    """The orchestrator's key pair by `he_scheme`: that of `he_key_file`, or a fresh one.

    Raises:
        KeyMaterialError, PassphraseError: the file can't be used; see `shared/key_files.py`.
        MissingDependencyError: `phe` found no gmpy2.
    """
    if config.he_scheme == "none":
        return PlainPrivate()
    if config.he_key_file:
        key = load_key(config.he_key_file, passphrase_from_environment())
        if key.key_length != config.he_key_length:
            raise KeyMaterialError(
                f"{config.he_key_file} holds a key of {key.key_length} bits; he_key_length asks for "
                f"{config.he_key_length}: change it, or rotate the key"
            )
        return _private_scheme(config, key.private, key.public, key.proof)
    public, private = generate_keypair(config.he_key_length)
    return _private_scheme(config, private, public)


def public_scheme(config: Config, public_bytes: bytes, max_contributors: int) -> PublicScheme[Any]:
    """The scheme a client encrypts with, from the public key that the server sent.

    The scheme and its parameters are the client's own settings: a server can't talk a client into a weaker one. Only
    how many updates a sum may hold is the server's to say: it sizes the slots, and weakens nothing.

    Raises:
        ConfigError: the scheme is not secure or not exact for so many contributors.
        KeyMaterialError: the key is malformed or not of `he_key_length` bits.
        MissingDependencyError: `phe` found no gmpy2.
    """
    if config.he_scheme == "none":
        return PlainPublic()
    key = PublicKeyMaterial.from_bytes(public_bytes, config.he_key_length)
    return _public_scheme(config, key, max_contributors)


def _private_scheme(
    config: Config, private: PrivateKeyMaterial, public: PublicKeyMaterial, proof: bytes = b""
) -> PaillierPrivate | KahePrivate:
    scheme = _public_scheme(config, public, config.num_clients)
    if isinstance(scheme, KahePublic):
        return KahePrivate(PaillierPrivate(private, scheme.transport, proof), scheme)
    return PaillierPrivate(private, scheme, proof)


def _public_scheme(config: Config, key: PublicKeyMaterial, max_contributors: int) -> PaillierPublic | KahePublic:
    if config.he_scheme == "kahe":
        return KahePublic(key, _fixed_point(config), max_contributors)
    return PaillierPublic(key, _fixed_point(config), max_contributors, packing=config.he_packing)


def _fixed_point(config: Config) -> FixedPoint:
    return FixedPoint(config.he_precision_bits, config.he_integer_bits)
