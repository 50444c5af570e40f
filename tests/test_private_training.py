"""`privacy: records`: the noise of one central trainer, in masked sums of real tenants, and a budget that is kept."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from client import private_training
from client.budget import Budget
from client.private_training import clipped_sum, sampled
from client.tenant import Tenant
from orchestrator.run import OpenRun
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data
from shared.dp import skellam
from shared.dp.accountant import ORDERS
from shared.dp.plan import PrivacyPlan
from shared.errors import ConfigError, PrivacyBudgetError
from shared.exchange import Kind, Request
from shared.masking import ClientRound
from shared.model import build_model, flatten, get_parameters
from tests.conftest import OwnCode
from tests.federations import make_tenants, masked_settings, open_in_memory


def settings(folder: Path, clients: int = 4, **more: Any) -> Config:
    return masked_settings(
        folder, clients, **{
            "num_rounds": 3, "num_features": 6, "num_hidden_units": 40, "num_samples_per_client": 400,
            "min_available_clients": clients, "min_fit_clients": 3, "min_evaluate_clients": 3, "fraction_evaluate": 0.0,
            "privacy": "records", "dp_rows": 1600, "dp_sampling_rate": 0.05, "he_integer_bits": 8, "dp_force": True,
            **more,
        },
    )  # fmt: skip


def plan_of(config: Config) -> PrivacyPlan:
    size = sum(p.size for p in get_parameters(build_model(config)))
    return PrivacyPlan.of(config, size, config.num_features)


def sums_of(run: OpenRun[Any]) -> list[np.ndarray]:
    """The decrypted sums, as the run goes."""
    sums: list[np.ndarray] = []
    step = run.coordinator.model.learner.step

    def noted(total: Any, contributors: Any) -> None:
        sums.append(total)
        step(total, contributors)

    run.coordinator.model.learner.step = noted  # type: ignore[method-assign]
    return sums


def test_each_gradient_is_clipped_and_the_sum_is_in_the_model_s_order() -> None:
    config = Config(num_features=5, num_hidden_units=(4,))
    model, random = build_model(config), np.random.default_rng(1)
    rows = Dataset(random.normal(size=(300, 5)).astype(np.float32) * 10, random.integers(0, 2, 300), np.full(300, ""))
    clip, expected = 0.7, np.zeros(sum(p.size for p in get_parameters(model)))
    for features, label in zip(rows.features, rows.labels, strict=True):
        model.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(torch.from_numpy(features)[None]), torch.tensor([label])))
        gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters() if p.grad is not None])
        expected += gradient * min(1.0, clip / np.linalg.norm(gradient))
    np.testing.assert_allclose(clipped_sum(model, rows, clip), expected, atol=1e-5)
    one = Dataset(rows.features[:1] * 1e6, rows.labels[:1], rows.families[:1])
    assert np.linalg.norm(clipped_sum(model, one, clip)) <= clip * (1 + 1e-9)
    none = Dataset(rows.features[:0], rows.labels[:0], rows.families[:0])
    assert not clipped_sum(model, none, clip).any()
    broken = Dataset(np.full((1, 5), np.inf, dtype=np.float32), rows.labels[:1], rows.families[:1])
    assert not clipped_sum(model, broken, clip).any(), "a gradient that is no number shows nothing"


def test_each_row_is_drawn_by_itself_and_anew_each_time() -> None:
    rows = Dataset(np.arange(20_000, dtype=np.float32)[:, None], np.zeros(20_000, np.int64), np.full(20_000, ""))
    sizes = [len(sampled(rows, 0.1)) for _ in range(30)]
    assert np.std(sizes) == pytest.approx(math.sqrt(20_000 * 0.1 * 0.9), rel=0.5)
    assert np.mean(sizes) == pytest.approx(2000, abs=5 * 42 / math.sqrt(30))
    first, second = (set(sampled(rows, 0.1).features.ravel()) for _ in range(2))
    assert len(first & second) < 400


@pytest.mark.parametrize("scheme", ["paillier", pytest.param("kahe", marks=pytest.mark.long)])
def test_a_private_run_spends_its_budget_and_no_more_and_is_verified(tmp_path: Path, scheme: str) -> None:
    config = settings(tmp_path, clients=3, audit=True, he_scheme=scheme, learning_rate=0.5, server_momentum=0.5)
    run = open_in_memory(config, make_tenants(config))
    run.coordinator.run()
    records = run.coordinator.records
    assert [record.skipped for record in records] == [None] * 3
    spent = [record.epsilon or 0.0 for record in records]
    assert spent == sorted(spent)
    assert 0.99 * config.dp_target_epsilon < spent[-1] <= config.dp_target_epsilon
    verdicts = [json.loads(line) for line in run.folder.verdicts.read_text(encoding="utf-8").splitlines()]
    assert [v["verified"] for v in verdicts] == [["0", "1", "2"]] * 3


def variance_of_noise(config: Config, lost: Any = None) -> tuple[list[float], list[int]]:
    """Of the sums of a run in which nobody has rows to give, in steps of the fixed point squared; and contributors."""
    run = open_in_memory(config, make_tenants(config), lost=lost or (lambda _node, _request: False))
    sums = sums_of(run)
    run.coordinator.run()
    unit = 2.0**config.he_precision_bits
    return [float(np.var(total * unit)) for total in sums], [r.contributors for r in run.coordinator.records]


STAGES = (Kind.ADVERTISE, Kind.SHARE, Kind.TRAIN, Kind.CONFIRM, Kind.REVEAL)


def lose_one_at_each_stage() -> Any:
    """In round n the n-th stage of client 2 is lost."""
    seen = {"round": 0}

    def lost(node: str, request: Request) -> bool:
        if request.kind is Kind.ADVERTISE and node == "0":
            seen["round"] += 1
        number = seen["round"] - 1  # the first sum is of the features
        return 1 <= number <= len(STAGES) and node == "2" and request.kind is STAGES[number - 1]

    return lost


def test_drop_outs_at_any_stage_leave_no_less_noise_than_is_accounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_training, "clipped_sum", lambda model, _rows, _clip: 0 * flatten(get_parameters(model)))
    config = settings(tmp_path, num_rounds=6, num_hidden_units=3000)
    variances, contributors = variance_of_noise(config, lose_one_at_each_stage())
    assert contributors == [3, 3, 3, 4, 4, 4]
    accounted = plan_of(config).gradients.variance
    # t = 3 of 4, of which one may be dishonest; in the first round 3 advertise, of which nobody may be.
    for variance, count, sharers in zip(variances, contributors, [3, 2, 2, 2, 2, 2], strict=True):
        assert variance == pytest.approx(accounted * count / sharers, rel=0.06)


def test_where_all_are_needed_each_adds_less_and_a_drop_out_voids_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_training, "clipped_sum", lambda model, _rows, _clip: 0 * flatten(get_parameters(model)))
    config = settings(tmp_path, num_rounds=2, num_hidden_units=3000, min_contributors=4, min_fit_clients=4)
    seen = {"adverts": 0}

    def lost(node: str, request: Request) -> bool:  # in the first round the vector of client 2
        seen["adverts"] += request.kind is Kind.ADVERTISE and node == "0"
        return seen["adverts"] == 2 and node == "2" and request.kind is Kind.TRAIN

    variances, contributors = variance_of_noise(config, lost)
    assert contributors == [0, 4]
    assert variances == [pytest.approx(plan_of(config).gradients.variance * 4 / 3, rel=0.06)]


def test_noise_that_is_sized_for_all_is_too_little_where_one_drops_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin of the rule above."""
    monkeypatch.setattr(private_training, "clipped_sum", lambda model, _rows, _clip: 0 * flatten(get_parameters(model)))
    monkeypatch.setattr(ClientRound, "sharers", property(lambda self: len(self._state.roster.ids)))
    config = settings(tmp_path, num_rounds=3, num_hidden_units=3000)
    variances, contributors = variance_of_noise(config, lose_one_at_each_stage())
    accounted = plan_of(config).gradients.variance
    assert contributors[2] == 3
    assert variances[2] < 0.85 * accounted


