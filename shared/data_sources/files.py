"""Finding and opening the files of a data set."""

import codecs
import errno
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from shared.bounded_files import open_regular
from shared.data_sources import compressed
from shared.data_sources.file_names import bare_name, may_be_a_log, read_order
from shared.data_sources.once import tell_once
from shared.errors import DataError, NoLogError, OddFileError

_log = logging.getLogger("data")
LONGEST_LINE_BYTES = 16 << 20
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
        tell_once(
            f"{path}: left out {len(others)} that are no such logs by name and first characters: {_names(others)}; let "
            f"the name of one that is end in {suffixes[0]}"
        )
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
    """UTF-8 text, or UTF-16 by its byte order mark or its first two characters. A byte that is neither becomes U+FFFD:
    one odd letter in one name is no reason to lose a record.

    Raises:
        DataError: as in `opened`, or a line is longer than `LONGEST_LINE_BYTES`.
    """
    with opened(path) as stream:
        buffered = io.BufferedReader(_Lines(stream), _BUFFER_BYTES)
        with io.TextIOWrapper(buffered, encoding=_encoding(buffered.peek(4)[:4]), errors="replace") as text:
            yield text


def _encoding(start: bytes) -> str:
    """Of a text that begins with these four bytes. Without a mark every second byte of two ASCII letters is NUL."""
    if start[:3] == codecs.BOM_UTF8:
        return "utf-8-sig"
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    letters = [byte != 0 for byte in start]
    if letters == [True, False, True, False]:
        return "utf-16-le"
    return "utf-16-be" if letters == [False, True, False, True] else "utf-8"


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
