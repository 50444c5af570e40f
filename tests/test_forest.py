"""The forest's parts: splits against a search by hand, what no rows have, and what reads a finished forest."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from client.explain import Explainer, log_odds
from client.export import main as export
from client.scoring import score_files
from shared.bundle import ModelBundle, save_bundle
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_sources.scaling import Quantiles
from shared.data_utils import load_client_data, load_test_data, load_validation_data
from shared.errors import BundleError, ConfigError, DataError, EncodingError
from shared.forest.bins import Columns, binned, edges_of
from shared.forest.growing import grow
from shared.forest.model import ThreatForest
from shared.forest.plan import ForestPlan
from shared.forest.pooled import grow_pooled
from shared.forest.sums import MOST_ROWS, ROWS, LevelCode, check, count
from shared.metrics import attack_scores, evaluate, predict_probabilities
from shared.model import build_model
from shared.preprocessing import Preprocessing
from tests.test_export import by_onnx
from tests.trained import joined

PLAN = ForestPlan(
    trees=3, parallel=3, depth=2, bins=8, columns=0.6, learning_rate=1.0, least_rows=15, least_hessian=3.0, seed=4
)


def some_rows(**changes: Any) -> tuple[Dataset, Quantiles]:
    """Scaled rows of two clients, and what they are scaled by."""
    config = Config(num_features=6, num_samples_per_client=400, **changes)
    clients = [load_client_data(config, client) for client in range(2)]
    pooled = Preprocessing.pooled(clients[0].schema, [client.train for client in clients], "quantile")
    assert isinstance(pooled.scaler, Quantiles)
    return pooled.apply(joined([client.train for client in clients])), pooled.scaler


def gain_of(left: np.ndarray, labels: np.ndarray) -> float:
    """Of a split of rows whose odds are even: gradient 1/2 - y, hessian 1/4; 0 where a side is too small."""
    fits = []
    for side in (left, ~left):
        gradient, hessian = (0.5 - labels[side]).sum(), 0.25 * side.sum()
        if side.sum() < PLAN.least_rows or hessian < PLAN.least_hessian:
            return 0.0
        fits.append(gradient**2 / (hessian + 1))
    whole = (0.5 - labels).sum() ** 2 / (0.25 * len(labels) + 1)
    return float((sum(fits) - whole) / 2)


def test_a_root_is_split_as_a_search_over_its_rows_would() -> None:
    rows, scaler = some_rows()
    forest, edges, columns = grow_pooled(PLAN, rows, scaler), edges_of(scaler, 8), Columns.of(PLAN, scaler.schema)
    labels = (rows.labels != 0).astype(float)
    for tree in range(PLAN.trees):
        gains = {
            (int(column), float(edge)): gain_of(rows.features[:, column] < edge, labels)
            for column in columns.drawn[tree]
            for edge in edges[column]
        }
        best = max(gains.values())
        chosen = int(forest.column[tree, 0]), float(forest.threshold[tree, 0])
        assert gains[chosen] == pytest.approx(best)
        assert float(forest.gain[tree, 0]) == pytest.approx(best, rel=1e-6)
        for child, side in (
            (1, rows.features[:, chosen[0]] < chosen[1]),
            (2, rows.features[:, chosen[0]] >= chosen[1]),
        ):
            step = (labels[side] - 0.5).sum() / (0.25 * side.sum() + 1) / PLAN.parallel
            assert float(forest.value[tree, child]) == pytest.approx(step, abs=2**-17)


def test_no_leaf_has_fewer_rows_or_less_hessian_than_the_least() -> None:
    rows, scaler = some_rows()
    for least_rows, least_hessian in ((15, 0.0), (100, 0.0), (1, 40.0)):
        plan = replace(PLAN, depth=4, least_rows=least_rows, least_hessian=least_hessian)
        forest = grow_pooled(plan, rows, scaler)
        nodes = forest.nodes(torch.from_numpy(rows.features), 4).numpy()
        fewest = min(np.unique(nodes[:, tree], return_counts=True)[1].min() for tree in range(3))
        assert fewest >= max(least_rows, 4 * least_hessian)
        assert (forest.column >= 0).sum() > 3


def test_a_later_batch_goes_on_from_the_loss_that_is_left() -> None:
    rows, scaler = some_rows()
    losses = [evaluate(grow_pooled(replace(PLAN, trees=trees), rows, scaler), rows).loss for trees in (3, 6, 12)]
    assert losses[0] > 1.1 * losses[1] > 1.2 * losses[2]


def test_bins_begin_at_values_that_rows_have_and_are_at_most_as_many_as_asked_for() -> None:
    rows, scaler = some_rows()
    for bins in (2, 3, 8, 16, 64):
        edges = edges_of(scaler, bins)
        assert edges.shape == (6, bins - 1)
        assert (np.diff(edges, axis=1) >= 0).all()
        own = binned(rows.features, edges)
        assert own.shape == (6, len(rows))
        assert own.max() < bins
        assert (own.max(axis=1) > 0).all(), "no column is in one bin"


def of_a_root() -> tuple[Any, Any, Columns]:
    rows, scaler = some_rows()
    edges, columns = edges_of(scaler, 8), Columns.of(PLAN, scaler.schema)
    counts = count(ThreatForest(3, 2), PLAN.turn(0), rows, binned(rows.features, edges), columns)
    return counts, edges, columns


def test_the_sum_of_two_tenants_is_that_of_their_rows_exactly() -> None:
    counts, _, columns = of_a_root()
    for scheme in ("none", "paillier"):
        code = LevelCode(Config().replace(he_scheme=scheme))
        parts = counts // 3, counts - counts // 3
        total = code.encode(parts[0]) + code.encode(parts[1])
        assert total.shape == (code.size(PLAN.turn(0), columns),)
        assert np.array_equal(code.decode(total, PLAN.turn(0), columns), counts)


@pytest.mark.parametrize(("what", "by"), [(0, -10_000), (0, 1), (1, 1), (1, 10**9), (2, 1), (2, 10**9), (2, -(10**9))])
def test_sums_that_no_rows_have_are_refused(what: int, by: int) -> None:
    counts, edges, columns = of_a_root()
    check(counts, columns)
    counts[1, 0, 3, what] += by
    forest = ThreatForest(3, 2)
    before = {name: tensor.clone() for name, tensor in forest.state_dict().items()}
    with pytest.raises(EncodingError, match="none that rows can have"):
        grow(forest, PLAN, edges, columns, counts, None)
    assert all(torch.equal(forest.state_dict()[name], tensor) for name, tensor in before.items())


def test_sums_of_no_rows_and_of_too_many_are_refused() -> None:
    counts, edges, columns = of_a_root()
    with pytest.raises(EncodingError, match="no client has any row in this sum"):
        grow(ThreatForest(3, 2), PLAN, edges, columns, np.zeros_like(counts), None)
    counts[0, 0, 0, ROWS] = MOST_ROWS + 1
    with pytest.raises(DataError, match="at most 1,048,575 rows of a client"):
        LevelCode(Config()).encode(counts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forest_min_rows": 9}, "forest_min_rows = 9, forest_min_hessian = 5: expected at least 10 and 1; the sums"),
        ({"forest_min_hessian": 0.5}, "forest_min_hessian = 0.5: expected at least 10 and 1"),
        ({"fraction_fit": 0.5}, "fraction_fit = 0.5: model forest needs 1"),
        ({"forest_trees": 7}, "forest_trees = 7: expected a multiple of forest_parallel, which is 6"),
        ({"scaling": "zscore"}, "model forest takes its bins from quantile scaling"),
        ({"num_classes": 3}, "knows 2 classes"),
        ({"weighting": "examples"}, "weighting = 'examples': model forest has no deltas to weigh"),
        (
            {"class_balance": "inverse", "server_momentum": 0.5},
            "class_balance = 'inverse', server_momentum = 0.5: model",
        ),
        ({"server_momentum": 0.5}, "no steps to carry on"),
    ],
)
def test_settings_that_would_leak_or_do_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Config(model="forest", **changes)
    assert message in str(refusal.value)


HEADER = "dur,proto,bytes,Label"


def write_flows(path: Path) -> Path:
    random = np.random.default_rng(8)
    lines = [HEADER]
    for row in range(2000):
        attack = row % 4 == 0
        size = int(np.expm1(random.normal(9 if attack else 6, 1.5)).clip(0))
        protocol, label = ("tcp", "icmp")[row % 8 == 0], ("BENIGN", "DoS")[attack]
        lines.append(f"{random.integers(100) / 10},{protocol},{size},{label}")
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelBundle, Dataset]:
    """A run's folder with a forest and its bundle, and scaled test rows."""
    folder = tmp_path_factory.mktemp("forest")
    config = Config(
        model="forest", data_source="csv", data_path=str(write_flows(folder / "flows.csv")), csv_label_column="Label",
        csv_categorical_columns=("proto",), partition="even", hash_width=8, num_features=10, alert_fpr=0.02,
        forest_trees=6, forest_parallel=3, forest_depth=4, forest_columns=0.5,
    )  # fmt: skip
    rows = [load_client_data(config, client) for client in range(3)]
    preprocessing = Preprocessing.pooled(rows[0].schema, [own.train for own in rows], "quantile")
    assert isinstance(preprocessing.scaler, Quantiles)
    pooled = preprocessing.apply(joined([own.train for own in rows]))
    forest = grow_pooled(ForestPlan.of(config), pooled, preprocessing.scaler)
    parameters = {name: tensor.numpy() for name, tensor in forest.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(parameters))
    test = preprocessing.apply(load_test_data(config))
    record = {"round": 8, **asdict(evaluate(forest, test))}
    validation = preprocessing.apply(load_validation_data(config))
    save_bundle(folder, config, preprocessing, parameters, validation, record, "a-run")
    return folder, ModelBundle.load(folder), test


