"""Build the Flower server and run its rounds: keys, waits, the run folder, the end."""

import logging
import os
import secrets
import signal
import socket
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from flwr.server import History, Server, ServerConfig, start_server
from rich.table import Table

from orchestrator.admission import Admission
from orchestrator.aggregation import Aggregation, PlainAggregation
from orchestrator.aggregator import Aggregator
from orchestrator.checkpoint import Checkpoint, check_same_settings, load_checkpoint, save_checkpoint
from orchestrator.feature_statistics import StatisticsCollector
from orchestrator.masked_round import MaskedAggregation
from orchestrator.report.run_data import EVALUATION, Start, add_start, write_json
from orchestrator.roster import Roster
from orchestrator.run_folder import RoundRecord, RunFolder
from orchestrator.strategy import EncryptedFedAvg
from shared.addresses import split_address
from shared.bounded_files import MAX_CERTIFICATE_BYTES, read_bounded
from shared.bundle import save_bundle
from shared.config import Config
from shared.console import add_log_file, announce_protection, console
from shared.data_utils import load_schema, load_test_data, load_validation_data
from shared.errors import AddressInUseError, ConfigError, NoSumError
from shared.feature_statistics import StatisticsCode
from shared.he.paillier import PaillierPublic
from shared.he_utils import PrivateScheme, make_keys
from shared.private_files import keep_files_private, read_private_file
from shared.weighting import Limits

_MESSAGE_SLACK_BYTES = 1 << 20
_GOODBYE_SECONDS = 5.0
_ROUNDS_WITHOUT_SUM = 3  # in a row, and the run stops
_WIDE_COLUMNS = 130  # of a terminal that shows the whole table of the rounds

_log = logging.getLogger("orchestrator")


def run_server(config: Config, resume: str | None = None) -> list[RoundRecord]:
    """Serve one run from the first client to the last round. Must be called in the main thread.

    Args:
        config: the settings.
        resume: the run to go on with from its last checkpoint, by name or as `latest`; None: start one.

    Returns:
        One record a round, as in `metrics.jsonl`.

    Raises:
        OrchestratorError: the port is taken, the data is missing, too few clients came, there is nothing to resume, or
            several rounds in a row came to no sum.
    """
    keep_files_private()  # clients' names and failures, and what the models learned from them
    _check_port_free(config)
    certificates = _read_certificates(config)
    # Names this start of the server: what was recorded before it is of another session, and refused.
    session = secrets.token_hex(16)
    admission = Admission(config.enrolled_clients, session) if config.enrolled_clients else None
    folder, checkpoint = _open_run(config, resume)
    add_log_file(_log, folder.path / "server.log")
    _log.info("run %s, files in %s", folder.name, folder.path)
    if admission is None:
        _log.warning("anyone who reaches %s can take part (enrolled_clients is not set)", config.server_address)
    announce_protection(_log, config)
    validation_data, test_data = load_validation_data(config), load_test_data(config)
    keys = _keys(config)
    add_start(folder.path, Start.now(_fingerprint(keys), admission.public_keys() if admission else ()))
    aggregator = Aggregator(
        keys, config.fewest_contributors, config.num_clients, config.weighting, admission, Limits.of(config)
    )
    roster = Roster(folder.name, session, admission, aggregator.key_proof())
    aggregation = _make_aggregation(config, keys, admission)
    strategy = EncryptedFedAvg(config, aggregator, aggregation, roster, validation_data, test_data)
    schema = load_schema(config)
    statistics = StatisticsCollector(config, aggregator, aggregation, roster, schema, strategy.encryption)
    if checkpoint is None:
        checkpoint = strategy.checkpoint([])
        save_checkpoint(folder.checkpoint, checkpoint)
    else:
        strategy.restore(checkpoint, schema)
        _log.info("resuming after round %d of %d", len(checkpoint.records), config.num_rounds)
    folder.publish()
    server = OrchestratorServer(config, strategy, statistics, roster, folder, checkpoint)
    server.write_results()  # of a run that was killed between the checkpoint and these files
    server.set_max_workers(config.num_clients)  # Flower's default works on a few clients at a time
    _log.info("listening on %s, TLS %s", config.server_address, "on" if certificates else "off")
    start_server(
        server_address=config.server_address,
        server=server,
        config=ServerConfig(num_rounds=config.num_rounds, round_timeout=config.round_timeout),
        grpc_max_message_length=_message_limit(aggregator, strategy, StatisticsCode(config, schema)),
        certificates=certificates,
    )
    console.print(round_table(server.records))
    if server.failure is not None:
        raise server.failure
    report = _report(folder, strategy)
    console.print(f"everything of this run is in {folder.path}{f'; open {report}' if report else ''}", soft_wrap=True)
    return server.records


