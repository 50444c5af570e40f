"""One scripted federation over each transport: the same model to the last bit, the same figures, the same outcomes."""

import logging
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    ndarrays_to_parameters,
)

from client.flower_client import FlowerClient
from client.tenant import Tenant
from flower_app.grid_transport import GridTransport
from orchestrator import flower_transport
from orchestrator import server as server_module
from orchestrator.coordinator import Coordinator
from orchestrator.flower_transport import FlowerTransport
from orchestrator.patience import Patience
from orchestrator.run import open_run
from orchestrator.seats import Channel
from orchestrator.server import OrchestratorServer
from orchestrator.streams import Peer, Stream
from shared.config import Config
from shared.exchange import Kind, Refusal, Reply, Request
from shared.masking import EVALUATION, WEIGHTS, RoundTerms
from shared.refusals import SENTENCES
from tests.federations import make_tenants, masked_settings, open_in_memory
from tests.grids import FakeGrid, agents

# (bucket, round or attempt, kind) -> whose answer is lost, though the tenant gave it.
LOSSES = {
    ("quantiles", 1, Kind.STATISTICS): "0",
    (WEIGHTS, 2, Kind.ADVERTISE): "3",
    (WEIGHTS, 3, Kind.SHARE): "2",
    (WEIGHTS, 4, Kind.TRAIN): "1",
    (WEIGHTS, 5, Kind.CONFIRM): "0",
    (WEIGHTS, 6, Kind.REVEAL): "3",
    (EVALUATION, 7, Kind.EVALUATE): "2",
    (EVALUATION, 7, Kind.REVEAL): "1",  # with the one above too few
}
REFUSING, REFUSED_ROUND, ROUNDS = "1", 8, 9


class Script:
    """What is lost; knows by their first stage which sum the later ones are of."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[str, int]] = {}

    def __call__(self, node: str, request: Request) -> bool:
        payload = request.values.get("payload")
        if request.kind is Kind.ADVERTISE and isinstance(payload, bytes):
            terms = RoundTerms.decode(payload)
            self._sums[node] = (terms.bucket, terms.round_number)
        return LOSSES.get((*self._sums.get(node, ("", 0)), request.kind)) == node


class Connection(flower_transport.Connection):
    """A connection of Flower's to a tenant in this process."""

    def __init__(self, tenant: Tenant, script: Script) -> None:
        super().__init__(Stream(Peer("127.0.0.1", tenant.client_id), Channel(), lambda _stream: None, 1 << 20))
        self._client, self._name, self._script = FlowerClient(tenant), str(tenant.client_id), script

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        answer = self._client.get_properties(ins)
        self._lose(Kind(str(ins.config["kind"])), ins.config)
        return answer

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        answer = self._client.fit(ins)
        self._lose(Kind.TRAIN, ins.config)
        return answer

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        answer = self._client.evaluate(ins)
        self._lose(Kind.EVALUATE, ins.config)
        return answer

    def _lose(self, kind: Kind, values: Any) -> None:
        if self._script(self._name, Request(kind, values)):
            raise ConnectionError("lost")

    get_parameters = reconnect = None  # type: ignore[assignment]


class Refusing(Tenant):
    def answer(self, request: Request) -> Reply | Refusal:
        if request.kind is Kind.TRAIN and request.values["round"] == REFUSED_ROUND:
            request = Request(request.kind, {**request.values, "learning_rate": 0.5}, request.model)
        return super().answer(request)


def over_memory(config: Config, tenants: dict[str, Tenant]) -> Coordinator:
    run = open_in_memory(config, tenants, lost=Script())
    run.coordinator.run()
    return run.coordinator


def over_flower(config: Config, tenants: dict[str, Tenant]) -> Coordinator:
    run = open_run(config, FlowerTransport)
    script = Script()
    for tenant in tenants.values():
        run.transport.connections.register(Connection(tenant, script))
    server = OrchestratorServer(run.coordinator, run.transport)
    server.fit(config.num_rounds, timeout=None)
    assert server.failure is None
    return run.coordinator


def over_grid(config: Config, tenants: dict[str, Tenant]) -> Coordinator:
    """Flower's present engine: its messages, the ClientApp, and the tenants' agents behind their sockets."""
    with agents(tenants, Path(config.log_dir)) as sockets:
        grid: Any = FakeGrid(sockets, Script())
        run = open_run(config, lambda seats: GridTransport(seats, grid, Patience(), idle_seconds=0.005))
        run.coordinator.run()
        run.transport.close()
    return run.coordinator


@pytest.fixture(autouse=True)
def _keep_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_exit_at_signals", lambda _go_on: None)


