"""Check the proof of a round's sum: that the orchestrator added what the tenants sent, and decrypted it truly.

python client/audit.py --config config/secure.yaml --round 3                  # a proof that was shown to this tenant
python client/audit.py --config config/secure.yaml --proof round-0003.proof   # one from anywhere
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from shared import cli
from shared.config import Config, load_config
from shared.console import setup_logging
from shared.errors import DataError, EnrolmentError, Reason

_log = logging.getLogger("audit")


def main(argv: Sequence[str] | None = None) -> int:
    """Check one proof; 0 if the sum is true."""
    parser = argparse.ArgumentParser(description="Check the proof of a round's sum.")
    cli.add_settings(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--round", type=int, metavar="N", help="of the proofs that are kept here")
    which.add_argument("--proof", metavar="FILE", help="a proof from anywhere")
    parser.add_argument("--run", default="latest", help="with --round: the run's name (default: the newest)")
    args = parser.parse_args(argv)
    setup_logging()
    return cli.run(lambda: _audit(args), _log, interrupted="nothing was written")


def _audit(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.set)
    path = Path(args.proof) if args.proof else find_proof(config, args.run, args.round)
    # PyTorch is seconds to load: not for a mistyped setting.
    from client.auditing import Accepted, verify
    from client.audits import roster_of_round
    from client.server_key import check_pin
    from shared.data_utils import load_schema
    from shared.enrolment import Enrolment
    from shared.he.scheme import PublicScheme
    from shared.he_utils import public_scheme
    from shared.identity import digest_arrays

    def scheme_of(public_key: bytes, max_contributors: int) -> PublicScheme[object]:
        scheme = public_scheme(config, public_key, max_contributors)
        check_pin(config, scheme)
        return scheme

    start = time.perf_counter()
    enrolment = roster_of_round(path) or Enrolment.load(config.enrolled_clients).ever()
    if config.roster_signer not in ("", enrolment.signer):
        raise EnrolmentError(
            f"{config.enrolled_clients}: not signed by {config.roster_signer} (roster_signer)", Reason.ROSTER_SIGNATURE
        )
    verified = verify(path, config, enrolment, Accepted(scheme_of, load_schema(config)))
    seconds, proof = time.perf_counter() - start, verified.proof
    _log.info("round %d of run %s, by the proof %s", proof.round_number, proof.run, path)
    _log.info("in the sum, each once and signed for this very task: %s", ", ".join(verified.contributors))
    _log.info("decrypted truly under the public key %s…", scheme_of(proof.public_key, 1).fingerprint()[:16])
    _log.info("it leads from the model %s… to the next, %s…", digest_arrays(proof.before)[:16], proof.after[:16])
    _log.info("verified in %.2f s, %s bytes", seconds, f"{path.stat().st_size:,}")


def find_proof(config: Config, run: str, round_number: int) -> Path:
    """The proof of a round, of a tenant of this machine or of the orchestrator.

    Raises:
        DataError: there is none.
    """
    from client.state import proof_folders
    from shared.sum_proof import proof_name

    folders = proof_folders(config) + sorted(Path(config.log_dir).glob("*/audit"))
    found = {
        (folder.name if folder.parent.name.endswith("-audit") else folder.parent.resolve().name): folder
        for folder in reversed(folders)
        if (folder / proof_name(round_number)).is_file()
    }
    name = max(found, default="") if run == "latest" else run
    if name not in found:
        raise DataError(
            f"{config.log_dir}: no proof of round {round_number} of {'any run' if run == 'latest' else f'run {run}'}; "
            "proofs are kept where audit: true is set, on both sides"
        )
    return found[name] / proof_name(round_number)


if __name__ == "__main__":
    sys.exit(main())
