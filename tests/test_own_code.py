"""A person's own model and data in a whole run, as docs/code.md has them; no file's word alone imports either."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.local_vs_federated import main as local_vs_federated
from client import run_clients
from client.export import main as export
from client.score import main as score
from orchestrator import run_server, simulate
from orchestrator.make_report import main as make_report
from shared.bundle import ModelBundle
from shared.config import Config, load_config
from shared.data_utils import stream_features
from shared.errors import BundleError, ConfigError, DataError, NoSumError
from tests.conftest import OwnCode
from tests.processes import ROOT, write_config
from tests.test_own_model import NET
from tests.trained import train_bundle

GUIDE = (ROOT / "docs/code.md").read_text(encoding="utf-8")
SMALL_KEY: dict[str, Any] = {"he_key_length": 512, "allow_insecure_key": True}


def saved(name: str) -> str:
    """The block of the guide that its reader saves under this name."""
    found = re.search(rf"Save\s+this\s+as `{re.escape(name)}`:\n\n```\w+\n(.*?)^```$", GUIDE, re.M | re.S)
    assert found, f"docs/code.md has no {name}"
    return found[1]


def test_the_guides_model_data_and_optimiser_run_as_they_stand(
    own_code: OwnCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_code("flows", saved("own/flows.py"))
    own_code("net", saved("own/net.py"))
    (tmp_path / "config").mkdir()
    settings = {**yaml.safe_load(saved("config/own.yaml")), **SMALL_KEY, "log_dir": str(tmp_path / "logs")}
    (tmp_path / "config/own.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (notebook,) = re.findall(r"^```python\n(from orchestrator import simulate\n.*?)^```$", GUIDE, re.M | re.S)
    names: dict[str, Any] = {}
    exec(notebook, names)  # the guide's own lines
    run = names["run"]
    last = run.records[-1]
    assert last.contributors == 3
    assert set(last.class_recall) == {"0", "1", "2"}
    assert min(last.class_recall.values()) > 0.85
    assert "Which class is taken for which" in run.report.read_text(encoding="utf-8")
    again = simulate(load_config("config/own.yaml"), report=False)
    assert all(np.array_equal(a, b) for a, b in zip(again.model.parameters, run.model.parameters, strict=True))


@pytest.mark.parametrize("script", [run_server.main, run_clients.main])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model=nowhere.net:Net", "model = 'nowhere.net:Net': nowhere.net can't be imported (ModuleNotFoundError"),
        ("data_source=nowhere.flows", "data_source = 'nowhere.flows': nowhere.flows can't be imported"),
    ],
)
def test_a_wrong_name_ends_each_script_with_code_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: Callable[[list[str]], int], setting: str, message: str
) -> None:
    assert script(["--config", str(write_config(tmp_path)), "--set", setting]) == 2
    said = capsys.readouterr().out
    assert message in said.splitlines()[-1]
    assert said.count(message) == 1, "by one of them, not by each client"
    assert "Traceback" not in said


@pytest.fixture
def scored_run(own_code: OwnCode, tmp_path: Path) -> Path:
    """The folder of a run whose model is `own.net:Net`, with `flows.csv`; `own.net` says in a file that it was run."""
    own_code("net", f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{NET}")
    lines = [
        "dur,bytes,Label",
        *(f"{row % 7},{row % 11 + 1000 * (row % 4 == 0)},{int(row % 4 == 0)}" for row in range(400)),
    ]
    path = tmp_path / "flows.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = Config(
        data_source="csv", data_path=str(path), csv_label_column="Label", partition="even", num_features=2,
        model="own.net:Net",
    )  # fmt: skip
    train_bundle(config, tmp_path / "run", epochs=20)
    del sys.modules["own.net"]
    (tmp_path / "ran").unlink()
    return tmp_path / "run"


def test_a_bundle_that_names_a_class_imports_it_for_nobody_who_does_not_name_it_too(
    scored_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flows, alerts = str(tmp_path / "flows.csv"), tmp_path / "alerts.jsonl"
    arguments = ["--model", str(scored_run), "--input", flows, "--output", str(alerts)]
    for other in ([], ["--model_class", "own.other:Net"], ["--model_class", "own.net:Other"]):
        assert score([*arguments, *other]) == 2
        assert export(["--model", str(scored_run), "--out", str(tmp_path / "m.onnx"), *other]) == 2
        assert "own.net:Net" in capsys.readouterr().out
    with pytest.raises(
        ConfigError, match=r"which is code and does not come with the run; .* --model_class own\.net:Net"
    ):
        ModelBundle.load(scored_run)
    assert not (tmp_path / "ran").exists(), "reading somebody's bundle ran the code that it names"
    assert "own.net" not in sys.modules
    assert not alerts.exists()

    assert score([*arguments, "--model_class", "own.net:Net", "--threshold", "0.5"]) == 0
    assert (tmp_path / "ran").exists(), "the twin: what would have been seen above"
    lines = [json.loads(line)["evidences"][0]["data"]["line"] for line in alerts.read_text().splitlines()]
    assert len(lines) > 80
    assert sum(line % 4 == 2 for line in lines) > 0.9 * len(lines), "row 0, an attack, is on line 2"


def test_where_the_class_is_not_there_scoring_says_so(
    scored_run: Path, own_code: OwnCode, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own_code("net", "from torch import nn\nclass Net(nn.Linear): pass\n")
    with pytest.raises(BundleError, match=r"model\.safetensors: tensors .*, and the settings make"):
        ModelBundle.load(scored_run, "own.net:Net")
    path.unlink()
    del sys.modules["own.net"]
    arguments = ["--model", str(scored_run), "--input", "x", "--output", "y", "--model_class", "own.net:Net"]
    assert score(arguments) == 2
    assert "own.net can't be imported" in " ".join(capsys.readouterr().out.split())


def test_the_exported_model_is_the_class_trained(scored_run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    assert export(["--model", str(scored_run), "--model_class", "own.net:Net", "--out", str(path)]) == 0
    raw = np.random.default_rng(0).normal(0, 3, (50, 2)).astype(np.float32)
    (scores,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"features": raw})
    bundle = ModelBundle.load(scored_run, "own.net:Net")
    with torch.no_grad():
        logits = bundle.build_model()(torch.from_numpy(bundle.preprocessing.scaler.transform(raw)))
    assert np.abs(scores - (1 - torch.softmax(logits.double(), 1)[:, 0].numpy())).max() < 1e-5


def test_an_option_that_the_run_has_no_use_for_is_refused(tmp_path: Path) -> None:
    train_bundle(Config(num_features=6, num_samples_per_client=50), tmp_path, epochs=1)
    with pytest.raises(ConfigError, match="the model of this run is mlp; leave the option out"):
        ModelBundle.load(tmp_path, "own.net:Net")


def test_a_runs_folder_makes_no_report_run_its_code(own_code: OwnCode, tmp_path: Path) -> None:
    """Its config.yaml may be somebody else's as much as its bundle."""
    own_code("net", NET)
    own_code("flows", saved("own/flows.py"))
    config = Config(
        **SMALL_KEY, model="own.net:Net", data_source="own.flows", num_features=3, num_classes=3, num_rounds=1,
        local_epochs=1, log_dir=str(tmp_path / "logs"),
    )  # fmt: skip
    run = simulate(config)
    for name in ("net", "flows"):
        del sys.modules[f"own.{name}"]
        own_code(name, "raise SystemError('was run')")
    assert make_report(["--run", str(run.folder)]) == 0
    assert run.report is not None
    size = 4 * sum(p.size for p in run.model.parameters)
    assert f'sent to each client</th><td class="number">{size} B</td>' in run.report.read_text(encoding="utf-8")
    arguments = ["--run", str(run.folder)]
    assert local_vs_federated(arguments) == 1
    assert local_vs_federated([*arguments, "--model_class", "own.net:Net"]) == 1
    assert not {"own.net", "own.flows"} & sys.modules.keys()
    assert "was run" not in (run.folder / "server.log").read_text(encoding="utf-8")
    assert local_vs_federated([*arguments, "--model_class", "own.net:Net", "--data_source", "own.flows"]) == 1
    assert "can't be imported (SystemError: was run)" in (run.folder / "server.log").read_text(encoding="utf-8")


