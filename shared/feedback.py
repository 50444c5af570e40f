"""What analysts say of alerts: a CSV file of ids and verdicts, which become labels and suppressions.

| column | what it holds |
|---|---|
| `id` | `finding_info.uid` of an alert; or `p-...`, `unmapped.pattern` of alerts: who, and what kind of attack |
| `verdict` | yes, true positive, tp, attack, true, 1; no, false positive, fp, benign, false, 0; empty: not judged yet |
| `until` | optional, of a no: the last day, such as 2026-12-31, on which scoring leaves out alerts of this id |

Other columns are the analyst's own. A verdict on an alert's id is the label of its record from the next run on, for
good. A no without a last day suppresses nothing: a suppression without an end is one that nobody remembers.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from shared.data_sources.files import opened_text
from shared.errors import DataError

PATTERN, GROUP = "p-", "g-"
_YES = frozenset(("yes", "y", "true positive", "tp", "attack", "true", "1"))
_NO = frozenset(("no", "n", "false positive", "fp", "benign", "false", "0"))
_ID = re.compile(rf"({PATTERN}|{GROUP})?[0-9a-f]{{32}}")


@dataclass(frozen=True)
class Verdict:
    """One line of the file.

    Attributes:
        attack: whether the alert was right.
        until: the last day of a suppression, in UTC; None for none.
        line: of the file.
    """

    attack: bool
    until: date | None
    line: int

    def suppresses(self, today: date) -> bool:
        """Whether alerts of its id are to be left out today."""
        return not self.attack and self.until is not None and today <= self.until


def load_feedback(path: Path) -> dict[str, Verdict]:
    """The verdicts by id, of alerts and of patterns.

    Raises:
        DataError: the file can't be read, lacks a column, or a line of it has an id, a verdict or a day that is none,
            says something of an id that an earlier line denies, or is about a group.
    """
    found: dict[str, Verdict] = {}
    for line, uid, verdict, until in read_rows(path):
        if uid.startswith(GROUP):
            raise DataError(
                f"{path}, line {line}: {uid} is a group of alerts; client/feedback.py writes the verdicts on its "
                "members"
            )
        one = _verdict(path, line, verdict, until)
        if one is None:
            continue
        before = found.get(uid)
        if before is not None and before.attack != one.attack:
            raise DataError(f"{path}, lines {before.line} and {line}: {uid} has both verdicts; keep one of them")
        found[uid] = one
    return found


def read_rows(path: Path) -> list[tuple[int, str, str, str]]:
    """Line, id, verdict and last day of each line, as texts.

    Raises:
        DataError: as in `load_feedback`, of the file and of ids.
    """
    rows: list[tuple[int, str, str, str]] = []
    try:
        with opened_text(path) as text:
            reader = csv.reader(text, strict=True, skipinitialspace=True)
            header = [name.strip().casefold() for name in next(reader, [])]
            if missing := [name for name in ("id", "verdict") if name not in header]:
                raise DataError(
                    f"{path}: no column {missing[0]!r} among {', '.join(header) or 'none'}; expected id, verdict and, "
                    "if wanted, until"
                )
            line = reader.line_num + 1
            for cells in reader:
                values = dict(zip(header, (cell.strip() for cell in cells), strict=False))
                uid, verdict, until = (values.get(name, "") for name in ("id", "verdict", "until"))
                if uid or verdict:  # else a blank line
                    rows.append((line, uid, verdict, until))
                line = reader.line_num + 1  # a note may have several lines
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file: {error}; expected the columns id, verdict and until") from None
    for line, uid, *_ in rows:
        if not _ID.fullmatch(uid):
            raise DataError(
                f"{path}, line {line}: id = {uid!r:.60}, expected finding_info.uid of an alert, 32 hex digits, or its "
                f"unmapped.pattern, {PATTERN} and 32"
            )
    return rows


def check_verdicts(path: Path, rows: list[tuple[int, str, str, str]]) -> dict[str, Verdict]:
    """The verdicts of rows that are judged, by id, groups among them; the last line of an id counts.

    Raises:
        DataError: as in `load_feedback`, of verdicts and days.
    """
    judged = ((uid, _verdict(path, line, verdict, until)) for line, uid, verdict, until in rows)
    return {uid: one for uid, one in judged if one is not None}


def _verdict(path: Path, line: int, verdict: str, until: str) -> Verdict | None:
    word = verdict.casefold().replace("_", " ").replace("-", " ")
    if not word:
        return None
    if word not in _YES | _NO:
        raise DataError(
            f"{path}, line {line}: verdict = {verdict!r:.60}, expected yes or no, or true or false positive"
        )
    try:
        day = date.fromisoformat(until) if until else None
    except ValueError:
        raise DataError(f"{path}, line {line}: until = {until!r:.60}, expected a day such as 2026-12-31") from None
    if day is not None and word in _YES:
        raise DataError(f"{path}, line {line}: until is for a no; an attack is never suppressed; leave it empty")
    return Verdict(word in _YES, day, line)


class Suppressions:
    """The noes that hold today, and how many alerts each left out.

    Args:
        verdicts: of the file.
        today: in UTC.
    """

    def __init__(self, verdicts: Mapping[str, Verdict], today: date | None = None) -> None:
        today = today or datetime.now(UTC).date()
        no = {uid: one for uid, one in verdicts.items() if not one.attack and one.until is not None}
        self.counts = {uid: 0 for uid, one in no.items() if one.suppresses(today)}
        self.ended = len(no) - len(self.counts)

    def cover(self, *uids: str) -> bool:
        """Whether one of these ids is suppressed; counted by the first that is."""
        for uid in uids:
            if uid in self.counts:
                self.counts[uid] += 1
                return True
        return False
