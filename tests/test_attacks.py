"""An orchestrator that holds the key and changes its code, against real tenants: each attack fails, and its twin works.

The attacks drive the real strategy and real clients, with function calls in the place of Flower's messages. In each
twin one rule is taken out of the tenants, and the same attack shows one tenant's numbers: so the rule is what holds.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.common import (
    Code,
    EvaluateIns,
    FitIns,
    FitRes,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import SimpleClientManager

from client import flower_client
from client.feature_statistics import ScaledData
from client.flower_client import TenantClient
from client.training import TrainingSettings, train
from orchestrator.admission import Admission
from orchestrator.aggregator import Aggregator
from orchestrator.feature_statistics import StatisticsCollector
from orchestrator.masked_round import MaskedAggregation
from orchestrator.provision import provision
from orchestrator.roster import Roster
from orchestrator.strategy import EncryptedFedAvg
from shared.config import Config, parse_config
from shared.data_sources.scaling import FeatureSums
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data
from shared.errors import StatisticsError
from shared.feature_statistics import MOMENTS
from shared.he.paillier import PaillierPrivate
from shared.he_utils import Vector, make_keys
from shared.identity import ClientIdentity
from shared.masking import RoundMemory
from shared.model import flatten, get_parameters
from shared.preprocessing import Preprocessing
from shared.refusals import SENTENCES
from shared.task import Task
from tests.test_early_stopping import InProcess

TENANTS = ("0", "1", "2", "3")
VICTIM = "3"
STEP = 2.0**-16
Alter = Callable[[str, FitIns], FitIns]


def honest(_tenant: str, ins: FitIns) -> FitIns:
    return ins


class Tenants:
    """Four masked tenants with rows of their own; what they remember outlives every server."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        provision(folder / "pki", len(TENANTS), [])
        self.config = parse_config(
            {
                "he_key_length": 512, "allow_insecure_key": True, "num_clients": 4, "log_dir": str(folder),
                "num_features": 4, "num_hidden_units": 3, "num_samples_per_client": 40, "batch_size": 1000,
                "local_epochs": 1, "stage_timeout": 5.0, "enrolled_clients": str(folder / "pki/enrolled.json"),
                "client_identity": str(folder / "pki/clients/client-{client_id}.key"), **settings,
            }
        )  # fmt: skip
        self.parts = {tenant: load_client_data(self.config, int(tenant)) for tenant in TENANTS}
        self.pooled = Preprocessing.pooled(load_schema(self.config), [part.train for part in self.parts.values()])
        self.clients = {
            tenant: TenantClient(
                self.config, int(tenant), part,
                ClientIdentity.load(folder / f"pki/clients/client-{tenant}.key", f"client-{tenant}"),
            )
            for tenant, part in self.parts.items()
        }  # fmt: skip


class Orchestrator:
    """One start of a server: a session and a key of its own, over some of the tenants."""

    def __init__(self, tenants: Tenants, whom: tuple[str, ...] = TENANTS) -> None:
        self.config = tenants.config.replace(min_available_clients=3, min_fit_clients=3, client_wait_timeout=10.0)
        self.tenants = tenants
        keys = make_keys(self.config)
        assert isinstance(keys, PaillierPrivate)
        self.keys = keys
        session = secrets.token_hex(16)
        admission = Admission(self.config.enrolled_clients, session)
        aggregator = Aggregator(keys, 3, 4, admission=admission)
        self.roster = Roster("20260101-000000-abcdef", session, admission, aggregator.key_proof())
        for tenant in whom:
            self.roster.register(InProcess(tenants.clients[tenant], f"cid-{tenant}"))
        self.roster.gather(len(whom), 10)
        aggregation = MaskedAggregation(self.config, keys.public, admission)
        self.strategy = EncryptedFedAvg(
            self.config, aggregator, aggregation, self.roster, load_validation_data(self.config),
            load_test_data(self.config),
        )  # fmt: skip
        self.collector = StatisticsCollector(
            self.config, aggregator, aggregation, self.roster, load_schema(self.config), self.strategy.encryption
        )
        self.strategy.scale_by(tenants.pooled)
        self.answers: dict[str, FitRes] = {}

    @property
    def model(self) -> Vector:
        return flatten(list(self.strategy.parameters.values()))

    def round(self, number: int = 1, alter: Alter = honest) -> Vector | None:
        """The sum of the tenants' deltas, (size,), if the orchestrator gets one."""
        before = self.model
        parameters = self.strategy.initialize_parameters(SimpleClientManager())
        asked = self.strategy.configure_fit(number, parameters, self.roster)
        results: list[Any] = []
        failures: list[Any] = []
        for client, ins in asked:
            tenant = self.roster.tenant_of(client)
            answer = self.answers[tenant] = client.fit(alter(tenant, ins), None, None)
            (results if answer.status.code == Code.OK else failures).append((client, answer))
        self.strategy.aggregate_fit(number, results, failures)
        if self.strategy.record.skipped is not None:
            return None
        total: Vector = (self.model - before) * self.strategy.record.contributors
        return total


