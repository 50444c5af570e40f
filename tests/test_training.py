"""Local training: what FedProx and the class weights change, and what they must not."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.training import train_as_usual
from client.request_values import check_training
from client.training import MAX_CLASS_WEIGHT, TrainingSettings, row_weights, train
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data
from shared.errors import Reason
from shared.metrics import evaluate
from shared.model import build_model, flatten, get_parameters
from shared.task import training_settings
from tests.breaking import breaks

CONFIG = Config(num_features=6, num_hidden_units=(8,), num_samples_per_client=300, data_skewness=0.8)
ROWS = load_client_data(CONFIG, 0).train


def trained(rows: Dataset = ROWS, seed: tuple[int, ...] = (1, 2), **settings: Any) -> np.ndarray[Any, Any]:
    """The flat parameters after local training from the initial global model."""
    model = build_model(CONFIG)
    train(
        model, rows, TrainingSettings(**{"local_epochs": 3, "batch_size": 32, "learning_rate": 0.05} | settings), seed
    )
    return flatten(get_parameters(model))


GLOBAL = flatten(get_parameters(build_model(CONFIG)))


def distance(**settings: Any) -> float:
    return float(np.linalg.norm(trained(**settings) - GLOBAL))


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    assert np.array_equal(trained(), trained())
    assert not np.array_equal(trained(), trained(seed=(1, 3)))


def test_without_options_it_is_plain_sgd_with_momentum_on_the_cross_entropy() -> None:
    model = build_model(CONFIG)
    features, labels = torch.from_numpy(ROWS.features), torch.from_numpy(ROWS.labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shuffle = np.random.default_rng((1, 2))
    for _ in range(3):
        order = shuffle.permutation(len(ROWS))
        for start in range(0, len(ROWS), 32):
            batch = torch.from_numpy(order[start : start + 32])
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(features[batch]), labels[batch]))
            optimizer.step()
    np.testing.assert_allclose(trained(), flatten(get_parameters(model)), atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"proximal_mu": 0.3},
        {"optimizer": "adam"},
        {"class_balance": "inverse"},
        {"batch_size": 7},
        {"batch_size": 999},
    ],
)
def test_one_flat_vector_is_trained_to_the_bits_of_the_usual_loop(settings: dict[str, Any]) -> None:
    model = build_model(CONFIG)
    all_settings = {"local_epochs": 3, "batch_size": 32, "learning_rate": 0.05} | settings
    train_as_usual(model, ROWS, TrainingSettings(**all_settings), (1, 2))
    assert np.array_equal(trained(**settings), flatten(get_parameters(model)))


def test_what_is_not_trained_stays_as_it_is() -> None:
    model = build_model(CONFIG)
    frozen, *others = model.parameters()
    frozen.requires_grad_(False)
    before = [parameter.detach().clone() for parameter in (frozen, *others)]
    for seed in ((1,), (2,)):  # the second time on parameters that are views already
        train(model, ROWS, TrainingSettings(local_epochs=1, batch_size=32, learning_rate=0.05), seed)
    assert torch.equal(frozen, before[0])
    assert not any(torch.equal(now, then) for now, then in zip(others, before[1:], strict=True))


def test_input_noise_is_drawn_once_by_the_seed_and_added_in_slices() -> None:
    """The same model as by hand, with another slice of one bank at each step."""
    model = build_model(CONFIG)
    features, labels = torch.from_numpy(ROWS.features), torch.from_numpy(ROWS.labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shuffle, rng = np.random.default_rng((1, 2)), np.random.default_rng((1, 2, 1))
    bank = torch.from_numpy(rng.standard_normal((4096, 6), dtype=np.float32) * np.float32(0.3))
    starts = set()
    for _ in range(3):
        order = shuffle.permutation(len(ROWS))
        for start in range(0, len(ROWS), 32):
            batch = torch.from_numpy(order[start : start + 32])
            first = int(rng.integers(4096 - len(batch) + 1))
            starts.add(first)
            optimizer.zero_grad()
            noisy = features[batch] + bank[first : first + len(batch)]
            torch.autograd.backward(F.cross_entropy(model(noisy), labels[batch]))
            optimizer.step()
    np.testing.assert_allclose(trained(input_noise=0.3), flatten(get_parameters(model)), atol=1e-6)
    assert len(starts) > 20
    assert 0.29 < float(bank.std()) < 0.31
    assert not np.array_equal(trained(input_noise=0.3), trained())
    assert np.array_equal(trained(input_noise=0.0), trained())
    # A batch of more rows than the bank is wide has a bank of its own size.
    assert np.isfinite(trained(input_noise=0.3, batch_size=5000)).all()


def test_mu_zero_is_no_fedprox_at_all() -> None:
    assert np.array_equal(trained(proximal_mu=0.0), trained())


def test_the_larger_mu_the_nearer_the_client_stays_to_the_global_model() -> None:
    distances = [distance(proximal_mu=mu) for mu in (0.0, 0.1, 1.0, 5.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 3


def test_the_first_step_is_that_of_plain_training() -> None:
    """At the global model the proximal term has no gradient."""
    one_step: dict[str, Any] = {"local_epochs": 1, "batch_size": len(ROWS)}
    np.testing.assert_allclose(trained(**one_step, proximal_mu=5.0), trained(**one_step), atol=1e-7)


def test_the_proximal_term_pulls_with_mu_times_the_distance() -> None:
    """Two steps on all rows, against the gradient written out by hand."""
    mu, rate = 2.0, 0.05
    model = build_model(CONFIG)
    features, labels = torch.from_numpy(ROWS.features), torch.from_numpy(ROWS.labels)
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    velocity = [torch.zeros_like(p) for p in parameters]
    for _ in range(2):
        gradients = torch.autograd.grad(F.cross_entropy(model(features), labels), parameters)
        with torch.no_grad():
            for p, v, gradient, start_p in zip(parameters, velocity, gradients, start, strict=True):
                v.mul_(0.9).add_(gradient + mu * (p - start_p))
                p.sub_(rate * v)
    settings: dict[str, Any] = {"local_epochs": 2, "batch_size": len(ROWS), "learning_rate": rate, "proximal_mu": mu}
    np.testing.assert_allclose(trained(**settings), flatten(get_parameters(model)), atol=1e-6)


def test_weights_are_inverse_to_the_clients_own_class_counts() -> None:
    weights = row_weights(np.array([0, 0, 0, 0, 0, 0, 2, 2, 1]), "inverse")
    assert weights.mean() == pytest.approx(1)
    for label in (slice(0, 6), slice(6, 8), slice(8, 9)):
        assert weights[label].sum() == pytest.approx(3)  # each class counts alike, whatever its rows


def test_a_weight_is_capped() -> None:
    labels = np.zeros(10_000, dtype=np.int64)
    labels[0] = 1
    weights = row_weights(labels, "inverse")
    assert weights.mean() == pytest.approx(1)
    # The benign class weighs about one half before the cap bites on the other.
    assert weights[0] / weights[1] == pytest.approx(2 * MAX_CLASS_WEIGHT, rel=1e-3)


@pytest.mark.parametrize("balance", ["none", "inverse"])
def test_balanced_or_single_classes_weigh_one(balance: str) -> None:
    assert row_weights(np.array([0, 1, 1, 0]), balance) == pytest.approx(1)
    assert row_weights(np.array([1, 1, 1]), balance) == pytest.approx(1)


def test_class_balance_finds_more_of_a_rare_class() -> None:
    world = Config(num_features=6, num_hidden_units=(8,), num_samples_per_client=4000, data_skewness=0.0)
    rows = load_client_data(world, 0).train
    rare = np.concatenate([np.flatnonzero(rows.labels == 0), np.flatnonzero(rows.labels == 1)[:60]])
    recalls = {}
    for balance in ("none", "inverse"):
        model = build_model(world)
        train(model, rows.take(rare), TrainingSettings(5, 32, 0.02, class_balance=balance), seed=(3,))
        recalls[balance] = evaluate(model, load_client_data(world, 1).train).family_recall["attack"]
    assert recalls["inverse"] > recalls["none"] + 0.05


OWN = Config(proximal_mu=0.5, class_balance="inverse", local_epochs=1, input_noise=0.25)


def test_a_client_trains_by_its_own_settings() -> None:
    assert TrainingSettings.of(OWN) == TrainingSettings(
        1, OWN.batch_size, OWN.learning_rate, 0.5, "inverse", "sgd", 0.25
    )
    check_training(training_settings(OWN), OWN)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "own.net:Net"}, {"optimizer": "adam"}, {"input_noise": 0.0},
        {"learning_rate": 1e-300}, {"learning_rate": float("nan")}, {"learning_rate": "0.05"}, {"local_epochs": 2},
        {"batch_size": None}, {"proximal_mu": 0.0}, {"class_balance": "none"}, {"weighting": "examples"},
        {"max_examples": 1},
    ],
)  # fmt: skip
def test_a_client_refuses_a_round_that_asks_for_other_settings_than_its_own(asked: dict[str, Any]) -> None:
    """Told a learning rate of 1e-300 all tenants but one would add nothing to the sum."""
    with breaks(Reason.OTHER_SETTINGS, match=f"asks for {next(iter(asked))} = .* \\(mine: "):
        check_training({**training_settings(OWN), **asked}, OWN)
