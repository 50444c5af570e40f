"""Who did what, in one line: the title of an alert, and of several alerts together."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from shared.printable import printable

MOST_NAMED = 10_000  # addresses of a headline; of more it says at least so many
LONGEST = 160  # characters of a title: two lines of a terminal
_MOST_CALLS = 2  # that a title names
_MOST_TEXTS = 3  # of a record without a principal or addresses
_SMALL_WORDS = ("and", "of", "or", "to")
_ABBREVIATION = 3  # letters
Finding = Mapping[str, Any]


@dataclass
class Headline:
    """What a title is made of; two of one subject add up.

    Attributes:
        who: a principal, in short; or an address or place where there is none.
        calls: how often each notable call was made.
        ranks: of these calls, the most telling first: hit by a rule, known for a tactic, new in the account, others.
        all_calls: of any kind.
        regions: of the calls.
        sources, destinations, ports: of flows; a port with its protocol where that is known.
        at_least: whether there are more destinations than are named here.
        records: flows or records.
        unit: what is counted.
        rules: titles of the rules that raised it.
        kinds: of attack, that it is like.
        place: of a record that has neither principal nor address.
    """

    who: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    ranks: dict[str, int] = field(default_factory=dict)
    all_calls: int = 0
    regions: Counter[str] = field(default_factory=Counter)
    sources: set[str] = field(default_factory=set)
    destinations: set[str] = field(default_factory=set)
    ports: set[str] = field(default_factory=set)
    at_least: bool = False
    records: int = 0
    unit: str = "record"
    rules: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    place: str = ""

    @classmethod
    def of(cls, finding: Finding) -> "Headline":
        """Of one finding, as `client/alerts.py` makes it, whose title may be missing still."""
        evidence, told = finding["evidences"][0], finding["unmapped"]
        data = evidence["data"]
        line = cls(rules=Counter({rule["title"]: 1 for rule in told.get("rules", []) if rule["raised"]}))
        if kind := told["kind"]:
            line.kinds[kind["name"]] += 1
        if "actor" in evidence:
            line.who = short_principal(evidence["actor"]["user"]["name"])
            line._add_calls(finding, data)
        elif finding["metadata"]["log_name"] == "vpc_flow":
            line.sources, line.records, line.unit = {data["source"]}, int(data["flows"]), "flow"
            for place in data["destinations"]:
                address, _, port = place.rpartition(" ")
                line.destinations.add(address)
                line.ports.add(port)
            line.at_least = len(data["destinations"]) >= 20
        else:
            line._add_ends(evidence, data)
        return line

    def _add_calls(self, finding: Finding, data: Mapping[str, Any]) -> None:
        counts = dict(zip(data.get("apis", []), data.get("call_counts", []), strict=False))
        told = finding["unmapped"]
        by_rules = [rule["call"] for rule in told.get("rules", []) if rule["raised"]]
        tactics = [
            f"{e['api']['service']['name']}:{e['api']['operation']}" for e in finding["evidences"][1:] if "api" in e
        ]
        rare = [call["api"] for call in told.get("rare_calls", []) if not call["earlier"] and call["of"]]
        order = {api: rank for rank, apis in reversed([*enumerate((by_rules, tactics, rare, counts))]) for api in apis}
        for api, rank in sorted(order.items(), key=lambda item: (item[1], -counts.get(item[0], 1)))[:_MOST_CALLS]:
            name = api.rpartition(":")[2]
            self.calls[name] += counts.get(api, 1)
            self.ranks[name] = rank
        self.all_calls = int(data.get("events", sum(counts.values())))
        self.regions.update(region for region in data.get("regions", []) if region)

    def _add_ends(self, evidence: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        source, destination = evidence.get("src_endpoint", {}), evidence.get("dst_endpoint", {})
        self.records = 1
        if not source and not destination:
            texts = [f"{name} {value}" for name, value in data.items() if name not in ("file", "line") and value]
            self.place = f"{data['file']}, line {data['line']}"
            self.who = ", ".join(texts[:_MOST_TEXTS])
            return
        self.unit = "flow"
        self.sources = {source["ip"]} if source else set()
        self.destinations = {destination["ip"]} if destination else set()
        protocol = evidence.get("connection_info", {}).get("protocol_name", "")
        if place := f"{destination.get('port', data.get('service', ''))}/{protocol}".strip("/"):
            self.ports = {place}

    def __iadd__(self, other: "Headline") -> "Headline":
        """With another of the same subject."""
        if not self.records and not self.all_calls:
            self.who, self.unit, self.place = other.who, other.unit, other.place
        elif self.place != other.place:
            self.place, self.who = self.place.partition(", line")[0], self.who if self.who == other.who else ""
        for mine, theirs in ((self.calls, other.calls), (self.regions, other.regions), (self.rules, other.rules)):
            mine.update(theirs)
        self.kinds.update(other.kinds)
        for name, rank in other.ranks.items():
            self.ranks[name] = min(rank, self.ranks.get(name, rank))
        self.at_least |= other.at_least
        for name in ("sources", "destinations", "ports"):
            self.at_least |= _add(getattr(self, name), getattr(other, name))
        self.records += other.records
        self.all_calls += other.all_calls
        return self

    @property
    def text(self) -> str:
        """For a person, on one line."""
        if self.all_calls:
            told = f"{self.who}: {self._told_calls()}"
        elif self.sources or self.destinations:
            many = "at least " if self.at_least and len(self.sources) >= MOST_NAMED else ""
            told = f"{_some(self.sources, 'sources', many)} → {self._told_ends()}, {_count(self.records, self.unit)}"
        else:
            where = ", ".join(filter(None, (self.who, self.place)))
            told = where if self.records == 1 else f"{where}, {_count(self.records, self.unit)}"
        if self.rules:
            more = f" and {len(self.rules) - 1} more" if len(self.rules) > 1 else ""
            return printable(f"{told}: {self.rules.most_common(1)[0][0]}{more}", LONGEST)
        if self.kinds:
            told = f"{told}, like {kind_in_words(self.kinds.most_common(1)[0][0])}"
        return printable(told, LONGEST)

    def _told_calls(self) -> str:
        named = sorted(self.calls.items(), key=lambda item: (self.ranks[item[0]], -item[1]))[:_MOST_CALLS]
        told = ", ".join(name if count == 1 else f"{name} ×{count:,}" for name, count in named)
        if (rest := self.all_calls - sum(count for _, count in named)) > 0:
            told += f" and {_count(rest, 'other call')}"
        regions = [region for region, _ in self.regions.most_common()]
        where = regions[0] if len(regions) == 1 else f"{len(regions)} regions"
        return f"{told} in {where}" if regions else told

    def _told_ends(self) -> str:
        many = "at least " if self.at_least else ""
        if len(self.ports) == 1 and len(self.destinations) > 1:
            return f"{next(iter(self.ports))} on {many}{len(self.destinations):,} addresses"
        place = _some(self.destinations, "addresses", many)
        if len(self.ports) == 1:
            port = next(iter(self.ports))
            return f"{place}:{port}" if port[:1].isdecimal() else f"{place}, {port}"
        return f"{place}, {many}{len(self.ports)} ports" if self.ports else place


def short_principal(name: str) -> str:
    """An ARN as people say it: `user/bob`, `role/admin`; what is no ARN as it is."""
    if not name.startswith("arn:"):
        return name
    what = name.split(":", 5)[-1]
    kind, _, rest = what.partition("/")
    if kind == "assumed-role":
        return f"role/{rest.partition('/')[0]}"
    return f"{kind}/{rest.rpartition('/')[2]}" if rest else what


@lru_cache(maxsize=1024)
def plain_name(name: str) -> str:
    """A column's name in lower case, without blanks, dots and underscores: `Src IP` is srcip."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def kind_in_words(name: str) -> str:
    """A kind of attack as a title has it: `credential-access` is Credential Access, and `dos` DOS."""
    return " ".join(map(_in_title, name.replace("-", " ").split()))


def _in_title(word: str) -> str:
    if not word.islower() or word in _SMALL_WORDS:
        return word
    return word.upper() if len(word) <= _ABBREVIATION else word.capitalize()


def _add(mine: set[str], theirs: set[str]) -> bool:
    """Add to a set that stays small; returns whether something was left out."""
    if len(mine) < MOST_NAMED:
        mine |= theirs
        return False
    return not theirs <= mine


def _some(values: set[str], noun: str, before: str = "") -> str:
    if len(values) == 1:
        return next(iter(values))
    return f"{before}{len(values):,} {noun}" if values else "?"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