def true_delta(tenants: Tenants, tenant: str, number: int = 1) -> Vector:
    """What a tenant computes from the initial model."""
    client = TenantClient(tenants.config.replace(secure_aggregation="none"), int(tenant), tenants.parts[tenant])
    rows, _ = client._data.scaled(tenants.pooled.scaler.to_bytes())
    before = flatten(get_parameters(client._model))
    settings = TrainingSettings.of(tenants.config)
    train(client._model, rows, settings, (tenants.config.seed, int(tenant), number))
    return flatten(get_parameters(client._model)) - before


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


def rate_of_almost_nothing(tenant: str, ins: FitIns) -> FitIns:
    return ins if tenant == VICTIM else FitIns(ins.parameters, {**ins.config, "learning_rate": 1e-300})


def test_another_learning_rate_for_the_others_gives_no_sum(tmp_path: Path) -> None:
    orchestrator = Orchestrator(Tenants(tmp_path))
    assert orchestrator.round(alter=rate_of_almost_nothing) is None
    failed = orchestrator.strategy.record.failed
    assert set(failed) == {"0", "1", "2"}
    assert set(failed.values()) == {f"SettingsMismatchError: {SENTENCES['SettingsMismatchError']}"}


def test_tenants_that_train_as_they_are_told_give_the_victim_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[int, float] = {}

    def check(asked: Mapping[str, Any], own: Config) -> None:
        told[len(told)] = float(asked["learning_rate"])

    def obedient(model: Any, rows: Any, settings: Any, seed: Any, on_epoch: Any) -> None:
        train(model, rows, replace(settings, learning_rate=told[len(told) - 1]), seed, on_epoch)

    monkeypatch.setattr(flower_client, "check_training", check)
    monkeypatch.setattr(flower_client, "train", obedient)
    tenants = Tenants(tmp_path)
    assert opens(Orchestrator(tenants).round(alter=rate_of_almost_nothing), true_delta(tenants, VICTIM))


# A model of their own for all but one


def dead_units(tenant: str, ins: FitIns) -> FitIns:
    """The first layer's units never fire, so its gradient is zero."""
    first, bias, *rest = parameters_to_ndarrays(ins.parameters)
    dead = ndarrays_to_parameters([first, np.full_like(bias, -1e6), *rest])
    return ins if tenant == VICTIM else FitIns(dead, ins.config)


def first_layer(tenants: Tenants, vector: Vector | None) -> Vector | None:
    return None if vector is None else vector[: tenants.config.num_features * 3]


