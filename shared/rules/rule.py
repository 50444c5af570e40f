"""What a Sigma rule is once it was read, and what a hit is. Free of pySigma, which only reading takes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

LEVELS = ("informational", "low", "medium", "high", "critical")
LABEL_LEVEL = "medium"  # from which a hit is a label: of the public rules below it, one hits whoever assumes a role
ALERT_LEVEL = "high"  # from which a hit is an alert by itself, unless another level is asked for
NAME_FIELD = "eventName"  # nearly every rule for CloudTrail says which it is about

Record = Mapping[str, Any]
Predicate = Callable[[Record], bool]


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule that can be evaluated.

    Attributes:
        uid: its id, a UUID; its file's name where it has none.
        title: of the rule.
        level: one of `LEVELS`; `informational` where it gives none.
        tags: as it writes them, such as `attack.t1098`.
        meets: whether a record meets its condition.
        names: case-folded, of which `NAME_FIELD` must be one for it; None: it may be any.
    """

    uid: str
    title: str
    level: str
    tags: tuple[str, ...]
    meets: Predicate = field(repr=False)
    names: frozenset[str] | None = None

    def at_least(self, level: str) -> bool:
        """Whether its level is this one or a higher one."""
        return self.rank >= LEVELS.index(level)

    @property
    def rank(self) -> int:
        """Of its level, 0 to 4."""
        return LEVELS.index(self.level)

    @property
    def tactics(self) -> list[str]:
        """The ATT&CK tactics of its tags, such as `lateral-movement`."""
        names = [tag.removeprefix("attack.") for tag in self.tags if tag.startswith("attack.")]
        return [name.replace("_", "-") for name in names if not any(map(str.isdecimal, name))]

    @property
    def techniques(self) -> list[str]:
        """The ATT&CK techniques of its tags, such as `T1078` or `T1078.004`."""
        names = [tag.removeprefix("attack.t") for tag in self.tags if tag.startswith("attack.t")]
        return [f"T{name}" for name in names if name.replace(".", "", 1).isdecimal()]


@dataclass(frozen=True)
class RuleHit:
    """A rule that records of one window meet.

    Attributes:
        rule: which.
        records: how many of them.
        first_event_id: of the earliest.
        call: that the earliest is about, `eventSource:eventName`.
    """

    rule: Rule
    records: int
    first_event_id: str
    call: str


class Rules(Protocol):
    """What can be asked about records."""

    def hits(self, record: Record) -> tuple[Rule, ...]:
        """The rules whose condition the record meets."""


@dataclass(frozen=True, eq=False)
class RuleSet:
    """The rules of one folder for one log source.

    Attributes:
        rules: those that can be evaluated, by their files' names.
        other_sources: how many are for other log sources.
        left_out: those that can't be evaluated: the file and title, and the reason.
    """

    rules: tuple[Rule, ...]
    other_sources: int = 0
    left_out: tuple[tuple[str, str], ...] = ()

    def hits(self, record: Record) -> tuple[Rule, ...]:
        """The rules whose condition the record meets, in the order of `rules`."""
        name = record.get(NAME_FIELD)
        rules = self._by_name(name.casefold()) if isinstance(name, str) else self.rules
        return tuple(rule for rule in rules if rule.meets(record))

    @cached_property
    def _positions(self) -> dict[str | None, list[int]]:
        """Of each name the rules that need it; of None those that need none."""
        found: dict[str | None, list[int]] = {None: []}
        for position, rule in enumerate(self.rules):
            for name in rule.names if rule.names is not None else (None,):
                found.setdefault(name, []).append(position)
        return found

    def _by_name(self, name: str) -> list[Rule]:
        """The rules that a record of this name can meet at all: a few of many."""
        positions = sorted([*self._positions[None], *self._positions.get(name, [])])
        return [self.rules[position] for position in positions]


def label_of(hits: Iterable[Rule]) -> str:
    """The family of a record by the rules that it meets: the first tactic of the rule of the highest level.

    `benign` where none is of `LABEL_LEVEL` or above; `attack` where the rule names no tactic. Of equal levels the first
    rule counts.
    """
    highest = max((rule for rule in hits if rule.at_least(LABEL_LEVEL)), key=lambda rule: rule.rank, default=None)
    if highest is None:
        return "benign"
    return next(iter(highest.tactics), "attack")
