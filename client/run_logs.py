"""A tenant's log files: one in the folder of each run that it was greeted in, and how long they stay.

The server names the runs. So a name decides nothing here: what is old, and how many are new, goes by when this machine
wrote its own files, and nothing is removed that this tenant did not write.
"""

import contextlib
import logging
import time
from pathlib import Path
from typing import Final

from shared.config import Config
from shared.console import add_log_file, has_log_file
from shared.retention import RUN_NAME

KEPT_DAYS: Final = 30  # that a log stays after its last line, whatever a server calls its runs meanwhile
MOST_A_DAY: Final = 50  # new log files within 24 h; a server may greet under a thousand names a second
_DAY_SECONDS: Final = 86_400


class RunLogs:
    """One tenant's log files, `<log_dir>/<run>/client-<n>.log`.

    Args:
        config: its settings.
        client_id: its number.
        log: whose lines they hold.
    """

    def __init__(self, config: Config, client_id: int, log: logging.Logger) -> None:
        self._folder, self._keep = Path(config.log_dir), config.keep_runs
        self._name, self._log = f"client-{client_id}.log", log
        self._warned = False

    def enter(self, run: str) -> None:
        """From now on the lines go to this run's file, where there is room for one; files of before may go.

        Args:
            run: its name, as `check_run_name` lets it pass.

        Raises:
            OSError: the file can't be written.
        """
        path, ages = self._folder / run / self._name, self._ages()
        if path not in ages and sum(age < _DAY_SECONDS for age in ages.values()) >= MOST_A_DAY:
            if not has_log_file(self._log):
                add_log_file(self._log, min(ages, key=ages.__getitem__))
            if not self._warned:
                self._log.warning(
                    "the server has named %d runs within a day; the log goes on in the file of an earlier one",
                    MOST_A_DAY,
                )
            self._warned = True
            return
        self._warned = False
        add_log_file(self._log, path)
        ages.pop(path, None)
        if self._keep:
            self._remove(sorted(ages, key=ages.__getitem__)[self._keep - 1 :], ages)

    def _ages(self) -> dict[Path, float]:
        """This tenant's files, and how many seconds ago each got its last line."""
        found, now = {}, time.time()
        for folder in self._folder.glob("*"):
            path = folder / self._name
            if RUN_NAME.fullmatch(folder.name) and not folder.is_symlink() and not path.is_symlink():
                with contextlib.suppress(OSError):  # there is none, or a server on this machine has removed the folder
                    found[path] = now - path.stat().st_mtime
        return found

    def _remove(self, surplus: list[Path], ages: dict[Path, float]) -> None:
        removed = 0
        for path in surplus:
            if ages[path] < KEPT_DAYS * _DAY_SECONDS:
                continue
            try:
                for part in path.parent.glob(f"{self._name}*"):  # and what was put aside when it was full
                    part.unlink()
                removed += 1
            except OSError as error:
                self._log.warning(
                    "%s: can't be removed: %s; remove it by hand, or set keep_runs: 0", path, error.strerror or error
                )
            with contextlib.suppress(OSError):  # others have files there: the server, or tenants of this machine
                path.parent.rmdir()
        if removed:
            self._log.info("removed my logs of %d runs of before (keep_runs: %d)", removed, self._keep)
