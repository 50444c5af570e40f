"""The public key that a tenant encrypts under: where it is proven, pinned and agreed on, and its scheme."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from client.policy_keeper import PolicyKeeper
from client.request_values import data, integer
from shared.config import Config
from shared.errors import KeyMaterialError, RoundRefusedError
from shared.exchange import Value, Values
from shared.he.scheme import PublicScheme
from shared.he_utils import public_scheme

Schemes = Callable[[Config, bytes, int, Value | None], PublicScheme[Any]]


class ServerKey:
    """The server's key as one tenant knows it; its tables are kept for as long as it stays.

    Args:
        config: the tenant's own settings.
        schemes: makes the scheme under a key, and checks the key's proof unless that was done before.
        policy: what the tenant allows.
        log: the tenant's.

    Attributes:
        proof: of the key that is to come, as the server's greeting had it.
        proven: SHA-256 of the public key whose proof was checked, in hex.
    """

    def __init__(self, config: Config, schemes: Schemes, policy: PolicyKeeper, log: logging.Logger) -> None:
        self._config, self._schemes, self._policy, self._log = config, schemes, policy, log
        self.proof: Value = b""
        self.proven = ""
        self._key = b"none yet"
        self._scheme: PublicScheme[Any]

    def pin(self, fingerprints: tuple[str, ...]) -> None:
        """From now on encrypt under one of these keys alone; none: under whichever proves to be sound."""
        if fingerprints == self._config.pinned_key_fingerprint:
            return
        self._config = self._config.replace(pinned_key_fingerprint=fingerprints)
        self._key = b"none yet"  # it is asked for again, and may be none of these
        said = ", ".join(f"{fingerprint[:16]}…" for fingerprint in fingerprints)
        self._log.info("pinned_key_fingerprint has changed: %s", said or "no key is pinned any more")

    def scheme(self, asked: Values) -> PublicScheme[Any]:
        """The scheme under the key of a request.

        Raises:
            KeyMaterialError, RoundRefusedError, PolicyError: it is a key, or an encoding, that this tenant refuses.
        """
        public_key = data(asked, "public_key")
        if self._key != public_key:
            digest = hashlib.sha256(public_key).hexdigest()
            proof = None if self.proven == digest else self.proof
            scheme = self._schemes(self._config, public_key, integer(asked, "max_contributors"), proof)
            if scheme.encoding_name != asked.get("encoding"):
                raise RoundRefusedError(
                    f"the server encodes updates as {asked.get('encoding')!r:.100}, this client as "
                    f"{scheme.encoding_name!r}; the he_ settings must be the same on both sides"
                )
            check_pin(self._config, scheme)
            self._policy.check_key(scheme.fingerprint())
            # A proof is some 55,000 bytes: once it is checked, all that is kept is for which key.
            self.proof, self.proven = b"", digest
            self._scheme, self._key = scheme, public_key
            self._log.info("encrypting under the public key %s…", scheme.fingerprint()[:16])
        return self._scheme

    def scheme_of(self, public_key: bytes, max_contributors: int) -> PublicScheme[Any]:
        """The scheme of a sum that others may have encrypted for. That the key is sound they had proven to them.

        Raises:
            KeyMaterialError: it is not the one that the settings name, or malformed.
        """
        if public_key == self._key:
            return self._scheme
        scheme = self._schemes(self._config, public_key, max_contributors, None)
        check_pin(self._config, scheme)
        return scheme


def checked_scheme(config: Config, public_key: bytes, max_contributors: int, proof: Value | None) -> PublicScheme[Any]:
    """The scheme under the server's key; `proof` is None where it was checked before.

    Raises:
        KeyMaterialError: the key is malformed, of another length, or its proof does not hold.
        MissingDependencyError: `phe` found no gmpy2.
    """
    scheme = public_scheme(config, public_key, max_contributors)
    if proof is not None:
        scheme.check_proof(proof)
    return scheme


def check_pin(config: Config, scheme: PublicScheme[Any]) -> None:
    """Refuse a key that the settings don't name.

    Raises:
        KeyMaterialError: it is another.
    """
    pinned, found = config.pinned_key_fingerprint, scheme.fingerprint()
    if pinned and found not in pinned:
        raise KeyMaterialError(
            f"the server's public key is {found}, this client insists on {' or '.join(pinned)} "
            "(pinned_key_fingerprint); ask whoever runs the server whether the key was rotated"
        )
