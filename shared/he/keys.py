"""Paillier key pairs: made, checked, and turned into the bytes that travel.

The keys live in `phe`'s own classes, so `phe` decrypts whatever this project encrypts. `phe`'s own key generation makes
arbitrary primes; fast encryption needs more of them, so the key maker is ours. There are two kinds.

`blum`: p ≡ q ≡ 3 (mod 4) and gcd(p-1, q-1) = 2, what Damgård, Jurik and Nielsen ask of n ("A generalization of
    Paillier's public-key system with applications to electronic voting", Int. J. Inf. Secur. 9, 2010, the section on
    optimising encryption). Whoever encrypts picks the base h = -x² mod n alone.

`subgroup`: besides, p-1 has a prime factor alpha_p and q-1 a prime factor alpha_q, both short and secret (Ma, Han, Lei,
    "Optimized Paillier's Cryptosystem with Fast Encryption and Decryption", ACSAC 2021, the key generation). With
    beta = (p-1)(q-1) / (4·alpha_p·alpha_q) the key maker publishes h = -y^(2·beta) mod n, of order 2·alpha_p·alpha_q.
    Randomisers come from the group that h generates, so c^(2·alpha_p) ≡ (1+n)^(2·alpha_p·m) (mod p²): both exponents
    are short. **The price is one more assumption**: decisional composite residuosity must be hard for n-th residues
    from this one small subgroup, and factoring n must stay hard although n and h are known. The best known attack on
    the latter costs about sqrt(alpha_p) operations (Coron, Joux, Mandal, Naccache, Tibouchi, "Cryptanalysis of the RSA
    Subgroup Assumption from TCC 2005", PKC 2011), hence twice as many bits as the strength of n.
"""

import functools
import hashlib
import math
import secrets
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import gmpy2
from gmpy2 import mpz
from phe import paillier

from shared.errors import KeyMaterialError

