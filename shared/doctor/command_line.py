"""The command line that the two doctors share."""

import argparse
from collections.abc import Callable, Sequence

from shared import cli
from shared.doctor.findings import Report


def tell(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, examine: Callable[[argparse.Namespace], Report]
) -> int:
    """Read the arguments, examine one side, and print what was found.

    Args:
        parser: with the options that only this side has.
        argv: the arguments; None: those of the process.
        examine: makes the report.

    Returns:
        The exit status: 1 if a line says FAIL.
    """
    cli.add_settings(parser)
    parser.add_argument("--against", default="", metavar="FILE", help="what the other side prints with --json; or -")
    parser.add_argument("--json", action="store_true", help="for programs, and for --against on the other side")
    args = parser.parse_args(argv)

    def work() -> int:
        report = examine(args)
        print(report.to_json() if args.json else "\n".join(finding.line() for finding in report.findings))
        return 0 if report.healthy else cli.FAILED

    return cli.run(work)
