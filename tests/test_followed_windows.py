"""Windows whose records arrive in several objects: looked at whole, alerted on once, however they are cut."""

import json
from pathlib import Path
from typing import Any

import pytest

from client.scoring import score_files
from client.sinks.lines import LinesFile
from shared.bundle import ModelBundle
from shared.config import Config
from tests.followed import Following
from tests.trained import train_bundle


def line(second: int, row: int) -> str:
    scan = row == 0
    port = 1 + second % 65_000 if scan else 443
    source = "10.0.0.66" if scan else f"10.0.0.{row}"
    start = 1_700_000_100 + second
    target = f"10.0.1.{second % 200 if scan else 9}"
    return f"2 111 eni-1 {source} {target} 4{row:04} {port} 6 3 180 {start} {start + 1} ACCEPT OK"


LINES = [line(second, row) for second in range(0, 36_000, 40) for row in range(12)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("run")
    (folder / "flows.log").write_text("\n".join(LINES) + "\n")
    config = Config(data_source="vpc_flow", data_path=str(folder / "flows.log"), label_field="srcaddr",
                    label_patterns=("10.0.0.66",), num_features=20, num_hidden_units=(8,), partition="even",
                    alert_fpr=0.03)  # fmt: skip
    return train_bundle(config, folder, epochs=20)


def windows(path: Path) -> list[tuple[str, int]]:
    alerts: list[dict[str, Any]] = [json.loads(text) for text in path.read_text().splitlines()]
    return sorted((alert["evidences"][0]["src_endpoint"]["ip"], alert["start_time"]) for alert in alerts)


def test_windows_in_pieces_alert_like_whole_ones_and_once(bundle: ModelBundle, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "a.log").write_text("\n".join(LINES[:1000]) + "\n")
    score_files(bundle, [tmp_path / "whole"], tmp_path / "whole.jsonl", 0.5)
    logs, output = tmp_path / "logs", tmp_path / "alerts.jsonl"
    logs.mkdir()
    sinks = [LinesFile("output", output)]
    for number, start in enumerate(range(0, 1000, 210)):  # a window has some 90 lines
        (logs / f"{number:03}.log").write_text("\n".join(LINES[start : min(start + 210, 1000)]) + "\n")
        with Following(bundle, tmp_path / "state", [logs], sinks, history=7200.0) as follower:
            follower.once()
    found, whole = windows(output), windows(tmp_path / "whole.jsonl")
    assert len(set(found)) == len(found), "each window once"
    assert set(whole) <= set(found)
    # A window that is still short of records may alert and the whole one not: the last of each object.
    assert len(found) - len(whole) <= 5
