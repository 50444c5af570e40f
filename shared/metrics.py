"""How good a detector is, by scikit-learn's definitions. Class 0 is benign; every other class is an attack."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    log_loss,
    recall_score,
    roc_auc_score,
)
from torch import nn

from shared.data_sources.dataset import Dataset
from shared.errors import OrchestratorError

FALSE_POSITIVE_RATES = (0.001, 0.01)  # of every thousand and hundred benign rows, one alarm: what a person can look at
# Of each kind in a test set: below it one row moves a recall by more than a point, and 95 % bounds are 10 points wide.
FEWEST_TEST_ROWS = 100
_BATCH_ROWS = 65_536  # bounds the memory of a forward pass over a large test set


@dataclass(frozen=True)
class Metrics:
    """Of one model on one set of rows. `None` where the rows don't determine it (one class only).

    Attributes:
        loss: mean cross-entropy, in nats.
        accuracy: share of rows whose most probable class is the true one.
        attack_rows, benign_rows: how many of either there are.
        roc_auc: area under the ROC curve of the attack score, 1 - P(benign); None with fewer than `FEWEST_TEST_ROWS`
            attacks or benign rows, as is `pr_auc`.
        pr_auc: average precision of the attack score.
        fpr: share of benign rows that are called an attack (the most probable class isn't 0).
        family_recall: share of each attack family's rows that are called an attack.
        recall_at_fpr: share of attacks whose score is above the threshold for a false-positive rate, by that rate; the
            thresholds come from other rows, see `attack_thresholds`.
        class_recall: share of each class's rows whose most probable class is that one, by the class's number; of the
            classes that have rows.
        fpr_at_threshold: the false-positive rate that the same threshold really has on these rows. Where it is far
            from what it was made for, benign traffic has changed since, and the recall was bought with false alarms.
    """

    loss: float
    accuracy: float
    attack_rows: int
    benign_rows: int
    roc_auc: float | None
    pr_auc: float | None
    fpr: float | None
    family_recall: dict[str, float] = field(default_factory=dict)
    recall_at_fpr: dict[str, float] = field(default_factory=dict)
    fpr_at_threshold: dict[str, float] = field(default_factory=dict)
    class_recall: dict[str, float] = field(default_factory=dict)


def too_few_rows(attacks: int, benign: int) -> str:
    """Why rows like these give no areas and no shares worth showing, for a person; empty where they are enough."""
    if min(attacks, benign) >= FEWEST_TEST_ROWS:
        return ""
    return (
        f"the test set is too small (attacks: {attacks:,}, benign records: {benign:,}): areas and percentages take at "
        f"least {FEWEST_TEST_ROWS} of each"
    )


def predict_probabilities(model: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Class probabilities, (rows, num_classes), that sum to 1 in float64.

    Raises:
        OrchestratorError: the model gives NaN for a row, which no figure and no alert could be made of.
    """
    model.eval()
    with torch.no_grad():
        batches = [
            torch.softmax(model(torch.from_numpy(features[start : start + _BATCH_ROWS])).double(), dim=1).numpy()
            for start in range(0, len(features), _BATCH_ROWS)
        ]
    probabilities = np.concatenate(batches)
    if unusable := int(np.isnan(probabilities).any(axis=1).sum()):
        raise OrchestratorError(
            f"the model gives NaN for {unusable} of {len(features)} rows; expected a number for each class: lower "
            "learning_rate or he_integer_bits if training diverged, and in a model of your own look for a division, a "
            "logarithm or a root"
        )
    return probabilities


def attack_scores(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - P(benign) of class probabilities, (rows, num_classes) -> (rows,)."""
    return np.asarray(1.0 - probabilities[:, 0])


def threshold_at(benign_scores: NDArray[np.float64], rate: float) -> float:
    """The lowest of these attack scores, (benign rows,), that at most the share `rate` of them exceeds."""
    # "higher": an observed score, so that no more than the share lies strictly above it.
    return float(np.quantile(benign_scores, 1 - rate, method="higher"))


def rows_for_rate(rate: float) -> int:
    """Benign rows below which a threshold means no such rate of false alerts: 3 / rate, 300 for 1 %.

    "Rule of three" (Hanley, Lippman-Hand, JAMA 1983): none of n rows above it still allows a rate of 3 / n, with 95 %
    confidence.
    """
    return math.ceil(3 / rate - 1e-9)


def attack_thresholds(benign_scores: NDArray[np.float64]) -> dict[str, float]:
    """For each of `FALSE_POSITIVE_RATES` the lowest attack score that at most that share of benign rows exceeds.

    Args:
        benign_scores: of rows other than those the thresholds are then judged by, (benign rows,). A threshold fitted to
            the test set's own benign rows would promise a false-positive rate that no operator can set in advance.

    Returns:
        Threshold by rate, such as "0.01"; without the rates that so few rows can't mean.
    """
    meant = (rate for rate in FALSE_POSITIVE_RATES if len(benign_scores) >= rows_for_rate(rate))
    return {f"{rate:g}": threshold_at(benign_scores, rate) for rate in meant}


def evaluate(model: nn.Module, rows: Dataset, thresholds: Mapping[str, float] | None = None) -> Metrics:
    """Score the model on labelled rows (at least one); see `score`."""
    return score(predict_probabilities(model, rows.features), rows, thresholds)


def score(probabilities: NDArray[np.float64], rows: Dataset, thresholds: Mapping[str, float] | None = None) -> Metrics:
    """Judge class probabilities, (rows, num_classes), by the rows' true labels.

    Args:
        probabilities: of any model.
        rows: what they are about, at least one row.
        thresholds: from `attack_thresholds` on other rows; None leaves `recall_at_fpr` and `fpr_at_threshold` empty.
    """
    predicted = probabilities.argmax(axis=1)
    is_attack, called_attack = rows.labels != 0, predicted != 0
    both = bool(0 < is_attack.sum() < len(rows))
    (true_negatives, false_positives), _ = confusion_matrix(is_attack, called_attack, labels=[False, True])
    benign = true_negatives + false_positives
    enough = not too_few_rows(int(is_attack.sum()), int(benign))
    attack_score = attack_scores(probabilities)
    support = np.bincount(rows.labels)
    hits = np.bincount(rows.labels[predicted == rows.labels], minlength=len(support))
    above = {rate: attack_score > threshold for rate, threshold in (thresholds or {}).items()}
    return Metrics(
        loss=float(log_loss(rows.labels, probabilities, labels=np.arange(probabilities.shape[1]))),
        accuracy=float(accuracy_score(rows.labels, predicted)),
        attack_rows=int(is_attack.sum()),
        benign_rows=int(benign),
        roc_auc=float(roc_auc_score(is_attack, attack_score)) if enough else None,
        pr_auc=float(average_precision_score(is_attack, attack_score)) if enough else None,
        fpr=float(false_positives / benign) if benign else None,
        family_recall={
            str(family): float(called_attack[rows.families == family].mean())
            for family in np.unique(rows.families[is_attack])
        },
        recall_at_fpr={rate: float(recall_score(is_attack, called)) for rate, called in above.items()} if both else {},
        fpr_at_threshold={rate: float(called[~is_attack].mean()) for rate, called in above.items()} if both else {},
        class_recall={str(label): float(hits[label] / support[label]) for label in np.flatnonzero(support)},
    )
