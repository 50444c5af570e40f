"""Serve a run over Flower's gRPC protocol: the doors, the loop of rounds, and the end.

Flower's own `start_server` asks for no client certificates and reads without bounds, so the port is opened by
`orchestrator/doors.py`; Flower's loop of rounds, messages and strategy are used as they are.
"""

import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType

from flwr.server import History, Server, ServerConfig
from flwr.server.server import run_fl

from orchestrator.closing import conclude
from orchestrator.coordinator import Coordinator
from orchestrator.doors import Certificates, Doors
from orchestrator.flower_transport import FlowerTransport
from orchestrator.ports import check_port_free
from orchestrator.run import OpenRun, open_run
from orchestrator.run_folder import RoundRecord
from orchestrator.strategy import EncryptedFedAvg
from shared.atomic import replace_file
from shared.config import Config
from shared.console import console, show_cursor
from shared.errors import NoSumError
from shared.exchange import drive
from shared.private_files import keep_files_private

_MESSAGE_SLACK_BYTES = 1 << 20
_GOODBYE_SECONDS = 5.0

_log = logging.getLogger("orchestrator")


def run_server(
    config: Config, resume: str | None = None, go_on: str = "", note: Path | None = None
) -> list[RoundRecord]:
    """Serve one run from the first client to the last round. Must be called in the main thread.

    Args:
        config: the settings.
        resume: the run to go on with from its last checkpoint, by name or as `latest`; None: start one.
        go_on: the command that goes on with it, for whoever stops the server.
        note: where the run's name is written, as a line for a shell, before the server listens; None: nowhere.

    Returns:
        One record a round, as in `metrics.jsonl`.

    Raises:
        OrchestratorError: the port is taken, the data is missing, too few clients came, there is nothing to resume, or
            several rounds in a row came to no sum.
    """
    keep_files_private()  # clients' names and failures, and what the models learned from them
    check_port_free(config.server_address)
    certificates = Certificates.load(config)
    run = open_run(config, FlowerTransport, resume)
    server = OrchestratorServer(run.coordinator, run.transport, go_on)
    server.set_max_workers(config.num_clients)  # Flower's default works on a few clients at a time
    try:
        if note is not None:
            replace_file(note, f"RUN={run.folder.name}\n".encode())
        _serve(config, server, run, certificates)
        conclude(config, run, server.failure)
    finally:  # of a run that ended badly, too: who looks on is told so, and another start may go on with it
        run.close()
    return run.coordinator.records


def _serve(config: Config, server: Server, run: OpenRun[FlowerTransport], certificates: Certificates | None) -> None:
    """Open the doors, and close them when Flower's loop has ended, however it did."""
    transport, longest = run.transport, run.longest_message + _MESSAGE_SLACK_BYTES
    doors = Doors(config, certificates, longest, transport.come, transport.gone, transport.seats.why_not)
    doors.open()
    _log.info("listening on %s, TLS %s", config.server_address, _protection(certificates))
    if certificates is not None:
        certificates.tell_end()
    try:
        run_fl(server, ServerConfig(num_rounds=config.num_rounds, round_timeout=config.round_timeout))
    finally:
        doors.close()


class OrchestratorServer(Server):
    """Flower's server, with a loop of rounds that makes each one last before the next begins."""

    strategy: EncryptedFedAvg

    def __init__(self, coordinator: Coordinator, transport: FlowerTransport, go_on: str = "") -> None:
        super().__init__(client_manager=transport.connections, strategy=EncryptedFedAvg(coordinator, transport))
        self._coordinator, self._transport, self._go_on = coordinator, transport, go_on
        self.failure: NoSumError | None = None  # why the run stopped before its end

    def fit(self, num_rounds: int, timeout: float | None) -> tuple[History, float]:
        """Run the rounds that are left; `timeout` is how many seconds one client's answer may take."""
        _exit_at_signals(self._go_on)
        start = time.perf_counter()
        coordinator = self._coordinator
        coordinator.prepare()
        self.parameters = self.strategy.initialize_parameters(self.client_manager())
        try:
            for number in coordinator.numbers():
                self._run_round(number, timeout)
        except NoSumError as error:
            self.failure = error  # told after Flower has said goodbye to the clients
        return History(), time.perf_counter() - start

    def _run_round(self, number: int, timeout: float | None) -> None:
        fitted = self.fit_round(number, timeout)
        if fitted is not None and fitted[0] is not None:
            self.parameters = fitted[0]
        self.strategy.evaluate(number, self.parameters)
        self.evaluate_round(number, timeout)
        self._coordinator.commit()
        drive(self._coordinator.publish(), self._transport.ask)

    def disconnect_all_clients(self, timeout: float | None) -> None:
        """Say goodbye; a client that hangs does not hold back the end of the run."""
        self._transport.seats.close()
        super().disconnect_all_clients(timeout=_GOODBYE_SECONDS)


def _protection(certificates: Certificates | None) -> str:
    if certificates is None:
        return "off"
    return "on, each client with a certificate" if certificates.from_clients else "on, clients without certificates"


def _exit_at_signals(go_on: str) -> None:
    """Replace Flower's handlers, which wait for the clients: Ctrl-C ends the server at once.

    Files are written whole, so there is nothing to lose by not unwinding; gRPC's threads can't be joined while a client
    is silent. The run has had a checkpoint since before the server listened, so it can be gone on with.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        _log.warning("interrupted: server stopped%s", "; go on with:" if go_on else "")
        if go_on:  # on a line of its own, which is not folded, so that it can be copied whole
            console.print(go_on, soft_wrap=True, markup=False)
        logging.shutdown()
        show_cursor()
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
