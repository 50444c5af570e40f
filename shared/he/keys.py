"""Paillier key generation."""

from math import gcd

from phe.paillier import PaillierPrivateKey, PaillierPublicKey, generate_paillier_keypair

from shared.errors import KeyMaterialError


def generate_keypair(key_length: int, kind: str) -> tuple[PaillierPublicKey, PaillierPrivateKey]:
    """A fresh key pair of `key_length` bits.

    Raises:
        KeyMaterialError: a kind that can't be made.
    """
    if kind != "blum":
        raise KeyMaterialError(f"kind {kind!r} can't be made; expected 'blum'")
    while True:
        public, private = generate_paillier_keypair(n_length=key_length)
        p, q = private.p, private.q
        if p % 4 == q % 4 == 3 and gcd(p - 1, q - 1) == 2:
            return public, private
