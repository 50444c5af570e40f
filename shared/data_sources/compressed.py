"""What a packed file holds, told by its first bytes and never by its name, up to what an honest one unpacks to."""

import bz2
import errno
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, BinaryIO, cast

# Honest logs unpack to some ten or thirty times their size; the most that gzip reaches is 1,032, for one byte repeated.
MOST_UNPACKED_PER_PACKED = 200
FREE_UNPACKED_BYTES = 64 << 20  # whatever their share: a small file may repeat one line
# CloudWatch Logs packs what it hands on, Firehose may pack that again, and a person the folder's files once more.
MOST_LAYERS = 3
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4", ".zip")
_BUFFER_BYTES = 1 << 18
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def unpacked(raw: BinaryIO) -> BinaryIO:
    """The bytes that a file holds: itself where it is plain, else what gzip, bzip2, xz, zstd, lz4 or zip has in it.

    Args:
        raw: at its begin, and seekable.

    Where it turns out to be damaged the stream ends, and `damage_of` says how.

    Raises:
        OSError: a zip archive has not exactly one file or, while it is read, it unpacks to what no log would.
        EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile: it is damaged from its begin on.
    """
    stream = raw
    for _ in range(MOST_LAYERS):
        start = stream.peek(6)[:6] if isinstance(stream, io.BufferedReader) else b""
        reader = next((reader for magic, reader in _READERS.items() if start.startswith(magic)), None)
        if reader is None:
            break
        stream = io.BufferedReader(_Bounded(reader(stream), raw), _BUFFER_BYTES)
    return stream


def damage_of(stream: BinaryIO) -> Exception | None:
    """Why a stream of `unpacked` ended before its end, if it did."""
    raw = getattr(stream, "raw", None)
    return raw.damage if isinstance(raw, _Bounded) else None


class _Bounded(io.RawIOBase):
    """What a packed stream unpacks to, up to the share that an honest one does: some kB may stand for all memory."""

    def __init__(self, unpacker: IO[bytes], packed: BinaryIO) -> None:
        self._unpacker = unpacker
        self._packed = packed
        self._unpacked = 0
        self.damage: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.damage is not None:  # bz2 within zip has a RuntimeError for whoever asks again
            return 0
        read_some = getattr(self._unpacker, "read1", self._unpacker.read)  # before a cut there may be whole records
        try:
            data = read_some(len(buffer))
        except DAMAGE as error:
            self.damage = error
            return 0
        except OSError as error:
            if error.errno is not None:
                raise
            self.damage = error  # gzip's and bz2's own, and Arrow's, have no number
            return 0
        buffer[: len(data)] = data
        self._unpacked += len(data)
        if self._unpacked > max(FREE_UNPACKED_BYTES, MOST_UNPACKED_PER_PACKED * self._packed.tell()):
            raise OSError(errno.EFBIG, f"it unpacks to more than {MOST_UNPACKED_PER_PACKED} times its size")
        return len(data)


def _by_arrow(codec: str) -> Callable[[BinaryIO], IO[bytes]]:
    def opened(stream: BinaryIO) -> IO[bytes]:
        import pyarrow as pa  # on demand: it takes a second to load

        return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec))

    return opened


def _zip_member(stream: BinaryIO) -> IO[bytes]:
    try:
        return _only_member(zipfile.ZipFile(stream))
    except (NotImplementedError, RuntimeError, ValueError) as error:  # a method, version or name that it does not know
        raise zipfile.BadZipFile(str(error)) from None


def _only_member(archive: zipfile.ZipFile) -> IO[bytes]:
    members = [one for one in archive.infolist() if not one.filename.endswith("/")]  # `is_dir` fails at an empty name
    if len(members) != 1:
        raise OSError(errno.EINVAL, f"a zip archive of {len(members)} files, expected one; unpack it into the folder")
    if members[0].flag_bits & 1:
        raise OSError(errno.EACCES, "a zip archive with a password; unpack it into the folder")
    return archive.open(members[0])


_READERS: dict[bytes, Callable[[BinaryIO], IO[bytes]]] = {
    b"\x1f\x8b": lambda stream: cast(IO[bytes], gzip.GzipFile(fileobj=stream)),
    b"BZh": lambda stream: cast(IO[bytes], bz2.BZ2File(stream)),
    b"\xfd7zXZ\0": lambda stream: cast(IO[bytes], lzma.LZMAFile(stream)),  # noqa: SIM115 (its reader lives as long as the raw file)
    b"\x28\xb5\x2f\xfd": _by_arrow("zstd"),
    b"\x04\x22\x4d\x18": _by_arrow("lz4"),
    b"PK\x03\x04": _zip_member,
}
