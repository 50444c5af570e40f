"""Standardising raw features: the one step that depends on data, kept apart so that it can be made from sums.

    Scaler.from_sums(a + b, schema) == Scaler.from_sums(FeatureSums.of(rows of both), schema)    (up to rounding)

Counts, sums and sums of squares add up over clients, and a sum is what homomorphic encryption can make without anyone
seeing a summand.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data_sources.schema import Features, FeatureSchema
from shared.errors import DataError

# In standard deviations: a column that is nearly always 0 has a tiny deviation, and one odd record would otherwise
# outweigh all other features together.
MAX_SCALED = 10.0
# A smaller variance than this share of the mean square is rounding: the column is constant.
CONSTANT = 1e-9


@dataclass(frozen=True)
class FeatureSums:
    """What one client's rows add to a scaling.

    Attributes:
        count: rows.
        total: sum of each numeric column, float64, (numeric features,).
        squares: sum of the squares of each numeric column, float64, (numeric features,).
    """

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features, schema: FeatureSchema) -> "FeatureSums":
        """The sums of a raw feature matrix, (rows, features).

        Raises:
            DataError: the matrix has another width than the schema.
        """
        numeric = _numeric_part(features, schema)
        return cls(len(features), numeric.sum(axis=0), np.square(numeric).sum(axis=0))

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        """The sums of both parties' rows together."""
        if self.total.shape != other.total.shape:
            raise DataError(
                f"feature sums of {len(self.total)} and {len(other.total)} columns can't be added; "
                "compare the two feature schemas"
            )
        return FeatureSums(self.count + other.count, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True)
class Scaler:
    """Mean 0 and variance 1 for numeric columns; the others stay as they are.

    Attributes:
        schema: of the raw features.
        mean: of each numeric column, float64, (numeric features,).
        variance: of each numeric column, 1 where a column is constant, float64, (numeric features,).
    """

    schema: FeatureSchema
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    @classmethod
    def from_sums(cls, sums: FeatureSums, schema: FeatureSchema) -> "Scaler":
        """The scaler of the rows that were summed, by whoever.

        Raises:
            DataError: no rows, or sums that no rows have.
        """
        numeric = int(schema.numeric.sum())
        if sums.total.shape != (numeric,) or sums.squares.shape != (numeric,):
            raise DataError(f"feature sums of {len(sums.total)} columns, expected the {numeric} numeric ones")
        if sums.count < 1 or not (np.isfinite(sums.total).all() and np.isfinite(sums.squares).all()):
            raise DataError(f"feature sums over {sums.count} rows: expected finite sums over at least one row")
        mean = sums.total / sums.count
        mean_square = sums.squares / sums.count
        variance = mean_square - mean**2
        return cls(schema, mean, np.where(variance > CONSTANT * np.maximum(mean_square, 1e-12), variance, 1.0))

    def to_bytes(self) -> bytes:
        """Mean and variance as little-endian float64: all that a client with the same schema lacks."""
        return np.concatenate([self.mean, self.variance]).astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, schema: FeatureSchema) -> "Scaler":
        """The scaler that a server sent.

        Raises:
            DataError: not of this schema's length, or values that no rows have.
        """
        numeric = int(schema.numeric.sum())
        if len(data) != 16 * numeric:
            raise DataError(f"a scaler of {len(data)} bytes; expected {16 * numeric} for {numeric} numeric features")
        mean, variance = np.frombuffer(data, dtype="<f8").astype(np.float64).reshape(2, numeric)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()):
            raise DataError("a scaler whose means or variances are not finite, or a variance that is not above 0")
        return cls(schema, mean, variance)

    def transform(self, features: Features) -> Features:
        """A scaled copy of a raw feature matrix, float32, (rows, features), within ± `MAX_SCALED`.

        Raises:
            DataError: the matrix has another width than the schema.
        """
        scaled = (_numeric_part(features, self.schema) - self.mean) / np.sqrt(self.variance)
        result = features.astype(np.float32, copy=True)
        result[:, self.schema.numeric] = np.clip(scaled, -MAX_SCALED, MAX_SCALED)
        return result


def _numeric_part(features: Features, schema: FeatureSchema) -> NDArray[np.float64]:
    if features.ndim != 2 or features.shape[1] != len(schema):
        raise DataError(f"features of shape {features.shape}: expected (rows, {len(schema)}) by the feature schema")
    return np.asarray(features[:, schema.numeric], dtype=np.float64)
