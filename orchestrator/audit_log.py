"""Check the log chain of a run: that nothing in it was changed, and that it holds the heads that were given out.

python orchestrator/audit_log.py verify logs/latest
python orchestrator/audit_log.py verify logs/latest --head HEX
python orchestrator/audit_log.py verify logs/latest --heads logs/state/client-0-run_log/RUN.jsonl

The first finds any change that leaves the chain's key what it was. That the key is the orchestrator's is
what --signer says, or the heads that a tenant was given: these also find a history that was written anew or cut off.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.run_log_check import check_log
from shared import cli
from shared.errors import ConfigError, RunLogError
from shared.log_head import from_hex, read_heads

_UNKNOWN_SIGNER = "; whether that is the orchestrator, --signer or --heads tell"
_BEYOND = ", and {:,} bytes after them that the log does not cover: the end of the log is missing, or they were added"
RUN_LOG, METRICS = "run_log.jsonl", "metrics.jsonl"  # as in `orchestrator/run_folder.py`, which loads PyTorch


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 if nothing is wrong."""
    summary, _, commands = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=commands, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    actions = parser.add_subparsers(dest="command", required=True)
    meaning = "check the chain of one run"
    verify = actions.add_parser("verify", help=meaning, description=meaning, allow_abbrev=False)
    verify.add_argument("run", type=Path, metavar="RUN_FOLDER", help="such as logs/latest")
    verify.add_argument("--head", action="append", default=[], metavar="HEX", help="a head of the chain; repeatable")
    verify.add_argument(
        "--heads", action="append", default=[], type=Path, metavar="FILE", help="what a tenant keeps; repeatable"
    )
    verify.add_argument("--signer", default="", metavar="HEX", help="the public key that must have signed the chain")
    args = parser.parse_args(argv)
    return cli.run(lambda: print("\n".join(_verify(args))))


def _verify(args: argparse.Namespace) -> list[str]:
    """Check all that the command line names, and say what was found right.

    Raises:
        RunLogError: something is wrong.
        ConfigError: an option is.
    """
    folder: Path = args.run.resolve()  # `latest` is a link
    heads = [_sha256(text, "--head") for text in args.head]
    log = check_log(folder / RUN_LOG, _sha256(args.signer, "--signer") if args.signer else None)
    beyond = log.check_records(folder / METRICS)
    said = [
        f"run {log.run}: {len(log.entries)} entries of {len(log.rounds)} rounds, each after the one that it names",
        f"all signed by {log.signer.hex()}{'' if args.signer or args.heads else _UNKNOWN_SIGNER}",
        f"{METRICS} has the records of these rounds{_BEYOND.format(beyond) if beyond else ''}",
        *(f"head {head.hex()} is that of entry {log.place_of(head)}" for head in heads),
    ]
    for path in args.heads:
        kept = [head for head in read_heads(path) if head.run == log.run]
        if not kept:
            raise RunLogError(f"{path}: holds no head of run {log.run}; expected what a tenant keeps of this very run")
        log.check_heads(kept)
        said.append(f"all {len(kept)} heads of {path} are in it, the last as entry {kept[-1].entries}")
    return [*said, f"head {log.sha256[-1].hex()}"]


def _sha256(text: str, option: str) -> bytes:
    try:
        digest = from_hex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ConfigError(f"{option} {text!r:.80}: expected 64 lower-case hex digits")
    return digest


if __name__ == "__main__":
    sys.exit(main())
