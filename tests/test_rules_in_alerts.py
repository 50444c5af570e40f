"""Rules beside the model: which of the two raised an alert, what it says of both, and what is rare in the account."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from client import score
from client.scoring import Summary, score_files
from client.tactics import TACTIC_IDS
from shared.bundle import ModelBundle
from shared.data_sources import cloudtrail
from shared.data_sources.source_types import Inputs
from shared.data_utils import stream_features
from shared.rules.folder import load_rules
from tests.test_rules import rule
from tests.test_rules import write as write_rules
from tests.test_source_cloudtrail import record, settings, some_records, write
from tests.trained import train_bundle

TAGS = ["attack.persistence", "attack.lateral-movement", "attack.t1098.001", "attack.t1531", "attack.new-tactic"]
Finding = dict[str, Any]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rule of each level for a call of its own, of high with tags, and one that every record meets."""
    levels = {"LowCall": "low", "MediumCall": "medium", "CreateUser": "high", "CriticalCall": "critical"}
    return write_rules(
        tmp_path_factory.mktemp("rules"),
        *(
            rule({"selection": {"eventName": name}}, title=f"Rule of {name}", level=level, tags=TAGS)
            for name, level in levels.items()
        ),
        rule({"selection": {"awsRegion": "eu-*"}}, title="Everything", id="a30b4c92-5f4e-4d1b-8c7a-0d1f2e3a4b5c"),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelBundle]:
    """A folder with a model that learned from CloudTrail records; it has no threshold, for want of benign rows."""
    folder = tmp_path_factory.mktemp("run")
    config = settings(write(folder / "records.json", some_records()), num_hidden_units=(4,), window_minutes=1)
    return folder, train_bundle(config, folder, epochs=1)


def new_records() -> list[dict[str, Any]]:
    """One window of each principal, each with another call among ordinary ones."""
    calls = ("ListRoles", "LowCall", "MediumCall", "CreateUser", "CriticalCall")
    return [
        record(second, name=name if second < 2 else "ListUsers", user=f"AIDA{name.upper()}")
        for name in calls
        for second in range(5)
    ]


def findings(
    of: ModelBundle, folder: Path, rules: Path | None, threshold: float | None, level: str = "high"
) -> tuple[Summary, dict[str, Finding]]:
    """The summary, and the findings by the call of their principal."""
    path = write(folder / "new.json", new_records())
    loaded = load_rules(rules, "cloudtrail") if rules else None
    summary = score_files(of, [path], folder / "out.jsonl", threshold, rules=loaded, rule_level=level)
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return summary, {line["evidences"][0]["data"]["principal"].rpartition("AIDA")[2].lower(): line for line in lines}


def test_a_rule_of_level_high_alerts_whatever_the_score(
    bundle: tuple[Path, ModelBundle], rules: Path, tmp_path: Path
) -> None:
    summary, found = findings(bundle[1], tmp_path, rules, 1.0)
    assert set(found) == {"createuser", "criticalcall"}
    assert (summary.alerts, summary.by_rules, summary.by_both, summary.ranked) == (2, 2, 0, 0)
    alert = found["createuser"]
    assert alert["is_alert"] is True
    assert alert["unmapped"]["raised_by"] == ["rules"]
    assert alert["severity"] == "High"
    assert found["criticalcall"]["severity_id"] == 5
    info = alert["finding_info"]
    assert info["title"] == "user/AIDACREATEUSER: CreateUser ×2, ListUsers ×3 in eu-west-1: Rule of CreateUser"
    assert alert["message"].endswith(f"attack score {alert['unmapped']['score']:.4f}, rule Rule of CreateUser (high)")
    assert info["analytic"]["type_id"] == 1
    assert info["analytic"]["name"] == "Rule of CreateUser"
    assert [other["name"] for other in info["related_analytics"]] == ["Everything"]
    high, everything = alert["unmapped"]["rules"]
    assert high["tags"] == TAGS
    assert (high["level"], high["records"], high["first_event_id"]) == ("high", 2, "AIDACREATEUSER-0-CreateUser")
    assert (everything["level"], everything["records"]) == ("informational", 5)
    assert everything["uid"] == "a30b4c92-5f4e-4d1b-8c7a-0d1f2e3a4b5c"
    assert "rules" not in alert["evidences"][0]["data"]


