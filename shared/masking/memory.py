"""What a client remembers of the sums it took part in, and what it refuses because of it.

Two rules, both for the whole life of the memory and not for that of a session, which the server invents:

1. A stage of a round is answered once: the position (round, stage) of each session and bucket only grows, and it is
   claimed before the answer leaves. So a client whose other state was set back, say by a virtual machine's snapshot,
   does not answer again.
2. **One work, one set of clients.** A work is what a client computes on which rows: a model, a scaler, training
   settings and the rows; or a statistic of the rows, under whatever scaler. Once a client has revealed its shares for a
   sum of a work, it gives that work again only to a sum over exactly the same clients.

Why rule 2 is enough for sums of one work. Each sum that opens needed t reveals, so there are t - c honest clients (c
side with the server) that from then on upload this work for no other cohort. A sum over their cohort with a client
struck off needs t reveals too, and fewer than t of that cohort would still give them, as long as c < 2t - N. So in a
combination of opened sums of one work the t - c of the first sum never come apart: no difference shows fewer of them.
What it does not cover is another work: a model that was moved a little is another one.

Within a session a third rule holds between one sum and the next: tenants may leave and may come back, but not be
exchanged for others, unless by so many that the difference hides each of them (`check_cohort`).
"""

import threading
from collections.abc import Mapping
from enum import IntEnum

from shared.masking.errors import BrokenRuleError, Rule


class Stage(IntEnum):
    """The stages of a round, in their order."""

    ADVERTISE = 0
    SHARE = 1
    MASK = 2
    CONFIRM = 3
    REVEAL = 4


Record = Mapping[str, object]  # what one call adds to the memory, in JSON's types


def hides_swap(before: frozenset[str], now: frozenset[str], n_min: int) -> bool:
    """Whether the difference of sums over these two cohorts shows nobody: tenants left, or came, or n_min changed."""
    gone, new = before - now, now - before
    return not gone or not new or len(gone | new) >= n_min


