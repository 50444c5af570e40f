"""Counting what in a data set is broken or left out."""

import logging
from collections import Counter
from pathlib import Path

from shared.errors import DataError, OddFileError

_log = logging.getLogger("data")
LOGGED_BROKEN_LINES = 5
LOGGED_FILES = 20
# Enough lines to tell a wrong format from a few broken lines without reading all of it.
EARLY_CHECK_LINES = 10_000
_MOST_KINDS = 100  # of what is left out that are told apart: a file may make up as many as it has lines
_OTHER_KINDS = "of other kinds"


class BrokenLines:
    """Counts what was read and what of it became no row, so that nothing is skipped without a word.

    Logs the first few broken lines, and refuses a data set with too many.

    Attributes:
        lines: lines or records that were read, whatever became of them.
        broken: those of them that were skipped as broken.
        left_out: those of them that are fine and no events, by what they are.
        odd_files: that were empty, or of which a part could not be read.
    """

    def __init__(self, path: Path, max_share: float) -> None:
        self._path = path
        self._max_share = max_share
        self.lines = 0
        self.broken = 0
        self.left_out: Counter[str] = Counter()
        self.odd_files = 0
        self._first = ""

    def add(self, file: Path, line: int | str, reason: str) -> None:
        """One broken line; it must also be among the lines given to `seen`.

        Args:
            file: that it is in.
            line: its number from 1, or where it is in words, such as "line 1, record 7".
            reason: what is wrong with it.
        """
        self.broken += 1
        where = f"{file}, {f'line {line}' if isinstance(line, int) else line}: {reason}"
        self._first = self._first or where
        if self.broken <= LOGGED_BROKEN_LINES:
            _log.warning("skipped %s", where)

    def leave_out(self, what: str, lines: int = 1) -> None:
        """So many lines are no events and no damage either; they must also be among those given to `seen`."""
        if lines:
            few = what in self.left_out or len(self.left_out) < _MOST_KINDS
            self.left_out[what if few else _OTHER_KINDS] += lines

    def empty_file(self, file: Path) -> None:
        """A file with nothing in it, such as an interrupted download leaves."""
        self._odd_file(f"{file}: empty, nothing to read")

    def cut_file(self, error: OddFileError) -> None:
        """A file that could not be read to its end: what was not read counts as one broken line.

        Raises:
            DataError: as in `seen`.
        """
        self.broken += 1
        self._first = self._first or str(error)
        self._odd_file(f"{error}; what is before it is used, the rest is not read")
        self.seen(1)

    def _odd_file(self, told: str) -> None:
        self.odd_files += 1
        if self.odd_files <= LOGGED_FILES:
            _log.warning("%s", told)

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
        """`check`, and one line in the log where something was skipped or left out.

        Raises:
            DataError: as in `check`, or all files are empty.
        """
        self.check()
        if self.odd_files and not self.lines:
            raise DataError(f"{self._path}: empty; expected records")
        if self.broken:
            _log.warning("%s: skipped %d broken lines of %d", self._path, self.broken, self.lines)
        for what, lines in self.left_out.items():
            _log.info("%s: left out %d of %d: %s", self._path, lines, self.lines, what)
        if self.odd_files > LOGGED_FILES:
            _log.warning("%s: %d files are empty or cut off", self._path, self.odd_files)
