"""Quotes in CSV that are never closed: a parser takes all rows after one for a single cell, without a word."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data_sources.files import Text
from shared.errors import DataError

_BREAK = "\x00"
LONGEST_QUOTED = 1 << 20  # characters of one cell, line breaks included


class WatchedQuotes:
    """A text to read from, that ends in an error where a quoted cell does not end.

    As Arrow has it, a quote opens a cell only as its first character, two stand for one within, and any other is a
    character like the rest.

    It also knows the line on which each record begins, which a parser that counts records does not: blank lines are
    none, and a quoted cell may have several.

    Args:
        text: what is read.
        path: of the file, for the error.
        delimiter: between cells, one character.
        line: of the file, that the text begins with.
    """

    def __init__(self, text: Text, path: Path, delimiter: str, line: int = 1) -> None:
        self._text, self._path = text, path
        first = rf"(?<=[{re.escape(delimiter)}\n])"
        # Possessive: each character has one meaning, so there is nothing to go back to.
        self._closed = re.compile(rf'(?:[^"]++|{first}"(?:[^"]++|"")*+"|(?<![{re.escape(delimiter)}\n])")*+')
        self._before = "\n"  # the character before `_rest`
        self._rest = ""  # what the next characters decide about: an open cell, or quotes that may be half of a pair
        self._line = line  # of the first character of `_rest`
        self._quoted = re.compile(rf'{first}"(?:[^"]++|"")*+"')
        self._records = 0  # that ended before `_rest`
        # Where lines are no records of their own: the record from which on, and how many lines so far.
        self._from, self._lines = [0], [line]

    def read(self, size: int) -> str:
        """The next characters, at most `size`, none at the end.

        Raises:
            DataError: a quoted cell is still open at the end, or has more than `LONGEST_QUOTED` characters.
        """
        data = self._text.read(size)
        text = self._before + self._rest + data
        whole = len(text.rstrip('"')) if data else len(text)
        matched = self._closed.match(text, 1, max(whole, 1))
        end = matched.end() if matched else 1
        self._line += text.count("\n", 1, end)
        self._count(text[:end])
        self._before, self._rest = text[end - 1], text[end:]
        if len(self._rest) > LONGEST_QUOTED or (self._rest and not data):
            raise DataError(
                f"{self._path}, line {self._line}: a quote is opened and not closed"
                f"{f' within {LONGEST_QUOTED} characters' if data else ''}; close it, or double it within a cell"
            )
        return data

    def lines_of(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """The line of the file on which each of these records begins, (records,); the first record is 0.

        Args:
            records: that were read, in any order.
        """
        more = np.array(self._lines, dtype=np.int64)[np.searchsorted(self._from, records, side="right") - 1]
        return np.asarray(records + more)

    def _count(self, text: str) -> None:
        """Note the records that end in `text`, whole tokens after the one character before them."""
        if "\n\n" not in text and '"' not in text:
            self._records += text.count("\n", 1)
            return
        # Of a quoted cell what is left is a mark for each line break in it.
        bare = self._quoted.sub(lambda cell: _BREAK * cell[0].count("\n"), text.replace(_BREAK, ""))
        if "\n\n" not in bare and _BREAK not in bare:
            self._records += bare.count("\n", 1)
            return
        for part in re.finditer(rf"{_BREAK}+|\n", bare[1:]):
            blank = part[0] == "\n" and bare[part.start()] == "\n"
            if blank or part[0] != "\n":
                # A cell's line breaks count from the record after its own.
                self._from.append(self._records + (not blank))
                self._lines.append(self._lines[-1] + len(part[0]))
            self._records += part[0] == "\n" and not blank
