"""A whole federation in one process, for notebooks, benchmarks and tests: the real coordinator, the real tenants.

The one module of the orchestrator that knows the tenants' code, because it plays both sides: whoever runs it sees all
tenants' rows. What is encrypted and masked is what would be in the two terminals, and so is the model, to the last bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from client.tenant import Tenant
from orchestrator.global_model import GlobalModel
from orchestrator.run import open_run
from orchestrator.run_folder import RoundRecord
from orchestrator.transport import MemoryTransport
from shared.config import Config
from shared.data_sources.dataset import ClientData
from shared.data_utils import load_client_data
from shared.identity import ClientIdentity


@dataclass(frozen=True)
class Simulation:
    """What a simulated run leaves.

    Attributes:
        records: one a round, as in `metrics.jsonl`.
        model: the global model, with the orchestrator's own rows and the scaling.
        folder: the run's files.
        report: the page to open; None if it could not be made.
    """

    records: list[RoundRecord]
    model: GlobalModel
    folder: Path
    report: Path | None


def make_tenants(config: Config, rows: Mapping[int, ClientData] | None = None) -> dict[str, Tenant]:
    """All tenants of these settings, by id.

    Args:
        config: the settings.
        rows: of each tenant, raw; None: what the settings' data source gives it.

    Raises:
        OrchestratorError: a tenant's rows or identity are missing or wrong.
    """
    tenants = {}
    for number in range(config.num_clients):
        path = config.client_identity.replace("{client_id}", str(number))
        identity = ClientIdentity.load(path, f"client-{number}") if path else None
        own = rows[number] if rows else load_client_data(config, number)
        tenants[str(number)] = Tenant(config, number, own, identity)
    return tenants


def simulate(config: Config, rows: Mapping[int, ClientData] | None = None, *, report: bool = True) -> Simulation:
    """Run a federation from its first round to its last, without a network.

    Torch is left with one thread: for models of this size more of them only contend.

    Args:
        config: the settings; the run's folder goes to `log_dir`.
        rows: of each tenant, raw, by its number; None: what the settings' data source gives it.
        report: whether to make the page.

    Raises:
        OrchestratorError: as `run_server` does, if no round changed the model for example.
    """
    torch.set_num_threads(1)
    tenants = make_tenants(config, rows)
    run = open_run(config, lambda seats: MemoryTransport(seats, tenants), simulated=True)
    try:
        run.transport.connect()
        run.coordinator.run()
        run.coordinator.check_trained()
        page = run.write_report() if report else None
    finally:
        run.close()
        for tenant in tenants.values():
            tenant.close()
    return Simulation(run.coordinator.records, run.coordinator.model, run.folder.path, page)
