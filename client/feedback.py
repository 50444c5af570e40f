"""Take analysts' verdicts on alerts into the file that training and scoring go by.

python client/feedback.py --alerts alerts.jsonl --verdicts sheet.csv --output config/feedback.csv

`sheet.csv` has the columns id and verdict and, if wanted, until; an id is an alert's, a group's or a pattern's, as the
page of alerts shows them. The output has one line for each alert, kept over all calls: what is said later counts.
"""

import argparse
import csv
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shared import cli
from shared.atomic import replace_file
from shared.console import setup_logging
from shared.errors import ConfigError, DataError

if TYPE_CHECKING:  # it loads what a mistyped option does not need
    from client.alert_groups import Group
    from shared.feedback import Verdict

_log = logging.getLogger("feedback")
_PRIVATE = 0o600


def main(argv: Sequence[str] | None = None) -> int:
    """Merge, and tell what came of it."""
    parser = argparse.ArgumentParser(description="Take verdicts on alerts into the file of all verdicts.")
    parser.add_argument("--alerts", required=True, help="file of alerts that client/score.py wrote")
    parser.add_argument("--verdicts", required=True, help="CSV file: id, verdict (yes or no), until (a day, of a no)")
    parser.add_argument("--output", required=True, help="CSV file of all verdicts; made anew, or added to")
    args = parser.parse_args(argv)
    setup_logging()
    return cli.run(lambda: merge(Path(args.alerts), Path(args.verdicts), Path(args.output)), _log)


def merge(alerts: Path, sheet: Path, output: Path) -> None:
    """Put the verdicts of a sheet over those of the output.

    Raises:
        DataError: a file can't be read or is malformed, or an id is of no alert, group or pattern.
        ConfigError: the output is one of the others.
    """
    from client.alert_groups import groups_of
    from shared.feedback import GROUP, PATTERN, check_verdicts, load_feedback, read_rows

    if output.resolve() in (alerts.resolve(), sheet.resolve()):
        raise ConfigError(f"--output {output}: is what is read; write the verdicts elsewhere")
    given = check_verdicts(sheet, read_rows(sheet))
    try:
        groups = {group.uid: group for group in groups_of(alerts)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{alerts}: no alerts of client/score.py: {error}; give its --output") from None
    known = {uid for group in groups.values() for uid in group.members}
    patterns = {pattern for group in groups.values() for pattern in group.patterns}
    new: dict[str, Verdict] = {}
    for uid, verdict in given.items():
        if uid.startswith(GROUP) and uid in groups:
            new |= _of_group(groups[uid], verdict)
        elif uid in known or (uid.startswith(PATTERN) and uid in patterns):
            new[uid] = verdict
        else:
            raise DataError(f"{sheet}, line {verdict.line}: {uid} is no alert, group or pattern of {alerts}")
    before = load_feedback(output) if output.exists() else {}
    changed = sum(uid in before and before[uid].attack != verdict.attack for uid, verdict in new.items())
    both = before | new
    replace_file(output, _as_csv(both).encode(), mode=_PRIVATE)
    ids = [uid for uid in new if not uid.startswith(PATTERN)]
    yes = sum(new[uid].attack for uid in ids)
    _log.info("%d verdicts on %d alerts: %d yes, %d no", len(given), len(ids), yes, len(ids) - yes)
    _log.info("%d ids are suppressed for a time", sum(one.until is not None for one in new.values()))
    if changed:
        _log.warning("%d verdicts are other than before; the new ones count", changed)
    _log.info("%d verdicts in %s; feedback_path in the settings makes labels of them", len(both), output)


def _of_group(group: "Group", verdict: "Verdict") -> "dict[str, Verdict]":
    """The verdict for each alert, and of a suppression for its patterns."""
    alike = group.patterns if verdict.until is not None else set()
    return dict.fromkeys([*group.members, *sorted(alike)], verdict)


def _as_csv(verdicts: "Mapping[str, Verdict]") -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "verdict", "until"))
    for uid, one in verdicts.items():
        writer.writerow((uid, "yes" if one.attack else "no", one.until or ""))
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
