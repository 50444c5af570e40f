"""The gate: a sum that the orchestrator's validation rows speak against does not become the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import learning
from shared.config import Config
from tests.federations import make_tenants, masked_settings, open_in_memory


def settings(folder: Path, **more: Any) -> Config:
    return masked_settings(
        folder, 4, num_rounds=4, num_features=6, num_samples_per_client=600, min_available_clients=4,
        min_fit_clients=3, min_evaluate_clients=3, fraction_evaluate=0.0, data_skewness=0.2, audit=True, **more,
    )  # fmt: skip


def poison(monkeypatch: pytest.MonkeyPatch, config: Config, from_round: int) -> Any:
    """Tenant 1 sends the worst that is within the fixed point: away from what it learned, as far as goes."""
    tenants = make_tenants(config)
    made = tenants["1"]._learning
    contribution = made.contribution

    def turned(number: int, *arguments: Any) -> learning.Contribution:
        mine = contribution(number, *arguments)

        def compute(on_epoch: Any) -> Any:
            vector = mine.compute(on_epoch)
            return -np.sign(vector) * 1.9 if number >= from_round else vector

        return learning.Contribution(mine.title, mine.epochs, mine.bucket, mine.nothing, compute, mine.work)

    monkeypatch.setattr(made, "contribution", turned)
    return tenants


@pytest.mark.parametrize("gate_loss", [0.0, 0.3])
def test_one_bad_client_turns_the_model_unless_the_gate_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate_loss: float
) -> None:
    config = settings(tmp_path, gate_loss=gate_loss, server_momentum=0.5)
    run = open_in_memory(config, poison(monkeypatch, config, from_round=3))
    run.coordinator.run()
    records = run.coordinator.records
    losses = [record.validation_loss or 0.0 for record in records]
    rolled_back = [record.skipped is not None and record.skipped.startswith("rolled back") for record in records]
    if gate_loss:
        assert rolled_back == [False, False, True, True]
        assert losses[2] == losses[1] == losses[3]
    else:
        assert rolled_back == [False] * 4
        assert losses[2] > losses[1] + 1.0, "what the gate is for"


def test_after_a_round_that_was_rolled_back_the_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Momentum included: the next good round is what it would have been at once. Tenants that audit follow."""
    config = settings(tmp_path, gate_loss=0.3, server_momentum=0.5)
    tenants = poison(monkeypatch, config, from_round=2)
    run = open_in_memory(config, tenants)
    begin = run.coordinator.train
    places = []

    def train(number: int) -> Any:
        if number == 3:
            monkeypatch.undo()  # the client is mended
        places.append([array.tobytes() for array in run.coordinator.model.parameters])
        return begin(number)

    run.coordinator.train = train  # type: ignore[method-assign]
    run.coordinator.run()
    assert [record.skipped is None for record in run.coordinator.records] == [True, False, True, True]
    assert places[1] == places[2]
    assert run.folder.verdicts.read_text(encoding="utf-8").count('"failed": {}') == 3
