"""The records of one file of any form: JSON, and CSV whose rows are records or carry them.

| CSV from | what a row has |
|---|---|
| Athena, CloudTrail Lake, pandas, the console's event history | CloudTrail's fields, however they are spelt |
| CloudWatch Logs Insights, Splunk, Elastic, Lake's `eventJson` | the record as text in one column |
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from shared.data_sources import envelopes
from shared.data_sources import files as data_files
from shared.data_sources.cloudtrail_keys import fields_in, without_prefix
from shared.data_sources.csv_layout import Layout, layout_of
from shared.data_sources.envelopes import TEXT_KEYS, IsRecord, LeftOut, within
from shared.data_sources.files import opened_text
from shared.data_sources.json_values import Value
from shared.data_sources.tables import BLANK_ROW, REPEATED_HEADER
from shared.errors import DataError, OddFileError

_LONGEST_CELL = 1 << 24
_MOST_BEFORE_HEADER = 20  # lines that are no header
_SEPARATORS = re.compile(r"[,;\t|]")
_TEXT_BELOW = re.compile(r'\n([^{]*"\s*[{\[]|\s*$)')  # below the header: a cell of JSON, or nothing
_JSON_BELOW = re.compile(r'[^{]*\n[^{\n]*"\s*[{\[]\s*""')  # quotes are doubled in CSV alone
_CARRIERS = frozenset(key.casefold() for key in (*TEXT_KEYS, "event", "event.original"))


def records(path: Path, is_record: IsRecord = envelopes.is_event) -> Iterator[Value]:
    """The records of a file of JSON or CSV, in bounded memory, as `envelopes.records` gives them.

    Args:
        path: the file.
        is_record: whether an object is a record itself, in which no other is looked for.

    Raises:
        OddFileError: the file is damaged, or its columns can't be told.
        DataError: it can't be read.
    """
    head = data_files.head(path)
    return _of_csv(path, head, is_record) if is_csv(head) else envelopes.records(path, is_record)


def is_csv(head: str) -> bool:
    """Whether a file's first characters are the header of such a CSV file."""
    for line in head.split("\n")[:_MOST_BEFORE_HEADER]:
        cells = dict.fromkeys(_cells(line))
        if "{" in line:
            break
        if {"eventName", "eventSource"} <= fields_in(cells) or without_prefix(cells) is not None:
            return True
        if any(cell.casefold() in _CARRIERS for cell in cells):
            return _TEXT_BELOW.search(head) is not None
    return _JSON_BELOW.match(head) is not None


def _cells(line: str) -> list[str]:
    return [cell.strip("\"' \r#") for cell in _SEPARATORS.split(line)]


def _layout(path: Path, head: str) -> Layout:
    """The layout of the file.

    Raises:
        OddFileError: its columns can't be told: one such file is no reason to read no other.
    """
    for number, line in enumerate(head.split("\n")):
        cells = _cells(line)
        if not line.strip() or line.startswith("#") or line.casefold().startswith("sep="):
            continue
        if len(cells) == 1 and (cells[0].casefold() in _CARRIERS or _JSON_BELOW.match(head)):
            # The commas in its rows are JSON's.
            return Layout((cells[0],), (cells[0],), ",", number + 1)
        break
    try:
        return layout_of(path)
    except OddFileError:
        raise
    except DataError as error:
        raise OddFileError(str(error)) from None


def _of_csv(path: Path, head: str, is_record: IsRecord) -> Iterator[Value]:
    layout = _layout(path, head)
    csv.field_size_limit(_LONGEST_CELL)
    # Hive and MySQL put a backslash before a quote within a cell, all others a second quote.
    escaped = '{\\"' in head and '{""' not in head
    with opened_text(path) as text:
        for _ in range(layout.skip):
            text.readline()
        rows = csv.reader(
            text, delimiter=layout.delimiter, strict=True, doublequote=not escaped, escapechar="\\" if escaped else None
        )
        while True:
            line = layout.skip + rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                last = layout.skip + rows.line_num
                swallowed = f"; lines {line} to {last} are not read" if last > line else ""  # by an open quote
                yield Value(line, 0, broken=f"no CSV: {error}{swallowed}")
                continue
            if row:
                yield from _of_row(layout, row, line, is_record)


def _of_row(layout: Layout, row: list[str], line: int, is_record: IsRecord) -> Iterator[Value]:
    if not any(cell.strip() for cell in row):
        yield Value(line, 0, LeftOut(BLANK_ROW))
    elif tuple(row) == layout.header:
        yield Value(line, 0, LeftOut(REPEATED_HEADER))
    elif len(row) < len(layout.names) or any(row[len(layout.names) :]):  # a separator may end each row
        yield Value(line, 0, broken=f"{len(row)} cells, expected {len(layout.names)}")
    else:
        cells = {name: text for name, cell in zip(layout.names, row, strict=False) if (text := cell.strip())}
        yield from within(Value(line, 0, cells), is_record)
