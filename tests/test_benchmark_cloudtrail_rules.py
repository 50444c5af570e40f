"""The trial of rules beside a model: that both are counted on the same windows, and what an alert by either is."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.cloudtrail import OUTSIDE, ROOT, Votes, folds_of, in_a_class, principal, records_of, write
from benchmarks.cloudtrail_rules import Contender, Results, highest_levels, tables
from shared.config import load_config
from shared.data_sources import cloudtrail
from shared.data_sources.file_source import FileSource
from shared.data_utils import load_schema, stream_features
from shared.rules.folder import load_rules


def test_windows_of_rules_are_those_that_a_model_is_tested_on(
    invictus_folder: Path, sigma_folder: Path, tmp_path: Path
) -> None:
    base = load_config(ROOT / "config/cloudtrail.yaml").replace(data_path=str(invictus_folder))
    records = in_a_class(base, records_of(invictus_folder.glob("*.json")))
    rules = load_rules(sigma_folder, "cloudtrail")
    for number, part in enumerate(folds_of([record for record in records if principal(record) != OUTSIDE], 1)):
        logs = write(tmp_path / str(number), part)
        c = base.replace(test_path=str(logs))
        meta = pd.concat([meta for meta, _ in stream_features(base, logs, load_schema(base), rules=rules)])
        starts = FileSource(cloudtrail).test_table(c).starts
        assert starts is not None
        assert np.array_equal(meta["start"], starts)
        levels = highest_levels(base, logs, rules)
        hit = [bool(hits) for hits in meta["rules"]]
        assert (levels >= 0).tolist() == hit
        # The half that tests: windows in the order of time, from the middle on.
        test = FileSource(cloudtrail).test_rows(c)
        assert len(levels[len(levels) // 2 :]) == len(test)


def test_an_alert_by_either_is_one_of_both(tmp_path: Path) -> None:
    """Of four techniques rules find the first two by level, the model the second and the third."""
    techniques = {tmp_path / f"aws.tactic.{name}.json": rank for name, rank in zip("abcd", (3, 2, 0, -1), strict=True)}
    found = dict(zip(techniques, (Votes(0, 3), Votes(2, 3), Votes(3, 3), Votes(1, 3)), strict=True))
    windows = {("part 1", i): rank for i, rank in enumerate((-1, 2, 0, -1, -1))}
    alarms = dict(zip(windows, (Votes(3, 3), Votes(), Votes(), Votes(1, 3), Votes()), strict=True))
    model = Contender(found, found, alarms)
    text = tables(Results(techniques, windows, np.array([-1, 0]), np.array([2]), model, model))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    shown = {(number, row[0]): [cell.split(" (")[0] for cell in row[1:]] for number, row in enumerate(cells)}
    assert shown[1, "rules of level high and above"] == ["1 of 4", "0 of 5"]
    assert shown[2, "rules of level medium and above"] == ["2 of 4", "1 of 5"]
    assert shown[3, "model, above its benign validation windows"] == ["2 of 4", "1 of 5"]
    assert shown[4, "… or rules of level high and above"] == ["3 of 4", "1 of 5"]
    assert shown[5, "… or rules of level medium and above"] == ["3 of 4", "2 of 5"]
    assert shown[6, "model, above *every* benign window"] == ["2 of 4", "none, by construction"]
    assert shown[8, "… or rules of level medium and above"] == ["3 of 4", "1 of 5"]
    assert "| benign | 0 of 2 (0.0% to 84.2%) | 0 of 2 (0.0% to 84.2%) | 1 of 2 (1.3% to 98.7%) |" in text
    assert "| tactic | 4 | 2 | 2 | 3 |" in text
