"""Feature statistics as vectors that encryption can add: what the scaling is made from, before round 1.

Sums over all clients, each of which travels and is decrypted like a model update. With `scaling: quantile` it is one:

- `quantiles`: how many rows have each feature in each bin of a public grid; it gives the quantiles, and it later tells
  whether new records have drifted.

With `scaling: zscore` it is two, one after the other:

- `moments`: number of rows, and each numeric column's sum and sum of squares; they give mean and variance.
- `histogram`: how many rows each scaled feature has in each bin, for drift.

With a density (`shared/density.py`) one more follows:

- `density`: rows, sums and sums of products of the scaled features, over benign rows alone.

An update's fixed point has too few bits for a sum of squares. So a number becomes an integer, x * 2**FRACTION_BITS, and
that a row of limbs (`shared/limbs.py`), so that the sums are exact.

No list of categories is made: where public ones are not given a category is hashed to one of `hash_width` columns.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources.scaling import GRID, AnyScaler, FeatureSums
from shared.data_sources.schema import FeatureSchema
from shared.density import BenignSums
from shared.errors import DataError, EncodingError
from shared.he.scheme import Vector
from shared.limbs import LimbCode, from_fixed, to_fixed
from shared.preprocessing import BINS, FeatureCounts, FeatureHistogram

STATISTICS = QUANTILES, MOMENTS, HISTOGRAM, DENSITY = "quantiles", "moments", "histogram", "density"
# A tenant's memory knows a statistic by its name, and these two by one: they are over the same tenants, as the
# difference between all rows of some and the benign rows of others would show who is in one sum alone.
WORKS = {DENSITY: QUANTILES}
# A raw feature is below 10**12 (`schema.MAX_NUMBER`), its square below 2**80: room for 2**47 rows of such.
_MOMENT_BITS = 128
_COUNT_BITS = 32  # 4 * 10**9 rows of all tenants together: two limbs, where more would take three
_PRODUCT_BITS = 48  # `shared/density.py` keeps each number of one tenant below
_IMPOSSIBLE = "the clients' counts are none that rows can have; at least one client's can't be right"


class StatisticsCode:
    """How the statistics of rows with this schema become vectors for the scheme of these settings.

    Args:
        config: its fixed point says how much one value of a vector holds.
        schema: of the raw features.
    """

    def __init__(self, config: Config, schema: FeatureSchema) -> None:
        self.schema = schema
        self._scaling, self._noisy = config.scaling, config.privacy != "none"
        self._density = config.makes_density
        self._code = LimbCode(config)
        self._steps = 2.0**config.he_precision_bits
        self._most = 2 ** (config.he_precision_bits + config.he_integer_bits - 1)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Values of each vector, by the name of the statistic, in the order in which they are asked for."""
        numeric = int(self.schema.numeric.sum())
        if self._scaling == "quantile":
            counts = numeric * GRID + (len(self.schema) - numeric) * BINS
            # With noise a count is one value: sums of limbs would show more than the sum of what they stand for.
            sizes = {QUANTILES: counts * (1 if self._noisy else self._code.limbs(_COUNT_BITS))}
            width = len(self.schema)
            numbers = 1 + width + width * (width + 1) // 2
            return sizes | ({DENSITY: numbers * self._code.limbs(_PRODUCT_BITS)} if self._density else {})
        return {
            MOMENTS: (1 + 2 * numeric) * self._code.limbs(_MOMENT_BITS),
            HISTOGRAM: len(self.schema) * BINS * self._code.limbs(_COUNT_BITS),
        }

    def digest(self, statistic: str, scaler: AnyScaler | None) -> str:
        """What a sum is about, SHA-256 in hex: the statistic, the schema, and for scaled features the scaler."""
        parts = (statistic, self.schema.hash(), scaler.to_bytes().hex() if scaler else "")
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def encode_quantiles(self, counts: FeatureCounts) -> Vector:
        """One client's counts, (sizes[QUANTILES],).

        Raises:
            DataError: a count is beyond what a vector can hold.
        """
        integers = [*counts.grid.ravel().tolist(), *counts.others.ravel().tolist()]
        if not self._noisy:
            return self._code.encode(integers, _COUNT_BITS)
        if max(integers, default=0) > self._most:
            raise DataError(f"a count of {max(integers):,} rows, above {self._most:,}: raise he_integer_bits")
        return self.in_steps(np.array(integers))

    def in_steps(self, integers: NDArray[np.int64]) -> Vector:
        """Whole numbers as values of a vector that has noise, one each, (size,)."""
        return integers / self._steps

    def decode_quantiles(self, total: Vector) -> FeatureCounts:
        """The counts over all rows, from the sum of the clients' vectors.

        Raises:
            EncodingError: no rows can have such counts.
        """
        numeric = int(self.schema.numeric.sum())
        if self._noisy:
            return self._smoothed(np.rint(total * self._steps))
        numbers = self._code.decode(total, _COUNT_BITS)
        grid = _counts(numbers[: numeric * GRID], (numeric, GRID))
        others = _counts(numbers[numeric * GRID :], (len(self.schema) - numeric, BINS))
        if len(grid) and len(others) and grid[0].sum() != others[0].sum():
            raise EncodingError(_IMPOSSIBLE)
        return FeatureCounts(grid, others)

    def _smoothed(self, noisy: Vector) -> FeatureCounts:
        """Counts that rows could have from counts with noise: none below 0, and as many rows in every column."""
        numeric = int(self.schema.numeric.sum())
        parts = [noisy[: numeric * GRID].reshape(numeric, GRID), noisy[numeric * GRID :].reshape(-1, BINS)]
        rows = round(float(np.median(np.concatenate([part.sum(axis=1) for part in parts]))))
        if rows < 1:
            raise EncodingError("the noise of the features' counts hides all rows: raise dp_target_epsilon")
        grid, others = ([_apportioned(column, rows) for column in part] for part in parts)
        return FeatureCounts(
            np.array(grid, dtype=np.int64).reshape(-1, GRID), np.array(others, dtype=np.int64).reshape(-1, BINS)
        )

    def encode_density(self, sums: BenignSums) -> Vector:
        """One client's sums, (sizes[DENSITY],).

        Raises:
            DataError: a sum is beyond what a vector can hold.
        """
        return self._code.encode([sums.rows, *sums.total.tolist(), *sums.products.tolist()], _PRODUCT_BITS)

    def decode_density(self, total: Vector) -> BenignSums:
        """The sums over all benign rows, from the sum of the clients' vectors.

        Raises:
            EncodingError: a sum is beyond what rows can have.
            DataError: no rows can have such sums, or they are too few to show.
        """
        rows, *numbers = self._code.decode(total, _PRODUCT_BITS)
        if max(abs(rows), *map(abs, numbers)) >= 1 << 62:
            raise EncodingError("sums for a density beyond what rows have; at least one client's can't be right")
        width = len(self.schema)
        sums = BenignSums(rows, np.array(numbers[:width], np.int64), np.array(numbers[width:], np.int64))
        sums.check()
        return sums

    def encode_moments(self, sums: FeatureSums) -> Vector:
        """One client's sums, (sizes[MOMENTS],).

        Raises:
            DataError: a sum is beyond what a vector can hold.
        """
        numbers = [sums.count, *sums.total.tolist(), *sums.squares.tolist()]
        return self._code.encode([to_fixed(number) for number in numbers], _MOMENT_BITS)

    def decode_moments(self, total: Vector) -> FeatureSums:
        """The sums over all rows, from the sum of the clients' vectors.

        Raises:
            EncodingError: no rows can have such sums.
        """
        count, *sums = map(from_fixed, self._code.decode(total, _MOMENT_BITS))
        if count != int(count) or count < 1:
            raise EncodingError(f"the clients' sums are over {count} rows; at least one client's can't be right")
        half = len(sums) // 2
        return FeatureSums(int(count), np.array(sums[:half]), np.array(sums[half:]))

    def encode_histogram(self, histogram: FeatureHistogram) -> Vector:
        """One client's counts, (sizes[HISTOGRAM],).

        Raises:
            DataError: a count is beyond what a vector can hold.
        """
        return self._code.encode(histogram.counts.ravel().tolist(), _COUNT_BITS)

    def decode_histogram(self, total: Vector) -> FeatureHistogram:
        """The counts over all rows, from the sum of the clients' vectors.

        Raises:
            EncodingError: no rows can have such counts.
        """
        return FeatureHistogram(_counts(self._code.decode(total, _COUNT_BITS), (len(self.schema), BINS)))


def _apportioned(column: Vector, rows: int) -> NDArray[np.int64]:
    """So many rows shared out in these proportions, by largest remainders; what is below 0 has none."""
    shares = np.maximum(column, 0.0)
    exact = (shares if shares.sum() > 0 else np.ones_like(shares)) * (rows / max(shares.sum(), 1.0))
    exact *= rows / exact.sum()
    whole: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: rows - int(whole.sum())]] += 1
    return whole


def _counts(numbers: list[int], shape: tuple[int, int]) -> NDArray[np.int64]:
    counts = np.array(numbers, dtype=object).reshape(shape)
    rows = set(counts.sum(axis=1))
    if (counts < 0).any() or len(rows) > 1 or not all(0 < count < 2**_COUNT_BITS for count in rows):
        raise EncodingError(_IMPOSSIBLE)
    return counts.astype(np.int64)
