"""A command in a terminal of a given width, and what a person sees on it at the end."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_MOVES = re.compile(r"(\x1b\[\d*A|\x1b\[2K|\r|\n)")  # up, erase the line, to its beginning, to the next one
_CURSOR = re.compile(r"\x1b\[\?25[lh]")


@dataclass(frozen=True)
class Screen:
    """How the command ended, and what was on the screen.

    Attributes:
        code: exit status.
        raw: all that was written, with its escape sequences.
    """

    code: int
    raw: str

    @property
    def lines(self) -> list[str]:
        """The lines that stay, without colours."""
        lines, row, column = [""], 0, 0
        for part in _MOVES.split(_COLOUR.sub("", _CURSOR.sub("", self.raw))):
            match part:
                case "\r":
                    column = 0
                case "\n":
                    row += 1
                    lines += [""] * (row + 1 - len(lines))
                case "\x1b[2K":
                    lines[row] = ""
                case _ if part.startswith("\x1b"):
                    row -= int(part[2:-1] or 1)
                case _:
                    before = lines[row].ljust(column)
                    lines[row] = before[:column] + part + before[column + len(part) :]
                    column += len(part)
        return [line.rstrip() for line in lines]

    @property
    def cursor_is_shown(self) -> bool:
        """Whether a person who types next sees where."""
        return self.raw.rfind("\x1b[?25h") >= self.raw.rfind("\x1b[?25l")


class Terminal:
    """A process whose standard streams are a terminal, which is to be read (`finish`) and is killed otherwise."""

    def __init__(self, command: Sequence[str], columns: int, folder: Path, environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=theirs, stdout=theirs, stderr=theirs,
            env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self._seen = b""

    def wait_for(self, text: str) -> None:
        """Read on until this was written."""
        while text.encode() not in self._seen:
            if not self._read():
                raise AssertionError(f"ended without {text!r}; it wrote:\n{self._seen.decode()}")

    def signal(self, number: int) -> None:
        """As the terminal does at Ctrl-C, but to this one process."""
        self._process.send_signal(number)

    def finish(self) -> Screen:
        """Read to the end."""
        while self._read():
            pass
        return Screen(self._process.wait(), self._seen.decode())

    def kill(self) -> None:
        """End it if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        try:
            part = os.read(self._ours, 1 << 16)
        except OSError:  # what Linux says when the other side is closed
            return False
        self._seen += part
        return part != b""