def test_a_bundle_holds_the_forest(bundled: tuple[Path, ModelBundle, Dataset]) -> None:
    folder, bundle, test = bundled
    figures = evaluate(bundle.build_model(), test)
    assert figures.loss == bundle.metrics["loss"]
    assert figures.accuracy > 0.8
    assert bundle.threshold.required() >= 0.5
    for name, at, value in (("column", 3, 10.0), ("grown", 0, 0.5)):
        broken = load_file(folder / "model.safetensors")
        broken[name].flat[at] = value
        loaded = replace(bundle, parameters=broken)
        elsewhere = folder / f"broken-{name}"
        elsewhere.mkdir()
        (elsewhere / "model.safetensors").write_bytes(save(broken))
        replace(loaded, model_sha256=hashlib.sha256(save(broken)).hexdigest()).save(elsewhere)
        with pytest.raises(BundleError, match="a forest that"):
            ModelBundle.load(elsewhere)


def test_contributions_add_up_to_the_log_odds_above_the_roots(bundled: tuple[Path, ModelBundle, Dataset]) -> None:
    _, bundle, test = bundled
    forest = bundle.build_model()
    assert isinstance(forest, ThreatForest)
    with torch.no_grad():
        odds = log_odds(forest(torch.from_numpy(test.features))).double().numpy()
    parts = Explainer(forest, bundle.preprocessing).contributions(test.features)
    assert parts.shape == test.features.shape
    assert np.abs(parts.sum(axis=1) - (odds - float(forest.value[:, 0].sum()))).max() < 1e-5
    split_by = set(forest.column.flatten().long().tolist()) - {-1}
    assert set(np.flatnonzero(np.abs(parts).sum(axis=0))) <= split_by


