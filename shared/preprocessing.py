"""What lies between a raw feature matrix and the model, learned from all clients' rows and from nobody's alone.

Encrypted sums make its parts (`shared/feature_statistics.py`); a run keeps them for scoring new records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data_sources.dataset import Dataset
from shared.data_sources.scaling import GRID, AnyScaler, FeatureSums, Quantiles, Scaler, Scaling, grid_counts
from shared.data_sources.schema import Features, FeatureSchema
from shared.density import BenignSums
from shared.errors import DataError

# Of scaled features: in standard deviations for numeric columns, where quantiles have none beyond 1.73; a category's 0
# and 1 fall into bins of their own.
BIN_EDGES = (-2.0, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, 2.0)
BINS = len(BIN_EDGES) + 1
# A share of 0 would make the index infinite; a bin that one row in 10,000 falls into is as good as empty.
_SMALLEST_SHARE = 1e-4


@dataclass(frozen=True)
class FeatureHistogram:
    """How many rows have each feature in each bin.

    Attributes:
        counts: int64, (features, BINS); each row of it adds up to the same number of rows of data.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, scaled: Features) -> "FeatureHistogram":
        """The histogram of a scaled feature matrix, (rows, features)."""
        features = scaled.shape[1]
        bins = np.searchsorted(np.array(BIN_EDGES, dtype=np.float32), scaled, side="right")  # (rows, features)
        flat = (bins + BINS * np.arange(features)).ravel()
        return cls(np.bincount(flat, minlength=features * BINS).reshape(features, BINS).astype(np.int64))

    def __add__(self, other: "FeatureHistogram") -> "FeatureHistogram":
        """Of both parties' rows together."""
        if self.counts.shape != other.counts.shape:
            raise DataError(
                f"histograms of {len(self.counts)} and {len(other.counts)} features can't be added; "
                "compare the two feature schemas"
            )
        return FeatureHistogram(self.counts + other.counts)

    @property
    def rows(self) -> int:
        """Rows of data that were counted."""
        return int(self.counts[0].sum())

    def stability_index(self, new: "FeatureHistogram") -> NDArray[np.float64]:
        """The population stability index (PSI) of each feature between these rows and `new` ones, (features,).

        PSI = sum over bins of (q - p) ln(q / p), with p the share of these rows and q that of the new ones (Siddiqi,
        "Credit Risk Scorecards", 2006). By the rule of thumb there, below 0.1 nothing changed, above 0.25 much did.

        Raises:
            DataError: other features, or no rows on one side.
        """
        if self.counts.shape != new.counts.shape or not self.rows or not new.rows:
            raise DataError(f"can't compare a histogram of {self.rows} rows with one of {new.rows}: expected some each")
        p = np.maximum(self.counts / self.rows, _SMALLEST_SHARE)
        q = np.maximum(new.counts / new.rows, _SMALLEST_SHARE)
        return np.asarray(((q - p) * np.log(q / p)).sum(axis=1))


@dataclass(frozen=True, eq=False)
class FeatureCounts:
    """How many rows have each raw feature where: all that quantiles, and later drift, are made from.

    Attributes:
        grid: of the numeric columns by the bins of the public grid, int64, (numeric features, GRID).
        others: of the other columns, which no scaling changes, by `BIN_EDGES`, int64, (other features, BINS).
    """

    grid: NDArray[np.int64]
    others: NDArray[np.int64]

    @classmethod
    def of(cls, features: Features, schema: FeatureSchema) -> "FeatureCounts":
        """The counts of a raw feature matrix, (rows, features).

        Raises:
            DataError: the matrix has another width than the schema.
        """
        return cls(grid_counts(features, schema), FeatureHistogram.of(features[:, ~schema.numeric]).counts)

    def __add__(self, other: "FeatureCounts") -> "FeatureCounts":
        """Of both parties' rows together."""
        return FeatureCounts(self.grid + other.grid, self.others + other.others)


