"""The density of benign rows: exact sums, the distance that they make, and when it becomes part of the detector."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.explain import DENSITY as BY_DENSITY
from client.explain import MODEL, Explainer
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_sources.scaling import SPREAD
from shared.data_sources.schema import Features, FeatureSchema, number_column
from shared.density import FEWEST_ROWS, LARGEST, MOST_ROWS, RIDGE, UNITS, BenignSums, Density, fewest_rows
from shared.errors import ConfigError, DataError, EncodingError
from shared.feature_statistics import DENSITY, StatisticsCode
from shared.fusion import FusedDetector, Fusion, Gate, Tail, judge
from shared.he.fixed_point import FixedPoint
from shared.metrics import attack_scores, predict_probabilities
from shared.preprocessing import FeatureHistogram, Preprocessing

SCHEMA = FeatureSchema("csv", tuple(number_column(name) for name in "abcd"))


def rows(seed: int, count: int = 600) -> Features:
    """Correlated columns within what quantiles make."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, 4)) @ rng.normal(size=(4, 4))
    return (np.tanh(mixed) * SPREAD / 2).astype(np.float32)


def labelled(benign: Features, attacks: Features) -> Dataset:
    labels = np.repeat([0, 1], [len(benign), len(attacks)]).astype(np.int64)
    return Dataset(np.concatenate([benign, attacks]), labels, np.where(labels, "dos", "benign"))


def same(one: BenignSums, other: BenignSums) -> bool:
    return (
        one.rows == other.rows
        and np.array_equal(one.total, other.total)
        and np.array_equal(one.products, other.products)
    )


def test_the_sums_are_those_of_all_rows_together_to_the_last_bit() -> None:
    parts = [rows(seed, 100 + seed) for seed in range(3)]
    total = sum((BenignSums.of(part) for part in parts[1:]), BenignSums.of(parts[0]))
    assert same(total, BenignSums.of(np.concatenate(parts)[::-1]))


