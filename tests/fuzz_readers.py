"""Mutated files of real shapes against the readers of a tenant's logs and tables.

    make fuzz_readers                                                          # 20,000 files, ten minutes
    .venv/bin/python -m tests.fuzz_readers --inputs 500 --seed 7               # fewer, and others
    .venv/bin/python -m tests.fuzz_readers --replay logs/fuzz-readers-….ct     # one that failed, again

Three things must hold of each file: whatever comes out is rows or a `DataError`; it takes no more than `SECONDS`
of a processor; and each record that was read became part of a row or was counted as broken or left out. Of files in
which whole lines were replaced by garbage it is known how many those are. What breaks one of them is saved under
`logs/`, and the run fails.
"""

import argparse
import contextlib
import logging
import random
import signal
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.config import Config
from shared.data_sources import audit, cloudtrail, csv, json_values, ocsf, vpc_flow
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.source_types import Inputs
from shared.errors import DataError
from tests.fuzz_shapes import RECORDS, Shape, shapes

LOGS = Path(__file__).resolve().parent.parent / "logs"
SECONDS = 20  # of a processor, for a file of some kB: a busy machine, or one that was suspended, is no hang
READERS = {"cloudtrail": cloudtrail, "csv": csv, "vpc_flow": vpc_flow, "audit": audit, "ocsf": ocsf, "ocsf_flows": ocsf}
# What the settings of a reader have beside its name, by the source here.
_SETTINGS: dict[str, dict[str, Any]] = {
    "csv": {"csv_label_column": "Label"},
    "cloudtrail": {"label_field": "userAgent", "label_patterns": ("x",)},
    "audit": {"label_field": "severity", "label_patterns": ("x",)},
    "ocsf": {"label_field": "status", "label_patterns": ("x",)},
    "ocsf_flows": {
        "data_source": "ocsf", "ocsf_events": "flows", "label_field": "status", "label_patterns": ("x",),
    },
}  # fmt: skip
_TOKENS = [
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r\n", b"\\", b"\\u0000", b"\\ud800", b"null", b"1e999", b"\0",
    b"-", b"0x1", b"9" * 400, b"\xff\xfe", b"\xef\xbb\xbf", b'{"Records":[', b'{"a":' * 30, b"[" * 2000, b"#fields",
    b"sep=;\n", b" ", b"\t", b"-1", b"nan", b"Infinity", b"true", b"1767600000000", b'""', b"eventTime", b"srcaddr",
]  # fmt: skip
_GARBAGE = (b"garbage", b"no such thing here", b"x", b"%%% ???", b"not a record; at all")

# As they are, and so small that long files are read in many pieces: which of both, the file's bytes decide.
_SIZES = ((json_values._READ, json_values.WHOLE), (64, 300))

Outcome = str  # "rows" or "DataError"


class FuzzError(Exception):
    """A file that breaks what must hold of every file."""


class _TooLongError(BaseException):
    """Not an `Exception`: nothing may catch it on its way."""


def mutated(content: bytes, others: Sequence[bytes], dice: random.Random) -> bytes:
    """The content after one to four changes of a few bytes, a slice, or the end."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.choice((1, 1, 3, 20, 200)))
        match dice.randrange(7):
            case 0:
                data[at:at] = dice.choice(_TOKENS)
            case 1:
                data[at:end] = dice.choice(_TOKENS)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                del data[at:]
            case 5 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case _:
                other = dice.choice(others)
                start = dice.randrange(len(other))
                data[at:at] = other[start : start + 200]
    return bytes(data)


def garbled(shape: Shape, dice: random.Random) -> tuple[bytes, int]:
    """The content with some of its records' lines as garbage, and how many of them are left."""
    assert shape.by_lines is not None
    lines = shape.content.split(b"\n")
    places = dice.sample(range(shape.by_lines + 1, len(lines)), dice.randint(1, 5))  # the first tells what the file is
    for place in places:
        lines[place] = dice.choice(_GARBAGE)
    return b"\n".join(lines), RECORDS - len(places)


