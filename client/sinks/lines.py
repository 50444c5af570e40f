"""Alerts as lines at the end of a file, each once, whatever process died while it wrote."""

import json
import os
from collections.abc import Sequence
from io import RawIOBase
from pathlib import Path

from client.sinks.sink import Alert, Outcome, all_accepted
from shared.errors import ConfigError


class LinesFile:
    """A sink that is a file of JSON lines, its owner's alone. Where it was renamed, as logs are, a new one begins.

    Args:
        name: of the sink.
        path: made if it is not there.

    Raises:
        ConfigError: it is no file, or its folder is not there.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.where = name, str(path)
        self._path = path
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is no file; expected a file to add alerts to")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: its folder is not there; make it, or name another file")

    def send(self, batch: Sequence[Alert], mark: str) -> Outcome:
        """Add them; they are on the disk when this returns."""
        return all_accepted(batch, add_lines(self._path, b"".join(alert.body + b"\n" for alert in batch), mark))


def add_lines(path: Path, lines: bytes, mark: str) -> str:
    """Add lines behind those that the mark tells of.

    What is behind the mark already is either the begin of these very lines, of a process that died before it could keep
    its own mark, and then only the rest is written. Or it is somebody else's, and then these come after it.

    Args:
        path: of the file.
        lines: whole lines.
        mark: what the last call returned; empty at first.

    Returns:
        The mark of the next call.

    Raises:
        OSError: the file can't be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        status = os.fstat(descriptor)
        size = status.st_size
        known = json.loads(mark) if mark else {}
        same = known.get("inode") == status.st_ino and known.get("end", 0) <= size
        end = int(known["end"]) if same else 0
        file.seek(end)
        left_behind = _read(file, len(lines))
        if lines.startswith(left_behind):
            done = len(left_behind)
        else:
            done, end = 0, size
            file.seek(max(end - 1, 0))
            if end and file.read(1) != b"\n":  # half a line of somebody else
                file.write(b"\n")
                end += 1
        file.seek(end + done)
        rest = memoryview(lines)[done:]
        while rest:
            rest = rest[file.write(rest) or 0 :]
        os.fsync(descriptor)
        return json.dumps({"inode": status.st_ino, "end": end + len(lines)})


def _read(file: RawIOBase, most: int) -> bytes:
    parts = b""
    while len(parts) < most and (part := file.read(most - len(parts))):
        parts += part
    return parts
