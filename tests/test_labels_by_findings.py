"""Findings as labels: every form is read, each condition of the join counts, and what has no record says why."""

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.bundle import ModelBundle
from shared.config import Config
from shared.data_sources import cloudtrail, vpc_flow
from shared.data_sources.file_source import FileSource
from shared.data_sources.source_types import Table
from shared.errors import ConfigError, DataError
from shared.findings import joining
from shared.findings.folder import load_findings
from tests.findings import ACCOUNT, as_api, asff, guardduty, ocsf, probe
from tests.source_files import write_json_lines, write_lines
from tests.test_rules import rule
from tests.test_rules import write as write_rules
from tests.test_source_cloudtrail import record, settings, some_records, write
from tests.test_source_vpc_flow import flow, lines_of
from tests.test_source_vpc_flow import settings as flow_settings
from tests.trained import train_bundle

SOURCE = FileSource(cloudtrail)


def records() -> list[dict[str, Any]]:
    """Three minutes of two principals; Bob deletes a trail in the first."""
    quiet = [record(second, user=user) for second in range(0, 180, 10) for user in ("AIDAALICE", "AIDABOB")]
    return [record(0, name="DeleteTrail", service="cloudtrail", user="AIDABOB"), *quiet]


def by_findings(folder: Path, findings: Path, **changes: Any) -> Config:
    own: dict[str, object] = {"labels": "findings", "findings_path": str(findings), "label_field": ""}
    own |= {"label_patterns": (), "window_minutes": 1}
    return settings(write(folder / "a.json", records()), **(own | changes))


