"""Whole federations with a density: one exact sum, the gate, the fused alerts, and runs without any label."""

import contextlib
import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.onnx_model import export_onnx
from client.scaled_rows import ScaledRows
from client.scoring import score_files
from client.tenant import Tenant
from orchestrator.report.page import write_report
from orchestrator.report.run_data import read_run
from orchestrator.run import OpenRun
from orchestrator.run_folder import RunFolder
from orchestrator.simulation import simulate
from orchestrator.transport import MemoryTransport
from shared import feature_statistics
from shared.bundle import ModelBundle
from shared.config import Config, parse_config
from shared.data_sources.dataset import ClientData, Dataset
from shared.data_sources.schema import Features
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data
from shared.density import BenignSums, Density
from shared.errors import AlertRateError, BundleError, StatisticsError
from shared.exchange import Kind, Refusal, Reply, Request, drive
from shared.feature_statistics import DENSITY, QUANTILES
from shared.fusion import FusedDetector
from shared.identity import ClientIdentity
from shared.metrics import attack_scores, predict_probabilities
from shared.preprocessing import Preprocessing
from tests.federations import Tapped, make_tenants, masked_settings, open_in_memory

# Three clients with some 1,600 benign rows; attacks that are far off, so that the gate opens.
RUN: dict[str, Any] = {"density": True, "num_features": 10, "num_rounds": 2, "data_skewness": 0.8}
KEYS: dict[str, Any] = {"he_key_length": 512, "allow_insecure_key": True}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run leaves files."""
    monkeypatch.chdir(tmp_path)


def pooled(config: Config, *, only_benign: bool = True) -> BenignSums:
    """In the open, from all clients' rows: what the encrypted sum must equal."""
    trains = [load_client_data(config, client).train for client in range(config.num_clients)]
    preprocessing = Preprocessing.pooled(load_schema(config), trains, "quantile")
    parts = [preprocessing.apply(train) for train in trains]
    return BenignSums.of(np.concatenate([p.features[(p.labels == 0) | (not only_benign)] for p in parts]))


def same(found: BenignSums | None, expected: BenignSums) -> bool:
    assert found is not None
    of_both = zip((found.total, found.products), (expected.total, expected.products), strict=True)
    return found.rows == expected.rows and all(np.array_equal(one, other) for one, other in of_both)


def opened(config: Config, tenants: dict[str, Any] | None = None, **more: Any) -> OpenRun[MemoryTransport]:
    return open_in_memory(config, tenants or make_tenants(config), **more)


SCHEMES: dict[str, dict[str, Any]] = {
    "paillier": KEYS,
    "few bits": KEYS | {"he_precision_bits": 4, "he_integer_bits": 0},
    "kahe": KEYS | {"he_scheme": "kahe"},
    "none": {"he_scheme": "none"},
}


@pytest.mark.parametrize("partition", ["family", "quantity"])
@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_the_encrypted_sum_is_that_of_all_benign_rows_to_the_last_bit(scheme: str, partition: str) -> None:
    config = parse_config(RUN | SCHEMES[scheme] | {"partition": partition})
    with contextlib.closing(opened(config)) as run:
        run.coordinator.prepare()
        preprocessing = run.coordinator.model.preprocessing
    assert preprocessing is not None
    assert same(preprocessing.benign, pooled(config))


@pytest.mark.parametrize("scheme", ["paillier", "kahe"])
def test_the_masked_and_signed_sum_is_the_same(tmp_path: Path, scheme: str) -> None:
    config = masked_settings(tmp_path, 4, he_scheme=scheme, **RUN)
    tenants = make_tenants(config)
    with contextlib.closing(opened(config, tenants)) as run:
        run.coordinator.prepare()
        preprocessing = run.coordinator.model.preprocessing
    assert preprocessing is not None
    assert same(preprocessing.benign, pooled(config))


def asked_for_others(tmp_path: Path) -> tuple[StatisticsError | None, set[str]]:
    """Quantiles of four tenants, then the density of three of them; the error, and the tenants' reasons."""
    config = masked_settings(tmp_path, 4, **RUN)
    lines = {name: Tapped(tenant) for name, tenant in make_tenants(config).items()}
    with contextlib.closing(opened(config, lines)) as run:
        scaling, ask = run.coordinator._scaling, run.transport.ask
        counts = scaling.code.decode_quantiles(drive(scaling._sum(QUANTILES, None), ask).total)
        scaler = Preprocessing.from_counts(counts, scaling._schema).scaler
        error = None
        try:
            drive(scaling._sum(DENSITY, scaler, ["0", "1", "2"]), ask)
        except StatisticsError as raised:
            error = raised
    said = [answer for line in lines.values() for _, answer in line.said]
    return error, {answer.reason for answer in said if isinstance(answer, Refusal)}


