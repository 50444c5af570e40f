"""Whole federations of `model: forest`, without a network: each equals the forest of all rows in one place."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.local_vs_federated import compare
from client.learning import LevelSums
from client.tenant import Tenant
from orchestrator.checkpoint import load_checkpoint, save_checkpoint
from orchestrator.early_stopping import EarlyStopping
from orchestrator.report.run_data import read_run
from orchestrator.run_folder import RoundRecord, RunFolder
from shared.config import Config, parse_config
from shared.data_sources.scaling import Quantiles
from shared.data_utils import load_client_data
from shared.errors import NoSumError, ResumeError
from shared.exchange import Kind, Refusal, Reply, Request
from shared.forest.plan import ForestPlan
from shared.forest.pooled import grow_pooled
from shared.model import build_model
from shared.preprocessing import Preprocessing
from tests.federations import Tapped, make_tenants, masked_settings, never, open_in_memory
from tests.trained import joined

SMALL: dict[str, Any] = {
    "model": "forest", "forest_trees": 4, "forest_parallel": 2, "forest_depth": 3, "forest_bins": 8,
    "forest_columns": 0.5, "num_features": 6, "num_samples_per_client": 300, "num_rounds": 6, "data_skewness": 0.9,
}  # fmt: skip
KEYS: dict[str, Any] = {"he_key_length": 512, "allow_insecure_key": True}
PLAIN: dict[str, Any] = {"he_scheme": "none", "fraction_evaluate": 0.0}
PARTITIONS: dict[str, dict[str, Any]] = {
    "even": {"partition": "even"},
    "family": {"partition": "family"},
    "quantity": {"partition": "quantity"},
    "natural": {"partition": "natural", "partition_column": "account"},
    "Dirichlet(0.5)": {"partition": "dirichlet", "dirichlet_alpha": 0.5},
    "Dirichlet(0.1)": {"partition": "dirichlet", "dirichlet_alpha": 0.1},
}
Arrays = dict[str, NDArray[np.float32]]


def federated(
    config: Config,
    tenants: dict[str, Tenant] | None = None,
    resume: str | None = None,
    lost: Callable[[str, Request], bool] = never,
) -> tuple[Arrays, RunFolder, list[RoundRecord]]:
    """The forest after a run up to `num_rounds`, or the rest of one."""
    tenants = tenants or make_tenants(config)
    with contextlib.closing(open_in_memory(config, tenants, resume=resume, lost=lost)) as run:
        run.coordinator.run()
    for tenant in tenants.values():
        tenant.close()
    return dict(run.coordinator.model.named), run.folder, run.coordinator.records


def pooled(config: Config, plan: ForestPlan | None = None) -> Arrays:
    """The forest of all clients' rows, of which each holds out some, in one place."""
    clients = [load_client_data(config, client) for client in range(config.num_clients)]
    parts = [client.train for client in clients]
    preprocessing = Preprocessing.pooled(clients[0].schema, parts, config.scaling)
    assert isinstance(preprocessing.scaler, Quantiles)
    forest = grow_pooled(plan or ForestPlan.of(config), preprocessing.apply(joined(parts)), preprocessing.scaler)
    return {name: tensor.numpy() for name, tensor in forest.state_dict().items()}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


def splits(forest: Arrays) -> int:
    return int((forest["column"] >= 0).sum())


@pytest.mark.parametrize("scheme", ["none", "paillier", "kahe"])
def test_a_federation_grows_the_forest_of_all_rows_in_one_place(tmp_path: Path, scheme: Any) -> None:
    config = Config(**SMALL, **KEYS, he_scheme=scheme, log_dir=str(tmp_path))
    forest, _, records = federated(config)
    assert_same(forest, pooled(config))
    assert splits(forest) > 10
    assert [record.contributors for record in records] == [3] * 6
    assert all(record.client_rows for record in records), "each round was evaluated"
    area = records[-1].roc_auc
    assert area is not None
    assert area > 0.85


@pytest.mark.parametrize("scheme", ["paillier", "kahe"])
def test_masked_it_is_the_same_forest(tmp_path: Path, scheme: str) -> None:
    config = masked_settings(tmp_path, 3, **SMALL, he_scheme=scheme, min_fit_clients=3)
    forest, _, records = federated(config)
    assert [record.skipped for record in records] == [None] * 6
    assert_same(forest, pooled(config))


def flows(folder: Path) -> Path:
    """900 labelled flows of four accounts, with three kinds of attacks."""
    random = np.random.default_rng(5)
    lines = ["bytes,packets,protocol,account,label"]
    kinds = ("benign", "dos", "scan", "brute")
    for _ in range(900):
        kind = kinds[random.choice(4, p=[0.55, 0.25, 0.15, 0.05])]
        shift = kinds.index(kind)
        account = f"acct-{min(3, int(random.integers(3)) + shift // 2)}"
        values = np.expm1(random.normal([6 - shift, 2 + 0.8 * shift], 1.2).clip(0))
        lines.append(f"{values[0]:.0f},{values[1]:.0f},{random.choice(['tcp', 'udp'])},{account},{kind}")
    path = folder / "flows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("partition", PARTITIONS)