def test_a_tenant_whose_rows_fail_sends_its_noise_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any) -> Any:
        raise ValueError("a row is odd")

    monkeypatch.setattr(private_training, "clipped_sum", fail)
    config = settings(tmp_path, num_rounds=2, num_hidden_units=3000)
    variances, _ = variance_of_noise(config)
    assert min(variances) > plan_of(config).gradients.variance


OWN_NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_features, num_classes):
        super().__init__()
        self.outer = nn.Linear(num_features, num_classes)
        {body}
    def forward(self, features):
        return {forward}
"""


@pytest.mark.parametrize(
    ("body", "forward", "said"),
    [
        ("pass", "self.outer(features)", ""),
        ("self.register_buffer('seen', torch.ones(2), persistent=False)", "self.outer(features)", ""),
        (
            "self.register_buffer('seen', torch.ones(2))",
            "self.outer(features)",
            "seen in its state_dict is not trained",
        ),
        (
            "self.outer.bias.requires_grad_(False)",
            "self.outer(features)",
            "outer.bias in its state_dict is not trained",
        ),
        (
            "self.again = self.outer",
            "self.outer(features)",
            "again.weight, again.bias in its state_dict is not trained",
        ),
        (
            "self.rare = nn.Embedding(2, num_classes, sparse=True)",
            "self.outer(features) + self.rare(torch.zeros(len(features), dtype=torch.int64))",
            "the gradients of single rows can't be taken (",
        ),
        (
            "pass",
            "self.outer(features) if features.sum() > -1 else features[:, :2]",
            "torch.func.vmap works on: no sparse",
        ),
    ],
)
def test_a_model_of_ones_own_that_noise_would_spoil_is_refused_at_the_start(
    own_code: OwnCode, tmp_path: Path, body: str, forward: str, said: str
) -> None:
    """Without it noise moves what is not trained, and a tenant whose gradients fail sends nothing but noise."""
    own_code("net", OWN_NET.format(body=body, forward=forward))
    config = settings(tmp_path, model="own.net:Net")
    if not said:
        assert len(make_tenants(config)) == 4
        return
    with pytest.raises(ConfigError, match=rf"^model = 'own.net:Net': .*{re.escape(said)}"):
        make_tenants(config)


def test_no_run_process_seed_or_split_gives_the_same_records_a_new_budget(tmp_path: Path) -> None:
    config = settings(tmp_path)
    for number, seed in enumerate((config.seed, config.seed, 7)):
        changed = config.replace(seed=seed)
        tenants = make_tenants(changed)
        run = open_in_memory(changed, tenants)
        if number == 0:
            run.coordinator.run()
        else:
            with pytest.raises(Exception, match="could not be added up"):
                run.coordinator.run()
        run.close()
        for tenant in tenants.values():
            tenant.close()
    for path in tmp_path.rglob("client-*-budget.json"):  # as a person does who has nothing but new records
        path.unlink()
    run = open_in_memory(config, make_tenants(config))
    run.coordinator.run()
    assert run.coordinator.records[-1].skipped is None


def test_a_round_that_is_asked_for_again_is_paid_twice(tmp_path: Path) -> None:
    config = settings(tmp_path)
    release, budget = plan_of(config).gradients, Budget(config, "client-0")
    once = budget.pay(release.rdp())
    twice = Budget(config, "client-0").pay(release.rdp())
    assert twice > once
    assert Budget(config, "client-1").pay(release.rdp()) == once
    with pytest.raises(PrivacyBudgetError, match="move that file away"):
        budget.pay(1e3 * release.rdp())
    assert Budget(config, "client-0").pay(0 * release.rdp()) == twice, "what was refused was not paid"


def test_the_epsilon_that_is_shown_has_rounds_that_were_made_again_or_came_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, gate_loss=1e-9, learning_rate=100.0)
    plan, tenants = plan_of(config), make_tenants(config)
    run = open_in_memory(config, tenants)
    commit, calls = run.coordinator.commit, []

    def killed_before_the_second() -> None:
        calls.append(run.coordinator.record)
        if len(calls) == 2:
            raise KeyboardInterrupt
        commit()

    monkeypatch.setattr(run.coordinator, "commit", killed_before_the_second)
    with pytest.raises(KeyboardInterrupt):
        run.coordinator.run()
    run.close()
    again = open_in_memory(config, tenants, resume="latest")
    again.coordinator.run()
    again.close()
    first, second, third = again.coordinator.records
    assert (second.skipped or "").startswith("rolled back")
    assert [first.epsilon, second.epsilon] == [plan.spent(1), plan.spent(3)]
    assert third.skipped, "the tenants have paid for three rounds by then"
    assert third.epsilon == plan.epsilon


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"spent": [1.0]}',
        '{"spent": "x"}',
        json.dumps({"spent": [-1.0] * len(ORDERS)}),
        json.dumps({"0f": [1.0] * len(ORDERS)}),
    ],
)
def test_a_damaged_budget_is_refused(tmp_path: Path, content: str) -> None:
    config = settings(tmp_path)
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state/client-0-budget.json").write_text(content, encoding="utf-8")
    with pytest.raises(PrivacyBudgetError, match="restore it from a backup"):
        Budget(config, "client-0").pay(np.zeros(len(ORDERS)))


@pytest.mark.long
def test_a_run_of_noise_stops_after_its_first_sums(tmp_path: Path) -> None:
    config = settings(
        tmp_path, num_rounds=6, dp_target_epsilon=0.25, dp_sampling_rate=0.002, dp_force=False, num_hidden_units=6_000,
        dp_statistics_share=0.6,  # so that the noise of the counts leaves rows, always
    )  # fmt: skip
    run = open_in_memory(config, make_tenants(config))
    with pytest.raises(PrivacyBudgetError, match="dp_force: true"):
        run.coordinator.run()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"secure_aggregation": "none"}, "each client adds a share of the noise"),
        ({"fraction_evaluate": 1.0}, "have no noise"),
        ({"weighting": "examples"}, "weighting = 'examples': expected 'uniform'"),
        ({"class_balance": "inverse"}, "class_balance"),
        ({"scaling": "zscore"}, "scaling"),
        ({"model": "forest"}, "trained by gradients"),
        ({"dp_rows": 0}, "dp_rows = 0"),
    ],
)
def test_settings_that_would_undo_it_are_refused(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(tmp_path, **more)


def test_a_fixed_point_without_room_for_the_noise_is_refused_at_the_start(tmp_path: Path) -> None:
    config = settings(tmp_path, he_integer_bits=2)
    with pytest.raises(ConfigError, match=r"set he_integer_bits to \d+ or more"):
        make_tenants(config)


def lower_bound(members: np.ndarray, others: np.ndarray, delta: float) -> float:
    """Of epsilon, at 95 %: from how well a threshold tells apart runs with a record and without (Clopper-Pearson)."""
    from scipy.stats import beta

    best = 0.0
    for threshold in np.quantile(others, [0.5, 0.8, 0.9, 0.95, 0.99, 1.0]):
        hits, alarms = int((members > threshold).sum()), int((others > threshold).sum())
        least = beta.ppf(0.025, hits, len(members) - hits + 1) if hits else 0.0
        most = beta.ppf(0.975, alarms + 1, len(others) - alarms)
        if least > delta:
            best = max(best, math.log((least - delta) / most))
    return best


def attack(tenant: Tenant, canary: Dataset, release_variance: float, clip: float, unit: float, trials: int) -> Any:
    """What somebody sees who knows all but whether the canary is in the sum: its part along the canary's gradient."""
    direction = clipped_sum(tenant.model, canary, clip)
    direction /= np.linalg.norm(direction)
    with_it = clipped_sum(tenant.model, canary, clip)
    seen = []
    for member in (True, False):
        sums = [
            (np.rint(member * with_it * unit) + skellam.draw(release_variance, direction.size)) / unit @ direction
            for _ in range(trials)
        ]
        seen.append(np.array(sums))
    return seen


