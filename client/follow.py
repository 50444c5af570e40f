"""Logs scored as they arrive, and their alerts sent: nothing is read twice, lost, or sent twice, whenever it is killed.

1. List each place; what is there by name and version and was not read is new.
2. Score it, an object of records or all objects of windows at a time; keep each part's alerts in the outbox.
3. Note that it was read. A process that dies before that reads it again, and finds alerts with the ids that it knows.
4. Send what waits in the outbox, and take out what a sink has taken.

A window's records may come in several objects. So with new ones those of the last hours are read again, and a window is
looked at anew where it has more records than before.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.cursor import Cursor, Unread
from client.delivery import Delivery
from client.delivery_ids import WINDOW_FIELDS, delivery_id, window_id
from client.follow_state import FollowState
from client.outbox import Outbox
from client.scoring import Scorer
from client.sinks.sink import Sink
from shared.data_sources.file_names import read_order
from shared.data_sources.files import is_cut_off
from shared.data_sources.schema import Features
from shared.data_sources.stores import Place, place_of, safe_name
from shared.errors import DataError, NetworkError, NoLogError, StoreError

MOST_OBJECTS, MOST_GROUP_BYTES = 2_000, 2 << 30  # that are read at once, where rows are windows
MOST_WAITING = 1_000_000  # alerts that a sink has not taken; then nothing more is read
MOST_TRIES, LONGEST_WAIT = 8, 300.0  # of a sink, and seconds for it, where nobody follows
PATIENCE = 900.0  # seconds for which a packed file may lack its end
_COUNTS = ("events", "flows")  # columns with the number of a window's records

_log = logging.getLogger("score")


@dataclass(frozen=True)
class Pace:
    """How often, and for how long.

    Attributes:
        poll: seconds between two listings.
        settle: seconds for which a file of this machine must not have changed before it is read.
        history: seconds for which objects are read again beside new ones, where rows are windows.
    """

    poll: float = 10.0
    settle: float = 10.0
    history: float = 7200.0


class _Keep:
    """A writer that keeps alerts in the outbox, a part of the rows and the alerts of it in one transaction."""

    def __init__(
        self, model: Mapping[str, Any], windows: bool, state: FollowState, cursor: Cursor, outbox: Outbox
    ) -> None:
        self._of_windows = windows
        self._state, self._cursor, self._outbox = state, cursor, outbox
        self._model, self._batch, self._origin = model, 0, ""
        self._alerts: list[tuple[str, bytes]] = []
        self._windows: tuple[list[str], list[int]] = [], []
        self.new = self.known = 0

    def begin(self, batch: int, origin: str) -> None:
        """What comes now was read with this batch; of records: from this file or object."""
        self._batch, self._origin = batch, origin
        self._alerts, self._windows = [], ([], [])

    def wanted(self, meta: pd.DataFrame) -> NDArray[np.bool_]:
        # By the model's kind and never by names: a CSV file may call its columns as it likes.
        count = next((name for name in _COUNTS if name in meta), None) if self._of_windows else None
        if count is None:
            return np.ones(len(meta), dtype=np.bool_)
        told = meta[[name for name in WINDOW_FIELDS if name in meta]].to_dict("records")
        ids = [window_id({}, source) for source in told]  # another model looks at no window anew
        self._windows = ids, [int(records) for records in meta[count]]
        return np.array(self._cursor.grown(*self._windows), dtype=np.bool_)

    def add(self, finding: dict[str, Any], source: Mapping[str, Any], raw: Features) -> None:
        if self._of_windows:
            name = window_id(self._model, source)
        else:
            name = delivery_id(self._model, self._origin, source, raw)
            finding["unmapped"]["found_in"] = self._origin
        finding["metadata"]["uid"] = name
        self._alerts.append((name, json.dumps(finding, allow_nan=False).encode()))

    def end_part(self) -> None:
        with self._state.transaction():
            self._cursor.seen(*self._windows)
            new = self._outbox.put(self._batch, self._alerts)
        self.new += new
        self.known += len(self._alerts) - new
        self._alerts, self._windows = [], ([], [])


@dataclass(frozen=True)
class _Watched:
    """A file that may still be written: in this version since then, and last looked at then (monotonic seconds)."""

    version: str
    since: float
    looked_at: float


class Follower:
    """Reads places and sends the alerts.

    Args:
        scorer: of the model.
        model: what names it in an alert's id.
        windows: whether its rows are windows.
        places: files, folders or URLs.
        state: of this tenant.
        sinks: at least one.
        pace: of the reading.

    Raises:
        ConfigError, MissingDependencyError: a place's URL can't be used.
    """

    def __init__(
        self,
        scorer: Scorer,
        model: Mapping[str, Any],
        windows: bool,
        places: Sequence[str],
        state: FollowState,
        sinks: Sequence[Sink],
        pace: Pace,
    ) -> None:
        self._scorer, self._windows, self._state, self._pace = scorer, windows, state, pace
        self._places = [place_of(place) for place in places]
        self._cursor = Cursor(state)
        self._outbox = Outbox(state, [sink.name for sink in sinks])
        self.deliveries = [
            Delivery(sink, self._outbox, state.folder / f"dead-letters-{sink.name}.jsonl") for sink in sinks
        ]
        self._keep = _Keep(model, windows, state, self._cursor, self._outbox)
        self._spool = state.folder / "spool"
        self._unsettled: dict[str, dict[str, _Watched]] = {place.root: {} for place in self._places}  # by root and key
        self._troubles: dict[str, str] = {}
        self.refused, self.first_refused = 0, ""
        for sink, count in self._outbox.forgotten().items():
            _log.warning("%d alerts wait for the sink %s, which is not among --sink; they are kept", count, sink)

    def once(self) -> None:
        """Read what is there now, and send all that waits.

        Raises:
            DataError: a place is not there, or some of its files were refused; all others were read.
            NetworkError: a sink did not take all; the next start goes on with it.
        """
        for place in self._places:
            self._read(place, settled=True)
        self._drain()
        if self.refused:
            raise DataError(f"{self.refused} files or objects were refused, the first: {self.first_refused}")

    def forever(self) -> None:
        """Go on as new logs arrive, until somebody ends the process."""
        while True:
            begun = time.monotonic()
            self.look()
            time.sleep(max(0.05, self._pace.poll - (time.monotonic() - begun)))

    def look(self) -> None:
        """Read once what is new and rests, at each place that can be listed, and send what may be sent now."""
        for place in self._places:
            try:
                self._read(place, settled=False)
                self._troubles.pop(place.root, None)
            except DataError as error:  # a store that is away, or a folder that is not there yet
                if self._troubles.get(place.root) != str(error):
                    _log.warning("%s; asked again every %g s", error, self._pace.poll)
                self._troubles[place.root] = str(error)
        self._send()

    def _send(self) -> None:
        for delivery in self.deliveries:
            delivery.run()

    def _drain(self) -> None:
        """Send until nothing waits."""
        while True:
            self._send()
            waiting = [delivery for delivery in self.deliveries if self._outbox.waiting(delivery.sink.name)]
            if not waiting:
                return
            for delivery in waiting:
                if delivery.failures >= MOST_TRIES or delivery.pause() > LONGEST_WAIT:
                    raise NetworkError(
                        f"{delivery.sink.name} at {delivery.sink.where}: {delivery.problem}; "
                        f"{self._outbox.waiting(delivery.sink.name)} alerts are kept in {self._state.folder}, and the "
                        "next start with this --state sends them"
                    )
            time.sleep(min(delivery.pause() for delivery in waiting))

    def _read(self, place: Place, *, settled: bool) -> None:
        """Read what is new at a place; `settled`: files are taken as they are, and not watched first."""
        self._cursor.listed(place.root, place.listed())
        watched = self._unsettled[place.root]
        skipped: set[str] = set()
        while True:
            if any(self._outbox.waiting(delivery.sink.name) > MOST_WAITING for delivery in self.deliveries):
                _log.warning("more than %d alerts wait for a sink: nothing is read until it takes some", MOST_WAITING)
                return
            unread = self._cursor.unread(MOST_OBJECTS, skipped)
            if not unread:
                break
            ready = [one for one in unread if settled or place.remote or self._has_settled(watched, one)]
            skipped |= {one.entry.key for one in unread} - {one.entry.key for one in ready}
            for group in self._groups(ready):
                self._read_group(place, group)
                skipped |= {one.entry.key for one in group}  # some may be gone: the next listing says
                self._send()
        for key in watched.keys() - skipped:  # it is gone
            del watched[key]

    def _has_settled(self, watched: dict[str, _Watched], one: Unread) -> bool:
        """Whether a file has not changed for a while, and has its end if that can be told.

        It was seen twice, by this machine's own clock: the times of files may be of other clocks, or a copy's origin's.
        """
        now, key = time.monotonic(), one.entry.key
        before = watched.get(key)
        if before is None or before.version != one.entry.version:
            watched[key] = _Watched(one.entry.version, now, now)
            return False
        if now - before.looked_at < self._pace.settle:
            return False
        if now - before.since < PATIENCE and is_cut_off(Path(key)):
            watched[key] = replace(before, looked_at=now)
            return False
        del watched[key]
        return True

    def _groups(self, ready: Sequence[Unread]) -> Iterator[list[Unread]]:
        """Records one file at a time; windows with all others, up to what the disk is given for copies."""
        if not self._windows:
            yield from ([one] for one in ready)
            return
        group: list[Unread] = []
        size = 0
        for one in ready:
            if group and size + one.entry.size > MOST_GROUP_BYTES // 2:
                yield group
                group, size = [], 0
            group.append(one)
            size += one.entry.size
        if group:
            yield group

    def _read_group(self, place: Place, group: list[Unread], *, alone: bool = False) -> None:
        """Score some entries, and note that they were read; `alone`: to find out which of several is malformed."""
        history = [] if alone or not self._windows else self._history(place, group)
        batch = self._cursor.begin(place.root, group)
        there = self._spooled(place, history, group)
        if there:
            self._read_spooled(place, batch, there, len(history))
        self.clear_spool()

    def _read_spooled(self, place: Place, batch: int, there: list[Unread], history: int) -> None:
        before, new, known = self._scorer.summary.records, self._keep.new, self._keep.known
        self._keep.begin(batch, there[0].origin)
        try:
            # A folder is asked which of its files are logs; a file that was named is one.
            single = there[0].entry.key == place.root
            path = self._spool / "000000" / safe_name(there[0].entry.name) if single else self._spool
            self._scorer.score(path, self._keep)
        except StoreError:
            raise
        except NoLogError:
            _log.info("%s: left out what is no such log", ", ".join(one.entry.key for one in there[:5]))
        except DataError as error:
            if len(there) + history > 1:
                for one in there:
                    self._read_group(place, [one], alone=True)
                return
            self._refuse(there[0], error)
        self._cursor.was_read(place.root, batch, there)
        _log.info(
            "%s: %d read, %d %s scored, %d new alerts, %d known ones",
            there[0].entry.key if len(there) == 1 else place.root, len(there), self._scorer.summary.records - before,
            "windows" if self._windows else "records", self._keep.new - new, self._keep.known - known,
        )  # fmt: skip

    def _history(self, place: Place, group: Sequence[Unread]) -> list[Unread]:
        again = {one.entry.key for one in group}
        recent = self._cursor.recent(place.root, self._pace.history, MOST_GROUP_BYTES // 2)
        return [one for one in recent if one.entry.key not in again]

    def _spooled(self, place: Place, history: Sequence[Unread], group: Sequence[Unread]) -> list[Unread]:
        """Put links or copies of all of them where the reader looks; those of the group that are still there."""
        self.clear_spool()
        gone: set[str] = set()
        everything = sorted([*history, *group], key=lambda one: read_order(Path(one.entry.key)))
        for number, one in enumerate(everything):
            target = self._spool / f"{number:06d}" / safe_name(one.entry.name)
            target.parent.mkdir(parents=True)
            try:
                place.put(one.entry, target)
            except FileNotFoundError:
                gone.add(one.entry.key)
        return [one for one in group if one.entry.key not in gone]

    def clear_spool(self) -> None:
        """Remove the copies of objects."""
        if self._spool.exists():
            shutil.rmtree(self._spool)

    def _refuse(self, one: Unread, error: DataError) -> None:
        """Leave a malformed file alone until it is written anew, and go on with the others."""
        reason = re.sub(rf"{re.escape(str(self._spool))}(/\d{{6}}[^:,;]*)?", lambda _: one.entry.key, str(error))
        self.refused += 1
        self.first_refused = self.first_refused or reason
        _log.warning("refused, until it is written anew: %s", reason)
