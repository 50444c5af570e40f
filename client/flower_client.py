"""The Flower client: what Flower calls, nothing more. Steps 4 to 8 of the flow read from top to bottom in `_update`."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from flwr.client import Client
from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    Scalar,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from numpy.typing import NDArray

from client.feature_statistics import ScaledData
from client.masked_round import make_aggregation
from client.requests import check_training, data, integer, text
from client.training import TrainingSettings, train
from shared.config import Config
from shared.console import add_log_file, check_run_name, track
from shared.data_utils import ClientData
from shared.errors import (
    EncodingError,
    EvaluationOffError,
    KeyMaterialError,
    OrchestratorError,
    RefusedByServerError,
    RoundRefusedError,
)
from shared.evaluation_sum import EvaluationCode, EvaluationSums
from shared.he_utils import Encrypted, Progress, PublicScheme, Vector, no_progress, public_scheme
from shared.identity import ClientIdentity, UpdateStatement, digest_model
from shared.masking import EVALUATION, WEIGHTS
from shared.metrics import evaluate
from shared.model import build_model, flatten, get_parameters, set_parameters
from shared.refusals import code_of
from shared.task import Task, training_settings
from shared.weighting import encrypted_size, weigh
from shared.wire import Header, dump_update, vector_encoding, wrap_array

_OK = Status(Code.OK, "")

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Sealed:
    """One encrypted vector, ready to leave."""

    payload: bytes
    saturated: int
    signature: dict[str, Scalar]  # the signed statement, where this client has an identity


class TenantClient(Client):
    """One tenant. Its rows never leave this object; its model update leaves it encrypted alone."""

    def __init__(
        self, config: Config, client_id: int, rows: ClientData, identity: ClientIdentity | None = None
    ) -> None:
        self.config = config
        self.client_id = client_id
        self.log = logging.getLogger(f"client.{client_id}")
        self.welcome = False  # whether the server has taken this client on this connection
        self.answered = 0  # rounds of training
        self.refusal = ""  # why this client refused the last round that it was asked for; empty if it did not
        self._data = ScaledData(config, rows)
        self._identity = identity
        self._aggregation = make_aggregation(config, identity)
        self._session = ""
        self._model = build_model(config)
        self._evaluation = EvaluationCode(config)
        self._run = ""
        self._public_key = b"none yet"
        self._key_proof: Scalar = b""  # of the key that is to come
        self._public_scheme: PublicScheme[Any]

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        """The greeting: the server names its run, the client says who it is; or the server says why it won't have it.

        Also the stages of a masked round that are not the training, and the feature statistics.

        Raises:
            RefusedByServerError: out of Flower's loop, which ends the connection.
        """
        if "refused" in ins.config:
            self.welcome = False
            raise RefusedByServerError(f"the server refuses this client: {ins.config['refused']!r:.300}")
        self.welcome = True
        if "stage" in ins.config:
            return self._answer(
                lambda: GetPropertiesRes(_OK, self._answer_stage(ins.config)),
                lambda status: GetPropertiesRes(status, {}),
            )

        def greet() -> GetPropertiesRes:
            run = check_run_name(ins.config.get("run"))
            if run != self._run:
                add_log_file(self.log, Path(self.config.log_dir) / run / f"client-{self.client_id}.log")
                self.log.info("found run %s; %d rows to train on", run, self._data.examples)
                self._run = run
            self._key_proof = ins.config.get("key_proof", b"")
            properties: dict[str, Scalar] = {"client_id": self.client_id}
            if self._identity is not None:
                self._session = text(ins.config, "session")
                properties["signature"] = self._identity.sign_greeting(self._session, data(ins.config, "nonce"))
            return GetPropertiesRes(_OK, properties)

        return self._answer(greet, lambda status: GetPropertiesRes(status, {}))

    def fit(self, ins: FitIns) -> FitRes:
        """One round of training."""

        def respond() -> FitRes:
            start = time.perf_counter()
            update, train_seconds = self._update(ins)
            metrics: dict[str, Scalar] = {**update.signature}
            if not self.config.masked:  # figures of this one tenant, which masks are there to hide
                metrics["train_seconds"] = train_seconds
                metrics["encrypt_seconds"] = time.perf_counter() - start - train_seconds
                metrics["saturated"] = update.saturated
            self.answered, self.refusal = self.answered + 1, ""
            # num_examples travels in the clear, so it says nothing: how many rows a tenant has is its own affair.
            return FitRes(_OK, ndarrays_to_parameters([wrap_array(update.payload)]), num_examples=1, metrics=metrics)

        def fail(status: Status) -> FitRes:
            self.refusal = status.message
            return FitRes(status, Parameters([], ""), 0, {})

        return self._answer(respond, fail)

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        """The global model on rows of this client's own that it never trains on, for an encrypted sum."""

        def respond() -> EvaluateRes:
            sealed = self._evaluate(ins)
            # What Flower has fields for, loss and number of rows, would travel in the clear.
            metrics: dict[str, Scalar] = {"payload": sealed.payload, **sealed.signature}
            return EvaluateRes(_OK, loss=0.0, num_examples=1, metrics=metrics)

        return self._answer(respond, lambda status: EvaluateRes(status, 0.0, 0, {}))

    def _answer_stage(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """The feature statistics, or one stage of a masked round: bytes in, bytes out."""
        stage = text(config, "stage")
        if stage == "statistics":
            return self._statistics(config)
        payload = data(config, "payload")
        if stage != "advertise":
            return {"payload": self._aggregation.answer(stage, payload)}
        sizes = {WEIGHTS: self._update_size, EVALUATION: self._evaluation.size, **self._data.sizes}
        return {"payload": self._aggregation.enter(payload, self._scheme(config), sizes)}

    def _statistics(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """What this client adds to a sum over its features, encrypted."""
        statistic, scaler = text(config, "statistic"), data(config, "scaler")
        self._check_cohort(config)
        scheme = self._scheme(config)
        about = self._data.about(statistic, text(config, "schema"), scaler)
        vector = self._or_zeros(lambda: self._data.vector(statistic, scaler), np.zeros(self._data.sizes[statistic]))
        task = Task(statistic, about, scheme.fingerprint(), integer(config, "max_contributors"))
        # A statistic of the same rows under another scaler is no other statistic: a difference would show as much.
        sealed = self._seal(config, scheme, vector, task, task.work(self._data.digest, fixed_about=True))
        self.log.info("sending my features' %s, encrypted: %s bytes", statistic, f"{len(sealed.payload):,}")
        return {"payload": sealed.payload, **sealed.signature}

    def _evaluate(self, ins: EvaluateIns) -> _Sealed:
        """The sums over this client's held-out rows, encrypted."""
        if self.config.fraction_evaluate == 0:
            raise EvaluationOffError("this client evaluates no model (fraction_evaluate: 0)")
        if self.refusal:
            raise EvaluationOffError("this client refused the round, so it does not evaluate its model either")
        self._check_cohort(ins.config)
        scheme, scaler = self._scheme(ins.config), data(ins.config, "scaler")
        received = parameters_to_ndarrays(ins.parameters)
        self._load(received)
        _, holdout = self._data.scaled(scaler)

        def sums() -> Vector:
            metrics = evaluate(self._model, holdout)
            self.log.info("global model on my held-out rows: accuracy %.3f, loss %.3f", metrics.accuracy, metrics.loss)
            rows = len(holdout)
            return self._evaluation.encode(EvaluationSums(metrics.loss * rows, round(metrics.accuracy * rows), rows))

        vector = self._or_zeros(sums, np.zeros(self._evaluation.size))
        about = digest_model(received, scaler)
        task = Task(EVALUATION, about, scheme.fingerprint(), integer(ins.config, "max_contributors"))
        return self._seal(ins.config, scheme, vector, task, task.work(self._data.digest))

    def _update(self, ins: FitIns) -> tuple[_Sealed, float]:
        """Steps 4 to 7: the encrypted delta, and the seconds that the training took."""
        config, round_number = ins.config, integer(ins.config, "round")
        check_training(config, self.config)
        self._check_cohort(config)
        scaler = data(config, "scaler")
        received = parameters_to_ndarrays(ins.parameters)
        self._load(received)
        rows, _ = self._data.scaled(scaler)
        scheme = self._scheme(config)
        scheme.prepare(self._update_size)  # what the encryption needs and the delta doesn't is made during the training

        self.log.info("round %d: training, local epochs: %d", round_number, self.config.local_epochs)
        start = time.perf_counter()

        def train_and_weigh() -> Vector:
            with track(self.log, "local epochs", self.config.local_epochs) as on_epoch:
                seed = (self.config.seed, self.client_id, round_number)
                train(self._model, rows, TrainingSettings.of(self.config), seed, on_epoch)
            delta = flatten(get_parameters(self._model)) - flatten(received)  # (size,)
            if not np.isfinite(delta).all():
                raise EncodingError(
                    "the delta holds NaN or infinity: local training diverged; lower learning_rate or check the data"
                )
            return weigh(delta, self._data.examples, self.config, scheme)

        nothing = weigh(np.zeros(flatten(received).size), 0, self.config, scheme)
        vector = self._or_zeros(train_and_weigh, nothing)
        train_seconds = time.perf_counter() - start

        task = Task(
            WEIGHTS, digest_model(received, scaler), scheme.fingerprint(), integer(config, "max_contributors"),
            training_settings(self.config),
        )  # fmt: skip
        start = time.perf_counter()
        with track(self.log, "encrypting", scheme.layout(self._update_size)[0]) as progress:
            sealed = self._seal(config, scheme, vector, task, task.work(self._data.digest), progress)
        if sealed.saturated:
            self.log.warning("round %d: %d values of the delta saturated", round_number, sealed.saturated)
        self.log.info(
            "round %d: trained in %.2f s, encrypted in %.2f s, sending %s bytes",
            round_number, train_seconds, time.perf_counter() - start, f"{len(sealed.payload):,}",
        )  # fmt: skip
        scheme.prepare(self._update_size)  # for the next round, while the orchestrator works on this one
        return sealed, train_seconds

    @property
    def _update_size(self) -> int:
        return encrypted_size(sum(p.size for p in get_parameters(self._model)), self.config.weighting)

    def _or_zeros(self, compute: Callable[[], Vector], nothing: Vector) -> Vector:
        """What this client computes from its rows. If that fails, a masked client sends nothing's vector instead.

        Whether it fails depends on the rows. A client that then said so, or stayed silent, would answer a question
        about them; and by now its peers have shares of its masks, so it goes on like everybody else.
        """
        try:
            return compute()
        except Exception:  # whatever it is, it is about the rows
            if not self.config.masked:
                raise
            self.log.exception("nothing of mine goes into this sum; to the others it looks like any other answer")
            return nothing

    def _seal(
        self,
        config: dict[str, Scalar],
        scheme: PublicScheme[Any],
        vector: Vector,
        task: Task,
        work: bytes,
        progress: Progress = no_progress,
    ) -> _Sealed:
        """Mask, encrypt, pickle and sign a vector, in answer to a request."""
        round_number = integer(config, "round")
        boxes = config.get("boxes")
        encrypted = self._aggregation.encrypt(scheme, vector, round_number, boxes, progress, task, work)
        payload = _pickled(scheme, encrypted, round_number, len(vector), task.bucket)
        return _Sealed(payload, encrypted.saturated, self._sign(config, round_number, task, payload))

    def _check_cohort(self, config: dict[str, Scalar]) -> None:
        """Refuse to be in a sum of too few."""
        cohort = integer(config, "cohort")
        if cohort < self.config.fewest_contributors:
            raise RoundRefusedError(
                f"the server asks {cohort} clients in this round; with fewer than {self.config.fewest_contributors} "
                "(min_contributors) the sum would show too much of mine"
            )

    def _sign(self, config: dict[str, Scalar], round_number: int, task: Task, payload: bytes) -> dict[str, Scalar]:
        """Sign for what this payload answers; nothing where this client has no identity."""
        if self._identity is None:
            return {}
        statement = UpdateStatement(
            run_id=self._session,
            server_round=round_number,
            nonce=data(config, "nonce"),
            client_id=self._identity.client_id,
            key_fingerprint=task.key,
            task_sha256=task.digest().hex(),
            payload_sha256=hashlib.sha256(payload).hexdigest(),
        )
        return {"statement": statement.to_bytes(), "signature": self._identity.sign(statement)}

    def _scheme(self, config: dict[str, Scalar]) -> PublicScheme[Any]:
        """The scheme under the server's key; its tables are kept for as long as the key stays."""
        public_key = data(config, "public_key")
        if self._public_key != public_key:
            scheme = public_scheme(self.config, public_key, integer(config, "max_contributors"))
            if scheme.encoding_name != config.get("encoding"):
                raise RoundRefusedError(
                    f"the server encodes updates as {config.get('encoding')!r:.100}, this client as "
                    f"{scheme.encoding_name!r}; the he_ settings must be the same on both sides"
                )
            pinned, found = self.config.pinned_key_fingerprint, scheme.fingerprint()
            if pinned and found != pinned:
                raise KeyMaterialError(
                    f"the server's public key is {found}, this client insists on {pinned} (pinned_key_fingerprint); "
                    "ask whoever runs the server whether the key was rotated"
                )
            scheme.check_proof(self._key_proof)
            self._public_scheme, self._public_key = scheme, public_key
            self.log.info("encrypting under the public key %s…", found[:16])
        return self._public_scheme

    def _load(self, parameters: list[NDArray[np.float32]]) -> None:
        """Put the global parameters into the model, if they fit it."""
        mine = [p.shape for p in get_parameters(self._model)]
        theirs = [p.shape for p in parameters]
        if mine != theirs:
            raise RoundRefusedError(
                f"the server's model has the shapes {theirs}, mine {mine}: num_features, num_hidden_units and "
                "num_classes must be the same on both sides"
            )
        if not all(p.dtype == np.float32 and np.isfinite(p).all() for p in parameters):
            raise RoundRefusedError("the server's model holds values that are not finite float32 numbers")
        set_parameters(self._model, parameters)

    def _answer(self, respond: Callable[[], Result], fail: Callable[[Status], Result]) -> Result:
        """Turn an error into a failed status: Flower would end the client's process at an exception.

        A masked client says a code of a closed list (`shared/refusals.py`). Of another the server learns the text of
        this project's own errors, and of the rest the name of their class: their text may quote the tenant's data.
        """
        try:
            return respond()
        except OrchestratorError as error:
            reason = f"{type(error).__name__}: {error}"
            self.log.error("%s", reason)
            code = code_of(error)
        except Exception as error:  # a bug or bad data; Flower would end the process, and the next round may go well
            reason = type(error).__name__
            self.log.exception("unexpected error, this round goes on without me")
            code = code_of(error)
        # The legacy protocol has no code for "failed"; any code but OK makes the server count a failure.
        return fail(Status(Code.FIT_NOT_IMPLEMENTED, code if self.config.masked else reason))


def _pickled(scheme: PublicScheme[Any], encrypted: Encrypted[Any], round_number: int, size: int, bucket: str) -> bytes:
    """Step 7: the list of ciphertexts, pickled."""
    header = Header(
        scheme=scheme.name,
        round=round_number,
        key=scheme.fingerprint(),
        size=size,
        encoding=vector_encoding(scheme, bucket),
    )
    return dump_update(header, scheme.to_bytes(encrypted.ciphertexts))
