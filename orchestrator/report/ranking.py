"""What detectors are worth whatever their thresholds: attacks caught at a share of the test set's own benign rows.

A threshold from validation rows gives each detector another rate of false alarms on the test set. To compare what they
rank highest, each is cut where so many of the test set's benign rows are above; nobody could set such a threshold in
advance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from orchestrator.report.evaluation import Evaluation
from shared.data_sources.dataset import Dataset
from shared.metrics import attack_scores, predict_probabilities, too_few_rows

RATES = (0.01, 0.05)
STRICT, LOOSE = (f"{rate:g}" for rate in RATES)
_LEVEL = 0.01  # of a recall: less apart is called level


@dataclass(frozen=True)
class Caught:
    """Some of the test set's attacks.

    Attributes:
        rows: how many.
        shares: of them above the cut, by the share of benign rows above it, such as "0.01".
    """

    rows: int
    shares: dict[str, float]


@dataclass(frozen=True)
class Ranking:
    """One detector on the test set.

    Attributes:
        attacks: all of them.
        unseen: those of kinds that no client trained on; None where there are none.
        families: by attack family.
    """

    attacks: Caught
    unseen: Caught | None
    families: dict[str, Caught]


def rank(detector: nn.Module, test: Dataset, unseen: NDArray[np.bool_]) -> Ranking | None:
    """Of a detector on scaled test rows; None where they are too few.

    Args:
        detector: any.
        test: the rows.
        unseen: which rows are attacks of kinds that no client trained on, (rows,).
    """
    attack = test.labels != 0
    if too_few_rows(int(attack.sum()), int((~attack).sum())):
        return None
    scores = attack_scores(predict_probabilities(detector, test.features))
    above = {f"{rate:g}": scores > np.quantile(scores[~attack], 1 - rate) for rate in RATES}

    def caught(rows: NDArray[np.bool_]) -> Caught:
        return Caught(int(rows.sum()), {rate: float(called[rows].mean()) for rate, called in above.items()})

    families = {str(name): caught(test.families == name) for name in np.unique(test.families[attack])}
    return Ranking(caught(attack), caught(unseen) if unseen.any() else None, families)


def real_rate(evaluation: Evaluation) -> float | None:
    """Share of the test set's benign rows above the threshold that was made for 1 %; None where none was."""
    at = evaluation.at_rates.get(STRICT)
    return at.fpr if at else None


def advice(ours: Mapping[str, tuple[Evaluation, Ranking]], references: Mapping[str, Ranking]) -> str:
    """Which detector a person should use, in words; empty where there is nothing to choose from.

    Args:
        ours: detectors that a federation can have, by name.
        references: those that need all rows in one place.
    """
    if len(ours) < 2:
        return ""

    def strict(name: str) -> float:
        return ours[name][1].attacks.shares[STRICT]

    best = max(ours, key=strict)
    level = [name for name in ours if name != best and strict(best) - strict(name) < _LEVEL]
    text = f"Of what a federation can have, {best} ranks attacks best here: where 1 % of benign records are above, it "
    text += f"finds {100 * strict(best):.1f} % of them"
    text += f", level with {' and '.join(level)}. " if level else ". "
    rates = {name: rate for name, (evaluation, _) in ours.items() if (rate := real_rate(evaluation)) is not None}
    if rates:
        calm = min(rates, key=lambda name: rates[name])
        text += f"The fewest false alarms at a threshold made for 1 % has {calm}, {100 * rates[calm]:.1f} %" + (
            f" (against {100 * rates[best]:.1f} %). " if calm != best and best in rates else ". "
        )
    unseen = {name: found.unseen.shares[STRICT] for name, (_, found) in ours.items() if found.unseen}
    if unseen:
        new = max(unseen, key=lambda name: unseen[name])
        text += f"Kinds of attacks that nobody trained on are found best by {new}, {100 * unseen[new]:.1f} %. "
    if references:
        name = max(references, key=lambda name: references[name].attacks.shares[STRICT])
        text += f"With all rows in one place {name} would find {100 * references[name].attacks.shares[STRICT]:.1f} %. "
    return text + (
        f"So use {best}; this was judged by the test set itself, so confirm it on records of your own before you rely "
        "on it."
    )
