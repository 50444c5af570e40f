"""Files that are written whole or not at all. Every file that others read, and that is written at once, goes this way.

One durability for all: when a function returns, the bytes and the name are on the disk and survive a power cut. When it
raises, the old file is what it was. A reader sees the old bytes or the new ones, never a part.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_MODE = 0o666  # before the process's umask


def replace_file(path: Path, data: bytes, *, mode: int = _MODE) -> None:
    """Write a file, in the place of the one of that name if there is one.

    Args:
        path: the file.
        data: all of it.
        mode: its permissions, before the umask.

    Raises:
        OSError: it can't be written.
    """
    with _written_beside(path, data, mode) as temporary:
        temporary.replace(path)


def create_file(path: Path, data: bytes, *, mode: int = _MODE) -> None:
    """Write a file that is not there yet; arguments as in `replace_file`.

    Raises:
        FileExistsError: there is one of that name.
        OSError: it can't be written; EPERM where the file system has no hard links.
    """
    with _written_beside(path, data, mode) as temporary:
        # Unlike a rename, a hard link fails where the name is taken: atomic, and nothing is ever overwritten.
        os.link(temporary, path)


def append_whole(file: int, data: bytes) -> None:
    """Add bytes to the end of a file, and wait until they are on the disk; on an error the file is as long as before.

    A disk that is all but full takes a part of a write, and says so by the number of bytes alone. Half a line would be
    dropped when the file is opened next, and so what it was to remember, or would spoil the line after it.

    Args:
        file: descriptor of a file that is open to be appended to.
        data: all of it.

    Raises:
        OSError: it can't be written.
    """
    size, rest = os.fstat(file).st_size, memoryview(data)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fdatasync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut; fsync of a file alone saves its bytes, not its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """What fails in here names the file: of a full disk a write says no more than that there is one.

    Raises:
        OSError: as it was raised, with the file's name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """A temporary file beside `path` that holds `data` on disk; it is gone afterwards, whatever happens."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        # The mode is there from the first instant: a chmod afterwards would leave a moment to open the file in.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
