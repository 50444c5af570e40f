"""The options of `client/score.py` that follow logs and send alerts, and what is made of them."""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from client.sinks.lines import LinesFile
from client.sinks.options import OUTPUT, sinks_of
from client.sinks.sink import Sink
from shared.data_sources.stores import is_url
from shared.errors import ConfigError

if TYPE_CHECKING:  # at run time only after the arguments are read
    from client.scoring import Summary
    from shared.bundle import ModelBundle
    from shared.feedback import Suppressions
    from shared.rules.rule import Rules

_log = logging.getLogger("score")
_OF_ALL = ("page", "groups", "navigator")  # made of all alerts, at the end
_LONGEST_POLL, _LONGEST_HISTORY = 86_400.0, 168.0


def add_follow_options(parser: argparse.ArgumentParser) -> None:
    """What to follow, where to send, and how often."""
    group = parser.add_argument_group("follow logs, and send alerts")
    group.add_argument("--follow", action="store_true", help="go on as new files or objects arrive, until Ctrl-C")
    group.add_argument(
        "--sink", action="append", default=[], metavar="NAME=PLACE",
        help="where alerts are sent, each once; repeatable: file=PATH, splunk=https://HOST:8088, "
        "elasticsearch=https://HOST:9200/INDEX, webhook=https://…; secrets are in the environment (SPLUNK_TOKEN, "
        "ELASTICSEARCH_API_KEY or _USERNAME and _PASSWORD, WEBHOOK_TOKEN, WEBHOOK_URL)",
    )  # fmt: skip
    group.add_argument(
        "--state", metavar="FOLDER",
        help="remembers what was read and sent; one for each tenant (default: OUTPUT.state)",
    )  # fmt: skip
    group.add_argument(
        "--poll",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="between two looks for new logs (default: %(default)g)",
    )
    group.add_argument(
        "--settle", type=float, default=10.0, metavar="SECONDS",
        help="for which a local file must not have changed before it is read (default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--history", type=float, default=2.0, metavar="HOURS",
        help="for which logs are read again beside new ones, where rows are windows (default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--allow_insecure_sink",
        action="store_true",
        help="take http:// to other machines: all alerts can be read there",
    )


def follows(args: argparse.Namespace) -> bool:
    """Whether logs are followed or alerts sent, and so a state is kept."""
    return bool(args.follow or args.sink)


def check_options(args: argparse.Namespace, *, ranked: bool) -> list[Sink]:
    """The sinks that the options name, the output's file among them.

    Args:
        args: of the command line.
        ranked: whether a ranking is asked for.

    Raises:
        ConfigError: options that can't work, also together.
    """
    if not args.output and not args.sink:
        raise ConfigError("--output is missing: expected a file for the alerts, or a --sink")
    if not follows(args):
        return []
    if ranked:
        raise ConfigError("a ranking is known when all was read, and is not sent; use --threshold")
    for option in _OF_ALL:
        if getattr(args, option):
            raise ConfigError(
                f"--{option}: shows all alerts of one reading, which with --follow or --sink has no end; leave it out, "
                "or score the same files with --output alone"
            )
    if not args.output and not args.state:
        raise ConfigError("--state is missing: expected a folder that remembers what was read and sent")
    for option, value, most in (
        ("--poll", args.poll, _LONGEST_POLL), ("--settle", args.settle, _LONGEST_POLL),
        ("--history", args.history, _LONGEST_HISTORY),
    ):  # fmt: skip
        if not 0 <= value <= most:
            raise ConfigError(f"{option} {value:g}: expected 0 to {most:g}")
    sinks = sinks_of(args.sink, allow_http=args.allow_insecure_sink)
    if args.output:
        sinks.insert(0, LinesFile(OUTPUT, Path(args.output)))
    _check_places(args, sinks)
    return sinks


def state_folder(args: argparse.Namespace) -> Path:
    """The folder that remembers."""
    return Path(args.state or f"{args.output}.state")


def _check_places(args: argparse.Namespace, sinks: Sequence[Sink]) -> None:
    """What is written must not be read as logs."""
    written = [state_folder(args), *(Path(sink.where) for sink in sinks if isinstance(sink, LinesFile))]
    for path in (Path(path) for path in args.input if not is_url(path)):
        for mine in written:
            if path.resolve() == mine.resolve() or path.resolve() in mine.resolve().parents:
                raise ConfigError(f"{mine}: is, or is in, what is scored: {path}; name a place elsewhere")


def follow(
    args: argparse.Namespace,
    sinks: Sequence[Sink],
    bundle: "ModelBundle",
    threshold: float | None,
    rules: "Rules | None",
    suppressions: "Suppressions",
) -> "Summary":
    """Score what is there, or go on for ever, and send the alerts.

    Raises:
        ConfigError: the model has no threshold, and no rules raise alerts.
        DataError, NetworkError, ResumeError: as in `Follower`.
    """
    from client.follow import Follower, Pace
    from client.follow_state import FollowState
    from client.scoring import TOP, Scorer

    if threshold is None and rules is None:
        raise ConfigError("this model has no threshold to alert above; give one with --threshold")
    scorer = Scorer(bundle, threshold, TOP, rules, args.rule_level, suppressions)
    model = {
        "run": bundle.run, "round": bundle.round, "schema": bundle.schema.hash(), "model": bundle.model_sha256,
    }  # fmt: skip
    start = time.perf_counter()
    state = FollowState(state_folder(args))
    try:
        pace = Pace(args.poll, args.settle, args.history * 3600)
        follower = Follower(scorer, model, bool(bundle.schema.window_minutes), args.input, state, sinks, pace)
        for sink in sinks:
            _log.info("alerts go to %s: %s", sink.name, sink.where)
        try:
            follower.forever() if args.follow else follower.once()
        finally:
            follower.clear_spool()
            scorer.summary.seconds = time.perf_counter() - start
    finally:
        state.close()
    return scorer.summary
