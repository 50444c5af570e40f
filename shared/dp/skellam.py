"""Skellam noise: whole numbers, whose sum over tenants is the noise of one central trainer.

Sk(μ) is the difference of two independent Poisson variables of mean μ/2: mean 0, variance μ. A sum of such is one
again, of the variances' sum, which a rounded Gaussian's is not. So each tenant draws its share of the noise inside its
encoding, before masks, and nobody ever sees, or has to be trusted with, the sum without it.

Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021.
"""

import math
import secrets

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

_SEED_BITS = 256
_MOST_MEAN = 2.0**61  # numpy's Poisson returns 64-bit integers


def draw(variance: float, size: int) -> NDArray[np.int64]:
    """(size,) independent values of Sk(variance).

    The generator is seeded by the system for this call alone; never by `seed`, which others know.

    Raises:
        ValueError: a variance that is negative, or beyond what 64 bits hold.
    """
    if not 0.0 <= variance <= _MOST_MEAN:
        raise ValueError(f"variance {variance:g}: expected 0 to {_MOST_MEAN:g}")
    generator = np.random.Generator(np.random.PCG64DXSM(secrets.randbits(_SEED_BITS)))
    return generator.poisson(variance / 2, size) - generator.poisson(variance / 2, size)


def tail_bound(variance: float, probability: float) -> float:
    """b such that P(|X| >= b) <= probability, for X of Sk(variance).

    Chernoff: log E exp(tX) = μ (cosh t - 1), so log P(X >= b) <= -μ h(b/μ) with h(x) = x·asinh(x) - √(1+x²) + 1.
    """
    if variance == 0.0:
        return 0.0
    wanted = math.log(2.0 / probability) / variance

    def h(x: float) -> float:
        root = math.sqrt(1.0 + x * x)
        return x * math.asinh(x) - x * x / (root + 1.0)  # √(1+x²) - 1 without cancellation

    high = 1.0
    while h(high) < wanted:
        high *= 2.0
    return float(brentq(lambda x: h(x) - wanted, 0.0, high, xtol=1e-12 * high)) * variance * (1 + 1e-9)


def rdp(order: int, l1: float, l2: float, variance: float) -> float:
    """Rényi divergence of this order between Sk(variance) and itself moved by whole numbers, at most.

    Theorem 3.5 of the paper, for vectors of independent values.

    Args:
        order: α, a whole number above 1.
        l1, l2: norms that the move has at most.
        variance: of each value's noise.
    """
    first = order * l2 * l2 / (2.0 * variance)
    second = ((2.0 * order - 1.0) * l2 * l2 + 6.0 * l1) / (4.0 * variance * variance)
    return first + min(second, 3.0 * l1 / (2.0 * variance))
