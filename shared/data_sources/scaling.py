"""Scaling raw features: the one step that depends on data, kept apart so that it can be made from sums.

    Quantiles.from_counts(a + b, schema) == Quantiles.from_counts(grid_counts(rows of both, schema), schema)
    Scaler.from_sums(a + b, schema) == Scaler.from_sums(FeatureSums.of(rows of both), schema)    (up to rounding)

Counts, sums and sums of squares add up over clients, and a sum is what homomorphic encryption can make without anyone
seeing a summand.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

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


# What a number is counted by: 0, and 4 points a decade from 0.01 to 10**9.75, on either side of it. The grid is for
# every column and known to all, so that one sum makes the distribution and nobody says where their own values lie.
# Every column has counts below 0, too: whether one can be negative is in the rows alone, and no tenant should tell.
POINTS: NDArray[np.float64] = 10.0 ** (np.arange(48) / 4 - 2)
GRID = 2 * len(POINTS) + 3  # counts of a column: below and above 0 one more than points each, and 0 itself
# The least number that is not 0: float32 below it may or may not be taken for 0, by the machine.
_ABOVE_ZERO = np.finfo(np.float32).tiny
SPREAD = 3.46  # 2 * sqrt(3): a uniform distribution of this width has variance 1
# The highest rank, in 16 bits and even: the middle of a column that is constant is 0 to the last bit.
_RANKS = 2**16 - 2


def grid_edges(schema: FeatureSchema) -> NDArray[np.float32]:
    """Of each numeric column the raw features from which a next bin begins, ascending, (numeric features, GRID - 1)."""
    natural = np.concatenate([-POINTS[::-1], [0.0, _ABOVE_ZERO], POINTS])
    compressed = np.copysign(np.log1p(np.abs(natural)), natural)
    compressed[len(POINTS) + 1] = _ABOVE_ZERO
    logs = np.array([column.log for column in schema.columns])[schema.numeric]
    return np.where(logs[:, None], compressed, natural).astype(np.float32)


def grid_bins(features: Features, schema: FeatureSchema) -> NDArray[np.int64]:
    """The bin of each number of a raw feature matrix, 0 to GRID - 1, (rows, numeric features).

    Raises:
        DataError: the matrix has another width than the schema.
    """
    numeric = _numeric_part(features, schema).astype(np.float32)
    edges = grid_edges(schema)
    bins = np.empty(numeric.shape, dtype=np.int64)
    for column, its in enumerate(edges):
        bins[:, column] = np.searchsorted(its, numeric[:, column], side="right")
    return bins


def grid_counts(features: Features, schema: FeatureSchema) -> NDArray[np.int64]:
    """How many rows have each number in each bin of the grid, (numeric features, GRID).

    Raises:
        DataError: the matrix has another width than the schema.
    """
    bins = grid_bins(features, schema)
    numeric = bins.shape[1]
    flat = (bins + GRID * np.arange(numeric)).ravel()
    return np.bincount(flat, minlength=numeric * GRID).reshape(numeric, GRID).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Quantiles:
    """A numeric column as its rank among all rows, uniform with variance 1 on them; the others stay as they are.

    A value becomes (u - 0.5) * `SPREAD`, with u the middle rank of its bin: the share of rows in bins below, and half
    of that in its own. So heavy tails and a column that is nearly always 0 need no care, and what no training row had
    lies between its neighbours. All values of a bin become one: four to a decade.

    Attributes:
        schema: of the raw features.
        ranks: u of each bin in units of 1 / 65,534, uint16, (numeric features, GRID).
    """

    schema: FeatureSchema
    ranks: NDArray[np.uint16]

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64], schema: FeatureSchema) -> "Quantiles":
        """The scaler of the rows that were counted, by whoever.

        Raises:
            DataError: no rows, or counts that no rows have.
        """
        numeric = int(schema.numeric.sum())
        if counts.shape != (numeric, GRID) or (counts < 0).any():
            raise DataError(f"counts of shape {counts.shape}: expected ({numeric}, {GRID}), none below 0")
        rows = counts.sum(axis=1)
        if numeric and (rows[0] < 1 or (rows != rows[0]).any()):
            raise DataError(f"counts over {sorted(set(rows.tolist()))[:3]} rows: expected as many for every column")
        middle = (np.cumsum(counts, axis=1) - counts / 2) / np.maximum(rows, 1)[:, None]
        return cls(schema, np.rint(middle * _RANKS).astype(np.uint16))

    def to_bytes(self) -> bytes:
        """The ranks as little-endian uint16: all that a client with the same schema lacks."""
        return self.ranks.astype("<u2").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, schema: FeatureSchema) -> "Quantiles":
        """The scaler that a server sent.

        Raises:
            DataError: not of this schema's length, or ranks that fall.
        """
        numeric = int(schema.numeric.sum())
        if len(data) != 2 * numeric * GRID:
            raise DataError(
                f"a scaler of {len(data)} bytes; expected {2 * numeric * GRID} for quantiles of {numeric} features"
            )
        return cls.of_ranks(np.frombuffer(data, dtype="<u2").astype(np.uint16).reshape(numeric, GRID), schema)

    @classmethod
    def of_ranks(cls, ranks: NDArray[np.uint16], schema: FeatureSchema) -> "Quantiles":
        """From ranks that somebody else made.

        Raises:
            DataError: a rank is lower than the one before it, or above the highest.
        """
        if (np.diff(ranks.astype(np.int64), axis=1) < 0).any() or (ranks > _RANKS).any():
            raise DataError(f"a scaler whose ranks fall, or end above {_RANKS}")
        return cls(schema, ranks)

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """What a number of each bin becomes, (numeric features, GRID)."""
        return ((self.ranks / _RANKS - 0.5) * SPREAD).astype(np.float32)

    def transform(self, features: Features) -> Features:
        """A scaled copy of a raw feature matrix, float32, (rows, features), numbers within ± `SPREAD` / 2.

        Raises:
            DataError: the matrix has another width than the schema.
        """
        bins = grid_bins(features, self.schema)
        result = features.astype(np.float32, copy=True)
        result[:, self.schema.numeric] = self.values[np.arange(bins.shape[1]), bins]
        return result


Scaling = Literal["quantile", "zscore"]
AnyScaler = Scaler | Quantiles


def read_scaler(scaling: Scaling, data: bytes, schema: FeatureSchema) -> AnyScaler:
    """The scaler that a server sent, of the kind that the settings name.

    Raises:
        DataError: it is none, or of another kind.
    """
    return (Quantiles if scaling == "quantile" else Scaler).from_bytes(data, schema)
