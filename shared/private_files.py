"""Files that hold secrets: created with mode 0600, whole or not at all, and refused when others could read them."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shared import atomic
from shared.bounded_files import open_regular, read_at_most
from shared.errors import KeyMaterialError

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
MAX_FILE_BYTES = 1 << 20  # the longest key's file has 600 kB, nearly all its proof; this bounds what a wrong path costs


def read_private_file(path: Path, advice: str) -> bytes:
    """The bytes of a file that only its owner may read.

    Args:
        path: the file; a symbolic link of this user's or of root is followed, as secret stores mount theirs as links.
        advice: what to do when it is missing, for the error.

    Raises:
        KeyMaterialError: missing, unreadable, not a regular file, too large, another user's, reached by another user's
            link, or open to the group or to others.
    """
    try:
        _check_owner(path, path.lstat())
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            _check_owner(path, status)
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077:
                raise KeyMaterialError(
                    f"{path}: mode {mode:04o} lets other users at a private key, expected {PRIVATE_MODE:04o}; "
                    f"run: chmod 600 {path}"
                )
            return read_at_most(file, MAX_FILE_BYTES, str(path))
    except FileNotFoundError:
        raise KeyMaterialError(f"{path}: no such file; {advice}") from None
    except OSError as error:
        raise KeyMaterialError(
            f"{path}: can't be read: {error.strerror}; give the path of the key file itself, as the user who owns it"
        ) from None


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Whoever owns a key's file, or the link to it, could exchange the key for one that they know."""
    if status.st_uid not in (0, os.geteuid()):
        what = "a symbolic link of" if stat.S_ISLNK(status.st_mode) else "belongs to"
        raise KeyMaterialError(
            f"{path}: {what} another user (id {status.st_uid}), who could exchange the key; remove it, and put a file "
            "of your own there"
        )


def keep_files_private() -> None:
    """What this process makes from now on is its owner's alone (umask 077); to be called by a process's main part."""
    os.umask(0o077)


def create_file(path: Path, data: bytes, *, mode: int, advice: str) -> None:
    """Write a new file whole or not at all, and never over an existing one.

    Raises:
        KeyMaterialError: the file exists (its message ends with `advice`), or it can't be written.
    """
    try:
        with _refusals(path):
            atomic.create_file(path, data, mode=mode)
    except FileExistsError:
        raise KeyMaterialError(f"{path}: already exists and is never overwritten; {advice}") from None


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Exchange a file's content in one step.

    Raises:
        KeyMaterialError: it can't be written.
    """
    with _refusals(path):
        atomic.replace_file(path, data, mode=mode)


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter; one that exists is left as it is.

    Raises:
        KeyMaterialError: it can't be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeyMaterialError(f"{path}: the folder can't be made: {error.strerror}; choose another place") from None


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP):
            reason = f"{reason} (a file system without hard links or file modes can't hold keys)"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room, and repeat" if full else "choose a folder you may write to"
        raise KeyMaterialError(f"{path}: can't be written: {reason}; {remedy}") from None
