"""Who looks on at a run: metrics, the live page, the live table, TensorBoard and MLflow (`orchestrator/eyes/`).

An observer is told what happens and can change nothing. It returns at once: whatever takes time it does in a thread of
its own. If it raises, it is told nothing more, the log says so, and the run goes on.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.aggregator import Aggregator
from orchestrator.masked_sum import Masking
from orchestrator.publishing import Publisher
from orchestrator.round import Job, Sum, SumRounds
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.exchange import Exchange, Kind, Outcome, Steps

_log = logging.getLogger("orchestrator")


@dataclass(frozen=True)
class Asked:
    """An exchange that is under way.

    Attributes:
        sum: what the sum is of: train, evaluate or statistics.
        round: its number; of the feature statistics the attempt.
        kind: what is asked: the vector itself, or a stage of masking.
        tenants: how many are asked.
    """

    sum: Kind
    round: int
    kind: Kind
    tenants: int


class Observer:
    """Looks on. Each method is called by the thread that runs the round, one at a time; this one does nothing."""

    def began(self, records: Sequence[RoundRecord]) -> None:
        """The server waits for its tenants; `records` are of the rounds before it was started."""

    def asked(self, asked: Asked) -> None:
        """Some tenants are asked for something; of sums that run side by side, those of one more of them."""

    def answered(self, asked: Asked) -> None:
        """One of them has given an answer, or is lost."""

    def left_out(self, sum_of: Kind, tenant: str, reason: str) -> None:
        """A tenant is not in a sum; the reason may hold a text of its own. Twice for one tenant is possible."""

    def added(self, sum_of: Kind, result: Sum) -> None:
        """A sum was decrypted."""

    def committed(self, record: RoundRecord) -> None:
        """A round is finished, and on the disk."""

    def ended(self) -> None:
        """All rounds are run."""

    def close(self) -> None:
        """Nothing more comes, whether all rounds are run or not. Twice is fine."""


class Observers(Observer):
    """All observers of a run, each on its own."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []

    def add(self, observers: Iterable[Observer]) -> None:
        """These look on, too, from now on."""
        self._observers += observers

    def began(self, records: Sequence[RoundRecord]) -> None:
        self._tell(lambda observer: observer.began(records))

    def asked(self, asked: Asked) -> None:
        self._tell(lambda observer: observer.asked(asked))

    def answered(self, asked: Asked) -> None:
        self._tell(lambda observer: observer.answered(asked))

    def left_out(self, sum_of: Kind, tenant: str, reason: str) -> None:
        self._tell(lambda observer: observer.left_out(sum_of, tenant, reason))

    def added(self, sum_of: Kind, result: Sum) -> None:
        self._tell(lambda observer: observer.added(sum_of, result))

    def committed(self, record: RoundRecord) -> None:
        self._tell(lambda observer: observer.committed(record))

    def ended(self) -> None:
        self._tell(lambda observer: observer.ended())

    def close(self) -> None:
        self._tell(lambda observer: observer.close())

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        for observer in list(self._observers):
            try:
                tell(observer)
            except Exception as error:  # whatever it is: a run does not end because somebody can't look on
                self._observers.remove(observer)
                why = f"{type(error).__name__}: {error}"
                _log.warning("%s stops, the run goes on: %s", type(observer).__name__, why)


class WatchedRounds(SumRounds):
    """Sums that observers look on at.

    Args:
        config, aggregator, make_masking: as `SumRounds` takes them.
        observers: who looks on.
    """

    def __init__(
        self, config: Config, aggregator: Aggregator, make_masking: Callable[[], Masking], observers: Observer
    ) -> None:
        super().__init__(config, aggregator, make_masking)
        self._observers = observers

    def steps(
        self,
        job: Job,
        cohort: Sequence[str],
        note_failure: Callable[[str, str], None],
        publisher: Publisher | None = None,
    ) -> Steps[Sum]:
        """The same sum."""

        def note(tenant: str, reason: str) -> None:
            note_failure(tenant, reason)
            self._observers.left_out(job.kind, tenant, reason)

        steps = super().steps(job, cohort, note, publisher)
        try:
            while True:
                exchange = next(steps)
                yield self._watched(exchange, job)
        except StopIteration as end:
            result: Sum = end.value
        self._observers.added(job.kind, result)
        return result

    def _watched(self, exchange: Exchange, job: Job) -> Exchange:
        asked = Asked(job.kind, job.number, exchange.kind, len(exchange.requests))
        self._observers.asked(asked)

        def on_reply(tenant: str, outcome: Outcome) -> None:
            exchange.on_reply(tenant, outcome)
            self._observers.answered(asked)

        return replace(exchange, on_reply=on_reply)
