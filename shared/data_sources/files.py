"""Finding and opening the files of a data set, and counting the lines in them that are broken."""

import codecs
import errno
import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from shared.bounded_files import open_regular
from shared.errors import DataError

_log = logging.getLogger("data")
LOGGED_BROKEN_LINES = 5
# Enough lines to tell a wrong format from a few broken lines without reading all of it.
EARLY_CHECK_LINES = 10_000
LONGEST_LINE_BYTES = 16 << 20
# Honest logs unpack to some ten or thirty times their size; the most that gzip reaches is 1,032, for one byte repeated.
MOST_UNPACKED_PER_PACKED = 200
FREE_UNPACKED_BYTES = 64 << 20  # whatever their share: a small file may repeat one line
_BUFFER_BYTES = 1 << 18
_DELIVERY_TIME = re.compile(r"_(\d{8}T\d{4}Z)_")


def list_files(path: Path, suffixes: tuple[str, ...], skip_folders: tuple[str, ...] = ()) -> list[Path]:
    """The file itself, or all files below a folder that end in one of `suffixes` (or that and `.gz`).

    They come by the delivery time that AWS writes into file names, so that logs of several accounts and regions are
    read side by side; files without such a time come by their path.

    Raises:
        DataError: nothing is there.
    """
    if path.is_file():
        return [path]
    wanted = tuple(f"{suffix}{packed}" for suffix in suffixes for packed in ("", ".gz"))
    found = [
        file
        for file in path.rglob("*")
        if file.name.lower().endswith(wanted)
        and not file.name.startswith(".")
        and not set(skip_folders) & set(file.parts)
        and file.is_file()
    ]
    if not found:
        raise DataError(f"{path}: expected a file, or a folder with files that end in {', '.join(suffixes)} (or .gz)")
    return sorted(found, key=_order)


def _order(file: Path) -> tuple[str, str]:
    delivered = _DELIVERY_TIME.search(file.name)
    return (delivered[1] if delivered else "", str(file))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where it is gzip, whatever its name says.

    Raises:
        DataError: the file can't be read, its gzip is damaged, or unpacks to what no log would.
    """
    try:
        with open_regular(path) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield io.BufferedReader(_Unpacked(raw), _BUFFER_BYTES) if packed else raw
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: can't be read: {reason}; expected a plain or gzip file, complete") from None


class _Unpacked(io.RawIOBase):
    """What a gzip file holds, up to the share that an honest one unpacks to: some kB may stand for all memory."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._gzip = gzip.GzipFile(fileobj=packed)
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._gzip.read(len(buffer))
        buffer[: len(data)] = data
        self._unpacked += len(data)
        if self._unpacked > max(FREE_UNPACKED_BYTES, MOST_UNPACKED_PER_PACKED * self._packed.tell()):
            raise OSError(errno.EFBIG, f"it unpacks to more than {MOST_UNPACKED_PER_PACKED} times its size")
        return len(data)


class _Lines(io.RawIOBase):
    """Bytes as they are, up to a line that no memory should be given to."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._length = 0  # of the line so far, bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        start = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._length = len(data) - start + (0 if start else self._length)
        if self._length > LONGEST_LINE_BYTES:
            raise OSError(errno.EFBIG, f"a line is longer than {LONGEST_LINE_BYTES} bytes")
        return len(data)


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
    """Counts broken lines, logs the first few, and refuses a data set with too many."""

    def __init__(self, path: Path, max_share: float) -> None:
        self._path = path
        self._max_share = max_share
        self.lines = 0
        self.broken = 0
        self._first = ""

    def add(self, file: Path, line: int, reason: str) -> None:
        """One broken line; it must also be among the lines given to `seen`."""
        self.broken += 1
        where = f"{file}, line {line}: {reason}"
        self._first = self._first or where
        if self.broken <= LOGGED_BROKEN_LINES:
            _log.warning("skipped %s", where)

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
        """`check`, and one line in the log where something was skipped."""
        self.check()
        if self.broken:
            _log.warning("%s: skipped %d broken lines of %d", self._path, self.broken, self.lines)
