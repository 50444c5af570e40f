"""The file that remembers which logs were read and which alerts were sent: one SQLite database, used by one process.

An alert and the note that it was found are one transaction, and so are a sink's acknowledgement and the end of the
alert's way. So a process that dies at any moment finds, when it is started again, what is still to be done.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from shared.errors import ResumeError
from shared.private_files import make_private_folder

_FILE, _LOCK = "state.db", "lock"
_VERSION = 1
_TABLES = """
CREATE TABLE objects (
    key TEXT PRIMARY KEY,  -- path or URL
    root TEXT NOT NULL,  -- the folder or prefix that it is listed under
    origin TEXT NOT NULL,  -- its first name, which makes the ids of its records
    version TEXT NOT NULL,  -- that was read
    identity TEXT NOT NULL,  -- by which it is known again when it was renamed
    batch INTEGER NOT NULL,  -- with which it was read
    read_at REAL NOT NULL,  -- seconds since 1970
    gone_since REAL  -- seconds since 1970; NULL while it is listed
) WITHOUT ROWID;
CREATE INDEX objects_by_identity ON objects (identity);
CREATE INDEX objects_by_origin ON objects (origin);
CREATE INDEX objects_by_batch ON objects (batch);
CREATE TABLE found (  -- every alert that was ever put into the outbox, as long as its objects are listed
    id TEXT PRIMARY KEY,
    batch INTEGER NOT NULL,
    touched REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE windows (  -- how many records of a window were seen at once, of windows that may still grow
    id TEXT PRIMARY KEY,
    records INTEGER NOT NULL,
    touched REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE alerts (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE deliveries (  -- what is still to be sent
    sink TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
CREATE INDEX deliveries_by_number ON deliveries (number);
CREATE TABLE marks (sink TEXT PRIMARY KEY, mark TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (number INTEGER PRIMARY KEY AUTOINCREMENT, begun REAL NOT NULL);
"""


class FollowState:
    """The database of one tenant, open and locked.

    Args:
        folder: made, for its owner alone, if it is not there.

    Raises:
        ResumeError: another process has it, or it can't be read or written.
        KeyMaterialError: the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_private_folder(folder)
        self._lock = -1
        try:
            self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # SQLite would make it with the mode of the umask.
            os.close(os.open(folder / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.database = self._opened()
        except BlockingIOError:
            self._unlock()
            raise ResumeError(
                f"{folder}: another process works with it; two would send alerts twice: stop the other one, or name "
                "another folder with --state"
            ) from None
        except (OSError, sqlite3.Error) as error:
            self._unlock()
            raise ResumeError(
                f"{folder}: can't be used: {error}; expected a folder that this program made and may write to. If it "
                "is damaged, put it aside: everything is then read again, and sent again"
            ) from None

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.folder / _FILE, isolation_level=None, timeout=5)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")  # what was acknowledged survives a power cut
            database.execute("PRAGMA temp_store = FILE")  # a listing may be long
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT;")
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"it is of version {version}, expected {_VERSION}")
            return database
        except BaseException:
            database.close()
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of what is done within, on the disk when it ends, or nothing of it.

        Raises:
            ResumeError: it can't be written.
        """
        try:
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield self.database
            except BaseException:
                self.database.execute("ROLLBACK")
                raise
            self.database.execute("COMMIT")
        except sqlite3.Error as error:
            raise ResumeError(
                f"{self.folder}: can't be written: {error}; make room or mend it, and start again: nothing is lost"
            ) from None

    def close(self) -> None:
        """Give it back, for the next process."""
        self.database.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
