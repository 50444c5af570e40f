"""Make the report of a run anew from the files in its folder.

python orchestrator/make_report.py --run logs/latest
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from shared import cli
from shared.console import console, setup_logging

_log = logging.getLogger("orchestrator")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; 0 if it was written."""
    parser = argparse.ArgumentParser(description="Make the report of a run anew from the files in its folder.")
    parser.add_argument("--run", type=Path, default=Path("logs/latest"), help="the folder (default: %(default)s)")
    args = parser.parse_args(argv)
    setup_logging()
    return cli.run(lambda: _make(args.run), _log, interrupted="the report is as it was")


def _make(folder: Path) -> None:
    # What reads a run is long to load: not for --help.
    from orchestrator.report.page import write_report

    console.print(f"open {write_report(folder)}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