def test_tenants_give_the_density_to_the_set_of_their_quantiles_alone(tmp_path: Path) -> None:
    """Rows that all count as benign would otherwise show who is in one of the two sums alone."""
    error, reasons = asked_for_others(tmp_path)
    assert error is not None
    assert "masking: repeated work" in reasons


def test_if_the_two_were_two_works_the_density_of_others_would_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(feature_statistics.WORKS, DENSITY, DENSITY)
    assert asked_for_others(tmp_path) == (None, set())


def test_a_tenant_that_is_lost_between_the_sums_costs_the_density_and_not_the_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("orchestrator"), "propagate", True)
    config = parse_config(RUN | KEYS)

    def lost(node: str, request: Request) -> bool:
        return node == "1" and request.values.get("statistic") == DENSITY

    with contextlib.closing(opened(config, lost=lost)) as run:
        run.coordinator.run()
        assert run.coordinator.model.gate is None
        assert [record.skipped for record in run.coordinator.records] == [None, None]
    assert "no density of benign rows: the features' density could not be added up" in caplog.text
    assert ModelBundle.load(run.folder.path).fusion is None


def test_a_density_of_too_few_benign_rows_is_not_made(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(logging.getLogger("orchestrator"), "propagate", True)
    few = RUN | KEYS | {"num_samples_per_client": 150}
    with contextlib.closing(opened(parse_config(few))) as run:
        run.coordinator.prepare()
        assert run.coordinator.model.gate is None
    assert "takes 500, as sums over fewer show too much of single rows" in caplog.text
    with (
        contextlib.closing(opened(parse_config(few | {"density": False, "labels": "none"}))) as run,
        pytest.raises(StatisticsError, match=r"no density of the clients' rows: .* takes 500"),
    ):
        run.coordinator.prepare()


def test_a_tenant_without_a_benign_row_adds_zeros() -> None:
    config = parse_config(RUN | KEYS)
    own = load_client_data(config, 0)
    attacks = own.train.take(np.flatnonzero(own.train.labels))
    data = ScaledRows(config, ClientData(own.schema, attacks, own.holdout))
    scaler = Preprocessing.pooled(own.schema, [own.train], "quantile").scaler
    assert not data.vector(DENSITY, scaler.to_bytes()).any()


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, RunFolder]:
    """A run whose gate is open."""
    folder = tmp_path_factory.mktemp("fused")
    config = parse_config(RUN | KEYS | {"log_dir": str(folder), "alert_fpr": 0.02, "num_features": 6, "seed": 3})
    run = simulate(config)
    gate = run.model.gate
    assert gate is not None
    assert gate.open, gate
    return config, RunFolder(run.folder)


def by_onnx(bundle: ModelBundle, raw: Features) -> np.ndarray:
    path = Path("model.onnx")
    runtime = pytest.importorskip("onnxruntime")
    export_onnx(bundle, path)
    (scores,) = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"features": raw})
    return np.asarray(scores)


def test_an_open_gate_makes_one_detector_of_model_and_density(fused: tuple[Config, RunFolder]) -> None:
    config, folder = fused
    bundle = ModelBundle.load(folder.path)
    detector = bundle.build_detector()
    assert isinstance(detector, FusedDetector)
    validation = bundle.preprocessing.apply(load_validation_data(config))
    benign = attack_scores(predict_probabilities(detector, validation.features))[validation.labels == 0]
    threshold = bundle.threshold.required()
    assert (benign > threshold).mean() <= config.alert_fpr
    assert threshold >= 0.5
    test = load_test_data(config)
    scores = attack_scores(predict_probabilities(detector, bundle.preprocessing.scaler.transform(test.features)))
    evaluation = read_run(folder.path).evaluation
    assert evaluation is not None
    assert evaluation.threshold == threshold
    assert evaluation.true_positives == int(((scores > threshold) & (test.labels == 1)).sum())
    # What is exported scores as the bundle does.
    np.testing.assert_allclose(by_onnx(bundle, test.features), scores, atol=1e-5)


def test_log_and_report_say_what_the_gate_decided(fused: tuple[Config, RunFolder]) -> None:
    _, folder = fused
    assert "the gate of the density is open: alone it finds" in folder.log.read_text()
    page = folder.report.read_text()
    assert "The gate of the density is open: alone it finds" in page
    evaluation = read_run(folder.path).evaluation
    assert evaluation is not None
    assert evaluation.density is not None
    assert evaluation.density.open
    assert write_report(folder.path) == folder.report
    assert folder.report.read_text() == page