def test_alerts_name_their_drivers(bundled: tuple[Path, ModelBundle, Dataset], tmp_path: Path) -> None:
    folder, bundle, _ = bundled
    summary = score_files(bundle, [folder / "flows.csv"], tmp_path / "alerts.jsonl", bundle.threshold.required())
    assert 200 < summary.alerts < 600
    assert '"feature": "bytes"' in (tmp_path / "alerts.jsonl").read_text()


def test_the_onnx_file_scores_as_the_forest_does(bundled: tuple[Path, ModelBundle, Dataset], tmp_path: Path) -> None:
    folder, bundle, _ = bundled
    path = tmp_path / "model.onnx"
    assert export(["--model", str(folder), "--out", str(path)]) == 0
    random = np.random.default_rng(0)
    for raw in (load_test_data(replace_path(bundle, folder)).features, random.normal(0, 9, (500, 10)).astype("f4")):
        scores = attack_scores(predict_probabilities(bundle.build_model(), bundle.preprocessing.scaler.transform(raw)))
        assert np.abs(by_onnx(path, raw) - scores).max() < 1e-6


def replace_path(bundle: ModelBundle, folder: Path) -> Config:
    return bundle.config.replace(data_path=str(folder / "flows.csv"))


def test_a_forest_without_a_split_is_even_odds() -> None:
    model = build_model(Config(model="forest"))
    logits = model(torch.zeros(3, 20))
    assert torch.equal(logits, torch.zeros(3, 2))
