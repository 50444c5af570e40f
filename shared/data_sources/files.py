"""Finding and opening the files of a data set, and counting what in them is broken or left out."""

import codecs
import errno
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from shared.bounded_files import open_regular
from shared.data_sources import compressed
from shared.data_sources.file_names import bare_name, may_be_a_log, read_order
from shared.errors import DataError, NoLogError, OddFileError

_log = logging.getLogger("data")
LOGGED_BROKEN_LINES = 5
LOGGED_FILES = 20
# Enough lines to tell a wrong format from a few broken lines without reading all of it.
EARLY_CHECK_LINES = 10_000
LONGEST_LINE_BYTES = 16 << 20
_MOST_KINDS = 100  # of what is left out that are told apart: a file may make up as many as it has lines
_OTHER_KINDS = "of other kinds"
_BUFFER_BYTES = 1 << 18
_HEAD_BYTES = 1 << 12


def list_files(
    path: Path, suffixes: tuple[str, ...], is_ours: Callable[[str], bool], skip_folders: tuple[str, ...] = ()
) -> list[Path]:
    """The file itself, or the files below a folder that hold such records.

    A name is looked at without what packing and rotating appended (`a.log.2.gz`). Whatever ends in none of `suffixes`
    and could be a log all the same, such as Firehose's objects, which end in nothing, is asked by its first characters.
    A warning names what is left out. Files come by the delivery time that AWS writes into their names, so that logs of
    several accounts and regions are read side by side; files without such a time come by their path.

    Args:
        path: file or folder.
        suffixes: with them a file is taken unseen.
        is_ours: whether a file's first characters are those of such records.
        skip_folders: names of folders that hold something else.

    Raises:
        NoLogError: nothing is there.
    """
    if path.is_file():
        return [path]
    found: list[Path] = []
    others: list[Path] = []
    for file in sorted(path.rglob("*")):
        kind = _kind(file)
        if kind == "folder" or file.name.startswith(".") or set(skip_folders) & set(file.parts):
            continue
        named = bare_name(file.name).lower().endswith(suffixes)
        ours = kind == "file" and (named or (may_be_a_log(file.name) and is_ours(head(file))))
        (found if ours else others).append(file)
    if not found:
        there = f"; it has {_names(others)}" if others else ""
        raise NoLogError(
            f"{path}: expected a file, or a folder with files that end in {', '.join(suffixes)} (also packed){there}"
        )
    if others:
        _tell_left_out(path, len(others), _names(others), suffixes[0])
    return sorted(found, key=read_order)


def _kind(path: Path) -> str:
    """`file`, `folder`, whose files are listed by themselves, or empty: a pipe, a link to nowhere or to a folder, which
    may lead back, or a folder that nobody may look into.
    """
    try:
        if path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK | os.X_OK):
            return "folder"
        return "file" if path.is_file() else ""
    except PermissionError:
        return ""


def _names(files: list[Path]) -> str:
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return ", ".join(file.name for file in files[:5]) + more


@lru_cache(maxsize=64)  # the same folder is listed some times
def _tell_left_out(path: Path, number: int, names: str, suffix: str) -> None:
    _log.warning(
        "%s: left out %d that are no such logs by name and first characters: %s; let the name of one that is end in %s",
        path, number, names, suffix,
    )  # fmt: skip


def head(path: Path) -> str:
    """The first characters of a file, unpacked; none where it can't be read."""
    found = ""
    try:
        with opened_json(path) as text:
            found = text.read(_HEAD_BYTES).lstrip("\ufeff")
    except DataError:  # whoever reads it says so; it may be cut off further on
        pass
    return found


def is_empty(path: Path) -> bool:
    """Whether a file begins with nothing but blanks; one that is damaged from its begin on has something in it."""
    try:
        with opened_json(path) as text:
            return not text.read(_HEAD_BYTES).strip("\ufeff \t\r\n")
    except DataError:
        return False


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its first bytes or, where it is damaged, its name."""
    if path.name.lower().endswith((".parquet", ".pq", ".parq")):
        return True
    try:
        with open_regular(path) as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def is_cut_off(path: Path) -> bool:
    """Whether a packed file or a Parquet file lacks its end, such as one that is still being written.

    A packed file is read to its end for that. A plain one has no end that could be missed.
    """
    try:
        with open_regular(path) as raw:
            if is_parquet(path):
                end = raw.seek(0, io.SEEK_END)
                raw.seek(max(0, end - 4))
                return raw.read(4) != b"PAR1"
            stream = compressed.unpacked(raw)
            while stream is not raw and stream.read(_BUFFER_BYTES):
                pass
            return compressed.damage_of(stream) is not None
    except compressed.DAMAGE:
        return True
    except OSError:
        return False  # of whatever cause: its reader says so


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked, whatever its name says.

    Raises:
        OddFileError: it is packed, and damaged or cut off: in the end, when all that is good was read.
        DataError: the file can't be read, or unpacks to what no log would.
    """
    try:
        with open_regular(path) as raw:
            stream = cast(io.BufferedReader, compressed.unpacked(raw))
            yield stream
            damage = compressed.damage_of(stream)
    except compressed.DAMAGE as error:
        raise OddFileError(f"{path}: damaged or cut off: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}; expected a plain or packed file") from None
    if damage is not None:
        raise OddFileError(f"{path}: damaged or cut off: {damage}")


