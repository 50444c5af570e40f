"""Run clients as threads of this machine, or one alone, and tell which of them got to the end of the run."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from client.agent import Agent
from client.connection import run_client
from client.flower_client import FlowerClient
from client.tenant import Tenant
from shared.config import Config
from shared.data_utils import load_client_data
from shared.errors import OrchestratorError
from shared.identity import ClientIdentity
from shared.private_files import keep_files_private

Settings = Callable[[], Config]


def _run_one(config: Config, client_id: int, stay: bool, settings: Settings | None) -> bool:
    """One client from its data to the end of the run, or of one run after the other; whether it got there."""
    log = logging.getLogger(f"client.{client_id}")
    try:
        tenant = Tenant(config, client_id, load_client_data(config, client_id), load_identity(config, client_id))
        run_client(FlowerClient(tenant), stay, settings)
        if tenant.refusal and not tenant.answered:
            log.error("took part in no round: %s", tenant.refusal)
            return False
    except OrchestratorError as error:
        log.error("%s", error)
        return False
    except Exception:  # one client's bug must not take the other threads of this process with it
        log.exception("stopped by an unexpected error")
        return False
    return True


def load_identity(config: Config, client_id: int) -> ClientIdentity | None:
    """What a client signs with, by `client_identity`; None where that is empty.

    Raises:
        KeyMaterialError, PassphraseError: the file can't be used.
    """
    if not config.client_identity:
        return None
    return ClientIdentity.load(config.client_identity.replace("{client_id}", str(client_id)), f"client-{client_id}")


def run_agent(config: Config, client_id: int, path: Path, group: str) -> None:
    """Answer for one tenant on a Unix socket, run after run, until the process is interrupted.

    Raises:
        OrchestratorError: the tenant's rows, identity or ledger are missing or wrong, or it can't listen there.
    """
    keep_files_private()
    tenant = Tenant(config, client_id, load_client_data(config, client_id), load_identity(config, client_id))
    agent = Agent(tenant, path, group)
    tenant.log.info("answering on %s%s", path, f", for the group {group}" if group else "")
    try:
        agent.serve()
    finally:
        agent.close()
        tenant.close()


def run_threads(
    config: Config, client_ids: list[int], stay: bool = False, settings: Settings | None = None
) -> list[int]:
    """Run these clients as threads, with `stay` for one run after the other; those that did not finish.

    `settings` reads the settings anew, for what of them may change meanwhile.
    """
    torch.set_num_threads(1)  # the clients share the cores; torch's own threads on top would only contend
    finished: set[int] = set()

    def target(client_id: int) -> None:
        if _run_one(config, client_id, stay, settings):
            finished.add(client_id)

    # Daemons: Ctrl-C must not wait for a client that is training.
    threads = [threading.Thread(target=target, args=(i,), name=f"client-{i}", daemon=True) for i in client_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(timeout=0.2)  # in slices: a join without an end would hold Ctrl-C back
    return [i for i in client_ids if i not in finished]


def run_alone(config: Config, client_id: int, stay: bool = False, settings: Settings | None = None) -> bool:
    """Run one client in a process of its own; whether it got to the end of the run."""
    torch.set_num_threads(1)  # the other clients' processes are on the same cores
    return _run_one(config, client_id, stay, settings)
