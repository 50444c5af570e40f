"""Which rounds a client has entered, remembered across restarts.

A client that could be led into one round twice would upload one vector under two sets of masks, in two cohorts that
the server chooses; the difference of the sums may then be one update.
"""

import contextlib
import json
import os
import tempfile
import threading
from pathlib import Path

from shared.masking.errors import RoundMemoryError, StaleRoundError


class RoundMemory:
    """A small file with the last round of each session and bucket.

    One file belongs to one client and one process at a time. It holds no secret; deleting it makes the client forget.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def claim(self, session: bytes, bucket: str, round_number: int) -> None:
        """Enter a round, once and for all: on return it is on the disk.

        Raises:
            StaleRoundError: this round, or a later one of the session and bucket, was entered before.
            RoundMemoryError: the file can't be read or written, or is not what this class writes.
        """
        with self._lock:
            rounds = self._load()
            last = rounds.setdefault(session.hex(), {}).get(bucket)
            if last is not None and round_number <= last:
                raise StaleRoundError(f"round {round_number} of {bucket!r} after round {last}; expected a later round")
            rounds[session.hex()][bucket] = round_number
            self._store(rounds)

    def _load(self) -> dict[str, dict[str, int]]:
        try:
            rounds = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise RoundMemoryError(f"{self._path}: can't be read: {error}; restore it from a backup") from None
        if not isinstance(rounds, dict) or not all(
            isinstance(buckets, dict) and all(type(last) is int for last in buckets.values())
            for buckets in rounds.values()
        ):
            raise RoundMemoryError(f"{self._path}: not a record of rounds; restore it from a backup")
        return rounds

    def _store(self, rounds: dict[str, dict[str, int]]) -> None:
        temporary = ""
        try:
            # mkstemp makes the file with mode 0600; the rename keeps that.
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=f"{self._path.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(rounds, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)  # noqa: PTH105 (the name is a string from mkstemp)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # without it a power cut could undo the rename
            finally:
                os.close(folder)
        except OSError as error:
            if temporary:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            raise RoundMemoryError(f"{self._path}: can't be written: {error}") from None
