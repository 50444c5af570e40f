"""One randomiser by the comb, against the multiplications that it can't do without."""

import secrets
import statistics
from dataclasses import dataclass

from gmpy2 import mpz

from benchmarks.measuring import seconds
from shared.he.keys import generate_keypair
from shared.he.randomness import Randomiser

_POWERS = 4  # randomisers of one pass: a few milliseconds, so that a pass sees one state of the machine
_PAIRS = 64


@dataclass(frozen=True)
class CombCost:
    """Medians over `passes` interleaved passes.

    Attributes:
        key_bits: bits of n.
        multiplications: what the comb needs, one for each 8 bits of a half-length exponent. The comb's 7 squarings are
            not counted in the limit, so they are part of what is above it.
        randomiser_seconds: one randomiser from `Randomiser.make`, all included: exponent, look-ups, squarings, nap.
        multiplication_seconds: one `a * b % n2` of random operands, in a loop.
        over_limit: randomiser_seconds / (multiplications · multiplication_seconds).
    """

    key_bits: int
    passes: int
    multiplications: int
    randomiser_seconds: float
    multiplication_seconds: float
    over_limit: float


def comb_over_limit(key_bits: int, passes: int) -> CombCost:
    """Measure a key's comb and the multiplication modulo n² in turn."""
    public, _ = generate_keypair(key_bits)
    randomiser = Randomiser(public)
    n2, columns = randomiser.comb.modulus, randomiser.comb.columns
    pairs = [(mpz(secrets.randbelow(int(n2))), mpz(secrets.randbelow(int(n2)))) for _ in range(_PAIRS)]
    loops = max(1, _POWERS * columns // _PAIRS)

    def multiply() -> None:
        for _ in range(loops):
            for a, b in pairs:
                a * b % n2

    power_seconds, multiply_seconds = [], []
    for _ in range(passes):
        power_seconds.append(seconds(lambda: randomiser.make(_POWERS)) / _POWERS)
        multiply_seconds.append(seconds(multiply) / (loops * _PAIRS))
    power, multiplication = statistics.median(power_seconds), statistics.median(multiply_seconds)
    return CombCost(key_bits, passes, columns, power, multiplication, power / (columns * multiplication))