def test_the_tags_are_attacks_once_each_and_no_id_is_made_up(
    bundle: tuple[Path, ModelBundle], rules: Path, tmp_path: Path
) -> None:
    _, found = findings(bundle[1], tmp_path, rules, 1.0)
    # CreateUser is known for persistence by itself.
    assert found["createuser"]["finding_info"]["attacks"] == [
        {"tactic": {"uid": "TA0003", "name": "Persistence"}, "version": "16.0"},
        {"tactic": {"uid": "TA0008", "name": "Lateral Movement"}},
        {"tactic": {"name": "New Tactic"}},
        {"technique": {"uid": "T1098"}, "sub_technique": {"uid": "T1098.001"}},
        {"technique": {"uid": "T1531"}},
    ]
    assert TACTIC_IDS["command-and-control"] == "TA0011"
    assert len(set(TACTIC_IDS.values())) == len(TACTIC_IDS) == 14


def test_an_alert_says_which_of_the_two_raised_it(
    bundle: tuple[Path, ModelBundle], rules: Path, tmp_path: Path
) -> None:
    summary, found = findings(bundle[1], tmp_path, rules, 0.0)
    assert (summary.alerts, summary.by_rules, summary.by_both) == (5, 2, 2)
    raised = {name: alert["unmapped"]["raised_by"] for name, alert in found.items()}
    assert raised == {
        "listroles": ["model"], "lowcall": ["model"], "mediumcall": ["model"], "createuser": ["model", "rules"],
        "criticalcall": ["model", "rules"],
    }  # fmt: skip
    both = found["createuser"]
    assert both["message"].endswith("above the threshold of 0.0000 and rule Rule of CreateUser (high)")
    assert both["finding_info"]["analytic"]["type_id"] == 4
    assert [a["type_id"] for a in both["finding_info"]["related_analytics"]] == [1, 1]
    assert found["criticalcall"]["severity"] == "Critical"
    # Of a lower level a hit is context.
    assert [hit["level"] for hit in found["mediumcall"]["unmapped"]["rules"]] == ["medium", "informational"]
    assert found["mediumcall"]["severity"] == "Medium"


def test_another_level_may_be_asked_for(bundle: tuple[Path, ModelBundle], rules: Path, tmp_path: Path) -> None:
    _, found = findings(bundle[1], tmp_path, rules, 1.0, "low")
    assert set(found) == {"lowcall", "mediumcall", "createuser", "criticalcall"}
    assert found["lowcall"]["severity"] == "Low"
    assert set(findings(bundle[1], tmp_path, rules, 1.0, "critical")[1]) == {"criticalcall"}


def test_in_a_ranking_what_a_rule_raised_is_an_alert_and_is_not_ranked(
    bundle: tuple[Path, ModelBundle], rules: Path, tmp_path: Path
) -> None:
    summary, found = findings(bundle[1], tmp_path, rules, None)
    assert (summary.alerts, summary.by_rules, summary.ranked) == (2, 2, 3)
    assert len(found) == 5
    alerts = {name for name, finding in found.items() if finding["is_alert"]}
    assert alerts == {"createuser", "criticalcall"}
    ranked = [finding for name, finding in found.items() if name not in alerts]
    assert "number 1 of 3 by its score, in a ranking" in ranked[0]["message"]
    assert {finding["severity"] for finding in ranked} == {"Informational"}
    assert {tuple(finding["unmapped"]["raised_by"]) for finding in ranked} == {()}


def test_rules_change_no_score_and_no_uid(bundle: tuple[Path, ModelBundle], rules: Path, tmp_path: Path) -> None:
    def told(found: dict[str, Finding]) -> dict[str, tuple[float, str]]:
        return {name: (a["unmapped"]["score"], a["finding_info"]["uid"]) for name, a in found.items()}

    without, beside = (findings(bundle[1], tmp_path, given, 0.0)[1] for given in (None, rules))
    assert told(without) == told(beside)
    assert without["createuser"]["unmapped"]["rules"] == []


