"""An orchestrator that holds the key and changes its code, against real tenants: each attack fails, and its twin works.

The attacks drive the real coordinator and real tenants, with function calls in the place of a network. In each twin one
rule is taken out of the tenants, and the same attack shows one tenant's numbers: so the rule is what holds.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import learning
from client import tenant as tenant_module
from client.tenant import Tenant
from client.training import TrainingSettings, train
from orchestrator.provision import revoke_client
from shared.data_sources.scaling import FeatureSums, Scaler
from shared.data_utils import load_client_data, load_schema
from shared.errors import StatisticsError
from shared.exchange import Kind, Refusal, Reply, Request, Steps, drive
from shared.feature_statistics import HISTOGRAM, MOMENTS, QUANTILES
from shared.he.scheme import Vector
from shared.masking import RoundMemory
from shared.model import flatten, get_parameters
from shared.preprocessing import FeatureCounts, Preprocessing
from shared.refusals import SENTENCES
from shared.task import Task
from tests.federations import Tapped, make_tenants, masked_settings, open_in_memory

TENANTS = ("0", "1", "2", "3")
VICTIM = "3"
STEP = 2.0**-16
SMALL: dict[str, Any] = {
    "num_features": 4, "num_hidden_units": 3, "num_samples_per_client": 40, "batch_size": 1000, "local_epochs": 1,
    "stage_timeout": 5.0, "min_fit_clients": 3, "client_wait_timeout": 10.0,
}  # fmt: skip
Alter = Callable[[str, Request], Request]


def honest(_tenant: str, request: Request) -> Request:
    return request


def saying(request: Request, **changes: Any) -> Request:
    """The request with other values in it."""
    return replace(request, values={**request.values, **changes})


class Tenants:
    """Four masked tenants with rows of their own; what they remember outlives every server."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.config = masked_settings(folder, len(TENANTS), **SMALL | changes)
        parts = {int(tenant): load_client_data(self.config, int(tenant)) for tenant in TENANTS}
        trains = [part.train for part in parts.values()]
        self.pooled = Preprocessing.pooled(load_schema(self.config), trains, self.config.scaling)
        self.parts = {str(number): part for number, part in parts.items()}
        self.clients = make_tenants(self.config, parts)


class Orchestrator:
    """One start of a server: a session and a key of its own, over some of the tenants."""

    def __init__(self, tenants: Tenants, whom: tuple[str, ...] = TENANTS) -> None:
        self.lines = {tenant: Tapped(client) for tenant, client in tenants.clients.items()}
        run = open_in_memory(tenants.config, self.lines, whom)
        self.coordinator, self.transport = run.coordinator, run.transport
        self.scaling = run.coordinator._scaling
        self.coordinator.model.scale_by(tenants.pooled)

    def round(self, number: int = 1, alter: Alter = honest) -> Vector | None:
        """The sum of the tenants' deltas, (size,), if the orchestrator gets one."""
        before = flatten(self.coordinator.model.parameters)
        self._carry(self.coordinator.train(number), Kind.TRAIN, alter)
        record = self.coordinator.record
        if record.skipped is not None:
            return None
        total: Vector = (flatten(self.coordinator.model.parameters) - before) * record.contributors
        return total

    def evaluation(self, number: int = 1, alter: Alter = honest) -> list[Reply | Refusal]:
        """One evaluation, each tenant's answer as the orchestrator gets it."""
        self._carry(self.coordinator.evaluate(number), Kind.EVALUATE, alter)
        return [line.answers(Kind.EVALUATE)[-1] for line in self.lines.values() if line.answers(Kind.EVALUATE)]

    def moments(self) -> FeatureSums:
        """The sum of the tenants' feature statistics."""
        return self.scaling.code.decode_moments(drive(self.scaling._sum(MOMENTS, None), self.transport.ask).total)

    def quantiles(self) -> FeatureCounts:
        """The same of tenants that count."""
        return self.scaling.code.decode_quantiles(drive(self.scaling._sum(QUANTILES, None), self.transport.ask).total)

    def refusals(self) -> set[str]:
        """All reasons that tenants gave so far."""
        return {answer.reason for line in self.lines.values() for _, answer in line.said if isinstance(answer, Refusal)}

    def trained(self, tenant: str) -> Reply | Refusal:
        """What a tenant answered when it was last asked to train."""
        return self.lines[tenant].answers(Kind.TRAIN)[-1]

    def _carry(self, steps: Steps[None], kind: Kind, alter: Alter) -> None:
        for tenant, line in self.lines.items():
            line.alter = functools.partial(_alter_only, kind, functools.partial(alter, tenant))
        drive(steps, self.transport.ask)


