"""Challenges by hash instead of by a verifier (Fiat and Shamir, "How to Prove Yourself", CRYPTO 1986).

SHAKE-256 over the domain, a label and every number in it, each preceded by its length in 8 bytes: no two lists of
inputs are hashed alike, and no challenge of one statement serves another.
"""

import hashlib
from collections.abc import Sequence

from gmpy2 import mpz

DOMAIN = b"cloud-security-orchestrator/paillier-modulus-proof/1"
# Bits that are drawn beyond a modulus, so that the residue is within 2**-128 of uniform.
_SURPLUS_BITS = 128


def hash_bits(label: str, numbers: Sequence[int | mpz], bits: int) -> mpz:
    """A number of at most `bits` bits, a multiple of 8, from a label and numbers that are not negative."""
    state = hashlib.shake_256()
    for part in (DOMAIN, label.encode(), *(_bytes(number) for number in numbers)):
        state.update(len(part).to_bytes(8, "big") + part)
    return mpz.from_bytes(state.digest(bits // 8), "big")


def hash_modulo(label: str, numbers: Sequence[int | mpz], modulus: int | mpz) -> mpz:
    """A residue of the modulus that nobody chose."""
    width = (modulus.bit_length() + _SURPLUS_BITS + 7) // 8
    return hash_bits(label, numbers, 8 * width) % modulus


def _bytes(number: int | mpz) -> bytes:
    return bytes(mpz(number).to_bytes((number.bit_length() + 7) // 8, "big"))
