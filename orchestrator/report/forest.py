"""What a forest is made of: how many trees and splits, and which fields they split by."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.bundle import ModelBundle
from shared.config import FOREST, Config
from shared.errors import OrchestratorError

MOST_FIELDS = 12


@dataclass(frozen=True)
class FieldGain:
    """One field that trees split by.

    Attributes:
        name: of the feature; of a field that became several columns, the field.
        splits: by it.
        share: of all splits' gain, by which they lowered the loss of the training rows.
    """

    name: str
    splits: int
    share: float


@dataclass(frozen=True)
class Trees:
    """A forest as the report shows it.

    Attributes:
        grown: trees that have a split.
        wanted: trees that the settings ask for.
        splits: in all of them.
        fields: the ones with the largest gain, at most `MOST_FIELDS`, the largest first.
    """

    grown: int
    wanted: int
    splits: int
    fields: list[FieldGain]


def trees_of(folder: Path, config: Config) -> Trees | None:
    """Those of a run's folder; None where its model is no forest, or has no bundle yet."""
    if config.model != FOREST:
        return None
    try:
        bundle = ModelBundle.load(folder)
    except OrchestratorError:  # of a run that was interrupted: the report does without
        return None
    column, gain = bundle.parameters["column"], bundle.parameters["gain"]
    at = np.argwhere(column >= 0)
    splits: dict[str, int] = defaultdict(int)
    gains: dict[str, float] = defaultdict(float)
    for tree, node in at:
        of = bundle.schema.columns[int(column[tree, node])]
        name = of.field if of.kind == "category" else of.name
        splits[name] += 1
        gains[name] += float(gain[tree, node])
    whole = sum(gains.values()) or 1.0
    fields = [FieldGain(name, splits[name], gains[name] / whole) for name in sorted(gains, key=lambda n: -gains[n])]
    return Trees(len(set(at[:, 0].tolist())), len(column), len(at), fields[:MOST_FIELDS])
