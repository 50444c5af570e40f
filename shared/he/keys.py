"""Paillier key pairs: made, checked, and turned into the bytes that travel.

The keys live in `phe`'s own classes, so `phe` decrypts whatever this project encrypts. `phe`'s own key generation makes
arbitrary primes; fast encryption needs more of them, so the key maker is ours: p ≡ q ≡ 3 (mod 4) and gcd(p-1, q-1) = 2,
what Damgård, Jurik and Nielsen ask of n ("A generalization of Paillier's public-key system with applications to
electronic voting", Int. J. Inf. Secur. 9, 2010, the section on optimising encryption).
"""

import functools
import hashlib
import math
import secrets
from dataclasses import dataclass, field
from typing import Self

import gmpy2
from gmpy2 import mpz
from phe import paillier

from shared.errors import KeyMaterialError

# Leads the key on the wire and is hashed into its fingerprint: the version of the form. It once named the kind of the
# primes, of which this one is left; any other value is refused.
KEY_VERSION = 0

# GMP runs a Baillie-PSW test for the first 24 of these and one more Miller-Rabin round for each beyond.
PRIME_ROUNDS = 40
SMALL_FACTOR_LIMIT = 1 << 16
CLOSE_PRIMES_BITS = 100  # FIPS 186-5, A.1.3, step 5.4: |p - q| > 2**(key_length_bits/2 - 100), against Fermat's method


@dataclass(frozen=True)
class PublicKeyMaterial:
    """What the key maker publishes: `phe`'s key."""

    public_key: paillier.PaillierPublicKey

    @classmethod
    def checked(cls, n: int, key_length_bits: int) -> Self:
        """The key of this number, which may come from anywhere.

        Raises:
            KeyMaterialError: an n that `check_public_key` refuses.
        """
        check_public_key(n, key_length_bits)
        return cls(paillier.PaillierPublicKey(n))

    def to_bytes(self) -> bytes:
        """`KEY_VERSION` as one byte, then n, big-endian, in whole bytes."""
        n = mpz(self.public_key.n)
        return bytes([KEY_VERSION]) + bytes(n.to_bytes(_width(n.bit_length()), "big"))

    @classmethod
    def from_bytes(cls, blob: bytes, key_length_bits: int) -> Self:
        """The inverse of `to_bytes`, for bytes of unknown origin.

        Raises:
            KeyMaterialError: an unknown version, a wrong length, or a number that `checked` refuses.
        """
        if not blob or blob[0] != KEY_VERSION:
            raise KeyMaterialError(f"public key: unknown version; expected a first byte of {KEY_VERSION}")
        expected = 1 + _width(key_length_bits)
        if len(blob) != expected:
            raise KeyMaterialError(
                f"public key: {len(blob)} bytes; expected {expected} for a key of {key_length_bits} bits"
            )
        return cls.checked(int.from_bytes(blob[1:], "big"), key_length_bits)

    def fingerprint(self) -> str:
        """SHA-256 in hex by which people and programs name the key: `PublicScheme.fingerprint` of `paillier`."""
        return hashlib.sha256(b"paillier\0" + self.to_bytes()).hexdigest()


@dataclass(frozen=True)
class PrivateKeyMaterial:
    """What decrypts: `phe`'s key, whose p is the smaller prime. It never leaves its maker; its `repr` has no secret."""

    private_key: paillier.PaillierPrivateKey = field(repr=False)

    @classmethod
    def checked(cls, public: PublicKeyMaterial, p: int, q: int) -> Self:
        """The key of these numbers, which may come from anywhere, for a public key that is checked already.

        Args:
            public: the public half.
            p, q: the prime factors of n, p < q.

        Raises:
            KeyMaterialError: `check_private_key` refuses them.
        """
        check_private_key(p, q, public.public_key.n)
        return cls(paillier.PaillierPrivateKey(public.public_key, p, q))