@pytest.mark.parametrize("twin", ["", "no clip", "half the noise", "seeded noise"])
def test_what_an_attack_learns_is_below_the_accountant_s_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twin: str
) -> None:
    """A canary that no other row is like, in one round that takes all rows; and twins that give it away."""
    config = settings(tmp_path, num_rounds=1, dp_sampling_rate=1.0, dp_target_epsilon=1.0)
    plan, tenant = plan_of(config), make_tenants(config)["0"]
    canary = Dataset(np.full((1, 6), 50.0, dtype=np.float32), np.array([1]), np.array([""]))
    clip, variance = config.dp_clip, plan.gradients.variance
    if twin == "no clip":
        clip = 1e9
    if twin == "half the noise":
        variance /= 16
    if twin == "seeded noise":  # whoever knows the seed takes the noise off
        monkeypatch.setattr(skellam, "draw", lambda _variance, size: np.zeros(size, dtype=np.int64))
    members, others = attack(tenant, canary, variance, clip, plan.unit, 2000)
    bound = lower_bound(members, others, config.dp_delta)
    assert (bound <= config.dp_target_epsilon) == (twin == ""), bound


def released(folder: Path, canary: bool) -> float:
    """What a whole masked run of one round shows of the canary to whoever knows the model and all else: the sum, less
    what all other rows give it, along the canary's gradient.
    """
    config = settings(
        folder, clients=3, num_rounds=1, dp_sampling_rate=1.0, dp_target_epsilon=1.0, num_hidden_units=40,
        he_scheme="kahe", num_samples_per_client=1000, dp_statistics_share=0.2,
    )  # fmt: skip
    rows = {number: load_client_data(config, number) for number in range(3)}
    own = rows[0].train
    odd = Dataset(np.full_like(own.features[:1], 50.0), np.array([1]), own.families[:1])
    both = Dataset(
        np.concatenate([own.features, odd.features]), np.concatenate([own.labels, odd.labels]),
        np.concatenate([own.families, odd.families]),
    )  # fmt: skip
    with_it = {**rows, 0: replace(rows[0], train=both)}
    run = open_in_memory(config, make_tenants(config, with_it if canary else rows))
    sums, model = sums_of(run), build_model(config)
    run.coordinator.run()
    preprocessing = run.coordinator.model.preprocessing
    assert preprocessing is not None
    known = sum(clipped_sum(model, preprocessing.apply(part.train), config.dp_clip) for part in rows.values())
    direction = clipped_sum(model, preprocessing.apply(odd), 1.0)
    return float((sums[0] - known) @ direction / np.linalg.norm(direction))


@pytest.mark.long
@pytest.mark.parametrize("twin", ["", "known noise"])
def test_what_whole_runs_show_of_a_record_is_below_the_accountant_s_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twin: str
) -> None:
    if twin:
        monkeypatch.setattr(skellam, "draw", lambda _variance, size: np.zeros(size, dtype=np.int64))
    members, others = (
        np.array([released(tmp_path / f"{canary}-{number}", canary) for number in range(20)])
        for canary in (True, False)
    )
    bound = lower_bound(members, others, 1e-6)
    assert (bound <= 1.0) == (twin == ""), bound