class _Lines(io.RawIOBase):
    """Bytes as they are, up to a line that no memory should be given to; of a file that is cut off, whole lines alone:
    half a number is a number, too.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ready = memoryview(b"")  # whole lines
        self._rest = bytearray()  # of a line so far

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            data = self._stream.read(_BUFFER_BYTES)
            if not data:
                if compressed.damage_of(self._stream) is None:
                    self._ready = memoryview(bytes(self._rest))
                self._rest.clear()
                break
            end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
            if end:
                self._ready = memoryview(bytes(self._rest) + data[:end])
                self._rest = bytearray(data[end:])
            else:
                self._rest += data
            if len(self._rest) > LONGEST_LINE_BYTES:
                raise OSError(errno.EFBIG, f"a line is longer than {LONGEST_LINE_BYTES} bytes")
        part = self._ready[: len(buffer)]
        buffer[: len(part)] = part
        self._ready = self._ready[len(part) :]
        return len(part)


@contextmanager
def opened_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """UTF-8 text, or UTF-16 or UTF-8 by its byte order mark. A byte that is neither becomes U+FFFD: one odd letter in
    one name is no reason to lose a record.

    Raises:
        DataError: as in `opened`, or a line is longer than `LONGEST_LINE_BYTES`.
    """
    with opened(path) as stream:
        buffered = io.BufferedReader(_Lines(stream), _BUFFER_BYTES)
        start = buffered.peek(3)[:3]
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            encoding = "utf-16"
        else:
            encoding = "utf-8-sig" if start == codecs.BOM_UTF8 else "utf-8"
        with io.TextIOWrapper(buffered, encoding=encoding, errors="replace") as text:
            yield text


@contextmanager
def opened_json(path: Path) -> Iterator[io.TextIOWrapper]:
    """Text whose lines may be as long as the file: UTF-8, UTF-16 or UTF-32, told apart as JSON (RFC 4627) is.

    Raises:
        DataError: as in `opened`.
    """
    with opened(path) as stream:
        start = stream.peek(4)[:4]
        encoding = json.detect_encoding(start) if start else "utf-8"
        with io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="") as text:
            yield text


class Text(Protocol):
    """What can be read in pieces."""

    def read(self, size: int) -> str:
        """The next characters, at most `size`, none at the end."""


class Utf8Stream(io.RawIOBase):
    """A text as UTF-8 bytes, for readers that take nothing else."""

    def __init__(self, text: Text) -> None:
        self._text = text

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._text.read(max(len(buffer) // 4, 1)).encode()  # a character has at most 4 bytes
        buffer[: len(data)] = data
        return len(data)


class BrokenLines:
    """Counts what was read and what of it became no row, so that nothing is skipped without a word.

    Logs the first few broken lines, and refuses a data set with too many.

    Attributes:
        lines: lines or records that were read, whatever became of them.
        broken: those of them that were skipped as broken.
        left_out: those of them that are fine and no events, by what they are.
        odd_files: that were empty, or of which a part could not be read.
    """

    def __init__(self, path: Path, max_share: float) -> None:
        self._path = path
        self._max_share = max_share
        self.lines = 0
        self.broken = 0
        self.left_out: Counter[str] = Counter()
        self.odd_files = 0
        self._first = ""

    def add(self, file: Path, line: int | str, reason: str) -> None:
        """One broken line; it must also be among the lines given to `seen`.

        Args:
            file: that it is in.
            line: its number from 1, or where it is in words, such as "line 1, record 7".
            reason: what is wrong with it.
        """
        self.broken += 1
        where = f"{file}, {f'line {line}' if isinstance(line, int) else line}: {reason}"
        self._first = self._first or where
        if self.broken <= LOGGED_BROKEN_LINES:
            _log.warning("skipped %s", where)

    def leave_out(self, what: str, lines: int = 1) -> None:
        """So many lines are no events and no damage either; they must also be among those given to `seen`."""
        if lines:
            few = what in self.left_out or len(self.left_out) < _MOST_KINDS
            self.left_out[what if few else _OTHER_KINDS] += lines

    def empty_file(self, file: Path) -> None:
        """A file with nothing in it, such as an interrupted download leaves."""
        self._odd_file(f"{file}: empty, nothing to read")

    def cut_file(self, error: OddFileError) -> None:
        """A file that could not be read to its end: what was not read counts as one broken line.

        Raises:
            DataError: as in `seen`.
        """
        self.broken += 1
        self._first = self._first or str(error)
        self._odd_file(f"{error}; what is before it is used, the rest is not read")
        self.seen(1)

    def _odd_file(self, told: str) -> None:
        self.odd_files += 1
        if self.odd_files <= LOGGED_FILES:
            _log.warning("%s", told)

    def seen(self, lines: int) -> None:
        """So many lines more were read, good or broken.

        Raises:
            DataError: as in `check`, as soon as there are enough lines to judge by.
        """
        self.lines += lines
        if self.lines >= EARLY_CHECK_LINES:
            self.check()

    def check(self) -> None:
        """To be called when everything was read.

        Raises:
            DataError: the share of broken lines is above the setting `max_broken_share`.
        """
        if self.broken > self._max_share * self.lines:
            raise DataError(
                f"{self._path}: {self.broken} of {self.lines} lines are broken, more than max_broken_share = "
                f"{self._max_share:g}; the first: {self._first}; check the format, or raise max_broken_share"
            )

    def report(self) -> None:
        """`check`, and one line in the log where something was skipped or left out.

        Raises:
            DataError: as in `check`, or all files are empty.
        """
        self.check()
        if self.odd_files and not self.lines:
            raise DataError(f"{self._path}: empty; expected records")
        if self.broken:
            _log.warning("%s: skipped %d broken lines of %d", self._path, self.broken, self.lines)
        for what, lines in self.left_out.items():
            _log.info("%s: left out %d of %d: %s", self._path, lines, self.lines, what)
        if self.odd_files > LOGGED_FILES:
            _log.warning("%s: %d files are empty or cut off", self._path, self.odd_files)
