"""Openings of Paillier ciphertexts: the proof that a sum was decrypted truly, which needs no private key to check.

    c  =  (1 + n)^m · r^n  =  (1 + m·n) · r^n   (mod n²)

Encryption is a bijection of (m, r) in Z_n × Z_n* (Paillier, EUROCRYPT '99, lemma 3), so a pair that satisfies this is
*the* plaintext and *the* randomiser of c. Whoever has the private key finds r = c^(1/n) mod n, since c = r^n modulo n.
"""

import secrets
from collections.abc import Sequence

import gmpy2
from gmpy2 import mpz

from shared.he.keys import PrivateKeyMaterial

_COIN_BITS = 128


def roots(private: PrivateKeyMaterial, ciphertexts: Sequence[int | mpz]) -> list[int]:
    """r of each ciphertext, 0 < r < n; the ciphertexts are units modulo n."""
    key = private.private_key
    n, p, q = mpz(key.public_key.n), mpz(key.p), mpz(key.q)
    p_inverse = gmpy2.invert(p, q)
    # gcd(n, p-1) = 1, as p and q have one length: n has an inverse modulo p-1, and its power is the n-th root.
    modulo_p, modulo_q = (
        gmpy2.powmod_base_list([c % prime for c in ciphertexts], gmpy2.invert(n, prime - 1), prime) for prime in (p, q)
    )
    return [int(a + p * ((b - a) * p_inverse % q)) for a, b in zip(modulo_p, modulo_q, strict=True)]


def imbalance(n: mpz, ciphertexts: Sequence[int | mpz], plaintexts: Sequence[int], of: Sequence[int]) -> "Imbalance":
    """How far these ciphertexts are from their openings; see `Imbalance`.

    Args:
        n: the public key.
        ciphertexts: units modulo n, below n².
        plaintexts: what they are said to hold.
        of: r of each.

    Raises:
        ValueError: not as many plaintexts and roots as ciphertexts, or one outside [0, n).
    """
    if not len(ciphertexts) == len(plaintexts) == len(of):
        raise ValueError(f"{len(plaintexts)} plaintexts and {len(of)} roots; expected {len(ciphertexts)} of each")
    if not all(0 <= number < n for number in (*plaintexts, *of)):
        raise ValueError("a plaintext or root is outside [0, n)")
    coins = [mpz(secrets.randbits(_COIN_BITS)) for _ in ciphertexts]
    square = n * n
    exponent, root = mpz(0), mpz(1)
    for coin, plaintext, r in zip(coins, plaintexts, of, strict=True):
        exponent += coin * plaintext
        root = root * gmpy2.powmod(r, coin, n) % n
    right = (1 + exponent % n * n) * gmpy2.powmod(root, n, square) % square
    return Imbalance(square, coins, power_product(ciphertexts, coins, square), right)


def power_product(numbers: Sequence[int | mpz], exponents: Sequence[mpz], modulus: mpz) -> mpz:
    """The product of the powers."""
    product = mpz(1)
    for number, exponent in zip(numbers, exponents, strict=True):
        product = product * gmpy2.powmod(number, exponent, modulus) % modulus
    return product


class Imbalance:
    """The two sides of one equation that stands for all of them.

    Each ciphertext's equation is raised to a random 128-bit power of the verifier's own, and all are multiplied: one
    n-th power in the place of many (Bellare, Garay, Rabin, "Fast batch verification for modular exponentiation and
    digital signatures", EUROCRYPT '98, the small exponents test). A false plaintext passes with a chance of 2^-128: it
    leaves a factor among the powers of 1 + n, whose order n has no prime factor below that (the key's proof).

    Args:
        square: n².
        coins: the exponents.
        left: the product of the ciphertexts' powers.
        right: that of their openings'.
    """

    def __init__(self, square: mpz, coins: Sequence[mpz], left: mpz, right: mpz) -> None:
        self._square, self._coins, self._left, self._right = square, coins, left, right

    @property
    def none(self) -> bool:
        """Whether the openings are true."""
        return bool(self._left == self._right)

    def without(self, ciphertexts: Sequence[int | mpz]) -> bool:
        """Whether they would be, were these left out of the product."""
        part = power_product(ciphertexts, self._coins, self._square)
        return bool(self._right * part % self._square == self._left)

    def with_again(self, ciphertexts: Sequence[int | mpz]) -> bool:
        """Whether they would be, were these once more in the product."""
        part = power_product(ciphertexts, self._coins, self._square)
        return bool(self._left * part % self._square == self._right)
