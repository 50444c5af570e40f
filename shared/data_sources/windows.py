"""Log records grouped by key and time window, as a stream in bounded memory.

Records arrive in the order of files, which is nearly but not quite the order of time. A window is closed when the
newest record is `LATENESS` seconds past its end: what is held at any moment is the records of so much time.
"""

import logging
import time
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_log = logging.getLogger("data")
# AWS delivers CloudTrail within about 15 minutes of the event, and VPC flow logs within about 10.
LATENESS = 15 * 60
NAMED_VALUES = 20
_CLOCK_SKEW = 24 * 3600  # seconds by which the clock that stamped a record may be ahead of ours


def closed_windows(frames: Iterable[pd.DataFrame], minutes: int, lateness: int | None) -> Iterator[pd.DataFrame]:
    """The same records, each window's together, oldest window first.

    Args:
        frames: records with `time`, int64 seconds since 1970, in any order.
        minutes: length of a window; windows begin at whole multiples of it since 1970.
        lateness: seconds to wait for late records; None waits for the end of the data, whatever its order. A record
            that is later still makes a second row for its window, and is counted in the log.

    Yields:
        Records of closed windows with a column `window`, the window's begin in seconds since 1970, sorted by time.
    """
    length = minutes * 60
    held: list[pd.DataFrame] = []
    newest = edge = -(2**62)
    late = 0
    for frame in frames:
        if frame.empty:
            continue
        frame = frame.assign(window=frame["time"] // length * length)
        late += int((frame["window"] + length <= edge).sum())
        newest = max(newest, int(frame["time"].max()))
        held.append(frame)
        if lateness is None or min(int(part["window"].min()) for part in held) + length > newest - lateness:
            continue
        edge = newest - lateness
        pool = pd.concat(held, ignore_index=True)
        ready = pool["window"] + length <= edge
        held = [pool[~ready]] if not ready.all() else []
        yield _sorted(pool[ready])
    if held:
        yield _sorted(pd.concat(held, ignore_index=True))
    if late:
        _log.warning("%d records came more than %d s late: their windows have a second row", late, lateness)


def latest_time() -> int:
    """The latest time that a record can have, seconds since 1970: now, and a day.

    A later one is no time of an event. Taken for one, it would make every record before it late, and close all windows
    at once.
    """
    return int(time.time()) + _CLOCK_SKEW


def window_families(families: pd.Series, rows: NDArray[np.int64], num_rows: int) -> NDArray[np.str_]:
    """The family of each row: that of its first record that is not benign, (num_rows,)."""
    result = np.full(num_rows, "benign", dtype=object)
    attacks = np.flatnonzero((families != "benign").to_numpy())[::-1]
    result[rows[attacks]] = families.to_numpy(dtype=object)[attacks]  # of equal indices the last one counts
    return result.astype(np.str_)


def most_frequent(rows: NDArray[np.int64], values: pd.Series, num_rows: int) -> list[list[str]]:
    """The values of each row, the most frequent first and at most `NAMED_VALUES` of them, for a person to read."""
    return [list(counts) for counts in frequencies(rows, values, num_rows)]


def frequencies(rows: NDArray[np.int64], values: pd.Series, num_rows: int) -> list[dict[str, int]]:
    """The same with how often each is there."""
    counts = pd.DataFrame({"row": rows, "value": values.to_numpy()}).value_counts(sort=True)
    named: list[dict[str, int]] = [{} for _ in range(num_rows)]
    for (row, value), count in counts.items():
        if len(named[row]) < NAMED_VALUES:
            named[row][str(value)] = int(count)
    return named


def _sorted(records: pd.DataFrame) -> pd.DataFrame:
    # Several records may have one second: by their order in the file, which a stable sort keeps.
    return records.sort_values("time", kind="stable", ignore_index=True)
