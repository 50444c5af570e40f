"""The synthetic source, and the holdout split that all sources share."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from shared.config import Config
from shared.data_sources import synthetic
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data, load_test_data
from shared.errors import ConfigError


def digest(*datasets: Dataset) -> str:
    state = hashlib.sha256()
    for dataset in datasets:
        for array in (dataset.features, dataset.labels, dataset.families):
            state.update(array.tobytes())
    return state.hexdigest()


def client_digest(config: Config, client_id: int) -> str:
    data = load_client_data(config, client_id)
    return digest(data.train, data.holdout)


def test_a_client_draws_the_same_rows_in_any_order_and_in_another_process() -> None:
    config = Config()
    forwards = [client_digest(config, client) for client in (0, 1, 2)]
    assert [client_digest(config, client) for client in (2, 1, 0)] == forwards[::-1]
    assert len(set(forwards)) == 3
    code = (
        "from tests.test_data_synthetic import *; config = Config();"
        "print(client_digest(config, 1), digest(load_test_data(config)))"
    )
    alone = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
    )
    assert alone.stdout.split() == [forwards[1], digest(load_test_data(config))]


def test_a_client_does_not_depend_on_how_many_others_there_are() -> None:
    assert client_digest(Config(num_clients=3), 2) == client_digest(Config(num_clients=50), 2)


def test_the_seed_changes_clients_and_test_set() -> None:
    one, other = Config(seed=1), Config(seed=2)
    assert client_digest(one, 0) != client_digest(other, 0)
    assert digest(load_test_data(one)) != digest(load_test_data(other))


def test_the_test_set_is_common_and_balanced() -> None:
    test = load_test_data(Config(data_skewness=0.0))
    assert digest(test) == digest(load_test_data(Config(data_skewness=0.9, num_clients=9, num_samples_per_client=77)))
    assert len(test) == synthetic.TEST_ROWS
    assert test.labels.mean() == pytest.approx(0.5, abs=0.04)


def test_no_row_is_in_two_places() -> None:
    config = Config(data_skewness=0.0)
    clients = [load_client_data(config, client) for client in range(3)]
    datasets = [load_test_data(config), *(part for data in clients for part in (data.train, data.holdout))]
    rows = np.concatenate([dataset.features for dataset in datasets])
    assert len(np.unique(rows, axis=0)) == len(rows)


def p_value(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Of the two-sample Kolmogorov-Smirnov test: the first term of its limit distribution, which bounds it."""
    values = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    distance = np.abs(shares[0] - shares[1]).max()
    return float(2 * np.exp(-2 * distance**2 * len(one) * len(other) / len(values)))


def smallest_p_value(one: Dataset, other: Dataset) -> float:
    """Over every feature and the labels, corrected for their number (Bonferroni)."""
    columns = [*zip(one.features.T, other.features.T, strict=True), (one.labels, other.labels)]
    return float(min(p_value(a, b) for a, b in columns) * len(columns))


def test_skewness_0_gives_every_client_the_distribution_of_the_test_set() -> None:
    alike = Config(data_skewness=0.0, num_samples_per_client=4000)
    test = load_test_data(alike)
    assert min(smallest_p_value(load_client_data(alike, client).train, test) for client in range(3)) > 0.01
    # The same check must be able to see a difference.
    skewed = Config(data_skewness=0.3, num_samples_per_client=4000)
    assert max(smallest_p_value(load_client_data(skewed, client).train, test) for client in range(3)) < 1e-6


def benign_cluster_shares(skewness: float, client_id: int) -> NDArray[np.float64]:
    """How one client's benign rows fall to the nearest benign cluster, (clusters,)."""
    config = Config(data_skewness=skewness, num_samples_per_client=4000)
    world, rows = synthetic._world(config), synthetic.client_rows(config, client_id)
    centres = world.centres[world.classes == 0]
    benign = rows.features[rows.labels == 0] * world.scale
    nearest = np.linalg.norm(benign[:, None] - centres, axis=2).argmin(axis=1)
    return np.bincount(nearest, minlength=len(centres)) / len(nearest)


def test_clients_of_one_dominant_class_know_other_clusters_of_it() -> None:
    assert np.abs(benign_cluster_shares(0.0, 0) - benign_cluster_shares(0.0, 2)).max() < 0.06
    assert np.abs(benign_cluster_shares(0.8, 0) - benign_cluster_shares(0.8, 2)).max() > 0.15


