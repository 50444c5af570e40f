"""Files of records as columns, some rows at a time: CSV, Parquet, and JSON with one record in each value.

Of JSON a field within a field is a column `outer.inner`, as Suricata's and Zeek's logs have them. What is a list, and
in Parquet whatever is nested, is no column: the log names it.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shared.data_sources import files as data_files
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.cells import texts
from shared.data_sources.csv_layout import Layout, SplitAtBlanks, bare, layout_of, unique_names
from shared.data_sources.files import Utf8Stream, opened_json, opened_text
from shared.data_sources.json_values import LIST_KEYS, JsonValues, Value, begins_as_json
from shared.data_sources.quotes import WatchedQuotes
from shared.errors import DataError, OddFileError

_log = logging.getLogger("data")
CHUNK_BYTES = 4 << 20  # of a CSV file
CHUNK_ROWS = 20_000  # of a Parquet or JSON file
MOST_LEVELS = 20  # of fields within fields
_JSON_SAMPLE = 1_000  # records by which the columns of a JSON file are known
COMMENTS, REPEATED_HEADER, BLANK_ROW = "comment lines", "repeated header lines", "rows without a value"


@dataclass(frozen=True)
class Batch:
    """Some rows of a file as Arrow columns; `lines`, (rows,), where they are in it: Parquet rows count from 1."""

    lines: NDArray[np.int64]
    columns: dict[str, pa.Array]
    rows: int


@dataclass(frozen=True)
class Table:
    """One file.

    Attributes:
        path: of it.
        names: of its columns.
        layout: of a CSV file; None for the others.
    """

    path: Path
    names: tuple[str, ...]
    layout: Layout | None = None


def table_of(path: Path, column_names: Sequence[str] = ()) -> Table:
    """The columns of a file, from its begin.

    Raises:
        OddFileError: it is empty or damaged.
        DataError: it can't be read, or its columns can't be told apart.
    """
    if data_files.is_parquet(path):
        with _parquet(path) as table:
            schema = table.schema_arrow
        nested = [field.name for field in schema if pa.types.is_nested(field.type)]
        if nested:
            _tell_nested(path, ", ".join(nested))
        return Table(path, tuple(unique_names(path, [name for name in schema.names if name not in nested])))
    head = data_files.head(path)
    if begins_as_json(head):
        return Table(path, _json_names(path))
    layout = layout_of(path, column_names)
    return Table(path, layout.names, layout)


@lru_cache(maxsize=256)  # a file's columns are asked for some times
def _tell_nested(path: Path, names: str) -> None:
    _log.warning("%s: columns that hold lists or structures are no features: %s", path, names)


def batches(table: Table, needed: Sequence[str], broken: BrokenLines | None) -> Iterator[Batch]:
    """The rows of a file with these columns.

    Args:
        table: of the file.
        needed: names of columns, each of which it has.
        broken: counts rows that have too few or too many cells, and what is no row; None: nobody wants to know.

    Raises:
        OddFileError: it is damaged or cut off; the rows before that were given.
        DataError: it can't be read.
    """
    if table.layout is not None:
        yield from _csv_batches(table.path, table.layout, needed, broken)
    elif data_files.is_parquet(table.path):
        yield from _parquet_batches(table.path, needed)
    else:
        yield from _json_batches(table.path, needed, broken)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise OddFileError(f"{path}: not a readable Parquet file: {error}") from None


def _parquet_batches(path: Path, needed: Sequence[str]) -> Iterator[Batch]:
    before = 0
    with _parquet(path) as table:
        kept = [field.name for field in table.schema_arrow if not pa.types.is_nested(field.type)]
        names = table.schema_arrow.names
        place = {name: names.index(old) for name, old in zip(unique_names(path, kept), kept, strict=True)}
        try:
            for batch in table.iter_batches(batch_size=CHUNK_ROWS):
                lines = np.arange(before + 1, before + batch.num_rows + 1)
                yield Batch(lines, {name: batch.column(place[name]) for name in needed}, batch.num_rows)
                before += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise OddFileError(f"{path}: damaged after {before} rows: {' '.join(str(error).split())[:200]}") from None


def _csv_batches(path: Path, layout: Layout, needed: Sequence[str], broken: BrokenLines | None) -> Iterator[Batch]:
    """Columns as texts."""
    good_before = 0
    skipped: list[int] = []  # numbers of records, from 0
    watched: WatchedQuotes

    def skip(row: pacsv.InvalidRow) -> str:
        record = (row.number or 1) - 1
        skipped.append(record)
        if broken is not None:
            if row.text.startswith("#"):
                broken.leave_out(COMMENTS)
            elif not row.text.strip():
                broken.leave_out(BLANK_ROW)
            else:
                line = int(watched.lines_of(np.array([record]))[0])
                broken.add(path, line, f"{row.actual_columns} cells, expected {row.expected_columns}")
            broken.seen(1)
        return "skip"

    with opened_text(path) as text:
        for _ in range(layout.skip):
            text.readline()
        cells = SplitAtBlanks(text, layout.delimiter) if layout.blanks else text
        watched = WatchedQuotes(cells, path, layout.delimiter, layout.skip + 1)
        try:
            reader = pacsv.open_csv(
                pa.PythonFile(Utf8Stream(watched), mode="r"),
                # One thread, so that a broken row knows its line.
                read_options=pacsv.ReadOptions(
                    column_names=list(layout.names), block_size=CHUNK_BYTES, use_threads=False
                ),
                parse_options=pacsv.ParseOptions(
                    delimiter=layout.delimiter, newlines_in_values=True, invalid_row_handler=skip
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(needed, pa.string()), include_columns=list(needed)
                ),
            )
            with reader:  # left open after an error, its thread takes the process down at the end
                for batch in reader:
                    good = np.arange(good_before, good_before + batch.num_rows)  # the rank among good rows, from 0
                    # Skipped record number k (from 0) stands before the good row of rank record - k.
                    ranks = np.array(skipped, dtype=np.int64) - np.arange(len(skipped))
                    lines = watched.lines_of(good + np.searchsorted(ranks, good, side="right"))
                    found = Batch(lines, {name: batch.column(name) for name in needed}, batch.num_rows)
                    other = _other_header(layout, found)
                    if other is not None:
                        yield Batch(lines[:other], {n: c[:other] for n, c in found.columns.items()}, other)
                        raise OddFileError(
                            f"{path}, line {lines[other]}: another header, with its columns in another order; make a "
                            "file of what follows it"
                        )
                    yield found
                    good_before += batch.num_rows
        except pa.ArrowInvalid as error:
            told = " ".join(str(error).split())[:200]
            if "Empty CSV" in told:  # a header and nothing after it
                return
            raise DataError(f"{path}: {told}; expected well-formed rows") from None


def _other_header(layout: Layout, batch: Batch) -> int | None:
    """The first row that has names of columns alone, and not those of its own; None where there is none."""
    names = {_as_a_cell(cell) for cell in layout.header}
    own = dict(zip(layout.names, layout.header, strict=False))
    rows = np.arange(batch.rows if len(batch.columns) > 1 else 0)
    for column in batch.columns.values():
        if not len(rows):
            return None
        rows = rows[texts(column.take(rows)).str.casefold().isin(names).to_numpy(dtype=np.bool_)]
    for row in rows.tolist():
        cells = [texts(column[row : row + 1]).iloc[0].casefold() for column in batch.columns.values()]
        if len(set(cells)) == len(cells) and cells != [_as_a_cell(own[name]) for name in batch.columns]:
            return int(row)
    return None


def _as_a_cell(name: str) -> str:
    """The name of a column as a row has it that is the header once more, in lower case."""
    return str(texts(pa.array([bare(name)])).iloc[0]).casefold()


def with_nul(columns: Iterable[pa.Array], rows: int) -> NDArray[np.bool_]:
    """Which rows have a NUL character in one of these columns, (rows,): what a crash or a damaged disk leaves."""
    found = np.zeros(rows, dtype=np.bool_)
    for column in columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            there = pc.fill_null(pc.match_substring(column, "\0"), False)
            found |= there.to_numpy(zero_copy_only=False)
    return found


def no_records(table: Table, batch: Batch, broken: BrokenLines) -> NDArray[np.bool_]:
    """Which rows of a CSV file are none, (rows,): the header once more, as CIC-IDS-2018 and files that were joined have
    it, or separators alone, as Excel saves.
    """
    if table.layout is None or not batch.columns:
        return np.zeros(batch.rows, dtype=np.bool_)
    header = dict(zip(table.names, table.layout.header, strict=False))
    again = np.full(batch.rows, bool(header))
    blank = np.ones(batch.rows, dtype=np.bool_)
    for name, column in batch.columns.items():
        if not again.any() and not blank.any():
            break
        cells = texts(column)
        # After a byte order mark a quote is no quote any more.
        written = cells[again].str.strip('"').str.casefold()
        again[again] = (written == _as_a_cell(header.get(name, ""))).to_numpy(dtype=np.bool_)
        blank &= (cells == "").to_numpy(dtype=np.bool_)
    if len(batch.columns) == 1:
        blank[:] = False  # a table of one column: an empty cell is a value that is missing
    broken.leave_out(REPEATED_HEADER, int(again.sum()))
    broken.leave_out(BLANK_ROW, int((blank & ~again).sum()))
    return again | blank


def _json_names(path: Path) -> tuple[str, ...]:
    names: dict[str, None] = {}
    lists: dict[str, None] = {}
    for found in islice(_json_records(path), _JSON_SAMPLE):
        if isinstance(found.value, dict):
            for name, value in flat(found.value):
                (lists if isinstance(value, list | dict) else names)[name] = None
    if not names:
        raise OddFileError(f"{path}: no JSON objects; expected records, one in each value")
    left_out = [name for name in lists if name not in names]
    if left_out:
        _tell_nested(path, ", ".join(left_out))
    return tuple(unique_names(path, list(names)))


def _json_batches(path: Path, needed: Sequence[str], broken: BrokenLines | None) -> Iterator[Batch]:
    records = _json_records(path)
    while part := list(islice(records, CHUNK_ROWS)):
        good = []
        for found in part:
            if isinstance(found.value, dict):
                good.append(found)
            elif broken is not None:
                broken.add(path, found.where, found.broken or f"expected an object, found {str(found.value)[:60]!r}")
                broken.seen(1)
        cells = [dict(flat(found.value)) for found in good]
        columns = {name: pa.array([_cell(record.get(name)) for record in cells], pa.string()) for name in needed}
        yield Batch(np.array([found.line for found in good], dtype=np.int64), columns, len(good))


def _json_records(path: Path) -> Iterator[Value]:
    with opened_json(path) as text:
        for found in JsonValues(text):
            for record in _listed(found.value) if not found.broken else (None,):
                yield Value(found.line, found.item, record, found.broken)


def _listed(value: Any, level: int = 0) -> Iterator[Any]:
    """The records in a list, or in what a search engine answers."""
    if isinstance(value, list) and level < MOST_LEVELS:
        for item in value:
            yield from _listed(item, level + 1)
        return
    if isinstance(value, dict) and level < MOST_LEVELS:
        for key in LIST_KEYS & value.keys():
            inner = value[key]
            if isinstance(inner, dict) or (isinstance(inner, list) and all(isinstance(item, dict) for item in inner)):
                yield from _listed(inner, level + 1)
                return
        for key in ("_source", "result"):
            if isinstance(value.get(key), dict):
                yield value[key]
                return
    yield value


def flat(record: dict[str, Any], level: int = 0) -> Iterator[tuple[str, Any]]:
    """The fields of a record, those within a field as `outer.inner`; lists stay what they are."""
    for key, value in record.items():
        if isinstance(value, dict) and level < MOST_LEVELS:
            for name, inner in flat(value, level + 1):
                yield f"{key}.{name}", inner
        else:
            yield key, value


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if value else value
    return json.dumps(value)
