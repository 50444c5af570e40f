"""Real numbers as integers with a fixed number of fractional bits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import EncodingError


@dataclass(frozen=True)
class FixedPoint:
    """Values with `precision_bits` fractional bits that saturate short of ± 2**integer_bits.

    Floats are never given to `phe` itself: it would choose an exponent by the value's size, and the exponent travels
    in the clear.
    """

    precision_bits: int
    integer_bits: int

    @property
    def value_bits(self) -> int:
        """Bits of a magnitude."""
        return self.precision_bits + self.integer_bits

    @property
    def largest(self) -> int:
        """The largest magnitude of an encoded integer. The range is symmetric: -largest to +largest."""
        return (1 << self.value_bits) - 1

    def encode(self, vector: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        """The integers nearest to `vector * 2**precision_bits`, (size,), and how many values saturated.

        Raises:
            EncodingError: a value is NaN or infinite.
        """
        if not np.isfinite(vector).all():
            raise EncodingError(
                "the delta holds NaN or infinity: local training diverged; lower learning_rate or check the data"
            )
        with np.errstate(over="ignore"):  # beyond float64's range is beyond ours: infinity saturates like the rest
            # A power of two changes the exponent alone, as ldexp does at many times the cost. Ties go to even.
            scaled = np.rint(vector.astype(np.float64) * 2.0**self.precision_bits)
        saturated = int(np.count_nonzero(np.abs(scaled) > self.largest))
        return np.clip(scaled, -self.largest, self.largest).astype(np.int64), saturated

    def decode(self, integers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The inverse of `encode`, (size,); exact for sums below 2**53."""
        return integers.astype(np.float64) * 2.0**-self.precision_bits
