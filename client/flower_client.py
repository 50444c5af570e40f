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
from client.training import TrainingSettings, train
from shared.config import CLASS_BALANCES, Config
from shared.console import add_log_file, check_run_name, track
from shared.data_utils import ClientData
from shared.errors import KeyMaterialError, OrchestratorError, RefusedByServerError, RoundRefusedError
from shared.he_utils import Encrypted, PublicScheme, no_progress, public_scheme
from shared.identity import ClientIdentity, UpdateStatement, digest_model
from shared.masking import WEIGHTS
from shared.metrics import evaluate
from shared.model import build_model, flatten, get_parameters, set_parameters
from shared.weighting import encrypted_size, weigh
from shared.wire import Header, dump_update, vector_encoding, wrap_array

_OK = Status(Code.OK, "")

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Update:
    payload: bytes
    train_seconds: float
    encrypt_seconds: float
    saturated: int
    signature: dict[str, Scalar]  # the signed statement, where this client has an identity


class TenantClient(Client):
    """One tenant. Its rows never leave this object; its model update leaves it encrypted alone."""

    def __init__(
        self, config: Config, client_id: int, data: ClientData, identity: ClientIdentity | None = None
    ) -> None:
        self.config = config
        self.client_id = client_id
        self.log = logging.getLogger(f"client.{client_id}")
        self.welcome = False  # whether the server has taken this client on this connection
        self._data = ScaledData(config, data)
        self._identity = identity
        self._aggregation = make_aggregation(config, identity)
        self._session = ""
        self._model = build_model(config)
        self._run = ""
        self._public_key = b"none yet"
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
            properties: dict[str, Scalar] = {"client_id": self.client_id}
            if self._identity is not None:
                self._session = _text(ins.config, "session")
                properties["signature"] = self._identity.sign_greeting(self._session, _bytes(ins.config, "nonce"))
            return GetPropertiesRes(_OK, properties)

        return self._answer(greet, lambda status: GetPropertiesRes(status, {}))

    def fit(self, ins: FitIns) -> FitRes:
        """One round of training."""

        def respond() -> FitRes:
            update = self._update(ins)
            metrics: dict[str, Scalar] = {
                "train_seconds": update.train_seconds,
                "encrypt_seconds": update.encrypt_seconds,
                **update.signature,
            }
            if not self.config.masked:  # it is a figure of this one update, which masks are there to hide
                metrics["saturated"] = update.saturated
            # num_examples travels in the clear, so it says nothing: how many rows a tenant has is its own affair.
            return FitRes(_OK, ndarrays_to_parameters([wrap_array(update.payload)]), num_examples=1, metrics=metrics)

        return self._answer(respond, lambda status: FitRes(status, Parameters([], ""), 0, {}))

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        """The global model on rows of this client's own that it never trains on."""

        def respond() -> EvaluateRes:
            self._load(parameters_to_ndarrays(ins.parameters))
            _, holdout = self._data.scaled(_bytes(ins.config, "scaler"))
            metrics = evaluate(self._model, holdout)
            self.log.info("global model on my held-out rows: accuracy %.3f, loss %.3f", metrics.accuracy, metrics.loss)
            return EvaluateRes(_OK, loss=metrics.loss, num_examples=1, metrics={"accuracy": metrics.accuracy})

        return self._answer(respond, lambda status: EvaluateRes(status, 0.0, 0, {}))

    def _answer_stage(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """The feature statistics, or one stage of a masked round: bytes in, bytes out."""
        stage = _text(config, "stage")
        if stage == "statistics":
            return self._statistics(config)
        payload = _bytes(config, "payload")
        if stage != "advertise":
            return {"payload": self._aggregation.answer(stage, payload)}
        size = encrypted_size(sum(p.size for p in get_parameters(self._model)), self.config.weighting)
        sizes = {WEIGHTS: size, **self._data.sizes}
        return {"payload": self._aggregation.enter(payload, self._scheme(config), sizes)}

    def _statistics(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """What this client adds to a sum over its features, encrypted."""
        statistic, attempt = _text(config, "statistic"), _integer(config, "round")
        self._check_cohort(config)
        scheme = self._scheme(config)
        schema, scaler = _text(config, "schema"), _bytes(config, "scaler")
        vector, about = self._data.vector(statistic, self._run, schema, scaler)
        boxes = config.get("boxes")
        encrypted = self._aggregation.encrypt(scheme, vector, attempt, boxes, no_progress, statistic)
        payload = _seal(scheme, encrypted, attempt, len(vector), statistic)
        self.log.info("sending my features' %s, encrypted: %s bytes", statistic, f"{len(payload):,}")
        return {"payload": payload, **self._sign(config, attempt, scheme.fingerprint(), about, payload)}

    def _update(self, ins: FitIns) -> _Update:
        round_number = _integer(ins.config, "round")
        settings = _training_settings(ins.config)
        self._check_cohort(ins.config)
        scaler = _bytes(ins.config, "scaler")
        rows, _ = self._data.scaled(scaler)
        self.log.info("round %d: training, local epochs: %d", round_number, settings.local_epochs)

        received = parameters_to_ndarrays(ins.parameters)
        self._load(received)
        scheme = self._scheme(ins.config)
        size = encrypted_size(sum(p.size for p in received), self.config.weighting)
        scheme.prepare(size)  # what the encryption needs and the delta doesn't is made while the model trains

        start = time.perf_counter()
        with track(self.log, "local epochs", settings.local_epochs) as on_epoch:
            train(self._model, rows, settings, (self.config.seed, self.client_id, round_number), on_epoch)
        train_seconds = time.perf_counter() - start

        delta = flatten(get_parameters(self._model)) - flatten(received)  # (size,)

        start = time.perf_counter()
        with track(self.log, "encrypting", scheme.layout(size)[0]) as progress:
            weighted = weigh(delta, self._data.examples, self.config, scheme)
            encrypted = self._aggregation.encrypt(scheme, weighted, round_number, ins.config.get("boxes"), progress)
        payload = _seal(scheme, encrypted, round_number, size, WEIGHTS)
        encrypt_seconds = time.perf_counter() - start

        if encrypted.saturated:
            self.log.warning("round %d: %d values of the delta saturated", round_number, encrypted.saturated)
        self.log.info(
            "round %d: trained in %.2f s, encrypted in %.2f s, sending %s bytes",
            round_number, train_seconds, encrypt_seconds, f"{len(payload):,}",
        )  # fmt: skip
        scheme.prepare(size)  # for the next round, while the orchestrator works on this one
        trained_from = digest_model(received, scaler)
        signature = self._sign(ins.config, round_number, scheme.fingerprint(), trained_from, payload)
        return _Update(payload, train_seconds, encrypt_seconds, encrypted.saturated, signature)

    def _check_cohort(self, config: dict[str, Scalar]) -> None:
        """Refuse to be in a sum of too few."""
        cohort = _integer(config, "cohort")
        if cohort < self.config.fewest_contributors:
            raise RoundRefusedError(
                f"the server asks {cohort} clients in this round; with fewer than {self.config.fewest_contributors} "
                "(min_contributors) the sum would show too much of mine"
            )

    def _sign(
        self, config: dict[str, Scalar], round_number: int, key_fingerprint: str, about: str, payload: bytes
    ) -> dict[str, Scalar]:
        """Sign for what this update answers; nothing where this client has no identity."""
        if self._identity is None:
            return {}
        statement = UpdateStatement(
            run_id=self._session,
            server_round=round_number,
            nonce=_bytes(config, "nonce"),
            client_id=self._identity.client_id,
            key_fingerprint=key_fingerprint,
            model_sha256=about,
            payload_sha256=hashlib.sha256(payload).hexdigest(),
        )
        return {"statement": statement.to_bytes(), "signature": self._identity.sign(statement)}

    def _scheme(self, config: dict[str, Scalar]) -> PublicScheme[Any]:
        """The scheme under the server's key; its tables are kept for as long as the key stays."""
        public_key = _bytes(config, "public_key")
        if self._public_key != public_key:
            scheme = public_scheme(self.config, public_key, _integer(config, "max_contributors"))
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
            scheme.check_proof(config.get("key_proof"))
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

        The server learns the text of this project's own errors, and of others nothing but the name of their class:
        their text may quote the tenant's data.
        """
        try:
            return respond()
        except OrchestratorError as error:
            reason = f"{type(error).__name__}: {error}"
            self.log.error("%s", reason)
        except Exception as error:  # a bug or bad data; Flower would end the process, and the next round may go well
            reason = type(error).__name__
            self.log.exception("unexpected error, this round goes on without me")
        # The legacy protocol has no code for "failed"; any code but OK makes the server count a failure.
        return fail(Status(Code.FIT_NOT_IMPLEMENTED, reason))


def _seal(scheme: PublicScheme[Any], encrypted: Encrypted[Any], round_number: int, size: int, bucket: str) -> bytes:
    """Step 7: the list of ciphertexts, pickled."""
    header = Header(
        scheme=scheme.name,
        round=round_number,
        key=scheme.fingerprint(),
        size=size,
        encoding=vector_encoding(scheme, bucket),
    )
    return dump_update(header, scheme.to_bytes(encrypted.ciphertexts))


def _training_settings(config: dict[str, Scalar]) -> TrainingSettings:
    learning_rate = config.get("learning_rate")
    if type(learning_rate) is not float or not 0 < learning_rate <= 100:
        raise RoundRefusedError(f"the server asks for learning_rate = {learning_rate!r}; expected 0 to 100")
    proximal_mu, class_balance = config.get("proximal_mu"), config.get("class_balance")
    if type(proximal_mu) is not float or not 0 <= proximal_mu <= 100:
        raise RoundRefusedError(f"the server asks for proximal_mu = {proximal_mu!r:.80}; expected 0 to 100")
    if type(class_balance) is not str or class_balance not in CLASS_BALANCES:
        raise RoundRefusedError(
            f"the server asks for class_balance = {class_balance!r:.80}; expected one of {', '.join(CLASS_BALANCES)}"
        )
    return TrainingSettings(
        _integer(config, "local_epochs"), _integer(config, "batch_size"), learning_rate, proximal_mu, class_balance
    )


def _integer(config: dict[str, Scalar], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= 1_000_000:
        raise RoundRefusedError(f"the server sent {key} = {value!r:.80}; expected a whole number from 1 to 1,000,000")
    return value


def _text(config: dict[str, Scalar], key: str) -> str:
    value = config.get(key)
    if type(value) is not str:
        raise RoundRefusedError(f"the server sent no {key}; is it of the same version?")
    return value


def _bytes(config: dict[str, Scalar], key: str) -> bytes:
    value = config.get(key)
    if type(value) is not bytes:
        raise RoundRefusedError(f"the server sent no {key}; is it of the same version?")
    return value