def test_a_damaged_density_is_refused(fused: tuple[Config, RunFolder], tmp_path: Path) -> None:
    from shared.bundle import _digest

    _, folder = fused
    (tmp_path / "model.safetensors").write_bytes((folder.path / "model.safetensors").read_bytes())
    for key, value, message in (
        ("rows", 3, "takes 500"),
        ("rows", 1000.5, "whole numbers"),
        ("total", [0], "density total: shape"),
        ("products", [0.0] * 21, "no rows have"),
        ("gate", {"open": True}, "gate: expected exactly"),
        ("tails", None, "expected tails where the gate is open"),
        ("tails", {"model": {}, "density": {}}, "density tail: expected exactly"),
        ("rate", 0, "density rate"),
    ):
        values = json.loads((folder.path / "bundle.json").read_bytes())
        values.pop("sha256")
        values["density"][key] = value
        (tmp_path / "bundle.json").write_text(json.dumps(values | {"sha256": _digest(values)}))
        with pytest.raises(BundleError, match=message):
            ModelBundle.load(tmp_path)


def test_a_run_that_is_resumed_keeps_its_density_without_asking_again() -> None:
    config = parse_config(RUN | KEYS | {"num_rounds": 1})
    with contextlib.closing(opened(config)) as run:
        run.coordinator.run()
        first = run.coordinator.model
    longer = config.replace(num_rounds=2)
    lines = {name: Tapped(tenant) for name, tenant in make_tenants(longer).items()}
    with contextlib.closing(opened(longer, lines, resume=run.folder.name)) as run:
        run.coordinator.run()
        again = run.coordinator.model
    assert again.gate == first.gate
    assert again.preprocessing is not None
    assert same(again.preprocessing.benign, pooled(config))
    assert not any(line.answers(Kind.STATISTICS) for line in lines.values())


def test_as_the_whole_detector_it_alerts_at_a_rate_and_trains_nobody() -> None:
    config = parse_config(KEYS | {"model": "density", "num_features": 6, "data_skewness": 0.8, "alert_min_score": 0.0})
    lines = {name: Tapped(tenant) for name, tenant in make_tenants(config).items()}
    with contextlib.closing(opened(config, lines)) as run:
        run.coordinator.run()
        assert run.write_report() is not None
    assert not any(line.answers(Kind.TRAIN) for line in lines.values())
    bundle = ModelBundle.load(run.folder.path)
    detector = bundle.build_detector()
    assert isinstance(detector, Density)
    rows = bundle.preprocessing.apply(load_validation_data(config))
    scores = attack_scores(predict_probabilities(detector, rows.features))[rows.labels == 0]
    assert (scores > bundle.threshold.required()).mean() == pytest.approx(0.01, abs=0.005)
    expected = Density.of(pooled(config))
    assert torch.equal(detector.precision, expected.precision)
    assert torch.equal(detector.mean, expected.mean)
    evaluation = read_run(run.folder.path).evaluation
    assert evaluation is not None
    assert evaluation.threshold == bundle.threshold.score
    test = load_test_data(config).features
    by_torch = attack_scores(predict_probabilities(detector, bundle.preprocessing.scaler.transform(test)))
    np.testing.assert_allclose(by_onnx(bundle, test), by_torch, atol=1e-5)


# Without labels

UNLABELLED: dict[str, Any] = {"labels": "none", "num_features": 6, **KEYS}


def flows(path: Path, count: int, *, odd: int = 0) -> Path:
    """Flows without any label; the last few are a hundred times as large, and of a protocol of their own."""
    rng = np.random.default_rng(count)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["bytes", "packets", "proto"])
        for row in range(count):
            packets = int(rng.integers(10, 50))
            strange = row >= count - odd
            table.writerow(
                [packets * 100 * (100 if strange else 1), 2 if strange else packets, ("tcp", "gre")[strange]]
            )
    return path


def unlabelled_settings(folder: Path) -> Config:
    for client in range(3):
        flows(folder / f"flows-{client}.csv", 600 + client, odd=6)
    flows(folder / "flows-test.csv", 500, odd=5)
    return parse_config(
        UNLABELLED | {
            "data_source": "csv", "data_path": str(folder / "flows-{client_id}.csv"),
            "test_path": str(folder / "flows-test.csv"), "hash_width": 8, "num_features": 10,
        }
    )  # fmt: skip


