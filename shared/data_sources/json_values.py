"""JSON values out of a text of any length, in bounded memory: one after another, on lines, indented, or inside a list
that is itself most of the file.

A value that fits into memory is parsed at once, by `json`. Of a longer one the lists that hold records are gone through
item by item. What is malformed costs its own value, where the next one begins on a line of its own.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shared.data_sources.files import Text

# Under these keys the tools of AWS and of others put a list of records.
LIST_KEYS = frozenset(
    "Records records RECORDS Events events logEvents Messages QueryResultRows results hits value".split()  # noqa: SIM905 (one value per line would fill a screen)
)
WHOLE = 1 << 21  # characters of a value that are parsed at once: about ten times as many bytes of memory
LONGEST_VALUE = 1 << 24  # characters of one record
_READ = 1 << 18
MOST_LEVELS = 8  # of lists within lists that are gone through item by item
_NEAR_THE_END = 16  # a word such as -Infinity, or an escape, may be cut in two there
_DECODER = json.JSONDecoder()
_BLANK = re.compile("[\\s,\\ufeff\\x1e]*")
_HALF_LETTER = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair, which JSON may write without the other half
_LIST = re.compile('"(?:' + "|".join(sorted(LIST_KEYS)) + r')"\s*:\s*[\[{]')


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a text.

    Attributes:
        line: on which it begins, from 1.
        item: its number in the list that it is in, from 1; 0 where it stands by itself.
        value: what `json` makes of it; None where it is broken.
        broken: what is wrong with it.
    """

    line: int
    item: int
    value: Any = None
    broken: str = ""

    @property
    def where(self) -> str:
        """For a person."""
        return f"line {self.line}, record {self.item}" if self.item else f"line {self.line}"


class _MalformedError(Exception):
    """The text is no JSON at `at`, characters from the begin of the file; `deep`: nested deeper than `json` goes."""

    def __init__(self, reason: str, at: int, *, deep: bool = False) -> None:
        super().__init__(reason)
        self.at, self.deep = at, deep


class _CutError(Exception):
    """The text ends within a value."""


class _LongError(Exception):
    """The value is longer than was asked for."""


