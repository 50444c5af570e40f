"""Files that hold secrets: created with mode 0600, whole or not at all, and refused when others could read them."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from shared.errors import KeyFileError

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
MAX_FILE_BYTES = 1 << 20  # the longest key's file has 600 kB, nearly all its proof; this bounds what a wrong path costs


def read_private_file(path: Path, advice: str) -> bytes:
    """The bytes of a file that only its owner may read.

    Args:
        path: the file; a symbolic link is followed, as secret stores mount their files as links.
        advice: what to do when it is missing, for the error.

    Raises:
        KeyFileError: missing, unreadable, not a regular file, too large, or open to the group or to others.
    """
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such file; {advice}") from None
    except OSError as error:
        raise KeyFileError(f"{path}: can't be opened: {error.strerror}; run as the user who owns it") from None
    try:
        # The open file is examined, not the path, which could be exchanged in between.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"{path}: not a regular file; give the path of the key file itself")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise KeyFileError(
                f"{path}: mode {mode:04o} lets other users at a private key, expected {PRIVATE_MODE:04o}; "
                f"run: chmod 600 {path}"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: can't be read: {error.strerror}; check the disk it lies on") from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path}: larger than {MAX_FILE_BYTES} bytes, so not a key file; check the path")
    return data


def create_file(path: Path, data: bytes, *, mode: int, advice: str) -> None:
    """Write a new file whole or not at all, and never over an existing one.

    Raises:
        KeyFileError: the file exists (its message ends with `advice`), or it can't be written.
    """
    with _written_beside(path, data, mode) as temporary:
        try:
            # Unlike a rename, a hard link fails where the name is taken: atomic, and nothing is ever overwritten.
            os.link(temporary, path)
        except FileExistsError:
            raise KeyFileError(f"{path}: already exists and is never overwritten; {advice}") from None


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Exchange a file's content in one step: a reader sees the old bytes or the new ones, never a part.

    Raises:
        KeyFileError: it can't be written.
    """
    with _written_beside(path, data, mode) as temporary:
        temporary.replace(path)


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter; one that exists is left as it is.

    Raises:
        KeyFileError: it can't be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeyFileError(f"{path}: the folder can't be made: {error.strerror}; choose another place") from None


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """A temporary file beside `path` that holds `data` on disk; it is gone afterwards, whatever happens."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        # The mode is there from the first instant: a chmod afterwards would leave a moment to open the file in.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP):
            reason = f"{reason} (a file system without hard links or file modes can't hold keys)"
        raise KeyFileError(f"{path}: can't be written: {reason}; choose a folder you may write to") from None
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; fsync of the file alone saves its bytes, not its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