Kind = Literal["blum", "subgroup"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # a kind's place here is its byte on the wire

# GMP runs a Baillie-PSW test for the first 24 of these and one more Miller-Rabin round for each beyond.
PRIME_ROUNDS = 40
SMALL_FACTOR_LIMIT = 1 << 16
CLOSE_PRIMES_BITS = 100  # FIPS 186-5, A.1.3, step 5.4: |p - q| > 2**(key_length_bits/2 - 100), against Fermat's method

# (largest key length, bits of alpha_p and of alpha_q): twice the strength that NIST SP 800-57 part 1, table 2, gives
# to n, because the attack on the subgroup takes a square root. Ma, Han and Lei use the same sizes.
SUBGROUP_BITS = ((2048, 224), (3072, 256), (7680, 384))
SUBGROUP_BITS_BEYOND = 512


@dataclass(frozen=True)
class PublicKeyMaterial:
    """What the key maker publishes.

    Attributes:
        public_key: `phe`'s key.
        kind: `blum` or `subgroup`.
        base: h mod n for `subgroup`; None for `blum`, where whoever encrypts picks one.
    """

    public_key: paillier.PaillierPublicKey
    kind: Kind
    base: mpz | None = None

    @classmethod
    def checked(cls, n: int, kind: Kind, base: int | None, key_length_bits: int) -> Self:
        """The key of these numbers, which may come from anywhere.

        Raises:
            KeyMaterialError: an n or h that `check_public_key` or `check_base` refuses, or an h that the kind lacks.
        """
        check_public_key(n, key_length_bits)
        if (base is None) != (kind == "blum"):
            raise KeyMaterialError("public key: expected a base h for kind subgroup, and none for blum")
        if base is not None:
            check_base(base, n)
        return cls(paillier.PaillierPublicKey(n), kind, None if base is None else mpz(base))

    def to_bytes(self) -> bytes:
        """One byte for the kind, then n, then h where there is one: each big-endian, as wide as n in whole bytes."""
        n = mpz(self.public_key.n)
        width = _width(n.bit_length())
        base = b"" if self.base is None else self.base.to_bytes(width, "big")
        return bytes([KINDS.index(self.kind)]) + bytes(n.to_bytes(width, "big")) + bytes(base)

    @classmethod
    def from_bytes(cls, blob: bytes, key_length_bits: int) -> Self:
        """The inverse of `to_bytes`, for bytes of unknown origin.

        Raises:
            KeyMaterialError: an unknown kind, a wrong length, or numbers that `checked` refuses.
        """
        if not blob or blob[0] >= len(KINDS):
            raise KeyMaterialError(f"public key: unknown kind; expected a first byte below {len(KINDS)}")
        kind = KINDS[blob[0]]
        width = _width(key_length_bits)
        expected = 1 + width * (2 if kind == "subgroup" else 1)
        if len(blob) != expected:
            raise KeyMaterialError(
                f"public key: {len(blob)} bytes; expected {expected} for {kind} and {key_length_bits} bits"
            )
        n = int.from_bytes(blob[1 : 1 + width], "big")
        base = int.from_bytes(blob[1 + width :], "big") if kind == "subgroup" else None
        return cls.checked(n, kind, base, key_length_bits)

    def fingerprint(self) -> str:
        """SHA-256 in hex by which people and programs name the key: `PublicScheme.fingerprint` of `paillier`."""
        return hashlib.sha256(b"paillier\0" + self.to_bytes()).hexdigest()


@dataclass(frozen=True)
class PrivateKeyMaterial:
    """What decrypts. It never leaves the key maker, and its `repr` shows no secret.

    Attributes:
        private_key: `phe`'s key; its p is the smaller prime.
        kind: `blum` or `subgroup`.
        alpha_p: for `subgroup`, the prime factor of `private_key.p - 1`; None for `blum`.
        alpha_q: the same for `private_key.q - 1`.
    """

    private_key: paillier.PaillierPrivateKey = field(repr=False)
    kind: Kind
    alpha_p: int | None = field(default=None, repr=False)
    alpha_q: int | None = field(default=None, repr=False)

    @classmethod
    def checked(cls, public: PublicKeyMaterial, p: int, q: int, sub_primes: tuple[int, int] | None) -> Self:
        """The key of these numbers, which may come from anywhere, for a public key that is checked already.

        Args:
            public: the public half.
            p, q: the prime factors of n, p < q.
            sub_primes: alpha_p and alpha_q for `subgroup`; None for `blum`.

        Raises:
            KeyMaterialError: `check_private_key` or `check_sub_primes` refuses them, or the kind lacks sub-primes.
        """
        check_private_key(p, q, public.public_key.n)
        private_key = paillier.PaillierPrivateKey(public.public_key, p, q)
        if public.base is None and sub_primes is None:
            return cls(private_key, public.kind)
        if public.base is None or sub_primes is None:
            raise KeyMaterialError("private key: expected the sub-primes alpha_p and alpha_q for kind subgroup alone")
        check_sub_primes(sub_primes, p, q, public.base)
        return cls(private_key, public.kind, *sub_primes)


def key_kind(name: str) -> Kind:
    """The kind of this name.

    Raises:
        KeyMaterialError: there is none.
    """
    for kind in KINDS:
        if kind == name:
            return kind
    raise KeyMaterialError(f"key kind {name!r}: expected one of {', '.join(KINDS)}")


def subgroup_bits(key_length_bits: int) -> int:
    """Bits of alpha_p, and of alpha_q, for n of this length.

    At most a quarter of n's length, so that keys too short to be secure (tests) still have room for them.
    """
    bits = next((bits for longest, bits in SUBGROUP_BITS if key_length_bits <= longest), SUBGROUP_BITS_BEYOND)
    return min(bits, key_length_bits // 4)


def generate_keypair(key_length_bits: int, kind: Kind = "blum") -> tuple[PublicKeyMaterial, PrivateKeyMaterial]:
    """Make a key pair whose n has exactly `key_length_bits` bits.

    Args:
        key_length_bits: an even number, at least 128.
        kind: see the module's docstring; it is the caller who accepts the assumption of `subgroup`.

    Raises:
        KeyMaterialError: a length or kind outside these.
    """
    if key_length_bits < 128 or key_length_bits % 2:
        raise KeyMaterialError(f"key length {key_length_bits}: expected an even number of bits, at least 128")
    key_kind(kind)
    alpha_bits = subgroup_bits(key_length_bits) if kind == "subgroup" else None
    while True:
        (p, alpha_p), (q, alpha_q) = sorted(_blum_prime(key_length_bits // 2, alpha_bits) for _ in range(2))
        # Both tests fail so rarely that drawing two new primes is cheaper than thinking about which one to keep.
        if _far_apart(p, q, key_length_bits) and math.gcd(p - 1, q - 1) == 2:
            break
    n = p * q
    public_key = paillier.PaillierPublicKey(int(n))
    private_key = paillier.PaillierPrivateKey(public_key, int(p), int(q))
    if kind == "blum":
        return PublicKeyMaterial(public_key, kind), PrivateKeyMaterial(private_key, kind)
    base = _subgroup_base(p, q, alpha_p * alpha_q)
    return PublicKeyMaterial(public_key, kind, base), PrivateKeyMaterial(private_key, kind, int(alpha_p), int(alpha_q))


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


def check_base(base: int | mpz, n: int) -> None:
    """Refuse an h that makes randomisers without randomness, or that no key maker of ours publishes.

    Raises:
        KeyMaterialError: h is outside 1 < h < n - 1, is not a unit with Jacobi symbol 1 (a square, negated, modulo two
            primes that are 3 mod 4), or is ±1 modulo one of the primes.
    """
    if not 1 < base < n - 1:
        raise KeyMaterialError("public key: the base h is outside 1 < h < n - 1")
    if gmpy2.jacobi(base, n) != 1:
        raise KeyMaterialError("public key: the base h does not have Jacobi symbol 1, so it is not -y² mod n")
    if gmpy2.gcd(base * base - 1, n) != 1:
        raise KeyMaterialError("public key: the base h is 1 or -1 modulo a prime factor of n, so it randomises nothing")


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


def check_sub_primes(sub_primes: tuple[int, int], p: int, q: int, base: int | mpz) -> None:
    """Check that (alpha_p, alpha_q) are what `generate_keypair` makes for these primes and this base h.

    Raises:
        KeyMaterialError: one is not prime, is too short for n, does not divide its prime less one, or twice it is not
            the order of h modulo that prime. The message holds no secret.
    """
    shortest = subgroup_bits(2 * p.bit_length())
    for name, alpha, prime in (("p", sub_primes[0], p), ("q", sub_primes[1], q)):
        if not gmpy2.is_prime(alpha, PRIME_ROUNDS):
            raise KeyMaterialError(f"private key: the sub-prime alpha_{name} is not prime")
        if alpha.bit_length() < shortest:
            raise KeyMaterialError(f"private key: the sub-prime alpha_{name} is too short; expected {shortest} bits")
        if (prime - 1) % alpha != 0:
            raise KeyMaterialError(f"private key: the sub-prime alpha_{name} does not divide {name}-1")
        # h = -root where root has the odd order alpha. `check_base` has seen that h² is not 1 modulo either prime.
        if gmpy2.powmod(base, alpha, prime) != prime - 1:
            raise KeyMaterialError(f"private key: the base h does not have the order 2·alpha_{name} modulo {name}")


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


def _random_prime(bits: int) -> mpz:
    while True:
        candidate = mpz(secrets.randbits(bits) | 1 << (bits - 1) | 1)
        if _is_prime(candidate):
            return candidate


def _blum_prime(bits: int, alpha_bits: int | None) -> tuple[mpz, mpz]:
    """A random prime ≡ 3 (mod 4) of `bits` bits, and a prime factor alpha of prime - 1 (1 where none is asked for).

    Its two top bits are set, so that the product of two of them has exactly twice as many bits. It is drawn as
    2·alpha·cofactor + 1 with an odd cofactor, a fresh one for each try: stepping on to the next prime would favour
    primes after long gaps.
    """
    alpha = _random_prime(alpha_bits) if alpha_bits else mpz(1)
    low, high = mpz(3) << (bits - 2), mpz(1) << bits
    smallest = (low // (2 * alpha) + 1) | 1
    choices = (high // (2 * alpha) - smallest) // 2
    while True:
        cofactor = smallest + 2 * secrets.randbelow(int(choices))
        prime = 2 * alpha * cofactor + 1
        # A cofactor that alpha divides would give the wrong group its order; n's maker must know that order exactly.
        if _is_prime(prime) and gmpy2.gcd(alpha, cofactor) == 1:
            return prime, alpha


def _subgroup_base(p: mpz, q: mpz, alpha: mpz) -> mpz:
    """h = -y^(2·beta) mod n, of order 2·alpha, for a random y (Ma, Han, Lei, the key generation)."""
    n = p * q
    beta = (p - 1) * (q - 1) // (4 * alpha)
    while True:
        y = mpz(secrets.randbelow(int(n)))
        root = gmpy2.powmod(y, 2 * beta, n)
        # The order of `root` modulo each prime divides a prime alpha: it is all of it unless `root` is 1 there, and
        # then h would give n's factors away.
        if gmpy2.gcd(y, n) == 1 and gmpy2.gcd(root - 1, n) == 1:
            return n - root
