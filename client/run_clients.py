"""Launch clients as threads or processes of this machine.

python client/run_clients.py --config config/config.yaml --num_clients 3 --executor thread
python client/run_clients.py --config config/config.yaml --client_ids 2      # one tenant, on its own machine
"""

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time

import torch

from client.connection import run_client
from client.flower_client import TenantClient
from client.training import warm_up
from shared.cli import add_settings
from shared.config import Config, load_config
from shared.console import announce_protection, setup_logging
from shared.data_utils import load_client_data
from shared.errors import ConfigError, OrchestratorError
from shared.identity import ClientIdentity

_log = logging.getLogger("clients")
_INTERRUPTED = 130  # 128 + SIGINT, as a shell counts


def main(argv: list[str] | None = None) -> int:
    """Run the clients until the server ends the run; 0 if all of them got there."""
    parser = argparse.ArgumentParser(description="Launch clients as threads or processes of this machine.")
    add_settings(parser)
    parser.add_argument(
        "--num_clients", type=int, help="clients to launch, with the ids 0, 1, … (default: as in the YAML)"
    )
    parser.add_argument("--client_ids", help="launch just these ids, for example 0,2; for tenants on several machines")
    parser.add_argument("--executor", choices=("thread", "process"), default="thread", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    setup_logging()
    try:
        config = load_config(args.config, args.set)
        if args.num_clients is not None:
            config = _with_num_clients(config, args.num_clients)
        client_ids = _parse_ids(args.client_ids, config.num_clients)
    except OrchestratorError as error:
        _log.error("%s", error)
        return 2
    announce_protection(_log, config)
    _log.info("starting %d clients (%s each) for %s", len(client_ids), args.executor, config.server_address)
    try:
        lost = (_run_threads if args.executor == "thread" else _run_processes)(config, client_ids)
    except KeyboardInterrupt:
        _log.warning("interrupted: clients stopped")
        return _INTERRUPTED
    if lost:
        _log.error("%d of %d clients did not finish: %s", len(lost), len(client_ids), ", ".join(map(str, lost)))
        return 1
    _log.info("all %d clients finished", len(client_ids))
    return 0


def _with_num_clients(config: Config, num_clients: int) -> Config:
    try:
        return config.replace(num_clients=num_clients)
    except ConfigError as error:
        raise ConfigError(f"--num_clients {num_clients}: {error}") from None


def _parse_ids(text: str | None, num_clients: int) -> list[int]:
    if text is None:
        return list(range(num_clients))
    ids = [int(part) if part.isdecimal() else -1 for part in text.split(",")]
    if len(set(ids)) != len(ids) or any(not 0 <= i < num_clients for i in ids):
        raise ConfigError(
            f"--client_ids {text}: expected different whole numbers from 0 to {num_clients - 1}, with commas"
        )
    return ids


def _run_one(config: Config, client_id: int) -> bool:
    """One client from its data to the end of the run; whether it got there."""
    log = logging.getLogger(f"client.{client_id}")
    try:
        warm_up()
        run_client(TenantClient(config, client_id, load_client_data(config, client_id), _identity(config, client_id)))
    except OrchestratorError as error:
        log.error("%s", error)
        return False
    except Exception:  # one client's bug must not take the other threads of this process with it
        log.exception("stopped by an unexpected error")
        return False
    return True


def _identity(config: Config, client_id: int) -> ClientIdentity | None:
    if not config.client_identity:
        return None
    return ClientIdentity.load(config.client_identity.replace("{client_id}", str(client_id)), f"client-{client_id}")


def _run_threads(config: Config, client_ids: list[int]) -> list[int]:
    torch.set_num_threads(1)  # the clients share the cores; torch's own threads on top would only contend
    finished: set[int] = set()

    def target(client_id: int) -> None:
        if _run_one(config, client_id):
            finished.add(client_id)

    # Daemons: Ctrl-C must not wait for a client that is training.
    threads = [threading.Thread(target=target, args=(i,), name=f"client-{i}", daemon=True) for i in client_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(timeout=0.2)  # in slices: a join without an end would hold Ctrl-C back
    return [i for i in client_ids if i not in finished]


def _process_main(config: Config, client_id: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher too, and it ends its children
    setup_logging(bars=False)
    torch.set_num_threads(1)
    sys.exit(0 if _run_one(config, client_id) else 1)


def _run_processes(config: Config, client_ids: list[int]) -> list[int]:
    context = multiprocessing.get_context("spawn")  # gRPC and torch do not survive a fork
    processes = {i: context.Process(target=_process_main, args=(config, i), name=f"client-{i}") for i in client_ids}
    try:
        for process in processes.values():
            process.start()
        while any(process.is_alive() for process in processes.values()):
            time.sleep(0.1)
    except BaseException:
        for process in processes.values():
            if process.pid is not None:
                process.terminate()
        raise
    return [i for i, process in processes.items() if process.exitcode != 0]


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # at once, also where a client's thread or gRPC's are still at work
