"""Start the orchestrator and serve one run.

python orchestrator/run_server.py --config config/config.yaml
python orchestrator/run_server.py --config config/config.yaml --resume    # go on after a crash
python orchestrator/run_server.py --config config/config.yaml --set num_rounds=10 --set seed=7
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from shared import cli
from shared.config import load_config
from shared.console import setup_logging
from shared.errors import OrchestratorError

_log = logging.getLogger("orchestrator")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one run; 0 if all rounds were run."""
    parser = argparse.ArgumentParser(description="Start the orchestrator and serve one run.")
    cli.add_settings(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the newest run from its last checkpoint")
    parser.add_argument("--run", metavar="NAME", help="with --resume: this run, as its folder in log_dir is called")
    parser.add_argument("--note", metavar="FILE", help="write RUN=<name> there, once there is a run to go on with")
    args = parser.parse_args(argv)
    if args.run is not None and not args.resume:
        parser.error("--run names the run to go on with: give it together with --resume")
    setup_logging()
    return cli.run(lambda: _serve(args), _log, interrupted="server stopped")


def _serve(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.set)
    # PyTorch and Flower are seconds to load: not for a mistyped setting.
    from orchestrator.server import run_server

    note = Path(args.note) if args.note else None
    try:
        run_server(config, resume=(args.run or "latest") if args.resume else None, go_on=_resuming(args), note=note)
    except OSError as error:
        raise OrchestratorError(f"{error}; make room for the run's files, then go on with --resume") from error


def _resuming(args: argparse.Namespace) -> str:
    """The command that goes on with the run of these arguments."""
    settings = ["--config", args.config, *(part for pair in args.set for part in ("--set", pair))]
    older = ["--run", args.run] if args.run else []
    program = ["python", sys.argv[0]] if sys.argv[0].endswith(".py") else [sys.argv[0]]
    return shlex.join([*program, *settings, "--resume", *older])


def command() -> NoReturn:
    """The installed command `orchestrator-server`: the process ends with it, whatever threads are still at work."""
    cli.exit_at_once(main)


if __name__ == "__main__":
    command()
