"""A run of MLflow (https://mlflow.org) for each run of the federation, with the settings that decide the model.

A tracking server may be slow or away, so a thread of its own speaks to it. It gets figures and settings: no tenant's
name, no text of a tenant's, no path and no address.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from typing import Final

from orchestrator.eyes.scalars import scalars
from orchestrator.observers import Observer
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.errors import ConfigError, MissingDependencyError
from shared.printable import printable

EXPERIMENT: Final = "federation"
TAG: Final = "federation.run"  # by which a run that goes on is found
_PLACES = {  # settings that say where something is, or who somebody is
    "server_address", "tls_ca", "tls_certificate", "tls_key", "tls_client_certificate", "tls_client_key", "audit_map",
    "findings_path", "feedback_path", "enrolled_clients", "roster_signer", "client_identity",
    "tenant_policy", "pinned_key_fingerprint", "data_path", "test_path", "label_path", "rules_path", "he_key_file",
    "log_dir", "metrics_address", "live_address", "tensorboard_dir", "mlflow_tracking_uri",
}  # fmt: skip
_MOST_WAITING = 1000  # rounds that the tracking server has not taken yet
_LAST_SECONDS = 20.0  # for it to take what is left at the end
_BATCH = 100  # parameters that MLflow takes at once

_log = logging.getLogger("orchestrator")


class MLflowRun(Observer):
    """Tells MLflow of each round.

    Raises:
        MissingDependencyError: mlflow is not installed.
        ConfigError: `mlflow_tracking_uri` is of no kind that it takes, or its database can't be made.
    """

    def __init__(self, config: Config, run: str) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before it is imported: it would tell its makers
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise MissingDependencyError('mlflow is not installed: pip install -e ".[mlflow]"') from None
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._config, self._run = config, run
        try:
            self._client = MlflowClient(tracking_uri=config.mlflow_tracking_uri)
        except (MlflowException, OSError, ValueError) as error:
            raise ConfigError(
                f"mlflow_tracking_uri = {config.mlflow_tracking_uri!r}: {printable(str(error))}; expected such as "
                "sqlite:///logs/mlflow.db or http://127.0.0.1:5000"
            ) from None
        self._waiting: queue.Queue[tuple[float, RoundRecord | str]] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def began(self, records: Sequence[RoundRecord]) -> None:
        self._thread.start()

    def committed(self, record: RoundRecord) -> None:
        self._send(record)

    def ended(self) -> None:
        self._send("FINISHED")

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self._send("KILLED")
        self._thread.join(_LAST_SECONDS)
        if self._thread.is_alive():
            _log.warning("MLflow has not taken %d of the last rounds in %g s", self._waiting.qsize(), _LAST_SECONDS)

    def _send(self, item: RoundRecord | str) -> None:
        try:
            self._waiting.put_nowait((time.time(), item))
        except queue.Full:
            _log.warning("MLflow is too slow: this round is not told to it")

    def _work(self) -> None:
        """Deliver until the run is over. If that fails the rest of the run is not told to MLflow, and goes on."""
        try:
            client = self._client
            run_id = self._open()
            while True:
                at, item = self._waiting.get()
                if isinstance(item, str):
                    client.set_terminated(run_id, status=item)
                    return
                self._tell(run_id, item, round(1000 * at))
        except Exception as error:  # MLflow's, or the network's
            _log.warning("MLflow is told nothing more, the run goes on: %s: %s", type(error).__name__, error)

    def _open(self) -> str:
        """The id of MLflow's run, anew or of an earlier start of the server."""
        client = self._client
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        earlier = client.search_runs([experiment], f"tags.`{TAG}` = '{self._run}'", max_results=1)
        if earlier:
            run_id: str = earlier[0].info.run_id
            client.update_run(run_id, status="RUNNING")
            return run_id
        run_id = client.create_run(experiment, run_name=self._run, tags={TAG: self._run}).info.run_id
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in parameters(self._config).items()]
        for first in range(0, len(params), _BATCH):
            client.log_batch(run_id, params=params[first : first + _BATCH])
        return run_id

    def _tell(self, run_id: str, record: RoundRecord, milliseconds: int) -> None:
        from mlflow.entities import Metric

        figures = [Metric(name, value, milliseconds, record.round) for name, value in scalars(record).items()]
        self._client.log_batch(run_id, metrics=figures)


def parameters(config: Config) -> dict[str, str]:
    """All settings but places, addresses and keys."""
    return {name: str(value) for name, value in dict(config).items() if name not in _PLACES}
