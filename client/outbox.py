"""Alerts on their way: each once for each sink, from the moment it was found until the sink has taken it."""

import time
from collections.abc import Collection, Sequence

from client.follow_state import FollowState
from client.sinks.sink import Alert


class Outbox:
    """What is to be sent, in the order in which it was found.

    Args:
        state: of this tenant.
        sinks: names of those that each new alert is for.
    """

    def __init__(self, state: FollowState, sinks: Sequence[str]) -> None:
        self._state = state
        self._sinks = tuple(sinks)

    def put(self, batch: int, alerts: Sequence[tuple[str, bytes]]) -> int:
        """Keep alerts that were found; one that was found before is on its way, or sent, and is left out.

        Within a transaction of the caller's.

        Args:
            batch: with which their records were read.
            alerts: id and body of each.

        Returns:
            How many are new.
        """
        database, now, new = self._state.database, time.time(), 0
        for name, body in alerts:
            added = database.execute("INSERT OR IGNORE INTO found VALUES (?, ?, ?)", (name, batch, now)).rowcount
            if not added:
                database.execute("UPDATE found SET batch = ?, touched = ? WHERE id = ?", (batch, now, name))
                continue
            number = database.execute("INSERT INTO alerts (id, body) VALUES (?, ?)", (name, body)).lastrowid
            database.executemany("INSERT INTO deliveries VALUES (?, ?)", [(sink, number) for sink in self._sinks])
            new += 1
        return new

    def waiting(self, sink: str) -> int:
        """How many alerts a sink has still to take."""
        row = self._state.database.execute("SELECT count(*) FROM deliveries WHERE sink = ?", (sink,)).fetchone()
        return int(row[0])

    def forgotten(self) -> dict[str, int]:
        """Alerts that wait for sinks of earlier starts, which this one has not."""
        rows = self._state.database.execute("SELECT sink, count(*) FROM deliveries GROUP BY sink").fetchall()
        return {sink: count for sink, count in rows if sink not in self._sinks}

    def next(self, sink: str, most: int, most_bytes: int) -> list[Alert]:
        """The oldest alerts that a sink has still to take: as many, and of so many bytes, at most, but at least one."""
        rows = self._state.database.execute(
            "SELECT number, id, body FROM deliveries JOIN alerts USING (number) WHERE sink = ? ORDER BY number LIMIT ?",
            (sink, most),
        )
        batch: list[Alert] = []
        size = 0
        for number, name, body in rows:
            size += len(body)
            if batch and size > most_bytes:
                break
            batch.append(Alert(number, name, body))
        rows.close()
        return batch

    def mark(self, sink: str) -> str:
        """What the sink's last outcome left; empty at first."""
        row = self._state.database.execute("SELECT mark FROM marks WHERE sink = ?", (sink,)).fetchone()
        return row[0] if row else ""

    def settle(self, sink: str, numbers: Collection[int], marks: dict[str, str]) -> None:
        """These alerts need not be sent to the sink again; whatever no sink waits for is dropped.

        Args:
            sink: its name.
            numbers: of alerts that it took, or that were put aside.
            marks: to keep, by name.
        """
        with self._state.transaction() as database:
            for number in numbers:
                database.execute("DELETE FROM deliveries WHERE sink = ? AND number = ?", (sink, number))
                database.execute(
                    "DELETE FROM alerts WHERE number = ? AND NOT EXISTS (SELECT 1 FROM deliveries WHERE number = ?)",
                    (number, number),
                )
            for name, mark in marks.items():
                database.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, mark))
