"""A round of training as several encrypted sums, over groups of tenants, and the rule that makes one step of them.

What a single tenant sends stays hidden in its group's sum. So a rule can't leave out a tenant, but it can leave out a
group, and the groups of several draws together tell who spoils them (`orchestrator/cornering.py`).

Sources: median and trimmed mean by coordinate, Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed
Learning: Towards Optimal Statistical Rates", ICML 2018; a rule over sums of random groups, Velicheti, Xia, Koyejo,
"Secure Byzantine-Robust Distributed Learning via Clustering" (SHARE), arXiv 2110.02940; by the loss on the server's own
rows, Xie, Koyejo, Gupta, "Zeno", ICML 2019.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.cornering import left_out
from orchestrator.drawing import Drawing
from orchestrator.global_model import GlobalModel
from orchestrator.round import Job, Sum, SumRounds
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.errors import EncodingError, OrchestratorError, RolledBackError, TooFewContributorsError
from shared.exchange import Steps, Values, together
from shared.he.scheme import Vector
from shared.identity import identity_name
from shared.learner import AveragedDeltas, State

TRIMMED = 0.25  # share of the groups that a trimmed mean leaves out at either end, one at least

_log = logging.getLogger("orchestrator")


@dataclass(frozen=True)
class _Mean:
    """What one group moves the model by.

    Attributes:
        group: which one.
        result: its sum.
        delta: the mean of its tenants' deltas.
        loss: of the model that it alone would lead to, on the validation rows; 0 where nobody asks for it.
    """

    group: int
    result: Sum
    delta: Vector
    loss: float


class GroupedRounds:
    """Makes rounds of group sums.

    Args:
        config: the settings.
        rounds: make the sums.
        drawing: of the groups.
        model: the global model.
    """

    def __init__(self, config: Config, rounds: SumRounds, drawing: Drawing, model: GlobalModel) -> None:
        if not isinstance(model.learner, AveragedDeltas):
            raise TypeError("groups are for models that learn by deltas")
        self._config, self._rounds, self._drawing, self._model = config, rounds, drawing, model
        self._learner = model.learner
        self._fixed = False  # the groups can't be drawn anew any more

    def steps(
        self,
        job: Job,
        tenants: Sequence[str],
        records: Sequence[RoundRecord],
        record: RoundRecord,
        note_failure: Callable[[str, str], None],
    ) -> Steps[Sum]:
        """Make the sums and move the model by them.

        Args:
            job: what is asked for.
            tenants: whom, but for those that were left out before.
            records: of the rounds before.
            record: of this round; takes the groups.
            note_failure: takes a tenant and why its vector is in no sum.

        Returns:
            The sum of what it took, with the rule's mean for a total, over the tenants of the groups that count.

        Raises:
            TooFewContributorsError: no group came to a sum.
            EncodingError: the groups that count lead to no model.
            RolledBackError: each group makes the model worse by more than `gate_loss`.
        """
        record.left_out = left_out(records)
        present = [tenant for tenant in tenants if tenant not in record.left_out]
        yield from self._draw(present, records, record, note_failure)
        partition = self._drawing.partition
        if partition is None:
            raise TooFewContributorsError("no groups were drawn")
        record.draw = partition.seed.hex()
        record.groups = [[] for _ in partition.groups]
        for tenant in present:
            record.groups[partition.group_of(identity_name(tenant))].append(tenant)
        sums = {
            str(number): self._rounds.steps(
                replace(job, group=partition.label(number), opening=self._drawing.shown, shown=False),
                cohort,
                note_failure,
            )
            for number, cohort in enumerate(record.groups)
            if len(cohort) >= self._config.fewest_contributors
        }
        _log.info("round %d: %d groups train, %d clients", job.number, len(sums), len(present))
        found = yield from together(sums, (OrchestratorError,))
        return self._combine(job, record, {int(number): result for number, result in found.items()})

    def _draw(
        self,
        present: Sequence[str],
        records: Sequence[RoundRecord],
        record: RoundRecord,
        note_failure: Callable[[str, str], None],
    ) -> Steps[None]:
        """Draw the groups, where there are none yet, or a bad tenant has to be cornered, or is out."""
        last = records[-1] if records else None
        # A sum of the very same work over others would show who changed: only after a step of the model.
        spoilt = last is not None and bool(last.bad_groups) and last.skipped is None
        named = last is not None and record.left_out != last.left_out
        if named:
            _log.warning(
                "client %s: left out of the rest of the run: its groups' sums were bad in each of several draws",
                ", ".join(t for t in record.left_out if last is None or t not in last.left_out),
            )
        first = self._drawing.partition is None
        if not (first or named or (spoilt and self._drawing.left > 0 and not self._fixed)):
            return
        try:
            yield from self._drawing.steps(present, note_failure)
        except TooFewContributorsError as error:
            if first:
                raise
            self._fixed = True
            _log.warning("the groups stay as they are: %s", error)

    def _combine(self, job: Job, record: RoundRecord, found: Mapping[int, Sum | Exception]) -> Sum:
        c = self._config
        means = self._means(job, record, found)
        bad = self._note_worse(record, means)
        if c.group_rule == "validation" and means and len(bad) == len(means):
            raise RolledBackError("rolled back: each group's sum makes the model worse, by more than gate_loss")
        count = [mean for mean in means if c.group_rule != "validation" or mean.group not in bad]
        if not count:
            raise TooFewContributorsError("no group came to a sum that counts")
        total = combine(c.group_rule, [mean.delta for mean in count], [len(mean.result.contributors) for mean in count])
        self._learner.move(total)
        return _merged(total, [mean.result for mean in count])

    def _means(self, job: Job, record: RoundRecord, found: Mapping[int, Sum | Exception]) -> list[_Mean]:
        """Of the groups that came to a sum that honest tenants can have."""
        before, state = job.model, self._learner.state()
        means: list[_Mean] = []
        for group, result in sorted(found.items()):
            try:
                if isinstance(result, Exception):
                    raise result
                delta = self._learner.mean(result.total, len(result.contributors))
            except EncodingError as error:
                self._note_bad(record, group, str(error))
            except OrchestratorError as error:
                _log.warning("round %d, group %d: no sum: %s", record.round, group + 1, error)
            else:
                loss = self._loss(delta, before, state) if self._config.gate_loss else 0.0
                means.append(_Mean(group, result, delta, loss))
        return means

    def _note_worse(self, record: RoundRecord, means: Sequence[_Mean]) -> set[int]:
        """The groups that `gate_loss` speaks against: beside the model as it is, or beside the better half of them.

        While the model still learns, a group that holds it back lowers the loss all the same.
        """
        gate = self._config.gate_loss
        if not gate or not means:
            return set()
        better_half = sorted(mean.loss for mean in means)[(len(means) - 1) // 2]
        limit = min(self._model.validation_loss(), better_half) + gate
        worse = {mean.group: mean.loss for mean in means if not mean.loss <= limit}
        for group, loss in worse.items():
            self._note_bad(record, group, f"the loss on the validation rows would be {loss:.3f}, more than {limit:.3f}")
        return set(worse)

    def _loss(self, delta: Vector, before: list[np.ndarray], state: State) -> float:
        """Of the model that this group alone would lead to; infinite where it leads to none."""
        self._learner.move(delta)
        loss = self._model.validation_loss()
        self._model.roll_back(before, state)
        return loss if np.isfinite(loss) else float("inf")

    def _note_bad(self, record: RoundRecord, group: int, why: str) -> None:
        record.bad_groups = sorted({*record.bad_groups, group})
        _log.warning(
            "round %d: a bad sum of group %d, clients %s: %s",
            record.round, group + 1, ", ".join(record.groups[group]), why,
        )  # fmt: skip


def combine(rule: str, means: Sequence[Vector], tenants: Sequence[int]) -> Vector:
    """One step of several groups' means, (size,).

    Args:
        rule: `median` or `trimmed_mean`, both of each coordinate; any other: the mean over all their tenants.
        means: of the groups that count, one at least.
        tenants: of each of them.
    """
    stacked = np.stack(means)
    if rule == "median":
        return np.asarray(np.median(stacked, axis=0))
    if rule == "trimmed_mean" and len(means) > 2:
        cut = max(1, int(TRIMMED * len(means)))
        return np.asarray(np.sort(stacked, axis=0)[cut : len(means) - cut].mean(axis=0))
    return np.asarray(np.average(stacked, axis=0, weights=tenants))


def _merged(total: Vector, sums: Sequence[Sum]) -> Sum:
    """The sums of groups that ran side by side, as one."""
    said: dict[str, Values] = {}
    for one in sums:
        said.update(one.said)
    return Sum(
        total,
        sorted(tenant for one in sums for tenant in one.contributors),
        said,
        max(one.payload_bytes for one in sums),
        max(one.wait_seconds for one in sums),
        sum(one.add_seconds for one in sums),
        sum(one.decrypt_seconds for one in sums),
    )
