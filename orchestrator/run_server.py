"""Start the orchestrator and serve one run.

python orchestrator/run_server.py --config config/config.yaml
python orchestrator/run_server.py --config config/config.yaml --resume    # go on after a crash
python orchestrator/run_server.py --config config/config.yaml --set num_rounds=10 --set seed=7
"""

import argparse
import logging
import os
import sys

from orchestrator.server import INTERRUPTED, run_server
from shared.cli import add_settings
from shared.config import load_config
from shared.console import setup_logging
from shared.errors import ConfigError, OrchestratorError

_log = logging.getLogger("orchestrator")


def main(argv: list[str] | None = None) -> int:
    """Serve one run; 0 if all rounds were run."""
    parser = argparse.ArgumentParser(description="Start the orchestrator and serve one run.")
    add_settings(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the newest run from its last checkpoint")
    parser.add_argument("--run", metavar="NAME", help="with --resume: this run, as its folder in log_dir is called")
    args = parser.parse_args(argv)
    if args.run is not None and not args.resume:
        parser.error("--run names the run to go on with: give it together with --resume")
    setup_logging()
    try:
        run_server(load_config(args.config, args.set), resume=(args.run or "latest") if args.resume else None)
    except ConfigError as error:
        _log.error("%s", error)
        return 2
    except OrchestratorError as error:
        _log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        _log.warning("interrupted: server stopped")
        return INTERRUPTED
    except OSError as error:  # such as a full disk
        _log.error("%s; make room for the run's files, then go on with --resume", error)
        return 1
    except Exception:  # left to Python, the process would wait for gRPC's threads, and they for the clients, forever
        _log.exception("stopped by an unexpected error")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # at once: after an error gRPC's threads wait for clients that may never speak again