def test_another_model_for_the_others_gives_no_sum(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    orchestrator = Orchestrator(tenants)
    assert orchestrator.round(alter=dead_units) is None
    reasons = set(orchestrator.strategy.record.failed.values())
    assert reasons == {f"TaskMismatchError: {SENTENCES['TaskMismatchError']}"}


def test_without_the_task_in_the_terms_another_model_gives_the_victim_s_first_layer_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_task(monkeypatch)
    tenants = Tenants(tmp_path)
    found = first_layer(tenants, Orchestrator(tenants).round(alter=dead_units))
    truth = first_layer(tenants, true_delta(tenants, VICTIM))
    assert truth is not None
    assert opens(found, truth)


def test_another_scaler_or_number_of_contributors_gives_no_sum_either(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    scaler = Preprocessing.pooled(load_schema(tenants.config), [tenants.parts[VICTIM].train]).scaler.to_bytes()
    changes: list[dict[str, Any]] = [{"scaler": scaler}, {"max_contributors": 3}]
    for number, change in enumerate(changes, start=1):

        def alter(tenant: str, ins: FitIns, change: dict[str, Any] = change) -> FitIns:
            return ins if tenant == VICTIM else FitIns(ins.parameters, {**ins.config, **change})

        orchestrator = Orchestrator(tenants)
        assert orchestrator.round(number, alter) is None, change


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


def moments_less_one(tenants: Tenants) -> FeatureSums | None:
    whole = Orchestrator(tenants).collector
    sums = whole._code.decode_moments(whole._sum(MOMENTS, None))
    less = Orchestrator(tenants, TENANTS[:-1]).collector
    try:
        rest = less._code.decode_moments(less._sum(MOMENTS, None))
    except StatisticsError:
        return None
    return FeatureSums(sums.count - rest.count, sums.total - rest.total, sums.squares - rest.squares)


def test_a_statistic_is_given_to_one_set_of_tenants(tmp_path: Path) -> None:
    assert moments_less_one(Tenants(tmp_path)) is None


def test_without_a_memory_of_sets_a_tenant_s_moments_are_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_sets(monkeypatch)
    tenants = Tenants(tmp_path)
    found = moments_less_one(tenants)
    truth = FeatureSums.of(tenants.parts[VICTIM].train.features, load_schema(tenants.config))
    assert found is not None
    assert found.count == truth.count
    np.testing.assert_allclose(found.total, truth.total, atol=1e-9)


def test_another_scaler_does_not_make_another_statistic_of_the_same_rows(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    orchestrator = Orchestrator(tenants)
    orchestrator.collector.collect()
    moved = tenants.pooled.scaler
    moved = replace(moved, mean=np.nextafter(moved.mean, np.inf))
    with pytest.raises(StatisticsError, match="could not be added up"):
        Orchestrator(tenants, TENANTS[:-1]).collector._sum("histogram", moved)


# What leaves a tenant in the clear


def evaluation(orchestrator: Orchestrator, **changes: Any) -> list[Any]:
    """One evaluation, each answer as the orchestrator gets it."""
    parameters = orchestrator.strategy.initialize_parameters(SimpleClientManager())
    asked = orchestrator.strategy.configure_evaluate(1, parameters, orchestrator.roster)
    return [client.evaluate(EvaluateIns(i.parameters, {**i.config, **changes}), None, None) for client, i in asked]


def test_an_evaluation_says_nothing_in_the_clear_and_is_of_one_model_for_all(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    orchestrator = Orchestrator(tenants)
    assert orchestrator.round() is not None
    for answer in evaluation(orchestrator):
        assert answer.status.code == Code.OK
        assert (answer.loss, answer.num_examples) == (0.0, 1)
        assert set(answer.metrics) == {"payload", "statement", "signature"}
    parameters = ndarrays_to_parameters(
        [np.zeros(p.shape, np.float32) for p in orchestrator.strategy.parameters.values()]
    )
    asked = orchestrator.strategy.configure_evaluate(2, parameters, orchestrator.roster)
    for client, ins in asked:  # any model, any number of times, one tenant at a time
        answer = client.evaluate(EvaluateIns(parameters, ins.config), None, None)
        assert (answer.status.message, answer.metrics) == ("TaskMismatchError", {})


def test_a_tenant_that_evaluates_nothing_or_refused_the_round_takes_no_part(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    orchestrator = Orchestrator(tenants)
    tenants.clients["0"].config = tenants.config.replace(fraction_evaluate=0.0)

    def other_rate_for_1(tenant: str, ins: FitIns) -> FitIns:
        return FitIns(ins.parameters, {**ins.config, "learning_rate": 0.5}) if tenant == "1" else ins

    assert orchestrator.round(alter=other_rate_for_1) is not None
    words = [answer.status.message for answer in evaluation(orchestrator)]
    assert words == ["EvaluationOffError", "EvaluationOffError", "", ""]


def seen_of(orchestrator: Orchestrator, tenant: str) -> tuple[object, ...]:
    answer = orchestrator.answers[tenant]
    return answer.status, sorted(answer.metrics), [len(t) for t in answer.parameters.tensors], answer.num_examples


@pytest.mark.parametrize("rule", [True, False])
def test_whether_a_training_fails_on_its_rows_is_nobody_s_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: bool
) -> None:
    """ "The delta holds NaN" told in twenty rounds the largest value of a feature."""
    if not rule:
        monkeypatch.setattr(TenantClient, "_or_zeros", lambda _self, compute, _nothing: compute())
    tenants = Tenants(tmp_path)
    tenants.parts["0"].train.features[0, 0] = np.nan  # stands for a row that a crafted model sends to infinity
    orchestrator = Orchestrator(tenants)
    orchestrator.round()
    assert (seen_of(orchestrator, "0") == seen_of(orchestrator, "1")) is rule


def test_a_tenant_whose_training_fails_adds_nothing_and_its_peers_get_their_sum(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    truth = np.sum([true_delta(tenants, tenant) for tenant in TENANTS[1:]], axis=0)
    scaled = ScaledData.scaled

    def broken(self: ScaledData, scaler: bytes) -> Any:
        rows, holdout = scaled(self, scaler)
        return (replace(rows, features=np.full_like(rows.features, np.nan)), holdout)

    tenants.clients["0"]._data.scaled = broken.__get__(tenants.clients["0"]._data)  # type: ignore[method-assign]
    orchestrator = Orchestrator(tenants)
    assert opens(orchestrator.round(), truth)
    assert orchestrator.strategy.record.contributors == 4


def test_a_masked_tenant_s_words_are_codes_of_the_list(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    for change in ({"round": 0}, {"cohort": 2}, {"scaler": b"short"}, {"public_key": b"no key"}, {"boxes": None}):
        orchestrator = Orchestrator(tenants)

        def alter(tenant: str, ins: FitIns, change: dict[str, Any] = change) -> FitIns:
            return FitIns(ins.parameters, {**ins.config, **change})

        assert orchestrator.round(alter=alter) is None
        assert {answer.status.message for answer in orchestrator.answers.values()} <= set(SENTENCES)


# Tenants that are struck off


def test_a_revoked_tenant_is_cut_off_before_the_next_request(tmp_path: Path) -> None:
    from orchestrator.provision import revoke_client

    tenants = Tenants(tmp_path)
    orchestrator = Orchestrator(tenants)
    assert orchestrator.round() is not None
    revoke_client(tmp_path / "pki", f"client-{VICTIM}")
    assert len(evaluation(orchestrator)) == 3
    assert [orchestrator.roster.tenant_of(client) for client in orchestrator.roster.connected()] == ["0", "1", "2"]