class JsonValues:
    """The values of one text, in order.

    Args:
        text: read to its end.
    """

    def __init__(self, text: Text) -> None:
        self._text = text
        self._data = ""  # a part of the text, of which `_at` is the next letter to read
        self._at = 0
        self._before, self._column = 0, 0  # letters of the text before `_data`, and of its line
        self._line, self._counted = 1, 0  # the line of `_data[_counted]`
        self._ended = self._lost = False
        self._level = 0

    def __iter__(self) -> Iterator[Value]:
        """The values and, for each that is none, what is wrong with it."""
        while letter := self._peek():
            line = self._line_at(self._at)
            try:
                if letter in "[{":
                    yield from self._value(line, 0)
                else:
                    yield from self._other(line)
            except _CutError:
                if self._lost:  # what was given up is told already
                    return
                end = self._line_at(len(self._data))
                told = f"the JSON is cut off, in line {end}, after {self._before + len(self._data):,} characters"
                yield Value(line, 0, broken=told)
                return

    def _value(self, line: int, item: int) -> Iterator[Value]:
        """The value here, or the items of the lists in it; `_at` is after it."""
        try:
            yield Value(line, item, self._decoded(WHOLE))
            return
        except _LongError:
            error: Exception | None = None
        except (_MalformedError, _CutError) as found:
            error = found
        column = self._column_here()
        listed = self._data[self._at] == "["
        inside = error is None or listed or _LIST.search(self._data, self._at) is not None
        deep = isinstance(error, _MalformedError) and error.deep
        if inside and self._level < MOST_LEVELS and not deep:
            self._level += 1
            try:
                yield from self._items() if listed else self._members(line, item)
                return
            except _MalformedError as found:
                error = found
            finally:
                self._level -= 1
        if isinstance(error, _CutError):
            raise error
        if not isinstance(error, _MalformedError):
            error = _MalformedError(f"lists in lists to a depth of {MOST_LEVELS}", self._before + self._at)
        at = max(error.at - self._before, self._at)
        there = self._line_at(at)
        told = f"{error}, in line {there}" if there != line else str(error)
        yield Value(line, item, broken=told + self._resync(at, column))

    def _other(self, line: int) -> Iterator[Value]:
        """A line that begins with something else: with a time or a name before JSON, or no JSON at all."""
        rest = self._rest_of_line()
        brace = rest.find('{"')
        if 0 < brace < 300:
            self._at += brace
            yield from self._value(line, 0)
            return
        self._at += len(rest)
        if rest.strip("]},; \t\r"):  # the end of a list whose begin was given up
            yield Value(line, 0, _text(rest))

    def _items(self) -> Iterator[Value]:
        """The items of the list that begins here."""
        self._at += 1
        number = 0
        while (letter := self._peek()) != "]":
            if not letter:
                raise _CutError
            number += 1
            line = self._line_at(self._at)
            if letter in "[{":
                yield from self._value(line, number)
            else:
                yield Value(line, number, self._decoded(LONGEST_VALUE))
        self._at += 1

    def _members(self, line: int, item: int) -> Iterator[Value]:
        """The items of the lists of records in the object that begins here, else the object itself."""
        self._at += 1
        members: dict[str, Any] = {}
        size, found = 0, False
        while (letter := self._peek()) != "}":
            if not letter:
                raise _CutError
            key = self._decoded(LONGEST_VALUE)
            if not isinstance(key, str) or self._peek() != ":":
                raise self._malformed("malformed JSON: expected a key and a colon")
            self._at += 1
            letter = self._peek()
            if key in LIST_KEYS and letter in "[{" and letter:
                found = True
                yield from self._items() if letter == "[" else self._members(line, item)
                continue
            begin = self._before + self._at
            members[key] = self._decoded(LONGEST_VALUE)
            size += self._before + self._at - begin
            if size > LONGEST_VALUE:
                raise self._malformed(f"a record of more than {LONGEST_VALUE} characters")
        self._at += 1
        if not found:
            yield Value(line, item, members)

    def _decoded(self, most: int) -> Any:
        """The value here; `_at` is after it.

        Raises:
            _MalformedError, _CutError, _LongError: `_at` is still before it.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self._data, self._at)
                if end < len(self._data) or self._ended or self._data[end - 1] in '}]"':
                    if _HALF_LETTER.search(self._data, self._at, end):
                        value = whole_letters(value)
                    self._at = end
                    return value
                problem, at = "", end
            except json.JSONDecodeError as error:
                problem, at = f"malformed JSON: {error.msg.removesuffix(' at')}", error.pos
                if problem.find("Unterminated") < 0 and at < len(self._data) - _NEAR_THE_END:
                    raise self._malformed(problem, at) from None
            except RecursionError:
                raise _MalformedError("nested too deeply", self._before + self._at, deep=True) from None
            except ValueError as error:  # a number of too many digits
                raise self._malformed(f"malformed JSON: {error}") from None
            if len(self._data) - self._at > most:
                if most < LONGEST_VALUE:
                    raise _LongError
                raise self._malformed(f"a value of more than {most} characters")
            at -= self._at
            if not self._more(len(self._data) - self._at) and problem:
                if at >= len(self._data) - self._at - 1 or "Unterminated" in problem:
                    raise _CutError
                raise self._malformed(problem, at + self._at)

    def _malformed(self, reason: str, at: int | None = None) -> _MalformedError:
        return _MalformedError(reason, self._before + (self._at if at is None else at))

    def _resync(self, error_at: int, column: int) -> str:
        """Go to where the next value may begin: on a later line, as far in as this one; says what that left out.

        Where the text is bad in the value's own line it is the next line, whatever it begins with.
        """
        start = self._at
        begin = re.compile(rf"\n[ \t]{{{column}}}(?=[\[{{])") if column < 200 else re.compile(r"\n(?=[\[{])")
        same_line = self._data.find("\n", start, max(error_at, start)) < 0
        while True:
            found = begin.search(self._data, self._at)
            end_of_line = self._data.find("\n", self._at)
            if same_line and end_of_line >= 0:
                self._at = end_of_line + 1
                return ""
            if found:
                self._at = found.end()
                return ""
            if self._ended:
                self._at, self._lost = len(self._data), True
                return "; the rest of the file is not read"
            # Keep what may be the begin of a match.
            self._at = max(self._at, len(self._data) - 256) if not same_line else len(self._data)
            self._more(_READ)

    def _peek(self) -> str:
        """The next letter that means something, at `_at`; empty at the end."""
        while True:
            blank = _BLANK.match(self._data, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._data):
                return self._data[self._at]
            if not self._more(_READ):
                return ""

    def _rest_of_line(self) -> str:
        while True:
            end = self._data.find("\n", self._at)
            if end >= 0 or len(self._data) - self._at > LONGEST_VALUE or not self._more(_READ):
                return self._data[self._at : end if end >= 0 else len(self._data)]

    def _more(self, size: int) -> bool:
        """Read on, and forget what is before `_at`; False at the end."""
        if self._ended:
            return False
        part = self._text.read(max(size, _READ))
        self._ended = not part
        self._line_at(self._at)
        self._before, self._column = self._before + self._at, self._column_here()
        self._data, self._counted, self._at = self._data[self._at :] + part, 0, 0
        return bool(part)

    def _column_here(self) -> int:
        newline = self._data.rfind("\n", 0, self._at)
        return self._at - newline - 1 if newline >= 0 else self._column + self._at

    def _line_at(self, at: int) -> int:
        """The line of a place in `_data`; for places up to `_at` it is remembered, so that a text is counted once."""
        line = self._line + self._data.count("\n", self._counted, at)
        if at <= self._at:
            self._line, self._counted = line, at
        return line


def json_within(text: str) -> Any:
    """What a text is as JSON, which was itself a text of a record.

    Raises:
        ValueError, RecursionError: it is none.
    """
    value = json.loads(text)
    return whole_letters(value) if _HALF_LETTER.search(text) else value


def whole_letters(value: Any) -> Any:
    """The value without halves of letters (surrogates), which no encoding can write."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole_letters(item) for item in value]
    if isinstance(value, dict):
        return {whole_letters(key): whole_letters(item) for key, item in value.items()}
    return value


def _text(line: str) -> str:
    """A line that is a text in JSON's quotes, without them; any other as it is."""
    try:
        value = json_within(line.strip().rstrip(","))
    except ValueError:
        value = None
    return value if isinstance(value, str) else line.strip()


def begins_as_json(head: str) -> bool:
    """Whether a file's first characters are those of an object or a list."""
    return re.match(r'[\s\x1e]*(\{\s*["}]|\[\s*[\[{"\]])', head) is not None
