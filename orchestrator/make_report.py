"""Make the report of a run anew from the files in its folder.

python orchestrator/make_report.py --run logs/latest
"""

import argparse
import logging
import sys
from pathlib import Path

from orchestrator.report.page import write_report
from shared.console import console, setup_logging
from shared.errors import OrchestratorError

_log = logging.getLogger("orchestrator")


def main(argv: list[str] | None = None) -> int:
    """Write the report; 0 if it was written."""
    parser = argparse.ArgumentParser(description="Make the report of a run anew from the files in its folder.")
    parser.add_argument("--run", type=Path, default=Path("logs/latest"), help="the folder (default: %(default)s)")
    args = parser.parse_args(argv)
    setup_logging()
    try:
        console.print(f"open {write_report(args.run)}", soft_wrap=True)
    except (OrchestratorError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