def generate_keypair(key_length_bits: int) -> tuple[PublicKeyMaterial, PrivateKeyMaterial]:
    """Make a key pair whose n has exactly `key_length_bits` bits.

    Args:
        key_length_bits: an even number, at least 128.

    Raises:
        KeyMaterialError: a length outside these.
    """
    if key_length_bits < 128 or key_length_bits % 2:
        raise KeyMaterialError(f"key length {key_length_bits}: expected an even number of bits, at least 128")
    while True:
        p, q = sorted(_blum_prime(key_length_bits // 2) for _ in range(2))
        # Both tests fail so rarely that drawing two new primes is cheaper than thinking about which one to keep.
        if _far_apart(p, q, key_length_bits) and math.gcd(p - 1, q - 1) == 2:
            break
    public_key = paillier.PaillierPublicKey(int(p * q))
    private_key = paillier.PaillierPrivateKey(public_key, int(p), int(q))
    return PublicKeyMaterial(public_key), PrivateKeyMaterial(private_key)


def check_public_key(n: int, key_length_bits: int) -> None:
    """Refuse an n that can't be a sound Paillier modulus. What is left may still be weak: only its maker can know.

    Raises:
        KeyMaterialError: n has another length, is even, has a prime factor below 2**16, is a perfect power, is
            probably prime, or is no product of two primes that are 3 mod 4.
    """
    if n.bit_length() != key_length_bits or n < 0:
        raise KeyMaterialError(f"public key: n has {n.bit_length()} bits; expected exactly {key_length_bits}")
    if n % 2 == 0:
        raise KeyMaterialError("public key: n is even; expected a product of two odd primes")
    if gmpy2.gcd(n, _small_primes(SMALL_FACTOR_LIMIT)) != 1:
        raise KeyMaterialError(f"public key: n has a prime factor below {SMALL_FACTOR_LIMIT}, so it is easily factored")
    if gmpy2.is_power(n):
        raise KeyMaterialError("public key: n is a perfect power; expected two different primes")
    if gmpy2.is_prime(n, PRIME_ROUNDS):
        raise KeyMaterialError("public key: n is prime, so anybody could decrypt; expected a product of two primes")
    if n % 4 != 1:
        raise KeyMaterialError("public key: n is not 1 mod 4, so it is no product of two primes that are 3 mod 4")


def check_private_key(p: int, q: int, n: int) -> None:
    """Check that p and q are what `generate_keypair` makes for this n, as for a key read from a file.

    Raises:
        KeyMaterialError: p·q is not n, the two differ in length, are too close together or in the wrong order, one is
            not a prime that is 3 mod 4, or gcd(p-1, q-1) is not 2. The message holds no secret.
    """
    if p * q != n:
        raise KeyMaterialError("private key: p·q is not n; the private and the public key do not belong together")
    if not 2 * p.bit_length() == 2 * q.bit_length() == n.bit_length():
        raise KeyMaterialError("private key: p and q differ in length; expected half of n's bits each")
    if not _far_apart(p, q, n.bit_length()):
        raise KeyMaterialError("private key: p and q are too close together, so n is easily factored")
    if p > q:
        raise KeyMaterialError("private key: p is larger than q; expected the smaller prime first")
    for name, prime in (("p", p), ("q", q)):
        if not gmpy2.is_prime(prime, PRIME_ROUNDS):
            raise KeyMaterialError(f"private key: {name} is not prime")
        if prime % 4 != 3:
            raise KeyMaterialError(f"private key: {name} is not 3 mod 4, which the fast randomisers need")
    if math.gcd(p - 1, q - 1) != 2:
        raise KeyMaterialError("private key: gcd(p-1, q-1) is not 2, which the fast randomisers need")


def _width(bits: int) -> int:
    return (bits + 7) // 8


def _far_apart(p: int | mpz, q: int | mpz, key_length_bits: int) -> bool:
    return bool(abs(p - q) > 1 << max(0, key_length_bits // 2 - CLOSE_PRIMES_BITS))


@functools.cache
def _small_primes(limit: int) -> mpz:
    """The product of the primes up to `limit`: one gcd with it is a trial division by all of them."""
    return gmpy2.primorial(limit)


def _is_prime(candidate: mpz) -> bool:
    # The gcd turns away nine candidates in ten before the costly test.
    return gmpy2.gcd(candidate, _small_primes(2000)) == 1 and bool(gmpy2.is_prime(candidate, PRIME_ROUNDS))


def _blum_prime(bits: int) -> mpz:
    """A random prime ≡ 3 (mod 4) of `bits` bits.

    Its two top bits are set, so that the product of two of them has exactly twice as many bits. Each try is a fresh
    number: stepping on to the next prime would favour primes after long gaps.
    """
    while True:
        candidate = mpz(secrets.randbits(bits) | 3 << (bits - 2) | 3)
        if _is_prime(candidate):
            return candidate
