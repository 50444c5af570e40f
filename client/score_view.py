"""What `client/score.py` shows and leaves beside the alerts: its options, their checks, and the work."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from shared.console import console
from shared.errors import ConfigError

if TYPE_CHECKING:  # at run time only after the arguments are read
    from client.scoring import Summary
    from shared.bundle import ModelBundle
    from shared.feedback import Suppressions

_log = logging.getLogger("score")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of what an analyst sees."""
    parser.add_argument(
        "--top", type=int, default=20, metavar="N",
        help="groups of alerts to show on the terminal and on the page, the most urgent first (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--page", metavar="FILE", help="write the groups as one HTML page")
    parser.add_argument("--groups", metavar="FILE", help="write all groups with the ids of their alerts, JSON lines")
    parser.add_argument("--navigator", metavar="FILE", help="write what was seen as a layer of the ATT&CK Navigator")
    parser.add_argument(
        "--findings_path", metavar="PATH", help="findings of GuardDuty, Security Hub or OCSF, for that layer"
    )
    parser.add_argument(
        "--feedback", metavar="FILE", help="verdicts, as client/feedback.py writes them: each no with a day to come "
        "leaves out its alerts, counted",
    )  # fmt: skip
    parser.add_argument(
        "--max_broken_share", "--max-broken-share", type=float, metavar="SHARE",
        help="refuse if more than this share of the input is broken (default: as the model was trained)",
    )  # fmt: skip


def check(args: argparse.Namespace, bundle: "ModelBundle") -> None:
    """Refuse before the work what could not be written, or read, after it."""
    from shared.findings.folder import load_findings

    for name in ("page", "groups", "navigator"):
        given = getattr(args, name)
        if given and (not Path(given).absolute().parent.is_dir() or Path(given).is_dir() or given == args.output):
            raise ConfigError(f"--{name} {given}: expected a file of its own, in a folder that is there")
    if args.findings_path:
        load_findings(Path(args.findings_path), bundle.config.max_broken_share)


def present(
    args: argparse.Namespace,
    summary: "Summary",
    bundle: "ModelBundle",
    threshold: float | None,
    suppressions: "Suppressions",
) -> None:
    """Show the groups of what was written, and leave them where it was asked for."""
    from client import presenting
    from client.alert_groups import findings_in, groups_of
    from client.navigator import Coverage, write_layer
    from shared.findings.folder import load_findings

    output = Path(args.output)
    notes = presenting.notes(summary, bundle, suppressions, threshold, with_rules=bool(args.rules_path))
    groups = presenting.most_urgent_first(groups_of(output), rules_lead=bool(presenting.no_ground(bundle)))
    scoring = presenting.Scoring(summary, groups, notes, bundle.run, threshold)
    if groups:
        console.print(presenting.table(scoring, args.top))
    for note in notes:
        _log.warning("%s", note)
    if args.page:
        presenting.write_page(scoring, Path(args.page), args.top)
        _log.info("the page of alerts: %s", args.page)
    if args.groups:
        presenting.write_groups(groups, Path(args.groups))
        _log.info("%d groups of %d in %s", len(groups), scoring.alerts, args.groups)
    if args.navigator:
        coverage = Coverage()
        coverage.add_alerts(findings_in(output))
        if args.findings_path:
            found = load_findings(Path(args.findings_path), bundle.config.max_broken_share).findings
            if without := coverage.add_findings(found):
                _log.warning("%d findings are of no technique that is known here", without)
        write_layer(coverage.layer(f"Run {bundle.run}"), Path(args.navigator))
        _log.info("%d techniques in %s", len(coverage.alerts | coverage.findings), args.navigator)
