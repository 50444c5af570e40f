"""Any labelled CSV or Parquet file, or folder of them, one record per row; the settings say which column is what.

A CSV file needs a header line; the separator is the likeliest of `,;|` and tab in it. Names lose surrounding blanks,
and a repeated name gets `.1`, `.2`, ..., unless it is that of the label, the family or the partition. Numbers are
compressed by a symmetric logarithm. A column of names becomes `hash_width` columns of 0 and 1: no client needs to know
which names occur at another.

A row is broken, and skipped, where it has too few or too many cells, no label, or a text in a numeric column. An empty
cell counts as 0; an infinite one, as CIC-IDS has for rates over no time, as a very large number.
"""

import csv
import difflib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources import files as data_files
from shared.data_sources.file_source import Chunk, Inputs
from shared.data_sources.files import BrokenLines, Utf8Stream, opened_text
from shared.data_sources.quotes import WatchedQuotes
from shared.data_sources.schema import (
    SCHEMA_VERSION,
    Column,
    FeatureSchema,
    bucket_columns,
    buckets,
    compressed,
    number_column,
)
from shared.errors import DataError

_log = logging.getLogger("data")
CHUNK_BYTES = 4 << 20  # of a CSV file
CHUNK_ROWS = 20_000  # of a Parquet file
MISSING = ("", "-", "?", "nan", "null", "none", "na", "n/a")
# Below this share of numbers a column is one of names. Not 1: a damaged cell must not change the features.
NUMERIC_SHARE = 0.5
MOST_COLUMNS = 10_000  # more are no table of features, and each costs its part in every row


@dataclass(frozen=True)
class _Batch:
    """Some rows of a file as Arrow columns; `lines`, (rows,), where they are in it: Parquet rows count from 1."""

    lines: NDArray[np.int64]
    columns: dict[str, pa.Array]
    rows: int