@dataclass(frozen=True)
class Preprocessing:
    """How raw features become the model's, and what those looked like in training.

    Attributes:
        scaler: with the schema of the raw features.
        histogram: of the scaled rows that all clients train on.
        benign: what the density of benign rows is made from; None where the settings ask for none, or no sum came.
    """

    scaler: AnyScaler
    histogram: FeatureHistogram
    benign: BenignSums | None = None

    def __post_init__(self) -> None:
        if len(self.histogram.counts) != len(self.schema):
            raise DataError(
                f"a histogram of {len(self.histogram.counts)} features for a schema of {len(self.schema)}; "
                "expected one row for each feature"
            )

    @property
    def schema(self) -> FeatureSchema:
        """Of the raw features."""
        return self.scaler.schema

    @classmethod
    def from_counts(cls, counts: FeatureCounts, schema: FeatureSchema) -> "Preprocessing":
        """Quantiles, and the histogram of the features scaled by them: all values of a bin of the grid become one.

        Raises:
            DataError: no rows, or counts that no rows have.
        """
        scaler = Quantiles.from_counts(counts.grid, schema)
        bins = np.searchsorted(np.array(BIN_EDGES, dtype=np.float32), scaler.values, side="right")  # (numeric, GRID)
        moved = np.zeros((len(counts.grid), BINS), dtype=np.int64)
        np.add.at(moved, (np.arange(len(bins))[:, None], bins), counts.grid)
        histogram = np.empty((len(schema), BINS), dtype=np.int64)
        histogram[schema.numeric], histogram[~schema.numeric] = moved, counts.others
        return cls(scaler, FeatureHistogram(histogram))

    @classmethod
    def pooled(cls, schema: FeatureSchema, parts: Sequence[Dataset], scaling: Scaling) -> "Preprocessing":
        """Made in the open from raw rows, by whoever holds all of them: the reference that encrypted sums must equal.

        Raises:
            DataError: no rows, or of another width than the schema.
        """
        features = np.concatenate([part.features for part in parts])
        if scaling == "quantile":
            return cls.from_counts(FeatureCounts.of(features, schema), schema)
        scaler = Scaler.from_sums(FeatureSums.of(features, schema), schema)
        return cls(scaler, FeatureHistogram.of(scaler.transform(features)))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What it holds beside the schema, by name: the histogram's `counts`, and what its kind of scaler is made of.

        That is `ranks`, uint16, (numeric features, GRID), or `mean` and `variance`, float64, (numeric features,). With
        a density also `benign_rows`, `benign_total` and `benign_products`, int64, as in `BenignSums`.
        """
        scaler = self.scaler
        learned: dict[str, NDArray[np.generic]] = (
            {"ranks": scaler.ranks}
            if isinstance(scaler, Quantiles)
            else {"mean": scaler.mean, "variance": scaler.variance}
        )
        learned |= {"counts": self.histogram.counts}
        if self.benign is not None:
            learned["benign_rows"] = np.array([self.benign.rows], dtype=np.int64)
            learned |= {"benign_total": self.benign.total, "benign_products": self.benign.products}
        return learned

    @classmethod
    def from_arrays(cls, schema: FeatureSchema, arrays: Mapping[str, NDArray[np.generic]]) -> "Preprocessing":
        """The inverse of `arrays`.

        Raises:
            DataError: an array is missing, or of another type, shape or range than rows of this schema could give.
        """
        numeric = int(schema.numeric.sum())
        quantiles = "ranks" in arrays
        expected: dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]] = (
            {"ranks": (np.dtype(np.uint16), (numeric, GRID))}
            if quantiles
            else {"mean": (np.dtype(np.float64), (numeric,)), "variance": (np.dtype(np.float64), (numeric,))}
        )
        width, whole = len(schema), np.dtype(np.int64)
        expected["counts"] = (whole, (width, BINS))
        if "benign_rows" in arrays:
            expected |= {"benign_rows": (whole, (1,)), "benign_total": (whole, (width,))}
            expected["benign_products"] = (whole, (width * (width + 1) // 2,))
        found = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        if found != expected:
            raise DataError(f"preprocessing of {found}; expected {expected} for {len(schema)} features")
        counts: NDArray[np.int64] = arrays["counts"].astype(np.int64)
        if (counts < 0).any():
            raise DataError("a histogram with a count below 0")
        benign = None
        if "benign_rows" in arrays:
            rows, total, products = (
                arrays[f"benign_{name}"].astype(np.int64) for name in ("rows", "total", "products")
            )
            benign = BenignSums(int(rows[0]), total, products)
            benign.check()
        if quantiles:
            scaling = Quantiles.of_ranks(arrays["ranks"].astype(np.uint16), schema)
            return cls(scaling, FeatureHistogram(counts), benign)
        scaler = np.concatenate([arrays["mean"], arrays["variance"]]).astype("<f8").tobytes()
        return cls(Scaler.from_bytes(scaler, schema), FeatureHistogram(counts))

    def apply(self, rows: Dataset) -> Dataset:
        """Raw rows as the model takes them.

        Raises:
            DataError: of another width than the schema.
        """
        return Dataset(self.scaler.transform(rows.features), rows.labels, rows.families)