def _alter_only(kind: Kind, alter: Callable[[Request], Request], request: Request) -> Request:
    return alter(request) if request.kind is kind else request


def true_delta(tenants: Tenants, tenant: str, number: int = 1) -> Vector:
    """What a tenant computes from the initial model."""
    client = Tenant(tenants.config.replace(secure_aggregation="none"), int(tenant), tenants.parts[tenant])
    rows, _ = client._rows.scaled(tenants.pooled.scaler.to_bytes())
    before = flatten(get_parameters(client.model))
    train(client.model, rows, TrainingSettings.of(tenants.config), (tenants.config.seed, int(tenant), number))
    return flatten(get_parameters(client.model)) - before


def opens(total: Vector | None, truth: Vector, tolerance: float = 4 * STEP) -> bool:
    """Whether a vector that the orchestrator has is the tenant's, to the fixed point's rounding."""
    return total is not None and bool(np.abs(total - truth).max() <= tolerance)


def without_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: the terms of a round don't say what it is about."""
    monkeypatch.setattr(Task, "digest", lambda self: self.bucket.ljust(32).encode())


def without_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: a tenant gives one work to any set of tenants."""
    monkeypatch.setattr(RoundMemory, "check_set", lambda *_: None)
    monkeypatch.setattr(RoundMemory, "set_for", lambda *_: None)

    def forget(self: RoundMemory, *_: object) -> None:
        self._opened.clear()

    monkeypatch.setattr(RoundMemory, "open_sum", forget)


def test_an_honest_round_gives_the_sum(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    truth = np.sum([true_delta(tenants, tenant) for tenant in TENANTS], axis=0)
    assert opens(Orchestrator(tenants).round(), truth)


# Settings of their own for all but one


def rate_of_almost_nothing(tenant: str, request: Request) -> Request:
    return request if tenant == VICTIM else saying(request, learning_rate=1e-300)


def test_another_learning_rate_for_the_others_gives_no_sum(tmp_path: Path) -> None:
    orchestrator = Orchestrator(Tenants(tmp_path))
    assert orchestrator.round(alter=rate_of_almost_nothing) is None
    failed = orchestrator.coordinator.record.failed
    assert set(failed) == {"0", "1", "2"}
    assert set(failed.values()) == {f"SettingsMismatchError: {SENTENCES['SettingsMismatchError']}"}


def test_tenants_that_train_as_they_are_told_give_the_victim_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    def obedient(model: Any, rows: Any, settings: Any, seed: Any, on_epoch: Any) -> None:
        train(model, rows, replace(settings, learning_rate=told[-1]), seed, on_epoch)

    monkeypatch.setattr(tenant_module, "check_training", lambda asked, _own: told.append(asked["learning_rate"]))
    monkeypatch.setattr(learning, "train", obedient)
    tenants = Tenants(tmp_path)
    assert opens(Orchestrator(tenants).round(alter=rate_of_almost_nothing), true_delta(tenants, VICTIM))


# A model of their own for all but one


def dead_units(tenant: str, request: Request) -> Request:
    """The first layer's units never fire, so its gradient is zero."""
    first, bias, *rest = request.model
    return request if tenant == VICTIM else replace(request, model=[first, np.full_like(bias, -1e6), *rest])


def first_layer(tenants: Tenants, vector: Vector) -> Vector:
    return vector[: tenants.config.num_features * 3]


def test_another_model_for_the_others_gives_no_sum(tmp_path: Path) -> None:
    orchestrator = Orchestrator(Tenants(tmp_path))
    assert orchestrator.round(alter=dead_units) is None
    reasons = set(orchestrator.coordinator.record.failed.values())
    assert reasons == {f"TaskMismatchError: {SENTENCES['TaskMismatchError']}"}


