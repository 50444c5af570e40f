"""The Flower strategy: select clients, send the model, collect encrypted deltas, update the model.

The steps of the flow that are the orchestrator's, in order: 2 and 3 in `configure_fit`, 9 to 12 in `aggregate_fit`.
What is done with ciphertexts is in `orchestrator/aggregator.py`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy
from numpy.typing import NDArray

from orchestrator.admission import SignedStatement
from orchestrator.aggregation import Aggregation, Opening
from orchestrator.aggregator import Aggregator, RoundSum
from orchestrator.checkpoint import Checkpoint
from orchestrator.cohorts import choose, choose_masked
from orchestrator.early_stopping import EarlyStopping
from orchestrator.report.evaluation import Evaluation, evaluate_final
from orchestrator.roster import Roster
from orchestrator.run_folder import RoundRecord
from orchestrator.server_optimizer import ServerOptimizer
from shared.config import Config
from shared.data_sources.schema import FeatureSchema
from shared.data_utils import Dataset
from shared.errors import (
    DataError,
    EncodingError,
    EnrolmentError,
    OrchestratorError,
    ResumeError,
    StatisticsError,
    TooFewContributorsError,
    UpdateRejectedError,
)
from shared.evaluation_sum import EvaluationCode
from shared.identity import digest_model
from shared.masking import EVALUATION, WEIGHTS
from shared.masking.errors import RoundAbandonedError
from shared.metrics import attack_thresholds, evaluate, predict_probabilities, score
from shared.model import build_model, flatten, get_parameters, set_parameters, unflatten
from shared.preprocessing import Preprocessing
from shared.refusals import spelt_out
from shared.task import Settings, Task, training_settings

_log = logging.getLogger("orchestrator")
_MOST = 1e12  # no client's seconds or saturated values are more


class EncryptedFedAvg(Strategy):
    """Federated averaging of deltas that are only ever added up encrypted.

    Attributes:
        record: what happened in the current round; `orchestrator/server.py` completes it and writes it down.
        validation_data: the rows that early stopping and thresholds go by; raw before `scale_by`.
    """

    def __init__(
        self,
        config: Config,
        aggregator: Aggregator,
        aggregation: Aggregation,
        roster: Roster,
        validation_data: Dataset,
        test_data: Dataset,
    ) -> None:
        self._config = config
        self._aggregator = aggregator
        self._aggregation = aggregation
        self._roster = roster
        self.validation_data, self._test_data = validation_data, test_data
        self._model = build_model(config)
        self._optimizer = ServerOptimizer(config.server_momentum)
        self._early_stopping = EarlyStopping(config.early_stopping_rounds)
        self._chosen: list[ClientProxy] = []
        self._evaluation = EvaluationCode(config)
        self._round_sum: RoundSum
        self._asked = 0.0  # when the round's training was asked for, seconds of `time.perf_counter`
        self._preprocessing: Preprocessing | None = None
        self.record = RoundRecord(round=0)

    @property
    def encryption(self) -> dict[str, Scalar]:
        """What a client has to know to encrypt."""
        return {
            "public_key": self._aggregator.public.public_bytes(),
            "encoding": self._aggregator.public.encoding_name,
            "max_contributors": self._config.num_clients,
        }

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How features are scaled; None before the clients' statistics are added up."""
        return self._preprocessing

    def scale_by(self, preprocessing: Preprocessing) -> None:
        """Scale the orchestrator's own rows, once, and have the clients scale theirs alike."""
        self._preprocessing = preprocessing
        self.validation_data = preprocessing.apply(self.validation_data)
        self._test_data = preprocessing.apply(self._test_data)

    @property
    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """The global model by the names of its tensors."""
        return dict(zip(self._model.state_dict(), get_parameters(self._model), strict=True))

    @property
    def final_parameters(self) -> dict[str, NDArray[np.float32]]:
        """The model that the run would leave if it ended now: the best one under early stopping, else the last."""
        return self._early_stopping.final(self.parameters)

    @property
    def best_round(self) -> int:
        """The round that `final_parameters` are of under early stopping; 0 where it is off."""
        return self._early_stopping.best_round

    @property
    def finished(self) -> bool:
        """Whether early stopping ends the run."""
        return self._early_stopping.exhausted

    def checkpoint(self, records: list[RoundRecord]) -> Checkpoint:
        """All that the next round depends on, with the rounds so far."""
        return Checkpoint(
            self.parameters,
            records,
            self._optimizer.velocity,
            self._early_stopping.best_parameters,
            self._preprocessing.arrays() if self._preprocessing else None,
        )

    def restore(self, checkpoint: Checkpoint, schema: FeatureSchema) -> None:
        """Go on from here as if the run had never been interrupted.

        Args:
            checkpoint: of the run.
            schema: of the raw features.

        Raises:
            ResumeError: the checkpoint does not fit the settings.
        """
        shapes = {name: array.shape for name, array in self.parameters.items()}
        for model in (checkpoint.parameters, checkpoint.best_parameters or checkpoint.parameters):
            if {name: array.shape for name, array in model.items()} != shapes:
                raise ResumeError("the checkpoint's model has other shapes than the settings say; start a new run")
        set_parameters(self._model, [checkpoint.parameters[name] for name in shapes])
        self._optimizer.velocity = checkpoint.velocity
        best = checkpoint.best_parameters  # a file keeps its tensors by name; what they are put into keeps an order
        self._early_stopping.restore(checkpoint.records, best and {name: best[name] for name in shapes})
        if checkpoint.preprocessing is not None:
            try:
                self.scale_by(Preprocessing.from_arrays(schema, checkpoint.preprocessing))
            except DataError as error:
                raise ResumeError(f"the checkpoint does not fit the features: {error}; start a new run") from None

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """The present global model: made from the seed, or restored. No client is asked for one."""
        return ndarrays_to_parameters(get_parameters(self._model))

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Choose the round's clients and send each the global model, the public key and the round's settings.

        Raises:
            TooFewClientsError: not enough clients within `client_wait_timeout`.
        """
        c = self._config
        self.record = RoundRecord(round=server_round)
        self._chosen = []
        try:
            self._roster.cut_off_revoked()
        except EnrolmentError as error:
            self._skip(error)
            return []
        self._chosen = self._choose(
            c.fraction_fit, max(c.min_fit_clients, c.fewest_contributors), server_round, WEIGHTS
        )
        global_parameters = get_parameters(self._model)
        size = sum(p.size for p in global_parameters)
        settings: dict[str, Scalar] = {"round": server_round, "cohort": len(self._chosen), **training_settings(c)}
        try:
            extras = self._open_sum(WEIGHTS, server_round, size, self._note_failure, training_settings(c))
        except (RoundAbandonedError, EnrolmentError) as error:
            self._skip(error)
            return []
        _log.info("round %d of %d: %d clients train", server_round, c.num_rounds, len(extras))
        self._asked = time.perf_counter()
        return [(client, FitIns(parameters, {**settings, **extra})) for client, extra in extras]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Add the encrypted deltas, decrypt the sum alone, and move the global model by their average."""
        global_parameters = get_parameters(self._model)
        global_vector = flatten(global_parameters)  # (size,)
        round_sum = self._round_sum
        fit_seconds = time.perf_counter() - self._asked
        self._note_failures(results, failures)
        accepted = self._add_updates(round_sum, results)
        try:
            unmask = self._aggregation.finish(round_sum.contributors)
            aggregate = round_sum.decrypt_average(unmask)
            if not (np.abs(aggregate.average_delta) < np.finfo(np.float32).max).all():  # NaN compares False, too
                raise EncodingError("the average delta is beyond float32: a client's training diverged, or it lies")
            if self._config.masked and not aggregate.average_delta.any():  # where failures look like answers
                raise EncodingError("no client has moved the model at all: see their logs for what keeps them from it")
        except (TooFewContributorsError, EncodingError, RoundAbandonedError) as error:
            self._skip(error)
            return None, {}
        new_vector = self._optimizer.step(global_vector, aggregate.average_delta)
        new_parameters = unflatten(new_vector, like=global_parameters)
        set_parameters(self._model, new_parameters)

        record = self.record
        record.contributors = len(aggregate.contributors)
        record.contributor_ids = list(aggregate.contributors)
        record.failures = len(self._chosen) - record.contributors
        # Who was lost after its update had arrived is in the model all the same.
        record.failed = {t: why for t, why in record.failed.items() if t not in aggregate.contributors}
        record.aggregate_seconds, record.decrypt_seconds = aggregate.aggregate_seconds, aggregate.decrypt_seconds
        record.fit_seconds = fit_seconds
        if not self._config.masked:
            record.train_seconds = max(_number(r.metrics, "train_seconds") for r in accepted)
            record.encrypt_seconds = max(_number(r.metrics, "encrypt_seconds") for r in accepted)
        record.saturated = int(sum(_number(r.metrics, "saturated") for r in accepted))
        record.upload_bytes_per_client = max(len(r.parameters.tensors[0]) for r in accepted)
        _log.info(
            "round %d: added %d encrypted updates in %.2f s, decrypted their sum in %.2f s",
            server_round, record.contributors, aggregate.aggregate_seconds, aggregate.decrypt_seconds,
        )  # fmt: skip
        return ndarrays_to_parameters(new_parameters), {}

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]]:
        """The global model on the common test set; thresholds and early stopping go by the validation set alone."""
        set_parameters(self._model, parameters_to_ndarrays(parameters))
        validation = self.validation_data
        probabilities = predict_probabilities(self._model, validation.features)
        self.record.validation_loss = score(probabilities, validation).loss
        if self.record.skipped is None:  # a round without an update says nothing about whether training still helps
            self._early_stopping.note(server_round, self.record.validation_loss, self.parameters)
        thresholds = attack_thresholds(1.0 - probabilities[validation.labels == 0, 0])
        metrics = evaluate(self._model, self._test_data, thresholds)
        for name, value in asdict(metrics).items():
            setattr(self.record, name, value)
        return metrics.loss, {"accuracy": metrics.accuracy}

    def final_evaluation(self) -> Evaluation:
        """What the report shows of the model that the run leaves: curves, and each family at the alert threshold."""
        set_parameters(self._model, list(self.final_parameters.values()))
        return evaluate_final(self._config, self._model, self.validation_data, self._test_data)

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Ask clients for the global model's figures on their own held-out rows, in an encrypted sum.

        None if too few are there, or if the round left the model as it was: then there is nothing new to ask.
        """
        c = self._config
        if c.fraction_evaluate == 0 or self.record.skipped is not None:
            return []
        needed = max(c.min_evaluate_clients, c.fewest_contributors)
        try:
            self._roster.cut_off_revoked()
            if len(self._roster.connected()) < needed:
                _log.warning("round %d: too few clients left for an evaluation by clients", server_round)
                return []
            self._chosen = self._choose(c.fraction_evaluate, needed, server_round, EVALUATION)
            extras = self._open_sum(EVALUATION, server_round, self._evaluation.size, self._note_silence)
        except (RoundAbandonedError, EnrolmentError) as error:
            _log.warning("round %d: no evaluation by clients: %s", server_round, error)
            return []
        settings: dict[str, Scalar] = {"round": server_round, "cohort": len(self._chosen)}
        return [(client, EvaluateIns(parameters, {**settings, **extra})) for client, extra in extras]

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Decrypt the sums over all held-out rows, and nobody's own."""
        if not results and not failures:
            return None, {}
        round_sum = self._round_sum
        for client, status in ((c, res.status.message) for c, res in (f for f in failures if isinstance(f, tuple))):
            self._note_silence(self._roster.tenant_of(client), spelt_out(status))
        for client, result in sorted(results, key=lambda pair: self._roster.tenant_of(pair[0])):
            tenant, payload = self._roster.tenant_of(client), result.metrics.get("payload")
            try:
                if type(payload) is not bytes:
                    raise UpdateRejectedError("its answer holds no sums; is it of the same version?")
                signed = SignedStatement(result.metrics.get("statement"), result.metrics.get("signature"))
                round_sum.add_payload(tenant, payload, signed)
            except UpdateRejectedError as error:
                self._note_silence(tenant, f"{type(error).__name__}: {error}")
        try:
            unmask = self._aggregation.finish(round_sum.contributors)
            aggregate = round_sum.decrypt_average(unmask)
            sums = self._evaluation.decode(aggregate.average_delta * len(aggregate.contributors))
        except (TooFewContributorsError, EncodingError, RoundAbandonedError) as error:
            _log.warning("round %d: no evaluation by clients: %s", server_round, error)
            return None, {}
        self.record.client_loss, self.record.client_accuracy = sums.loss / sums.rows, sums.correct / sums.rows
        self.record.client_rows = sums.rows
        return self.record.client_loss, {"accuracy": self.record.client_accuracy}

    def _open_sum(
        self,
        bucket: str,
        server_round: int,
        size: int,
        note_failure: Callable[[str, str], None],
        settings: Settings | None = None,
    ) -> list[tuple[ClientProxy, dict[str, Scalar]]]:
        """Begin an encrypted sum over the chosen clients; whom to ask, and what each needs to answer.

        Raises:
            RoundAbandonedError: too few clients for a masked sum.
            EnrolmentError: the enrolled list can't be read.
        """
        clients = {self._roster.tenant_of(client): client for client in self._chosen}
        about = digest_model(get_parameters(self._model), self._scaler)
        key = self._aggregator.public.fingerprint()
        task = Task(bucket, about, key, self._config.num_clients, settings or {}).digest()
        self._round_sum = self._aggregator.open_round(server_round, size, task.hex(), bucket)
        encryption = self.encryption
        opening = Opening(server_round, clients, self._round_sum.layout[0], encryption, note_failure, task, bucket)
        extras = self._aggregation.begin(opening)
        common = {"scaler": self._scaler, **encryption}
        return [
            (clients[tenant], {**common, **extra, "nonce": self._round_sum.nonce_for(tenant)})
            for tenant, extra in extras.items()
        ]

    @property
    def _scaler(self) -> bytes:
        """As a client takes it."""
        if self._preprocessing is None:
            raise StatisticsError("a round begins before the features' statistics are known; call `scale_by` first")
        return self._preprocessing.scaler.to_bytes()

    def _choose(self, fraction: float, at_least: int, server_round: int, bucket: str) -> list[ClientProxy]:
        """A reproducible choice among the connected clients, at most as many as a sum may hold."""
        c = self._config
        clients = self._roster.gather(at_least, c.client_wait_timeout)
        count = min(max(int(fraction * len(clients)), at_least), len(clients), c.num_clients)
        if c.masked:
            chosen = choose_masked(len(clients), count, c.seed, server_round, c.fewest_contributors)
        else:
            chosen = choose(len(clients), count, c.seed, server_round, stream=bucket == EVALUATION)
        return [clients[index] for index in chosen][: c.num_clients]

    def _add_updates(self, round_sum: RoundSum, results: list[tuple[ClientProxy, FitRes]]) -> list[FitRes]:
        accepted = []
        for client, result in sorted(results, key=lambda pair: self._roster.tenant_of(pair[0])):
            tenant = self._roster.tenant_of(client)
            try:
                signed = SignedStatement(result.metrics.get("statement"), result.metrics.get("signature"))
                round_sum.add(tenant, b"".join(result.parameters.tensors), signed)
            except UpdateRejectedError as error:
                self._note_failure(tenant, f"{type(error).__name__}: {error}")
            else:
                accepted.append(result)
        return accepted

    def _note_failures(
        self, results: list[tuple[ClientProxy, FitRes]], failures: list[tuple[ClientProxy, FitRes] | BaseException]
    ) -> None:
        """Name the clients that gave no update. A lost connection arrives as an exception that names nobody."""
        reasons = {
            client.cid: spelt_out(result.status.message)
            for client, result in (f for f in failures if isinstance(f, tuple))
        }
        answered = {client.cid for client, _ in results}
        for client in self._chosen:
            tenant = self._roster.tenant_of(client)
            if client.cid not in answered and tenant not in self.record.failed:
                reason = reasons.get(client.cid, "lost: disconnected, or no answer within round_timeout")
                self._note_failure(tenant, reason)

    def _skip(self, error: OrchestratorError) -> None:
        """End the round without a new global model."""
        self.record.skipped = str(error)
        self.record.failures = len(self._chosen)
        _log.warning("round %d skipped, the global model stays: %s", self.record.round, error)

    def _note_failure(self, tenant: str, reason: str) -> None:
        self.record.failed[tenant] = reason
        _log.warning("round %d: client %s is left out: %s", self.record.round, tenant, reason)

    def _note_silence(self, tenant: str, reason: str) -> None:
        _log.warning("round %d, evaluation: client %s is left out: %s", self.record.round, tenant, reason)


def _number(metrics: dict[str, Scalar], key: str) -> float:
    """A client's own figure of its work, for the log alone; 0 where it sent none or nonsense.

    Bounded, so that no sum of them is infinite: JSON has no such number, and the checkpoint could not be written.
    """
    value = metrics.get(key)
    return float(value) if isinstance(value, int | float) and 0 <= value <= _MOST else 0.0
