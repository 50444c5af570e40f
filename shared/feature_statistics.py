"""Feature statistics as vectors that encryption can add: what the scaling is made from, before round 1.

Two sums over all clients, each of which travels and is decrypted like a model update:

1. `moments`: number of rows, and each numeric column's sum and sum of squares; they give mean and variance.
2. `histogram`: how many rows each scaled feature has in each bin, which later tells whether new records have drifted.

An update's fixed point has too few bits for a sum of squares. So a number becomes an integer, x * 2**FRACTION_BITS, and
that a row of limbs in base 2**limb_bits, least significant first, each with the number's sign. Limbs add up without
carries (the slots of the packing have room for that), so the sum of the integers is exact:

    decode(encode(x_1) + ... + encode(x_k)) == round(x_1 * 2**f) + ... + round(x_k * 2**f)

No list of categories is made: where public ones are not given a category is hashed to one of `hash_width` columns.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from shared.config import Config
from shared.data_sources.scaling import FeatureSums, Scaler
from shared.data_sources.schema import FeatureSchema
from shared.errors import DataError, EncodingError
from shared.he_utils import Vector
from shared.preprocessing import BINS, FeatureHistogram

MOMENTS, HISTOGRAM = "moments", "histogram"
ATTEMPTS = 3  # at each sum in a run; a client gives no more
FRACTION_BITS = 40  # of a moment: far below the rounding of the float64 sum itself
# A raw feature is below 10**12 (`schema.MAX_NUMBER`), its square below 2**80: room for 2**47 rows of such.
_MOMENT_BITS = 128
_COUNT_BITS = 48
_MAX_LIMB_BITS = 16  # with `he_scheme: none` a limb travels as a float32, which is exact up to 24 bits


class StatisticsCode:
    """How the statistics of rows with this schema become vectors for the scheme of these settings.

    Args:
        config: its fixed point says how much one value of a vector holds.
        schema: of the raw features.
    """

    def __init__(self, config: Config, schema: FeatureSchema) -> None:
        self.schema = schema
        self._precision_bits = config.he_precision_bits
        self._limb_bits = min(config.he_precision_bits + config.he_integer_bits, _MAX_LIMB_BITS)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Values of each vector, by the name of the statistic."""
        numeric = int(self.schema.numeric.sum())
        return {
            MOMENTS: (1 + 2 * numeric) * self._limbs(_MOMENT_BITS),
            HISTOGRAM: len(self.schema) * BINS * self._limbs(_COUNT_BITS),
        }

    def digest(self, statistic: str, scaler: Scaler | None) -> str:
        """What a sum is about, SHA-256 in hex: the statistic, the schema, and for the histogram the scaler."""
        parts = (statistic, self.schema.hash(), scaler.to_bytes().hex() if scaler else "")
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def encode_moments(self, sums: FeatureSums) -> Vector:
        """One client's sums, (sizes[MOMENTS],).

        Raises:
            DataError: a sum is beyond what a vector can hold.
        """
        numbers = [sums.count, *sums.total.tolist(), *sums.squares.tolist()]
        # ldexp is exact, and so is int() of what it gives.
        return self._encode([int(math.ldexp(number, FRACTION_BITS)) for number in numbers], _MOMENT_BITS)

    def decode_moments(self, total: Vector) -> FeatureSums:
        """The sums over all rows, from the sum of the clients' vectors.

        Raises:
            EncodingError: no rows can have such sums.
        """
        integers = self._decode(total, _MOMENT_BITS)
        # Exact: an integer of more than 53 bits is rounded once, by float().
        count, *sums = [math.ldexp(float(integer), -FRACTION_BITS) for integer in integers]
        if count != int(count) or count < 1:
            raise EncodingError(f"the clients' sums are over {count} rows; at least one client's can't be right")
        half = len(sums) // 2
        return FeatureSums(int(count), np.array(sums[:half]), np.array(sums[half:]))

    def encode_histogram(self, histogram: FeatureHistogram) -> Vector:
        """One client's counts, (sizes[HISTOGRAM],).

        Raises:
            DataError: a count is beyond what a vector can hold.
        """
        return self._encode(histogram.counts.ravel().tolist(), _COUNT_BITS)

    def decode_histogram(self, total: Vector) -> FeatureHistogram:
        """The counts over all rows, from the sum of the clients' vectors.

        Raises:
            EncodingError: no rows can have such counts.
        """
        counts = np.array(self._decode(total, _COUNT_BITS), dtype=object).reshape(len(self.schema), BINS)
        if (counts < 0).any() or len(set(counts.sum(axis=1))) != 1 or not 0 < counts[0].sum() < 2**_COUNT_BITS:
            raise EncodingError("the clients' counts are none that rows can have; at least one client's can't be right")
        return FeatureHistogram(counts.astype(np.int64))

    def _limbs(self, bits: int) -> int:
        return -(-bits // self._limb_bits)

    def _encode(self, integers: Sequence[int], bits: int) -> Vector:
        if any(abs(integer) >= 1 << bits for integer in integers):
            raise DataError("the features' sums are too large to be added up; are there numbers beyond 1e12?")
        limbs, mask = self._limbs(bits), (1 << self._limb_bits) - 1
        rows = [
            [(abs(integer) >> self._limb_bits * limb & mask) * (1 if integer >= 0 else -1) for limb in range(limbs)]
            for integer in integers
        ]
        return np.ldexp(np.array(rows, dtype=np.float64).ravel(), -self._precision_bits)

    def _decode(self, total: Vector, bits: int) -> list[int]:
        # Rounded: an approximate scheme is off by less than half of the last place.
        limbs = np.rint(np.ldexp(total, self._precision_bits)).astype(np.int64).reshape(-1, self._limbs(bits))
        return [sum(int(limb) << self._limb_bits * place for place, limb in enumerate(row)) for row in limbs]