def attacks(table: Table) -> list[tuple[int, str]]:
    """The minute and the family of each row that is an attack."""
    starts = table.starts
    assert starts is not None
    rows = np.flatnonzero(table.labels)
    return [(int(starts[row] - starts.min()) // 60, str(table.families[row])) for row in rows]


FORMS: dict[str, Callable[[], Any]] = {
    "an export to S3": guardduty,
    "get-findings of GuardDuty": lambda: {"Findings": [as_api(guardduty())]},
    "EventBridge": lambda: {"detail-type": "GuardDuty Finding", "detail": guardduty()},
    "EventBridge within SQS": lambda: {"Records": [{"body": json.dumps({"detail": guardduty()})}]},
    "get-findings of Security Hub": lambda: {"Findings": [asff()]},
    "Security Hub in EventBridge": lambda: {"detail": {"findings": [asff()]}},
    "OCSF": ocsf,
    "OCSF with times in the finding": lambda: ocsf(time=1, start_time=1714557600000, end_time=1714557600000),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_labels_the_record_that_it_is_about(form: str, tmp_path: Path) -> None:
    path = tmp_path / "findings.json.gz"
    path.write_bytes(gzip.compress(json.dumps(FORMS[form]()).encode()))
    table = SOURCE.test_table(by_findings(tmp_path, path, test_path=str(tmp_path / "a.json")))
    assert attacks(table) == [(0, "defense-evasion")]


# What a finding says otherwise than the record, and how near it came.
MISSES: dict[str, tuple[dict[str, Any], int]] = {
    "another principal": ({"user": "AIDAEVE"}, joining.NOBODY),
    "another time": ({"first": "2024-05-01T10:20:00Z", "last": "2024-05-01T10:21:00Z"}, joining.TIME),
    "another call": ({"api": "StopLogging"}, joining.CALL),
    "another address": ({"address": "203.0.113.1"}, joining.ADDRESS),
}


@pytest.mark.parametrize("name", MISSES)
def test_each_condition_of_the_join_counts_and_says_why(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes, stage = MISSES[name]
    found = write_json_lines(tmp_path / "f.jsonl", [guardduty(**changes)])
    with caplog.at_level(logging.INFO):
        table = SOURCE.test_table(by_findings(tmp_path, found, test_path=str(tmp_path / "a.json")))
    assert attacks(table) == []
    assert "0 of 1 findings match a record" in caplog.text
    assert joining._REASONS[stage] in caplog.text


def test_another_account_is_no_match(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = write_json_lines(tmp_path / "f.jsonl", [guardduty() | {"accountId": "222222222222"}])
    table = SOURCE.test_table(by_findings(tmp_path, found, test_path=str(tmp_path / "a.json")))
    assert attacks(table) == []
    assert joining._REASONS[joining.ACCOUNT] in caplog.text
    assert ACCOUNT != "222222222222"


def test_a_finding_of_an_hour_labels_each_of_its_calls(tmp_path: Path) -> None:
    found = write_json_lines(tmp_path / "f.jsonl", [guardduty(api="ListUsers", last="2024-05-01T10:59:00Z")])
    table = SOURCE.test_table(by_findings(tmp_path, found, test_path=str(tmp_path / "a.json")))
    assert attacks(table) == [(minute, "defense-evasion") for minute in range(3)]


def test_a_role_is_found_by_its_sessions(tmp_path: Path) -> None:
    identity = {"type": "AssumedRole", "principalId": "AROAADMIN:tool", "arn": "arn:aws:sts::1:assumed-role/a/tool",
                "sessionContext": {"sessionIssuer": {"principalId": "AROAADMIN", "userName": "a"}}}  # fmt: skip
    write(tmp_path / "b.json", [record(0, name="DeleteTrail") | {"userIdentity": identity}, *records()[1:]])
    found = write_json_lines(tmp_path / "f.jsonl", [guardduty(user="AROAADMIN:other")])
    found.write_text(found.read_text().replace("user-AROAADMIN:other", "a"))
    config = by_findings(tmp_path, found, test_path=str(tmp_path / "b.json"))
    assert attacks(SOURCE.test_table(config)) == [(0, "defense-evasion")]


@pytest.mark.parametrize("severity", ["HIGH", "5.0", "5", None])
def test_a_severity_in_words_is_no_informational_one(tmp_path: Path, severity: str | None) -> None:
    found = load_findings(write_json_lines(tmp_path / "f.jsonl", [guardduty() | {"severity": severity}]), 0.0)
    assert (len(found.findings), found.left_out) == (1, ())


def test_what_exports_write_for_none_names_nobody_in_a_finding(tmp_path: Path) -> None:
    plain, exported = guardduty(), guardduty() | {"accountId": 111111111111.0}
    exported["resource"] = {"accessKeyDetails": {"accessKeyId": "-", "principalId": "null", "userName": "AIDABOB"}}
    (one,) = load_findings(write_json_lines(tmp_path / "a.jsonl", [plain]), 0.0).findings
    (other,) = load_findings(write_json_lines(tmp_path / "b.jsonl", [exported]), 0.0).findings
    assert other.principals == {"aidabob"}
    assert other.account == one.account


def test_what_is_no_detection_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = [
        guardduty(additionalInfo={"sample": True}),
        as_api(guardduty(user="AIDAX", additionalInfo={"type": "default", "value": '{"sample": true}'})),
        asff(Compliance={"Status": "FAILED"}),
        asff(user="AIDAY", Severity={"Label": "INFORMATIONAL"}),
        asff(user="AIDAZ", Severity={"Normalized": 0}),
        guardduty(user="AIDAQ") | {"severity": "0.5"},
        ocsf(class_uid=2003),
        ocsf(metadata={"product": {"name": "Autonomous Cloud Security Orchestrator"}}),
    ]
    with caplog.at_level(logging.INFO):
        found = load_findings(write_json_lines(tmp_path / "f.jsonl", [*others, guardduty()]), 0.0)
    assert len(found.findings) == 1
    assert dict(found.left_out) == {
        "sample findings of GuardDuty": 2,
        "checks of configurations, which are no detections": 1,
        "findings of severity informational": 3,
        "OCSF records of class 2003; detections are 2004": 1,
        "this project's own alerts, from which a model would learn its own word: give verdicts": 1,
    }
    assert "left out 2: sample findings" in caplog.text
    with pytest.raises(DataError, match=r"nothing to learn from: .*2 sample findings"):
        load_findings(write_json_lines(tmp_path / "none.jsonl", others), 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"eventName": "x", "eventSource": "y"}', "expected a finding, found an object with eventName"),
        ("[1]", "expected a finding, found 1"),
        (json.dumps(guardduty() | {"id": ""}), "no id, which every finding has"),
        (json.dumps(guardduty(first="yesterday")), "time 'yesterday': expected ISO 8601"),
        (json.dumps(guardduty(first="0001-01-01T00:00:00Z")), "from 1990 to a day from now"),
        (json.dumps(guardduty(first="1970-01-01T00:00:00Z")), "from 1990 to a day from now"),
        ('{"Findings": [', "broken"),
    ],
)
def test_what_is_no_finding_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_findings(path, 0.0)
    path.write_text(f"{text}\n{json.dumps(guardduty(user='AIDAOK'))}\n" if text[-1] != "[" else json.dumps(guardduty()))
    assert len(load_findings(path, 0.5).findings) == 1


def test_a_false_positive_is_benign_over_a_rule_and_the_disagreement_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both ways to say it; the twin without the mark is an attack."""
    rules = write_rules(
        tmp_path / "rules",
        rule({"selection": {"eventName": "DeleteTrail"}}, level="high", tags=["attack.impact"]),
        rule({"selection": {"userIdentity.principalId": "AIDAALICE"}}, level="high", tags=["attack.discovery"]),
    )
    base = {"rules_path": str(rules), "test_path": str(tmp_path / "a.json")}
    for marked in (guardduty(userFeedback="NOT_USEFUL"), asff(VerificationState="FALSE_POSITIVE"), ocsf(verdict_id=1)):
        caplog.clear()
        found = write_json_lines(tmp_path / "f.jsonl", [marked])
        table = SOURCE.test_table(by_findings(tmp_path, found, **base))
        assert attacks(table) == [(minute, "discovery") for minute in range(3)]
        assert "of 1 records a rule says attack and a finding is marked as false positive" in caplog.text
    found = write_json_lines(tmp_path / "f.jsonl", [guardduty()])
    table = SOURCE.test_table(by_findings(tmp_path, found, **base))
    assert (0, "defense-evasion") in attacks(table)  # a finding stands over a rule
    assert (0, "impact") not in attacks(table)


def test_flows_are_labelled_by_the_pair_and_from_whoever_began(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flows = [
        flow(0, srcaddr="203.0.113.9", dstaddr="10.0.1.1"),
        flow(0, srcaddr="203.0.113.9", dstaddr="10.0.1.2"),  # another one of ours
        flow(300, srcaddr="10.0.1.1", dstaddr="203.0.113.9"),  # its answer
        flow(600, srcaddr="10.0.0.1", dstaddr="10.0.1.1"),
        flow(7200, srcaddr="203.0.113.9", dstaddr="10.0.1.1"),  # hours later
    ]
    path = write_lines(tmp_path / "flows.log", lines_of(flows))
    own = guardduty(kind="Trojan:EC2/DNSDataExfiltration")
    own["resource"] = probe()["resource"]
    own["service"]["action"] = {"dnsRequestAction": {"domain": "example.com"}}
    found = write_json_lines(tmp_path / "f.jsonl", [probe(), probe(remote="192.0.2.250"), own])
    config = flow_settings(path, labels="findings", findings_path=str(found), label_field="", label_patterns=(),
                           test_path=str(path))  # fmt: skip
    with caplog.at_level(logging.INFO):
        table = FileSource(vpc_flow).test_table(config)
    assert attacks(table) == [(0, "reconnaissance")]
    assert "1 of 3 findings match a record; 1 records are attacks by them" in caplog.text
    assert joining._REASONS[joining.NOBODY] in caplog.text
    assert f"{joining._REASONS[joining.NOTHING]}: Trojan:EC2/DNSDataExfiltration" in caplog.text


def test_a_model_of_such_labels_keeps_no_path(tmp_path: Path) -> None:
    found = write_json_lines(tmp_path / "f.jsonl", [guardduty(api="ListUsers", last="2024-05-01T10:29:00Z")])
    config = by_findings(
        tmp_path, found, num_hidden_units=(4,), data_path=str(write(tmp_path / "b.json", some_records()))
    )
    train_bundle(config, tmp_path / "run", epochs=1)
    assert str(tmp_path) not in (tmp_path / "run/bundle.json").read_text()
    assert ModelBundle.load(tmp_path / "run").config.labels == "findings"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"findings_path": "x"}, "give labels: findings and the path, or neither"),
        ({"labels": "findings"}, "give labels: findings and the path, or neither"),
        ({"labels": "findings", "findings_path": "x", "label_path": "y"}, "leave out label_path"),
        ({"labels": "none", "feedback_path": "x"}, "with labels: none there are none"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    own: dict[str, object] = {"data_source": "cloudtrail", "data_path": "x", "num_features": 42}
    with pytest.raises(ConfigError, match=message):
        Config(**(own | changes))  # type: ignore[arg-type]


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, item in inner for leaf in _leaves(item, (*path, key)))]


@pytest.mark.parametrize("form", [guardduty, probe, asff, ocsf])
def test_whatever_stands_in_a_finding_it_is_read_or_refused_and_nothing_else(
    form: Callable[[], Any], tmp_path: Path
) -> None:
    odds: tuple[Any, ...] = (None, True, -1, 1e300, "", "x", [], {}, [[]], [{}], {"a": []})
    for number, odd in enumerate(odds):
        mutants = []
        for path in _leaves(form())[1:]:
            mutant = form()
            inner = mutant
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = odd
            mutants.append(mutant)
        found = load_findings(write_json_lines(tmp_path / f"{number}.jsonl", [form(), *mutants]), 1.0)
        assert found.findings
