"""The discrete Gaussian, by a table of cumulative probabilities.

    P(x) = exp(-x² / (2·σ²)) / Σ_y exp(-y² / (2·σ²)),   |x|, |y| < TAIL

One word of 64 bits makes one value: its lowest bit is the sign, and the other 63 are compared with the probabilities of
a magnitude of at most 0, 1, 2, …, which are rounded to multiples of 2^-63. So the distribution is symmetric to the last
bit, each magnitude's probability is off by at most 2^-63, and what lies beyond TAIL, ten deviations, has less than
2^-64. Peikert, "An Efficient and Parallel Gaussian Sampler for Lattices", CRYPTO 2010, section 4.1, draws so.

Which entry of the table is read depends on the value: whoever shares the processor's caches may learn something of it.
"""

from functools import cache

import gmpy2
import numpy as np
from numpy.typing import NDArray

from shared.he.rlwe import DEVIATION, TAIL
from shared.he.words import Words

_TABLE_BITS = 63
_INDEX_BITS = 16  # the first bits of a word, which mostly settle the magnitude
_AMBIGUOUS = -1


def draw(words: Words, count: int) -> NDArray[np.int8]:
    """`count` values of deviation `DEVIATION`, (count,), each below `TAIL` in magnitude."""
    word = words.take(count)
    halves = word.view("<u2").reshape(count, 4)  # (count, 16-bit parts), the lowest first
    found = _by_first_bits()[halves[:, 3]]
    open_ones = np.flatnonzero(found == _AMBIGUOUS)
    found[open_ones] = np.searchsorted(thresholds(), word[open_ones] >> np.uint64(1), side="right")
    sign = (halves[:, 0] & 1).astype(np.int8)
    signed: NDArray[np.int8] = (found ^ -sign) + sign  # -found where the sign is 1
    return signed


@cache
def thresholds() -> NDArray[np.uint64]:
    """2^63 times the probability of a magnitude of at most 0, 1, …, TAIL - 2, (TAIL - 1,), rounded."""
    with gmpy2.context(precision=256):
        variance = gmpy2.mpfr(DEVIATION) ** 2
        weights = [(1 if x == 0 else 2) * gmpy2.exp(-gmpy2.mpfr(x * x) / (2 * variance)) for x in range(TAIL)]
        total = sum(weights)
        scaled = [sum(weights[: x + 1]) / total * (1 << _TABLE_BITS) for x in range(TAIL - 1)]
        return np.array([int(gmpy2.rint(value)) for value in scaled], dtype=np.uint64)


@cache
def _by_first_bits() -> NDArray[np.int8]:
    """The magnitude that the first 16 bits of a word settle, (65536,), or `_AMBIGUOUS`."""
    first = np.arange(1 << _INDEX_BITS, dtype=np.uint64) << np.uint64(_TABLE_BITS - _INDEX_BITS)
    last = first + np.uint64((1 << (_TABLE_BITS - _INDEX_BITS)) - 1)
    least, most = (np.searchsorted(thresholds(), edge, side="right") for edge in (first, last))
    return np.where(least == most, least, _AMBIGUOUS).astype(np.int8)
