"""Rules as labels: which windows are attacks, that features stay, whose rules are whose, and what a reader is told."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.scoring import score_files
from orchestrator.report.figures import caveats
from orchestrator.report.run_data import Run
from shared.bundle import ModelBundle
from shared.config import Config
from shared.data_sources import cloudtrail
from shared.data_sources.file_source import FileSource
from shared.data_utils import feature_count, load_client_data, load_test_data
from shared.errors import OrchestratorError
from tests.test_rules import rule
from tests.test_rules import write as write_rules
from tests.test_source_cloudtrail import record, settings, write
from tests.trained import train_bundle

CALLS = {"LowCall": "low", "MediumCall": "medium", "HighCall": "high"}


def rules_in(folder: Path, calls: dict[str, str] = CALLS) -> Path:
    return write_rules(
        folder,
        *(
            rule({"selection": {"eventName": name}}, title=name, level=level, tags=[f"attack.{level}-tactic"])
            for name, level in calls.items()
        ),
    )


def records() -> list[dict[str, Any]]:
    """An hour of one principal; every fourth minute has a call that a rule of each level hits, in turn."""
    names = ["LowCall", "MediumCall", "HighCall"]
    return [
        record(60 * minute + second, name=names[minute // 4 % 3] if minute % 4 == 0 and second == 1 else "ListUsers")
        for minute in range(60)
        for second in range(3)
    ]


def by_rules(path: Path, rules: Path | str, **changes: Any) -> Config:
    own = {"labels": "rules", "rules_path": str(rules), "label_field": "", "label_patterns": (), "window_minutes": 1}
    return settings(path, **(own | changes))


def test_a_window_is_an_attack_if_a_rule_of_level_medium_or_above_hits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = by_rules(write(tmp_path / "a.json", records()), rules_in(tmp_path / "rules"), num_hidden_units=(4,))
    with caplog.at_level(logging.INFO):
        rows = [load_client_data(config, client) for client in range(3)]
    families = np.concatenate([part.families for own in rows for part in (own.train, own.holdout)])
    families = np.concatenate([families, load_test_data(config).families])
    table = FileSource(cloudtrail).test_table(config)
    assert len(table) == 12
    assert set(families) == {"benign", "medium-tactic", "high-tactic"}
    assert "10 records are attacks, by rules of level medium and above" in caplog.text
    assert "figures say how well a model agrees with the rules" in caplog.text
    assert "3 Sigma rules for aws cloudtrail" in caplog.text


def test_all_features_stay_and_rules_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", records())
    config = by_rules(path, rules_in(tmp_path / "rules"))
    given = settings(path, window_minutes=1)  # `userAgent`, from which no feature is made
    assert feature_count(config) == feature_count(given)
    own, other = (FileSource(cloudtrail).test_table(each) for each in (config, given))
    assert own.schema.excluded == ()
    assert np.array_equal(own.features, other.features)


def test_each_tenant_has_rules_of_its_own(tmp_path: Path) -> None:
    for owner, calls in (("0", {"MediumCall": "medium"}), ("1", {"HighCall": "high"}), ("test", CALLS)):
        folder = tmp_path / f"rules-{owner}"
        rules_in(folder, calls)
        write(tmp_path / f"{owner}.json", records())
    config = by_rules(
        tmp_path / "{client_id}.json", tmp_path / "rules-{client_id}", test_path=str(tmp_path / "test.json")
    )
    source = FileSource(cloudtrail)
    assert set(source.client_table(config, 0).families) == {"benign", "medium-tactic"}
    assert set(source.client_table(config, 1).families) == {"benign", "high-tactic"}
    assert set(source.test_table(config).families) == {"benign", "medium-tactic", "high-tactic"}


def test_a_changed_rule_changes_the_labels(tmp_path: Path) -> None:
    config = by_rules(write(tmp_path / "a.json", records()), rules_in(tmp_path / "rules"))
    source = FileSource(cloudtrail)
    assert "high-tactic" in source.client_table(config, 0).families
    (tmp_path / "rules/2.yml").unlink()
    assert "high-tactic" not in source.client_table(config, 0).families


def test_no_hit_at_all_is_a_warning_and_a_broken_rule_stops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = by_rules(write(tmp_path / "a.json", records()), rules_in(tmp_path / "rules", {"Unheard": "high"}))
    with caplog.at_level(logging.WARNING):
        assert set(load_test_data(config).families) == {"benign"}
    assert "0 records are attacks, by rules" in caplog.text
    (tmp_path / "rules/more.yml").write_text("title: broken")
    with pytest.raises(OrchestratorError, match=r"more\.yml"):
        load_test_data(config)


def test_a_model_of_such_labels_scores_without_the_rules(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", records())
    config = by_rules(path, rules_in(tmp_path / "rules"), num_hidden_units=(4,))
    train_bundle(config, tmp_path / "run", epochs=1)
    for file in (tmp_path / "rules").iterdir():
        file.unlink()
    bundle = ModelBundle.load(tmp_path / "run")
    assert str(tmp_path) not in (tmp_path / "run/bundle.json").read_text()
    assert bundle.config.labels == "rules"
    summary = score_files(bundle, [path], tmp_path / "out.jsonl", 0.0)
    assert summary.alerts == 60
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["unmapped"]["rules"] == []


def test_the_report_says_that_its_attacks_are_hits_of_rules(tmp_path: Path) -> None:
    def told(config: Config) -> bool:
        run = Run("a-run", config, [], [], None, None, None)
        return any("none how many attacks it finds" in note for note in caveats(run))

    assert told(by_rules(tmp_path / "a.json", tmp_path / "rules"))
    assert not told(settings(tmp_path / "a.json"))
