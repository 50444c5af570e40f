"""docs/tutorial.md, followed to the letter: its settings, its commands, in its order."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.processes import ROOT, free_port

pytestmark = pytest.mark.long


def fenced(text: str, language: str = "") -> list[str]:
    return [body for of, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if of == language]


def test_own_csv_to_alerts(tmp_path: Path) -> None:
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    for name in ("benchmarks", "client", "orchestrator", "shared"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "config").mkdir()
    (settings,) = fenced(text, "yaml")
    values = yaml.safe_load(settings) | {"server_address": f"127.0.0.1:{free_port()}"}  # 8080 may be taken
    (tmp_path / "config/mine.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    commands = [line for block in fenced(text) for line in block.splitlines() if line.startswith("python ")]
    scripts = [shlex.split(command)[1].split("/")[-1] for command in commands]
    assert scripts == [
        "example_flows.py", "provision.py", "run_server.py", "run_clients.py", "local_vs_federated.py", "score.py",
    ]  # fmt: skip

    def start(command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *shlex.split(command)[1:]],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    outputs = {}
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for script, command in zip(scripts, commands, strict=True):
            running[script] = start(command)
            if script == "run_server.py":
                continue  # the other terminal comes next
            for name in ("run_server.py", script) if script == "run_clients.py" else (script,):
                outputs[name], _ = running[name].communicate(timeout=150)
                assert running[name].returncode == 0, outputs[name]
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.communicate()

    assert "updates are masked" in outputs["run_server.py"]
    run = tmp_path / "logs/latest"
    last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["contributors"] == 3
    assert min(last["family_recall"].values()) > 0.8  # every tenant's model now knows what only one had seen
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "client 2 alone" in report
    alerts = [json.loads(line) for line in (tmp_path / "logs/alerts.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = len((tmp_path / "data/example/today.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert 0.07 < len(alerts) / rows < 0.12  # a twelfth are attacks, a hundredth of the others may alert
    assert {alert["class_uid"] for alert in alerts} == {2004}
    assert all(alert["evidences"][0]["src_endpoint"]["ip"].startswith("10.1.") for alert in alerts)
    assert "drift: none" in outputs["score.py"]