def test_files_without_any_label_end_in_ranked_and_explained_anomalies(tmp_path: Path) -> None:
    config = unlabelled_settings(tmp_path)
    run = simulate(config)
    bundle = ModelBundle.load(run.folder)
    assert isinstance(bundle.build_detector(), Density)
    with pytest.raises(AlertRateError, match="records are ranked"):
        bundle.threshold.required()
    new, output = flows(tmp_path / "new.csv", 400, odd=4), tmp_path / "ranked.jsonl"
    summary = score_files(bundle, [new], output, None, top=4)
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert (summary.alerts, summary.ranked) == (0, 4)
    assert {finding["evidences"][0]["data"]["line"] for finding in found} == {398, 399, 400, 401}
    for finding in found:
        assert not finding["is_alert"]
        assert "anomaly score" in finding["message"]
        assert finding["unmapped"]["scored_by"] == "density"
        drivers = finding["unmapped"]["drivers"]
        assert {driver["feature"] for driver in drivers} == {"bytes", "packets", "proto"}
        assert drivers[0]["contribution"] > 0
    page = (run.folder / "report.html").read_text()
    assert "No label was used" in page
    assert [record.contributors for record in read_run(run.folder).rounds] == [3]


def test_labels_that_the_files_have_all_the_same_reach_nobody_but_the_test_set() -> None:
    blind = parse_config(UNLABELLED)
    known = blind.replace(labels="")
    for client in range(3):
        mine, theirs = load_client_data(blind, client), load_client_data(known, client)
        for one, other in ((mine.train, theirs.train), (mine.holdout, theirs.holdout)):
            assert not one.labels.any()
            assert set(one.families) == {"benign"}
            assert np.array_equal(one.features, other.features)
    assert not load_validation_data(blind).labels.any()
    assert np.array_equal(load_test_data(blind).labels, load_test_data(known).labels)
    with contextlib.closing(opened(blind)) as run:
        run.coordinator.run()
        preprocessing = run.coordinator.model.preprocessing
    assert preprocessing is not None
    assert same(preprocessing.benign, pooled(known, only_benign=False))


def test_a_masked_run_without_labels_is_resumed_and_trains_nobody(tmp_path: Path) -> None:
    config = masked_settings(tmp_path, 4, labels="none", num_features=6)
    lines = {name: Tapped(tenant) for name, tenant in make_tenants(config).items()}
    with contextlib.closing(opened(config, lines)) as run:
        run.coordinator.prepare()
        name = run.folder.name
    for line in lines.values():
        assert isinstance(line.tenant, Tenant)
        line.tenant.close()
    lines = {name: Tapped(tenant) for name, tenant in make_tenants(config).items()}
    with contextlib.closing(opened(config, lines, resume=name)) as run:
        run.coordinator.run()
        assert [record.round for record in run.coordinator.records] == [1]
        assert run.coordinator.model.finished == "the density is whole"
    assert not any(line.answers(kind) for line in lines.values() for kind in (Kind.TRAIN, Kind.STATISTICS))
    assert isinstance(ModelBundle.load(run.folder.path).build_model(), Density)


@pytest.mark.parametrize("masked", [False, True])
def test_a_tenant_without_labels_takes_part_in_the_density_of_others_models(tmp_path: Path, masked: bool) -> None:
    config = masked_settings(tmp_path, 4, **RUN) if masked else parse_config(RUN | KEYS | {"num_clients": 4})
    tenants = make_tenants(config)
    tenants["3"].close()
    rows = load_client_data(config, 3)
    benign = ClientData(rows.schema, rows.train.unlabelled(), rows.holdout.unlabelled())
    path = config.client_identity.replace("{client_id}", "3")
    identity = ClientIdentity.load(path, "client-3") if path else None
    tenants["3"] = Tenant(config.replace(labels="none", density=False), 3, benign, identity)
    lines = {name: Tapped(tenant) for name, tenant in tenants.items()}
    with contextlib.closing(opened(config, lines)) as run:
        run.coordinator.run()
        records, preprocessing = run.coordinator.records, run.coordinator.model.preprocessing
    assert all(isinstance(answer, Reply) for answer in lines["3"].answers(Kind.STATISTICS))
    assert [record.contributor_ids for record in records] == [["0", "1", "2"]] * 2
    trains: list[Dataset] = [tenant._rows._data.train for tenant in tenants.values()]
    both = Preprocessing.pooled(rows.schema, trains, "quantile")
    expected = BenignSums.of(np.concatenate([both.apply(part).features[part.labels == 0] for part in trains]))
    assert preprocessing is not None
    assert same(preprocessing.benign, expected)