def test_records_of_a_source_of_ones_own_come_in_no_files(own_code: OwnCode, tmp_path: Path) -> None:
    own_code("flows", saved("own/flows.py"))
    config = Config(data_source="own.flows", num_features=3, num_classes=3)
    folder = tmp_path / "run"
    train_bundle(config, folder, epochs=1)
    del sys.modules["own.flows"]
    bundle = ModelBundle.load(folder)
    with pytest.raises(DataError, match="its records come in no files that this could read"):
        list(stream_features(bundle.config, folder, bundle.schema))
    assert "own.flows" not in sys.modules


def test_a_run_whose_every_round_comes_to_nothing_is_no_success(own_code: OwnCode, tmp_path: Path) -> None:
    """Of fewer rounds than make a run stop by itself. What fails on the tenants' rows alone no trial has seen."""
    own_code("net", NET.replace("return self", "assert len(features) != 20 or not self.training; return self"))
    settings: dict[str, Any] = {
        **SMALL_KEY, "model": "own.net:Net", "num_samples_per_client": 100, "batch_size": 20, "local_epochs": 1,
        "log_dir": str(tmp_path / "logs"), "num_rounds": 2,
    }  # fmt: skip
    with pytest.raises(NoSumError, match=r"^no round changed the model, .*client 0: AssertionError"):
        simulate(Config(**settings))
    (metrics,) = (tmp_path / "logs").glob("2*/metrics.jsonl")
    assert len(metrics.read_text(encoding="utf-8").splitlines()) == 2
    assert not (metrics.parent / "report.html").exists()
    assert simulate(Config(**settings | {"batch_size": 19})).report
