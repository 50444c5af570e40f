"""Cells of a column as texts and as numbers, whatever a file has them as."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MISSING = ("", "-", "?", "nan", "nat", "null", "(null)", "none", "na", "n/a", "<na>", "(empty)", "\\n")  # Hive's is \N
# Below this share of numbers a column is one of names. Not 1: a damaged cell must not change the features.
NUMERIC_SHARE = 0.5
_WHOLE = r"^([-+]?\d+)\.0+$"  # a whole number that was a fraction on its way
_HEXADECIMAL = "0x[0-9a-f]+"  # UNSW-NB15, Bot-IoT and CTU-13 have ICMP's type and code so, in a column of ports
_SEPARATED = r"[-+]?(\d{1,3}([,' \u00a0\u202f]\d{3})+(\.\d+)?|\d+,\d+|\d{1,3}(\.\d{3})+,\d+|\d{1,3}(\.\d{3}){2})"

_NUMBER = r"[-+]?(\d+([.,]\d+)?|[.,]\d+)(e[-+]?\d+)?"
_UNITS = (
    r"[kmgtp]|[kmgt]?i?b|[kmgt]?bit|bytes?|[kmg]?bps|[kmg]?b/s|[kmg]?hz|[nuµμm]?s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?|"
    r"d|days?|pkts?|packets?|pps"
)
# What a person reads as a number, and no parser does.
_WRITTEN_NUMBERS = {
    "numbers with a per cent sign": rf"{_NUMBER}\s?[%‰]",
    "amounts of money": rf"[$€£¥]\s?{_NUMBER}|{_NUMBER}\s?[$€£¥]",
    "numbers with a unit": rf"{_NUMBER}\s?({_UNITS})",
    "clock times": r"\d{1,3}:\d\d(:\d\d([.,]\d+)?)?",
    "dates": r"\d{4}[-/]\d\d?[-/]\d\d?([ t].*)?|\d\d?[-/]\d\d?[-/]\d{2,4}( .*)?|\d\d?\.\d\d?\.\d{4}( .*)?",
}


def texts(values: pa.Array) -> pd.Series:
    """Each cell as a text without surrounding blanks or a byte order mark, as files that were joined have it within;
    empty where there is none. 80.0, 80.00 and 80 are one name; 10.1.2.0 and HTTP/1.0 are what they are.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        values = pa.array([cell and cell.decode("utf-8", "replace") for cell in values.to_pylist()], pa.string())
    try:
        cast = pc.cast(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        cast = pa.array([None if cell is None else str(cell) for cell in values.to_pylist()], pa.string())
    trimmed = pc.utf8_trim_whitespace(pc.utf8_ltrim(pc.fill_null(cast, ""), characters="\ufeff"))
    whole = pc.replace_substring_regex(trimmed, pattern=_WHOLE, replacement=r"\1")
    return pd.Series(whole.to_numpy(zero_copy_only=False), dtype="str")


def numbers(values: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each cell as a number, NaN where there is none, and which cells hold something else, (rows,) each.

    Parquet's times and lengths of time are seconds, whatever unit a file has them in.
    """
    kind = values.type
    if pa.types.is_boolean(kind):
        values = pc.cast(values, pa.int8())
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        # Microseconds, which hold the times of all units but those of thousands of years.
        whole = pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else pa.duration("us")
        values = pc.divide(pc.cast(pc.cast(pc.cast(values, whole, safe=False), pa.int64()), pa.float64()), 1e6)
    if not any(is_kind(kind) for is_kind in _AS_TEXTS):
        try:
            found = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return found, np.zeros(len(found), dtype=np.bool_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.full(len(values), np.nan), np.ones(len(values), dtype=np.bool_)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            trimmed = pc.utf8_trim_whitespace(values)
            return pc.cast(trimmed, pa.float64()).to_numpy(zero_copy_only=False), np.zeros(len(values), dtype=np.bool_)
        except pa.ArrowInvalid:
            pass
    cells = texts(values).str.casefold()
    found = floats(cells)
    read_hexadecimal(cells, found)
    return found, np.isnan(found) & ~cells.isin(MISSING).to_numpy(dtype=np.bool_)


def read_hexadecimal(cells: pd.Series, found: NDArray[np.float64]) -> None:
    """Put in the numbers of cells such as 0x1bb, in lower case, where `found`, (rows,), has none."""
    for row in np.flatnonzero(np.isnan(found) & cells.str.fullmatch(_HEXADECIMAL).to_numpy(dtype=np.bool_)):
        found[row] = float(min(int(cells.iloc[row], 16), 1 << 64))


_AS_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_dictionary,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


def floats(cells: pd.Series) -> NDArray[np.float64]:
    """Each cell as a number, NaN where it is none, infinite where it is too large, (rows,)."""
    try:
        found: NDArray[np.float64] = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, copy=True)
    except OverflowError:  # an integer of hundreds of digits
        found = np.array([_float(str(cell)) for cell in cells], dtype=np.float64)
    return found


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def holds_names(values: pa.Array) -> bool:
    """Whether a column holds names rather than numbers."""
    found, wrong = numbers(values)
    given = np.isfinite(found) | np.isinf(found) | wrong
    return bool(given.any()) and bool(1 - wrong.sum() / given.sum() < NUMERIC_SHARE)


def separated_number(values: pa.Array) -> str:
    """A number with a thousands separator or a decimal comma, where most of a column's texts are such; else empty.

    Which of both it is can't be told: 1,234 is more than a thousand, or little more than one.
    """
    _, wrong = numbers(values)
    if not wrong.any():
        return ""
    odd = texts(values)[wrong]
    such = odd[odd.str.fullmatch(_SEPARATED)]
    return str(such.iloc[0]) if 2 * len(such) > len(odd) else ""


def written_numbers(values: pa.Array) -> str:
    """As what a person would read most of a column's texts: "numbers with a unit", say; empty where they are names."""
    _, wrong = numbers(values)
    odd = texts(values)[wrong].str.casefold()
    for kind, pattern in _WRITTEN_NUMBERS.items():
        if 2 * int(odd.str.fullmatch(pattern).sum()) > len(odd):
            return kind
    return ""


def is_separated(text: str) -> bool:
    """Whether one cell is such a number."""
    return re.fullmatch(_SEPARATED, text) is not None