def test_how_the_rows_are_shared_out_decides_nothing(tmp_path: Path, partition: str) -> None:
    """Each client's share is rounded for the rows that it holds out, so the pooled rows are those of the partition."""
    config = parse_config(
        {
            **SMALL, **PLAIN, **PARTITIONS[partition], "data_source": "csv", "data_path": str(flows(tmp_path)),
            "csv_label_column": "label", "csv_drop_columns": "account", "csv_categorical_columns": "protocol",
            "hash_width": 4, "num_features": 6, "log_dir": str(tmp_path),
        }
    )  # fmt: skip
    forest, _, _ = federated(config)
    assert_same(forest, pooled(config))
    assert splits(forest) > 10


def test_one_set_of_rows_gives_one_forest_however_many_tenants_hold_it(tmp_path: Path) -> None:
    config = Config(**SMALL, **PLAIN, log_dir=str(tmp_path))
    clients = [load_client_data(config, client) for client in range(3)]
    rows = joined([client.train for client in clients])
    forests = []
    for cuts in ([300, 600], [20, 25], [400, 790]):
        own = {}
        for number, part in enumerate(np.split(np.arange(len(rows)), cuts)):
            own[number] = type(clients[0])(clients[0].schema, rows.take(part), clients[number].holdout)
        forests.append(federated(config, make_tenants(config, own))[0])
    assert_same(forests[1], forests[0])
    assert_same(forests[2], forests[0])


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_run_goes_on_in_the_middle_of_a_tree(tmp_path: Path, stop_after: int) -> None:
    config = Config(**SMALL, **PLAIN, log_dir=str(tmp_path))
    whole, _, _ = federated(config)
    half, folder, _ = federated(config.replace(num_rounds=stop_after))
    assert splits(half) < splits(whole)
    resumed, again, records = federated(config, resume=folder.name)
    assert (again.name, len(records)) == (folder.name, 6)
    assert_same(resumed, whole)


def test_without_the_level_above_a_tree_does_not_go_on(tmp_path: Path) -> None:
    """The broken twin of the test above."""
    config = Config(**SMALL, **PLAIN, log_dir=str(tmp_path))
    _, folder, _ = federated(config.replace(num_rounds=2))
    checkpoint = load_checkpoint(folder.checkpoint)
    checkpoint.learner.clear()
    save_checkpoint(folder.checkpoint, checkpoint)
    with pytest.raises(ResumeError, match="the checkpoint does not say how to go on"):
        federated(config, resume=folder.name)


def test_the_run_ends_with_the_last_tree(tmp_path: Path) -> None:
    config = Config(**SMALL | {"num_rounds": 50}, **PLAIN, log_dir=str(tmp_path))
    forest, folder, records = federated(config)
    assert len(records) == 6
    assert len(federated(config, resume=folder.name)[2]) == 6
    assert_same(forest, pooled(config))


@pytest.mark.parametrize("num_rounds", [5, 6])
def test_a_run_of_too_few_rounds_for_its_forest_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_rounds: int
) -> None:
    federated(Config(**SMALL | {"num_rounds": num_rounds}, **PLAIN, log_dir=str(tmp_path)))
    said = "num_rounds = 5: the forest stays unfinished, as it takes 6 rounds (forest_trees / forest_parallel * "
    assert (said in caplog.text) == (num_rounds == 5)


def test_early_stopping_keeps_the_best_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note, losses = EarlyStopping.note, [0.9, 0.5, 0.6, 0.7, 0.1, 0.0]

    def scripted(self: EarlyStopping, server_round: int, loss: float, parameters: Any) -> None:
        note(self, server_round, losses[server_round - 1], parameters)

    monkeypatch.setattr(EarlyStopping, "note", scripted)
    config = Config(**SMALL, **PLAIN, log_dir=str(tmp_path), early_stopping_rounds=2)
    _, folder, records = federated(config)
    assert len(records) == 4
    two_levels, _, _ = federated(config.replace(num_rounds=2, early_stopping_rounds=0))
    assert_same(load_file(folder.model), two_levels)


def test_a_batch_that_loses_a_tenant_ends_and_the_next_begins_with_who_is_there(tmp_path: Path) -> None:
    """Tenant 3 is lost after the root of the first batch; the sums that follow are all of one set of tenants."""
    config = masked_settings(tmp_path, 4, **SMALL | {"num_rounds": 8}, min_fit_clients=3)
    gone: list[int] = []

    def lost(node: str, request: Request) -> bool:
        if request.kind is Kind.TRAIN and request.values["round"] == 2:
            gone.append(2)
        return node == "3" and bool(gone)

    forest, _, records = federated(config, lost=lost)
    assert [len(record.contributor_ids) for record in records] == [4, 0, 3, 3, 3]
    assert "goes on from one with client 3 in it" in str(records[1].skipped)
    assert (forest["column"][:2, 1:] < 0).all(), "the first batch has its roots alone"
    assert splits({"column": forest["column"][2:]}) > 5


