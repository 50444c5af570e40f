"""Verdicts on alerts: ids that stay, labels of the next run, suppressions that end and are counted, what is refused."""

import csv
import json
import logging
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import feedback, score
from client.alert_groups import groups_of
from client.scoring import score_files
from shared.bundle import ModelBundle
from shared.data_sources import cloudtrail
from shared.data_sources import csv as csv_source
from shared.data_sources.file_source import FileSource
from shared.errors import DataError
from shared.feedback import Suppressions, load_feedback
from tests.findings import guardduty
from tests.flow_tables import HEADER, flow
from tests.source_files import write_json_lines, write_lines
from tests.test_labels_by_rules import by_rules, rules_in
from tests.test_labels_by_rules import records as rule_records
from tests.test_scoring import flow_config
from tests.test_source_cloudtrail import settings, some_records, write
from tests.trained import train_bundle

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
Finding = dict[str, Any]


def scored(bundle: ModelBundle, path: Path, threshold: float = 0.0, **more: Any) -> list[Finding]:
    output = path.parent / f"{path.stem}-alerts.jsonl"
    score_files(bundle, [path], output, threshold, **more)
    return [json.loads(line) for line in output.read_text().splitlines()]


def sheet(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "verdict", "until"), *rows])
    return path


def uid(finding: Finding) -> str:
    return str(finding["finding_info"]["uid"])


def test_an_id_is_of_the_record_whatever_the_model_the_rules_and_the_records_after_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", some_records())
    config = settings(path, num_hidden_units=(4,), window_minutes=1)
    first = train_bundle(config, tmp_path / "one", epochs=1)
    other = train_bundle(config.replace(seed=7, num_hidden_units=(6,)), tmp_path / "two", epochs=2)
    ids = [[uid(finding) for finding in scored(bundle, path)] for bundle in (first, other)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0]) == 120
    part = write(tmp_path / "part.json", some_records()[:100])
    assert [uid(f) for f in scored(first, part)] == ids[0][: len(scored(first, part))]


def test_equal_lines_of_two_files_are_two_records_and_another_row_on_a_line_is_another(
    flows: tuple[Path, ModelBundle], tmp_path: Path
) -> None:
    _, bundle = flows
    first = scored(bundle, write_lines(tmp_path / "a.csv", [HEADER, flow(1), flow(1)]))
    changed = scored(bundle, write_lines(tmp_path / "a.csv", [HEADER, flow(2), flow(1)]))
    assert len({*map(uid, first), *map(uid, changed)}) == 3
    assert uid(first[1]) == uid(changed[1])