def _open_run(config: Config, resume: str | None) -> tuple[RunFolder, Checkpoint | None]:
    folder = RunFolder.create(config) if resume is None else RunFolder.find(config, resume)
    folder.lock()
    if resume is None:
        return folder, None
    check_same_settings(folder.path, config)
    return folder, load_checkpoint(folder.checkpoint)


def _message_limit(aggregator: Aggregator, strategy: EncryptedFedAvg, statistics: StatisticsCode) -> int:
    """The longest message, in bytes, that gRPC takes from a client before this project sees it.

    An honest one holds a model, an update or statistics, and some kilobytes beside it.
    """
    size = sum(parameter.size for parameter in strategy.parameters.values())
    of_statistics = [aggregator.update_bytes(length, name) for name, length in statistics.sizes.items()]
    return max(4 * size, aggregator.update_bytes(size), *of_statistics) + _MESSAGE_SLACK_BYTES


class OrchestratorServer(Server):
    """Flower's server, with a loop of rounds that makes each one last before the next begins."""

    strategy: EncryptedFedAvg

    def __init__(
        self,
        config: Config,
        strategy: EncryptedFedAvg,
        statistics: StatisticsCollector,
        roster: Roster,
        folder: RunFolder,
        checkpoint: Checkpoint,
    ) -> None:
        super().__init__(client_manager=roster, strategy=strategy)
        self._config = config
        self._statistics = statistics
        self._roster, self._folder = roster, folder
        self.records = checkpoint.records
        self.failure: NoSumError | None = None  # why the run stopped before its end

    def fit(self, num_rounds: int, timeout: float | None) -> tuple[History, float]:
        """Run the rounds that are left; `timeout` is how many seconds one client's answer may take."""
        _exit_at_signals()
        start = time.perf_counter()
        first = len(self.records) + 1
        if first <= num_rounds and not self.strategy.finished:
            # All clients are awaited once. One that is lost later must not stop the others.
            self._roster.gather(self._config.min_available_clients, self._config.client_wait_timeout)
            if self.strategy.preprocessing is None:
                self.strategy.scale_by(self._statistics.collect())
                save_checkpoint(self._folder.checkpoint, self.strategy.checkpoint(self.records))
        self.parameters = self.strategy.initialize_parameters(self.client_manager())
        for number in range(first, num_rounds + 1):
            if self.strategy.finished:
                _log.info("no lower validation loss for %d rounds: stopping", self._config.early_stopping_rounds)
                break
            self._run_round(number, timeout)
            if self._gives_up(first):
                break
        if self.strategy.best_round:
            _log.info("the model that is kept is that of round %d, by validation loss", self.strategy.best_round)
        return History(), time.perf_counter() - start

    def _gives_up(self, first: int) -> bool:
        """Whether the last rounds of this start came to nothing, so that the next ones would not either."""
        last = self.records[first - 1 :][-_ROUNDS_WITHOUT_SUM:]
        if len(last) < _ROUNDS_WITHOUT_SUM or not all(record.skipped for record in last):
            return False
        reasons = "; ".join(f"client {tenant}: {why}" for tenant, why in sorted(last[-1].failed.items()))
        self.failure = NoSumError(
            f"{_ROUNDS_WITHOUT_SUM} rounds in a row came to no sum, the last because of: {last[-1].skipped}"
            f"{f' ({reasons})' if reasons else ''}; mend that, then go on with --resume"
        )
        return True

    def _run_round(self, number: int, timeout: float | None) -> None:
        start = time.perf_counter()
        fitted = self.fit_round(number, timeout)
        if fitted is not None and fitted[0] is not None:
            self.parameters = fitted[0]
        evaluating = time.perf_counter()
        self.strategy.evaluate(number, self.parameters)
        self.evaluate_round(number, timeout)
        record = self.strategy.record
        record.evaluate_seconds = time.perf_counter() - evaluating
        record.round_seconds = time.perf_counter() - start
        self.records.append(record)
        # The checkpoint is the commit point; whatever is written after it can be made again from it.
        save_checkpoint(self._folder.checkpoint, self.strategy.checkpoint(self.records))
        self.write_results()
        _log.info(
            "round %d of the global model: loss %s, accuracy %s, ROC-AUC %s (%.1f s)",
            number, _cell(record.loss), _cell(record.accuracy), _cell(record.roc_auc), record.round_seconds,
        )  # fmt: skip

    def write_results(self) -> None:
        """What others read of the rounds so far: the model, the bundle that makes it ready for use, and the metrics."""
        strategy = self.strategy
        self._folder.save_model(strategy.final_parameters)
        if self.records and strategy.preprocessing is not None:
            save_bundle(
                self._folder.path,
                self._config,
                strategy.preprocessing,
                strategy.final_parameters,
                strategy.validation_data,
                asdict(self.records[(strategy.best_round or len(self.records)) - 1]),
                self._folder.name,
            )
        self._folder.write_metrics(self.records)

    def disconnect_all_clients(self, timeout: float | None) -> None:
        """Say goodbye; a client that hangs does not hold back the end of the run."""
        self._roster.close()
        super().disconnect_all_clients(timeout=_GOODBYE_SECONDS)


