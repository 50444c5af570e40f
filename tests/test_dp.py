"""Skellam noise and what it costs, against exact sums, samples, and Google's accountant."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp as google
from scipy.special import ive

from shared.dp import skellam
from shared.dp.accountant import ORDERS, Release, epsilon_of, least_variance, sampled
from shared.errors import ConfigError


def law(variance: float, reach: int) -> np.ndarray:
    """P(X = k) of Sk(variance) for |k| <= reach: exp(-μ) I_|k|(μ)."""
    return np.array([ive(abs(k), variance) for k in range(-reach, reach + 1)])


@pytest.mark.parametrize("variance", [0.5, 2.0, 30.0])
@pytest.mark.parametrize("shift", [1, 2, 5])
@pytest.mark.parametrize("order", [2, 3, 8])
def test_the_bound_is_above_the_true_divergence_and_near_it(variance: float, shift: int, order: int) -> None:
    reach = 400
    q = law(variance, reach)
    p = np.roll(q, shift)
    inside = slice(shift, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(q[inside] > 1e-290, p[inside] ** order / q[inside] ** (order - 1), 0.0)
    true = math.log(terms[np.isfinite(terms)].sum()) / (order - 1)
    bound = skellam.rdp(order, l1=shift, l2=shift, variance=variance)
    assert true <= bound * (1 + 1e-9)
    if variance >= 30 and order * shift <= 8:
        assert bound < 1.2 * true


def test_drawn_noise_has_its_mean_variance_and_signs() -> None:
    for variance in (0.0, 3.0, 4e9):
        noise = skellam.draw(variance, 200_000).astype(np.float64)
        assert abs(noise.mean()) <= 5 * math.sqrt(variance / len(noise))
        assert noise.var() == pytest.approx(variance, rel=0.03)
    assert not np.array_equal(skellam.draw(100.0, 50), skellam.draw(100.0, 50)), "no two draws have one seed"
    with pytest.raises(ValueError, match="expected 0 to"):
        skellam.draw(-1.0, 1)


def test_a_seeded_program_draws_other_noise_each_time() -> None:
    """A broken twin of this project's rule: noise from `seed`, which the orchestrator knows, can be taken off."""
    draws = []
    for _ in range(2):
        np.random.seed(42)
        draws.append(skellam.draw(1e6, 20).tolist())
    assert draws[0] != draws[1]


@pytest.mark.parametrize("variance", [0.3, 10.0, 1e10])
@pytest.mark.parametrize("probability", [1e-2, 2.0**-40])
def test_the_tail_is_within_its_bound(variance: float, probability: float) -> None:
    bound = skellam.tail_bound(variance, probability)
    if variance < 100:
        beyond = 1.0 - law(variance, math.ceil(bound) - 1).sum()
        assert beyond <= probability + 1e-13
    gauss = math.sqrt(2 * variance * math.log(2 / probability))
    assert bound >= gauss * 0.999, "Skellam's tails are heavier than a Gaussian's"
    if variance == 1e10:
        assert bound == pytest.approx(gauss, rel=1e-3)


@pytest.mark.parametrize(("multiplier", "rate", "steps"), [(1.0, 0.01, 300), (0.8, 0.005, 1000), (4.0, 1.0, 1)])
def test_it_costs_what_central_dp_sgd_costs_by_google_s_accountant(multiplier: float, rate: float, steps: int) -> None:
    """At the precision of an update, 2**16 steps of the encoding, a Skellam is as good as a Gaussian."""
    l2 = 2.0**16
    ours = epsilon_of(steps * Release(100 * l2, l2, (multiplier * l2) ** 2, rate).rdp(), 1e-6)
    accountant = google.RdpAccountant(list(ORDERS))
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    event = gaussian if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, gaussian)
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    assert ours == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-3)


def test_a_coarse_encoding_costs_more_than_a_gaussian() -> None:
    fine, coarse = (epsilon_of(Release(10 * l2, l2, l2 * l2).rdp(), 1e-6) for l2 in (2.0**16, 4.0))
    assert coarse > 1.02 * fine


def test_sampling_costs_less_and_both_ends_are_right() -> None:
    def of(order: int) -> float:
        return order / 2.0

    assert sampled(4, 0.0, of) == 0.0
    assert sampled(4, 1.0, of) == 2.0
    assert 0 < sampled(4, 0.01, of) < sampled(4, 0.1, of) < 2.0


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_the_least_noise_keeps_the_budget_and_no_less_would(epsilon: float) -> None:
    l2 = 2.0**16
    variance = least_variance(100 * l2, l2, 0.01, 300, epsilon, 1e-6)
    spent = epsilon_of(300 * Release(100 * l2, l2, variance, 0.01).rdp(), 1e-6)
    assert spent <= epsilon
    assert epsilon_of(300 * Release(100 * l2, l2, 0.99 * variance, 0.01).rdp(), 1e-6) > epsilon


def test_a_budget_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(ConfigError, match="no noise keeps 1000000 sums"):
        least_variance(1.0, 1.0, 1.0, 10**6, 1e-4, 1e-9)
