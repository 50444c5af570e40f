"""Early stopping and server momentum in whole runs: the server's own loop and real clients, without a network."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.client import Client
from flwr.common import (
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    ReconnectIns,
)
from flwr.server.client_proxy import ClientProxy
from safetensors.numpy import load_file

from client.flower_client import TenantClient
from orchestrator import server as server_module
from orchestrator.aggregation import PlainAggregation
from orchestrator.aggregator import Aggregator
from orchestrator.checkpoint import load_checkpoint, save_checkpoint
from orchestrator.early_stopping import EarlyStopping
from orchestrator.feature_statistics import StatisticsCollector
from orchestrator.roster import Roster
from orchestrator.run_folder import RoundRecord, RunFolder
from orchestrator.server import OrchestratorServer
from orchestrator.strategy import EncryptedFedAvg
from shared.config import Config
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data
from shared.errors import ResumeError
from shared.he_utils import make_keys
from shared.metrics import evaluate
from shared.model import build_model, set_parameters
from shared.preprocessing import Preprocessing

SMALL: dict[str, Any] = {
    "num_features": 6, "num_hidden_units": (4,), "num_samples_per_client": 60, "local_epochs": 1, "num_rounds": 6,
    "fraction_evaluate": 0.0, "he_scheme": "none", "data_skewness": 0.9, "learning_rate": 0.2,
}  # fmt: skip


class InProcess(ClientProxy):
    """A client that is called where Flower would send a message."""

    def __init__(self, client: Client, cid: str) -> None:
        super().__init__(cid)
        self._client = client

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        return self._client.get_properties(ins)

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        return self._client.get_parameters(ins)

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        return self._client.fit(ins)

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        return self._client.evaluate(ins)

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        return DisconnectRes(reason="")


def serve(config: Config, folder: RunFolder, resume: bool = False) -> OrchestratorServer:
    """A run up to `num_rounds`, with what `run_server` does between the keys and the socket."""
    aggregator = Aggregator(make_keys(config), config.min_contributors, config.num_clients)
    roster = Roster(folder.name, "session")
    for client_id in range(config.num_clients):
        tenant = TenantClient(config, client_id, load_client_data(config, client_id))
        roster.register(InProcess(tenant, f"cid-{client_id}"))
    strategy = EncryptedFedAvg(
        config, aggregator, PlainAggregation(), roster, load_validation_data(config), load_test_data(config)
    )
    checkpoint = load_checkpoint(folder.checkpoint) if resume else strategy.checkpoint([])
    if resume:
        strategy.restore(checkpoint, load_schema(config))
    statistics = StatisticsCollector(
        config, aggregator, PlainAggregation(), roster, load_schema(config), strategy.encryption
    )
    server = OrchestratorServer(config, strategy, statistics, roster, folder, checkpoint)
    server.fit(config.num_rounds, timeout=None)
    return server


@pytest.fixture(autouse=True)
def _keep_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_exit_at_signals", lambda: None)


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
    folder = RunFolder.create(config)
    server = serve(config, folder)
    assert [r.round for r in server.records] == [1, 2, 3, 4]

    two_rounds = RunFolder.create(config)
    serve(config.replace(num_rounds=2), two_rounds)
    best, kept = load_file(two_rounds.path / "model.safetensors"), load_file(folder.path / "model.safetensors")
    last = load_checkpoint(folder.checkpoint).parameters
    for name, tensor in best.items():
        assert np.array_equal(kept[name], tensor)
    assert any(not np.array_equal(last[name], tensor) for name, tensor in best.items())


def test_off_means_all_rounds_and_the_last_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_losses(monkeypatch, [0.1, 0.9, 0.9, 0.9, 0.9, 0.9])
    config = Config(**SMALL, log_dir=str(tmp_path))
    folder = RunFolder.create(config)
    assert len(serve(config, folder).records) == 6
    checkpoint = load_checkpoint(folder.checkpoint)
    assert checkpoint.best_parameters is None
    kept = load_file(folder.path / "model.safetensors")
    assert all(np.array_equal(kept[name], tensor) for name, tensor in checkpoint.parameters.items())


def test_the_recorded_loss_is_on_the_validation_set_and_not_on_the_test_set(tmp_path: Path) -> None:
    config = Config(**SMALL | {"num_rounds": 1}, log_dir=str(tmp_path))
    folder = RunFolder.create(config)
    record = serve(config, folder).records[0]
    model = build_model(config)
    kept = load_file(folder.path / "model.safetensors")
    set_parameters(model, [kept[name] for name in model.state_dict()])
    scaling = Preprocessing.from_arrays(load_schema(config), load_checkpoint(folder.checkpoint).preprocessing or {})
    assert record.validation_loss == evaluate(model, scaling.apply(load_validation_data(config))).loss
    assert record.loss == evaluate(model, scaling.apply(load_test_data(config))).loss
    assert record.loss != record.validation_loss
    assert list(record.family_recall) == ["attack"]
    assert list(record.recall_at_fpr) == list(record.fpr_at_threshold) == ["0.001", "0.01"]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, stop_after: int) -> None:
    config = Config(**SMALL, log_dir=str(tmp_path), server_momentum=0.9, early_stopping_rounds=3, proximal_mu=0.1)
    undisturbed = RunFolder.create(config)
    whole = serve(config, undisturbed)
    interrupted = RunFolder.create(config)
    serve(config.replace(num_rounds=stop_after), interrupted)
    resumed = serve(config, interrupted, resume=True)
    assert [r.validation_loss for r in resumed.records] == [r.validation_loss for r in whole.records]
    for name in ("checkpoint.safetensors", "model.safetensors"):
        expected, found = load_file(undisturbed.path / name), load_file(interrupted.path / name)
        assert expected.keys() == found.keys()
        for rounds in (expected, found):
            rounds.pop("server/records", None)  # they hold seconds
        assert all(np.array_equal(found[key], tensor) for key, tensor in expected.items())


def test_momentum_without_its_velocity_would_be_another_run(tmp_path: Path) -> None:
    """The broken twin of the test above."""
    config = Config(**SMALL, log_dir=str(tmp_path), server_momentum=0.9)
    whole = serve(config, RunFolder.create(config))
    interrupted = RunFolder.create(config)
    serve(config.replace(num_rounds=3), interrupted)
    checkpoint = load_checkpoint(interrupted.checkpoint)
    assert checkpoint.velocity is not None
    assert checkpoint.velocity.dtype == np.float64
    save_checkpoint(interrupted.checkpoint, dataclasses.replace(checkpoint, velocity=None))
    assert serve(config, interrupted, resume=True).records[3].loss != whole.records[3].loss


def test_a_run_that_stopped_early_does_not_go_on_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(**SMALL | {"learning_rate": 1e-9}, log_dir=str(tmp_path), early_stopping_rounds=1)
    folder = RunFolder.create(config)
    rounds = len(serve(config, folder).records)
    assert rounds < config.num_rounds
    assert len(serve(config, folder, resume=True).records) == rounds


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
    folder = RunFolder.create(config)
    serve(config.replace(num_rounds=1), folder)
    with pytest.raises(ResumeError, match="other shapes"):
        serve(config.replace(num_hidden_units=(5,)), folder, resume=True)
