"""Alerts from the outbox to one sink: in batches, again after a pause, or aside where it refuses them for good.

| the sink | what becomes of the alerts |
|---|---|
| takes them | they leave the outbox, in one transaction |
| is busy, down, hangs, answers garbage, refuses the sender | they stay; the next try is after a pause |
| refuses a batch | half of it is tried, until the one alert is found that it means |
| refuses one for good | it is added to the dead letters, with the reason, and leaves the outbox |

A pause doubles from `FIRST_PAUSE` to `LONGEST_PAUSE`, or is the one that the sink asked for.
"""

import json
import logging
import random
import time
from pathlib import Path

from client.outbox import Outbox
from client.sinks.lines import add_lines
from client.sinks.sink import Alert, Outcome, Sink

# Of a batch: Splunk's cloud takes 1 MB at once, and what comes twice where a process dies is at most one batch.
MOST_ALERTS, MOST_BYTES = 100, 1 << 20
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds

_log = logging.getLogger("send")


class Delivery:
    """The way to one sink.

    Args:
        sink: to send to.
        outbox: to send from.
        dead_letters: file of what it refuses for good.

    Attributes:
        sent: alerts that the sink took, of this process.
        refused: those that it refused for good.
        failures: tries in a row that brought nothing through.
        problem: why the last run ended before all was sent; empty if it did not.
    """

    def __init__(self, sink: Sink, outbox: Outbox, dead_letters: Path) -> None:
        self.sink = sink
        self._outbox, self._dead_letters = outbox, dead_letters
        self._most = MOST_ALERTS
        self._not_before = 0.0  # of the monotonic clock
        self.sent = self.refused = self.failures = 0
        self.problem = ""

    def pause(self) -> float:
        """Seconds until the sink may be tried again."""
        return max(0.0, self._not_before - time.monotonic())

    def run(self) -> None:
        """Send what waits, until there is none or the sink is in trouble; at once where it must be left alone.

        Raises:
            ResumeError: what was acknowledged can't be recorded.
            OSError: the dead letters can't be written.
        """
        if self.pause():
            return
        self.problem = ""
        while not self.problem:
            batch = self._outbox.next(self.sink.name, self._most, MOST_BYTES)
            if not batch:
                return
            self._took(batch, self._send(batch))

    def _send(self, batch: list[Alert]) -> Outcome:
        try:
            return self.sink.send(batch, self._outbox.mark(self.sink.name))
        except OSError as error:
            return Outcome(problem=f"can't be written: {error.strerror}")

    def _took(self, batch: list[Alert], outcome: Outcome) -> None:
        done = [alert.number for alert in batch if alert.id in outcome.accepted or alert.id in outcome.refused]
        marks = {self.sink.name: outcome.mark} if outcome.mark else {}
        if dead := [alert for alert in batch if alert.id in outcome.refused]:
            marks |= self._put_aside(dead, outcome)
        if done:
            self._outbox.settle(self.sink.name, done, marks)
        self.sent += len(done) - len(dead)
        if outcome.too_much:
            self._most = len(batch) // 2
        elif not outcome.problem:
            self._most = min(2 * self._most, MOST_ALERTS)
            self.failures = 0
        else:
            self._wait(outcome)

    def _wait(self, outcome: Outcome) -> None:
        """Leave the sink alone for as long as it asked, or for a pause that doubles, less some chance."""
        self.failures = self.failures + 1 if not outcome.accepted else 1
        pause = min(FIRST_PAUSE * 2 ** min(self.failures - 1, 30), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        pause = max(pause, outcome.wait)
        self.problem = outcome.problem
        self._not_before = time.monotonic() + pause
        _log.warning(
            "%s at %s: %s; its alerts are kept, next try in %.0f s",
            self.sink.name, self.sink.where, outcome.problem, pause,
        )  # fmt: skip

    def _put_aside(self, dead: list[Alert], outcome: Outcome) -> dict[str, str]:
        """Add alerts to the dead letters; the mark of that file."""
        lines = b"".join(
            b'{"sink":%s,"reason":%s,"id":"%s","finding":%s}\n'
            % (_json(self.sink.name), _json(outcome.refused[alert.id]), alert.id.encode(), alert.body)
            for alert in dead
        )
        name = f"dead-letters {self.sink.name}"
        mark = add_lines(self._dead_letters, lines, self._outbox.mark(name))
        self.refused += len(dead)
        _log.error(
            "%s at %s refuses %d alerts for good, put into %s; the last: %s",
            self.sink.name, self.sink.where, len(dead), self._dead_letters, outcome.refused[dead[-1].id],
        )  # fmt: skip
        return {name: mark}


def _json(text: str) -> bytes:
    return json.dumps(text).encode()
