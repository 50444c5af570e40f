"""What noisy sums cost: Rényi differential privacy of the Skellam mechanism, sampled, composed and converted.

The neighbours are two federations of which one has a record more. A round samples each record by itself with
probability q (Poisson sampling) and adds noise to the sum. For a mechanism whose two distributions P, Q are mirror
images (noise that is symmetric, and a shift: x -> Δ - x exchanges them), D_α((1-q)Q + qP || Q) is the larger of the two
directions (Mironov, Talwar, Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019, theorem 5),
and for a whole α it is a binomial sum of the unsampled divergences, exactly:

    (α-1) D_α  =  log Σ_k  C(α,k) (1-q)^(α-k) q^k  exp((k-1) D_k(P || Q))

With the Gaussian's D_k = k/(2σ²) that is formula (5) of the same paper. The conversion to (ε, δ) is Google's
`dp_accounting`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, logsumexp

from shared.dp import skellam
from shared.errors import ConfigError

ORDERS = (*range(2, 64), *range(64, 129, 4), 160, 192, 256, 384, 512)
_LEAST_MULTIPLIER, _MOST_MULTIPLIER = 0.1, 1e4
Divergence = Callable[[int], float]  # of a whole order above 1

Rdp = NDArray[np.float64]  # (orders,)


@dataclass(frozen=True)
class Release:
    """One noisy sum over records.

    Attributes:
        l1, l2: by how much one record changes the sum at most, in units of the encoding.
        variance: of the noise in each value of the sum, in the same units squared.
        rate: q, with which each record is in it; 1: all are.
    """

    l1: float
    l2: float
    variance: float
    rate: float = 1.0

    def rdp(self) -> Rdp:
        """Its Rényi divergence for each of `ORDERS`."""

        def of(order: int) -> float:
            return skellam.rdp(order, self.l1, self.l2, self.variance)

        return np.array([sampled(order, self.rate, of) for order in ORDERS])


def sampled(order: int, rate: float, divergence: Divergence) -> float:
    """D_α of a mechanism that sees each record with this probability; see the module.

    Args:
        order: α, a whole number above 1.
        rate: q, from 0 to 1.
        divergence: of the mechanism that sees all, for each order up to α.
    """
    if rate == 0.0:
        return 0.0
    if rate == 1.0:
        return divergence(order)
    k = np.arange(order + 1)
    binomials = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    powers = (order - k) * math.log1p(-rate) + k * math.log(rate)
    # D_0 and D_1 stand with (k-1) D_k = 0: the densities and their ratio integrate to 1.
    grown = np.array([0.0, 0.0, *((j - 1) * divergence(int(j)) for j in k[2:])])
    return max(0.0, float(logsumexp(binomials + powers + grown)) / (order - 1))


def epsilon_of(rdp: Rdp, delta: float) -> float:
    """ε of (ε, δ)-differential privacy; 0 of nothing."""
    # A fifth of what a tenant's process takes to start, and needed where the settings ask for noise alone.
    from dp_accounting.rdp import compute_epsilon

    return float(compute_epsilon(ORDERS, rdp, delta)[0]) if rdp.any() else 0.0


def least_variance(
    l1: float, l2: float, rate: float, times: int, epsilon: float, delta: float, already: Rdp | None = None
) -> float:
    """The least variance of the noise with which so many releases keep within (ε, δ).

    Args:
        l1, l2: as in `Release`.
        rate: q.
        times: releases.
        epsilon, delta: of all of them together.
        already: what was released before, and is to be within the same.

    Raises:
        ConfigError: no noise in a range that makes sense is enough.
    """

    before: Rdp = np.zeros(len(ORDERS)) if already is None else already

    def spent(multiplier: float) -> float:
        return epsilon_of(before + times * Release(l1, l2, (multiplier * l2) ** 2, rate).rdp(), delta) - epsilon

    if spent(_MOST_MULTIPLIER) > 0:
        raise ConfigError(
            f"dp_target_epsilon: no noise keeps {times} sums within an epsilon of {epsilon:g}; ask for more (the "
            "features' counts have dp_statistics_share of it), or for fewer rounds"
        )
    if spent(_LEAST_MULTIPLIER) <= 0:
        return (_LEAST_MULTIPLIER * l2) ** 2
    found = brentq(spent, _LEAST_MULTIPLIER, _MOST_MULTIPLIER, xtol=1e-6)
    while spent(found) > 0:  # within the budget, and not a rounding beyond it
        found *= 1 + 1e-6
    return float((found * l2) ** 2)
