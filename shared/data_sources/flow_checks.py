"""Which flow records are well-formed, and what the others are: numbers become int64, times seconds since 1970."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.cells import MISSING, floats, read_hexadecimal
from shared.data_sources.once import tell_once
from shared.data_sources.record_fields import seconds_of
from shared.data_sources.times import SECONDS, Unit, plausible, unit_of_most
from shared.data_sources.windows import latest_time

_PORTS = ("srcport", "dstport")
_TIMES = ("start", "end")
NUMBERS = (*_PORTS, "protocol", "packets", "bytes", *_TIMES)
NEEDED = ("srcaddr", "dstaddr", *NUMBERS)
_ACTIONS = ("ACCEPT", "REJECT", "", "-")  # a Transit Gateway has none
NO_DATA = ("NODATA", "SKIPDATA")
NO_FLOWS = "NODATA and SKIPDATA records"
Places = Sequence[int | str]  # where each record is in its file: a line's number, or words


def _absent(column: pd.Series) -> NDArray[np.bool_]:
    """Which cells have no value, (rows,)."""
    if pd.api.types.is_numeric_dtype(column):
        return np.zeros(len(column), dtype=np.bool_)
    return np.asarray(column.astype(str).str.lower().isin(MISSING), dtype=np.bool_)


def _has_nul(column: pd.Series) -> NDArray[np.bool_]:
    """Which cells have a NUL character in them, as a crash or a damaged disk leaves it, (rows,)."""
    return np.asarray(column.astype(str).str.contains("\0", regex=False), dtype=np.bool_)


class FlowCheck:
    """The check of one file's flows.

    The unit of its times is that of most among the first, for each of the two columns; ISO 8601 says its own. A time
    that is not plausible in it, before 1990 or more than a day from now, makes its record a broken one.

    Args:
        path: of the file.
        broken: counts broken records, and those that tell of no flow.
    """

    def __init__(self, path: Path, broken: BrokenLines) -> None:
        self._path, self._broken = path, broken
        self._units: dict[str, Unit] = {}

    def checked(self, flows: pd.DataFrame, places: Places) -> pd.DataFrame:
        """The flows whose numbers are numbers; NODATA and SKIPDATA records, which have dashes for them, are no damage.

        Args:
            flows: the fields of `NEEDED`, and all others that there are.
            places: where each of them is.
        """
        flows = flows.reindex(columns=list(dict.fromkeys([*flows, *NEEDED, "action"])), fill_value="")
        empty = self._without_flow(flows)
        self._broken.leave_out(NO_FLOWS, int(empty.sum()))
        flows = flows[~empty].copy()
        there = [place for place, gone in zip(places, empty, strict=True) if not gone]
        good = np.ones(len(flows), dtype=np.bool_)
        for name in (*NEEDED, "action"):
            if name == "action":
                right, expected = ~_has_nul(flows[name]), "ACCEPT or REJECT"
            elif name in NUMBERS:
                values, right, expected = self._numbers(name, flows[name])
            else:
                right, expected = ~(_absent(flows[name]) | _has_nul(flows[name])), "an address"
            for row in np.flatnonzero(good & ~right):
                told = f"{str(flows[name].iloc[row])!r:.60}"
                self._broken.add(self._path, there[row], f"{name} = {told}, expected {expected}")
            good &= right
            if name in NUMBERS:
                flows[name] = np.where(right, values, 0).astype(np.int64)
        flows = flows[good]
        action = flows["action"].str.upper()
        if not action.isin(_ACTIONS).all():
            tell_once(
                f"{self._path}: there are actions that are neither ACCEPT nor REJECT; such flows count as accepted, so "
                "write REJECT for what was refused"
            )
        return flows.assign(action=action)

    def _without_flow(self, flows: pd.DataFrame) -> NDArray[np.bool_]:
        """Which records say by their status, or by having nothing at all, that there was no flow, (rows,)."""
        nothing = np.logical_and.reduce([_absent(flows[name]) for name in ("srcaddr", "dstaddr", "packets", "bytes")])
        if "log-status" in flows:
            nothing |= flows["log-status"].astype(str).str.upper().isin(NO_DATA).to_numpy(dtype=np.bool_)
        return np.asarray(nothing)

    def _numbers(self, name: str, column: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.bool_], str]:
        """A column of numbers, which of them are right, and what was expected, for a person."""
        values = floats(column)
        if name in _TIMES:
            return self._times(name, values, column)
        if name in _PORTS and np.isnan(values).any():
            values[_absent(column)] = 0
            read_hexadecimal(column.astype(str).str.lower(), values)
        return values, (values >= 0) & (values < 2**53) & (values == np.floor(values)), "a whole number"

    def _times(
        self, name: str, numbers: NDArray[np.float64], column: pd.Series
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], str]:
        """A column in whole seconds, which of them are times, and what was expected, for a person."""
        latest = latest_time()
        dated = _dated(numbers, column)
        if name not in self._units and (found := unit_of_most(numbers, latest)):
            self._units[name] = found
            if found != SECONDS:
                tell_once(f"{self._path}: times are in {found.name}, and read so; flow logs of AWS have seconds")
        unit = self._units.get(name, SECONDS)
        right = plausible(numbers, unit, latest) & ((numbers == np.floor(numbers)) | (unit != SECONDS))
        like = "" if unit == SECONDS else ", as most of the file are"
        seconds = np.where(np.isnan(dated), np.floor(numbers / unit.per_second), dated)
        expected = f"{unit.name} since 1970{like}, from 1990 to a day from now, or ISO 8601 with a time of day"
        return seconds, right | ~np.isnan(dated), expected


def _dated(numbers: NDArray[np.float64], column: pd.Series) -> NDArray[np.float64]:
    """Of cells that are no `numbers` the seconds since 1970 where they are ISO 8601, as Athena and Sentinel write times
    and Parquet may hold them; NaN for all others, (rows,).
    """
    found = np.full(len(numbers), np.nan)
    for row in np.flatnonzero(np.isnan(numbers)):
        with contextlib.suppress(ValueError, OverflowError):
            found[row] = seconds_of(str(column.iloc[row]))
    return found
