"""The benchmark of any YAML file: every detector has its line, from the settings alone."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import flows

KINDS = ("benign", "dos", "scan")


def table_of_flows(folder: Path) -> Path:
    """3,600 flows without a header line, nearly half of them benign."""
    random = np.random.default_rng(5)
    lines = []
    for _ in range(3600):
        kind = int(random.choice(3, p=[0.45, 0.35, 0.2]))
        values = np.expm1(random.normal([6 - kind, 2 + 0.8 * kind], 1.2).clip(0))
        lines.append(f"{values[0]:.0f},{values[1]:.0f},{random.choice(['tcp', 'udp'])},{KINDS[kind]}")
    path = folder / "flows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(folder: Path) -> Path:
    path = folder / "flows.yaml"
    path.write_text(
        f"""
        data_source: csv
        data_path: {table_of_flows(folder)}
        test_fraction: 0.4
        csv_column_names: [bytes, packets, protocol, label]
        csv_label_column: label
        csv_categorical_columns: [protocol]
        hash_width: 4
        num_features: 6
        num_rounds: 3
        early_stopping_rounds: 2
        weighting: examples
        """
    )
    return path


def test_a_yaml_file_is_all_that_the_table_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "SEEDS", (0, 1))
    page = tmp_path / "page.md"
    assert flows.main(["--config", str(settings(tmp_path)), "--markdown", str(page)]) == 0
    head, _, *lines = page.read_text().splitlines()
    assert head == "| detector | ROC-AUC | PR-AUC | real FPR | r@1 % | r@5 % |"
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines}
    assert {"network", "forest", "gradient boosting, 255 bins", "gradient boosting, 32 bins"} <= set(cells)
    assert all(float(row[1].split(" ± ")[0]) > 0.7 for row in cells.values())


def test_a_forest_is_refused_as_it_is_compared_with_anyway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = settings(tmp_path)
    assert flows.main(["--config", str(path), "--set", "model=forest", "--set", "weighting=uniform"]) == 2
    assert "expected a network with labels" in capsys.readouterr().err
