"""Score new logs with the model of a run, in the tenant's own place: alerts as OCSF Detection Findings, one a line.

python client/score.py --model logs/latest --input data/new-flows.csv --output alerts.jsonl
python client/score.py --model logs/latest --input data/mon data/tue.json.gz --output alerts.jsonl --threshold 0.9
python client/score.py --model logs/latest --input data/mon --output ranked.jsonl --rank 50
python client/score.py --model logs/latest --input data/mon --output alerts.jsonl --top 20 --page alerts.html
python client/score.py --model logs/latest --input data/cloudtrail --output alerts.jsonl --rules_path ~/sigma/rules
python client/score.py --model logs/latest --input s3://bucket/logs --follow --state state --sink splunk=https://splunk:8088
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from client import score_view
from client.follow_options import add_follow_options, check_options, follow, follows
from shared import cli
from shared.console import setup_logging
from shared.data_sources.stores import local_path
from shared.errors import AlertRateError, ConfigError
from shared.private_files import keep_files_private
from shared.rules.rule import ALERT_LEVEL, LEVELS

if TYPE_CHECKING:  # at run time only after the arguments are read
    from client.scoring import Summary
    from shared.bundle import ModelBundle

_log = logging.getLogger("score")
_MOST_RANKED = 100_000  # they are in memory until the last record was read


def main(argv: Sequence[str] | None = None) -> int:
    """Score, and tell what came of it; 0 if everything was scored, with alerts or without."""
    parser = argparse.ArgumentParser(description="Score new logs with the model of a run.")
    parser.add_argument("--model", required=True, help="folder of a run, such as logs/latest")
    parser.add_argument(
        "--model_class", default="", help="package.module:Class, if the run's model is a class of your own"
    )
    parser.add_argument(
        "--input", required=True, nargs="+", help="files, folders or URLs (s3://…), of the kind the model learned from"
    )
    parser.add_argument("--output", help="file of the alerts, JSON lines; with --follow or --sink they are added to it")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--threshold", type=float,
        help="score from 0 to 1 above which to alert, also below 0.5 (default: the model's threshold, which is at "
        "least the alert_min_score that it was trained with, 0.5 unless set)",
    )  # fmt: skip
    group.add_argument(
        "--rank", type=int, metavar="N",
        help="write the N records with the highest scores instead, none of them as an alert (default: as many as --top "
        "where the model has no threshold)",
    )  # fmt: skip
    score_view.add_options(parser)
    parser.add_argument(
        "--rules_path", metavar="FOLDER", help="Sigma rules to evaluate on the records as well: of cloudtrail and audit"
    )
    parser.add_argument(
        "--rule_level", choices=LEVELS, default=ALERT_LEVEL,
        help="level from which a rule's hit is an alert whatever the score (default: %(default)s); hits of a lower "
        "level are in the alerts as context",
    )  # fmt: skip
    parser.add_argument(
        "--audit_map", metavar="PATH", default="",
        help="audit: your own table of a service's fields, or a folder of them, as the setting has it",
    )  # fmt: skip
    add_follow_options(parser)
    args = parser.parse_args(argv)
    setup_logging()
    kept = f"what was found so far is in {args.output}.part"
    if follows(args):
        kept = "the next start with the same --state goes on where this one was"
    return cli.run(lambda: _score(args), _log, kept)


def _score(args: argparse.Namespace) -> None:
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ConfigError(f"--threshold {args.threshold}: expected 0 to 1")
    for name in ("top", "rank"):
        number = getattr(args, name)
        if number is not None and not 1 <= number <= _MOST_RANKED:
            raise ConfigError(f"--{name} {number}: expected 1 to {_MOST_RANKED}")
    if args.max_broken_share is not None and not 0 <= args.max_broken_share <= 1:
        raise ConfigError(f"--max_broken_share {args.max_broken_share}: expected 0 to 1")
    if args.findings_path and not args.navigator:
        raise ConfigError(
            "--findings_path: findings are for --navigator here; labels take findings_path in the settings"
        )
    sinks = check_options(args, ranked=args.rank is not None)
    # PyTorch is seconds to load: not for a mistyped option.
    import torch

    from client.scoring import score_files
    from shared.bundle import ModelBundle
    from shared.feedback import Suppressions, load_feedback

    keep_files_private()  # an alert names the tenant's users and addresses
    torch.set_num_threads(1)  # a part's work in the model is too small for more threads to pay
    bundle = ModelBundle.load(args.model, args.model_class)
    bundle = _with_tables(bundle, args.audit_map)
    _log.info("model of run %s after round %d, schema %s…", bundle.run, bundle.round, bundle.schema.hash()[:16])
    if args.max_broken_share is not None:
        bundle = replace(bundle, config=bundle.config.replace(max_broken_share=args.max_broken_share))
    suppressions = Suppressions(load_feedback(Path(args.feedback)) if args.feedback else {})
    score_view.check(args, bundle)
    threshold = _threshold(bundle, args)
    rules = None
    if args.rules_path:
        from shared.data_sources.audit_rules import load_rules

        rules = load_rules(bundle.config, Path(args.rules_path))
    if follows(args):
        summary = follow(args, sinks, bundle, threshold, rules, suppressions)
        return _report(summary, bundle, ", ".join(sink.where for sink in sinks), ranked=False)
    inputs, ranked = [local_path(path) for path in args.input], args.rank or args.top
    summary = score_files(bundle, inputs, Path(args.output), threshold, ranked, rules, args.rule_level, suppressions)
    score_view.present(args, summary, bundle, threshold, suppressions)
    _report(summary, bundle, args.output, ranked=threshold is None)


def _with_tables(bundle: "ModelBundle", audit_map: str) -> "ModelBundle":
    """The same, to read audit records by these tables: a bundle has no path of its own."""
    if bundle.config.audit_map and not audit_map:
        _log.warning("the run read audit records by tables of its own as well: name yours with --audit_map")
    return replace(bundle, config=bundle.config.replace(audit_map=audit_map))


def _threshold(bundle: "ModelBundle", args: argparse.Namespace) -> float | None:
    """Above which to alert; None: rank."""
    if args.threshold is not None:
        _log.info("alerts are for scores above %.6g, as asked", args.threshold)
        return float(args.threshold)
    if args.rank is not None:
        _log.info("records are ranked, as asked, and none alerts")
        return None
    try:
        threshold = bundle.threshold.required()
    except AlertRateError as error:
        _log.warning("%s", error)
        return None
    _log.info(
        "alerts are for scores above %.6g, chosen on %d benign validation rows for a false-positive rate of %.4g",
        threshold, bundle.threshold.benign_rows, bundle.threshold.target_rate,
    )  # fmt: skip
    return threshold


def _report(summary: "Summary", bundle: "ModelBundle", output: str, *, ranked: bool) -> None:
    rate = summary.records / summary.seconds if summary.seconds else 0.0
    share = summary.alerts / summary.records if summary.records else 0.0
    _log.info("%d lines or records read, %d of them broken and skipped", summary.lines, summary.broken)
    what = "windows" if bundle.schema.window_minutes else "records"
    _log.info("%d %s scored in %.1f s (%.0f a second)", summary.records, what, summary.seconds, rate)
    if ranked:
        _log.info("the %d with the highest scores, no alerts, in %s", summary.ranked, output)
    if not ranked or summary.alerts:
        _log.info("%d alerts (%.2f %%) in %s", summary.alerts, 100 * share, output)
    if summary.by_rules:
        _log.info("%d of them raised by rules, %d of these by the model too", summary.by_rules, summary.by_both)
    if summary.suppressed:
        _log.warning("%d more are left out, which analysts said no to for now (--feedback)", summary.suppressed)
    note = summary.drift_note(bundle)
    (_log.warning if summary.drifted else _log.info)("%s", note)


if __name__ == "__main__":
    sys.exit(main())
