"""Shamir's threshold secret sharing over a prime field (Shamir, "How to share a secret", CACM 1979).

A secret s is the constant term of a random polynomial f of degree t - 1; holder x gets f(x). Any t shares give
s = f(0) by Lagrange interpolation; t - 1 shares are independent of s. The Lagrange coefficients depend on the holders
alone, so they are worked out once for all the secrets that the same holders rebuild.

The arithmetic is on Python integers and so not constant-time; the values that it works on are used in one round only.
"""

import itertools
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence

from shared.masking.errors import RoundAbandonedError

SECRET_BYTES = 32
SHARE_BYTES = 33
PRIME = 2**256 + 297  # the least prime above 2**256, so that every 32-byte secret is a field element
MAX_EXTRA_SUBSETS = 1000  # bound on the work that corrupt shares can cause in one round, beyond the first attempts


def split(secret: bytes | bytearray, threshold: int, holders: int) -> list[int]:
    """Shares of one secret for the holders x = 1 to `holders`.

    Args:
        secret: 32 bytes.
        threshold: t, the shares that rebuild the secret, 1 to `holders`.
        holders: number of shares to make.

    Returns:
        (holders,) integers in [0, PRIME); entry i belongs to x = i + 1.

    Raises:
        ValueError: a secret of another length, or a threshold out of range.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret of {len(secret)} bytes; expected {SECRET_BYTES}")
    if not 1 <= threshold <= holders:
        raise ValueError(f"threshold {threshold} with {holders} holders; expected 1 to {holders}")
    coefficients = [int.from_bytes(secret), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [evaluate(coefficients, x) for x in range(1, holders + 1)]


def evaluate(coefficients: Sequence[int], x: int) -> int:
    """f(x) mod PRIME by Horner's rule; `coefficients` start at the constant term."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def lagrange_at_zero(points: Sequence[int]) -> list[int]:
    """The coefficients c_i with f(0) = sum of c_i f(x_i) mod PRIME, for distinct non-zero points x_i."""
    product = math.prod(points)
    coefficients = []
    for x in points:
        denominator = x  # c_i = prod_{j != i} x_j / (x_j - x_i), with x_i itself moved below the fraction bar
        for other in points:
            if other != x:
                denominator = denominator * (other - x) % PRIME
        coefficients.append(product * pow(denominator, -1, PRIME) % PRIME)
    return coefficients


class Rebuilder:
    """Rebuilds the secrets of one round, all with the same threshold, in spite of a bounded number of bad shares."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._coefficients: dict[tuple[int, ...], list[int]] = {}
        self._good: tuple[int, ...] = ()  # the holders that worked last: who lied once may lie again
        self._extra = MAX_EXTRA_SUBSETS

    def rebuild(self, owner: str, shares: Mapping[int, int], accept: Callable[[bytes], bool]) -> bytes:
        """The owner's secret, the one that `accept` recognises (by its commitment or its public key).

        Where there are more than t shares and the first t don't fit, other sets of t are tried: all of them when
        they are few, random ones when they are many, at most `MAX_EXTRA_SUBSETS` in the life of this object.

        Args:
            owner: the client whose secret it is, for the error's text.
            shares: f(x) by holder x.
            accept: tells the right secret from a wrong one.

        Returns:
            32 bytes.

        Raises:
            RoundAbandonedError: fewer than t shares, or no tried set of t of them gives an accepted secret.
        """
        if len(shares) < self._threshold:
            raise RoundAbandonedError(f"{len(shares)} shares of client {owner!r}; expected at least {self._threshold}")
        for subset in self._subsets(sorted(shares)):
            value = sum(c * shares[x] for c, x in zip(self._lagrange(subset), subset, strict=True)) % PRIME
            if value < 2 ** (8 * SECRET_BYTES) and accept(secret := value.to_bytes(SECRET_BYTES)):
                self._good = subset
                return secret
        raise RoundAbandonedError(
            f"no set of {self._threshold} out of {len(shares)} shares of client {owner!r} fits what it committed to; "
            "it, or some who hold its shares, lied"
        )

    def _subsets(self, holders: list[int]) -> Iterator[tuple[int, ...]]:
        yield self._good if self._good and set(self._good) <= set(holders) else tuple(holders[: self._threshold])
        others: Iterator[tuple[int, ...]]
        if math.comb(len(holders), self._threshold) <= MAX_EXTRA_SUBSETS:
            others = itertools.combinations(holders, self._threshold)
        else:
            # Not predictable, so that liars can't choose their places to be in every set that is tried.
            sample = secrets.SystemRandom().sample
            others = (tuple(sorted(sample(holders, self._threshold))) for _ in itertools.count())
        for subset in others:
            if self._extra == 0:
                return
            self._extra -= 1
            yield subset

    def _lagrange(self, subset: tuple[int, ...]) -> list[int]:
        if subset not in self._coefficients:
            self._coefficients[subset] = lagrange_at_zero(subset)
        return self._coefficients[subset]
