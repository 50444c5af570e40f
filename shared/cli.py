"""What the command lines have in common."""

import argparse


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
