"""Windows whose records arrive in several objects: looked at whole, alerted on once, however they are cut."""

import json
from pathlib import Path
from typing import Any

from client.scoring import score_files
from client.sinks.lines import LinesFile
from shared.bundle import ModelBundle
from tests.flow_tables import SCANS
from tests.followed import Following


def windows(path: Path) -> list[tuple[str, int]]:
    alerts: list[dict[str, Any]] = [json.loads(text) for text in path.read_text().splitlines()]
    return sorted((alert["evidences"][0]["src_endpoint"]["ip"], alert["start_time"]) for alert in alerts)


def test_windows_in_pieces_alert_like_whole_ones_and_once(scans: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    _, bundle = scans
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "a.log").write_text("\n".join(SCANS[:1000]) + "\n")
    score_files(bundle, [tmp_path / "whole"], tmp_path / "whole.jsonl", 0.5)
    logs, output = tmp_path / "logs", tmp_path / "alerts.jsonl"
    logs.mkdir()
    sinks = [LinesFile("output", output)]
    for number, start in enumerate(range(0, 1000, 210)):  # a window has some 90 lines
        (logs / f"{number:03}.log").write_text("\n".join(SCANS[start : min(start + 210, 1000)]) + "\n")
        with Following(bundle, tmp_path / "state", [logs], sinks, history=7200.0) as follower:
            follower.once()
    found, whole = windows(output), windows(tmp_path / "whole.jsonl")
    assert len(set(found)) == len(found), "each window once"
    assert set(whole) <= set(found)
    # A window that is still short of records may alert and the whole one not: the last of each object.
    assert len(found) - len(whole) <= 5
