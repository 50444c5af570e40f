"""docs/tutorial.md, followed to the letter: its settings, its commands, in its order."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import ROOT, free_port

pytestmark = pytest.mark.long
CSV, AWS = "From your own CSV", "From CloudTrail and GuardDuty"


def fenced(text: str, language: str = "") -> list[str]:
    return [body for of, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if of == language]


def follow(path: str, folder: Path, expected: list[str]) -> dict[str, str]:
    """Do what one path of the tutorial says, and return what each script printed.

    Args:
        path: its heading.
        folder: to do it in.
        expected: the names of its scripts, in their order.
    """
    whole = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"^# {path}$\n(.*?)(?=^# |\Z)", whole, re.M | re.S)
    for name in ("benchmarks", "client", "orchestrator", "shared"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "config").mkdir()
    (settings,) = fenced(text, "yaml")
    (named,) = re.findall(r"^Save this as `(config/[\w-]+\.yaml)`", text, re.M)
    values = yaml.safe_load(settings) | {"server_address": f"127.0.0.1:{free_port()}"}  # 8080 may be taken
    (folder / named).write_text(yaml.safe_dump(values), encoding="utf-8")
    commands = [line for block in fenced(text) for line in block.splitlines() if line.startswith("python ")]
    scripts = [shlex.split(command)[1].split("/")[-1] for command in commands]
    assert scripts == expected

    def start(command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *shlex.split(command)[1:]],
            cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
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
    return outputs


def last_record(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return record


def test_own_csv_to_alerts(tmp_path: Path) -> None:
    outputs = follow(
        CSV, tmp_path,
        ["example_flows.py", "provision.py", "run_server.py", "run_clients.py", "local_vs_federated.py", "score.py"],
    )  # fmt: skip
    assert "updates are masked" in outputs["run_server.py"]
    run = tmp_path / "logs/latest"
    last = last_record(run)
    assert last["contributors"] == 3
    assert min(last["family_recall"].values()) > 0.8  # every tenant's model now knows what only one had seen
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "client 2 alone" in report
    alerts = [json.loads(line) for line in (tmp_path / "logs/alerts.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = len((tmp_path / "data/example/today.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert 0.07 < len(alerts) / rows < 0.12  # a twelfth are attacks, a hundredth of the others may alert
    assert {alert["class_uid"] for alert in alerts} == {2004}
    assert all(alert["evidences"][0]["src_endpoint"]["ip"].startswith("10.1.") for alert in alerts)
    kinds = {alert["unmapped"]["kind"]["name"] for alert in alerts if alert["unmapped"]["kind"]}
    assert kinds == {"port scan", "password guessing", "exfiltration"}
    assert f"{len(alerts)} alerts of {rows:,} records" in (tmp_path / "logs/alerts.html").read_text(encoding="utf-8")
    assert "drift: none" in outputs["score.py"]


def test_cloudtrail_and_guardduty_to_alerts(tmp_path: Path) -> None:
    outputs = follow(
        AWS, tmp_path, ["example_cloudtrail.py", "provision.py", "run_server.py", "run_clients.py", "score.py"]
    )
    assert "updates are masked" in outputs["run_server.py"]
    assert outputs["run_clients.py"].count("36 of 37 findings match a record") == 3
    assert "findings without a record are of another account" in outputs["run_clients.py"]
    run = tmp_path / "logs/latest"
    last = last_record(run)
    assert last["contributors"] == 3
    assert set(last["family_recall"]) == {"persistence", "defense-evasion", "credential-access"}
    assert min(last["family_recall"].values()) > 0.8
    assert "what a finding of another detector is about" in (run / "report.html").read_text(encoding="utf-8")
    alerts = [json.loads(line) for line in (tmp_path / "logs/alerts-aws.jsonl").read_text("utf-8").splitlines()]
    from_outside = [
        alert for alert in alerts if any(a.startswith("203.0.113.") for a in alert["evidences"][0]["data"]["addresses"])
    ]
    assert len(from_outside) >= 10  # of 12 episodes
    assert "like" in outputs["score.py"]
    assert "groups" in outputs["score.py"]
    page = (tmp_path / "logs/alerts-aws.html").read_text(encoding="utf-8")
    assert all(alert["finding_info"]["uid"] in page for alert in alerts) or "most urgent groups" in page
    layer = json.loads((tmp_path / "logs/layer-aws.json").read_text(encoding="utf-8"))
    assert {"T1098", "T1562.008", "T1552"} <= {technique["techniqueID"] for technique in layer["techniques"]}
