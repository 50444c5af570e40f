"""What a place that takes alerts is to the rest: it is given a batch and says what became of each alert."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Alert:
    """One finding on its way.

    Attributes:
        number: of its place in the outbox.
        id: of `client/delivery_ids.py`; the same whenever the same model scores the same record.
        body: the finding, one line of JSON, without its line break.
    """

    number: int
    id: str
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of a batch. Whatever is neither accepted nor refused is to be sent again.

    Attributes:
        accepted: ids of those that the sink has taken, now or before.
        refused: ids of those that it never will, with its reason.
        problem: why the others must be sent again; empty if there are none.
        wait: seconds that the sink asked to be left alone for.
        too_much: it refused the batch as a whole, perhaps for the sake of one alert: the next must be smaller.
        mark: what the sink is to be told with the next batch, such as where its file ends.
    """

    accepted: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    wait: float = 0.0
    too_much: bool = False
    mark: str = ""


class Sink(Protocol):
    """A place that alerts are sent to.

    Attributes:
        name: by which its queue is kept; another address under the same name goes on with it.
        where: for the log; shows no secret.
    """

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> str: ...

    def send(self, batch: Sequence[Alert], mark: str) -> Outcome:
        """Send a batch of at least one alert; whatever goes wrong with the place is an outcome and no exception.

        Args:
            batch: each id once.
            mark: of the last outcome that was recorded; empty at first.

        Raises:
            OSError: of a file: it can't be written.
        """


def all_accepted(batch: Sequence[Alert], mark: str = "") -> Outcome:
    """The sink has taken the whole batch."""
    return Outcome(frozenset(alert.id for alert in batch), mark=mark)


def refused_whole(batch: Sequence[Alert], reason: str) -> Outcome:
    """The sink wants none of it: of several, one may be to blame, so they are to be tried in smaller batches."""
    if len(batch) > 1:
        return Outcome(problem=reason, too_much=True)
    return Outcome(refused={batch[0].id: reason})