def files(path: Path) -> list[Path]:
    """The CSV and Parquet files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    return data_files.list_files(path, (".csv", ".tsv", ".txt", ".parquet"), ())


def schema(config: Config, inputs: Inputs) -> FeatureSchema:
    """Numeric columns in the order of the first file's header, then the hashed ones.

    Which columns hold names is looked up in the first rows, unless `csv_categorical_columns` names them.

    Raises:
        DataError: no file, no header, or a column of the settings is missing.
    """
    path = files(inputs.path)[0]
    names = _header(path)
    special = {config.csv_label_column, config.csv_family_column} - {""}
    _require(path, names, [*sorted(special), *config.csv_drop_columns, *config.csv_categorical_columns])
    _refuse_repeated(path, names, special)
    used = [name for name in names if name not in special and name not in config.csv_drop_columns]
    named = [name for name in used if name in config.csv_categorical_columns]
    if not config.csv_categorical_columns:
        # Broken rows are not counted here: `stream` reads these rows, and judges them, once more.
        first = next(_batches(path, used, None), None)
        named = [name for name in used if first is not None and _holds_names(first.columns[name])]
    columns = [number_column(name) for name in used if name not in named]
    columns += [column for name in named for column in bucket_columns(name, config.hash_width)]
    return FeatureSchema("csv", tuple(columns), config.hash_width, excluded=tuple(sorted(special)))


def schema_like(config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
    """The columns of `learned` that the first file has, in the order of `learned`: a numeric one whose first rows hold
    texts becomes a category. Columns that no feature is made of don't matter.

    Raises:
        DataError: no file, or no column of it is known.
    """
    first = files(path)[0]
    names = set(_header(first))
    kinds = {field: learned.columns[index].kind for field, index in _fields(learned).items()}
    used = [column for column in kinds if column in names]
    if not used:
        raise DataError(f"{first}: none of the columns that the model learned from, such as {next(iter(kinds))!r}")
    rows = next(_batches(first, used, None), None)
    found: list[Column] = []
    for field in used:
        if kinds[field] == "category" or (rows is not None and _holds_names(rows.columns[field])):
            found += bucket_columns(field, learned.hash_width)
        else:
            found.append(number_column(field))
    return replace(learned, columns=tuple(found), version=SCHEMA_VERSION)


def stream(config: Config, inputs: Inputs, schema: FeatureSchema, broken: BrokenLines | None = None) -> Iterator[Chunk]:
    """The rows of all files. `meta` has `file` and `line` (of Parquet: the row); of records to score also the text of
    each column of names, and of each column that is no feature and no label: addresses, times.

    Raises:
        DataError: a column is missing, a file is damaged, or too many rows are broken.
    """
    broken = broken or BrokenLines(inputs.path, config.max_broken_share)
    seen: set[int] = set()
    repeated = 0
    for path in files(inputs.path):
        needed = list(_fields(schema))
        if inputs.labelled:
            label_columns = (config.csv_label_column, config.csv_family_column, config.partition_column)
            needed = list(dict.fromkeys([*needed, *(name for name in label_columns if name)]))
        header = _header(path)
        if inputs.labelled:
            _refuse_repeated(path, header, label_columns)
        _require(path, header, needed)
        if not inputs.labelled:
            told = {config.csv_label_column, config.csv_family_column, *needed}
            needed += [name for name in header if name not in told]
        for batch in _batches(path, needed, broken):
            chunk = _chunk(config, inputs, schema, path, batch, broken)
            if inputs.labelled:
                first = _first_seen(chunk, seen)
                repeated += int((~first).sum())
                if config.csv_drop_duplicates:
                    chunk = _taken(chunk, first)
            yield chunk
    broken.report()
    if repeated:
        advice = "left out" if config.csv_drop_duplicates else "kept; csv_drop_duplicates: true leaves them out"
        _log.info("%s: %d rows equal an earlier one in label and features: %s", inputs.path, repeated, advice)


def _chunk(
    config: Config, inputs: Inputs, schema: FeatureSchema, path: Path, batch: _Batch, broken: BrokenLines
) -> Chunk:
    features = np.zeros((batch.rows, len(schema)), dtype=np.float32)
    good = np.ones(batch.rows, dtype=np.bool_)
    families = groups = np.full(batch.rows, "")
    header_again = np.zeros(batch.rows, dtype=np.bool_)
    if inputs.labelled:
        families, good = _families(config, batch.columns)
        # CIC-IDS-2018 repeats its header within files; that is no damage.
        header_again = (_texts(batch.columns[config.csv_label_column]) == config.csv_label_column).to_numpy()
        if config.partition_column:
            groups = _texts(batch.columns[config.partition_column]).to_numpy(dtype=np.str_)
    reasons = {int(row): "no label" for row in np.flatnonzero(~good & ~header_again)[: data_files.LOGGED_BROKEN_LINES]}
    for column, index in _fields(schema).items():
        if schema.columns[index].kind == "numeric":
            numbers, wrong = _numbers(batch.columns[column])
            features[:, index] = compressed(numbers)
            for row in np.flatnonzero(wrong & good & ~header_again)[: data_files.LOGGED_BROKEN_LINES]:
                reasons[int(row)] = f"column {column} holds a text where numbers are expected"
            good = good & ~wrong
        else:
            bucket = buckets(column, _texts(batch.columns[column]), schema.hash_width)
            features[np.arange(batch.rows), index + bucket] = 1.0
    for row in np.flatnonzero(~good & ~header_again):
        broken.add(path, int(batch.lines[row]), reasons.get(int(row), "broken"))
    broken.seen(batch.rows)
    good = good & ~header_again
    meta = pd.DataFrame({"file": path.name, "line": batch.lines})
    if not inputs.labelled:
        numeric = {column.name for column in schema.columns if column.kind == "numeric"}
        shown = {name: column for name, column in batch.columns.items() if name not in (*numeric, "file", "line")}
        # As Arrow has them: of most rows nobody will look at the texts.
        texts = {name: pd.arrays.ArrowExtensionArray(column) for name, column in shown.items()}
        meta = pd.concat([meta, pd.DataFrame(texts, index=meta.index)], axis=1)  # `assign` takes no column `self`
    return _taken(Chunk(meta, features, families, groups), good)


def _families(config: Config, columns: dict[str, pa.Array]) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """The family of each row in lower case, and which rows have a label at all, (rows,) each."""
    labels = _texts(columns[config.csv_label_column]).str.casefold()
    benign = labels.isin([value.strip().casefold() for value in config.csv_benign_values])
    families = labels
    if config.csv_family_column:
        families = _texts(columns[config.csv_family_column]).str.casefold()
    # A label of 1 names no family, nor does an empty cell, nor "benign" on a row that the label calls an attack.
    families = families.mask(families.isin(["", "1", "true", "benign", "normal"]), "attack")
    return families.mask(benign, "benign").to_numpy(dtype=np.str_), (labels != "").to_numpy(dtype=np.bool_)


def _first_seen(chunk: Chunk, seen: set[int]) -> NDArray[np.bool_]:
    """Which rows equal none before them in features and label, (rows,). Eight bytes of each row are kept."""
    keys = pd.util.hash_pandas_object(pd.DataFrame(chunk.features), index=False).to_numpy()
    keys = keys ^ pd.util.hash_array(np.equal(chunk.families, "benign").astype(np.int64) + 1)
    first = np.zeros(len(keys), dtype=np.bool_)
    for row, key in enumerate(keys.tolist()):
        first[row] = key not in seen
        seen.add(key)
    return first


def _taken(chunk: Chunk, rows: NDArray[np.bool_]) -> Chunk:
    if rows.all():
        return chunk
    meta = chunk.meta[rows].reset_index(drop=True)
    return Chunk(meta, chunk.features[rows], chunk.families[rows], chunk.groups[rows])


def _fields(schema: FeatureSchema) -> dict[str, int]:
    """The fields that features are made of, in order, with the index of the first column of each."""
    first: dict[str, int] = {}
    for index, column in enumerate(schema.columns):
        first.setdefault(column.field, index)
    return first


def _require(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    there = set(names)
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:8])}, ..."
            raise DataError(f"{path}: no column {name!r} among {len(names)}; {advice}")


def _unique(path: Path, names: Sequence[str]) -> list[str]:
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path}: {len(names)} columns, expected at most {MOST_COLUMNS}; is its first line a header?")
    result: list[str] = []
    counts: dict[str, int] = {}
    for name in (name.strip() for name in names):
        counts[name] = counts.get(name, -1) + 1
        result.append(f"{name}.{counts[name]}" if counts[name] else name)
    if len(set(result)) < len(result):
        twice = next(name for name in result if result.count(name) > 1)
        raise DataError(f"{path}: the name {twice!r} is that of a column and of a repeated one; rename one of them")
    return result


def _refuse_repeated(path: Path, names: Sequence[str], special: Iterable[str]) -> None:
    for name in special:
        if f"{name}.1" in names:
            raise DataError(
                f"{path}: two columns are called {name!r}, and the settings name it; rename or remove one of them"
            )


def _header(path: Path) -> list[str]:
    if path.name.lower().endswith(".parquet"):
        with _parquet(path) as table:
            return _unique(path, table.schema_arrow.names)
    return _csv_header(path)[0]


def _csv_header(path: Path) -> tuple[list[str], str]:
    """Names and separator."""
    with opened_text(path) as text:
        line = text.readline()
    if not line.strip():
        raise DataError(f"{path}: empty; expected a header line with the names of the columns")
    delimiter = max(",;\t|", key=line.count)
    return _unique(path, next(csv.reader(io.StringIO(line), delimiter=delimiter))), delimiter


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None


def _batches(path: Path, needed: Sequence[str], broken: BrokenLines | None) -> Iterator[_Batch]:
    good_before = 0
    skipped: list[int] = []
    parquet = path.name.lower().endswith(".parquet")
    batches = _parquet_batches(path) if parquet else _csv_batches(path, needed, broken, skipped)
    try:
        for names, batch in batches:
            lines = np.arange(good_before, good_before + batch.num_rows)  # the rank among good rows, from 0
            if not parquet:
                # Skipped line number k (from 0) stands before the good row of rank line - 2 - k.
                ranks = np.array(skipped, dtype=np.int64) - 2 - np.arange(len(skipped))
                lines = lines + 1 + np.searchsorted(ranks, lines, side="right")  # the header is line 1
            place = {name: index for index, name in enumerate(names)}
            yield _Batch(lines + 1, {name: batch.column(place[name]) for name in needed}, batch.num_rows)
            good_before += batch.num_rows
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {' '.join(str(error).split())[:200]}; expected well-formed rows") from None


def _parquet_batches(path: Path) -> Iterator[tuple[list[str], pa.RecordBatch]]:
    with _parquet(path) as table:
        names = _unique(path, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=CHUNK_ROWS):
            yield names, batch


def _csv_batches(
    path: Path, needed: Sequence[str], broken: BrokenLines | None, skipped: list[int]
) -> Iterator[tuple[list[str], pa.RecordBatch]]:
    """Columns as texts. The numbers of lines that were skipped are appended to `skipped`."""
    names, delimiter = _csv_header(path)

    def skip(row: pacsv.InvalidRow) -> str:
        skipped.append(row.number or 0)
        if broken is not None:
            broken.add(path, row.number or 0, f"{row.actual_columns} cells, expected {row.expected_columns}")
            broken.seen(1)
        return "skip"

    with opened_text(path) as text:
        reader = pacsv.open_csv(
            pa.PythonFile(Utf8Stream(WatchedQuotes(text, path, delimiter)), mode="r"),
            # One thread, so that a broken row knows its line.
            read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=CHUNK_BYTES, use_threads=False),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(needed, pa.string()), include_columns=list(needed)
            ),
        )
        with reader:  # left open after an error, its thread takes the process down at the end
            for batch in reader:
                yield list(needed), batch


def _texts(values: pa.Array) -> pd.Series:
    """Each cell as a text without surrounding blanks; empty where there is none. 80.0 and 80 are one name."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    texts = pc.utf8_trim_whitespace(pc.fill_null(pc.cast(values, pa.string()), ""))
    return pd.Series(texts.to_numpy(zero_copy_only=False), dtype="str").str.removesuffix(".0")


def _numbers(values: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each cell as a number, NaN where there is none, and which cells hold something else, (rows,) each."""
    kind = values.type
    if pa.types.is_boolean(kind):
        values = pc.cast(values, pa.int8())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
        try:
            numbers = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return numbers, np.zeros(len(numbers), dtype=np.bool_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.full(len(values), np.nan), np.ones(len(values), dtype=np.bool_)
    try:
        trimmed = pc.utf8_trim_whitespace(values if not pa.types.is_dictionary(kind) else values.dictionary_decode())
        return pc.cast(trimmed, pa.float64()).to_numpy(zero_copy_only=False), np.zeros(len(values), dtype=np.bool_)
    except pa.ArrowInvalid:
        texts = _texts(values).str.casefold()
        numbers = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
        return numbers, np.isnan(numbers) & ~texts.isin(MISSING).to_numpy(dtype=np.bool_)


def _holds_names(values: pa.Array) -> bool:
    numbers, wrong = _numbers(values)
    given = np.isfinite(numbers) | np.isinf(numbers) | wrong
    return bool(given.any()) and 1 - wrong.sum() / given.sum() < NUMERIC_SHARE
