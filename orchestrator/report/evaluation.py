"""What a report shows of one model: curves, and the alerts at a threshold that the test set had no part in.

The threshold comes from validation rows, everything else from test rows. A record is an alert if its attack score,
1 - P(benign), is above the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_curve, precision_recall_fscore_support, roc_curve
from torch import nn

from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.density import BenignSums, Density
from shared.errors import AlertRateError
from shared.fusion import Fusion
from shared.metrics import (
    Metrics,
    attack_scores,
    attack_thresholds,
    predict_probabilities,
    rows_for_rate,
    score,
    threshold_at,
    too_few_rows,
)
from shared.threshold import choose_threshold

CURVE_POINTS = 500  # more than a chart has pixels
MIDDLE = 0.5  # where the validation rows give no threshold: as likely an attack as not
MOST_CONFUSED = 100  # classes of a confusion matrix: 10,000 numbers, most of them 0


@dataclass(frozen=True)
class AtRate:
    """A threshold for a false-positive rate on validation rows, and what it does on the test set.

    Attributes:
        threshold: of the attack score.
        recall: share of the test set's attacks above it.
        fpr: share of the test set's benign rows that really are above it.
    """

    threshold: float
    recall: float
    fpr: float


@dataclass(frozen=True)
class Family:
    """One attack family of the test set: its rows, and the share of them that is an alert."""

    rows: int
    recall: float


@dataclass(frozen=True)
class ClassFigures:
    """One class of the test set, each row taken for its most probable class.

    Attributes:
        name: the attack family of its rows, if they have one; "benign" or "attack" for two classes.
        support: its rows.
        precision: share of the rows taken for it that are of it; None if none is.
        recall: share of its rows that are taken for it; None if it has none.
        f1: harmonic mean of the two; None if it has no rows, and none is taken for it.
    """

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class DensityFigures:
    """What the density of benign rows is worth beside the model.

    Attributes:
        open: whether alerts go by it, too; every other figure of the evaluation is then of both as one detector.
        gate: why, in words.
        density_roc_auc, model_roc_auc: on the test set, each alone; None where the rows are too few.
        density_at, model_at: at the thresholds of each alone for `FALSE_POSITIVE_RATES`, as `Evaluation.at_rates`.
    """

    open: bool
    gate: str
    density_roc_auc: float | None
    model_roc_auc: float | None
    density_at: dict[str, AtRate]
    model_at: dict[str, AtRate]


@dataclass(frozen=True)
class Evaluation:
    """One model on the test set; `evaluation.json` holds it for the model that a run leaves.

    Attributes:
        threshold: of an alert; `MIDDLE` where the validation rows give none.
        threshold_rule: how it was chosen, in words.
        validation_rows, validation_benign, test_rows: sizes.
        loss, accuracy, roc_auc, pr_auc: as in `shared/metrics.py`.
        true_negatives, false_positives, false_negatives, true_positives: alerts on the test set.
        roc_fpr, roc_tpr: the ROC curve, at most `CURVE_POINTS` points; empty where the rows are too few.
        pr_recall, pr_precision: the precision-recall curve, likewise.
        families: recall of each attack family at the threshold.
        at_rates: by false-positive rate, such as "0.01".
        classes: by number, beginning with benign.
        confusion: rows of the test set by their class, and in it by the class that they are taken for,
            [num_classes][num_classes]; empty for more than `MOST_CONFUSED` classes.
        density: of benign rows, where the run has one beside its model.
    """

    threshold: float
    threshold_rule: str
    validation_rows: int
    validation_benign: int
    test_rows: int
    loss: float
    accuracy: float
    roc_auc: float | None
    pr_auc: float | None
    true_negatives: int
    false_positives: int
    false_negatives: int
    true_positives: int
    roc_fpr: list[float]
    roc_tpr: list[float]
    pr_recall: list[float]
    pr_precision: list[float]
    families: dict[str, Family]
    at_rates: dict[str, AtRate]
    classes: list[ClassFigures]
    confusion: list[list[int]]
    density: DensityFigures | None = None

    @property
    def attacks(self) -> int:
        """Attacks in the test set."""
        return self.true_positives + self.false_negatives

    @property
    def benign(self) -> int:
        """Benign rows in the test set."""
        return self.true_negatives + self.false_positives

    @property
    def too_few(self) -> str:
        """Why the test set gives no areas and no shares worth showing; empty where it does."""
        return too_few_rows(self.attacks, self.benign)

    @property
    def recall(self) -> float | None:
        """Share of the attacks that is an alert."""
        return self.true_positives / self.attacks if self.attacks else None

    @property
    def fpr(self) -> float | None:
        """Share of the benign rows that is an alert."""
        return self.false_positives / self.benign if self.benign else None

    @property
    def precision(self) -> float | None:
        """Share of the alerts that is an attack."""
        alerts = self.true_positives + self.false_positives
        return self.true_positives / alerts if alerts else None


def evaluate_final(
    config: Config, model: nn.Module, validation: Dataset, test: Dataset, benign: BenignSums | None = None
) -> Evaluation:
    """Judge a model on scaled rows, at the threshold that its bundle has; with the density where its gate is open.

    Args:
        config: says how many benign rows may be alerts.
        model: any that `shared/model.py` builds.
        validation: rows that thresholds may be chosen by.
        test: rows that decide nothing.
        benign: what the density beside the model is made from; None where there is none.
    """
    if benign is not None and not config.density_alone:
        density = Density.of(benign)
        fusion = Fusion.of(model, density, validation, config.alert_rate)
        both = evaluate_final(config, fusion.detector(model, density), validation, test)
        return replace(both, density=_density_figures(fusion, model, density, validation, test))
    scores = attack_scores(predict_probabilities(model, validation.features))[validation.labels == 0]
    thresholds = attack_thresholds(scores)
    chosen = choose_threshold(config, model, validation)
    share = f"{100 * chosen.target_rate:g} %"
    try:
        threshold = chosen.required()
        rule = f"at most {share} of the {chosen.benign_rows:,} benign validation rows score above it"
        if threshold == config.alert_min_score:
            rule = f"the least score of an alert (alert_min_score); {rule}"
    except AlertRateError:
        threshold = threshold_at(scores, config.alert_rate) if config.labels == "none" else MIDDLE
        rule = (
            f"the score that {share} of the validation rows exceed, for these figures alone: without labels no row is "
            "known to be benign; so records are ranked, and none alerts"
            if config.labels == "none"
            else f"the middle of the scale, for these figures alone: {share} false alarms take "
            f"{rows_for_rate(chosen.target_rate):,} benign validation rows, and there are {chosen.benign_rows:,}; so "
            "records are ranked, and none alerts"
        )
    probabilities = predict_probabilities(model, test.features)
    metrics = score(probabilities, test, thresholds)
    attack_score, is_attack = attack_scores(probabilities), test.labels != 0
    alert = attack_score > threshold
    roc_fpr, roc_tpr, pr_recall, pr_precision = _curves(is_attack, attack_score)
    return Evaluation(
        threshold=threshold,
        threshold_rule=rule,
        validation_rows=len(validation),
        validation_benign=chosen.benign_rows,
        test_rows=len(test),
        loss=metrics.loss,
        accuracy=metrics.accuracy,
        roc_auc=metrics.roc_auc,
        pr_auc=metrics.pr_auc,
        true_negatives=int((~alert & ~is_attack).sum()),
        false_positives=int((alert & ~is_attack).sum()),
        false_negatives=int((~alert & is_attack).sum()),
        true_positives=int((alert & is_attack).sum()),
        roc_fpr=roc_fpr,
        roc_tpr=roc_tpr,
        pr_recall=pr_recall,
        pr_precision=pr_precision,
        families={
            str(family): Family(int((test.families == family).sum()), float(alert[test.families == family].mean()))
            for family in np.unique(test.families[is_attack])
        },
        at_rates=_at_rates(thresholds, metrics),
        classes=_classes(test, probabilities),
        confusion=_confusion(test, probabilities),
    )


def _density_figures(
    fusion: Fusion, model: nn.Module, density: Density, validation: Dataset, test: Dataset
) -> DensityFigures:
    areas: list[float | None] = []
    at: list[dict[str, AtRate]] = []
    for part in (density, model):
        known, new = (predict_probabilities(part, rows.features) for rows in (validation, test))
        thresholds = attack_thresholds(attack_scores(known)[validation.labels == 0])
        metrics = score(new, test, thresholds)
        areas.append(metrics.roc_auc)
        at.append(_at_rates(thresholds, metrics))
    return DensityFigures(fusion.gate.open, fusion.gate.in_words(), areas[0], areas[1], at[0], at[1])


def _at_rates(thresholds: Mapping[str, float], metrics: Metrics) -> dict[str, AtRate]:
    return {
        rate: AtRate(thresholds[rate], metrics.recall_at_fpr[rate], metrics.fpr_at_threshold[rate])
        for rate in metrics.recall_at_fpr
    }


def _classes(test: Dataset, probabilities: NDArray[np.float64]) -> list[ClassFigures]:
    numbers = np.arange(probabilities.shape[1])
    figures = precision_recall_fscore_support(
        test.labels, probabilities.argmax(axis=1), labels=numbers, zero_division=np.nan
    )
    return [
        ClassFigures(_class_name(test, number, len(numbers)), int(support), *map(_known, (precision, recall, f1)))
        for number, precision, recall, f1, support in zip(numbers, *figures, strict=True)
    ]


def _confusion(test: Dataset, probabilities: NDArray[np.float64]) -> list[list[int]]:
    number = probabilities.shape[1]
    if number > MOST_CONFUSED:
        return []
    counts: list[list[int]] = confusion_matrix(
        test.labels, probabilities.argmax(axis=1), labels=np.arange(number)
    ).tolist()
    return counts


def _class_name(test: Dataset, number: int, classes: int) -> str:
    if number == 0 or classes == 2:
        return "attack" if number else "benign"
    families = np.unique(test.families[test.labels == number])
    return str(families[0]) if len(families) == 1 else f"class {number}"


def _known(figure: float) -> float | None:
    return None if np.isnan(figure) else float(figure)


def _curves(is_attack: NDArray[np.bool_], attack_score: NDArray[np.float64]) -> tuple[list[float], ...]:
    """ROC as (false-positive rate, recall), then precision-recall as (recall, precision)."""
    if too_few_rows(int(is_attack.sum()), int((~is_attack).sum())):
        return [], [], [], []
    fpr, tpr, _ = roc_curve(is_attack, attack_score)
    precision, recall, _ = precision_recall_curve(is_attack, attack_score)
    return (*_thin(fpr, tpr), *_thin(recall[::-1], precision[::-1]))


def _thin(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """At most `CURVE_POINTS` of a curve's points, its ends included, evenly spaced along its length.

    By index, a steep part with few points would lose its corners.
    """
    if len(x) <= CURVE_POINTS:
        return x.tolist(), y.tolist()
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    keep = np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], CURVE_POINTS - 1)))
    keep = np.unique(np.append(keep, len(x) - 1))
    return x[keep].tolist(), y[keep].tolist()
