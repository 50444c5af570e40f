"""`make demo` as a new user runs it, but for the installation."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import ROOT, free_port

pytestmark = pytest.mark.long


def make_demo(folder: Path, **changes: Any) -> "subprocess.CompletedProcess[str]":
    """In a folder of its own, with its settings at a free port, and this test's Python in place of a new `.venv`."""
    make, venv = shutil.which("make"), Path(sys.prefix)
    if make is None:
        pytest.skip("no make on this machine")
    if not (venv / "bin/python").exists():
        pytest.skip(f"no virtual environment at {venv}")
    for name in ("Makefile", "benchmarks", "client", "orchestrator", "shared"):
        (folder / name).symlink_to(ROOT / name)
    settings = yaml.safe_load((ROOT / "config/demo.yaml").read_text(encoding="utf-8"))
    settings |= {"server_address": f"127.0.0.1:{free_port()}", **changes}
    (folder / "demo.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    from_a_shell = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(  # a make under `make test_long` would also print which directory it enters and leaves
        [make, "-o", f"{venv}/installed", "demo", f"VENV={venv}", "CONFIG=demo.yaml"],
        cwd=folder, env=from_a_shell, capture_output=True, text=True, timeout=170,
    )  # fmt: skip


def test_the_demo_shows_three_tenants_alone_and_together(tmp_path: Path) -> None:
    before = {path.name for path in ROOT.iterdir()}
    end = make_demo(tmp_path)
    assert end.returncode == 0, end.stdout + end.stderr
    lines = end.stdout.splitlines()
    assert 25 < len(lines) < 50
    assert any("updates are masked" in line for line in lines[:6])  # which of the two starts first is chance
    assert not any("fresh keys" in line for line in lines)
    run = (tmp_path / "logs/latest").resolve()
    assert "fresh keys" in (run / "server.log").read_text(encoding="utf-8")

    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    alone = [rival["evaluation"] for rival in comparison["alone"]]
    together = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert max(one["roc_auc"] for one in alone) < 0.9
    assert together["roc_auc"] > 0.99
    known = [{name for name, family in one["families"].items() if family["recall"] > 0.9} for one in alone]
    assert all(len(names) < 3 for names in known), "a tenant that knows all has no need of the others"
    assert all(family["recall"] > 0.9 for family in together["families"].values())
    told = next(line for line in lines if line.startswith("ROC-AUC: alone "))
    assert re.fullmatch(r"ROC-AUC: alone 0\.[67]\d, together 1\.00; with all rows in one place it would be 1\.00", told)
    assert "client 2 alone" in (run / "report.html").read_text(encoding="utf-8")

    scoring = lines[-1].removeprefix("score new flows: ")
    assert subprocess.run(["sh", "-c", scoring], cwd=tmp_path, timeout=120, capture_output=True).returncode == 0
    assert len((tmp_path / "logs/alerts.jsonl").read_text(encoding="utf-8").splitlines()) > 200
    assert {path.name for path in ROOT.iterdir()} == before
    made = {path.name for path in tmp_path.iterdir() if not path.is_symlink()}
    assert made == {"demo.yaml", "logs"}, "git ignores logs/ alone"


def test_the_demo_tells_why_its_clients_failed(tmp_path: Path) -> None:
    end = make_demo(tmp_path, client_identity="logs/nobody-{client_id}.key", client_wait_timeout=6.0)
    assert end.returncode != 0
    assert "0 clients came within 6 s" in end.stdout
    assert "logs/nobody-1.key" in end.stdout