def test_a_verdict_is_the_label_of_its_record_in_the_next_run_over_findings_and_rules(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.json", rule_records())
    config = by_rules(path, rules_in(tmp_path / "rules"), num_hidden_units=(4,), test_path=str(path))
    alerts = scored(train_bundle(config, tmp_path / "run", epochs=1), path)
    before = FileSource(cloudtrail).test_table(config)
    row = int(np.flatnonzero(before.labels)[0])
    benign = int(np.flatnonzero(before.labels == 0)[0])
    verdicts = sheet(tmp_path / "v.csv", (uid(alerts[row]), "fp", TOMORROW), (uid(alerts[benign]), "yes", ""),
                     ("0" * 32, "no", ""), ("p-" + "0" * 32, "no", TOMORROW))  # fmt: skip
    with caplog.at_level(logging.INFO):
        after = FileSource(cloudtrail).test_table(config.replace(feedback_path=str(verdicts)))
    changed = np.flatnonzero(before.families != after.families)
    assert sorted(changed.tolist()) == sorted([row, benign])
    assert (after.families[row], after.families[benign]) == ("benign", "attack")
    assert "verdicts on 2 rows, 1 of them attacks; on 2 they disagree with the rules, and stand" in caplog.text
    assert "no to 1 attacks, and yes to 1 rows that were benign" in caplog.text
    assert "1 of 3 verdicts are about no row here" in caplog.text


def test_an_analysts_no_stands_over_a_finding_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.json", some_records())
    found = write_json_lines(tmp_path / "f.jsonl", [guardduty(api="ListUsers", last="2024-05-01T10:30:30Z")])
    own = {"labels": "findings", "findings_path": str(found), "label_field": "", "label_patterns": ()}
    config = settings(path, num_hidden_units=(4,), window_minutes=1, test_path=str(path), **own)
    alerts = scored(train_bundle(config, tmp_path / "run", epochs=1), path)
    before = FileSource(cloudtrail).test_table(config)
    attacks = np.flatnonzero(before.labels)
    verdicts = sheet(tmp_path / "v.csv", *((uid(alerts[row]), "no", "") for row in attacks[:3]))
    with caplog.at_level(logging.INFO):
        after = FileSource(cloudtrail).test_table(config.replace(feedback_path=str(verdicts)))
    assert np.flatnonzero(after.labels).tolist() == attacks[3:].tolist()
    assert "on 3 they disagree with the findings, and stand: the analyst says no to 3 attacks" in caplog.text
    assert f"{len(attacks) - 3} of 120 rows are attacks, by the findings and verdicts" in caplog.text


def test_a_verdict_on_a_row_of_a_table_is_its_label(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    folder, bundle = flows
    alerts = scored(bundle, folder / "flows.csv")
    config = flow_config(flows).replace(csv_label_column="Label", test_path=str(folder / "flows.csv"))
    before = FileSource(csv_source).test_table(config)
    assert before.families[4] == "dos"
    verdicts = sheet(tmp_path / "v.csv", (uid(alerts[4]), "no", ""))
    after = FileSource(csv_source).test_table(config.replace(feedback_path=str(verdicts)))
    assert np.flatnonzero(before.families != after.families).tolist() == [4]


def test_a_changed_verdict_is_read_anew(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    folder, bundle = flows
    alerts = scored(bundle, folder / "flows.csv")
    verdicts = sheet(tmp_path / "v.csv", (uid(alerts[4]), "no", ""))
    config = flow_config(flows).replace(test_path=str(folder / "flows.csv"), feedback_path=str(verdicts))
    assert FileSource(csv_source).test_table(config).labels[4] == 0
    sheet(tmp_path / "v.csv", (uid(alerts[4]), "true positive", ""))
    assert FileSource(csv_source).test_table(config).labels[4] == 1


def test_a_suppression_holds_to_its_last_day_and_is_counted(
    flows: tuple[Path, ModelBundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, bundle = flows
    path = write_lines(tmp_path / "new.csv", [HEADER, *map(flow, range(40))])
    alerts = scored(bundle, path)
    one, other = alerts[0], alerts[1]
    pattern = other["unmapped"]["pattern"]
    alike = sum(alert["unmapped"]["pattern"] == pattern for alert in alerts)
    assert alike > 1
    verdicts = sheet(tmp_path / "v.csv", (uid(one), "no", "2024-05-02"), (pattern, "no", "2024-05-02"),
                     (uid(alerts[2]), "no", ""))  # fmt: skip
    loaded = load_feedback(verdicts)
    for day, left_out in ((date(2024, 5, 2), alike + 1), (date(2024, 5, 3), 0)):
        suppressions = Suppressions(loaded, day)
        summary = score_files(bundle, [path], tmp_path / "o.jsonl", 0.0, suppressions=suppressions)
        assert summary.suppressed == left_out == sum(suppressions.counts.values())
        assert summary.alerts == len((tmp_path / "o.jsonl").read_text().splitlines()) == 40 - left_out
    assert suppressions.ended == 2
    given = ("--model", folder, "--input", path, "--output", tmp_path / "s.jsonl", "--threshold", 0)
    sheet(verdicts, (uid(one), "no", TOMORROW))
    assert score.main([*map(str, given), "--feedback", str(verdicts)]) == 0
    told = capsys.readouterr().out
    assert "1 more are left out, which analysts said no to for now" in told
    assert uid(one) not in (tmp_path / "s.jsonl").read_text()


def test_the_script_takes_a_verdict_on_a_group_for_each_of_its_alerts(
    flows: tuple[Path, ModelBundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, bundle = flows
    alerts = scored(bundle, write_lines(tmp_path / "new.csv", [HEADER, *map(flow, range(40))]))
    group = groups_of(tmp_path / "new-alerts.jsonl")[0]
    assert group.alerts > 1
    output = tmp_path / "all.csv"

    def merge(*rows: tuple[str, ...]) -> int:
        verdicts = sheet(tmp_path / "v.csv", *rows)
        given = ("--alerts", tmp_path / "new-alerts.jsonl", "--verdicts", verdicts, "--output", output)
        return feedback.main([*map(str, given)])

    assert merge((group.uid, "no", TOMORROW)) == 0
    loaded = load_feedback(output)
    assert {*group.members, *group.patterns} == set(loaded)
    assert not any(verdict.attack for verdict in loaded.values())
    assert output.stat().st_mode & 0o777 == 0o600
    member = group.members[0]
    assert merge((member, "yes", "")) == 0
    assert "1 verdicts are other than before; the new ones count" in capsys.readouterr().out
    assert load_feedback(output)[member].attack
    assert len(load_feedback(output)) == len(loaded)
    assert merge(("f" * 32, "yes", "")) == 1
    assert "is no alert, group or pattern" in capsys.readouterr().out
    assert len({*map(uid, alerts)}) == 40


REFUSED = {
    "no column": ("id,opinion\n", "no column 'verdict' among id, opinion"),
    "an id of something else": ("id,verdict\nalert 7,no\n", "line 2: id = 'alert 7', expected finding_info.uid"),
    "a verdict of another kind": (f"id,verdict\n{'0' * 32},maybe\n", "line 2: verdict = 'maybe', expected yes or no"),
    "a day of another form": (f"id,verdict,until\n{'0' * 32},no,next week\n", "line 2: until = 'next week'"),
    "an attack that is suppressed": (f"id,verdict,until\n{'0' * 32},yes,2030-01-01\n", "an attack is never suppressed"),
    "both verdicts": (f"id,verdict\n{'0' * 32},no\n\n{'0' * 32},yes\n", "lines 2 and 4: 0{32} has both verdicts"),
    "a group": (f"id,verdict\ng-{'0' * 32},no\n", r"client/feedback\.py writes the verdicts on its members"),
    "a note over lines": (f'id,verdict,note\n{"0" * 32},no,"a\nb"\n{"1" * 32},x,\n', "line 4: verdict = 'x'"),
    "nothing": ("", "no column 'id' among none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_verdicts_that_cannot_be_meant_is_refused_by_line(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_feedback(tmp_path / "v.csv")


def test_what_is_not_judged_yet_is_no_verdict(tmp_path: Path) -> None:
    path = sheet(tmp_path / "v.csv", ("0" * 32, "", ""), ("1" * 32, "TP", ""), ("2" * 32, "False_Positive", ""))
    found = load_feedback(path)
    assert {key[0]: verdict.attack for key, verdict in found.items()} == {"1": True, "2": False}
    assert Suppressions(found).counts == {}


def test_without_a_threshold_no_alert_is_below_one_half(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    """The twin that was asked for less has some."""
    _, bundle = flows
    path = write_lines(tmp_path / "new.csv", [HEADER, *map(flow, range(400))])
    low = bundle.threshold.required()
    assert low >= 0.5
    assert all(f["unmapped"]["score"] > 0.5 for f in scored(bundle, path, low))
    assert any(f["unmapped"]["score"] < 0.5 for f in scored(replace(bundle), path, 0.0))
