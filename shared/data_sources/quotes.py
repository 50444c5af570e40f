"""Quotes in CSV that are never closed: a parser takes all rows after one for a single cell, without a word."""

import re
from pathlib import Path

from shared.data_sources.files import Text
from shared.errors import DataError

LONGEST_QUOTED = 1 << 20  # characters of one cell, line breaks included


class WatchedQuotes:
    """A text to read from, that ends in an error where a quoted cell does not end.

    As Arrow has it, a quote opens a cell only as its first character, two stand for one within, and any other is a
    character like the rest.

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
        self._before, self._rest = text[end - 1], text[end:]
        if len(self._rest) > LONGEST_QUOTED or (self._rest and not data):
            raise DataError(
                f"{self._path}, line {self._line}: a quote is opened and not closed"
                f"{f' within {LONGEST_QUOTED} characters' if data else ''}; close it, or double it within a cell"
            )
        return data
