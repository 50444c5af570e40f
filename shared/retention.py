"""How many runs' folders stay in a server's `log_dir`: the newest `keep_runs`, the one under way, and those at work.

A server named these runs by itself. A tenant did not: `client/run_logs.py` goes by something else.
"""

import fcntl
import logging
import os
import re
import shutil
from pathlib import Path

RUN_NAME = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
LOCK = "server.lock"  # in a run's folder, locked for as long as a server is at work on it


def remove_old_runs(log_dir: Path, keep: int, current: str, log: logging.Logger) -> list[str]:
    """Remove what is beyond the newest `keep` runs. Returns the names of what was removed.

    Args:
        log_dir: where the folders are.
        keep: how many stay, the current one included; 0: all.
        current: the run that is under way, which stays, however old it is.
        log: is told.
    """
    if not keep:
        return []
    latest = os.path.realpath(log_dir / "latest")
    runs = sorted((path for path in log_dir.glob("*") if RUN_NAME.fullmatch(path.name)), reverse=True)
    others = [path for path in runs if path.name != current and os.path.realpath(path) != latest]
    spared = len(runs) - len(others)
    removed = [path.name for path in others[max(0, keep - spared) :] if _remove(path, log)]
    if removed:
        log.info("removed %d runs of before (keep_runs: %d): %s", len(removed), keep, ", ".join(removed))
    return removed


def _remove(path: Path, log: logging.Logger) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    try:
        if _at_work(path / LOCK):
            return False
        shutil.rmtree(path)
    except OSError as error:
        log.warning("%s: can't be removed: %s; remove it by hand, or set keep_runs: 0", path, error.strerror or error)
        return False
    return True


def _at_work(lock: Path) -> bool:
    """Whether a server has the lock. A folder of a tenant's logs alone, on the same machine, has none."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
