"""Integers that are too long for one fixed-point value, as rows of limbs that encryption can add.

An integer becomes limbs in base 2**limb_bits, least significant first, each with the integer's sign. Limbs add up
without carries (the slots of the packing have room for that), so the sum of the integers is exact:

    decode(encode(x_1) + ... + encode(x_k)) == x_1 + ... + x_k
"""

import math
from collections.abc import Sequence

import numpy as np

from shared.config import Config
from shared.errors import DataError
from shared.he.scheme import Vector

FRACTION_BITS = 40  # of a real number that is added up exactly: far below the rounding of a float64 sum itself
_MAX_LIMB_BITS = 16  # with `he_scheme: none` a limb travels as a float32, which is exact up to 24 bits


class LimbCode:
    """How integers become vectors for the scheme of these settings: its fixed point says how much one value holds."""

    def __init__(self, config: Config) -> None:
        self._precision_bits = config.he_precision_bits
        self._limb_bits = min(config.he_precision_bits + config.he_integer_bits, _MAX_LIMB_BITS)

    def limbs(self, bits: int) -> int:
        """Values that an integer of so many bits takes."""
        return -(-bits // self._limb_bits)

    def encode(self, integers: Sequence[int], bits: int) -> Vector:
        """(len(integers) * limbs(bits),) values.

        Raises:
            DataError: an integer is longer than that.
        """
        if any(abs(integer) >= 1 << bits for integer in integers):
            raise DataError("the features' sums are too large to be added up; are there numbers beyond 1e12?")
        limbs, mask = self.limbs(bits), (1 << self._limb_bits) - 1
        rows = [
            [(abs(integer) >> self._limb_bits * limb & mask) * (1 if integer >= 0 else -1) for limb in range(limbs)]
            for integer in integers
        ]
        return np.ldexp(np.array(rows, dtype=np.float64).ravel(), -self._precision_bits)

    def decode(self, total: Vector, bits: int) -> list[int]:
        """The sums of the integers, from the sum of the vectors."""
        limbs = np.ldexp(total, self._precision_bits).astype(np.int64).reshape(-1, self.limbs(bits))
        return [sum(int(limb) << self._limb_bits * place for place, limb in enumerate(row)) for row in limbs]


def to_fixed(number: float) -> int:
    """A finite number times 2**FRACTION_BITS, cut to an integer; ldexp is exact, and so is int() of what it gives."""
    return int(math.ldexp(number, FRACTION_BITS))


def from_fixed(integer: int) -> float:
    """The inverse; an integer of more than 53 bits is rounded once, by float()."""
    return math.ldexp(float(integer), -FRACTION_BITS)
