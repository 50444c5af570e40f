"""A whole run over whatever transport: gather, scale, train, score, evaluate, commit, stop.

Each part that asks tenants is a generator of exchanges (`shared/exchange.py`). `Coordinator.run` drives them in memory;
Flower's strategy and server (`orchestrator/strategy.py`) drive the same generators in the two terminals.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

from orchestrator.checkpoint import save_checkpoint
from orchestrator.cohorts import choose, choose_masked
from orchestrator.global_model import GlobalModel
from orchestrator.grouped_round import GroupedRounds
from orchestrator.observers import Observer
from orchestrator.publishing import Publisher
from orchestrator.roll_back import RollBack
from orchestrator.round import Job, Sum, SumRounds
from orchestrator.round_figures import epsilon_so_far, note_privacy, note_sum
from orchestrator.run_folder import RoundRecord, RunFolder
from orchestrator.run_log import RunLog, farewell
from orchestrator.scaling import PrivateScaling
from orchestrator.transport import Transport
from shared.bundle import save_bundle
from shared.config import Config
from shared.errors import (
    EncodingError,
    EnrolmentError,
    NoSumError,
    OrchestratorError,
    RolledBackError,
    TooFewContributorsError,
)
from shared.evaluation_sum import EvaluationCode
from shared.exchange import Kind, Steps, drive
from shared.identity import digest_arrays, digest_model
from shared.learner import State
from shared.masking import EVALUATION, WEIGHTS
from shared.masking.errors import RoundAbandonedError
from shared.sum_proof import SumProof
from shared.task import training_settings

ROUNDS_WITHOUT_SUM = 3  # in a row, and the run stops
_NO_SUM = (TooFewContributorsError, EncodingError, RoundAbandonedError, EnrolmentError, RolledBackError)

_log = logging.getLogger("orchestrator")


class Coordinator:
    """Runs the rounds of one run.

    Args:
        config: the settings.
        rounds: make the sums.
        transport: reaches the tenants.
        model: the global model.
        scaling: the features' statistics.
        folder: where the run's files go.
        run_log: the chain of what happened, whose head the tenants are given.
        records: of the rounds that are finished when the run begins or goes on.
        observers: look on.
        publisher: shows the tenants that each sum was made truly; None: nobody is shown anything.
        groups: split each round of training into several sums; None: it is one.

    Attributes:
        record: what happened in the current round.
        records: of all finished rounds.
    """

    def __init__(
        self,
        config: Config,
        rounds: SumRounds,
        transport: Transport,
        model: GlobalModel,
        scaling: PrivateScaling,
        folder: RunFolder,
        run_log: RunLog,
        records: list[RoundRecord],
        observers: Observer,
        publisher: Publisher | None = None,
        groups: GroupedRounds | None = None,
    ) -> None:
        self._config, self._rounds, self._transport, self._groups = config, rounds, transport, groups
        self._seats = transport.seats
        self.model, self._scaling, self._folder, self._run_log = model, scaling, folder, run_log
        self._evaluation = EvaluationCode(config)
        self._started = 0.0  # when the round began, seconds of `time.perf_counter`
        self.records, self._observers = records, observers
        self._plan = model.privacy_plan
        self._roll_back = RollBack(config.gate_loss, model)
        self._publisher = publisher
        self.record = RoundRecord(round=0)

    def run(self) -> None:
        """All of it, by a transport that can be asked at any time.

        Raises:
            OrchestratorError: too few tenants came, their features can't be scaled, or several rounds in a row came to
                no sum.
        """
        self.prepare()
        for number in self.numbers():
            drive(self.train(number), self._transport.ask)
            self.score()
            drive(self.evaluate(number), self._transport.ask)
            self.commit()
            drive(self.publish(), self._transport.ask)

    def prepare(self) -> None:
        """Wait for the tenants, and scale their features unless an earlier start of the run has.

        Raises:
            OrchestratorError: too few tenants came, or their features can't be scaled.
        """
        c = self._config
        self._observers.began(self.records)
        if len(self.records) >= c.num_rounds or self.model.finished:
            return
        # All tenants are awaited once. One that is lost later must not stop the others.
        self._seats.gather(c.min_available_clients, c.client_wait_timeout)
        if self.model.preprocessing is None:
            self._seats.cut_off_revoked(self._transport)
            self.model.scale_by(drive(self._scaling.steps(), self._transport.ask))
            save_checkpoint(self._folder.checkpoint, self.model.checkpoint(self._folder.logged))

    def numbers(self) -> Iterator[int]:
        """The rounds that are left; ends early where training no longer helps.

        Raises:
            NoSumError: several rounds in a row came to no sum, so the next ones would not either.
        """
        first = len(self.records) + 1
        for number in range(first, self._config.num_rounds + 1):
            if self.model.finished:
                _log.info("%s: stopping", self.model.finished)
                break
            yield number
            self._check_progress(first)
        drive(farewell(self._run_log, self._seats.tenants()), self._transport.ask)
        self._observers.ended()
        if self.model.best_round:
            _log.info("the model that is kept is that of round %d, by validation loss", self.model.best_round)

    def train(self, number: int) -> Steps[None]:
        """Steps 2 to 12: choose tenants, have them train, and move the global model by the sum of what they send.

        Where the density is the detector nothing is trained: one round measures it, which was made before.
        """
        c = self._config
        self._started = time.perf_counter()
        record = self.record = RoundRecord(round=number)
        cohort: list[str] = []
        if self._plan is not None:  # whatever becomes of the round, the tenants pay for it when they are asked
            record.epsilon = epsilon_so_far(self._plan, number, self._run_log.resumed)
        if c.density_alone:
            record.contributor_ids, record.contributors = self._scaling.contributors, len(self._scaling.contributors)
            self.model.learner.skip()
            return
        try:
            yield from self.publish()  # to who came since the last round
            self._seats.cut_off_revoked(self._transport)
            job = self._training(number)
            least = max(c.min_fit_clients, c.fewest_contributors * (c.groups if not self.records else 1))
            cohort = self._choose(c.fraction_fit, least, number, WEIGHTS)
            if job.whom is not None:
                cohort = sorted(job.whom.intersection(cohort))
            state = self.model.learner.state()
            if self._groups is None:
                result = yield from self._rounds.steps(job, cohort, self._note_failure, self._publisher)
                self._run_log.note_sum(result.total)
                self.model.learner.step(result.total, result.contributors)
            else:
                result = yield from self._groups.steps(job, cohort, self.records, record, self._note_failure)
                self._run_log.note_sum(result.total)
            self._roll_back.judge(job.model, state)
        except _NO_SUM as error:
            self._skip(error, len(cohort))
            return
        self._write_proof(job, result, state)
        if self._plan is not None:
            note_privacy(record, result, len(cohort), c, self._plan, self.records)
        note_sum(record, result, len(cohort), masked=c.masked)

    def score(self) -> None:
        """Measure the global model on the orchestrator's own rows."""
        start = time.perf_counter()
        self.model.score(self.record)
        self.record.evaluate_seconds = time.perf_counter() - start

    def evaluate(self, number: int) -> Steps[None]:
        """Ask tenants for the global model's figures on their own held-out rows, in one encrypted sum.

        None if too few are there, or if there is nothing to ask: the round left the model as it was, or nothing is
        trained.
        """
        c, start = self._config, time.perf_counter()
        if c.fraction_evaluate == 0 or self.record.skipped is not None or c.density_alone:
            return
        needed = max(c.min_evaluate_clients, c.fewest_contributors)
        try:
            self._seats.cut_off_revoked(self._transport)
            if len(self._seats.tenants()) < needed:
                raise TooFewContributorsError(f"{len(self._seats.tenants())} clients are left, {needed} are needed")
            cohort = self._choose(c.fraction_evaluate, needed, number, EVALUATION)
            job = self._job(Kind.EVALUATE, EVALUATION, number, self._evaluation.size)
            result = yield from self._rounds.steps(job, cohort, self._note_silence)
            sums = self._evaluation.decode(result.total)
        except _NO_SUM as error:
            _log.warning("round %d: no evaluation by clients: %s", number, error)
            return
        record = self.record
        record.client_loss, record.client_accuracy = sums.loss / sums.rows, sums.correct / sums.rows
        record.client_rows = sums.rows
        record.evaluate_seconds = (record.evaluate_seconds or 0.0) + time.perf_counter() - start

    def commit(self) -> None:
        """End the round: the checkpoint is what makes it have happened.

        Before it comes the round's line, which without it does not count; after it what can be made again.
        """
        record = self.record
        record.round_seconds = time.perf_counter() - self._started
        line_sha256 = self._folder.append_record(record)
        self._run_log.append_round(record, line_sha256, digest_arrays(self.model.parameters))
        save_checkpoint(self._folder.checkpoint, self.model.checkpoint(self._folder.logged))
        self.records.append(record)
        self.write_results()
        loss, accuracy, area = (
            "-" if value is None else f"{value:.3f}" for value in (record.loss, record.accuracy, record.roc_auc)
        )
        _log.info(
            "round %d: loss %s, accuracy %s, ROC-AUC %s (%.1f s)",
            record.round, loss, accuracy, area, record.round_seconds,
        )  # fmt: skip
        self._observers.committed(record)

    def publish(self) -> Steps[None]:
        """Show the proof of the last finished sum to the tenants that have not seen it."""
        if self._publisher is not None:
            yield from self._publisher.steps(len(self.records))

    def _write_proof(self, job: Job, result: Sum, state: State) -> None:
        if self._publisher is None or result.opened is None:
            return
        opened = result.opened
        self._publisher.finish(
            SumProof(
                run=self._folder.name, session=self._seats.session, round_number=job.number,
                public_key=self._rounds.public_key, max_contributors=self._config.num_clients, scaler=self.model.scaler,
                before=job.model, bucket=job.bucket, state=state, after=digest_arrays(self.model.parameters),
                masks=opened.masks,
                plaintexts=opened.plaintexts, roots=opened.roots, contributions=len(result.contributors),
            )
        )  # fmt: skip

    def write_results(self) -> None:
        """What others read of the model so far: its tensors, and the bundle that makes it ready for use."""
        model = self.model
        self._folder.save_model(model.final)
        if self.records and model.preprocessing is not None:
            save_bundle(
                self._folder.path,
                self._config,
                model.preprocessing,
                model.final,
                model.validation_data,
                asdict(self.records[(model.best_round or len(self.records)) - 1]),
                self._folder.name,
            )

    def _training(self, number: int) -> Job:
        """The sum that the model learns by in this round."""
        scaler, settings, wanted = self.model.scaler, training_settings(self._config), self.model.learner.wanted()
        job = self._job(Kind.TRAIN, wanted.bucket, number, wanted.size)
        return replace(
            job,
            values={**settings, "scaler": scaler, **self._run_log.head.values()},
            settings=settings,
            whom=wanted.whom,
        )

    def _job(self, kind: Kind, bucket: str, number: int, size: int) -> Job:
        """A sum over what the tenants make of the present global model."""
        parameters, scaler = self.model.parameters, self.model.scaler
        about = digest_model(parameters, scaler)
        return Job(kind, bucket, number, size, about, {"scaler": scaler}, model=parameters)

    def _choose(self, fraction: float, at_least: int, number: int, bucket: str) -> list[str]:
        """A reproducible choice among the connected tenants, at most as many as a sum may hold.

        Raises:
            NetworkError: not enough of them within `client_wait_timeout`.
        """
        c = self._config
        tenants = self._seats.gather(at_least, c.client_wait_timeout)
        count = min(max(int(fraction * len(tenants)), at_least), len(tenants), c.num_clients)
        if c.masked:
            chosen = choose_masked(len(tenants), count, c.seed, number, c.fewest_contributors)
        else:
            chosen = choose(len(tenants), count, c.seed, number, stream=bucket == EVALUATION)
        return [tenants[index] for index in chosen][: c.num_clients]

    def _check_progress(self, first: int) -> None:
        last = self.records[first - 1 :][-ROUNDS_WITHOUT_SUM:]
        if len(last) < ROUNDS_WITHOUT_SUM or not all(record.skipped for record in last):
            return
        raise NoSumError(
            f"{ROUNDS_WITHOUT_SUM} rounds in a row came to no sum, the last because of: {last[-1].why_skipped()}; mend "
            "that, then go on with --resume"
        )

    def check_trained(self) -> None:
        """Look whether the run has come to anything, at its end.

        Raises:
            NoSumError: each of its rounds was skipped or rolled back, so the model is the one that it began with.
        """
        if self.records and all(record.skipped for record in self.records):
            raise NoSumError(
                f"no round changed the model, the last because of: {self.records[-1].why_skipped()}; mend that, then "
                "start anew, or go on with --resume and a larger num_rounds"
            )

    def _skip(self, error: OrchestratorError, failures: int) -> None:
        """End the round without a new global model."""
        self.record.skipped, self.record.failures = str(error), failures
        self.model.learner.skip()
        _log.warning("round %d skipped, the global model stays: %s", self.record.round, error)

    def _note_failure(self, tenant: str, reason: str) -> None:
        self.record.failed.setdefault(tenant, reason)
        _log.warning("round %d: client %s is left out: %s", self.record.round, tenant, reason)

    def _note_silence(self, tenant: str, reason: str) -> None:
        _log.warning("round %d, evaluation: client %s is left out: %s", self.record.round, tenant, reason)
