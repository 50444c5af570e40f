"""How much a client's delta counts: step 11 of the flow.

`uniform`: every contributor counts alike; the sum is divided by their number.

`examples`: a client with more rows counts for more (McMahan et al., "Communication-Efficient Learning of Deep Networks
from Decentralized Data", AISTATS 2017, algorithm 1). It scales its delta by w = rows / max_examples and sends w as one
more encrypted value, so that the orchestrator learns the sum of the weights and nobody's row count.
"""

from dataclasses import dataclass

import numpy as np

from shared.config import Config
from shared.errors import EncodingError
from shared.he.scheme import PublicScheme, Vector


@dataclass(frozen=True)
class Limits:
    """What the fixed point of an honest update can hold.

    Attributes:
        step: its smallest positive value, 2**-he_precision_bits.
        largest: the edge of its range, 2**he_integer_bits.
    """

    step: float
    largest: float

    @classmethod
    def of(cls, config: Config) -> "Limits | None":
        """Those of these settings; None for `he_scheme: none`, whose updates are plain float32 numbers."""
        if config.he_scheme == "none":
            return None
        return cls(2.0**-config.he_precision_bits, 2.0**config.he_integer_bits)


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


def average(total: Vector, contributors: int, weighting: str, limits: Limits | None) -> Vector:
    """The mean delta, (size,), of a decrypted sum of `contributors` vectors that `weigh` made.

    A weight is not tied to its delta, and inside a ciphertext it may be negative: without limits one contributor could
    make the sum of the weights next to nothing, and the mean as large as it likes.

    Raises:
        EncodingError: a sum of weights, or a mean, that contributors who keep to the protocol can't have.
    """
    if weighting == "uniform":
        mean = total / contributors
    else:
        least, most = (contributors * limits.step if limits else 0.0), float(contributors)
        if not least <= total[-1] <= most or total[-1] <= 0:
            raise EncodingError(
                f"the weights of {contributors} contributors add up to {total[-1]:g}, expected {least:g} to {most:g}: "
                "a client lies about its weight"
            )
        mean = total[:-1] / total[-1]
    if limits is not None and not (np.abs(mean) <= limits.largest).all():
        raise EncodingError(
            f"a mean delta of {np.abs(mean).max():g} is beyond the fixed-point range of ± {limits.largest:g}, which no "
            "honest updates give: a client lies"
        )
    return mean
