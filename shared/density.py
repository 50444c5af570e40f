"""The density of benign rows: how far a record is from them, by their mean and covariance, which one sum gives.

Of scaled rows x, with mean m and covariance C over all tenants' benign rows together,

    distance(x) = (x - m)' (C + `RIDGE` I)^-1 (x - m)

is the squared Mahalanobis distance (Mahalanobis, 1936) with `RIDGE` added to each variance along C's eigenvectors:
without it the directions in which benign rows hardly vary would outweigh all others. Sums over tenants make all of it,
so it is the same however the rows are shared out:

    Density.of(sums_1 + sums_2) == Density.of(BenignSums.of(rows of both))
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.data_sources.scaling import SPREAD
from shared.data_sources.schema import Features
from shared.errors import DataError

RIDGE = 0.3  # of the variance of a column that has many values, which is 1
UNITS = 256  # a scaled value is rounded to a multiple of 1 / this, so that sums are whole numbers and exact
# Of what quantiles make, in these units; categories and cyclic columns are within ± 1.
LARGEST = round(SPREAD / 2 * UNITS)
MOST_ROWS = 1 << 30  # of one tenant: a sum of products is then below 2**48
# With few rows for each column the sums of products come near to having the rows as their one solution: d (d + 3) / 2
# numbers for d unknowns of each row. docs/privacy.md says what more rows show.
ROWS_FOR_EACH_COLUMN = 10
FEWEST_ROWS = 500


def fewest_rows(features: int) -> int:
    """Benign rows, of all tenants together, below which no density is made."""
    return max(FEWEST_ROWS, ROWS_FOR_EACH_COLUMN * features)


@dataclass(frozen=True, eq=False)
class BenignSums:
    """What one tenant's benign rows add to the density, or those of all together. All are whole numbers.

    Attributes:
        rows: how many.
        total: sum of each scaled column in units of 1 / `UNITS`, int64, (features,).
        products: sums of the products of columns i and j with i <= j, row by row of the upper triangle, in units of
            1 / `UNITS`**2, int64, (features * (features + 1) / 2,).
    """

    rows: int
    total: NDArray[np.int64]
    products: NDArray[np.int64]

    @classmethod
    def of(cls, scaled: Features) -> "BenignSums":
        """Of scaled rows that are all benign, (rows, features).

        Raises:
            DataError: a value is beyond what scaling by quantiles leaves, or there are too many rows.
        """
        whole = np.rint(scaled.astype(np.float64) * UNITS)  # (rows, features)
        if not (np.abs(whole) <= LARGEST).all() or len(scaled) > MOST_ROWS:  # NaN compares False, too
            raise DataError(
                f"{len(scaled):,} rows for a density: expected at most {MOST_ROWS:,}, with scaled values within "
                f"± {SPREAD / 2:g}; a column that is not scaled has to be a category (0 or 1) or cyclic (-1 to 1)"
            )
        # Products are below 2**18 and sums of them below 2**48: float64 adds them exactly, in any order.
        products = (whole.T @ whole)[np.triu_indices(whole.shape[1])]
        return cls(len(scaled), whole.sum(axis=0).astype(np.int64), products.astype(np.int64))

    def __add__(self, other: "BenignSums") -> "BenignSums":
        """Of both parties' rows together."""
        return BenignSums(self.rows + other.rows, self.total + other.total, self.products + other.products)

    def check(self) -> None:
        """Refuse sums that no rows have, and those of too few.

        Raises:
            DataError: they are.
        """
        features = len(self.total)
        if self.rows < (needed := fewest_rows(features)):
            raise DataError(
                f"{self.rows:,} benign rows of all clients together: a density of {features} features takes "
                f"{needed:,}, as sums over fewer show too much of single rows"
            )
        squares = self._square().diagonal()
        # Of n numbers: (sum of x)**2 <= n * (sum of x**2), by Cauchy and Schwarz; exactly, in Python's integers.
        possible = all(
            abs(total) <= self.rows * LARGEST and total**2 <= self.rows * square <= self.rows**2 * LARGEST**2
            for total, square in zip(self.total.tolist(), squares.tolist(), strict=True)
        )
        if not possible or np.linalg.eigvalsh(self.covariance())[0] < -1e-6:
            raise DataError("sums of products that no rows have; at least one client's can't be right")

    def mean(self) -> NDArray[np.float64]:
        """Of each column, (features,)."""
        return self.total / (UNITS * self.rows)

    def covariance(self) -> NDArray[np.float64]:
        """Of the columns, (features, features)."""
        mean = self.mean()
        covariance: NDArray[np.float64] = self._square() / (UNITS**2 * self.rows) - np.outer(mean, mean)
        return covariance

    def _square(self) -> NDArray[np.int64]:
        features = len(self.total)
        square = np.zeros((features, features), dtype=np.int64)
        square[np.triu_indices(features)] = self.products
        return np.asarray(square + np.triu(square, 1).T)


class Density(nn.Module):
    """Scaled features to logits, as any detector does it; the log odds of an attack are log(distance / `expected`).

    So its attack score, distance / (distance + expected), is 0.5 for a record as far out as a benign row is on average.

    Attributes:
        mean: of benign rows, float32, (features,).
        precision: inverse of their covariance with `RIDGE` on its diagonal, float32, (features, features).
        expected: mean distance of benign rows, float32, (1,); 0 before `fill`.
    """

    mean: Tensor
    precision: Tensor
    expected: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("precision", torch.zeros(features, features))
        self.register_buffer("expected", torch.zeros(1))

    @classmethod
    def of(cls, sums: BenignSums) -> "Density":
        """The density of the rows that were summed, by whoever."""
        density = cls(len(sums.total))
        density.fill(sums)
        return density

    def fill(self, sums: BenignSums) -> None:
        """Become the density of these rows."""
        covariance = sums.covariance()
        precision = np.linalg.inv(covariance + RIDGE * np.eye(len(covariance)))
        precision = (precision + precision.T) / 2
        self.mean.copy_(torch.from_numpy(sums.mean()))
        self.precision.copy_(torch.from_numpy(precision))
        self.expected.fill_(float((covariance * precision).sum()))

    def forward(self, features: Tensor) -> Tensor:
        """Scaled features, (B, F), to logits, (B, 2)."""
        log_odds = self.log_odds(features)
        return torch.stack([torch.zeros_like(log_odds), log_odds], dim=1)

    def log_odds(self, features: Tensor) -> Tensor:
        """Of an attack, (B,)."""
        least = torch.finfo(torch.float32).tiny  # of a record at the very mean, whose distance is 0
        return torch.log(self.parts(features).sum(dim=1).clamp(min=least) / self.expected.clamp(min=least))

    def parts(self, features: Tensor) -> Tensor:
        """What each feature adds to the distance, (B, F): its deviation times the weighed deviations of all.

        One may be negative: a value that another one makes likely.
        """
        deviation = features - self.mean  # (B, F)
        return deviation * (deviation @ self.precision)
