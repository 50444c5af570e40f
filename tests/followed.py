"""A small model, flows to score with it, and followers that may be killed at a planted point."""

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
from shared.config import Config
from shared.data_sources import tables
from tests.trained import train_bundle

HEADER = "No,Source IP,Source Port,Destination IP,dur,proto,bytes,Label"


def flow(row: int) -> str:
    attack = row % 4 == 0
    proto, label = ("icmp", "DoS") if attack else ("tcp", "BENIGN")
    size = (row * 7919 % 1000) + (40_000 if attack else 0)
    return f"{row},10.0.0.{row % 9},{1024 + row},192.0.2.1,{row * 37 % 101 / 10},{proto},{size},{label}"


def table(rows: range) -> bytes:
    """A CSV file; a quarter of its rows are attacks."""
    return "\n".join([HEADER, *map(flow, rows), ""]).encode()


def flow_bundle(folder: Path) -> ModelBundle:
    path = folder / "flows.csv"
    path.write_bytes(table(range(2000)))
    config = Config(
        data_source="csv", data_path=str(path), csv_label_column="Label", partition="even", hash_width=8,
        csv_drop_columns=("No", "Source IP", "Source Port", "Destination IP"), num_features=10, num_hidden_units=(8,),
        max_broken_share=0.2, alert_fpr=0.02,
    )  # fmt: skip
    return train_bundle(config, folder, epochs=10)


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
