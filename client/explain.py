"""Which features drove a score, as parts of the log odds of an attack.

Of a network by integrated gradients, from the average training record:

    contribution_j = (x_j - mean_j) * average over the straight path from mean to x of d logodds / d x_j

after Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, by the midpoint rule. Of a
forest by the paths that the record takes: from node to node the value changes, and that change is the part of the
column that was split by (Saabas, "Interpreting random forests", 2014).

Of a density by the parts of the distance, each in units of the expected distance of a benign row:

    contribution_j = (x_j - m_j) * sum over k of precision_jk * (x_k - m_k) / expected

Where model and density are one detector, each record is explained by the one that finds it more suspicious.

What it is: an account of the model, whose contributions add up to how much more the record's log odds are than those of
the average training record, or than the values of a forest's roots; those of a density add up to the distance. What it
is not: a cause, a rule, or what would have to change for the alert to go away; and of two features that always go
together, it may name either.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.data_sources.schema import Column, Features, FeatureSchema
from shared.density import Density
from shared.forest.model import ThreatForest
from shared.fusion import FusedDetector
from shared.preprocessing import BIN_EDGES, Preprocessing

MODEL, DENSITY = "model", "density"  # what a score may come from
STEPS = 16
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Driver:
    """One field of a record and its part in the score.

    Attributes:
        name: of the feature; of a field that became several columns, the field.
        value: as a person knows it: counts and amounts as such, not their logarithms; None for a field of names whose
            value is in none of its columns.
        contribution: to the log odds of attack, in nats, or to the distance of a density; negative where it speaks for
            a benign record.
    """

    name: str
    value: float | str | None
    contribution: float


class Explainer:
    """Explains scores of one model."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        self._model, self._preprocessing = model, preprocessing
        self._schema = preprocessing.schema
        self._baseline = torch.from_numpy(average_record(preprocessing))  # (F,)
        self._fields, self._field_of = _fields(self._schema)
        self._columns = [np.flatnonzero(self._field_of == field).tolist() for field in range(len(self._fields))]
        self._adds_to = np.equal.outer(self._field_of, np.arange(len(self._fields))).astype(np.float64)  # (F, fields)

    def contributions(self, scaled: Features) -> NDArray[np.float64]:
        """Of each feature of scaled records, (rows, features)."""
        if isinstance(self._model, FusedDetector):
            by_model = Explainer(self._model.model, self._preprocessing).contributions(scaled)
            far = np.array(self.detectors(scaled)) == DENSITY  # (rows,)
            return np.where(far[:, None], _parts(self._model.density, scaled), by_model)
        if isinstance(self._model, Density):
            return _parts(self._model, scaled)
        batch = self._paths if isinstance(self._model, ThreatForest) else self._gradients
        parts = [batch(scaled[start : start + _BATCH_ROWS]) for start in range(0, len(scaled), _BATCH_ROWS)]
        return np.concatenate(parts)

    def detectors(self, scaled: Features) -> list[str]:
        """Of each scaled record, (rows, features), whose score it has: `MODEL` or `DENSITY`."""
        if not isinstance(self._model, FusedDetector):
            return [DENSITY if isinstance(self._model, Density) else MODEL] * len(scaled)
        with torch.no_grad():
            tails = self._model.tail_scores(torch.from_numpy(scaled))  # (rows, 2)
        return [(MODEL, DENSITY)[which] for which in tails.argmax(dim=1).tolist()]

    def _paths(self, scaled: Features) -> NDArray[np.float64]:
        forest = self._model
        assert isinstance(forest, ThreatForest)  # noqa: S101 - `contributions` asks before
        features, parts = torch.from_numpy(scaled), torch.zeros(scaled.shape, dtype=torch.float64)
        node = forest.nodes(features, 0)  # (B, trees)
        for _ in range(forest.depth):
            after = forest.next_nodes(features, node)
            # A leaf has no column; its change is 0, whichever it is noted for.
            parts.scatter_add_(1, forest.columns_at(node), (forest.values_at(after) - forest.values_at(node)).double())
            node = after
        return parts.numpy()

    def _gradients(self, scaled: Features) -> NDArray[np.float64]:
        difference = torch.from_numpy(scaled) - self._baseline  # (B, F)
        along = (torch.arange(STEPS) + 0.5) / STEPS  # midpoints, (S,)
        points = self._baseline + along[:, None, None] * difference  # (S, B, F)
        points = points.flatten(0, 1).requires_grad_()  # (S * B, F)
        # Records don't touch each other, so the gradient of the sum is each one's own.
        (gradient,) = torch.autograd.grad(log_odds(self._model(points)).sum(), points)
        return (difference * gradient.reshape(STEPS, *difference.shape).mean(dim=0)).double().numpy()

    def drivers(self, scaled: Features, raw: Features, most: int) -> list[list[Driver]]:
        """Of each record the fields with the largest contributions, of either sign, largest first.

        Args:
            scaled: as the model takes them, (rows, features).
            raw: the same records before scaling, (rows, features).
            most: how many fields of a record.
        """
        by_field = self.contributions(scaled) @ self._adds_to  # (rows, fields)
        order = np.argsort(-np.abs(by_field), axis=1, kind="stable")[:, :most]  # (rows, most)
        return [
            [
                Driver(self._fields[field], self._value(row, int(field)), round(float(own[field]), 4))
                for field in largest
                if own[field]
            ]
            for row, own, largest in zip(raw, by_field, order, strict=True)
        ]

    def _value(self, raw: NDArray[np.float32], field: int) -> float | str | None:
        columns = self._columns[field]
        first = self._schema.columns[columns[0]]
        if first.kind != "category" or first.name == first.field:
            return natural(first, float(raw[columns[0]]))
        present = [self._schema.columns[column].value for column in columns if raw[column]]
        return present[0] if present else None


def _parts(density: Density, scaled: Features) -> NDArray[np.float64]:
    with torch.no_grad():
        return np.asarray((density.parts(torch.from_numpy(scaled)) / density.expected).double().numpy())


def log_odds(logits: Tensor) -> Tensor:
    """log(P(attack) / P(benign)) of logits, (B, classes) -> (B,); class 0 is benign."""
    return torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]


def average_record(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The mean of the scaled training rows, float32, (features,), by the histogram.

    Exact for numeric columns, whose mean is 0 by either scaling, and for categories, which are 0 or 1; for cyclic ones
    0, the middle of the circle.
    """
    kinds = np.array([column.kind for column in preprocessing.schema.columns])
    counts = preprocessing.histogram.counts
    first = int(np.searchsorted(BIN_EDGES, 0.5, side="right"))
    shares = counts[:, first:].sum(axis=1) / max(preprocessing.histogram.rows, 1)
    return np.where(kinds == "category", shares, 0.0).astype(np.float32)


def _fields(schema: FeatureSchema) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the fields, and which one each column belongs to, (features,): a category's columns go together."""
    names: dict[str, int] = {}
    of_column = [
        names.setdefault(column.field if column.kind == "category" else column.name, len(names))
        for column in schema.columns
    ]
    return list(names), np.array(of_column)


def natural(column: Column, value: float) -> float:
    """The inverse of the logarithm that the source took, if it took one."""
    if column.log:
        value = float(np.sign(value) * np.expm1(abs(value)))
    return float(f"{value:.5g}")
