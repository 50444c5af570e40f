"""Alerts by whom they are about and when: what an analyst looks at one by one, where alerts are too many for that.

A group is the alerts of one subject, a principal or one end of flows, in an hour and in the hours that follow it
without one between. Flows have two ends, and a flow goes with the one that more alerts of its hour have: a scan is one
group of its source, a flood one of its target. Each alert is in exactly one group, which has its id.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.titles import Headline, plain_name, short_principal
from shared.data_sources.times import epoch_seconds
from shared.feedback import GROUP

MINUTES = 60
MOST_ADDRESSES = 100  # of a group that are counted
IP_ADDRESS = 2  # OCSF's type_id of an observable
MOST_GROUPS = 50_000  # that are held in memory; what begins after so many shares one, and is told
_OTHERS = ("others",)
# What tables of flows call the time of a record, in lower case, without blanks, dots and underscores.
_TIMES = ("time", "timestamp", "ts", "starttime", "flowstart", "flowstarttime", "date", "datetime", "stime")
Finding = dict[str, Any]
Key = tuple[str, ...]


@dataclass
class Group:
    """Alerts of one subject, from one hour on.

    Attributes:
        uid: of it: the same for the same subject and first hour.
        headline: of all its alerts.
        first, last: times of what they are about, ms since 1970; None where records have none.
        severity_id, severity: the highest of its alerts.
        score: the highest of its alerts.
        raised_by: `model`, `rules`.
        patterns: of its alerts, for suppressions.
        tactics: of ATT&CK, and how many alerts have each.
        addresses: how many alerts name each; of the first `MOST_ADDRESSES` alone.
        drivers: of the alert with the highest score.
        message: of that alert.
        alerts: how many.
        ids: of the alerts, 16 bytes each, one after the other.
    """

    uid: str
    headline: Headline = field(default_factory=Headline)
    first: int | None = None
    last: int | None = None
    severity_id: int = 0
    severity: str = ""
    score: float = -1.0
    raised_by: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    tactics: Counter[str] = field(default_factory=Counter)
    addresses: Counter[str] = field(default_factory=Counter)
    drivers: list[dict[str, Any]] = field(default_factory=list)
    message: str = ""
    alerts: int = 0
    ids: bytearray = field(default_factory=bytearray)

    @property
    def members(self) -> list[str]:
        """The ids of its alerts, in the order of the file."""
        return [self.ids[at : at + 16].hex() for at in range(0, len(self.ids), 16)]

    @property
    def title(self) -> str:
        """Who did what."""
        return "alerts of other subjects" if self.uid == group_id(_OTHERS) else self.headline.text

    def add(self, finding: Finding) -> None:
        """One more alert."""
        told, info = finding["unmapped"], finding["finding_info"]
        self.headline += Headline.of(finding)
        self.ids += bytes.fromhex(info["uid"])
        self.alerts += 1
        self.raised_by |= set(told["raised_by"])
        if told["pattern"]:
            self.patterns.add(told["pattern"])
        self.tactics.update({a["tactic"]["name"]: 1 for a in info.get("attacks", []) if "tactic" in a})
        named = {o["value"] for o in finding.get("observables", []) if o["type_id"] == IP_ADDRESS}
        self.addresses.update(a for a in sorted(named) if a in self.addresses or len(self.addresses) < MOST_ADDRESSES)
        if finding["severity_id"] > self.severity_id:
            self.severity_id, self.severity = finding["severity_id"], finding["severity"]
        if told["score"] > self.score:
            self.score, self.drivers, self.message = told["score"], told["drivers"], finding["message"]
        start, end = times_of(finding)
        if start is not None and end is not None:
            self.first = start if self.first is None else min(self.first, start)
            self.last = end if self.last is None else max(self.last, end)

    def __iadd__(self, other: "Group") -> "Group":
        """With the alerts of a later hour."""
        self.headline += other.headline
        self.ids += other.ids
        self.alerts += other.alerts
        self.raised_by |= other.raised_by
        self.patterns |= other.patterns
        self.tactics.update(other.tactics)
        self.addresses.update(other.addresses)
        if other.severity_id > self.severity_id:
            self.severity_id, self.severity = other.severity_id, other.severity
        if other.score > self.score:
            self.score, self.drivers, self.message = other.score, other.drivers, other.message
        self.last = other.last
        return self

    def to_plain(self) -> dict[str, Any]:
        """For JSON: one line of `--groups`."""
        return {
            "uid": self.uid, "title": self.title, "alerts": self.alerts, "severity_id": self.severity_id,
            "severity": self.severity, "score": self.score, "first": self.first, "last": self.last,
            "raised_by": sorted(self.raised_by), "kinds": dict(self.headline.kinds.most_common()),
            "patterns": sorted(self.patterns), "members": self.members,
        }  # fmt: skip


def findings_in(path: Path) -> Iterator[Finding]:
    """The findings of a file of alerts, one a line."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def groups_of(path: Path) -> list[Group]:
    """The groups of a file of alerts, in the order of their first alerts. The file is read twice."""
    ends: Counter[Key] = Counter()
    for finding in findings_in(path):
        keys = _keys(finding)
        if len(keys) > 1 and (len(ends) < 10 * MOST_GROUPS or keys[0] in ends):
            ends.update(keys)
    groups: dict[Key, Group] = {}
    for finding in findings_in(path):
        key = max(_keys(finding), key=lambda key: ends[key])  # of equals the first, the source
        if key not in groups and len(groups) >= MOST_GROUPS:
            key = _OTHERS
        groups.setdefault(key, Group(group_id(key))).add(finding)
    return _without_breaks(groups)


