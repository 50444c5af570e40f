"""The columns that the settings of `csv` name, and whether a file has them."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from shared.config import Config
from shared.data_sources.cells import is_separated, texts, written_numbers
from shared.data_sources.csv_layout import looks_like_data, no_header
from shared.data_sources.once import tell_once
from shared.data_sources.tables import Table, table_of
from shared.errors import DataError, OddFileError

_MISSPELT = 0.9  # of difflib's ratio: two letters in the wrong order, and not Dst IP for Src IP
# What pandas calls an index that it wrote without a name: https://pandas.pydata.org/docs/user_guide/io.html
UNNAMED = re.compile(r"(Unnamed: \d+(_level_\d+)?|__index_level_\d+__|)(\.\d+)?")


def require(table: Table, wanted: Sequence[str], config: Config) -> None:
    """A file must have these columns.

    Raises:
        DataError: it has not; the message says what is near, and which setting names the column.
    """
    there = set(table.names)
    for name in wanted:
        if name not in there:
            if table.layout is not None and looks_like_data(table.names):
                raise no_header(table.path, table.names)
            same = [other for other in table.names if other.casefold() == name.casefold()]
            near = same or difflib.get_close_matches(name, table.names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else "none has a name like it"
            if not near and table.layout is not None:  # whose first line may be a record, which is nobody's to read
                advice += "; if its first line is no header, name its columns in csv_column_names"
            named = {
                config.csv_label_column: "csv_label_column",
                config.csv_family_column: "csv_family_column",
                config.partition_column: "partition_column",
                **dict.fromkeys(config.csv_categorical_columns, "csv_categorical_columns"),
            }
            by = f" ({named[name]} names it)" if name in named else ""
            raise DataError(f"{table.path}: no column {name!r} among {len(table.names)}; {advice}{by}")


def refuse_repeated(table: Table, special: Iterable[str]) -> None:
    """Names that settings give must be those of one column each.

    Raises:
        DataError: one is that of two.
    """
    for name in special:
        if name and f"{name}.1" in table.names:
            raise DataError(
                f"{table.path}: two columns are called {name!r}, and the settings name it; rename or remove one of them"
            )


def check_dropped(config: Config, path: Path, table: Table, files: Sequence[Path]) -> None:
    """A column to drop may be that of another file or tenant; what is all but the name of a feature is misspelt.

    Raises:
        DataError: it is misspelt, and the feature would stay.
    """
    there = set(table.names)
    missing = [name for name in config.csv_drop_columns if name not in there]
    if missing:
        for file in files:
            try:
                there |= set(table_of(file, config.csv_column_names).names)
            except OddFileError:
                continue
    for name in missing:
        if name in there:
            continue
        near = difflib.get_close_matches(name, there - set(config.csv_drop_columns), n=1, cutoff=_MISSPELT)
        if near:
            raise DataError(
                f"{path}: csv_drop_columns: no column {name!r} among {len(there)}; did you mean {near[0]!r}?"
            )
        tell_once(f"{path}: csv_drop_columns: no column {name!r} here, so nothing is dropped by that name")


def tell_written_numbers(path: Path, name: str, values: pa.Array) -> None:
    """Say so where the texts of a column, which become names, are numbers to a person: which is bigger is lost."""
    if kind := written_numbers(values):
        tell_once(
            f"{path}: column {name!r} holds {kind}, and each is hashed as a name; write plain numbers of one unit, or "
            "name the column in csv_drop_columns, or all columns of names in csv_categorical_columns if it is one"
        )


def why_no_number(name: str, cell: pa.Array) -> str:
    """Why one cell of a numeric column, (1,), is refused; only a separator is shown, for nobody sees it elsewhere."""
    text = texts(cell).iloc[0]
    if is_separated(text):
        return f"column {name} holds {text!r}, a thousands separator or a decimal comma: expected 1234.5"
    kind = written_numbers(cell) or "a text"
    return f"column {name} holds {kind} where numbers are expected"


def tell_new_columns(config: Config, table: Table, needed: Sequence[str]) -> None:
    """Name the columns of a file that are no features because the first file has not got them."""
    known = {*needed, *config.csv_drop_columns}
    if new := [name for name in table.names if name not in known and not UNNAMED.fullmatch(name)]:
        more = f" and {len(new) - 5} more" if len(new) > 5 else ""
        tell_once(f"{table.path}: columns that the first file has not are no features: {', '.join(new[:5])}{more}")
