"""Numbers of b bits as one run of bits, each beside the next from the lowest bit on, and back."""

import math

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 64
GROUP = 64  # numbers that fill whole words, whatever their bits; blocks hold whole groups


def block_bytes(count: int, bits: int) -> int:
    """Bytes of a block of `count` numbers, a multiple of `GROUP`."""
    return count * bits // 8


def pack(numbers: NDArray[np.uint64], bits: int) -> NDArray[np.uint8]:
    """(count,) numbers below 2**bits as a block, (block_bytes,).

    Args:
        numbers: a multiple of `GROUP` of them.
        bits: 1 to 64.
    """
    period, words = _group(bits)
    by_place = np.ascontiguousarray(numbers.reshape(-1, period).T)  # (period, groups): each place one run of memory
    packed = np.zeros((words, by_place.shape[1]), dtype="<u8")
    for place in range(period):
        word, shift = divmod(place * bits, WORD_BITS)
        packed[word] |= by_place[place] << np.uint64(shift)
        if shift + bits > WORD_BITS:
            packed[word + 1] |= by_place[place] >> np.uint64(WORD_BITS - shift)
    return np.ascontiguousarray(packed.T).view(np.uint8).reshape(-1)


def unpack(block: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
    """The inverse of `pack`, (count,), for any bytes of a legal length."""
    period, words = _group(bits)
    packed = np.ascontiguousarray(block.view("<u8").reshape(-1, words).T)  # (words, groups)
    by_place = np.empty((period, packed.shape[1]), dtype=np.uint64)
    for place in range(period):
        word, shift = divmod(place * bits, WORD_BITS)
        by_place[place] = packed[word] >> np.uint64(shift)
        if shift + bits > WORD_BITS:
            by_place[place] |= packed[word + 1] << np.uint64(WORD_BITS - shift)
    by_place &= np.uint64((1 << bits) - 1)
    return np.ascontiguousarray(by_place.T).reshape(-1)


def _group(bits: int) -> tuple[int, int]:
    """The fewest numbers that fill whole words, and how many words."""
    shared = math.gcd(bits, WORD_BITS)
    return WORD_BITS // shared, bits // shared
