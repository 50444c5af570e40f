"""What an analyst sees of a scoring: a table on the terminal, a page, and the groups as a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from client.alert_groups import Group
from client.titles import kind_in_words
from shared.atomic import replace_file
from shared.density import ROWS_FOR_EACH_COLUMN
from shared.feedback import Suppressions
from shared.pages import page_style, template_engine
from shared.printable import printable

if TYPE_CHECKING:
    from client.scoring import Summary
    from shared.bundle import ModelBundle

MEMBERS_SHOWN = 100  # ids of one group on a page
_TITLE_WIDTH = 60  # of the table, in characters, where there is no terminal to ask
_MANY = 1000  # from which a number is shown without decimals
_PRIVATE = 0o600
_SUPPRESSED = timedelta(days=30)  # that the page offers: long enough for a false alarm to be mended


@dataclass(frozen=True)
class Scoring:
    """One scoring, for a person.

    Attributes:
        summary: what was scored.
        groups: of the alerts, the most urgent first.
        notes: what to know before relying on it.
        run: whose model it was.
        threshold: of alerts; None where records are ranked.
    """

    summary: "Summary"
    groups: Sequence[Group]
    notes: Sequence[str]
    run: str
    threshold: float | None

    @property
    def alerts(self) -> int:
        """Alerts, or records of a ranking, that the groups hold."""
        return sum(group.alerts for group in self.groups)

    @property
    def headline(self) -> str:
        """In one sentence."""
        noun = "alerts" if self.threshold is not None else "records, ranked or raised by rules,"
        s = self.summary
        return f"{self.alerts:,} {noun} of {s.records:,} records, in {len(self.groups):,} groups"


def most_urgent_first(groups: Sequence[Group], rules_lead: bool) -> list[Group]:
    """By severity and score; where the model has little to stand on, what rules raised comes first."""
    return sorted(
        groups, key=lambda g: (-(rules_lead and "rules" in g.raised_by), -g.severity_id, -g.score, g.first or 0)
    )


def no_ground(bundle: "ModelBundle") -> str:
    """Why a CloudTrail model has nothing to stand on, for a person; empty where it has."""
    rows, columns = bundle.preprocessing.histogram.rows, len(bundle.schema)
    if bundle.config.data_source != "cloudtrail" or rows >= ROWS_FOR_EACH_COLUMN * columns:
        return ""
    return (
        f"The model learned from {rows:,} windows of {columns} features: a few accounts for a few hours, which is "
        "nothing to stand on. Go by the rules first; its scores are an order to look in, and no more."
    )


def notes(
    summary: "Summary", bundle: "ModelBundle", suppressions: Suppressions, threshold: float | None, *, with_rules: bool
) -> list[str]:
    """What to know before relying on the alerts, most important first."""
    found = [no_ground(bundle)]
    if found[0] and not with_rules:
        found.append("No rules were given: --rules_path takes a folder of Sigma rules, which need no training.")
    if threshold is None:
        found.append("Nothing here is an alert by its score: the model has no threshold, or a ranking was asked for.")
    if summary.suppressed:
        found.append(
            f"{summary.suppressed:,} alerts are left out: analysts said no to {len(suppressions.counts)} ids for now."
        )
    if suppressions.ended:
        found.append(f"{suppressions.ended} suppressions have ended; their alerts are back.")
    if summary.broken:
        found.append(f"{summary.broken:,} of {summary.lines:,} lines or records are broken, and were skipped.")
    return [note for note in found if note]


def span(group: Group) -> str:
    """From when to when, in UTC; empty where its records have no times."""
    first, last = in_hours(group.first), in_hours(group.last)
    if not first or first == last:
        return first
    return f"{first} to {last[11:] if first[:10] == last[:10] else last}"


def in_hours(milliseconds: int | None) -> str:
    """A time as a person reads it, in UTC; empty for none."""
    if milliseconds is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return ""


def reason(group: Group) -> str:
    """Why it alerts, in a few words: rules, or what drove the highest score."""
    if rules := group.headline.rules:
        return (
            "raised by a rule" if len(rules) == 1 else f"rules: {', '.join(name for name, _ in rules.most_common(4))}"
        )
    # A time of day is two numbers, neither of which says anything to a person.
    drivers = [d for d in group.drivers if d["contribution"] > 0 and not d["feature"].startswith("hour_")]
    return ", ".join(map(_driver, drivers[:3])) or "no feature stands out"


def _driver(driver: dict[str, Any]) -> str:
    if driver.get("calls"):  # a bucket of calls, by the names of those in it
        return f"{' or '.join(call.rpartition(':')[2] for call in driver['calls'][:2])} ×{_short(driver['value'])}"
    return f"{driver['feature']} = {_short(driver['value'])}"


def more_tactics(group: Group) -> str:
    """Kinds and tactics that its title does not name."""
    names = [kind_in_words(name) for name, _ in group.headline.kinds.most_common()]
    told = names[:0] if group.headline.rules else names[:1]
    return ", ".join(dict.fromkeys(n for n in [*names, *group.tactics] if n not in told))


def from_where(group: Group) -> str:
    """The addresses that its alerts name, the most frequent first."""
    named = [address for address, _ in group.addresses.most_common(4)]
    more = len(group.addresses) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= _MANY else f"{value:.3g}"
    return printable(str(value), 40)


def table(scoring: Scoring, most: int) -> Table:
    """The most urgent groups as a table for the terminal."""
    told = Table(title=printable(scoring.headline), title_justify="left", show_edge=False, pad_edge=False)
    told.add_column("#", justify="right")
    told.add_column("severity")
    told.add_column("who did what", ratio=1, min_width=24, overflow="fold")
    told.add_column("from (UTC)")
    told.add_column("alerts", justify="right")
    told.add_column("score", justify="right")
    told.add_column("by")
    for place, group in enumerate(scoring.groups[:most], start=1):
        by = "+".join(sorted(group.raised_by)) or "ranked"
        cells = [str(place), group.severity, group.title, in_hours(group.first), f"{group.alerts:,}"]
        told.add_row(*map(Text, [*cells, f"{group.score:.3f}", by]))
    return told


def write_groups(groups: Sequence[Group], path: Path) -> None:
    """All groups, one a line, each with the ids of its alerts; the file is its owner's alone.

    Raises:
        OSError: it can't be written.
    """
    lines = (json.dumps(group.to_plain()) + "\n" for group in groups)
    replace_file(path, "".join(lines).encode(), mode=_PRIVATE)


def write_page(scoring: Scoring, path: Path, most: int) -> None:
    """One page that loads nothing and runs no script; the file is its owner's alone.

    Raises:
        OSError: it can't be written.
    """
    replace_file(path, render(scoring, most).encode(), mode=_PRIVATE)


def render(scoring: Scoring, most: int) -> str:
    """The page as text."""
    engine = template_engine(Path(__file__).parent)
    engine.filters |= {"span": span, "reason": reason, "more_tactics": more_tactics, "from_where": from_where}
    return engine.get_template("alerts_page.html").render(
        style=page_style(),
        s=scoring,
        shown=scoring.groups[:most],
        members_shown=MEMBERS_SHOWN,
        until=(datetime.now(UTC) + _SUPPRESSED).date().isoformat(),
        severities=_severities(scoring.groups),
    )


def _severities(groups: Sequence[Group]) -> list[tuple[str, int]]:
    """How many groups there are of each severity, the highest first."""
    counts: dict[tuple[int, str], int] = {}
    for group in groups:
        counts[group.severity_id, group.severity] = counts.get((group.severity_id, group.severity), 0) + 1
    return [(name, number) for (_, name), number in sorted(counts.items(), reverse=True)]
