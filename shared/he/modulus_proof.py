"""A proof that n is a Paillier-Blum modulus without short factors, which whoever encrypts under n can check.

The key maker makes it once with `prove`; every client checks it once with `verify`. It is bound to n alone, since one
key serves many sessions. Every key of ours can be proven: its primes are 3 mod 4 and of equal length, so gcd(n, φ(n))
= 1.

Two statements of Canetti, Gennaro, Goldfeder, Makriyannis, Peled, "UC Non-Interactive, Proactive, Threshold ECDSA with
Identifiable Aborts" (CGGMP21, eprint 2021/060) are proven, the challenges drawn by a hash (`fiat_shamir`):

1. Π-mod, figure 16: n = p·q for primes p ≡ q ≡ 3 (mod 4), and gcd(n, φ(n)) = 1. It assumes only that the hash is as
   good as random.
2. Π-fac, figure 28: p and q are both long. It has a module of its own, `no_small_factor`, with its assumptions.

**Why Π-mod convinces.** For random y modulo n the prover shows an n-th root, or a fourth root of one of y, -y, w·y and
-w·y.

- If a prime l divides both n and φ(n), as where a square divides n, at most one y in l has an n-th root.
  `check_public_key` has seen that l > 2^16, so 8 roots leave a chance of 2^-128. That few roots are enough is an
  observation of Goldberg, Reyzin, Sagga, Baldimtsi, "Efficient Noninteractive Certification of RSA Moduli and Beyond"
  (ASIACRYPT 2019); the figure asks for as many as of the others.
- Otherwise the fourth powers are a subgroup whose index is a product of 2 for each prime of n that is 3 mod 4 and of 4
  for each that is 1 mod 4. The four candidates cover at most four of its cosets. As n is not prime, an index of 4 means
  the right form; from 8 on they cover at most half of all y, so 128 fourth roots leave a chance of 2^-128.

So a prover who asks the hash Q times proves a false statement with probability of about Q·2^-128. For an n below 1024
bits, which tests alone use, the second statement has 2^-80; below 480 bits nothing is proven.

Two things differ from the figure. w is the least positive number with Jacobi symbol -1, so nobody chooses it; and the y
of the two kinds of roots are drawn apart. All that a verifier sees of the roots could therefore be made without p and
q, from random roots (squares, for fourth roots) whose powers are then the y: they give nothing away.

Seconds of one core of an Intel Xeon, and bytes:

    bits of n   prove   verify    bytes
    2048         0.15     0.04   36,704
    3072         0.37     0.08   54,304
"""

from dataclasses import dataclass
from typing import Self

import gmpy2
from gmpy2 import mpz

from shared.errors import KeyMaterialError
from shared.he import no_small_factor
from shared.he.fiat_shamir import hash_modulo
from shared.he.keys import SMALL_FACTOR_LIMIT, check_public_key
from shared.he.no_small_factor import NoSmallFactorProof

FOURTH_ROOTS = 128  # each halves the chance of a wrong n
NTH_ROOTS = 128 // (SMALL_FACTOR_LIMIT.bit_length() - 1)  # each divides it by more than 2**16
_W_LIMIT = 1 << 16  # of the 6542 primes below it every second has Jacobi symbol -1 modulo an honest n


@dataclass(frozen=True)
class ModulusProof:
    """What is shown of n.

    Attributes:
        fourth_roots: (FOURTH_ROOTS,) residues modulo n.
        nth_roots: (NTH_ROOTS,) residues modulo n.
        no_small_factor: the proof about the length of the factors.
    """

    fourth_roots: tuple[mpz, ...]
    nth_roots: tuple[mpz, ...]
    no_small_factor: NoSmallFactorProof

    @staticmethod
    def length(n_bits: int) -> int:
        """Bytes of an encoded proof for n of this length.

        Raises:
            KeyMaterialError: nothing can be proven for an n so short.
        """
        return (FOURTH_ROOTS + NTH_ROOTS) * _width(n_bits) + NoSmallFactorProof.length(n_bits)

    def to_bytes(self, n_bits: int) -> bytes:
        """The fourth roots and the n-th roots, each big-endian and as wide as n, then the other proof."""
        roots = (*self.fourth_roots, *self.nth_roots)
        width = _width(n_bits)
        return b"".join(bytes(root.to_bytes(width, "big")) for root in roots) + self.no_small_factor.to_bytes(n_bits)

    @classmethod
    def from_bytes(cls, blob: bytes, n_bits: int) -> Self:
        """The inverse of `to_bytes`, for bytes of unknown origin.

        Raises:
            KeyMaterialError: another length than n's implies, or nothing can be proven for an n so short.
        """
        expected, width = cls.length(n_bits), _width(n_bits)
        if len(blob) != expected:
            raise KeyMaterialError(f"key proof: {len(blob)} bytes; expected {expected} for n of {n_bits} bits")
        count = FOURTH_ROOTS + NTH_ROOTS
        roots = tuple(mpz.from_bytes(blob[i * width : (i + 1) * width], "big") for i in range(count))
        rest = NoSmallFactorProof.from_bytes(blob[count * width :], n_bits)
        return cls(roots[:FOURTH_ROOTS], roots[FOURTH_ROOTS:], rest)


