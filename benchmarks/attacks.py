"""What bad tenants send in the place of their deltas: the attacks of the field's papers, as functions of honest deltas.

All of them know every honest delta of the round, as their papers assume; (clients, size) in, (size,) out, and every bad
tenant sends the same. The first four are the usual ones of ByzFL and Blades.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from shared.he.scheme import Vector

Deltas = NDArray[np.float64]  # (honest clients, size)
Attack = Callable[[Deltas, int], Vector]  # honest deltas, number of bad clients -> what each of them sends

SCALE, SIGMA, STRENGTH = 10.0, 0.5, 2.0


def sign_flip(honest: Deltas, bad: int) -> Vector:
    """The mean, backwards (Li et al., "RSA", AAAI 2019)."""
    return np.asarray(-honest.mean(axis=0))


def scaling(honest: Deltas, bad: int) -> Vector:
    """The mean, backwards and ten times as long."""
    return np.asarray(-SCALE * honest.mean(axis=0))


def gaussian(honest: Deltas, bad: int) -> Vector:
    """Noise of deviation 0.5, which is far from any delta (Blanchard et al., "Krum", NeurIPS 2017); always the same."""
    return np.asarray(np.random.default_rng(honest.shape[1]).normal(0.0, SIGMA, honest.shape[1]))


def inner_product(honest: Deltas, bad: int) -> Vector:
    """Minus twice the mean: what points away from it (Xie, Koyejo, Gupta, "Fall of Empires", UAI 2019)."""
    return np.asarray(-STRENGTH * honest.mean(axis=0))


def little_is_enough(honest: Deltas, bad: int) -> Vector:
    """z deviations from the mean, z so small that most honest ones are farther out (Baruch et al., NeurIPS 2019)."""
    clients = len(honest) + bad
    supporters = clients // 2 + 1 - bad
    z = NormalDist().inv_cdf((clients - bad - supporters) / (clients - bad))
    return np.asarray(honest.mean(axis=0) - z * honest.std(axis=0, ddof=1))


def min_max(honest: Deltas, bad: int) -> Vector:
    """As far from the mean as keeps it within the honest ones' largest distance (Shejwalkar, Houmansadr, NDSS 2021)."""
    mean, direction = honest.mean(axis=0), -honest.std(axis=0, ddof=1)
    most = max(float(np.linalg.norm(honest - one, axis=1).max()) for one in honest)
    low, high = 0.0, 1.0

    def within(gamma: float) -> bool:
        return float(np.linalg.norm(honest - (mean + gamma * direction), axis=1).max()) <= most

    while within(high) and high < 1e6:
        high *= 2
    for _ in range(math.ceil(math.log2(1e4))):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return np.asarray(mean + low * direction)


VECTORS: dict[str, Attack] = {
    "sign flip": sign_flip,
    "scaling": scaling,
    "Gaussian": gaussian,
    "inner product": inner_product,
    "ALIE": little_is_enough,
    "Min-Max": min_max,
}
