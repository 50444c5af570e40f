"""A tenant's memory on the disk: one line of JSON for each thing it has answered, in a file that one process locks.

A line is written, and on the disk, before the answer that it is about leaves. A line that a crash cut off was never
answered, so it is dropped. The file holds no secret: digests, rounds and the names of tenants. Whoever deletes it makes
the tenant forget, and gives up what `shared/masking/memory.py` promises about the sums so far.
"""

import fcntl
import json
import os
from pathlib import Path

from shared.atomic import append_whole, sync_folder
from shared.bounded_files import read_bounded
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.memory import Record, RoundMemory

_MOST_BYTES = 1 << 28  # some hundred thousand rounds of a hundred tenants
_SLACK = 1000  # lines that later ones have made needless before the file is written anew


class Ledger(RoundMemory):
    """The memory of one tenant; `close` gives the file back.

    Args:
        path: the file; made where there is none.

    Raises:
        BrokenRuleError of ROUND_MEMORY: another process has it open, or it can't be read or written, or is not what
            this class writes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable("opened", error) from None
        try:
            self._lock_file(path)
            self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the file back, for the next process; twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()

    def write(self, record: Record) -> None:
        """Append a line and wait until it is on the disk."""
        self._append(_line(record))

    def _lock_file(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Opened under this name, and perhaps written anew by its owner before the lock was ours.
            if os.fstat(self._file).st_ino == path.stat().st_ino:
                return
            raise BlockingIOError
        except BlockingIOError:
            raise BrokenRuleError(
                Rule.ROUND_MEMORY,
                f"{self._path}: another process of this tenant has it open; two could answer one round twice: stop the "
                "other one",
            ) from None
        except OSError as error:
            raise self._unusable("locked", error) from None

    def _load(self) -> None:
        try:
            data = read_bounded(self._path, _MOST_BYTES)
            whole = data[: data.rfind(b"\n") + 1]
            os.ftruncate(self._file, len(whole))
        except OSError as error:
            raise self._unusable("read", error) from None
        lines = whole.split(b"\n")[:-1]
        for number, line in enumerate(lines, start=1):
            try:
                self._apply(json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise BrokenRuleError(
                    Rule.ROUND_MEMORY,
                    f"{self._path}, line {number}: {error}; expected a tenant's ledger: restore it from a backup",
                ) from None
        if len(lines) > len(self._records()) + _SLACK:
            self._compact()
        try:
            sync_folder(self._path.parent)  # the file's name, too, survives a power cut
        except OSError as error:
            raise self._unusable("written", error) from None

    def _compact(self) -> None:
        """Write the same memory in fewer lines. The lock moves to the new file before the old name goes."""
        part = self._path.with_name(self._path.name + ".part")
        old = self._file
        try:
            part.unlink(missing_ok=True)
            self._file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._lock_file(part)
            self._append(b"".join(map(_line, self._records())))
            part.replace(self._path)
        except OSError as error:
            raise self._unusable("written", error) from None
        finally:
            os.close(old)

    def _append(self, data: bytes) -> None:
        try:
            append_whole(self._file, data)
        except OSError as error:
            raise self._unusable("written", error) from None

    def _unusable(self, what: str, error: OSError) -> BrokenRuleError:
        return BrokenRuleError(
            Rule.ROUND_MEMORY, f"{self._path}: can't be {what}: {error.strerror or error}; check the disk and its owner"
        )


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
