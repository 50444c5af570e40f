"""Which files and objects were read: by name and version, never by a time, so that a late one is found.

Names that are no longer listed are forgotten after `KEEP_GONE`, and so are the ids of what was found in them. What is
remembered is thus as long as the listing, and lies on the disk.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from client.follow_state import FollowState
from shared.data_sources.stores import Entry

KEEP_GONE = 30 * 86_400.0  # seconds; a disk that is not mounted for a while must not make everything new
_UNREAD = ""  # the version of an entry whose reading has begun and not ended
KEEP_WINDOWS = 2 * 86_400.0  # seconds for which a window may grow


@dataclass(frozen=True)
class Unread:
    """An entry that was not read in this version.

    Attributes:
        entry: from the listing.
        origin: the name that makes the ids of its records.
    """

    entry: Entry
    origin: str


class Cursor:
    """What of some places was read.

    Args:
        state: of this tenant.
    """

    def __init__(self, state: FollowState) -> None:
        self._state = state
        with state.transaction() as database:
            database.execute(
                "CREATE TEMP TABLE listed (key TEXT PRIMARY KEY, name TEXT, version TEXT, identity TEXT, size INTEGER) "
                "WITHOUT ROWID"
            )

    def listed(self, root: str, entries: Iterable[Entry]) -> None:
        """Take in all that a place has now: what was renamed, what came back, and what is gone.

        Args:
            root: of the place.
            entries: all of them, once each.

        Raises:
            DataError, StoreError: they can't be listed to the end; then nothing is taken in.
        """
        with self._state.transaction() as database:
            database.execute("DELETE FROM listed")
            database.executemany(
                "INSERT OR REPLACE INTO listed VALUES (?, ?, ?, ?, ?)",
                ((entry.key, entry.name, entry.version, entry.identity, entry.size) for entry in entries),
            )
            self._follow_renamed(root)
            now = time.time()
            database.execute(
                "UPDATE objects SET gone_since = NULL WHERE root = ? AND gone_since IS NOT NULL "
                "AND key IN (SELECT key FROM listed)",
                (root,),
            )
            database.execute(
                "UPDATE objects SET gone_since = ? WHERE root = ? AND gone_since IS NULL "
                "AND key NOT IN (SELECT key FROM listed)",
                (now, root),
            )
            database.execute("DELETE FROM objects WHERE gone_since < ?", (now - KEEP_GONE,))
            database.execute(
                "DELETE FROM found WHERE touched < ? AND batch NOT IN (SELECT batch FROM objects)", (now - KEEP_GONE,)
            )
            database.execute("DELETE FROM windows WHERE touched < ?", (now - KEEP_WINDOWS,))

    def _follow_renamed(self, root: str) -> None:
        """What was read under a name that is now another file's, or nobody's, and is listed under a new one: moves."""
        database = self._state.database
        moved = database.execute(
            "SELECT objects.key, min(listed.key), listed.version FROM listed JOIN objects USING (identity) "
            "LEFT JOIN listed AS own ON own.key = objects.key WHERE objects.root = ? AND listed.key != objects.key "
            "AND (own.key IS NULL OR own.identity != objects.identity) "
            "AND NOT EXISTS (SELECT 1 FROM objects AS taken WHERE taken.key = listed.key "
            "AND taken.identity = listed.identity) GROUP BY objects.key",
            (root,),
        ).fetchall()
        # Aside first: of two files that changed names each takes the other's.
        for old, _, _ in moved:
            database.execute("UPDATE objects SET key = ? WHERE key = ?", (f"\0{old}", old))
        for old, new, _ in moved:
            database.execute("DELETE FROM objects WHERE key = ?", (new,))
            database.execute("UPDATE objects SET key = ? WHERE key = ?", (new, f"\0{old}"))

    def unread(self, most: int, without: Collection[str] = ()) -> list[Unread]:
        """Entries of the last listing that were not read as they are now, by name.

        Args:
            most: how many.
            without: keys to leave out.
        """
        rows = self._state.database.execute(
            "SELECT listed.key, name, listed.version, listed.identity, size, origin FROM listed "
            "LEFT JOIN objects USING (key) WHERE objects.version IS NULL OR objects.version != listed.version "
            "ORDER BY listed.key"
        )
        found: list[Unread] = []
        for *fields, origin in rows:
            if len(found) == most:
                break
            if fields[0] not in without:
                found.append(Unread(Entry(*fields), origin or self._free_origin(fields[0])))
        rows.close()
        return found

    def recent(self, root: str, seconds: float, most_bytes: int) -> list[Unread]:
        """Entries of the last listing that were read within the last seconds, the latest first, up to so many bytes."""
        rows = self._state.database.execute(
            "SELECT key, name, listed.version, listed.identity, size, origin FROM listed JOIN objects USING (key) "
            "WHERE root = ? AND read_at > ? AND objects.version = listed.version ORDER BY read_at DESC, key DESC",
            (root, time.time() - seconds),
        )
        found: list[Unread] = []
        for *fields, origin in rows:
            entry = Entry(*fields)
            most_bytes -= entry.size
            if most_bytes < 0:
                break
            found.append(Unread(entry, origin))
        rows.close()
        return found

    def begin(self, root: str, unread: Sequence[Unread]) -> int:
        """The number of a new batch, with which these are about to be read.

        Their first names are kept from here on: if this process dies, the next one makes the same ids.
        """
        with self._state.transaction() as database:
            number = int(database.execute("INSERT INTO batches (begun) VALUES (?)", (time.time(),)).lastrowid or 0)
            database.execute("DELETE FROM batches WHERE number < ?", (number,))
            database.executemany(
                "INSERT OR IGNORE INTO objects VALUES (?, ?, ?, ?, ?, ?, 0, NULL)",
                [(one.entry.key, root, one.origin, _UNREAD, one.entry.identity, number) for one in unread],
            )
        return number

    def was_read(self, root: str, batch: int, read: Sequence[Unread]) -> None:
        """Note that entries were read to their end, or refused, as this batch."""
        now = time.time()
        with self._state.transaction() as database:
            database.executemany(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                [
                    (one.entry.key, root, one.origin, one.entry.version, one.entry.identity, batch, now)
                    for one in read
                ],
            )  # fmt: skip

    def grown(self, windows: Sequence[str], records: Sequence[int]) -> list[bool]:
        """Which windows have more records than whenever they were seen before.

        A window at the begin of what is read again is short of the records before it. It was seen whole before.
        """
        asked = "SELECT 1 FROM windows WHERE id = ? AND records >= ?"
        database = self._state.database
        return [
            database.execute(asked, (window, count)).fetchone() is None
            for window, count in zip(windows, records, strict=True)
        ]

    def seen(self, windows: Sequence[str], records: Sequence[int]) -> None:
        """Note how many records windows have; within a transaction of the caller's."""
        now = time.time()
        self._state.database.executemany(
            "INSERT INTO windows VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET touched = excluded.touched, "
            "records = max(records, excluded.records)",
            [(window, count, now) for window, count in zip(windows, records, strict=True)],
        )

    def _free_origin(self, key: str) -> str:
        """The name itself, unless a file that was renamed since was first read under it."""
        database = self._state.database
        if not database.execute("SELECT 1 FROM objects WHERE origin = ?", (key,)).fetchone():
            return key
        (number,) = database.execute("SELECT coalesce(max(number), 0) FROM batches").fetchone()
        return f"{key}#{number + 1}"
