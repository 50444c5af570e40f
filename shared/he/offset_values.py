"""Fixed-point values as integers that are never negative: they lie side by side, and add up without borrowing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import EncodingError
from shared.he.fixed_point import FixedPoint


@dataclass(frozen=True)
class OffsetValues:
    """A value x is the integer q = round-half-even(x · 2**precision_bits), clipped to ± (2**value_bits - 1), plus the
    offset 2**value_bits: from 1 to 2**(1 + value_bits) - 1. The sum of `max_contributors` of them has `sum_bits` bits.

    Attributes:
        fixed_point: how a value becomes an integer.
        max_contributors: the most vectors that one sum may hold.

    Raises:
        EncodingError: fewer than 1 contributor.
    """

    fixed_point: FixedPoint
    max_contributors: int

    def __post_init__(self) -> None:
        if self.max_contributors < 1:
            raise EncodingError(f"packing: {self.max_contributors} contributors; expected at least 1")

    @property
    def sum_bits(self) -> int:
        """1 for the sign, the value's own bits, and ceil(log2(max_contributors)) for the carries of a sum."""
        return 1 + self.fixed_point.value_bits + (self.max_contributors - 1).bit_length()

    @property
    def offset(self) -> int:
        """What is added to each integer."""
        return self.fixed_point.largest + 1

    def check_contributors(self, contributors: int) -> None:
        """Refuse a sum that may have overflowed.

        Raises:
            EncodingError: more contributors than a sum has bits for, or fewer than 1.
        """
        if not 1 <= contributors <= self.max_contributors:
            raise EncodingError(
                f"packing: a sum of {contributors} contributors; expected 1 to {self.max_contributors}, which is what "
                "the slots were sized for"
            )

    def encode(self, vector: NDArray[np.float64]) -> tuple[NDArray[np.uint64], int]:
        """The integers of (size,) values, (size,), and how many values saturated.

        Raises:
            EncodingError: a value is NaN or infinite.
        """
        integers, saturated = self.fixed_point.encode(vector)
        integers += self.offset
        return integers.view(np.uint64), saturated

    def decode(self, sums: NDArray[np.uint64], contributors: int) -> NDArray[np.float64]:
        """The (size,) values of the sum of exactly `contributors` vectors, from the sums of their integers, (size,).

        Raises:
            EncodingError: a sum that so many values can't add up to.
        """
        signed = sums.astype(np.int64) - contributors * self.offset
        if signed.size and max(-int(signed.min()), int(signed.max())) > contributors * self.fixed_point.largest:
            raise EncodingError(
                f"packing: a slot holds what {contributors} contributors can't add up to; the number of contributors, "
                "the key or a mask is wrong"
            )
        return self.fixed_point.decode(signed)
