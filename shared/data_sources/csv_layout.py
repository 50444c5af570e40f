"""Where the records of a CSV file begin, what separates their cells, and what their columns are called.

Before the header line there may be blank lines, comments and Excel's `sep=;`. Zeek's logs have their columns in
`#fields` and end in `#close`. A file without a header line needs `csv_column_names`.
"""

import csv
import io
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from shared.data_sources.files import Text, opened_text
from shared.errors import DataError, OddFileError

MOST_COLUMNS = 10_000  # more are no table of features, and each costs its part in every row
_PREAMBLE_LINES = 100
_DELIMITERS = ",;\t|"
_LONGEST_CELL = 1 << 24
_BLANKS = "   "


@dataclass(frozen=True)
class Layout:
    """How a CSV file is read.

    Attributes:
        names: of the columns, none of them twice.
        header: the cells of the header line as it stands; empty where there is none.
        delimiter: between cells, one character.
        skip: lines before the first record.
        comments: whether lines that begin with # are no records, wherever they stand.
        blanks: whether three blanks separate cells, too.
    """

    names: tuple[str, ...]
    header: tuple[str, ...]
    delimiter: str
    skip: int
    comments: bool = False
    blanks: bool = False


def layout_of(path: Path, column_names: Sequence[str] = ()) -> Layout:
    """The layout of one file.

    Args:
        path: the file.
        column_names: `csv_column_names`, for a file without a header line; one that has it may have it all the same.

    Raises:
        OddFileError: the file is empty, or no text.
        DataError: it has other columns than `column_names`, too many, or a name that can't be told from another.
    """
    lines: list[str] = []
    try:
        with opened_text(path) as text:
            lines.extend(line.rstrip("\r\n") for line in islice(text, _PREAMBLE_LINES))
    except OddFileError:  # cut off further on
        if not lines:
            raise
    if lines and lines[0].startswith("PAR1"):
        raise OddFileError(f"{path}: a Parquet file that is packed once more; unpack it")
    if lines and lines[0].startswith("#separator"):
        return _zeek(path, lines)
    first = _first_line(path, lines)
    cells = _cells(path, lines[first.number], first.delimiter)
    if not column_names:
        if _ends_in_separator(first, len(cells)):
            cells.append("")
        return Layout(tuple(_header(path, first, cells)), tuple(cells), first.delimiter, first.number + 1)
    names = unique_names(path, column_names)
    if len(cells) == len(names) + 1 and not cells[-1].strip():
        names.append("")  # which unnames the nothing after a separator at the end of each line
    if [bare(cell) for cell in cells] == [bare(name) for name in (*column_names, "")[: len(names)]]:
        return Layout(tuple(names), tuple(cells), first.delimiter, first.number + 1)
    if len(cells) != len(names):
        raise DataError(
            f"{path}: its first line has {len(cells)} cells, and csv_column_names {len(names)} names; expected a "
            "name for each"
        )
    return Layout(tuple(names), (), first.delimiter, first.number)


@dataclass(frozen=True)
class _First:
    """The first line that is no blank one, no comment and no `sep=`.

    Attributes:
        number: which it is, from 0.
        delimiter: between its cells.
        following: the next line that is not blank; empty where there is none.
        columns_of_next: of that line.
    """

    number: int
    delimiter: str
    following: str
    columns_of_next: int


def _first_line(path: Path, lines: Sequence[str]) -> _First:
    delimiter = ""
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        if line.casefold().startswith("sep=") and len(line) == 5:
            delimiter = line[4]
            continue
        following = next((later for later in lines[number + 1 :] if later.strip()), "")
        between = delimiter or max(_DELIMITERS, key=line.count)
        after = delimiter or max(_DELIMITERS, key=following.count)
        alike = following and not following.startswith("#") and line.count(between) == following.count(after)
        if line.startswith("#") and not alike:
            continue
        if "\0" in line:
            raise OddFileError(
                f"{path}, line {number + 1}: NUL characters where a header was expected; the file is damaged or no text"
            )
        return _First(number, between, following, following.count(after) + 1)
    raise OddFileError(f"{path}: empty; expected a header line with the names of the columns")


def _header(path: Path, first: _First, cells: Sequence[str]) -> list[str]:
    """The names that the first line gives, if it is a header."""
    if len(cells) == 1 and first.columns_of_next > 2:
        raise DataError(
            f"{path}: line {first.number + 1} has 1 column and the next {first.columns_of_next}; take away what stands "
            "before the header line, or begin it with #"
        )
    try:
        return unique_names(path, cells)
    except DataError:
        if len(cells) <= MOST_COLUMNS and looks_like_data(cells):
            raise no_header(path, cells) from None
        raise


