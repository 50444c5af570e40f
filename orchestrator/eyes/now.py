"""What a run is doing at this moment, for whoever shows it to a person."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from orchestrator.observers import Asked, Observer
from orchestrator.report.words import count, seconds
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.exchange import Kind

_MINUTES_FROM = 120  # seconds
_LAST_ROUNDS = 5  # whose mean the next one is expected to take
_DOING = {
    Kind.ADVERTISE: "agree on masks", Kind.SHARE: "agree on masks", Kind.CONFIRM: "take the masks off their sum",
    Kind.REVEAL: "take the masks off their sum", Kind.TRAIN: "train", Kind.EVALUATE: "evaluate the new model",
    Kind.STATISTICS: "add up the statistics of their features",
}  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """A run at one moment.

    Attributes:
        records: of the finished rounds.
        asked: the exchange that is under way, or was the last; None: none so far.
        answered: how many of its tenants have answered.
        seconds: since this round began, or since the server waits for tenants.
        ended: whether all rounds are run.
        rounds: how many the settings ask for.
    """

    records: Sequence[RoundRecord]
    asked: Asked | None
    answered: int
    seconds: float
    ended: bool
    rounds: int

    @property
    def round(self) -> int:
        """The one that is under way, from 1; after the end the last one."""
        return min(len(self.records) + (not self.ended), self.rounds)

    def doing(self) -> str:
        """In a few words."""
        if self.ended:
            return f"all rounds are run, {len(self.records)} of at most {self.rounds}"
        where = f"round {self.round} of {self.rounds}"
        if self.asked is None:
            return "waiting for clients" if not self.records else f"{where} begins"
        if self.asked.sum is not Kind.STATISTICS and self.asked.round != self.round:
            return f"{where} begins"
        where = "before round 1" if self.asked.sum is Kind.STATISTICS else where
        if self.answered == self.asked.tenants:
            return f"{where}: the orchestrator is at work"
        return f"{where}: {count(self.asked.tenants, 'client')} {_DOING[self.asked.kind]}"

    def seconds_left(self) -> float | None:
        """About how long all rounds still take, by the last ones; None: not known yet."""
        took = [r.round_seconds for r in self.records[-_LAST_ROUNDS:] if r.round_seconds is not None]
        if not took or self.ended:
            return None
        each = fmean(took)
        return each * (self.rounds - len(self.records) - 1) + max(each - self.seconds, 0.0)


def roughly(value: float) -> str:
    """A time that changes as one looks at it: whole seconds, then minutes and hours."""
    return f"{value:.0f} s" if value < _MINUTES_FROM else seconds(value)


class Now(Observer):
    """Keeps the moment; what changes it is told to `changed`, which whoever shows it overrides."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._records: list[RoundRecord] = []
        self._asked: Asked | None = None
        self._answered, self._ended = 0, False
        self._since = time.monotonic()

    def changed(self) -> None:
        """Called after each change, by the thread that runs the round."""

    def moment(self) -> Moment:
        """As it is now; from any thread."""
        with self._lock:
            seconds = time.monotonic() - self._since
            return Moment(
                list(self._records), self._asked, self._answered, seconds, self._ended, self._config.num_rounds
            )

    def began(self, records: Sequence[RoundRecord]) -> None:
        with self._lock:
            self._records, self._since = list(records), time.monotonic()
        self.changed()

    def asked(self, asked: Asked) -> None:
        with self._lock:
            before = None if self._asked is None else self._asked.sum
            if before in (None, Kind.STATISTICS) and asked.sum is not before:
                self._since = time.monotonic()  # the wait for tenants and their statistics are no part of round 1
            now, answered = self._asked, self._answered
            if now is not None and now == replace(asked, tenants=now.tenants) and answered < now.tenants:
                asked = replace(asked, tenants=now.tenants + asked.tenants)  # sums of several groups, side by side
            else:
                answered = 0
            self._asked, self._answered = asked, answered
        self.changed()

    def answered(self, asked: Asked) -> None:
        with self._lock:
            self._answered += 1
        self.changed()

    def committed(self, record: RoundRecord) -> None:
        with self._lock:
            self._records.append(record)
            self._since = time.monotonic()
        self.changed()

    def ended(self) -> None:
        with self._lock:
            self._ended = True
        self.changed()