class Failing(Tenant):
    """Its rows fail it in one round: a masked tenant then sends zeros, which look like any other vector."""

    def answer(self, request: Request) -> Reply | Refusal:
        rows, learning = self._rows, self._learning
        if request.kind is Kind.TRAIN and request.values["round"] == 2:
            assert isinstance(learning, LevelSums)
            learning._binned = request.values["scaler"], np.zeros((6, 3), np.uint8)  # type: ignore[assignment]
        answer = super().answer(request)
        if request.kind is Kind.TRAIN:
            self._learning = LevelSums(self.config, self.model, rows)  # type: ignore[arg-type]
        return answer


def test_a_masked_tenant_s_zeros_in_the_middle_of_a_tree_are_noticed(tmp_path: Path) -> None:
    config = masked_settings(tmp_path, 3, **SMALL, min_fit_clients=3)
    tenants = make_tenants(config)
    tenants["1"].__class__ = Failing
    _, _, records = federated(config, tenants)
    assert [record.skipped for record in records if record.round != 2] == [None] * (len(records) - 1)
    assert records[1].skipped == "the sums of a level are of other rows than those of the level above it"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("column", 6.0, "a forest that splits by a column that is none of 0 to 5"),
        ("column", 0.5, "a forest that splits by a column that is none of 0 to 5"),
        ("column", -2.0, "a forest that splits by a column that is none of 0 to 5"),
        ("grown", -1.0, "a forest that does not say how far it is grown"),
        ("grown", 6.0, "a forest that is grown, and asks for more of it"),
    ],
)
def test_a_server_s_forest_is_looked_at_before_it_is_used(tmp_path: Path, name: str, value: float, reason: str) -> None:
    config = Config(**SMALL | {"num_rounds": 1}, **PLAIN, log_dir=str(tmp_path))
    lines = {tenant: Tapped(client) for tenant, client in make_tenants(config).items()}
    place = list(build_model(config).state_dict()).index(name)

    def alter(request: Request) -> Request:
        if request.kind is Kind.TRAIN:
            request.model[place].flat[0] = value
        return request

    for line in lines.values():
        line.alter = alter
    with contextlib.closing(open_in_memory(config, lines)) as run:
        run.coordinator.run()
    failed = run.coordinator.records[0].failed
    assert list(failed.values()) == [f"RoundRefusedError: the server sent {reason}"] * 3


def test_three_rounds_without_a_sum_end_the_run(tmp_path: Path) -> None:
    config = Config(**SMALL | {"num_rounds": 50}, **PLAIN, log_dir=str(tmp_path))
    with pytest.raises(NoSumError, match="3 rounds in a row came to no sum"):
        federated(config, lost=lambda node, request: request.kind is Kind.TRAIN and node != "0")


def test_the_report_shows_the_trees_and_what_they_split_by(tmp_path: Path) -> None:
    config = Config(**SMALL, **PLAIN, log_dir=str(tmp_path))
    with contextlib.closing(open_in_memory(config, make_tenants(config))) as run:
        run.coordinator.run()
        report = run.write_report()
    assert report is not None
    page = report.read_text(encoding="utf-8")
    forest = run.coordinator.model.named
    assert f"4 of 4 trees are grown, with {splits(forest)} splits" in page
    trees = read_run(run.folder.path).trees
    assert trees is not None
    assert sum(field.splits for field in trees.fields) == splits(forest)
    assert sum(field.share for field in trees.fields) == pytest.approx(1)
    split = forest["column"] >= 0
    most = int(np.bincount(forest["column"][split].astype(int), forest["gain"][split]).argmax())
    assert trees.fields[0].name == load_client_data(config, 0).schema.names[most]


def test_a_forest_is_compared_with_those_of_each_client_alone(tmp_path: Path) -> None:
    config = Config(**SMALL, **PLAIN, log_dir=str(tmp_path))
    _, _, records = federated(config)
    comparison = compare(config, len(records))
    assert len(comparison.alone) == 3
    assert comparison.pooled.evaluation.loss == records[-1].loss, "the pooled forest is the federated one"
    assert all(rival.evaluation.loss > comparison.pooled.evaluation.loss for rival in comparison.alone)


@pytest.mark.long
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_on_real_records_it_is_the_forest_of_all_rows(nsl_kdd_folder: Path, tmp_path: Path, alpha: float) -> None:
    config = parse_config(
        {
            **SMALL, **PLAIN, "data_source": "nsl_kdd", "data_path": str(nsl_kdd_folder), "partition": "dirichlet",
            "dirichlet_alpha": alpha, "num_features": 122, "forest_bins": 16, "log_dir": str(tmp_path),
        }
    )  # fmt: skip
    forest, _, _ = federated(config)
    assert_same(forest, pooled(config))
    assert splits(forest) == 28, "all that four trees of three levels can have"
