"""The heads of the server's run log that a tenant was given: kept on its own disk, where the server can't reach them.

One line of JSON for each, in `client-<n>-run_log/<run>.jsonl` of its memory. Later each of them must be in the log that
the orchestrator shows (`orchestrator/audit_log.py verify --heads FILE`); a history that was written anew has none
of the old ones. A head that is of fewer entries than an earlier one, or of another key, is refused at once.
"""

import json
import logging
import os
from pathlib import Path

from client.state import state_folder
from shared.atomic import append_whole
from shared.config import Config
from shared.errors import RunLogError
from shared.exchange import Values
from shared.identity import identity_name
from shared.log_head import Head, read_heads
from shared.private_files import make_private_folder


class LogHeads:
    """The heads of one tenant.

    Args:
        config: its settings.
        client_id: its number.
        log: where it says what is missing.
    """

    def __init__(self, config: Config, client_id: int, log: logging.Logger) -> None:
        self._folder = heads_folder(config, client_id)
        self._log = log
        self._run = ""
        self._last: Head | None = None  # of that run

    def take(self, run: str, values: Values) -> bool:
        """The head that came with a request. Returns whether there was one, which this tenant has kept.

        Args:
            run: as the greeting named it; empty before that, and then there is nothing to keep it under.
            values: of the request.

        Raises:
            RunLogError: the head is malformed, unsigned, or does not go on from the last one, or it can't be kept.
        """
        if not run:
            return False
        path, head = self._folder / f"{run}.jsonl", Head.of(run, values)
        if run != self._run:
            self._run, self._last = run, _last_of(path)
            if head is None and self._last is None:
                self._log.warning("the server gives no head of its run log: it could write its history anew")
        last = self._last
        if head is None and last is None:
            return False
        advice = f"ask whoever runs the server what became of its log; to go on all the same, move {path} away"
        if head is None:
            raise RunLogError(f"the server gives no head of its run log any more; {advice}")
        if last is not None:
            if head.signer != last.signer:
                raise RunLogError(f"the server's run log is signed by another key than before; {advice}")
            if head.entries < last.entries or (head.entries == last.entries and head.sha256 != last.sha256):
                raise RunLogError(
                    f"the server's run log has {head.entries} entries, and had {last.entries} with another head: it "
                    f"was written anew; {advice}"
                )
            if head.entries == last.entries:
                return True
        self._keep(path, head)
        return True

    def _keep(self, path: Path, head: Head) -> None:
        try:
            make_private_folder(path.parent)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                append_whole(file, json.dumps(head.plain(), separators=(",", ":")).encode() + b"\n")
            finally:
                os.close(file)
        except OSError as error:
            raise RunLogError(f"{path}: can't be written: {error.strerror}; check the disk and its owner") from None
        self._last = head


def _last_of(path: Path) -> Head | None:
    """The last head of a file; half a line, which a crash left, is cut off: the request that it came with failed."""
    if not path.exists():
        return None
    try:
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)
    except OSError as error:
        raise RunLogError(f"{path}: can't be read: {error.strerror}; check the disk and its owner") from None
    heads = read_heads(path)
    return heads[-1] if heads else None


def heads_folder(config: Config, client_id: int) -> Path:
    """Where a tenant keeps its heads, a file for each run."""
    return state_folder(config, client_id) / f"{identity_name(str(client_id))}-run_log"