def test_mean_and_covariance_are_numpy_s_of_the_rounded_rows() -> None:
    data = rows(1)
    sums = BenignSums.of(data)
    rounded = np.rint(data.astype(np.float64) * UNITS) / UNITS
    np.testing.assert_allclose(sums.mean(), rounded.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(sums.covariance(), np.cov(rounded.T, bias=True), atol=1e-12)


def test_the_distance_is_mahalanobis_with_the_ridge_on_each_eigenvalue() -> None:
    data, new = rows(1), rows(2, 50)
    sums = BenignSums.of(data)
    density = Density.of(sums)
    values, vectors = np.linalg.eigh(sums.covariance())
    along = (new - sums.mean()) @ vectors  # (rows, eigenvectors)
    expected = (along**2 / (values + RIDGE)).sum(axis=1)
    with torch.no_grad():
        found = density.parts(torch.from_numpy(new)).sum(dim=1).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    of_benign = ((data - sums.mean()) @ vectors) ** 2 / (values + RIDGE)
    assert float(density.expected) == pytest.approx(of_benign.sum(axis=1).mean(), rel=1e-3)
    scores = attack_scores(predict_probabilities(density, new))
    np.testing.assert_allclose(scores, expected / (expected + float(density.expected)), rtol=1e-4)


@pytest.mark.parametrize("value", [SPREAD, -10.0, np.nan, np.inf])
def test_a_value_that_quantiles_do_not_make_is_refused(value: float) -> None:
    data = rows(1)
    data[3, 2] = value
    with pytest.raises(DataError, match=r"scaled values within ± 1.73"):
        BenignSums.of(data)


def test_sums_that_no_rows_have_are_refused() -> None:
    good = BenignSums.of(rows(1))
    good.check()
    diagonal = np.array([0, 4, 7, 9])  # in the upper triangle of four columns
    one, square = np.eye(4, dtype=np.int64)[0], np.zeros_like(good.products)
    square[diagonal[0]] = 1
    off = np.zeros_like(good.products)
    off[1] = LARGEST**2 * good.rows
    for wrong in (
        replace(good, total=good.total + good.rows * LARGEST * one),
        replace(good, products=good.products * 0),
        replace(good, products=good.products + square * good.rows * LARGEST**2),
        replace(good, products=good.products + off),  # a covariance beyond its variances
    ):
        with pytest.raises(DataError, match="no rows have"):
            wrong.check()


def test_sums_of_too_few_rows_are_refused() -> None:
    assert (fewest_rows(4), fewest_rows(122)) == (FEWEST_ROWS, 1220)
    BenignSums.of(rows(1, FEWEST_ROWS)).check()
    with pytest.raises(DataError, match=f"{FEWEST_ROWS - 1} benign rows .* takes {FEWEST_ROWS}"):
        BenignSums.of(rows(1, FEWEST_ROWS - 1)).check()


SCHEMES: list[dict[str, Any]] = [{}, {"he_precision_bits": 4, "he_integer_bits": 0}, {"he_precision_bits": 40}]


@given(st.integers(1, MOST_ROWS), st.integers(0, 2**32), st.sampled_from(SCHEMES))
@settings(max_examples=40)
def test_sums_of_as_many_rows_as_a_tenant_may_have_travel_exactly(
    count: int, seed: int, scheme: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    config = Config(num_features=4, density=True, **scheme)
    code = StatisticsCode(config, SCHEMA)
    parts = [
        BenignSums(count, rng.integers(-LARGEST, LARGEST + 1, 4) * count, rng.integers(0, LARGEST**2, 10) * count)
        for _ in range(3)
    ]
    vectors = [code.encode_density(part) for part in parts]
    for vector in vectors:
        assert len(vector) == code.sizes[DENSITY]
        assert FixedPoint(config.he_precision_bits, config.he_integer_bits).encode(vector)[1] == 0  # none saturates
    numbers = code._code.decode(np.sum(vectors, axis=0), 48)
    total = parts[0] + parts[1] + parts[2]
    assert numbers == [total.rows, *total.total.tolist(), *total.products.tolist()]


def test_a_sum_beyond_what_travels_is_refused_on_both_sides() -> None:
    code = StatisticsCode(Config(num_features=4, density=True), SCHEMA)
    good = BenignSums.of(rows(1))
    with pytest.raises(DataError, match="too large"):
        code.encode_density(replace(good, rows=1 << 48))
    assert same(code.decode_density(code.encode_density(good)), good)
    with pytest.raises(DataError, match="takes 500"):
        code.decode_density(np.zeros(code.sizes[DENSITY]))
    vector = code.encode_density(good)
    vector[2] = 2.0**20  # in the highest limb of the rows
    with pytest.raises((EncodingError, DataError)):
        code.decode_density(vector)


def tails(tail: Tail, scores: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(tail(torch.from_numpy(scores.astype(np.float32))).numpy())


def test_the_tail_is_the_conformal_p_value_of_the_definition() -> None:
    sample = np.random.default_rng(3).normal(size=1000).astype(np.float32)
    tail = Tail.of(sample.astype(np.float64))
    rising = np.sort(sample)
    p = (1 + np.arange(1000, 0, -1)) / 1001  # of each by the definition
    found = tails(tail, rising)
    np.testing.assert_allclose(found[-60:], -np.log(p[-60:]), rtol=1e-5)
    assert np.abs(found + np.log(p)).max() < 0.03
    between = tails(tail, (rising[1:] + rising[:-1]) / 2)
    assert (between >= found[:-1]).all()
    assert (between <= found[1:]).all()
    beyond = tails(tail, rising[-1] + np.arange(5, dtype=np.float32))
    assert (np.diff(beyond) > 0).all()  # their order is kept where the sample has nothing to say
    assert tails(tail, rising[:1] - 5) == pytest.approx(0, abs=1e-6)


def test_equal_scores_have_one_p_value() -> None:
    tail = Tail.of(np.array([0.0] * 90 + [1.0] * 9 + [2.0]))
    np.testing.assert_allclose(tails(tail, np.array([0.0, 1.0, 2.0])), -np.log([1.0, 11 / 101, 2 / 101]), atol=1e-5)
    assert np.isfinite(tails(Tail.of(np.array([3.0])), np.array([2.0, 3.0, 4.0]))).all()


class Says(torch.nn.Module):
    """The log odds of an attack are the first column."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(features[:, 0]), features[:, 0]], dim=1)


def far(count: int) -> Features:
    """Attacks: nowhere near the rows of seed 1, in a direction in which these hardly vary."""
    sums = BenignSums.of(rows(1))
    direction = np.linalg.eigh(sums.covariance())[1][:, 0]
    away = direction / np.abs(direction).max() * SPREAD / 2
    return np.tile(away, (count, 1)).astype(np.float32)


def test_the_gate_opens_for_a_density_that_finds_half_of_the_attacks() -> None:
    density = Density.of(BenignSums.of(rows(1)))
    good = judge(density, labelled(rows(1), far(100)))
    assert (good.open, good.recall) == (True, 1.0)
    assert "is open: alone it finds 100.0 %" in good.in_words()
    half = judge(density, labelled(rows(1), np.concatenate([far(49), rows(1)[:51]])))
    assert not half.open
    assert half.recall == pytest.approx(0.49, abs=0.02)
    assert "stays shut: alone it finds 49" in half.in_words()
    few = judge(density, labelled(rows(1, 299), far(100)))
    assert few == Gate(False, None, 299, 100)
    assert "300 benign validation rows" in few.in_words()
    assert judge(density, labelled(rows(1), far(0))).open is False


def test_the_fused_score_is_that_of_the_rarer_finding_and_explained_by_it() -> None:
    validation = labelled(rows(1), far(100))
    density = Density.of(BenignSums.of(rows(1)))
    fusion = Fusion.of(Says(), density, validation, 0.01)
    detector = fusion.detector(Says(), density)
    assert isinstance(detector, FusedDetector)
    new = np.concatenate([rows(5, 200), far(5)])
    scores = attack_scores(predict_probabilities(detector, new))
    with torch.no_grad():
        tails = detector.tail_scores(torch.from_numpy(new)).double().numpy()
    p = np.exp(-tails.max(axis=1))
    np.testing.assert_allclose(scores, 0.01 / (0.01 + p), rtol=1e-4)
    assert (scores[-5:] > 0.5).all()
    counted = FeatureHistogram.of(rows(1))
    preprocessing = replace(Preprocessing.pooled(SCHEMA, [validation], "quantile"), histogram=counted)
    explainer = Explainer(detector, preprocessing)
    by = np.array(explainer.detectors(new))
    assert set(by) == {MODEL, BY_DENSITY}
    assert (by[-5:] == BY_DENSITY).all()
    parts = explainer.contributions(new)
    with torch.no_grad():
        distance = density.parts(torch.from_numpy(new)).sum(dim=1).numpy() / float(density.expected)
    np.testing.assert_allclose(parts.sum(axis=1)[by == BY_DENSITY], distance[by == BY_DENSITY], rtol=1e-4)
    of_model = Explainer(Says(), preprocessing).contributions(new)
    assert np.array_equal(parts[by == MODEL], of_model[by == MODEL])


def test_while_the_gate_is_shut_the_model_is_the_detector() -> None:
    density, model = Density.of(BenignSums.of(rows(1))), Says()
    fusion = Fusion.of(model, density, labelled(rows(1), rows(6)), 0.01)
    assert not fusion.gate.open
    assert fusion.detector(model, density) is model


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"density": True, "scaling": "zscore"}, "takes scaling: quantile"),
        ({"density": True, "num_classes": 3}, "num_classes: 2"),
        ({"density": True, "num_features": 1001}, "at most 1000"),
        (
            {"labels": "none", "model": "forest"},
            "^model = 'forest': with labels: none nothing is trained, .* leave that",
        ),
        (
            {"model": "density", "early_stopping_rounds": 2},
            "^early_stopping_rounds = 2: with model: density nothing is",
        ),
        ({"labels": "none", "early_stopping_rounds": 2}, "^early_stopping_rounds = 2: with labels: none nothing is"),
        ({"labels": "none", "data_source": "vpc_flow", "data_path": "x", "label_path": "y"}, "for where there are no"),
        ({"data_source": "csv", "data_path": "x"}, "or labels: none"),
    ],
)
def test_settings_that_no_density_can_work_with_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**settings_)