def read(source: str, path: Path) -> tuple[int, BrokenLines]:
    """The records of a file that became part of a row, and all others, counted.

    Raises:
        DataError: the file is refused.
    """
    values: dict[str, Any] = {
        "data_source": source,
        "data_path": str(path),
        "partition": "even",
        "max_broken_share": 1.0,
    }
    values |= _SETTINGS.get(source, {"labels": "none"})
    config = Config(**values)
    inputs, broken = Inputs(path, labelled=config.labels != "none"), BrokenLines(path, 1.0)
    reader = READERS[source]
    parts = list(reader.stream(config, inputs, reader.schema(config, inputs), broken))
    assert all(np.isfinite(part.features).all() for part in parts)
    if source == "csv":
        return sum(len(part.features) for part in parts), broken
    column = "flows" if source in ("vpc_flow", "ocsf_flows") else "events"
    return sum(int(part.meta[column].sum()) for part in parts), broken


def try_file(source: str, content: bytes, folder: Path, expected: int | None = None) -> Outcome:
    """Read one file, and check what must hold.

    Raises:
        FuzzError: it does not.
    """
    path = folder / f"input.{ {'csv': 'csv', 'vpc_flow': 'log'}.get(source, 'json') }"
    path.write_bytes(content)
    try:
        with _time_limit(), _sizes(*_SIZES[zlib.crc32(content) % 2]):
            records, broken = read(source, path)
    except DataError:
        return "DataError"
    except _TooLongError:
        raise FuzzError(f"more than {SECONDS} seconds") from None
    except Exception as error:
        raise FuzzError(f"{type(error).__name__}: {error}") from error
    told = records + broken.broken + broken.left_out.total()
    if told != broken.lines:
        raise FuzzError(
            f"{broken.lines} records read; {records} in rows, {broken.broken} broken, left out {dict(broken.left_out)}"
        )
    if expected is not None and (records, broken.lines) != (expected, RECORDS):
        raise FuzzError(f"{records} records of {broken.lines} in rows, expected {expected} of {RECORDS}")
    return "rows"


@contextlib.contextmanager
def _sizes(piece: int, whole: int) -> Iterator[None]:
    """With so many characters read at once, and so long a JSON value taken for one that fits into memory."""
    before = json_values._READ, json_values.WHOLE
    json_values._READ, json_values.WHOLE = piece, whole
    try:
        yield
    finally:
        json_values._READ, json_values.WHOLE = before


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


Reader = Callable[[str, bytes, Path, int | None], Outcome]


def fuzz(inputs: int, seed: int, logs: Path, attempt: Reader = try_file) -> Counter[str]:
    """Try so many mutated files, of each shape about as many.

    Args:
        inputs: how many.
        seed: equal ones give equal files.
        logs: where a file that failed is saved.
        attempt: what is tried with each.

    Raises:
        FuzzError: at the first that failed.
    """
    dice = random.Random(seed)
    outcomes: Counter[str] = Counter()
    contents = [shape.content for shape in shapes().values()]
    names = list(shapes())
    with tempfile.TemporaryDirectory() as folder:
        for number in range(inputs):
            name = names[number % len(names)]
            shape = shapes()[name]
            expected = None
            if shape.by_lines is not None and dice.random() < 0.3:
                content, expected = garbled(shape, dice)
            else:
                content = mutated(shape.content, contents, dice)
            try:
                outcomes[f"{shape.source} {attempt(shape.source, content, Path(folder), expected)}"] += 1
            except FuzzError as error:
                logs.mkdir(exist_ok=True)
                saved = logs / f"fuzz-readers-{seed}-{number}.{shape.source}"
                saved.write_bytes(content)
                raise FuzzError(f"{name}: {error}; saved as {saved}") from error
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and print what came of it; 1 if a file failed."""
    parser = argparse.ArgumentParser(description="Mutated files against the readers of logs and tables.")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path)
    args = parser.parse_args(arguments)
    logging.getLogger("data").setLevel(logging.CRITICAL)
    try:
        if args.replay:
            with tempfile.TemporaryDirectory() as folder:
                print(try_file(args.replay.suffix[1:], args.replay.read_bytes(), Path(folder)))
        else:
            print(dict(sorted(fuzz(args.inputs, args.seed, LOGS).items())))
    except FuzzError as error:
        print(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
