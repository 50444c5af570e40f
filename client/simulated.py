"""Tenants in Flower's simulation: each request finds its tenant in whichever of Ray's processes is free.

Rows, models and the tables of the public key stay in each process; what a tenant must not forget between two requests
goes out and comes back as bytes (`Tenant.suspend`). They hold secrets, and the simulation keeps them in the process of
the orchestrator: here nothing is hidden from whoever runs it. So this is refused everywhere else.
"""

import sys
from collections.abc import Mapping
from functools import cache

import torch

from client.launch import load_identity
from client.server_key import checked_scheme
from client.tenant import Tenant
from shared.app_settings import app_config
from shared.config import Config
from shared.data_utils import load_client_data
from shared.errors import RoundRefusedError
from shared.exchange import Value
from shared.frames import Frame, decode_request, encode_answer
from shared.he.scheme import PublicScheme

_schemes: dict[tuple[bytes, int], PublicScheme[object]] = {}  # their tables are megabytes, and the same for all tenants


def answer_simulated(
    run_config: Mapping[str, object], node_config: Mapping[str, object], request: Frame, suspended: object
) -> tuple[Frame, bytes]:
    """One request to one simulated tenant.

    Args:
        run_config: of the app.
        node_config: Flower's, with the node's number and how many there are.
        request: to the tenant.
        suspended: what it left at its last request; empty at the first.

    Returns:
        The answer, and what the tenant leaves.

    Raises:
        RoundRefusedError: this is no simulation.
        OrchestratorError: the settings, the tenant's rows or its identity are missing or wrong.
    """
    _check_simulated()
    number, tenants = int(str(node_config["partition-id"])), int(str(node_config["num-partitions"]))
    tenant = _tenant(app_config(run_config, tenants), number)
    tenant.resume(suspended if isinstance(suspended, bytes) else b"")
    answer = tenant.answer(decode_request(*request))
    return encode_answer(answer), tenant.suspend()


def _check_simulated() -> None:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        raise RoundRefusedError(
            "a tenant's work was asked of a real node, by code that comes from whoever submits the run; start the "
            "tenant's agent (client/run_clients.py --agent) and name its socket in the node's --node-config"
        )


@cache
def _tenant(config: Config, number: int) -> Tenant:
    torch.set_num_threads(1)  # the processes share the cores
    rows, identity = load_client_data(config, number), load_identity(config, number)
    return Tenant(config, number, rows, identity, _shared_scheme, log_file=False)


def _shared_scheme(
    config: Config, public_key: bytes, max_contributors: int, proof: Value | None
) -> PublicScheme[object]:
    place = (public_key, max_contributors)
    if place not in _schemes:
        _schemes.clear()  # a run has one key
        _schemes[place] = checked_scheme(config, public_key, max_contributors, proof)
    return _schemes[place]
