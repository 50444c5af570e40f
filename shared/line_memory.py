"""A small file of JSON lines that is only added to, under a lock, and on the disk before anybody goes on.

A line that a crash cut off is dropped when the file is opened next.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.atomic import append_whole
from shared.bounded_files import read_bounded
from shared.private_files import make_private_folder

_MOST_BYTES = 1 << 28


class Lines:
    """The file while its lock is held.

    Attributes:
        records: of its lines.
    """

    def __init__(self, file: int, records: list[Any]) -> None:
        self._file, self.records = file, records

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line, and wait until it is on the disk.

        Raises:
            OSError: it can't be written.
        """
        append_whole(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")


@contextlib.contextmanager
def locked_lines(path: Path) -> Iterator[Lines]:
    """Open such a file, or make it, and keep every other process out meanwhile.

    Args:
        path: the file; a symbolic link is refused.

    Raises:
        OSError: it can't be opened, read or written.
        ValueError: a line is no JSON.
        KeyMaterialError: its folder can't be made.
    """
    make_private_folder(path.parent)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        data = read_bounded(path, _MOST_BYTES)
        whole = data[: data.rfind(b"\n") + 1]
        os.ftruncate(file, len(whole))
        yield Lines(file, [json.loads(line) for line in whole.split(b"\n")[:-1]])
    finally:
        os.close(file)
