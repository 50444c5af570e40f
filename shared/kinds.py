"""Which kind of attack an alert is like: a linear discriminant over the attacks of the orchestrator's validation rows.

A detector says attack or benign; rows that name families of attacks also say which family a record is nearest to. It is
fitted by the orchestrator on its own rows, so it needs nothing of a tenant. It knows the families that those rows have:
a new kind of attack is like one of them, or, where none is likely, like none.

Linear discriminant analysis with the covariance shrunk by Ledoit and Wolf's rule ("Honey, I Shrunk the Sample
Covariance Matrix", 2004): few rows of many features suffice, and nothing is left to chance.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from shared.data_sources.dataset import Dataset
from shared.data_sources.schema import Features
from shared.json_values import exact, numbers

FEWEST_OF_A_KIND = 10  # validation rows; with fewer a mean says nothing
LIKELY = 0.5  # below it an alert is like no kind
_MOST_ROWS = 20_000  # that it is fitted on
_MOST_KINDS = 200
_UNNAMED = ("benign", "attack")


@dataclass(frozen=True, eq=False)
class AttackKinds:
    """Scores of kinds are linear in scaled features: `features @ weights.T + biases`, log odds but for a constant.

    Attributes:
        names: of the families, (K,).
        weights: float64, (K, F).
        biases: float64, (K,).
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]
    biases: NDArray[np.float64]

    @classmethod
    def of(cls, validation: Dataset) -> "AttackKinds | None":
        """Fitted on the attacks among scaled rows; None where these name fewer than two kinds."""
        families = validation.families.astype(str)
        found, counts = np.unique(families[validation.labels > 0], return_counts=True)
        names = [
            str(n) for n, c in zip(found, counts, strict=True) if c >= FEWEST_OF_A_KIND and str(n) not in _UNNAMED
        ][:_MOST_KINDS]
        rows = np.flatnonzero((validation.labels > 0) & np.isin(families, names))[:_MOST_ROWS]
        if len(names) < 2 or len(np.unique(families[rows])) < len(names):
            return None
        fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        fitted.fit(validation.features[rows].astype(np.float64), np.searchsorted(names, families[rows]))
        weights, biases = fitted.coef_, fitted.intercept_
        if len(names) == 2:  # scikit-learn has one row for two classes: the second against the first
            weights, biases = np.vstack([0 * weights, weights]), np.concatenate([0 * biases, biases])
        return cls(tuple(names), weights, biases)

    def nearest(self, scaled: Features) -> list[tuple[str, float]]:
        """The likeliest kind of each scaled row, (rows, F), and its probability if it is one of these kinds."""
        scores = scaled.astype(np.float64) @ self.weights.T + self.biases  # (rows, K)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        likely = odds.argmax(axis=1)
        shares = odds.max(axis=1) / odds.sum(axis=1)
        return [(self.names[kind], float(share)) for kind, share in zip(likely, shares, strict=True)]

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"names": list(self.names), "weights": self.weights.tolist(), "biases": self.biases.tolist()}

    @classmethod
    def from_plain(cls, value: Any, features: int) -> "AttackKinds | None":
        """The inverse.

        Raises:
            ValueError: it is not what `to_plain` makes for so many features.
        """
        if value is None:
            return None
        value = exact(value, ("names", "weights", "biases"), "kinds")
        names = value["names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("kinds: expected a list of names")
        if not 2 <= len(set(names)) == len(names) <= _MOST_KINDS:
            raise ValueError(f"kinds: {len(names)} names, expected 2 to {_MOST_KINDS}, each once")
        weights = numbers(value["weights"], (len(names), features), "kinds weights")
        return cls(tuple(names), weights, numbers(value["biases"], (len(names),), "kinds biases"))
