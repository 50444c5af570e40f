"""Followers that may be killed at a planted point."""

import os
import secrets
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from client import follow, outbox
from client.cursor import Cursor
from client.follow import Follower, Pace, _Keep
from client.follow_state import FollowState
from client.scoring import Scorer
from client.sinks.sink import Sink
from shared.bundle import ModelBundle
from shared.data_sources import tables


class Following:
    """A follower with its state open; to be closed."""

    def __init__(
        self, bundle: ModelBundle, state: Path, places: Sequence[str | Path], sinks: Sequence[Sink], **pace: float
    ) -> None:
        self.state = FollowState(state)
        model = {"run": bundle.run, "model": bundle.model_sha256}
        scorer = Scorer(bundle, 0.5, 20, None, "high")
        windows = bool(bundle.schema.window_minutes)
        self.follower = Follower(
            scorer, model, windows, list(map(str, places)), self.state, sinks, Pace(0.05, **pace)
        )  # fmt: skip

    def __enter__(self) -> Follower:
        return self.follower

    def __exit__(self, *_: object) -> None:
        self.state.close()


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, call: int) -> None:
    """Die when a function is called for the `call`-th time."""
    _at(owner, name, call, before=True)


def _after(owner: Any, name: str, call: int) -> None:
    """Die when a function has returned for the `call`-th time."""
    _at(owner, name, call, before=False)


def _at(owner: Any, name: str, call: int, *, before: bool) -> None:
    real, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and before:
            _die()
        result = real(*arguments, **named)
        if calls == call:
            _die()
        return result

    setattr(owner, name, counted)


# Moments at which a process dies, in the order in which it meets them.
MOMENTS: dict[str, Callable[[int], None]] = {
    "before the listing is taken in": lambda call: _before(Cursor, "listed", call),
    "before a batch begins": lambda call: _before(Cursor, "begin", call),
    "after a batch began": lambda call: _after(Cursor, "begin", call),
    "while a part is put into the outbox": lambda call: _after(outbox.Outbox, "put", call),
    "after a part is in the outbox": lambda call: _after(_Keep, "end_part", call),
    "before the file counts as read": lambda call: _before(Cursor, "was_read", call),
    "after the file counts as read": lambda call: _after(Cursor, "was_read", call),
    "before a batch is settled": lambda call: _before(outbox.Outbox, "settle", call),
    "after a batch is settled": lambda call: _after(outbox.Outbox, "settle", call),
}


def _notes_first() -> None:
    """A broken twin: it notes that a file was read before its alerts are kept."""
    real = Follower._read_spooled

    def read(self: Any, place: Any, batch: Any, there: Any, history: Any) -> None:
        self._cursor.was_read(place.root, batch, there)
        real(self, place, batch, there, history)

    Follower._read_spooled = read  # type: ignore[method-assign]


def _counts() -> None:
    """A broken twin: the id of an alert is a number of its own, and not what the record is by."""
    vars(follow)["delivery_id"] = lambda *_: secrets.token_hex(16)


TWINS = {"": lambda: None, "notes first": _notes_first, "ids of its own": _counts}


def run_and_die(
    bundle_folder: Path, moment: str, call: int, state: Path, places: Sequence[str], options: Sequence[str], twin: str
) -> int:
    """For a process of its own: read what is there, and die at a moment if it comes."""
    from client import delivery
    from client.sinks.options import sinks_of

    os.environ["SPLUNK_TOKEN"] = "of-the-test"  # the fork server began before the test
    tables.CHUNK_BYTES = 4_000  # so that a file comes in parts
    delivery.MOST_ALERTS = 30
    TWINS[twin]()
    if moment:
        MOMENTS[moment](call)
    with Following(ModelBundle.load(bundle_folder), state, places, sinks_of(options, allow_http=False)) as follower:
        follower.once()
    return 0
