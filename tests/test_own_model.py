"""A model class of a person's own: what is made of it, and the one line that says why another can't work."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from client.training import TrainingSettings, train
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.errors import ConfigError
from shared.model import build_model, get_parameters
from tests.conftest import OwnCode
from tests.federations import make_tenants, open_in_memory

NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_features, num_classes):
        super().__init__()
        self.inner, self.drop = nn.Linear(num_features, 5), nn.Dropout(0.5)
        self.outer = nn.Linear(5, num_classes)
    def forward(self, features):
        return self.outer(self.drop(self.inner(features).relu()))
"""
OWN = Config(model="own.net:Net", num_features=6, num_classes=3)


def net(*, made: str = "num_features, num_classes", body: str = "", forward: str = "self.outer(features)") -> str:
    """A class that is all right but for what is said."""
    return f"""
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, {made}):
        super().__init__()
        self.outer = nn.Linear(6, 3)
        {body}
    def forward(self, features):
        return {forward}
"""


LAST = """(
            logits := self.outer(features) + (self.last if self.training else 0), setattr(self, 'last', logits.sum())
        )[0]"""
NORM = "self.norm = nn.BatchNorm1d(6, track_running_stats=False)"


def test_its_first_weights_follow_from_the_seed_and_leave_torchs_generator_alone(own_code: OwnCode) -> None:
    own_code("net", NET)
    state = torch.random.get_rng_state()
    first, again, other = (get_parameters(build_model(OWN.replace(seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [p.shape for p in first] == [(5, 6), (5,), (3, 5), (3,)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert build_model(OWN).training, "the trial must not leave it in evaluation mode"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"own\.net can't be imported \(ModuleNotFoundError: .*PYTHONPATH"),
        ("import nothing_of_this_name", r"can't be imported \(ModuleNotFoundError: No module named 'nothing_of_this"),
        ("1 / 0", r"can't be imported \(ZeroDivisionError: division by zero\)"),
        ("def broken(:", r"can't be imported \(SyntaxError"),
        ("", r"nothing of that name in own\.net; expected a subclass of torch\.nn\.Module"),
        ("Net = 3", r"Net is a int in own\.net; expected a subclass"),
        ("class Net: pass", r"Net is a class of another kind in own\.net; expected a subclass"),
        (net(made="widths"), r"Net\(6, 3\) failed \(TypeError: .*made with \(num_features, num_classes\)"),
        (net(body="raise OSError('no\\nweights')"), r"Net\(6, 3\) failed \(OSError: no weights, line 8 of own\.net\)"),
        (net(body="raise ValueError('x' * 5000)"), r"ValueError: x{250,300} … \(cut\), line 8 of own\.net\)"),
        (net(forward="self.outer(features[:, :2])"), r"its forward failed \(RuntimeError: .*logits \(3, 3\)"),
        (net(forward="[self.outer(features)]"), r"its forward gave a list; expected float32 logits \(3, 3\)"),
        (net(forward="self.outer(features)[:, 0]"), r"gave float32 \(3,\); expected float32 logits \(3, 3\)"),
        (net(forward="self.outer(features)[:, :2]"), r"gave float32 \(3, 2\); .*: end with a layer of num_classes"),
        (net(forward="self.outer(features).double()"), r"gave float64 \(3, 3\); expected float32 logits"),
        (net(body="self.norm = nn.BatchNorm1d(3)"), r"norm\.num_batches_tracked .* is int64; .*LayerNorm or GroupNorm"),
        (net(body="self.w = nn.Parameter(torch.zeros(2).double())"), r"w in its state_dict is float64; .*\.float\(\)"),
        (net(body="self.w = nn.Parameter(torch.zeros(2).half())"), r"w in its state_dict is float16; expected float32"),
        (net(body="self.parts = nn.ModuleDict({'a/b': nn.Linear(1, 1)})"), r"parts\.a/b.*expected no slash"),
        (net(body="del self.outer", forward="torch.zeros(len(features), 3)"), "its state_dict is empty"),
        ("import sys; sys.exit('no arguments')", r"can't be imported \(SystemExit: no arguments\)"),
        (net(body="raise SystemExit(4)"), r"Net\(6, 3\) failed \(SystemExit: 4, line 8 of own\.net\)"),
        (net(body="self.lazy = nn.LazyLinear(3)"), r"lazy\.weight has no shape after a forward; .*take it out"),
        (net(body="self.outer.requires_grad_(False)"), "no parameter has requires_grad; expected parameters to train"),
        (net(forward="self.outer(features).detach()"), r"in training its loss has no gradient .*without detach\(\)"),
        (net(body="self.last = 0", forward=LAST), r"in training its loss has no gradient .*an earlier call has"),
        (net(forward="self.outer(features if self.training else 1 / 0)"), "its forward failed .ZeroDivisionError: "),
        (net(forward="self.outer(features) if not self.training else 1 / 0"), "in training its forward failed .ZeroD"),
        (
            net(forward="self.outer(features[:1] if self.training else features)"),
            r"in training .* gave float32 \(1, 3\)",
        ),
        (net(forward="self.outer(features).squeeze()"), r"gave float32 \(3,\); expected .*\(1, 3\).* may be one row"),
        (net(body=NORM, forward="self.outer(self.norm(features))"), r"more than 1 value per channel.* take LayerNorm"),
        (net(forward="self.outer(features - features.mean(0))"), "the logits of a row depend on the rows beside it"),
        (net(forward="self.outer(nn.functional.dropout(features))"), "or change from call to call; .*self.training"),
        (
            net(forward="self.outer(features).softmax(1)"),
            "shares that sum to 1; expected logits, .*leave out the softm",
        ),
        (net(forward="self.outer(features.sub_(1))"), r"its forward changed the features .*no operation in place"),
        (net(forward="self.outer(features) / 0"), "its forward gave NaN or infinity for features between 0 and 1"),
        (net(body="self.outer.bias.data[1] = torch.inf"), "its initial weights are not all finite"),
        (
            net(forward="self.outer(features) + (0 * self.outer.weight).sqrt().sum()"),
            "its gradients are NaN or infinite",
        ),
    ],
)
def test_what_can_not_work_is_refused_in_one_line(own_code: OwnCode, source: str | None, message: str) -> None:
    if source is not None:
        own_code("net", source)
    with pytest.raises(ConfigError, match=f"^model = 'own.net:Net': .*{message}") as refusal:
        build_model(OWN)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_what_is_trained_was_never_tried(own_code: OwnCode, mode: Callable[[], AbstractContextManager[None]]) -> None:
    """A trial leaves gradients and moves running means; those of a new model are none, and its weights the first."""
    moving = "self.outer(features + self.seen.add_(features.sum() * self.training).mul(0))"
    body = "self.register_buffer('seen', torch.zeros(1)); self.lazy = nn.LazyLinear(3)"
    own_code("net", net(body=body, forward=f"self.lazy({moving})"))
    with mode():
        model = build_model(OWN)
    assert model.state_dict()["seen"] == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [tuple(tensor.shape) for tensor in model.state_dict().values()] == [(1,), (3, 6), (3,), (3, 3), (3,)]
    torch.manual_seed(OWN.seed)
    assert torch.equal(model.state_dict()["outer.weight"], torch.nn.Linear(6, 3).weight)


@pytest.mark.parametrize(
    "body",
    [
        "self.register_buffer('steps', torch.zeros(1, dtype=torch.int64), persistent=False)",
        "self.norm = nn.LayerNorm(3)",
        "self.outer.weight = nn.Parameter(self.outer.weight.T.contiguous().T)",
        "self.temperature = nn.Parameter(torch.tensor(1.0))",
    ],
)
def test_what_the_messages_advise_is_taken(own_code: OwnCode, body: str) -> None:
    own_code("net", net(body=body))
    assert build_model(OWN).state_dict()["outer.weight"].shape == (3, 6)


def example_rows(classes: int = 3) -> Dataset:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, 64)
    families = np.where(labels == 0, "benign", "attack")
    return Dataset(random.normal(size=(64, 6)).astype(np.float32), labels, families)


def test_a_layer_that_draws_is_seeded_for_each_tenant_and_round(own_code: OwnCode) -> None:
    own_code("net", NET)

    def trained(seed: tuple[int, ...], state: int) -> np.ndarray:
        torch.manual_seed(state)  # whatever went before in this process
        model = build_model(OWN)
        train(model, example_rows(), TrainingSettings(1, 64, 0.1), seed)  # one batch: its order plays no part
        return get_parameters(model)[0]

    assert np.array_equal(trained((1, 0, 1), 5), trained((1, 0, 1), 6))
    assert np.abs(trained((1, 0, 1), 5) - trained((1, 0, 2), 5)).max() > 1e-4, "another mask in the next round"


def test_adam_steps_by_the_learning_rate_and_forgets_in_between() -> None:
    config = Config(num_features=6, optimizer="adam", learning_rate=0.01, local_epochs=1, batch_size=64)
    settings, rows = TrainingSettings.of(config), example_rows(2)
    model = build_model(config)
    for round_number in (1, 2):
        before = np.concatenate([p.ravel() for p in get_parameters(model)])
        train(model, rows, settings, seed=(1, 0, round_number))
        step = np.abs(np.concatenate([p.ravel() for p in get_parameters(model)]) - before)
        # The first step of Adam is the learning rate in the gradient's direction; a second one would not be.
        moved = step[step > 0]
        assert len(moved) > 0.8 * len(step)
        assert np.median(moved) == pytest.approx(0.01, rel=1e-3)
        assert np.quantile(moved, 0.1) == pytest.approx(0.01, rel=1e-2)


def test_a_round_for_another_model_is_refused_and_its_name_imported_by_nobody(
    own_code: OwnCode, tmp_path: Path
) -> None:
    """Of equal shapes, so that nothing else would tell. What the server names is there, and runs if it is imported."""
    ran = tmp_path / "ran"
    own_code("theirs", f"open({str(ran)!r}, 'w').close()\n{NET}")
    own_code("net", NET)
    config = Config(
        model="own.net:Net", num_features=6, he_scheme="none", num_rounds=1, num_samples_per_client=20,
        log_dir=str(tmp_path / "logs"), fraction_evaluate=0.0,
    )  # fmt: skip
    tenants = make_tenants(config)
    for tenant in tenants.values():
        tenant_answer = tenant.answer

        def answer(request, tenant_answer=tenant_answer):  # type: ignore[no-untyped-def]
            if "model" in request.values:
                request.values["model"] = "own.theirs:Net"
            return tenant_answer(request)

        tenant.answer = answer  # type: ignore[method-assign]
    run = open_in_memory(config, tenants)
    try:
        run.coordinator.run()
    finally:
        run.close()
    (record,) = run.coordinator.records
    assert record.contributors == 0
    for reason in record.failed.values():
        assert "asks for model = 'own.theirs:Net' (mine: 'own.net:Net'); a client trains by its own settings" in reason
    assert not ran.exists()
    assert "own.theirs" not in sys.modules