def scripted(folder: Path, caplog: pytest.LogCaptureFixture, over: Any, scheme: str) -> Iterator[object]:
    """The model, the figures of the rounds and the lines of the log, without what takes time."""
    settings = masked_settings(
        folder, 4, num_rounds=ROUNDS, num_features=4, num_hidden_units=3, num_samples_per_client=60, local_epochs=1,
        min_available_clients=4, min_fit_clients=3, min_evaluate_clients=3, server_momentum=0.5, he_scheme=scheme,
        audit=True,
    )  # fmt: skip
    tenants = make_tenants(settings)
    tenants[REFUSING].__class__ = Refusing
    with caplog.at_level(logging.INFO, logger="orchestrator"):
        coordinator = over(settings, tenants)
    yield {name: array.tobytes() for name, array in coordinator.model.named.items()}
    yield [
        {name: value for name, value in asdict(record).items() if not name.endswith("_seconds")}
        for record in coordinator.records
    ]
    lines = [record.getMessage() for record in caplog.records if record.name == "orchestrator"]
    lines = [line for line in lines if not line.startswith("waiting for")]  # only a network makes one wait
    yield sorted(
        re.sub(r"[\d.]+ s|run \S+, files in \S+|[0-9a-f]{16}…|fingerprint [0-9a-f]{64}", "#", line) for line in lines
    )


@pytest.mark.parametrize("scheme", ["paillier", pytest.param("kahe", marks=pytest.mark.long)])
def test_a_scripted_federation_is_the_same_over_each_transport(
    scheme: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = []
    for over in (over_memory, over_flower, over_grid):
        folder = tmp_path / over.__name__
        folder.mkdir()
        caplog.clear()
        results.append(list(scripted(folder, caplog, over, scheme)))
    memory, *others = results
    for other in others:
        for of_memory, of_other in zip(memory, other, strict=True):
            assert of_memory == of_other
    records: Any = memory[1]
    assert [record["contributor_ids"] for record in records] == [
        ["0", "1", "2", "3"], ["0", "1", "2"], ["0", "1", "3"], ["0", "2", "3"], ["0", "1", "2", "3"],
        ["0", "1", "2", "3"], ["0", "1", "2", "3"], ["0", "2", "3"], ["0", "1", "2", "3"],
    ]  # fmt: skip
    assert list(records[7]["failed"]) == [REFUSING]
    assert [record["client_rows"] is None for record in records] == [number == 7 for number in range(1, ROUNDS + 1)]


def test_a_forest_is_the_same_over_each_transport(tmp_path: Path) -> None:
    """With a tenant's statistics lost once, as in the script above."""
    results = []
    for over in (over_memory, over_flower, over_grid):
        folder = tmp_path / over.__name__
        folder.mkdir()
        settings = masked_settings(
            folder, 4, model="forest", forest_trees=4, forest_parallel=2, forest_depth=2, forest_bins=8,
            forest_columns=0.5, num_rounds=4, num_features=4, num_samples_per_client=200, min_available_clients=4,
            min_fit_clients=3,
        )  # fmt: skip
        coordinator = over(settings, make_tenants(settings))
        assert [record.contributors for record in coordinator.records] == [4] * 4
        results.append({name: array.tobytes() for name, array in coordinator.model.named.items()})
        assert (coordinator.model.named["column"] >= 0).sum() > 5
    assert results[1] == results[0]
    assert results[2] == results[0]


def test_groups_are_drawn_over_each_transport(tmp_path: Path) -> None:
    """Each run draws others, so the models are equal but for the order in which the means are rounded.

    One tenant is lost in the second round, as in the script above.
    """
    models = []
    for over in (over_memory, over_flower, over_grid):
        folder = tmp_path / over.__name__
        folder.mkdir()
        settings = masked_settings(
            folder, 8, groups=2, gate_loss=0.5, num_rounds=2, num_features=4, num_hidden_units=3,
            num_samples_per_client=60, local_epochs=1, min_available_clients=8, fraction_evaluate=0.0,
        )  # fmt: skip
        coordinator = over(settings, make_tenants(settings))
        assert [record.contributors for record in coordinator.records] == [8, 7]
        assert list(coordinator.records[1].failed) == ["3"]
        assert len(coordinator.records[0].groups) == 2
        models.append(np.concatenate([array.ravel() for array in coordinator.model.named.values()]))
    for other in models[1:]:
        assert np.allclose(models[0], other, atol=1e-6)


def test_what_flower_has_fields_for_says_nothing_of_a_tenant() -> None:
    for rows in (10, 20):
        tenant: Any = SimpleNamespace(answer=lambda _request, rows=rows: Reply(bytes(rows)))
        client, model = FlowerClient(tenant), ndarrays_to_parameters([])
        assert client.fit(FitIns(model, {})).num_examples == 1
        evaluation = client.evaluate(EvaluateIns(model, {}))
        assert (evaluation.loss, evaluation.num_examples) == (0.0, 1)


def test_a_server_s_nonsense_does_not_end_a_client(tmp_path: Path) -> None:
    settings = masked_settings(tmp_path, 3, num_features=4, num_hidden_units=3, num_samples_per_client=60)
    client = FlowerClient(make_tenants(settings)["0"])
    nonsense = Parameters([b"no array", b""], "numpy.ndarray")
    statuses = [client.fit(FitIns(nonsense, {})).status, client.evaluate(EvaluateIns(nonsense, {})).status]
    kinds: list[Any] = [{}, {"kind": "no such"}, {"kind": 1}, {"kind": "train"}]
    statuses += [client.get_properties(GetPropertiesIns(values)).status for values in kinds]
    assert all(status.code != Code.OK for status in statuses)
    assert {status.message for status in statuses} <= set(SENTENCES)
