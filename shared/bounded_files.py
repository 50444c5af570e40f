"""Reading files that others gave: what is no ordinary file is refused at once, and no file takes all memory.

A path may lead to a named pipe, which waits for a writer for ever, or to a device such as /dev/zero, which never ends.
What is wrong is raised as an `OSError`, like everything else that keeps a file from being read, so that each caller
makes its own typed error of all of them in one place.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_CERTIFICATE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, open to be read; symbolic links are followed.

    Raises:
        OSError: the file is missing or can't be opened, or is a folder, a pipe, a socket or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    # The open file is examined, not the path, which could be exchanged in between.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_bounded(path: str | Path, most: int) -> bytes:
    """The bytes of a regular file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: it can't be read, is no regular file, or is larger.
    """
    with open_regular(path) as file:
        return read_at_most(file, most, str(path))


def read_at_most(stream: BinaryIO, most: int, name: str) -> bytes:
    """All that is left in a stream.

    Args:
        stream: packed or not; a reader that unpacks while it is read is bounded in what it unpacks.
        most: bytes that it may hold.
        name: of the file, for the error.

    Raises:
        OSError: it holds more.
    """
    parts = bytearray()
    while part := stream.read(min(_CHUNK_BYTES, most + 1 - len(parts))):
        parts += part
        if len(parts) > most:
            raise OSError(errno.EFBIG, f"larger than {most} bytes", name)
    return bytes(parts)