def _zeek(path: Path, lines: Sequence[str]) -> Layout:
    """Zeek's own format: https://docs.zeek.org/en/master/log-formats.html."""
    written = lines[0].partition(" ")[2].strip()
    hexadecimal = re.fullmatch(r"\\x([0-9a-fA-F]{2})", written)
    delimiter = chr(int(hexadecimal[1], 16)) if hexadecimal else written or "\t"
    fields = next((line for line in lines if line.startswith("#fields")), None)
    if fields is None or len(delimiter) != 1:
        raise OddFileError(f"{path}: a Zeek log without #fields within its first {_PREAMBLE_LINES} lines; expected it")
    written_cells = fields.split(delimiter)[1:]
    # IoT-23 has blanks instead of the separator between its last three columns.
    cells = [name for cell in written_cells for name in cell.split(_BLANKS)]
    skip = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return Layout(
        tuple(unique_names(path, cells)), tuple(cells), delimiter, skip, True, len(cells) > len(written_cells)
    )


def _cells(path: Path, line: str, delimiter: str) -> list[str]:
    csv.field_size_limit(_LONGEST_CELL)
    try:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter))
    except (csv.Error, StopIteration) as error:
        raise OddFileError(f"{path}: its first line is no header: {error}") from None


def _ends_in_separator(first: _First, columns: int) -> bool:
    """Whether the next line has one cell more than the first has names, and nothing in it."""
    try:
        cells = next(csv.reader(io.StringIO(first.following), delimiter=first.delimiter), [])
    except csv.Error:
        return False
    return len(cells) == columns + 1 and not cells[-1].strip()


def bare(name: str) -> str:
    """A column's name without blanks around it, or a byte order mark, of which files that were joined may have two."""
    return name.strip().strip("\ufeff").strip()


def unique_names(path: Path, names: Sequence[str]) -> list[str]:
    """The names without surrounding blanks; a repeated one gets `.1`, `.2`, ...

    Raises:
        DataError: there are too many, or a name is that of a column and of a repeated one.
    """
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path}: {len(names)} columns, expected at most {MOST_COLUMNS}; is its first line a header?")
    result: list[str] = []
    counts: dict[str, int] = {}
    for name in map(bare, names):
        counts[name] = counts.get(name, -1) + 1
        result.append(f"{name}.{counts[name]}" if counts[name] else name)
    if len(set(result)) < len(result):
        twice = next(name for name in result if result.count(name) > 1)
        raise DataError(f"{path}: the name {twice!r} is that of a column and of a repeated one; rename one of them")
    return result


class SplitAtBlanks:
    """A text in which three blanks are the delimiter.

    Args:
        text: what is read.
        delimiter: in their place.
    """

    def __init__(self, text: Text, delimiter: str) -> None:
        self._text, self._delimiter = text, delimiter
        self._rest = ""  # blanks that may be a part of three

    def read(self, size: int) -> str:
        """The next characters, at most `size`, none at the end."""
        while True:
            data = self._text.read(max(size - len(self._rest), 1))
            whole = (self._rest + data).replace(_BLANKS, self._delimiter)
            bare = whole.rstrip(" ") if data else whole
            self._rest = whole[len(bare) :]
            if bare or not data:
                return bare


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether a first line is rather a record than a header: half of its cells are numbers, addresses or empty."""
    return 2 * sum(map(_is_value, names)) >= len(names)


def no_header(path: Path, cells: Sequence[str]) -> DataError:
    """For a file whose first line is a record: nothing of what it holds, which a log or a terminal would show."""
    places = [str(place) for place, cell in enumerate(cells, start=1) if _is_value(cell)]
    more = f" and {len(places) - 10} more" if len(places) > 10 else ""
    return DataError(
        f"{path}: its first line looks like data and not like a header with the names of its {len(cells)} columns; a "
        f"number, an address or nothing is in columns {', '.join(places[:10])}{more}; name all columns in "
        "csv_column_names, in their order"
    )


def _is_value(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        try:
            ipaddress.ip_address(cell)
        except ValueError:
            return re.fullmatch(r"0x[0-9a-fA-F]+|-|.*\.\d+", cell) is not None
    return True
