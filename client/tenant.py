"""One tenant: what it answers to each request. Steps 4 to 8 of the flow read from top to bottom in `_train`.

Free of Flower; `client/flower_client.py` carries requests and answers.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from client.auditing import Accepted
from client.audits import Audits, most_bytes
from client.budget import Budget
from client.learning import Learning, make_learning
from client.log_heads import LogHeads
from client.policy_keeper import PolicyKeeper, Sum
from client.private_sum import make_part
from client.private_training import NoisyGradients
from client.request_values import check_training, data, integer, text
from client.run_logs import RunLogs
from client.scaled_rows import ScaledRows
from client.sealing import Sealed, Sealer
from client.server_key import Schemes, ServerKey, checked_scheme
from shared.config import Config
from shared.console import check_run_name, track
from shared.data_sources.dataset import ClientData
from shared.errors import OrchestratorError, Reason, RoundRefusedError
from shared.evaluation_sum import EvaluationCode, EvaluationSums
from shared.exchange import OFF, Kind, Model, Refusal, Reply, Request, Value, Values
from shared.feature_statistics import WORKS
from shared.frames import decode_values, encode_values
from shared.he.scheme import PublicScheme, Vector
from shared.identity import ClientIdentity, digest_model
from shared.masking import EVALUATION, RoundTerms
from shared.metrics import evaluate
from shared.model import build_model, get_parameters, set_parameters
from shared.refusals import code_of
from shared.task import Task, training_settings

# What outlives a request, but for rows, model and scheme, which are the same in whatever process; by attribute.
_STATE: Values = {"_run": "", "refusal": ""}


class Tenant:
    """One tenant. Its rows never leave this object; its model update leaves it encrypted alone.

    Attributes:
        model: what it trains.
        answered: rounds of training that it took part in.
        refusal: why it refused the last round that it was asked for; empty if it did not.
        channel: the name of its TLS connection, which its greeting is signed for; empty without one.
    """

    def __init__(
        self,
        config: Config,
        client_id: int,
        rows: ClientData,
        identity: ClientIdentity | None = None,
        schemes: Schemes | None = None,
        *,
        log_file: bool = True,
    ) -> None:
        """Prepare for the first request.

        Args:
            config: this tenant's own settings.
            client_id: its number.
            rows: its own rows, raw.
            identity: what it signs with; None where nothing is signed.
            schemes: makes the scheme under the server's key, and checks the key's proof unless that was done before.
            log_file: whether its lines go to the run's folder as well.

        Raises:
            ConfigError: its policy is not to be had.
            EnrolmentError, KeyMaterialError, BrokenRuleError: masked, and what that needs is not to be had.
        """
        self.config = config
        self.client_id = client_id
        self.log = logging.getLogger(f"client.{client_id}")
        self.answered = 0
        self.refusal = ""
        self.channel = b""
        self._rows = ScaledRows(config, rows)
        self._part = make_part(config, identity)
        self._sealer = Sealer(identity, self._part)
        self._audits = Audits(config, identity.client_id, self.log) if config.audit and identity is not None else None
        self.model = build_model(config)
        self._policy = PolicyKeeper.of(config, client_id, sum(p.size for p in get_parameters(self.model)))
        self._budget = Budget(config, f"client-{client_id}") if config.privacy != "none" else None
        self._learning: Learning = (
            make_learning(config, client_id, self.model, self._rows)
            if self._budget is None
            else NoisyGradients(config, self.model, self._rows, self._budget, self._part.sharers)
        )
        self._evaluation = EvaluationCode(config)
        self._run = ""
        self._heads = LogHeads(config, client_id, self.log)
        self._run_logs = RunLogs(config, client_id, self.log) if log_file else None
        self._key = ServerKey(config, schemes or checked_scheme, self._policy, self.log)

    def close(self) -> None:
        """Give what this tenant remembers back to its next process."""
        self._part.close()

    def pin(self, fingerprints: tuple[str, ...]) -> None:
        """Encrypt under one of these keys alone, as `pinned_key_fingerprint` of the settings has them."""
        self._key.pin(fingerprints)

    def suspend(self) -> bytes:
        """Close, and return what this tenant needs to go on in another process; nothing of it may go to another party.

        For an engine that starts a process for each request. In the middle of a masked sum the bytes hold its secrets.
        """
        state = {name: getattr(self, name) for name in _STATE}
        known: Values = {
            "session": self._sealer.session, "key_proof": self._key.proof, "proven": self._key.proven,
            "part": self._part.suspend(),
        }  # fmt: skip
        return encode_values({**state, **known})

    def resume(self, suspended: bytes) -> None:
        """Go on where `suspend` stopped, whatever this object has done since; empty: as at the start.

        Raises:
            OrchestratorError: not what `suspend` returned, or the tenant's memory is not to be had.
        """
        start: Values = {**_STATE, "session": "", "key_proof": b"", "proven": "", "part": b""}
        state = decode_values(suspended) if suspended else start
        for name in _STATE:
            setattr(self, name, state[name])
        self._sealer.session = text(state, "session")
        self._key.proof, self._key.proven = state["key_proof"], text(state, "proven")
        self._part.resume(data(state, "part"))

    def answer(self, request: Request) -> Reply | Refusal:
        """Do what is asked for, or say why not; never an exception, which would end the tenant.

        A masked tenant says a code of a closed list (`shared/refusals.py`). Of another the server learns the text of
        this project's own errors, and of the rest the name of their class: their text may quote the tenant's rows.
        """
        steps: dict[Kind, Callable[[Request], Reply]] = {
            Kind.GREET: self._greet,
            Kind.DISMISS: self._dismissed,
            Kind.STATISTICS: self._statistics,
            Kind.ADVERTISE: self._advertise,
            Kind.TRAIN: self._train,
            Kind.EVALUATE: self._evaluate,
            Kind.AUDIT: self._audit,
            Kind.LOG_HEAD: self._log_head,
        }
        try:
            return steps.get(request.kind, self._later_stage)(request)
        except OrchestratorError as error:
            reason = error.coded
            self.log.error("%s", reason)
            code = code_of(error)
        except OSError as error:  # such as a full disk; the next round may go well
            reason = type(error).__name__
            self.log.error("%s; make room, or mend what it names: until then this tenant is left out", error)
            code = code_of(error)
        except Exception as error:  # a bug or bad data; the next round may go well
            reason = type(error).__name__
            self.log.exception("unexpected error, this round goes on without me")
            code = code_of(error)
        said = code if self.config.masked else reason
        if request.kind is Kind.TRAIN:
            self.refusal = said
        return Refusal(said)

    def _greet(self, request: Request) -> Reply:
        """The server names its run; the tenant says who it is."""
        run = check_run_name(request.values.get("run"))
        if run != self._run:
            if self._run_logs is not None:
                self._run_logs.enter(run)
            self.log.info("found run %s; %d rows to train on", run, self._rows.examples)
            self._run = run
        self._key.proof = request.values.get("key_proof", b"")
        return Reply(b"", {"client_id": self.client_id, **self._sealer.greeting(request.values, self.channel)})

    def _dismissed(self, request: Request) -> Reply:
        """The server takes no part of this tenant's, and says why."""
        self.log.error("the server refuses this client: %.300r", request.values.get("reason"))
        return Reply(b"")

    def _statistics(self, request: Request) -> Reply:
        """What this tenant adds to a sum over its features, encrypted."""
        asked = request.values
        statistic, scaler = text(asked, "statistic"), data(asked, "scaler")
        self._check_cohort(asked, Sum.STATISTICS)
        scheme = self._key.scheme(asked)
        about = self._rows.about(statistic, text(asked, "schema"), scaler)
        noise = self._rows.noise(statistic, self._budget, self._part.sharers)
        vector = self._or_zeros(lambda: self._rows.vector(statistic, scaler) + noise, noise)
        task = Task(statistic, about, scheme.fingerprint(), integer(asked, "max_contributors"))
        bucket = WORKS.get(statistic, statistic)
        # A statistic of the same rows under another scaler is no other statistic: a difference would show as much.
        work = replace(task, bucket=bucket).work(self._rows.digest, fixed_about=True)
        sealed = self._seal(asked, scheme, vector, task, work)
        self.log.info("sending my features' %s, encrypted: %s bytes", statistic, f"{len(sealed.payload):,}")
        return Reply(sealed.payload, sealed.signature)

    def _advertise(self, request: Request) -> Reply:
        """Stage 0 of a masked sum, of one of the vectors that this tenant has."""
        sizes = {**self._learning.sizes, EVALUATION: self._evaluation.size, **self._rows.sizes}
        announcement, scheme = data(request.values, "payload"), self._key.scheme(request.values)
        if self.config.masked:  # out of the sum before it began, so that the others need no shares for this tenant
            terms = RoundTerms.decode(announcement)
            self._policy.check(self._kind(terms.bucket), terms.n_min)
        if self._audits is not None:
            self._audits.enter(self._run)
        return Reply(self._part.enter(announcement, scheme, sizes, request.values))

    def _kind(self, bucket: str) -> Sum:
        if bucket == EVALUATION:
            return Sum.EVALUATION
        return Sum.STATISTICS if bucket in self._rows.sizes else Sum.TRAINING

    def _later_stage(self, request: Request) -> Reply:
        return Reply(self._part.answer(request.kind, data(request.values, "payload")))

    def _train(self, request: Request) -> Reply:
        """Steps 4 to 7: the encrypted vector, and the seconds that it took where they may be known."""
        asked, round_number = request.values, integer(request.values, "round")
        check_training(asked, self.config)
        self._check_cohort(asked, Sum.TRAINING)
        self._policy.check_run_log(self._heads.take(self._run, asked))
        scaler = data(asked, "scaler")
        self._load(request.model)
        if self._audits is not None:
            self._audits.check_start(self._run, request.model, round_number)
        scheme = self._key.scheme(asked)
        mine = self._learning.contribution(round_number, request.model, scaler, scheme)
        size = mine.nothing.size
        scheme.prepare(size)  # what the encryption needs and the vector doesn't is made during the training
        self.log.info("round %d: training, %s", round_number, mine.title)
        start = time.perf_counter()

        def compute() -> Vector:
            with track(self.log, mine.title.partition(":")[0], mine.epochs) as on_epoch:
                return mine.compute(on_epoch)

        vector = self._or_zeros(compute, mine.nothing)
        trained = time.perf_counter()
        task = Task(
            mine.bucket, digest_model(request.model, scaler), scheme.fingerprint(), integer(asked, "max_contributors"),
            training_settings(self.config), self._part.group,
        )  # fmt: skip
        bucket, about = mine.work or (task.bucket, task.about)
        work = replace(task, bucket=bucket, about=about).work(self._rows.digest)
        with track(self.log, "encrypting", scheme.layout(size).ciphertexts) as progress:
            sealed = self._seal(asked, scheme, vector, task, work, progress)
        encrypted = time.perf_counter()
        if sealed.saturated:
            self.log.warning("round %d: %d values of the vector saturated", round_number, sealed.saturated)
        self.log.info(
            "round %d: trained in %.2f s, encrypted in %.2f s, sending %s bytes",
            round_number, trained - start, encrypted - trained, f"{len(sealed.payload):,}",
        )  # fmt: skip
        scheme.prepare(size)  # for the next round, while the orchestrator works on this one
        self.answered, self.refusal = self.answered + 1, ""
        figures: dict[str, Value] = {}
        if not self.config.masked:  # figures of this one tenant, which masks are there to hide
            figures = {
                "train_seconds": trained - start, "encrypt_seconds": encrypted - trained, "saturated": sealed.saturated,
            }  # fmt: skip
        return Reply(sealed.payload, {**sealed.signature, **figures})

    def _evaluate(self, request: Request) -> Reply:
        """The sums over this tenant's held-out rows, encrypted."""
        asked = request.values
        if self.config.fraction_evaluate == 0:
            raise RoundRefusedError("this client evaluates no model (fraction_evaluate: 0)", Reason.NO_EVALUATION)
        if self.refusal:
            raise RoundRefusedError(
                "this client refused the round, so it does not evaluate its model either", Reason.NO_EVALUATION
            )
        self._check_cohort(asked, Sum.EVALUATION)
        scheme, scaler = self._key.scheme(asked), data(asked, "scaler")
        self._load(request.model)
        _, holdout = self._rows.scaled(scaler)

        def sums() -> Vector:
            metrics = evaluate(self.model, holdout)
            self.log.info("global model on my held-out rows: accuracy %.3f, loss %.3f", metrics.accuracy, metrics.loss)
            rows = len(holdout)
            return self._evaluation.encode(EvaluationSums(metrics.loss * rows, round(metrics.accuracy * rows), rows))

        vector = self._or_zeros(sums, np.zeros(self._evaluation.size))
        about = digest_model(request.model, scaler)
        task = Task(EVALUATION, about, scheme.fingerprint(), integer(asked, "max_contributors"))
        sealed = self._seal(asked, scheme, vector, task, task.work(self._rows.digest))
        return Reply(sealed.payload, sealed.signature)

    def _audit(self, request: Request) -> Reply:
        """A piece of the proof of a round's sum."""
        if self._audits is None:
            return Reply(b"", {"verdict": OFF})
        most = most_bytes(self.config, max(self._learning.sizes.values()), get_parameters(self.model))
        said = self._audits.take(self._run, request.values, most, Accepted(self._key.scheme_of, self._rows.schema))
        return Reply(b"", said)

    def _log_head(self, request: Request) -> Reply:
        """The last head of the server's run log."""
        self._heads.take(self._run, request.values)
        return Reply(b"")

    def _or_zeros(self, compute: Callable[[], Vector], nothing: Vector) -> Vector:
        """What this tenant computes from its rows. If that fails, a masked tenant sends nothing's vector instead.

        Whether it fails depends on the rows. A tenant that then said so, or stayed silent, would answer a question
        about them; and by now its peers have shares of its masks, so it goes on like everybody else.
        """
        try:
            return compute()
        except Exception:  # whatever it is, it is about the rows
            if not self.config.masked:
                raise
            self.log.exception("nothing of mine goes into this sum; to the others it looks like any other answer")
            return nothing

    def _seal(self, asked: Values, scheme: PublicScheme[Any], vector: Vector, task: Task, *how: Any) -> Sealed:
        """Count it against the policy, and make of it what leaves."""
        self._policy.count(self._kind(task.bucket))
        return self._sealer.seal(asked, scheme, vector, task, *how)

    def _check_cohort(self, asked: Values, kind: Sum) -> None:
        """Refuse to be in a sum of too few, or of what this tenant's policy is against."""
        cohort = integer(asked, "cohort")
        self._policy.check(kind, cohort)
        if cohort < self.config.fewest_contributors:
            raise RoundRefusedError(
                f"the server asks {cohort} clients in this round; with fewer than {self.config.fewest_contributors} "
                "(min_contributors) the sum would show too much of mine"
            )

    def _load(self, model: Model) -> None:
        """Put the global parameters into the model, if they fit it."""
        mine = [p.shape for p in get_parameters(self.model)]
        theirs = [p.shape for p in model]
        if mine != theirs:
            raise RoundRefusedError(
                f"the server's model has the shapes {theirs}, mine {mine}: num_features, num_hidden_units, "
                "num_classes and the code of model must be the same on both sides"
            )
        if not all(p.dtype == np.float32 and np.isfinite(p).all() for p in model):
            raise RoundRefusedError("the server's model holds values that are not finite float32 numbers")
        set_parameters(self.model, model)
