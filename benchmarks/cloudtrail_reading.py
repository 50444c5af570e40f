"""How fast one big CloudTrail file is read on one core, and that memory does not grow with it.

    python benchmarks/cloudtrail_reading.py                       # 1 GB beside a tenth of it
    python benchmarks/cloudtrail_reading.py --megabytes 100

Made-up calls in one file as AWS delivers it, one JSON object without a line break. This project reads it as
`client/score.py` does: records to features of principals and windows, each record in a row or counted as left out. Its
peer is `json.load`, which makes records alone and holds them all, and can't be given the whole file where memory is
short: it reads the tenth. Each reading is in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.example_cloudtrail import event
from benchmarks.report import Sheet
from shared.config import load_config
from shared.console import console
from shared.data_sources import cloudtrail
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.source_types import Inputs

ROOT = Path(__file__).resolve().parent.parent
_CALLS = ("s3:ListBuckets", "ec2:DescribeInstances", "lambda:UpdateFunctionConfiguration", "iam:GetUser")
_USERS, _START = 50, 1_760_054_400  # 2025-10-10 00:00 UTC, seconds since 1970
_A_SECOND = 20  # calls


@dataclass(frozen=True)
class Reading:
    """One reading of one file.

    Attributes:
        records: that came of it.
        cpu_seconds: of the process, without its imports.
        added_bytes: the most that it had in memory, beyond what it had before it read (VmHWM less VmRSS).
    """

    records: int
    cpu_seconds: float
    added_bytes: int


def write_records(path: Path, size: int, seed: int = 0) -> int:
    """Fill a file with so many bytes of records, {"Records": [...]} on one line. Returns how many there are."""
    random, number = np.random.default_rng(seed), 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"Records":[')
        while file.tell() < size:
            users, calls = random.integers(_USERS, size=10_000), random.integers(len(_CALLS), size=10_000)
            made = []
            for user, call in zip(users, calls, strict=True):
                address = f"198.51.100.{user}"
                second = _START + number // _A_SECOND
                made.append(json.dumps(event("0", int(user), _CALLS[call], second, address, number)))
                number += 1
            file.write(("," if number > len(made) else "") + ",".join(made))
        file.write("]}")
    return number


def rows_of(path: Path) -> int:
    """Read as `client/score.py` does; the records that are in rows or were left out."""
    config = load_config(ROOT / "config/cloudtrail.yaml")
    inputs, broken = Inputs(path, labelled=False), BrokenLines(path, config.max_broken_share)
    chunks = cloudtrail.stream(config, inputs, cloudtrail.schema(config, inputs), broken)
    return sum(int(chunk.meta["events"].sum()) for chunk in chunks) + broken.left_out.total()


def json_load(path: Path) -> int:
    """Read by the standard library, whole."""
    with path.open(encoding="utf-8") as file:
        return len(json.load(file)["Records"])


READERS: dict[str, Callable[[Path], int]] = {"this project": rows_of, "json.load": json_load}


def read(name: str, path: Path) -> Reading:
    """One reading; to be called in a new process, which it keeps to one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    before, start = _memory("VmRSS"), time.process_time()
    records = READERS[name](path)
    seconds = time.process_time() - start
    return Reading(records, seconds, _memory("VmHWM") - before)


def _memory(name: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def in_new_process(name: str, path: Path) -> Reading:
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(read, name, path).result()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="CloudTrail records a second on one core, and memory.")
    parser.add_argument("--megabytes", type=int, default=1000, help="of the big file (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=3, help="over the tenth of it (default: %(default)s)")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tenth, whole = Path(folder) / "tenth.json", Path(folder) / "whole.json"
        sizes = {tenth: args.megabytes * 10**5, whole: args.megabytes * 10**6}
        records = {path: write_records(path, size) for path, size in sizes.items()}
        for name, path, passes in [*((name, tenth, args.passes) for name in READERS), ("this project", whole, 1)]:
            found = [in_new_process(name, path) for _ in range(passes)]
            if any(one.records != records[path] for one in found):
                raise ArithmeticError(f"{name} read {found[0].records} of {records[path]} records")
            rate = statistics.median(one.records / one.cpu_seconds for one in found)
            added = max(one.added_bytes for one in found)
            size = f"{path.stat().st_size / 1e6:,.0f}"
            rows.append([name, size, f"{records[path]:,}", f"{rate:,.0f}", f"{added / 1e6:,.0f}"])
    sheet = Sheet("CloudTrail, one core", ["reader", "file MB", "records", "records / CPU s", "memory MB"], rows)
    console.print(sheet.as_rich())
    console.print(sheet.as_markdown(), markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
