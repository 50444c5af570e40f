"""What the command lines have in common: the options of the settings, one line for each error, and the exit codes.

A script imports PyTorch, Flower and the like only after its arguments and settings are read: `--help` and a mistyped
setting are answered at once, and not after the seconds that those libraries take to load.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from shared.console import show_cursor
from shared.data_sources.stores import forget_copies
from shared.errors import ConfigError, OrchestratorError

FAILED, WRONG_SETTINGS = 1, 2  # argparse, too, leaves with 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell counts


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a script's docstring: its first paragraph, and below the options the commands that follow.

    Options are never abbreviated: what a tenant writes into a unit file today must mean the same after an upgrade.
    """
    summary, _, commands = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        description=summary, epilog=commands, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that say which settings a run has: `load_config(args.config, args.set)` reads them."""
    parser.add_argument("--config", default="config/config.yaml", help="YAML file (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting in place of the file's, the value as YAML; repeatable; the same for the server and all clients",
    )


def run(
    work: Callable[[], int | None], log: logging.Logger | None = None, interrupted: str = "nothing is half done"
) -> int:
    """Do a script's work and tell in one line what stopped it.

    Args:
        work: returns the exit code, or None for 0.
        log: where the line goes; None: to standard error, for scripts whose output is read by others.
        interrupted: what Ctrl-C leaves behind.

    Returns:
        The exit code. Whatever is no expected error is a bug, and passes through with its traceback.
    """

    def tell(level: int, text: str) -> None:
        if log is None:
            print(f"error: {text}", file=sys.stderr)
        else:
            log.log(level, "%s", text)

    try:
        return work() or 0
    except ConfigError as error:
        tell(logging.ERROR, str(error))
        return WRONG_SETTINGS
    except (OrchestratorError, OSError) as error:  # the latter such as a full disk
        tell(logging.ERROR, str(error))
        return FAILED
    except KeyboardInterrupt:
        tell(logging.WARNING, f"interrupted: {interrupted}")
        return INTERRUPTED


def exit_at_once(main: Callable[[], int]) -> NoReturn:
    """End the process with `main`, also where threads are still at work: gRPC's wait for clients that never speak."""
    try:
        code = main()
    except Exception:  # left to Python, the process would wait for those threads, forever
        logging.getLogger("main").exception("stopped by an unexpected error")
        code = FAILED
    forget_copies()
    logging.shutdown()
    show_cursor()
    sys.stdout.flush()
    os._exit(code)
