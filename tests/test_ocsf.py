"""Alerts as others' code reads them: the Detection Finding of py-ocsf-models, which Prowler's findings are made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from py_ocsf_models.events.findings.detection_finding import DetectionFinding

from client import alerts as alerts_module
from client.alerts import Findings
from client.explain import Driver
from client.scoring import score_files
from shared.bundle import ModelBundle
from tests.flow_tables import table


def checked(alert: dict[str, Any]) -> DetectionFinding:
    """The alert as the library takes it; all that it knows of, it must take as it is."""
    return DetectionFinding.model_validate(alert)


def test_an_alert_on_flows_is_a_detection_finding(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    _, bundle = flows
    (tmp_path / "new.csv").write_bytes(table(range(40)))
    score_files(bundle, [tmp_path / "new.csv"], tmp_path / "alerts.jsonl", 0.5)
    alerts = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert len(alerts) == 10
    for alert in alerts:
        finding = checked(alert)
        assert finding.finding_info.uid == alert["finding_info"]["uid"]
        assert finding.type_uid.value == 200401
        assert finding.severity_id.value == alert["severity_id"]
    broken = alerts[0] | {"severity_id": 17}
    with pytest.raises(ValueError, match="severity_id"):
        checked(broken)


def test_an_alert_on_cloudtrail_is_a_detection_finding(
    flows: tuple[Path, ModelBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls behind a tactic are in `api`, with the service as the library wants it."""
    _, bundle = flows
    findings = Findings(bundle, 0.5)
    monkeypatch.setattr(findings, "_kind", "cloudtrail")
    monkeypatch.setattr(alerts_module, "record_id", lambda *_of: "0" * 32)
    source = {
        "start": 1_700_000_100, "end": 1_700_000_400, "principal": "mallory", "account": "111122223333", "events": 3,
        "first_event_id": "e-1", "apis": ["cloudtrail.amazonaws.com:StopLogging"], "call_counts": [3],
        "regions": ["us-east-1"], "addresses": ["203.0.113.9"],
        "rules": [], "rare_calls": [],
    }  # fmt: skip
    raw = np.zeros(len(bundle.schema), dtype=np.float32)
    alert = findings.finding(source, raw, 0.9, [Driver("events", 3.0, 1.5)], 1_700_000_500_000)
    finding = checked(json.loads(json.dumps(alert)))
    assert finding.evidences
    assert any(evidence.api for evidence in finding.evidences)
