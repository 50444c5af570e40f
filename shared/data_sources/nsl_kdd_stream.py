"""New records in the form of NSL-KDD, for scoring: comma-separated, without a header, and without need of a label.

`nsl_kdd.py` reads the data set itself, of which it accepts no damage. Here a broken line is skipped and counted.
"""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from shared.config import Config
from shared.data_sources import files as data_files
from shared.data_sources import nsl_kdd
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.files import opened_text
from shared.data_sources.nsl_kdd_schema import ATTACK_NAME, COLUMNS, NUMERIC, SYMBOLS
from shared.data_sources.schema import FeatureSchema
from shared.data_sources.source_types import Chunk, Inputs

CHUNK_LINES = 20_000
_FIELDS = COLUMNS[: COLUMNS.index(ATTACK_NAME)]


def schema_like(config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
    """The public columns, whatever the file."""
    return nsl_kdd.schema(config, None)


def stream(config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None = None) -> Iterator[Chunk]:
    """All records, without families. `meta` has `file`, `line`, `protocol_type`, `service` and `flag`.

    A line may end with the 41 fields, or have the attack's name and the difficulty after them, which are not read.

    Raises:
        DataError: a file can't be read, or too many lines are broken.
    """
    broken = broken or BrokenLines(inputs.path, config.max_broken_share)
    for path in data_files.list_files(inputs.path, (".txt", ".csv"), lambda _: False):
        with opened_text(path) as text:
            line = 1
            while lines := list(islice(text, CHUNK_LINES)):
                good: dict[int, str] = {}
                for number, content in enumerate(lines, start=line):
                    found = content.count(",") + 1
                    if len(_FIELDS) <= found <= len(COLUMNS):
                        good[number] = ",".join(content.rstrip("\r\n").split(",")[: len(_FIELDS)])
                    elif content.strip():
                        broken.add(path, number, f"{found} fields, expected {len(_FIELDS)} or {len(COLUMNS)}")
                if good:
                    yield _chunk(path, good, broken)
                broken.seen(len(lines))
                line += len(lines)
    broken.report()


def _chunk(path: Path, lines: dict[int, str], broken: BrokenLines) -> Chunk:
    table = pd.read_csv(
        io.StringIO("\n".join(lines.values())),
        header=None,
        names=list(_FIELDS),
        dtype=dict.fromkeys(SYMBOLS, str),
        na_filter=False,
        low_memory=False,  # else one column may come as texts in some parts and as numbers in others
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
    )
    numbers = np.column_stack([pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in NUMERIC])
    # Written so that NaN, which compares False with everything, is wrong too.
    right = (numbers >= 0) & (numbers <= nsl_kdd.MAX_NUMBER)  # (rows, 38)
    good = right.all(axis=1)
    line = np.fromiter(lines, dtype=np.int64, count=len(lines))
    for row in np.flatnonzero(~good):
        name = NUMERIC[int(right[row].argmin())]
        broken.add(path, int(line[row]), f"{name} = {table[name].iloc[row]!r}, expected a number from 0")
    symbols = np.column_stack([pd.Index(known).get_indexer(table[name]) for name, known in SYMBOLS.items()])
    meta = pd.DataFrame({"file": path.name, "line": line, **{name: table[name] for name in SYMBOLS}})[good]
    unlabelled = np.full(len(meta), "")
    return Chunk(
        meta.reset_index(drop=True), nsl_kdd.raw_features(numbers[good], symbols[good]), unlabelled, unlabelled
    )
