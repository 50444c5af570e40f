"""How good a detector is, by scikit-learn's definitions. Class 0 is benign; every other class is an attack."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, average_precision_score, confusion_matrix, log_loss, roc_auc_score
from torch import nn

from shared.data_utils import Dataset

_BATCH_ROWS = 65_536  # bounds the memory of a forward pass over a large test set


@dataclass(frozen=True)
class Metrics:
    """Of one model on one set of rows. `None` where the rows don't determine it (one class only).

    Attributes:
        loss: mean cross-entropy, in nats.
        accuracy: share of rows whose most probable class is the true one.
        roc_auc: area under the ROC curve of the attack score, 1 - P(benign).
        pr_auc: average precision of the attack score.
        fpr: share of benign rows that are called an attack (the most probable class isn't 0).
    """

    loss: float
    accuracy: float
    roc_auc: float | None
    pr_auc: float | None
    fpr: float | None


def predict_probabilities(model: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Class probabilities, (rows, num_classes), that sum to 1 in float64."""
    model.eval()
    with torch.no_grad():
        batches = [
            torch.softmax(model(torch.from_numpy(features[start : start + _BATCH_ROWS])).double(), dim=1).numpy()
            for start in range(0, len(features), _BATCH_ROWS)
        ]
    return np.concatenate(batches)


def evaluate(model: nn.Module, rows: Dataset) -> Metrics:
    """Score the model on labelled rows (at least one)."""
    probabilities = predict_probabilities(model, rows.features)
    predicted = probabilities.argmax(axis=1)
    is_attack, called_attack = rows.labels != 0, predicted != 0
    both = 0 < is_attack.sum() < len(rows)
    (true_negatives, false_positives), _ = confusion_matrix(is_attack, called_attack, labels=[False, True])
    benign = true_negatives + false_positives
    attack_score = 1.0 - probabilities[:, 0]
    return Metrics(
        loss=float(log_loss(rows.labels, probabilities, labels=np.arange(probabilities.shape[1]))),
        accuracy=float(accuracy_score(rows.labels, predicted)),
        roc_auc=float(roc_auc_score(is_attack, attack_score)) if both else None,
        pr_auc=float(average_precision_score(is_attack, attack_score)) if both else None,
        fpr=float(false_positives / benign) if benign else None,
    )
