"""Times as numbers: seconds since 1970, or the milli-, micro- and nanoseconds that exporters write in their place."""

import numpy as np
from numpy.typing import NDArray

# A time in seconds is below 1e11 until the year 5138, and one in milliseconds above it since 1973.
_UNITS = ((1e17, 10**9, "nanoseconds"), (1e14, 10**6, "microseconds"), (1e11, 10**3, "milliseconds"))


def unit_of(number: float) -> tuple[int, str]:
    """How many of the unit that a time is in make a second, and the unit's name."""
    return next(((per_second, name) for least, per_second, name in _UNITS if abs(number) >= least), (1, "seconds"))


def epoch_seconds(number: float) -> float:
    """A time as seconds since 1970.

    Raises:
        ValueError: no finite number.
    """
    if not np.isfinite(number):
        raise ValueError(f"a time of {number}, expected seconds since 1970")
    return number / unit_of(number)[0]


def in_seconds(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """Times as seconds since 1970, (rows,), and the unit that most of them were in."""
    finite = numbers[np.isfinite(numbers)]
    per_second, name = unit_of(float(np.median(finite))) if len(finite) else (1, "seconds")
    return numbers / per_second, name
