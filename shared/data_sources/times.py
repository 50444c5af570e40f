"""Times as numbers: seconds since 1970, or the milli-, micro- and nanoseconds that exporters write in their place."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EARLIEST = 631_152_000  # 1990-01-01: no log is older
# A time in seconds is below 1e11 until the year 5138, and one in milliseconds above it since 1973.


class Unit(NamedTuple):
    """How many of a unit make a second, and its name."""

    per_second: int
    name: str


SECONDS = Unit(1, "seconds")
_UNITS = (
    (1e17, Unit(10**9, "nanoseconds")),
    (1e14, Unit(10**6, "microseconds")),
    (1e11, Unit(10**3, "milliseconds")),
    (0.0, SECONDS),
)


def epoch_seconds(number: float) -> float:
    """A time as seconds since 1970.

    Raises:
        ValueError: no finite number.
    """
    if not np.isfinite(number):
        raise ValueError(f"a time of {number}, expected seconds since 1970")
    return number / next(unit.per_second for least, unit in _UNITS if abs(number) >= least)


def plausible(numbers: NDArray[np.float64], unit: Unit, latest: float) -> NDArray[np.bool_]:
    """Which times are from 1990 to `latest` (seconds since 1970) if they are in this unit, (rows,)."""
    return (numbers >= EARLIEST * unit.per_second) & (numbers <= latest * unit.per_second)


def unit_of_most(numbers: NDArray[np.float64], latest: float) -> Unit | None:
    """The unit in which most times are plausible; None where none is in any.

    No time is plausible in two units.
    """
    counts = {unit: int(plausible(numbers, unit, latest).sum()) for _, unit in reversed(_UNITS)}
    unit = max(counts, key=counts.__getitem__)
    return unit if counts[unit] else None
