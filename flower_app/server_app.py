"""The orchestrator as a ServerApp: the coordinator of the two terminals, over Flower's grid."""

import logging
import os

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flower_app.grid_transport import GridTransport
from orchestrator.closing import conclude
from orchestrator.patience import OF_DEPLOYMENT, of_simulation
from orchestrator.run import open_run
from shared import cli
from shared.app_settings import Engine, app_config, check_engine
from shared.console import setup_logging
from shared.private_files import keep_files_private

_LATEST = "latest"
_log = logging.getLogger("orchestrator")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run, from the first tenant to the last round, or on from the last checkpoint (`resume=true`)."""
    setup_logging(bars=False)
    keep_files_private()
    code = cli.run(lambda: _serve(grid, context), _log)
    if code:
        raise RuntimeError(f"the run ended with exit code {code}; the line above says why")


def _serve(grid: Grid, context: Context) -> None:
    # Flower does not say which engine this is. That of a simulation keeps its messages in this process.
    engine: Engine = "simulation" if type(grid).__name__ == "InMemoryGrid" else "deployment"
    check_engine(context.run_config, engine)
    tenants, patience = None, OF_DEPLOYMENT
    if engine == "simulation":
        tenants = len(list(grid.get_node_ids()))
        patience = of_simulation(tenants, (os.cpu_count() or 1) // 2)
    config = app_config(context.run_config, tenants)
    # Nobody is missing for as long as a node may take to say its first word.
    config = config.replace(client_wait_timeout=patience.seconds(config.client_wait_timeout, first=True))
    resume = _LATEST if context.run_config.get("resume") else None
    simulated = engine == "simulation"
    run = open_run(config, lambda seats: GridTransport(seats, grid, patience), resume, simulated=simulated)
    try:
        run.coordinator.run()
        conclude(config, run)
    finally:
        run.transport.seats.close()
        run.transport.close()
        run.close()
