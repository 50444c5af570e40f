"""Fields of a nested record by the path of keys that leads to them, and conditions on what is there.

A path such as `user.username` goes through objects, through each item of a list, and through a text that holds JSON, as
Azure has whole records in one. A key is found in any case, and with dots in it: exporters write keys in lower case and
flatten objects.
"""

import contextlib
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from shared.data_sources.cloudtrail_keys import is_blank
from shared.data_sources.json_values import json_within
from shared.data_sources.times import EARLIEST, epoch_seconds
from shared.data_sources.windows import latest_time

Path = tuple[str, ...]
_TOGETHER = " + "  # between paths that make one value together
_CONSTANT = "="  # before a text that stands for itself
MOST_LEVELS = 50
_LONGEST_DATE = 10  # characters of a date without a time: of all events of a day it would make one moment
_LONGEST_JSON = 1 << 22  # characters of a text that is looked into


def path_of(text: str) -> Path:
    """The keys of a path."""
    return tuple(text.split("."))


def values_at(value: Any, path: Path, level: int = 0) -> Iterator[Any]:
    """What the path leads to, in the order of the record: nothing, or of lists several values.

    Lists in lists are gone through to a depth of `MOST_LEVELS`, of objects and lists together.
    """
    depth = 0
    for key in path:  # nearly always it goes through objects alone
        if type(value) is not dict or key not in value:
            break
        value = value[key]
        depth += 1
    path = path[depth:]
    if level > MOST_LEVELS:
        return
    if isinstance(value, list):
        for item in value:
            yield from values_at(item, path, level + 1)
        return
    if not path:
        if value is not None:
            yield value
        return
    if isinstance(value, str):
        value = _within(value)
    if not isinstance(value, dict):
        return
    whole = ".".join(path)
    if len(path) > 1 and whole in value:
        yield from values_at(value[whole], (), level + 1)
    elif (found := _key(value, path[0])) is not None:
        yield from values_at(value[found], path[1:], level + 1)


def _key(value: dict[str, Any], wanted: str) -> str | None:
    if wanted in value:
        return wanted
    folded = wanted.casefold()
    return next((key for key in value if key.casefold() == folded), None)


@lru_cache(maxsize=4)  # a record is asked for one field after another
def _within(text: str) -> Any:
    if text[:1] not in ("{", "[") or len(text) > _LONGEST_JSON:
        return None
    try:
        return json_within(text)
    except (ValueError, RecursionError):
        return None


def text_of(value: Any) -> str:
    """A value as a text without surrounding blanks; empty for an object. 403 and 403.0 are one."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, int | float) else ""


@dataclass(frozen=True)
class Field:
    """Where a value is: the first of some alternatives that a record has.

    Attributes:
        alternatives: each of one path, or of several that make the value together; the first of them must be there.
        names: of each alternative, as it was written.
    """

    alternatives: tuple[tuple[Path | str, ...], ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Field":
        """The alternatives as a table writes them: a path, or `path + path`; `=text` is a text that is no path."""
        made = tuple(
            tuple(part[1:] if part.startswith(_CONSTANT) else path_of(part) for part in text.split(_TOGETHER))
            for text in texts
        )
        return cls(made, tuple(texts))

    def parts(self, record: Any, absent: frozenset[str] = frozenset()) -> tuple[str, tuple[str, ...]]:
        """The name of the first alternative that is there, and its texts, empty where one but the first is missing.

        Args:
            record: of any form.
            absent: texts, case-folded, that stand for no value.

        Returns:
            An empty name and no texts where none is there.
        """
        for name, alternative in zip(self.names, self.alternatives, strict=True):
            first = _first(record, alternative[0], absent)
            if first:
                return name, (first, *(_first(record, path, absent) for path in alternative[1:]))
        return "", ()

    def text(self, record: Any, absent: frozenset[str] = frozenset()) -> str:
        """The texts of `parts` with blanks between them."""
        return " ".join(part for part in self.parts(record, absent)[1] if part)

    @property
    def paths(self) -> Iterator[Path]:
        """All paths that the value may come from."""
        return (path for parts in self.alternatives for path in parts if not isinstance(path, str))


def _first(record: Any, path: Path | str, absent: frozenset[str]) -> str:
    if isinstance(path, str):
        return path
    found = (text_of(value) for value in values_at(record, path))
    return next((text for text in found if not is_blank(text) and text.casefold() not in absent), "")


@dataclass(frozen=True)
class Conditions:
    """What fields must hold. `*` and `?` in a pattern are as in file names, case does not count.

    Attributes:
        tests: of each field its path, and what one of the patterns must match.
    """

    tests: tuple[tuple[Path, re.Pattern[str]], ...] = ()

    @classmethod
    def of(cls, patterns: Mapping[str, Sequence[str]]) -> "Conditions":
        """From field and patterns."""
        return cls(
            tuple(
                (path_of(name), re.compile("|".join(fnmatch.translate(pattern.casefold()) for pattern in wanted)))
                for name, wanted in patterns.items()
            )
        )

    def any(self, record: Any) -> bool:
        """Whether a value of one of the fields matches."""
        return any(_matches(record, path, pattern) for path, pattern in self.tests)

    def all(self, record: Any) -> bool:
        """Whether a value of each of the fields matches, and there is a field."""
        return bool(self.tests) and all(_matches(record, path, pattern) for path, pattern in self.tests)

    def against(self, record: Any) -> bool:
        """Whether one of the fields has a value, and none that matches."""
        return any(
            next(values_at(record, path), None) not in (None, "") and not _matches(record, path, pattern)
            for path, pattern in self.tests
        )

    @property
    def paths(self) -> Iterator[Path]:
        """Of all fields."""
        return (path for path, _ in self.tests)


def _matches(record: Any, path: Path, pattern: re.Pattern[str]) -> bool:
    return any(pattern.match(text_of(value).casefold()) for value in values_at(record, path))


def seconds_of(text: str) -> int:
    """A time as services write it, in whole seconds since 1970: ISO 8601 with any number of digits, taken for UTC where
    it names no zone, or seconds, milli-, micro- or nanoseconds since 1970.

    Raises:
        ValueError: it is no such time, a date alone, before 1990, or more than a day from now. What programs write for
            no time, such as the years 1 and 1970, is no time of an event.
    """
    try:
        seconds = _seconds(text.strip())
    except ValueError:
        seconds = 0.0
    if not EARLIEST <= seconds <= latest_time():
        raise ValueError(
            f"time {text!r:.60}: expected ISO 8601 with a time of day, or seconds since 1970, from 1990 to a "
            "day from now"
        )
    return int(seconds)


def _seconds(text: str) -> float:
    if text[4:5] != "-":  # most have it, and to fail at a number takes as long as all the rest
        with contextlib.suppress(ValueError):
            return epoch_seconds(float(text))  # first: 1772120912159 is no day of the year 1772
    if len(text) <= _LONGEST_DATE:
        raise ValueError("a date alone")
    moment = datetime.fromisoformat(text.removesuffix(" UTC"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