def _read_certificates(config: Config) -> tuple[bytes, bytes, bytes] | None:
    """(CA, certificate, private key) as PEM; None where TLS is off."""
    if not config.tls_ca:
        return None
    if not config.tls_certificate:
        raise ConfigError("tls_certificate = '': with tls_ca set the server needs tls_certificate and tls_key as well")
    try:
        ca, certificate = (
            read_bounded(path, MAX_CERTIFICATE_BYTES) for path in (config.tls_ca, config.tls_certificate)
        )
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; make it with orchestrator/provision.py") from None
    return ca, certificate, read_private_file(Path(config.tls_key), "make it with orchestrator/provision.py")


def _keys(config: Config) -> PrivateScheme[Any]:
    if config.he_scheme == "none":
        return make_keys(config)
    source = config.he_key_file or f"a new {config.he_scheme} key pair"
    _log.info("the key: %s", source)
    start = time.perf_counter()
    keys = make_keys(config)
    _log.info("public key %s… (%.1f s)", keys.public.fingerprint()[:16], time.perf_counter() - start)
    return keys


def _fingerprint(keys: PrivateScheme[Any]) -> str:
    return "" if keys.public.name == "none" else keys.public.fingerprint()


def _report(folder: RunFolder, strategy: EncryptedFedAvg) -> Path | None:
    """Measure the model that is kept and write the report. Without one the run is whole all the same."""
    try:
        # Loaded only now: the templates are of no use to a server that is still at work.
        from orchestrator.report.page import write_report

        write_json(folder.path / EVALUATION, strategy.final_evaluation())
        return write_report(folder.path)
    except Exception as error:  # whatever it is: model and metrics are written, and a report can be made at any time
        _log.warning(
            "no report (%s: %s); the run is whole, make it with: python orchestrator/make_report.py --run %s",
            type(error).__name__, error, folder.path,
        )  # fmt: skip
        return None


def _make_aggregation(config: Config, keys: PrivateScheme[Any], admission: Admission | None) -> Aggregation:
    if not config.masked:
        return PlainAggregation()
    if admission is None or not isinstance(keys.public, PaillierPublic):
        raise ConfigError("secure_aggregation: masked updates need enrolled_clients and he_scheme paillier")
    return MaskedAggregation(config, keys.public, admission)


def _check_port_free(config: Config) -> None:
    """gRPC shares a port between servers without a word, so ask for it alone first."""
    host, port = split_address(config.server_address)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise AddressInUseError(
            f"can't listen on {config.server_address}: {error.strerror or error}; "
            "stop the other server or choose another server_address"
        ) from None


def _exit_at_signals() -> None:
    """Replace Flower's handlers, which wait for the clients: Ctrl-C ends the server at once.

    Files are written whole, so there is nothing to lose by not unwinding; gRPC's threads can't be joined while a client
    is silent.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        _log.warning("interrupted: server stopped")
        logging.shutdown()
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def round_table(records: list[RoundRecord]) -> Table:
    """What a person wants to know of each round."""
    table = Table(title="rounds of the global model, on the common test set")
    columns = ("round", "clients", "loss", "accuracy", "ROC-AUC", "PR-AUC", "FPR")
    times = ("clients s", "add s", "decrypt s", "round s", "KB/client")
    for column in columns + times:
        table.add_column(column, justify="right", no_wrap=True)
    for r in records:
        chosen = r.contributors + r.failures if not r.skipped else r.failures
        table.add_row(
            str(r.round), f"{r.contributors} of {chosen}",
            *(_cell(v) for v in (r.loss, r.accuracy, r.roc_auc, r.pr_auc, r.fpr)),
            *(_cell(v) for v in (r.fit_seconds, r.aggregate_seconds, r.decrypt_seconds)),
            _cell(r.round_seconds, 2),
            "-" if r.upload_bytes_per_client is None else f"{r.upload_bytes_per_client / 1000:,.1f}",
        )  # fmt: skip
    if console.width < _WIDE_COLUMNS:  # what a narrow terminal has no room for is in metrics.jsonl
        table.columns[7:10] = []
        del table.columns[-1]
    return table


def _cell(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