def prove(p: int | mpz, q: int | mpz) -> bytes:
    """Prove that n = p·q is as `verify` demands, for the primes of a key pair.

    Raises:
        KeyMaterialError: p and q are not of equal length and 3 mod 4, or otherwise not what the proof is about.
    """
    p, q = mpz(p), mpz(q)
    if p % 4 != 3 or q % 4 != 3 or p.bit_length() != q.bit_length():
        raise KeyMaterialError("key proof: expected two primes of equal length that are 3 mod 4")
    n = p * q
    w = _least_nonresidue(n)
    squares = [_square_of(y, w, p, q) for y in fourth_challenges(n)]
    # Modulo p a square has one square root that is a square itself, by the exponent (p+1)/4; that twice.
    fourth = _roots(squares, p, q, *(gmpy2.powmod((prime + 1) // 4, 2, prime - 1) for prime in (p, q)))
    try:
        exponents = [gmpy2.invert(n, prime - 1) for prime in (p, q)]
    except ZeroDivisionError:
        raise KeyMaterialError("key proof: gcd(n, φ(n)) is not 1, so n is no Paillier modulus") from None
    nth = _roots(nth_challenges(n), p, q, *exponents)
    proof = ModulusProof(tuple(fourth), tuple(nth), no_small_factor.prove(p, q)).to_bytes(n.bit_length())
    # A root that a fault of the machine made wrong modulo one prime only would give n's factors to whoever sees it.
    verify(int(n), proof)
    return proof


def verify(n: int, proof: bytes) -> None:
    """Check that n is a product of two primes that are 3 mod 4 and long, with gcd(n, φ(n)) = 1.

    How long: see the table in `no_small_factor`.

    Args:
        n: the public modulus, from anywhere.
        proof: what `prove` made, from anywhere.

    Raises:
        KeyMaterialError: the proof has another length than n's implies, or does not show all of that.
    """
    check_public_key(n, n.bit_length())
    modulus, parts = mpz(n), ModulusProof.from_bytes(proof, n.bit_length())
    _check_units(parts, modulus)
    w = _least_nonresidue(modulus)
    for root, y in zip(parts.fourth_roots, fourth_challenges(modulus), strict=True):
        if not _is_fourth_root(root, y, w, modulus):
            raise KeyMaterialError(
                "key proof: a fourth root is wrong: the proof is damaged or of another key, or n is no product of two "
                "primes that are 3 mod 4"
            )
    for root, y in zip(parts.nth_roots, nth_challenges(modulus), strict=True):
        if not _is_nth_root(root, y, modulus):
            raise KeyMaterialError(
                "key proof: an n-th root is wrong: the proof is damaged or of another key, or gcd(n, φ(n)) is not 1"
            )
    no_small_factor.verify(modulus, parts.no_small_factor)


def fourth_challenges(n: mpz) -> list[mpz]:
    """The y modulo n that fourth roots are asked of."""
    return [hash_modulo("fourth root", (n, i), n) for i in range(FOURTH_ROOTS)]


def nth_challenges(n: mpz) -> list[mpz]:
    """The y modulo n that n-th roots are asked of."""
    return [hash_modulo("n-th root", (n, i), n) for i in range(NTH_ROOTS)]


def _check_units(parts: ModulusProof, n: mpz) -> None:
    """The argument counts units alone: a y that shares a factor with n has no root that is one."""
    product = mpz(1)
    for root in (*parts.fourth_roots, *parts.nth_roots):
        if root >= n:
            raise KeyMaterialError("key proof: a root is not below n")
        product = product * root % n
    if gmpy2.gcd(product, n) != 1:
        raise KeyMaterialError("key proof: a root is not a unit modulo n")


def _is_fourth_root(root: mpz, y: mpz, w: mpz, n: mpz) -> bool:
    square = root * root % n
    power = square * square % n
    return power in (y, n - y) or power in ((wy := w * y % n), n - wy)


def _is_nth_root(root: mpz, y: mpz, n: mpz) -> bool:
    return bool(gmpy2.powmod(root, n, n) == y)


def _least_nonresidue(n: mpz) -> mpz:
    for candidate in range(2, _W_LIMIT):
        if gmpy2.jacobi(candidate, n) == -1:
            return mpz(candidate)
    raise KeyMaterialError(f"key proof: no number below {_W_LIMIT} has Jacobi symbol -1 modulo n; make another key")


def _square_of(y: mpz, w: mpz, p: mpz, q: mpz) -> mpz:
    """That one of y, -y, w·y and -w·y which is a square modulo p and modulo q."""
    n = p * q
    # w changes one of the two symbols and -1 both, so exactly one of the four has (1, 1).
    if gmpy2.jacobi(y, n) == -1:
        y = w * y % n
    return y if gmpy2.legendre(y, p) == 1 else n - y


def _roots(bases: list[mpz], p: mpz, q: mpz, exponent_p: mpz, exponent_q: mpz) -> list[mpz]:
    """Each base to an exponent that is known modulo p-1 and q-1, modulo n = p·q."""
    modulo_p, modulo_q = gmpy2.powmod_base_list(bases, exponent_p, p), gmpy2.powmod_base_list(bases, exponent_q, q)
    inverse = gmpy2.invert(p, q)
    return [a + p * ((b - a) * inverse % q) for a, b in zip(modulo_p, modulo_q, strict=True)]


def _width(n_bits: int) -> int:
    return (n_bits + 7) // 8
