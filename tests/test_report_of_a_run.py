"""A run of real processes leaves a report, whatever a client says, and never fails for want of one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.local_vs_federated import main as compare
from orchestrator.report.run_data import read_run
from orchestrator.run import OpenRun
from orchestrator.run_folder import RunFolder
from shared.config import load_config
from tests.conftest import Start
from tests.faulty_client import FORGED
from tests.processes import read_metrics, write_config

SERVER, CLIENTS, FAULTY = "orchestrator/run_server.py", "client/run_clients.py", "tests/faulty_client.py"


@pytest.mark.long
def test_a_run_leaves_a_report_that_a_client_cannot_write_into(start: Start, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, num_rounds=3))
    serving = start(SERVER, "--config", config)
    good = start(CLIENTS, "--config", config, "--client_ids", "0,1")
    start(FAULTY, config, "2", "script", "2")
    end = serving.finish()
    assert (end.code, good.finish().code) == (0, 0), end.output
    folder = (tmp_path / "logs" / "latest").resolve()
    assert end.output.splitlines()[-1] == f"everything of this run is in {folder}; open {RunFolder(folder).report}"

    rounds = read_metrics(tmp_path)
    said = rounds[1]["failed"]["2"]
    assert said.startswith("<script>document.title = 'mine'</script>�[2J�"), "the fault did not happen"
    assert said.isprintable()
    assert len(said) <= 300
    log = RunFolder(folder).log.read_text(encoding="utf-8")
    for text in (end.output, log):
        assert said in text, "shown all the same"
        assert text.replace("\n", "").isprintable()
        assert not any(line.startswith(FORGED) for line in text.splitlines())
    page = RunFolder(folder).report.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;document.title = &#39;mine&#39;&lt;/script&gt;" in page

    for line in rounds:
        assert "clients" not in line, "what one client holds out is its own affair"
        assert (line["client_rows"], 0 < line["client_loss"] < 2) == (30, True)
        parts = (
            "fit_seconds",
            "train_seconds",
            "encrypt_seconds",
            "aggregate_seconds",
            "decrypt_seconds",
            "evaluate_seconds",
        )
        assert max(line[part] for part in parts) <= line["round_seconds"]
    run = read_run(folder)
    assert run.evaluation is not None
    for name in ("loss", "accuracy", "roc_auc", "pr_auc"):
        assert getattr(run.evaluation, name) == pytest.approx(rounds[-1][name])
    assert len(run.starts[0].key_fingerprint) == 64

    assert "Not measured" in page
    assert compare(["--run", str(folder)]) == 0
    comparison = json.loads(RunFolder(folder).comparison.read_text(encoding="utf-8"))
    assert comparison["epochs"] == 3
    assert [rival["name"] for rival in comparison["alone"]] == [f"client {number} alone" for number in range(3)]
    page = RunFolder(folder).report.read_text(encoding="utf-8")
    assert "Not measured" not in page
    assert f"{comparison['pooled']['evaluation']['roc_auc']:.3f}" in page


def test_a_run_without_a_report_is_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder.create(load_config(write_config(tmp_path)))

    def fail() -> None:
        raise OSError(28, "No space left on device")

    coordinator: Any = SimpleNamespace(model=SimpleNamespace(final_evaluation=fail))
    transport: Any = None
    with caplog.at_level("WARNING", logger="orchestrator"):
        assert OpenRun(folder, transport, coordinator, 0).write_report() is None
    (record,) = caplog.records
    assert "no report (OSError: [Errno 28] No space left on device); the run is whole" in record.getMessage()
    assert f"make_report.py --run {folder.path}" in record.getMessage()


def test_an_unfinished_run_can_not_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder.create(load_config(write_config(tmp_path)))
    assert compare(["--run", str(folder.path)]) == 1
    assert "let it come to its end" in capsys.readouterr().out
