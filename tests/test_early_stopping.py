"""Early stopping and server momentum in whole runs: the coordinator's own loop and real tenants, without a network."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from orchestrator.checkpoint import load_checkpoint, save_checkpoint
from orchestrator.early_stopping import EarlyStopping
from orchestrator.global_model import GlobalModel
from orchestrator.run_folder import RoundRecord, RunFolder
from shared.config import Config
from shared.data_utils import load_schema, load_test_data, load_validation_data
from shared.errors import ResumeError
from shared.metrics import evaluate
from shared.model import build_model, set_parameters
from shared.preprocessing import Preprocessing
from tests.federations import make_tenants, open_in_memory

SMALL: dict[str, Any] = {
    "num_features": 6, "num_hidden_units": (4,), "num_samples_per_client": 60, "local_epochs": 1, "num_rounds": 6,
    "fraction_evaluate": 0.0, "he_scheme": "none", "data_skewness": 0.9, "learning_rate": 0.2,
}  # fmt: skip


def serve(config: Config, resume: RunFolder | None = None) -> tuple[RunFolder, list[RoundRecord]]:
    """A run up to `num_rounds`, or the rest of one."""
    name = resume.name if resume else None
    with contextlib.closing(open_in_memory(config, make_tenants(config), resume=name)) as run:
        run.coordinator.run()
    return run.folder, run.coordinator.records


def script_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let the validation loss of round i be `losses[i - 1]`."""
    note = EarlyStopping.note

    def scripted(self: EarlyStopping, server_round: int, loss: float, parameters: Any) -> None:
        note(self, server_round, losses[server_round - 1], parameters)

    monkeypatch.setattr(EarlyStopping, "note", scripted)


def test_a_run_stops_when_validation_no_longer_improves_and_keeps_the_best_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(**SMALL, log_dir=str(tmp_path), early_stopping_rounds=2)
    script_losses(monkeypatch, [0.9, 0.5, 0.6, 0.7, 0.1, 0.0])
    folder, records = serve(config)
    assert [r.round for r in records] == [1, 2, 3, 4]

    two_rounds, _ = serve(config.replace(num_rounds=2))
    best, kept = load_file(two_rounds.path / "model.safetensors"), load_file(folder.path / "model.safetensors")
    last = load_checkpoint(folder.checkpoint).parameters
    for name, tensor in best.items():
        assert np.array_equal(kept[name], tensor)
    assert any(not np.array_equal(last[name], tensor) for name, tensor in best.items())


def test_off_means_all_rounds_and_the_last_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_losses(monkeypatch, [0.1, 0.9, 0.9, 0.9, 0.9, 0.9])
    config = Config(**SMALL, log_dir=str(tmp_path))
    folder, records = serve(config)
    assert len(records) == 6
    checkpoint = load_checkpoint(folder.checkpoint)
    assert checkpoint.best_parameters is None
    kept = load_file(folder.path / "model.safetensors")
    assert all(np.array_equal(kept[name], tensor) for name, tensor in checkpoint.parameters.items())


def test_the_recorded_loss_is_on_the_validation_set_and_not_on_the_test_set(tmp_path: Path) -> None:
    config = Config(**SMALL | {"num_rounds": 1}, log_dir=str(tmp_path))
    folder, [record] = serve(config)
    model = build_model(config)
    kept = load_file(folder.path / "model.safetensors")
    set_parameters(model, [kept[name] for name in model.state_dict()])
    scaling = Preprocessing.from_arrays(load_schema(config), load_checkpoint(folder.checkpoint).preprocessing or {})
    assert record.validation_loss == evaluate(model, scaling.apply(load_validation_data(config))).loss
    assert record.loss == evaluate(model, scaling.apply(load_test_data(config))).loss
    assert record.loss != record.validation_loss
    assert list(record.family_recall) == ["attack"]
    # Half of 2,000 validation rows are benign: too few for a rate of 0.1 %.
    assert list(record.recall_at_fpr) == list(record.fpr_at_threshold) == ["0.01"]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, stop_after: int) -> None:
    config = Config(**SMALL, log_dir=str(tmp_path), server_momentum=0.9, early_stopping_rounds=3, proximal_mu=0.1)
    undisturbed, whole = serve(config)
    interrupted, _ = serve(config.replace(num_rounds=stop_after))
    _, resumed = serve(config, interrupted)
    assert [r.validation_loss for r in resumed] == [r.validation_loss for r in whole]
    for name in ("checkpoint.safetensors", "model.safetensors"):
        expected, found = load_file(undisturbed.path / name), load_file(interrupted.path / name)
        assert expected.keys() == found.keys()
        for tensors in (expected, found):
            tensors.pop("server/log_sha256", None)  # of lines that hold seconds
        assert all(np.array_equal(found[key], tensor) for key, tensor in expected.items())


def test_momentum_without_its_velocity_would_be_another_run(tmp_path: Path) -> None:
    """The broken twin of the test above."""
    config = Config(**SMALL, log_dir=str(tmp_path), server_momentum=0.9)
    _, whole = serve(config)
    interrupted, _ = serve(config.replace(num_rounds=3))
    checkpoint = load_checkpoint(interrupted.checkpoint)
    assert checkpoint.learner["velocity"].dtype == np.float64
    save_checkpoint(interrupted.checkpoint, dataclasses.replace(checkpoint, learner={}))
    _, resumed = serve(config, interrupted)
    assert resumed[3].loss != whole[3].loss


def test_a_run_that_stopped_early_does_not_go_on_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(**SMALL | {"learning_rate": 1e-9}, log_dir=str(tmp_path), early_stopping_rounds=1)
    folder, records = serve(config)
    assert len(records) < config.num_rounds
    assert len(serve(config, folder)[1]) == len(records)


def test_skipped_rounds_do_not_count_against_patience() -> None:
    stopping = EarlyStopping(2)
    model = {"w": np.ones(1, np.float32)}
    records = [RoundRecord(1, validation_loss=0.5), RoundRecord(2, validation_loss=0.6)]
    skipped = [RoundRecord(n, validation_loss=0.6, skipped="too few") for n in (3, 4, 5)]
    stopping.restore([*records, *skipped], model)
    assert not stopping.exhausted
    assert stopping.best_round == 1
    stopping.note(6, 0.7, model)
    assert stopping.exhausted


def test_an_equal_loss_is_no_improvement() -> None:
    stopping = EarlyStopping(1)
    first, second = {"w": np.zeros(1, np.float32)}, {"w": np.ones(1, np.float32)}
    stopping.note(1, 0.5, first)
    stopping.note(2, 0.5, second)
    assert stopping.exhausted
    assert stopping.final(second) is first


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    config = Config(**SMALL, log_dir=str(tmp_path), early_stopping_rounds=1)
    folder, _ = serve(config.replace(num_rounds=1))
    wider = config.replace(num_hidden_units=(5,))
    model = GlobalModel(wider, load_validation_data(config), load_test_data(config))
    with pytest.raises(ResumeError, match="other shapes"):
        model.restore(load_checkpoint(folder.checkpoint), [], load_schema(config))
    with pytest.raises(ResumeError, match="num_hidden_units was"):  # said before the checkpoint is looked at
        serve(wider, folder)
