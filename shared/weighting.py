"""How much a client's delta counts: step 11 of the flow.

`uniform`: every contributor counts alike; the sum is divided by their number.

`examples`: a client with more rows counts for more (McMahan et al., "Communication-Efficient Learning of Deep Networks
from Decentralized Data", AISTATS 2017, algorithm 1). It scales its delta by w = rows / max_examples and sends w as one
more encrypted value, so that the orchestrator learns the sum of the weights and nobody's row count.
"""

import numpy as np

from shared.config import Config
from shared.he_utils import PublicScheme, Vector


def encrypted_size(size: int, weighting: str) -> int:
    """Values that a delta of `size` values takes on the wire."""
    return size + 1 if weighting == "examples" else size


def weigh(delta: Vector, examples: int, config: Config, scheme: PublicScheme[object]) -> Vector:
    """The vector to encrypt for a delta, (size,): itself, or weighted and with its weight at the end, (size + 1,)."""
    if config.weighting == "uniform":
        return delta
    # Of at least one step, so that no client's weight is lost, and rounded first: the delta is scaled by exactly the
    # weight that the sum of weights will hold.
    step = 2.0**-config.he_precision_bits
    share = min(max(examples / config.max_examples, step), 1.0)
    weight = scheme.quantise(np.array([share]))[0]
    return np.append(delta * weight, weight)


def average(total: Vector, contributors: int, weighting: str) -> Vector:
    """The mean delta, (size,), of a decrypted sum of `contributors` vectors that `weigh` made."""
    if weighting == "uniform":
        return total / contributors
    weighted_sum: Vector = total[:-1] / total[-1]
    return weighted_sum
