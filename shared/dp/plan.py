"""How a run with `privacy: records` spends its budget: the noise of each sum, from the settings alone.

Every tenant, and the orchestrator, derive the same plan. One record changes a round's sum by its clipped gradient, and
the counts of the features by one in each column.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from shared.config import Config
from shared.dp import skellam
from shared.dp.accountant import Release, epsilon_of, least_variance
from shared.errors import ConfigError
from shared.he.scheme import Vector

OVERFLOW = 2.0**-40  # chance that any value of any sum of the run is beyond its slot; counted into delta
_LEAST_ROOM = 8.0  # of a value of a sum, in clipped gradients


@dataclass(frozen=True)
class PrivacyPlan:
    """The plan.

    Attributes:
        rounds: sums of gradients that the budget is for.
        epsilon, delta: of all of them together, and of the features' counts.
        clip: the longest that a record's gradient may be, in the L2 norm.
        unit: steps of the fixed point in 1.0; noise is drawn in these.
        most: that a value of a tenant's sum is cut to, before the noise.
        gradients: what one round releases; its norms and variance are in steps of the fixed point.
        counts: what the sum of the features' counts releases, in rows.
    """

    rounds: int
    epsilon: float
    delta: float
    clip: float
    unit: float
    most: float
    gradients: Release
    counts: Release

    @classmethod
    def of(cls, config: Config, parameters: int, features: int) -> "PrivacyPlan":
        """The one of these settings, for a model of so many parameters and rows of so many features.

        Raises:
            ConfigError: no noise keeps the budget, or the fixed point has no room for it.
        """
        c = config
        return _plan(
            c.num_rounds, c.dp_target_epsilon, c.dp_delta, c.dp_sampling_rate, c.dp_clip, c.dp_statistics_share,
            c.he_precision_bits, c.he_integer_bits, parameters, features,
        )  # fmt: skip

    def signal_to_noise(self, total: Vector, contributors: int, sharers: int) -> float:
        """Length of a sum without its noise over the length of the noise, by what is expected of both.

        Args:
            total: the sum, (size,).
            contributors: whose shares of the noise are in it.
            sharers: that each share was sized for.
        """
        noise = total.size * self.gradients.variance * contributors / sharers / (self.unit * self.unit)
        return math.sqrt(max(0.0, float(total @ total) / noise - 1.0))

    def spent(self, rounds: int) -> float:
        """ε after the features' counts and so many rounds."""
        return epsilon_of(self.counts.rdp() + rounds * self.gradients.rdp(), self.delta - OVERFLOW)


def release_of_counts(config: Config, features: int) -> Release:
    """What the sum of the features' counts releases: a record has a place in one bin of each feature.

    Raises:
        ConfigError: no noise keeps its share of the budget.
    """
    c = config
    return _counts(c.dp_target_epsilon, c.dp_delta, c.dp_statistics_share, features)


@lru_cache(maxsize=16)
def _counts(epsilon: float, delta: float, share: float, features: int) -> Release:
    l1, l2 = float(features), math.sqrt(features)
    return Release(l1, l2, least_variance(l1, l2, 1.0, 1, share * epsilon, delta - OVERFLOW))


@lru_cache(maxsize=16)
def _plan(
    rounds: int,
    epsilon: float,
    delta: float,
    rate: float,
    clip: float,
    share: float,
    precision_bits: int,
    integer_bits: int,
    parameters: int,
    features: int,
) -> PrivacyPlan:
    if delta <= 2 * OVERFLOW:
        raise ConfigError(f"dp_delta = {delta:g}: expected more than {2 * OVERFLOW:.1g}")
    unit = 2.0**precision_bits
    # A sum is rounded once: two that differ by a vector g differ by less than |g| + 1 in each value when they are.
    l2 = clip * unit + math.sqrt(parameters)
    l1 = math.sqrt(parameters) * l2
    counts = _counts(epsilon, delta, share, features)
    variance = least_variance(l1, l2, rate, rounds, epsilon, delta - OVERFLOW, counts.rdp())
    tail = skellam.tail_bound(variance, OVERFLOW / (rounds * parameters)) / unit
    half = 2.0**integer_bits / 2  # for the sum, and as much for the noise
    needed = max(tail, _LEAST_ROOM * clip)
    if half < needed:
        raise ConfigError(
            f"he_integer_bits = {integer_bits}: half the range is {half:g}, for the noise in a value, which may be "
            f"{tail:.3g}, or for its sum, {_LEAST_ROOM * clip:g} and more; set he_integer_bits to "
            f"{math.ceil(math.log2(2 * needed))} or more"
        )
    return PrivacyPlan(rounds, epsilon, delta, clip, unit, half, Release(l1, l2, variance, rate), counts)