def test_the_script_reads_a_folder_of_rules(
    bundle: tuple[Path, ModelBundle], rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = bundle
    path, output = write(tmp_path / "new.json", new_records()), tmp_path / "out.jsonl"
    given = ["--model", str(folder), "--input", str(path), "--output", str(output)]
    own = shutil.copytree(rules, tmp_path / "own")  # what was read once is not told again
    assert score.main([*given, "--rules_path", str(own)]) == 0
    out = capsys.readouterr().out
    assert "5 Sigma rules for aws cloudtrail" in out
    assert "the 3 with the highest scores, no alerts" in out
    assert "2 alerts (40.00 %)" in out
    assert "2 of them raised by rules, 0 of these by the model too" in out
    assert score.main([*given, "--rules_path", str(tmp_path / "none")]) == 1
    assert "expected a folder with Sigma rules" in capsys.readouterr().out


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), pytest.param('{"a":', "}", marks=pytest.mark.long)])
def test_a_record_of_any_depth_is_read_or_broken_and_stops_nothing(opening: str, closing: str, tmp_path: Path) -> None:
    """Whoever writes the logs chooses how deep a value is nested. Just below where it can't be parsed any more are the
    few depths at which it can be parsed and not be walked."""
    loaded = load_rules(
        write_rules(
            tmp_path / "rules",
            rule({"selection": {"requestParameters|contains": "x"}}),
            rule({"selection": ["word"]}),
        ),
        "cloudtrail",
    )
    path = tmp_path / "a.jsonl"
    config = settings(path, max_broken_share=0.5)
    schema = cloudtrail.schema(config, Inputs(path))
    lines = [json.dumps(record(second)) for second in range(9)]
    read = []
    for levels in (10, *range(880, 1000), 100_000):
        lines[4] = lines[3][:-1] + f', "eventID": "", "requestParameters": {opening * levels}1{closing * levels}}}'
        path.write_text("\n".join(lines))
        [(meta, _)] = stream_features(config, path, schema, rules=loaded)
        read.append(meta["events"].sum())
    assert read == sorted(read, reverse=True)
    assert (read[0], read[-1]) == (9, 8)


def test_a_call_is_as_rare_as_it_was_before_its_window(tmp_path: Path) -> None:
    minutes = [
        [("ListUsers", "A")] * 3 + [("ListUsers", "B"), ("GetUser", "A")],
        [("ListUsers", "A"), ("DeleteUser", "A"), ("ListUsers", "B")],
        [("DeleteUser", "B"), ("DeleteUser", "B"), ("ListUsers", "B")],
    ]
    records = [
        record(60 * minute + second, name=name, user=user)
        for minute, calls in enumerate(minutes)
        for second, (name, user) in enumerate(calls)
    ]
    other = [record(130, name="DeleteUser", user="C", recipientAccountId="222222222222")]
    config = settings(write(tmp_path / "a.json", records + other), window_minutes=1)
    [(meta, _)] = stream_features(config, tmp_path, cloudtrail.schema(config, Inputs(tmp_path)))
    told = {
        (row["start"] // 60 - meta["start"].min() // 60, row["principal"][-1]): [
            (call["api"].rpartition(":")[2], call["earlier"], call["of"], call["principals"])
            for call in row["rare_calls"]
        ]
        for row in meta.to_dict("records")
    }
    assert told == {
        (0, "A"): [("ListUsers", 0, 0, 0), ("GetUser", 0, 0, 0)],
        (0, "B"): [("ListUsers", 0, 0, 0)],
        (1, "A"): [("DeleteUser", 0, 5, 0), ("ListUsers", 4, 5, 2)],
        (1, "B"): [("ListUsers", 4, 5, 2)],
        (2, "B"): [("DeleteUser", 1, 8, 1), ("ListUsers", 6, 8, 2)],
        (2, "C"): [("DeleteUser", 0, 0, 0)],  # another account has its own past
    }


def test_the_rarest_calls_are_named_and_are_the_same_however_the_records_come(tmp_path: Path) -> None:
    records = [record(minute * 60, name=f"Call{n}") for minute in range(90) for n in range(9) if minute % (n + 1) == 0]
    config = settings(write(tmp_path / "a.json", records), window_minutes=1)
    schema = cloudtrail.schema(config, Inputs(tmp_path))
    whole = [calls for meta, _ in stream_features(config, tmp_path, schema) for calls in meta["rare_calls"]]
    for part in range(6):
        write(tmp_path / f"{part}.json", records[part * len(records) // 6 : (part + 1) * len(records) // 6])
    (tmp_path / "a.json").unlink()
    parts = [meta for meta, _ in stream_features(config, tmp_path, schema)]
    assert len(parts) > 2
    assert [calls for meta in parts for calls in meta["rare_calls"]] == whole
    assert max(map(len, whole)) == 5
    assert all([call["earlier"] for call in calls] == sorted(call["earlier"] for call in calls) for calls in whole)
