"""The ONNX file scores as the model does: on real records, random ones and extreme ones, in batches of any size."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import onnx_model
from client.export import main
from client.onnx_model import export_onnx
from shared.bundle import ModelBundle
from shared.config import Config, parse_config
from shared.data_sources.scaling import POINTS
from shared.data_sources.schema import Features
from shared.data_utils import load_test_data
from shared.errors import MissingDependencyError
from shared.metrics import attack_scores, predict_probabilities
from tests.trained import train_bundle

TOLERANCE = 1e-5  # float32 logits of some hundreds, added up in another order


def session(path: Path) -> Any:
    return pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])


def by_onnx(path: Path, raw: Features) -> np.ndarray:
    (scores,) = session(path).run(None, {"features": raw})
    return np.asarray(scores)


def by_torch(bundle: ModelBundle, raw: Features) -> np.ndarray:
    return attack_scores(predict_probabilities(bundle.build_model(), bundle.preprocessing.scaler.transform(raw)))


@pytest.mark.parametrize("scaling", ["quantile", pytest.param("zscore", marks=pytest.mark.long)])
def test_parity_on_real_random_and_extreme_records(nsl_kdd_folder: Path, tmp_path: Path, scaling: str) -> None:
    config = parse_config({"data_source": "nsl_kdd", "data_path": str(nsl_kdd_folder), "num_features": 122,
                           "num_hidden_units": [64, 32], "partition": "even", "scaling": scaling})  # fmt: skip
    bundle = train_bundle(config, tmp_path, epochs=1)
    path = tmp_path / "model.onnx"
    assert main(["--model", str(tmp_path), "--out", str(path)]) == 0
    real = load_test_data(config).features
    random = np.random.default_rng(0)
    extreme = random.choice(np.array([-1e30, -1e12, -1.0, 0.0, 1e-30, 1.0, 28.0, 1e12, 3e38], np.float32), (500, 122))
    categories = ~bundle.schema.numeric
    extreme[:, categories] = random.integers(0, 2, (500, int(categories.sum())))  # which are never anything else
    edges = np.resize(np.concatenate([-POINTS, [0.0, -0.0], POINTS]), (98, 122)).astype(np.float32)  # of the grid
    edges[:, categories] = 0
    for raw in (
        edges,
        np.log1p(np.abs(edges)),
        real,
        random.normal(0, 30, (1000, 122)).astype(np.float32),
        extreme,
        real[:1],
        real[:0],
    ):
        scores = by_onnx(path, raw)
        assert scores.shape == (len(raw),)
        if len(raw):
            assert np.abs(scores - by_torch(bundle, raw)).max() < TOLERANCE
    assert real.std(axis=0).max() > 1  # raw: nobody scaled it before
    kept = session(path).get_modelmeta().custom_metadata_map
    assert kept["schema_sha256"] == bundle.schema.hash()
    assert [column["name"] for column in json.loads(kept["schema"])["columns"]] == list(bundle.schema.names)
    assert float(kept["threshold"]) == bundle.threshold.score
    assert not list(tmp_path.glob("*.part"))


def test_the_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    train_bundle(Config(num_features=6, num_hidden_units=(4,)), tmp_path)
    (tmp_path / "m.onnx.part").touch(0o666)  # of an earlier export, with another umask
    os.umask(0)
    assert main(["--model", str(tmp_path), "--out", str(tmp_path / "m.onnx")]) == 0
    assert (tmp_path / "m.onnx").stat().st_mode & 0o777 == 0o600


def test_a_graph_without_the_scaling_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(num_features=6, num_hidden_units=(4,), scaling="zscore")
    bundle = train_bundle(config, tmp_path)
    raw = (load_test_data(config).features * 50).astype(np.float32)
    export_onnx(bundle, tmp_path / "right.onnx")
    monkeypatch.setattr(onnx_model, "MAX_SCALED", 1000.0)
    export_onnx(bundle, tmp_path / "wrong.onnx")
    assert np.abs(by_onnx(tmp_path / "right.onnx", raw) - by_torch(bundle, raw)).max() < TOLERANCE
    assert np.abs(by_onnx(tmp_path / "wrong.onnx", raw) - by_torch(bundle, raw)).max() > 100 * TOLERANCE


def test_what_cannot_be_exported_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tmp_path / "none"), "--out", str(tmp_path / "m.onnx")]) == 1
    bundle = train_bundle(Config(num_features=6, num_hidden_units=(4,)), tmp_path)
    assert main(["--model", str(tmp_path), "--out", str(tmp_path / "no" / "folder" / "m.onnx")]) == 2
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r'onnxscript is not installed: pip install -e "\.\[onnx\]"'):
        export_onnx(bundle, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
