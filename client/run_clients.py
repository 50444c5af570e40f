"""Launch clients as threads or processes of this machine.

python client/run_clients.py --config config/config.yaml --num_clients 3 --executor thread
python client/run_clients.py --config config/config.yaml --client_ids 2      # one tenant, on its own machine
python client/run_clients.py --config config/secure.yaml --client_ids 2 --stay    # for one run after the other
python client/run_clients.py --config config/secure.yaml --client_ids 2 --agent --socket /run/tenant/2.sock
"""

import argparse
import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from client.processes import run_processes
from shared import cli
from shared.config import Config, load_config
from shared.console import announce_protection, set_log_format, setup_logging
from shared.errors import ConfigError

_log = logging.getLogger("clients")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the clients until the server ends the run; 0 if all of them got there."""
    parser = argparse.ArgumentParser(description="Launch clients as threads or processes of this machine.")
    cli.add_settings(parser)
    parser.add_argument(
        "--num_clients", type=int, help="clients to launch, with ids from 0 on (default: as in the YAML)"
    )
    parser.add_argument("--client_ids", help="launch just these ids, for example 0,2; for tenants on several machines")
    parser.add_argument("--executor", choices=("thread", "process"), default="thread", help="(default: %(default)s)")
    parser.add_argument("--stay", action="store_true", help="take part in one run after the other, until stopped")
    parser.add_argument("--agent", action="store_true", help="answer for one tenant's Flower node, run after run")
    parser.add_argument("--socket", metavar="PATH", help="with --agent: the Unix socket that the node connects to")
    parser.add_argument("--socket_group", default="", metavar="GROUP", help="with --agent: whose members may connect")
    args = parser.parse_args(argv)
    setup_logging()
    return cli.run(lambda: _launch(args), _log, interrupted="clients stopped")


def _launch(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.set)
    if args.num_clients is not None:
        config = _with_num_clients(config, args.num_clients)
    client_ids = _parse_ids(args.client_ids, config)
    set_log_format(config.log_format)
    announce_protection(_log, config)
    if args.agent and args.stay:
        raise ConfigError("--stay: an agent stays anyway; leave it out with --agent")
    if args.agent:
        return _run_agent(config, client_ids, args)
    _log.info("starting %d clients (%s each) for %s", len(client_ids), args.executor, config.server_address)
    if ":" in config.model or "." in config.data_source:
        _check_own_code(config)
    settings = partial(load_config, args.config, args.set) if args.stay else None
    if args.executor == "process":
        lost = run_processes(config, client_ids, args.stay, settings)
    else:  # PyTorch and Flower are seconds to load: not for a mistyped setting
        from client.launch import run_threads

        lost = run_threads(config, client_ids, args.stay, settings)
    if lost:
        _log.error("%d of %d clients did not finish: %s", len(lost), len(client_ids), ", ".join(map(str, lost)))
        return cli.FAILED
    _log.info("all %d clients finished", len(client_ids))
    return 0


def _run_agent(config: Config, client_ids: list[int], args: argparse.Namespace) -> int:
    if len(client_ids) != 1 or not args.socket:
        raise ConfigError(
            "--agent: expected one tenant and its socket, such as --client_ids 2 --socket /run/tenant/2.sock"
        )
    _check_own_code(config)
    from client.launch import run_agent

    run_agent(config, client_ids[0], Path(args.socket), args.socket_group)
    return 0


def _check_own_code(config: Config) -> None:
    """What is wrong with a model or a source of the operator's own is said here, once, and not by each client."""
    from shared.data_utils import find_source
    from shared.model import build_model

    build_model(config)
    find_source(config)


def _with_num_clients(config: Config, num_clients: int) -> Config:
    try:
        return config.replace(num_clients=num_clients)
    except ConfigError as error:
        raise ConfigError(f"--num_clients {num_clients}: {error}") from None


def _parse_ids(text: str | None, config: Config) -> list[int]:
    if text is None:
        return list(range(config.num_clients))
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text, re.ASCII):
        raise ConfigError(f"--client_ids {text}: expected whole numbers with commas, such as 0,2")
    ids = [int(part) for part in text.split(",")]
    if len(set(ids)) != len(ids):
        raise ConfigError(f"--client_ids {text}: expected each number once")
    for client_id in ids:
        config.check_client_id(client_id)
    return ids


def command() -> NoReturn:
    """The installed command `orchestrator-tenant`: the process ends with it, whatever threads are still at work."""
    cli.exit_at_once(main)


if __name__ == "__main__":
    command()
