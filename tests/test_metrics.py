"""What the figures mean: recall by family, thresholds that come from other rows, and sets that determine nothing."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.errors import OrchestratorError
from shared.metrics import attack_thresholds, evaluate, predict_probabilities, score, too_few_rows
from shared.model import build_model


def dataset(families: list[str]) -> Dataset:
    names = np.array(families)
    return Dataset(np.zeros((len(names), 2), np.float32), (names != "benign").astype(np.int64), names)


def probabilities(attack_scores: list[float]) -> NDArray[np.float64]:
    attack = np.array(attack_scores)
    return np.column_stack([1 - attack, attack])  # (rows, 2)


def test_recall_by_family_is_over_the_familys_own_rows() -> None:
    rows = dataset(["benign", "dos", "dos", "dos", "dos", "u2r"])
    metrics = score(probabilities([0.9, 0.9, 0.8, 0.7, 0.4, 0.2]), rows)
    assert metrics.family_recall == {"dos": 0.75, "u2r": 0.0}
    assert metrics.accuracy == pytest.approx(3 / 6)
    assert metrics.fpr == 1.0


def test_an_attack_taken_for_another_attack_is_still_caught() -> None:
    rows = Dataset(np.zeros((2, 2), np.float32), np.array([0, 2]), np.array(["benign", "attack-2"]))
    metrics = score(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]), rows)
    assert (metrics.family_recall, metrics.accuracy) == ({"attack-2": 1.0}, 0.5)


def test_recall_of_a_class_is_over_its_own_rows_and_of_classes_that_have_some() -> None:
    rows = Dataset(np.zeros((5, 2), np.float32), np.array([0, 1, 1, 1, 3]), np.array(["benign", *["attack"] * 4]))
    metrics = score(np.eye(5)[[4, 1, 1, 3, 1]] * 0.9 + 0.02, rows)
    assert metrics.class_recall == {"0": 0.0, "1": 2 / 3, "3": 0.0}


def test_no_more_benign_rows_than_asked_lie_above_a_threshold() -> None:
    scores = np.random.default_rng(0).random(5000)
    for rate, threshold in attack_thresholds(scores).items():
        above = int((scores > threshold).sum())
        assert float(rate) * 5000 - 1 <= above <= float(rate) * 5000


def test_equal_scores_do_not_exceed_the_rate() -> None:
    scores = np.array([0.1] * 2700 + [0.7] * 300)
    assert attack_thresholds(scores) == {"0.001": 0.7, "0.01": 0.7}


@pytest.mark.parametrize(("rows", "rates"), [(299, []), (300, ["0.01"]), (2999, ["0.01"]), (3000, ["0.001", "0.01"])])
def test_a_rate_has_a_threshold_from_three_expected_false_alarms_on(rows: int, rates: list[str]) -> None:
    assert list(attack_thresholds(np.linspace(0.1, 0.6, rows))) == rates


def test_recall_at_a_rate_uses_the_threshold_that_was_given_and_not_the_rows_own() -> None:
    rows = dataset(["benign"] * 4 + ["dos"] * 4)
    scores = probabilities([0.1, 0.2, 0.3, 0.6, 0.4, 0.5, 0.7, 0.8])
    metrics = score(scores, rows, {"0.01": 0.45})
    # The rows' own benign scores would have put the threshold at 0.6.
    assert metrics.recall_at_fpr == {"0.01": 0.75}
    assert metrics.fpr_at_threshold == {"0.01": 0.25}


@pytest.mark.parametrize("families", [["benign", "benign"], ["dos", "dos"]])
def test_one_class_alone_determines_no_curve(families: list[str]) -> None:
    metrics = score(probabilities([0.2, 0.9]), dataset(families), {"0.01": 0.5})
    assert (metrics.roc_auc, metrics.pr_auc, metrics.recall_at_fpr, metrics.fpr_at_threshold) == (None, None, {}, {})
    assert metrics.fpr == (0.5 if families[0] == "benign" else None)
    assert metrics.family_recall == ({} if families[0] == "benign" else {"dos": 0.5})


def test_without_benign_rows_there_is_no_threshold() -> None:
    assert attack_thresholds(np.array([])) == {}


@pytest.mark.parametrize(("benign", "attacks"), [(100, 100), (99, 500), (500, 99)])
def test_an_area_takes_a_hundred_rows_of_each_kind(benign: int, attacks: int) -> None:
    scores = probabilities([0.25] * benign + [0.75] * attacks)
    metrics = score(scores, dataset(["benign"] * benign + ["dos"] * attacks), {"0.01": 0.5})
    enough = min(benign, attacks) >= 100
    assert (metrics.roc_auc, metrics.pr_auc) == ((1.0, 1.0) if enough else (None, None))
    assert bool(too_few_rows(attacks, benign)) == (not enough)
    if not enough:
        assert f"attacks: {attacks}, benign records: {benign}" in too_few_rows(attacks, benign)
        assert "at least 100 of each" in too_few_rows(attacks, benign)


def test_a_model_is_scored_by_its_probabilities() -> None:
    config = Config(num_features=2, num_hidden_units=(3,))
    rows = dataset(["benign", "dos"])
    metrics = evaluate(build_model(config), rows)
    assert (metrics.attack_rows, metrics.benign_rows, metrics.roc_auc) == (1, 1, None)
    assert metrics.recall_at_fpr == {}


def test_a_model_that_gives_nan_is_refused_with_the_rows_counted() -> None:
    """What a model of a person's own may give where its trial had none: scikit-learn would end in a traceback."""

    class Logarithm(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features.log()

    rows = np.array([[1.0, 2.0], [-1.0, 2.0], [3.0, -2.0], [np.inf, np.inf]], np.float32)
    with pytest.raises(
        OrchestratorError, match=r"^the model gives NaN for 3 of 4 rows; expected a number for each class"
    ):
        predict_probabilities(Logarithm(), rows)
    assert np.allclose(predict_probabilities(Logarithm(), rows[:1]), [[1 / 3, 2 / 3]])