def _without_breaks(groups: Mapping[Key, Group]) -> list[Group]:
    """The groups of hours, those of one subject in hours one after the other as one."""
    hours: dict[Key, list[int]] = {}
    for key in groups:
        if key != _OTHERS and key[1]:
            hours.setdefault((key[0], *key[2:]), []).append(int(key[1]))
    merged = set()
    for (source, *who), its in hours.items():
        first: Group | None = None
        before = None
        for hour in sorted(its):
            key = (source, str(hour), *who)
            if first is not None and before == hour - 1:
                first += groups[key]
                merged.add(key)
            else:
                first = groups[key]
            before = hour
    return [group for key, group in groups.items() if key not in merged]


def group_id(key: Key) -> str:
    """The same for the same subject and hour."""
    return GROUP + hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _keys(finding: Finding) -> list[Key]:
    """The groups that a finding may be in: one, or one for either end of a flow."""
    evidence = finding["evidences"][0]
    start, _ = times_of(finding)
    hour = "" if start is None else str(start // (MINUTES * 60_000))
    source = finding["metadata"]["log_name"]
    if "actor" in evidence:
        user = evidence["actor"]["user"]
        who = short_principal(user["name"])  # a role's sessions together
        return [(source, hour, "principal", who, user.get("account", {}).get("uid", ""))]
    ends: list[Key] = [
        (source, hour, end, evidence[f"{end}_endpoint"]["ip"])
        for end in ("src", "dst")
        if f"{end}_endpoint" in evidence
    ]
    kind = finding["unmapped"]["kind"] or {"name": ""}
    return ends or [(source, hour, "file", str(evidence["data"].get("file", "")), kind["name"])]


def times_of(finding: Finding) -> tuple[int | None, int | None]:
    """Begin and end of what a finding is about, ms since 1970; None where its record has no time."""
    if "start_time" in finding:
        return finding["start_time"], finding["end_time"]
    data = finding["evidences"][0]["data"]
    for name, value in data.items():
        if plain_name(name) in _TIMES:
            moment = _milliseconds(str(value))
            return moment, moment
    return None, None


def _milliseconds(text: str) -> int | None:
    try:
        return int(epoch_seconds(float(text)) * 1000)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None
