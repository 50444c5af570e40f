"""`data_source: audit` with labels of a file, a field and Sigma rules, which call fields as they like."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.config import Config
from shared.data_sources import audit
from shared.data_sources.audit_rules import load_rules
from shared.data_sources.file_source import FileSource
from shared.data_sources.source_types import Inputs
from shared.errors import ConfigError, OrchestratorError
from tests import audit_events as make
from tests.source_files import write_json_lines
from tests.test_data_audit import read, settings


def labelled_settings(path: Path, **changes: Any) -> Config:
    return settings(path, labels="", **changes)


@pytest.mark.parametrize(
    ("label", "missing"),
    [
        ("event_id,label\nk8s-3,attack", {"targets"} - {"targets"}),
        ("address,label\n203.0.113.9,attack", {"addresses", "new_address_share"}),
        ("start,end,label\n2026-01-05T08:20:00Z,,attack", {"hour_sin", "hour_cos"}),
    ],
)
def test_labels_of_a_file_make_attacks_and_no_feature(tmp_path: Path, label: str, missing: set[str]) -> None:
    events = [make.kubernetes(second) for second in range(3)]
    events.append(make.kubernetes(3, sourceIPs=["203.0.113.9"], requestReceivedTimestamp=make.iso(1500)))
    (tmp_path / "labels.csv").write_text(label)
    path = write_json_lines(tmp_path / "a.jsonl", events)
    config = labelled_settings(path, label_path=str(tmp_path / "labels.csv"))
    chunks, _ = read(config, labelled=True)
    assert np.concatenate([chunk.families for chunk in chunks]).tolist() == ["benign", "attack"]
    schema = audit.schema(config, Inputs(path, tmp_path / "labels.csv"))
    everything = audit.schema(settings(path), Inputs(path, labelled=False))
    assert set(everything.names) - set(schema.names) == missing
    assert audit.schema_like(config, path, schema) == schema


def test_labels_of_a_field_make_attacks_and_no_feature(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [make.okta(0), make.okta(900, outcome={"result": "DENY"})])
    config = labelled_settings(path, label_field="outcome.result", label_patterns=("deny",))
    chunks, _ = read(config, labelled=True)
    assert np.concatenate([chunk.families for chunk in chunks]).tolist() == ["benign", "attack"]
    names = audit.schema(config, Inputs(path)).names
    assert not {"error_share", "denied_share"} & set(names)


@pytest.mark.parametrize("field", ["eventType", "actor", "protoPayload", "user", "eventName"])
def test_no_feature_comes_of_a_part_or_a_whole_of_the_labels_field(tmp_path: Path, field: str) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [make.okta()])
    names = audit.schema(labelled_settings(path, label_field=field, label_patterns=("x",)), Inputs(path)).names
    expected = {
        "eventType": ("apis", "new_api_share", "write_share", "api#0"),
        "eventName": ("apis", "api#0"),
        "protoPayload": ("apis", "addresses", "targets", "denied_share", "error_share", "machine_share"),
        "user": ("machine_share",),
        "actor": ("machine_share",),
    }[field]
    assert not set(expected) & set(names)
    assert "events" in names


def test_records_of_neither_class_are_left_out(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [make.okta(0), make.okta(1, severity="DEBUG")])
    config = labelled_settings(
        path, label_field="eventType", label_patterns=("x",), label_ignored=("severity=debug & version=0",)
    )
    chunks, broken = read(config, labelled=True)
    assert int(chunks[0].meta["events"].sum()) == 1
    assert broken.left_out == {"records of label_ignored": 1}


SIGMA = """
title: {title}
logsource: {{{source}}}
detection: {{selection: {{{selection}}}, condition: selection}}
level: {level}
tags: [attack.impact]
"""
RULES = {
    "jane": ("product: okta, service: okta", "eventtype: user.session.start, outcome.result: DENY", "high"),
    "gcp": ("product: gcp, service: gcp.audit", "gcp.audit.method_name: v1.compute.instances.delete", "medium"),
    "pods": ("category: application, product: kubernetes, service: audit", "verb: exec, objectRef.name: web", "high"),
    "azure": ("product: azure, service: activitylogs", "operationName|endswith: /VIRTUALMACHINES/WRITE", "medium"),
    "entra": ("product: azure, service: signinlogs", "ResultType: 50126", "medium"),
    "aws": ("product: aws, service: cloudtrail", "eventName: StopLogging", "medium"),
    "low": ("product: okta, service: okta", "actor.alternateid|endswith: example.com", "low"),
}  # fmt: skip


def sigma(folder: Path, names: Iterable[str] = RULES) -> Path:
    folder.mkdir()
    for name in names:
        source, selection, level = RULES[name]
        (folder / f"{name}.yml").write_text(SIGMA.format(title=name, source=source, selection=selection, level=level))
    return folder


MET = [
    make.okta(0, outcome={"result": "DENY"}),
    make.gcp(1),
    make.kubernetes(2, verb="exec"),
    make.aks(3, verb="exec"),
    make.azure(4),
    make.entra(5, resultType="50126"),
    make.cloudtrail(6, eventName="StopLogging"),
]


def test_hits_of_each_services_rules_are_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = [make.okta(10), make.kubernetes(11), make.entra(12), make.cloudtrail(13, eventID="x")]
    config = settings(
        write_json_lines(tmp_path / "a.jsonl", [*MET, *others]),
        labels="rules",
        rules_path=str(sigma(tmp_path / "rules")),
    )
    rules = load_rules(config, tmp_path / "rules")
    titles = [[rule.title for rule in rules.hits(event)] for event in MET]
    assert titles == [["jane", "low"], ["gcp"], ["pods"], ["pods"], ["azure"], ["entra"], ["aws"]]
    assert [[rule.title for rule in rules.hits(event)] for event in others] == [["low"], [], [], []]
    with caplog.at_level(logging.INFO, "data"):
        rows = FileSource(audit).test_rows(config.replace(test_path=config.data_path))
    assert set(rows.families) <= {"benign", "impact"}
    assert "7 records are attacks, by rules of level medium and above" in caplog.text


def test_rules_for_none_of_the_services_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "a.yml").write_text(SIGMA.format(title="a", source="product: windows", selection="a: b", level="high"))
    config = settings(tmp_path, labels="rules", rules_path=str(folder))
    with pytest.raises(OrchestratorError, match="no rule that can be evaluated for cloudtrail, kubernetes"):
        load_rules(config, folder)
    with pytest.raises(ConfigError, match="records of cloudtrail alone, and these are of ocsf"):
        load_rules(settings(tmp_path, data_source="ocsf"), folder)
