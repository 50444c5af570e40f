"""Findings, their lines and their JSON, and what the two ends have to have in common."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from shared.bounded_files import read_at_most, read_bounded
from shared.errors import DataError, OrchestratorError
from shared.printable import printable
from shared.strict_json import parse_strict_json

_MOST_BYTES: Final = 1 << 20
MOST_CLOCK_SECONDS: Final = 60.0  # a certificate or a last day is off by no more than that
MOST_AGE_SECONDS: Final = 300.0  # of the other side's report, for its time to say something about this clock

Facts = dict[str, str]


class Level(StrEnum):
    """How bad it is: a run goes well, may go wrong later, or fails."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        check: what was looked at, one word.
        level: how bad it is.
        said: what was found.
        remedy: what to do; empty where nothing is to do.
    """

    check: str
    level: Level
    said: str
    remedy: str = ""

    def line(self) -> str:
        """For a person."""
        return printable(f"{self.level:<5} {self.check:<12} {self.said}{self.remedy and f' -> {self.remedy}'}", 2_000)


@dataclass
class Report:
    """All that one side found.

    Attributes:
        side: "server", or the tenant's name.
        findings: in order.
        facts: what the other side must have as well, and when they were found.
    """

    side: str
    findings: list[Finding] = field(default_factory=list)
    facts: Facts = field(default_factory=dict)

    def look(self, check: str, find: Callable[[], Iterable[Finding]]) -> None:
        """Add what a check finds. An error of it is a finding: its text ends with what to do."""
        try:
            self.findings += find()
        except OrchestratorError as error:
            said, _, remedy = str(error).partition("; ")
            self.findings.append(Finding(check, Level.FAIL, said, remedy))
        except OSError as error:
            self.findings.append(Finding(check, Level.FAIL, str(error), "check the path and its mode"))

    @property
    def healthy(self) -> bool:
        """Whether nothing fails."""
        return all(finding.level is not Level.FAIL for finding in self.findings)

    def to_json(self) -> str:
        """For a program, and for `--against` on the other side."""
        findings = [asdict(finding) for finding in self.findings]
        return json.dumps({"side": self.side, "facts": self.facts, "findings": findings}, indent=1)


def read_facts(path: str) -> Facts:
    """The facts in what the other side's doctor printed with `--json`.

    Args:
        path: the file; `-` for standard input.

    Raises:
        DataError: no such report.
    """
    try:
        data = read_at_most(sys.stdin.buffer, _MOST_BYTES, path) if path == "-" else read_bounded(path, _MOST_BYTES)
        raw: Any = parse_strict_json(data)
        facts = raw.get("facts") if isinstance(raw, dict) else None
        if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
            raise ValueError("no facts in it")
        return {str(name): printable(value) for name, value in facts.items()}
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"--against {path}: {why}; give what the other side's doctor prints with --json") from None


_REMEDIES: Final = {
    "version": "install the same version of this project on both sides",
    "flwr": "install the same version on both sides: requirements.txt",
    "schema": "agree on data_source, its columns and how to read them: the data settings of both YAML files",
    "settings": "agree on the YAML: settings of the model, of training and of encryption are the same on both sides",
    "roster": "copy the newest enrolled.json to both sides",
    "public_key": "set pinned_key_fingerprint to what `orchestrator/keys.py show` prints",
}


def compare(mine: Mapping[str, str], theirs: Mapping[str, str], now: datetime) -> Iterable[Finding]:
    """What differs between the two ends, and how far apart the clocks are.

    Args:
        mine: this side's facts.
        theirs: the other's.
        now: the present moment, UTC.
    """
    for name, remedy in _REMEDIES.items():
        here, there = mine.get(name, ""), theirs.get(name, "")
        if here and there:
            same = not set(here.split()).isdisjoint(there.split())  # a tenant may pin two keys
            said = f"the same on both ends: {here:.16}" if same else f"{here:.16} here, {there:.16} on the other end"
            yield Finding(name, Level.OK if same else Level.FAIL, said, "" if same else remedy)
    try:
        ahead = (datetime.fromisoformat(theirs["time"]).astimezone(UTC) - now).total_seconds()
    except (KeyError, ValueError):
        yield Finding("clock", Level.WARN, "the other side's report has no time", "make it with this version's doctor")
        return
    if ahead > MOST_CLOCK_SECONDS:
        said = f"the other side's report comes from {ahead:.0f} s ahead: this clock is behind, or the other is ahead"
        yield Finding("clock", Level.FAIL, said, "set both clocks by NTP")
    elif ahead < -MOST_AGE_SECONDS:
        said = f"the other side's report is {-ahead:.0f} s old, or this clock is ahead"
        yield Finding("clock", Level.WARN, said, "pipe a fresh one in: ssh SERVER … --json | … --against -")
    else:
        yield Finding("clock", Level.OK, f"within {MOST_AGE_SECONDS:.0f} s of the other side's")
