"""Any labelled CSV, Parquet or JSON-lines file, or folder of them, one record per row; the settings say which column is
what.

A CSV file needs a header line, or `csv_column_names`; the separator is the likeliest of `,;|` and tab in it. Names
lose surrounding blanks, and a repeated name gets `.1`, `.2`, ..., unless it is that of the label, the family or the
partition. A column without a name, as pandas writes its index, is no feature. Numbers are compressed by a symmetric
logarithm. A column of names becomes `hash_width` columns of 0 and 1: no client needs to know which names occur at
another.

A row is broken, and skipped, where it has too few or too many cells, no label, or a text in a numeric column. `nan`,
`-` and other texts that stand for nothing are no label, unless `csv_benign_values` names them. An empty cell counts
as 0; an infinite one, as CIC-IDS has for rates over no time, as a very large number. A header line that is repeated and
a row of separators alone are no records.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources import files as data_files
from shared.data_sources.broken_lines import LOGGED_BROKEN_LINES, BrokenLines
from shared.data_sources.cells import MISSING, holds_names, numbers, separated_number, texts
from shared.data_sources.csv_columns import (
    UNNAMED,
    check_dropped,
    refuse_repeated,
    require,
    tell_new_columns,
    tell_written_numbers,
    why_no_number,
)
from shared.data_sources.csv_layout import looks_like_data, no_header
from shared.data_sources.json_values import begins_as_json
from shared.data_sources.label_checks import IndexSearch, LabelTally
from shared.data_sources.once import tell_once
from shared.data_sources.schema import (
    SCHEMA_VERSION,
    Column,
    FeatureSchema,
    bucket_columns,
    buckets,
    compressed,
    number_column,
)
from shared.data_sources.source_types import Chunk, Inputs
from shared.data_sources.tables import Batch, Table, batches, no_records, table_of, with_nul
from shared.errors import DataError, OddFileError

_log = logging.getLogger("data")


def files(path: Path) -> list[Path]:
    """The files at or below a path, in the order in which they are read.

    Raises:
        DataError: there is none.
    """
    suffixes = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".parq", ".binetflow", ".labeled")
    return data_files.list_files(path, suffixes, _is_table)


def _is_table(head: str) -> bool:
    """Whether a file of any name begins like a table: as JSON or Zeek do, or with two lines of equally many cells."""
    if begins_as_json(head) or head.startswith(("#separator", "PAR1")):
        return True
    lines = [line for line in head.splitlines() if line.strip()][:2]
    counts = {max((line.count(delimiter), delimiter) for delimiter in ",;\t|") for line in lines}
    return len(lines) == 2 and len(counts) == 1 and min(counts)[0] > 0


def schema(config: Config, inputs: Inputs) -> FeatureSchema:
    """Numeric columns in the order of the first file's header, then the hashed ones.

    Which columns hold names is looked up in the first rows, unless `csv_categorical_columns` names them.

    Raises:
        DataError: no file, no header, or a column of the settings is missing.
    """
    table = _first_table(config, inputs.path)
    special = {config.csv_label_column, config.csv_family_column} - {""}
    require(table, [*sorted(special), *config.csv_categorical_columns], config)
    if table.layout and table.layout.header and not special and looks_like_data(table.names):
        raise no_header(table.path, table.names)  # where no column has to be there by name, none is missed
    refuse_repeated(table, special)
    check_dropped(config, inputs.path, table, files(inputs.path))
    used = [name for name in table.names if name not in special and name not in config.csv_drop_columns]
    if unnamed := [name for name in used if UNNAMED.fullmatch(name)]:
        tell_once(
            f"{table.path}: a column without a name ({', '.join(map(repr, unnamed))}) is no feature; it may be an index"
        )
        used = [name for name in used if name not in unnamed]
    # Broken rows are not counted here: `stream` reads these rows, and judges them, once more.
    first = _first_batch(table, used)
    named = [name for name in used if name in config.csv_categorical_columns]
    for name in used:
        if first is None or name in config.csv_categorical_columns:
            continue
        otherwise = ", or name the column in csv_drop_columns, or in csv_categorical_columns if they are names"
        _refuse_separated(table.path, name, first, otherwise)
        if not config.csv_categorical_columns and holds_names(first.columns[name]):
            named.append(name)
            tell_written_numbers(table.path, name, first.columns[name])
    if not used:
        raise DataError(
            f"{table.path}: no column to make features of: all {len(table.names)} are named by csv_label_column, "
            "csv_family_column or csv_drop_columns, or have no name"
        )
    columns = [number_column(name) for name in used if name not in named]
    columns += [column for name in named for column in bucket_columns(name, config.hash_width)]
    return FeatureSchema("csv", tuple(columns), config.hash_width, excluded=tuple(sorted(special)))


def _refuse_separated(path: Path, name: str, rows: Batch, otherwise: str = "") -> None:
    """Numbers with a separator are no names, which they would become.

    Raises:
        DataError: most texts of a column are such; `otherwise` says what else to do than to write them plainly.
    """
    if example := separated_number(rows.columns[name]):
        raise DataError(
            f"{path}: column {name!r} holds numbers such as {example!r}, and nobody can tell a thousands separator "
            f"from a decimal comma; write them as 1234.5{otherwise}"
        )


def _first_table(config: Config, path: Path) -> Table:
    """The columns of the first file that has any."""
    odd = DataError(f"{path}: no files")
    for file in files(path):
        try:
            return table_of(file, config.csv_column_names)
        except OddFileError as error:
            odd = error
    raise odd


def _first_batch(table: Table, used: Sequence[str]) -> Batch | None:
    try:
        return next(batches(table, used, None), None)
    except OddFileError:
        return None


def schema_like(config: Config, path: Path, learned: FeatureSchema) -> FeatureSchema:
    """The columns of `learned` that the first file has, in the order of `learned`: a numeric one whose first rows hold
    texts becomes a category. Columns that no feature is made of don't matter.

    Raises:
        DataError: no file, or no column of it is known.
    """
    table = _first_table(config, path)
    kinds = {field: learned.columns[index].kind for field, index in _fields(learned).items()}
    used = [column for column in kinds if column in set(table.names)]
    if not used:
        if table.layout is not None and looks_like_data(table.names):
            raise no_header(table.path, table.names)
        raise DataError(f"{table.path}: none of the columns that the model learned from, such as {next(iter(kinds))!r}")
    rows = _first_batch(table, used)
    found: list[Column] = []
    for field in used:
        if kinds[field] == "numeric" and rows is not None:
            _refuse_separated(table.path, field, rows)
        if kinds[field] == "category" or (rows is not None and holds_names(rows.columns[field])):
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
    labels = LabelTally()
    repeated = 0
    indexes = IndexSearch(_fields(schema))
    for path in files(inputs.path):
        try:
            for chunk in _of_file(config, inputs, schema, path, broken, labels, indexes):
                if inputs.labelled:
                    first = _first_seen(chunk, seen)
                    repeated += int((~first).sum())
                    if config.csv_drop_duplicates:
                        chunk = _taken(chunk, first)
                yield chunk
        except OddFileError as error:
            if data_files.is_empty(path):
                broken.empty_file(path)
            else:
                broken.cut_file(error)
    broken.report()
    if repeated:
        advice = "left out" if config.csv_drop_duplicates else "kept; csv_drop_duplicates: true leaves them out"
        _log.info("%s: %d rows equal an earlier one in label and features: %s", inputs.path, repeated, advice)
    if inputs.labelled:
        labels.check_table(inputs.path, config.csv_label_column, config.csv_benign_values)
        indexes.tell(inputs.path)


def _of_file(
    config: Config,
    inputs: Inputs,
    schema: FeatureSchema,
    path: Path,
    broken: BrokenLines,
    labels: LabelTally,
    indexes: IndexSearch,
) -> Iterator[Chunk]:
    """The rows of one file; `labels` and `indexes` are told of those to learn from."""
    table = table_of(path, config.csv_column_names)
    needed = list(_fields(schema))
    if inputs.labelled:
        label_columns = (config.csv_label_column, config.csv_family_column, config.partition_column)
        needed = list(dict.fromkeys([*needed, *(name for name in label_columns if name)]))
        refuse_repeated(table, label_columns)
    require(table, needed, config)
    if inputs.labelled:
        tell_new_columns(config, table, needed)
    else:
        told = {config.csv_label_column, config.csv_family_column, *needed}
        needed += [name for name in table.names if name not in told and not UNNAMED.fullmatch(name)]
    for batch in batches(table, needed, broken):
        chunk, good = _chunk(config, inputs, schema, table, batch, broken)
        if inputs.labelled:
            labels.add(texts(batch.columns[config.csv_label_column])[good], chunk.families != "benign")
            counted = {name: numbers(batch.columns[name])[0][good] for name in indexes.candidates}
            indexes.add(counted, batch.lines[good])
        yield chunk


def _chunk(
    config: Config, inputs: Inputs, schema: FeatureSchema, table: Table, batch: Batch, broken: BrokenLines
) -> tuple[Chunk, NDArray[np.bool_]]:
    """The good rows, and which of the batch they are, (rows,)."""
    path = table.path
    features = np.zeros((batch.rows, len(schema)), dtype=np.float32)
    good = np.ones(batch.rows, dtype=np.bool_)
    families = groups = np.full(batch.rows, "")
    no_record = no_records(table, batch, broken)
    if inputs.labelled:
        families, good = _families(config, batch.columns)
        if config.partition_column:
            groups = texts(batch.columns[config.partition_column]).to_numpy(dtype=np.str_)
    unlabelled = np.flatnonzero(~good & ~no_record)[:LOGGED_BROKEN_LINES]
    reasons = {int(row): _why_no_label(config, batch.columns, int(row)) for row in unlabelled}
    used = {*_fields(schema), config.csv_label_column, config.csv_family_column} & batch.columns.keys()
    damaged = with_nul([batch.columns[name] for name in used], batch.rows) & good
    reasons |= dict.fromkeys(np.flatnonzero(damaged).tolist(), "NUL characters in it: the file is damaged")
    good = good & ~damaged
    for column, index in _fields(schema).items():
        if schema.columns[index].kind == "numeric":
            values, wrong = numbers(batch.columns[column])
            features[:, index] = compressed(values)
            for row in np.flatnonzero(wrong & good & ~no_record)[:LOGGED_BROKEN_LINES]:
                reasons[int(row)] = why_no_number(column, batch.columns[column].slice(int(row), 1))
            good = good & ~wrong
        else:
            bucket = buckets(column, texts(batch.columns[column]), schema.hash_width)
            features[np.arange(batch.rows), index + bucket] = 1.0
    for row in np.flatnonzero(~good & ~no_record):
        broken.add(path, int(batch.lines[row]), reasons.get(int(row), "broken"))
    broken.seen(batch.rows)
    good = good & ~no_record
    meta = pd.DataFrame({"file": path.name, "line": batch.lines})
    if not inputs.labelled:
        numeric = {column.name for column in schema.columns if column.kind == "numeric"}
        shown = {name: column for name, column in batch.columns.items() if name not in (*numeric, "file", "line")}
        # As Arrow has them: of most rows nobody will look at the texts.
        cells = {name: pd.arrays.ArrowExtensionArray(column) for name, column in shown.items()}
        meta = pd.concat([meta, pd.DataFrame(cells, index=meta.index)], axis=1)  # `assign` takes no column `self`
    return _taken(Chunk(meta, features, families, groups), good), good


def _families(config: Config, columns: dict[str, pa.Array]) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """The family of each row in lower case, and which rows have a label at all, (rows,) each."""
    labels = texts(columns[config.csv_label_column]).str.casefold()
    absent = labels.isin(MISSING).to_numpy(dtype=np.bool_)
    codes, unique = pd.factorize(labels)
    pattern = _benign(config.csv_benign_values)
    of_unique = np.array([pattern.match(label) is not None for label in unique], dtype=np.bool_)
    benign = of_unique[codes] if len(codes) else np.zeros(0, dtype=np.bool_)
    families = labels
    if config.csv_family_column:
        families = texts(columns[config.csv_family_column]).str.casefold()
    # A label of 1 names no family, nor does an empty cell, nor "benign" on a row that the label calls an attack.
    families = families.mask(families.isin([*MISSING, "1", "true", "benign", "normal"]), "attack")
    return families.mask(benign, "benign").to_numpy(dtype=np.str_), (labels != "").to_numpy(np.bool_) & (
        benign | ~absent
    )


def _why_no_label(config: Config, columns: dict[str, pa.Array], row: int) -> str:
    """Why a row has no label, for a person; a text for none may mean benign, which only the settings can say."""
    name = config.csv_label_column
    text = texts(columns[name].slice(row, 1)).iloc[0]
    advice = f": {text!r}; if it means benign, name it in csv_benign_values" if text else ""
    return f"no label in column {name!r}{advice}"


@lru_cache(maxsize=8)
def _benign(values: tuple[str, ...]) -> re.Pattern[str]:
    """What matches a label in lower case that means benign; `*` stands for any text and `?` for one character."""
    parts = (re.escape(value.strip().casefold()).replace(r"\*", ".*").replace(r"\?", ".") for value in values)
    return re.compile(f"(?:{'|'.join(parts)})$", re.DOTALL)


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