def test_without_the_task_in_the_terms_another_model_gives_the_victim_s_first_layer_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_task(monkeypatch)
    tenants = Tenants(tmp_path)
    found = Orchestrator(tenants).round(alter=dead_units)
    assert found is not None
    assert opens(first_layer(tenants, found), first_layer(tenants, true_delta(tenants, VICTIM)))


def test_another_scaler_or_number_of_contributors_gives_no_sum_either(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    own = [tenants.parts[VICTIM].train]
    scaler = Preprocessing.pooled(load_schema(tenants.config), own, tenants.config.scaling).scaler.to_bytes()
    changes: list[dict[str, Any]] = [{"scaler": scaler}, {"max_contributors": 3}]
    for number, change in enumerate(changes, start=1):

        def alter(tenant: str, request: Request, change: dict[str, Any] = change) -> Request:
            return request if tenant == VICTIM else saying(request, **change)

        orchestrator = Orchestrator(tenants)
        assert orchestrator.round(number, alter) is None, change
        assert orchestrator.refusals() == {"TaskMismatchError"}


# One task twice, for the cohort and for the cohort less one


def differ_by_one(tenants: Tenants) -> Vector | None:
    """What two servers, with a session and a key each, can subtract."""
    whole = Orchestrator(tenants).round()
    assert whole is not None
    less = Orchestrator(tenants, TENANTS[:-1]).round()
    return None if less is None else whole - less


def test_one_task_for_the_cohort_less_one_is_refused_whatever_the_session(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    assert differ_by_one(tenants) is None
    assert opens(Orchestrator(tenants).round(), np.sum([true_delta(tenants, t) for t in TENANTS], axis=0)), (
        "the same sum again is no news, and a server that was killed needs it"
    )


def test_without_a_memory_of_sets_the_difference_is_the_victim_s_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_sets(monkeypatch)
    tenants = Tenants(tmp_path)
    assert opens(differ_by_one(tenants), true_delta(tenants, VICTIM), 8 * STEP)


def moments_less_one(tenants: Tenants) -> FeatureSums:
    whole = Orchestrator(tenants).moments()
    rest = Orchestrator(tenants, TENANTS[:-1]).moments()
    return FeatureSums(whole.count - rest.count, whole.total - rest.total, whole.squares - rest.squares)


Z_SCORES: dict[str, Any] = {"scaling": "zscore"}


@pytest.mark.parametrize("scaling", ["quantile", "zscore"])
def test_a_statistic_is_given_to_one_set_of_tenants(tmp_path: Path, scaling: str) -> None:
    tenants = Tenants(tmp_path, scaling=scaling)
    ask = Orchestrator.quantiles if scaling == "quantile" else Orchestrator.moments
    ask(Orchestrator(tenants))
    less = Orchestrator(tenants, TENANTS[:-1])
    with pytest.raises(StatisticsError, match="could not be added up"):
        ask(less)
    assert less.refusals() == {"WorkRepeatedError"}


def test_without_a_memory_of_sets_a_tenant_s_moments_are_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_sets(monkeypatch)
    tenants = Tenants(tmp_path, **Z_SCORES)
    found = moments_less_one(tenants)
    truth = FeatureSums.of(tenants.parts[VICTIM].train.features, load_schema(tenants.config))
    assert found.count == truth.count
    np.testing.assert_allclose(found.total, truth.total, atol=1e-9)


def test_without_a_memory_of_sets_a_tenant_s_counts_are_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_sets(monkeypatch)
    tenants = Tenants(tmp_path)
    whole, rest = Orchestrator(tenants).quantiles(), Orchestrator(tenants, TENANTS[:-1]).quantiles()
    truth = FeatureCounts.of(tenants.parts[VICTIM].train.features, load_schema(tenants.config))
    assert np.array_equal(whole.grid - rest.grid, truth.grid)


def test_another_scaler_does_not_make_another_statistic_of_the_same_rows(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path, **Z_SCORES)
    whole = Orchestrator(tenants)
    drive(whole.scaling.steps(), whole.transport.ask)
    less, moved = Orchestrator(tenants, TENANTS[:-1]), tenants.pooled.scaler
    assert isinstance(moved, Scaler)
    moved = replace(moved, mean=np.nextafter(moved.mean, np.inf))
    with pytest.raises(StatisticsError, match="could not be added up"):
        drive(less.scaling._sum(HISTOGRAM, moved), less.transport.ask)
    assert less.refusals() == {"WorkRepeatedError"}


# What leaves a tenant in the clear


def test_an_evaluation_says_nothing_in_the_clear_and_is_of_one_model_for_all(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    orchestrator = Orchestrator(tenants)
    assert orchestrator.round() is not None
    for answer in orchestrator.evaluation():
        assert isinstance(answer, Reply)
        assert set(answer.values) == {"signature"}
    assert orchestrator.coordinator.record.client_rows == sum(len(part.holdout) for part in tenants.parts.values())

    def other_model(_tenant: str, request: Request) -> Request:
        return replace(request, model=[np.zeros_like(p) for p in request.model])

    # Any model, any number of times, one tenant at a time.
    assert orchestrator.evaluation(2, other_model) == [Refusal("TaskMismatchError")] * 4


def test_a_tenant_that_evaluates_nothing_or_refused_the_round_takes_no_part(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    orchestrator = Orchestrator(tenants)
    tenants.clients["0"].config = tenants.config.replace(fraction_evaluate=0.0)

    def other_rate_for_1(tenant: str, request: Request) -> Request:
        return saying(request, learning_rate=0.5) if tenant == "1" else request

    assert orchestrator.round(alter=other_rate_for_1) is not None
    answers = orchestrator.evaluation()
    assert answers[:2] == [Refusal("EvaluationOffError")] * 2
    assert [type(answer) for answer in answers[2:]] == [Reply, Reply]


def seen_of(orchestrator: Orchestrator, tenant: str) -> object:
    answer = orchestrator.trained(tenant)
    return answer if isinstance(answer, Refusal) else (sorted(answer.values), len(answer.payload))


@pytest.mark.parametrize("rule", [True, False])
def test_whether_a_training_fails_on_its_rows_is_nobody_s_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: bool
) -> None:
    """ "The delta holds NaN" told in twenty rounds the largest value of a feature."""
    if not rule:
        monkeypatch.setattr(Tenant, "_or_zeros", lambda _self, compute, _nothing: compute())
    tenants = Tenants(tmp_path, **Z_SCORES)  # ranks of NaN are no NaN
    tenants.parts["0"].train.features[0, 0] = np.nan  # stands for a row that a crafted model sends to infinity
    orchestrator = Orchestrator(tenants)
    orchestrator.round()
    assert (seen_of(orchestrator, "0") == seen_of(orchestrator, "1")) is rule


def test_a_tenant_whose_training_fails_adds_nothing_and_its_peers_get_their_sum(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path, **Z_SCORES)
    tenants.parts["0"].train.features[:] = np.nan
    orchestrator = Orchestrator(tenants)
    assert opens(orchestrator.round(), np.sum([true_delta(tenants, tenant) for tenant in TENANTS[1:]], axis=0))
    assert orchestrator.coordinator.record.contributors == 4


def test_a_masked_tenant_s_words_are_codes_of_the_list(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    for change in ({"round": 0}, {"cohort": 2}, {"scaler": b"short"}, {"public_key": b"no key"}, {"boxes": None}):
        orchestrator = Orchestrator(tenants)

        def alter(_tenant: str, request: Request, change: dict[str, Any] = change) -> Request:
            return saying(request, **change)

        assert orchestrator.round(alter=alter) is None
        assert orchestrator.refusals() <= set(SENTENCES)


# Tenants that are struck off


def test_a_revoked_tenant_is_cut_off_before_the_next_request(tmp_path: Path) -> None:
    orchestrator = Orchestrator(Tenants(tmp_path))
    assert orchestrator.round() is not None
    revoke_client(tmp_path / "pki", f"client-{VICTIM}")
    assert len(orchestrator.evaluation()) == 3
    assert list(orchestrator.transport.seats.tenants()) == ["0", "1", "2"]