@pytest.mark.parametrize("skewness", [0.0, 0.4, 0.8])
def test_a_client_is_shifted_in_proportion_to_the_skewness(skewness: float) -> None:
    config = Config(data_skewness=skewness, num_samples_per_client=20_000, num_features=50)
    world = synthetic._world(config)
    mean = (synthetic.client_rows(config, 0).features * world.scale).mean(axis=0)
    # Away from the clusters' subspace nothing but the shift moves the mean; 46 of 50 directions are left to see it.
    basis, _ = np.linalg.qr(world.centres[: synthetic.PAIRS_PER_CLASS * 2].T)
    seen = np.linalg.norm(mean - basis @ (basis.T @ mean))
    assert seen == pytest.approx(skewness * synthetic.MAX_SHIFT, abs=0.08)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_skewness_near_1_leaves_each_client_nearly_one_class(num_classes: int) -> None:
    config = Config(data_skewness=0.98, num_classes=num_classes, num_clients=5)
    for client in range(5):
        labels = synthetic.client_rows(config, client).labels
        assert np.mean(labels == client % num_classes) > 0.96
    assert set(synthetic.client_rows(Config(data_skewness=1.0), 1).labels) == {1}


def test_an_mlp_learns_what_a_linear_model_can_not() -> None:
    config = Config()
    clients = [load_client_data(config, client).train for client in range(3)]
    features = np.concatenate([data.features for data in clients])
    attack = np.concatenate([data.labels for data in clients])
    test = load_test_data(config)
    linear = LogisticRegression().fit(features, attack)
    mlp = MLPClassifier((16,), max_iter=200, early_stopping=True, learning_rate_init=0.01, random_state=0)
    mlp.fit(features, attack)
    assert roc_auc_score(test.labels, mlp.predict_proba(test.features)[:, 1]) > 0.97
    assert roc_auc_score(test.labels, linear.predict_proba(test.features)[:, 1]) < 0.85


@pytest.mark.parametrize("num_features", [1, 2, 3, 20])
@pytest.mark.parametrize("num_classes", [2, 3, 12])
def test_any_number_of_features_and_classes(num_features: int, num_classes: int) -> None:
    config = Config(num_features=num_features, num_classes=num_classes, num_samples_per_client=50)
    test = load_test_data(config)
    for dataset in (test, load_client_data(config, 0).train):
        assert dataset.features.shape == (len(dataset), num_features)
        assert dataset.features.dtype == np.float32
        assert dataset.labels.dtype == np.int64
        assert np.array_equal(dataset.families == "benign", dataset.labels == 0)
    assert set(test.labels) == set(range(num_classes))
    assert len(set(zip(test.labels, test.families, strict=True))) == num_classes
    assert np.abs(test.features.mean(axis=0)).max() < 0.15
    assert np.abs(test.features.std(axis=0) - 1).max() < 0.15


def test_family_names_tell_the_attacks_apart() -> None:
    assert list(synthetic.family_names(2)) == ["benign", "attack"]
    assert list(synthetic.family_names(4)) == ["benign", "attack-1", "attack-2", "attack-3"]


@pytest.mark.parametrize(("rows", "fraction", "held_out"), [(10, 0.01, 1), (10, 0.5, 5), (1000, 0.1, 100)])
def test_the_holdout_has_its_share_and_no_row_of_the_training_set(rows: int, fraction: float, held_out: int) -> None:
    config = Config(num_samples_per_client=rows, holdout_fraction=fraction)
    data = load_client_data(config, 1)
    assert (len(data.train), len(data.holdout)) == (rows - held_out, held_out)
    together = np.concatenate([data.train.features, data.holdout.features])
    every = synthetic.client_rows(config, 1).features
    assert np.array_equal(np.sort(together, axis=0), np.sort(every, axis=0))


@pytest.mark.parametrize("client_id", [-1, 3])
def test_a_client_id_outside_the_run_is_refused(client_id: int) -> None:
    with pytest.raises(ConfigError, match=rf"client_id = {client_id}: expected 0 to 2; .*num_clients = 3"):
        load_client_data(Config(num_clients=3), client_id)