class RoundMemory:
    """The memory itself, for as long as the process lives; `client/ledger.py` keeps it on the disk.

    Thread-safe. Each method that remembers calls `write` first: where that raises, nothing is remembered, and the
    caller must not answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._positions: dict[tuple[str, str], tuple[int, Stage]] = {}  # by session and bucket
        self._opened: dict[str, frozenset[str]] = {}  # work -> the clients of its sum
        self._rosters: dict[tuple[str, str], frozenset[str]] = {}  # the last sum's, by session and bucket
        self._draws: dict[str, int] = {}  # the last draw of groups that it tossed for, by session

    def claim(self, session: bytes, bucket: str, round_number: int, stage: Stage) -> None:
        """Take a stage, once and for all.

        Raises:
            BrokenRuleError of STALE_ROUND: this round, or a later one of the session and bucket, was entered before.
            BrokenRuleError of REPEATED_STAGE: this stage of the round was answered before, in this life or an earlier
                one.
            BrokenRuleError of ROUND_MEMORY: it can't be remembered.
        """
        with self._lock:
            last = self._positions.get((session.hex(), bucket))
            if last is not None and (round_number, stage) <= last:
                if stage == Stage.ADVERTISE or round_number < last[0]:
                    raise BrokenRuleError(
                        Rule.STALE_ROUND,
                        f"round {round_number} of {bucket!r} after round {last[0]}; expected a later round",
                    )
                raise BrokenRuleError(
                    Rule.REPEATED_STAGE,
                    f"stage {stage.name.lower()} of round {round_number} was answered before; expected each stage once",
                )
            self._remember({"at": [session.hex(), bucket, round_number, int(stage)]})

    def claim_draw(self, session: bytes, number: int) -> None:
        """Toss for a draw of groups, once and for all.

        Raises:
            BrokenRuleError of REPEATED_STAGE: this client tossed for this draw, or a later one, before.
            BrokenRuleError of ROUND_MEMORY: it can't be remembered.
        """
        with self._lock:
            last = self._draws.get(session.hex(), -1)
            if number <= last:
                raise BrokenRuleError(
                    Rule.REPEATED_STAGE, f"draw {number} after draw {last}; expected each draw of groups once"
                )
            self._remember({"draw": [session.hex(), number]})

    def set_for(self, work: bytes) -> frozenset[str] | None:
        """The clients that a sum of this work must consist of; None where it was in no opened sum so far."""
        with self._lock:
            return self._opened.get(work.hex())

    def check_cohort(self, session: bytes, bucket: str, cohort: frozenset[str], n_min: int) -> None:
        """Refuse a cohort that was made to be subtracted from the last one of this session and bucket.

        Raises:
            BrokenRuleError of COHORT_SWAP: tenants were exchanged, and the difference of the two sums would show fewer
                than n_min.
        """
        with self._lock:
            last = self._rosters.get((session.hex(), bucket), cohort)
        if not hides_swap(last, cohort, n_min):
            raise BrokenRuleError(
                Rule.COHORT_SWAP,
                f"{sorted(cohort - last)} in the place of {sorted(last - cohort)}: the difference to the last sum "
                "would show them; "
                f"expected tenants that leave, or come, or {n_min} that change; a new start of the server may ask so",
            )

    def open_sum(
        self, session: bytes, bucket: str, work: bytes, cohort: frozenset[str], clients: frozenset[str]
    ) -> None:
        """Before a reveal: this work has now been in a sum over these clients.

        Args:
            session: the server's.
            bucket: which vector it was.
            work: what was computed on which rows, 32 bytes.
            cohort: U1, the clients that advertised.
            clients: U3, the clients of the sum.

        Raises:
            BrokenRuleError of REPEATED_WORK: it was in a sum over others.
            BrokenRuleError of ROUND_MEMORY: it can't be remembered.
        """
        with self._lock:
            if self._opened.get(work.hex(), clients) != clients:
                raise BrokenRuleError(Rule.REPEATED_WORK, _repeated(self._opened[work.hex()], clients))
            self._remember({"sum": [session.hex(), bucket, work.hex(), sorted(cohort), sorted(clients)]})

    def check_set(self, work: bytes, clients: frozenset[str]) -> None:
        """Refuse these clients for a work that was in a sum over others.

        Raises:
            BrokenRuleError of REPEATED_WORK: it was.
        """
        before = self.set_for(work)
        if before is not None and before != clients:
            raise BrokenRuleError(Rule.REPEATED_WORK, _repeated(before, clients))

    def write(self, record: Record) -> None:
        """Make a record last; the base class has nothing to do."""

    def _remember(self, record: Record) -> None:
        self.write(record)
        self._apply(record)

    def _apply(self, record: Record) -> None:
        """Take one record in.

        Raises:
            ValueError, TypeError, KeyError: it is none that this class makes.
        """
        match record:
            case {"at": [str(session), str(bucket), int(number), int(stage)]}:
                self._positions[session, bucket] = max(
                    self._positions.get((session, bucket), (-1, Stage.ADVERTISE)), (number, Stage(stage))
                )
            case {"sum": [str(session), str(bucket), str(work), [*cohort], [*clients]]}:
                self._opened[work] = frozenset(map(str, clients))
                self._rosters[session, bucket] = frozenset(map(str, cohort))
            case {"draw": [str(session), int(number)]}:
                self._draws[session] = max(self._draws.get(session, -1), number)
            case {"work": [str(work), [*clients]]}:
                self._opened[work] = frozenset(map(str, clients))
            case {"cohort": [str(session), str(bucket), [*cohort]]}:
                self._rosters[session, bucket] = frozenset(map(str, cohort))
            case _:
                raise ValueError(f"no record of this memory: {record!r:.80}")

    def _records(self) -> list[Record]:
        """The least list of records that makes this memory."""
        return [
            *({"at": [*place, number, int(stage)]} for place, (number, stage) in self._positions.items()),
            *({"work": [work, sorted(clients)]} for work, clients in self._opened.items()),
            *({"cohort": [*place, sorted(cohort)]} for place, cohort in self._rosters.items()),
            *({"draw": [session, number]} for session, number in self._draws.items()),
        ]


def _repeated(before: frozenset[str], now: frozenset[str]) -> str:
    return (
        f"this very work was in a sum over {sorted(before)} before; expected the same clients again, found "
        f"{sorted(now)}: the difference of the two sums would show whoever changed"
    )
