"""Audit logs by tables of fields: who, what, whether it failed, when; what is told apart, counted and refused."""

import json
import logging
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client import score
from client.scoring import score_files
from orchestrator.simulation import simulate
from shared.bundle import ModelBundle
from shared.config import Config, load_config, parse_config
from shared.data_sources import audit, audit_table, cloudtrail, ocsf, vpc_flow
from shared.data_sources.audit_rules import load_rules
from shared.data_sources.audit_table import SERVICES, AuditTable, shipped
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.file_source import FileSource
from shared.data_sources.record_fields import Field, seconds_of
from shared.data_sources.source_types import Inputs
from shared.errors import ConfigError, DataError, OrchestratorError
from tests import audit_events as make
from tests.audit_events import MAKERS, START, Event
from tests.processes import ROOT
from tests.source_files import named_features, read_chunks, settings_of, write_json_lines
from tests.trained import train_bundle

TABLES = {table.name: table for table in shipped()}
SAMPLES = ROOT.parent / "shared" / "data" / "cloud-audit-events"


def table_of(event: Event) -> AuditTable:
    """The first table that fits, as the source goes by."""
    return next(table for table in shipped() if table.fits(event))


settings = partial(settings_of, "audit", labels="none", num_features=31, max_broken_share=0.0)
read = partial(read_chunks, audit, labelled=False)
features_of = partial(named_features, audit, labelled=False)


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_told_by_its_own_table_and_no_other(service: str) -> None:
    if service == "entra_audit":
        event = make.entra(category="AuditLogs", properties__activityDateTime=make.iso(0))
    else:
        event = MAKERS[service]()
    assert table_of(event).name == service


EXPECTED: dict[str, tuple[str, str, str]] = {
    "kubernetes": ("jane", "kubernetes:list pods", ""),
    "kubernetes_aks": ("jane", "kubernetes:list pods", ""),
    "gcp_audit": ("jane@example.com", "compute.googleapis.com:v1.compute.instances.delete", "europe-west1-b"),
    "okta": ("jane@example.com", "okta:user.session.start", "Germany"),
    "entra_signin": ("jane@example.com", "entra_signin:SignInLogs", "DE"),
    "entra_signin_graph": ("jane@example.com", "entra_signin:signIn", "DE"),
    "azure_activity": ("jane@example.com", "Administrative:microsoft.compute/virtualmachines/write", "westeurope"),
}


@pytest.mark.parametrize("service", EXPECTED)
def test_who_did_what_where_and_when(service: str) -> None:
    call = TABLES[service].call(MAKERS[service](61))
    assert (call["principal"], call["api"], call["region"]) == EXPECTED[service]
    assert call["time"] == START + 61
    assert call["address"] == "198.51.100.7"
    assert call["target"]
    assert call["event_id"]
    assert not call["error"]
    assert not call["denied"]


OUTCOMES: list[tuple[str, dict[str, Any], bool, bool]] = [
    ("kubernetes", {"responseStatus__code": 201}, False, False),
    ("kubernetes", {"responseStatus__code": 101}, False, False),
    ("kubernetes", {"responseStatus__code": 404}, True, False),
    ("kubernetes", {"responseStatus__code": 500}, True, False),
    ("kubernetes", {"responseStatus__code": 403}, True, True),
    ("kubernetes", {"responseStatus__code": 403.0}, True, True),
    ("kubernetes", {"annotations": {"authorization.k8s.io/decision": "forbid"}}, True, True),
    ("kubernetes_aks", {"responseStatus__code": 403}, True, True),
    ("kubernetes_aks", {"responseStatus__code": 409}, True, False),
    ("gcp_audit", {"protoPayload__status": {"code": 0}}, False, False),
    ("gcp_audit", {"protoPayload__status": {"code": 5, "message": "not found"}}, True, False),
    ("gcp_audit", {"protoPayload__status": {"code": 7}}, True, True),
    ("gcp_audit", {"protoPayload__authorizationInfo": [{"granted": True}, {"granted": False}]}, True, True),
    ("okta", {"outcome": {"result": "FAILURE", "reason": "INVALID_CREDENTIALS"}}, True, False),
    ("okta", {"outcome": {"result": "DENY"}}, True, True),
    ("okta", {"outcome": {"result": "CHALLENGE"}}, False, False),
    ("entra_signin", {"properties__status": {"errorCode": 50126}}, True, False),
    ("entra_signin", {"resultType": "50126", "properties__status": None}, True, False),
    ("entra_signin", {"properties__status": {"errorCode": 53003}, "resultType": "53003"}, True, True),
    ("entra_signin_graph", {"status": {"errorCode": 50126}}, True, False),
    ("entra_signin_graph", {"status": {"errorCode": 50105}}, True, True),
    ("azure_activity", {"resultType": "Start"}, False, False),
    ("azure_activity", {"resultType": "Failure", "resultSignature": "Failed.Conflict"}, True, False),
    ("azure_activity", {"resultType": "Failed", "resultSignature": "403"}, True, True),
    ("azure_activity", {"resultType": "Failure", "resultSignature": "Failed.Forbidden"}, True, True),
]


@pytest.mark.parametrize(("service", "changes", "error", "denied"), OUTCOMES)
def test_failures_and_denials_are_those_of_the_service(
    service: str, changes: dict[str, Any], error: bool, denied: bool
) -> None:
    call = TABLES[service].call(MAKERS[service](**changes))
    assert (call["error"], call["denied"]) == (error, denied)


def test_an_entra_change_that_was_refused_failed() -> None:
    event = make.entra(
        category="AuditLogs",
        operationName="Add member to role",
        properties={"result": "failure", "resultReason": "Insufficient privileges to complete", "initiatedBy": {
            "user": {"id": "u-1", "userPrincipalName": "jane@example.com"}}, "operationType": "Assign"},
    )  # fmt: skip
    call = table_of(event).call(event)
    assert (call["error"], call["denied"], call["write"], call["principal"]) == (True, True, True, "jane@example.com")


@pytest.mark.parametrize(
    ("service", "changes", "write", "machine"),
    [
        ("kubernetes", {"verb": "create"}, True, False),
        ("kubernetes", {"verb": "watch", "user__username": "system:node:ip-10-0-0-1"}, False, True),
        ("gcp_audit", {}, True, False),
        (
            "gcp_audit",
            {
                "logName": "projects/p-1/logs/cloudaudit.googleapis.com%2Fdata_access",
                "protoPayload__authenticationInfo": {"principalEmail": "x@p-1.iam.gserviceaccount.com"},
            },
            False,
            True,
        ),
        ("okta", {"eventType": "user.account.privilege.grant", "actor__type": "SystemPrincipal"}, True, True),
        ("entra_signin", {"category": "ServicePrincipalSignInLogs"}, False, True),
        ("azure_activity", {"operationName": "Microsoft.Compute/virtualMachines/read"}, False, False),
    ],
)
def test_writes_and_machines(service: str, changes: dict[str, Any], write: bool, machine: bool) -> None:
    call = TABLES[service].call(MAKERS[service](**changes))
    assert (call["write"], call["machine"]) == (write, machine)


# Pairs of events of two principals, however alike.
PRINCIPALS: dict[str, tuple[Event, Event]] = {
    "two IAM roles under one name of an EKS cluster": (
        make.kubernetes(user={"username": "kubernetes-admin", "uid": "aws-iam-authenticator:1:AROAONE"}),
        make.kubernetes(user={"username": "kubernetes-admin", "uid": "aws-iam-authenticator:1:AROATWO"}),
    ),
    "a service account that was made again": (
        make.kubernetes(user={"username": "system:serviceaccount:a:b", "uid": "1"}),
        make.kubernetes(user={"username": "system:serviceaccount:a:b", "uid": "2"}),
    ),
    "one name in two clusters": (make.aks(), make.aks(resourceId="/SUBSCRIPTIONS/1/MANAGEDCLUSTERS/TWO")),
    "letters that might separate": (
        make.kubernetes(user={"username": "a|b", "uid": "c"}),
        make.kubernetes(user={"username": "a", "uid": "b|c"}),
    ),
    "who does not exist in Okta": (
        make.okta(actor={"id": "unknown", "type": "User", "alternateId": "joe@example.com"}),
        make.okta(actor={"id": "unknown", "type": "User", "alternateId": "jim@example.com"}),
    ),
    "an id and an address of the same letters": (
        make.okta(actor={"id": "x", "type": "User"}),
        make.okta(actor={"alternateId": "x", "type": "User"}),
    ),
    "who does not exist in Entra": (
        make.entra(properties__userId="00000000-0000-0000-0000-000000000000", properties__userPrincipalName="a@x"),
        make.entra(properties__userId="00000000-0000-0000-0000-000000000000", properties__userPrincipalName="b@x"),
    ),
    "one id in two directories": (make.entra(), make.entra(tenantId="t-2")),
    "an application and a user": (
        make.entra(properties__userId=None, properties__servicePrincipalId="u-1"),
        make.entra(),
    ),
    "without a name, at two addresses": (
        make.gcp(protoPayload__authenticationInfo=None),
        make.gcp(protoPayload__authenticationInfo=None, protoPayload__requestMetadata={"callerIp": "203.0.113.1"}),
    ),
    "a workforce principal without an email": (
        make.gcp(protoPayload__authenticationInfo={"principalSubject": "principal://iam.googleapis.com/pool/a"}),
        make.gcp(protoPayload__authenticationInfo={"principalSubject": "principal://iam.googleapis.com/pool/b"}),
    ),
    "two people with one display name": (
        make.azure(identity={"claims": {"http://schemas.microsoft.com/identity/claims/objectidentifier": "1"}}),
        make.azure(identity={"claims": {"http://schemas.microsoft.com/identity/claims/objectidentifier": "2"}}),
    ),
    "one name in two services": (
        make.kubernetes(user={"username": "jane@example.com"}),
        make.gcp(),
    ),
    "CloudTrail and another service": (
        make.cloudtrail(userIdentity={"type": "Root", "principalId": "x"}),
        make.kubernetes(user={"username": "Root||x"}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRINCIPALS)
def test_no_two_principals_share_a_row(tmp_path: Path, name: str) -> None:
    chunks, _ = read(settings(write_json_lines(tmp_path / "a.jsonl", list(PRINCIPALS[name]))))
    assert sum(len(chunk.features) for chunk in chunks) == 2


def test_keys_that_join_texts_merge_two_principals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The broken twin: what the test above would find."""

    class Joining:
        @staticmethod
        def dumps(parts: list[Any]) -> str:
            return "|".join(parts[-1])

    monkeypatch.setattr(audit_table, "json", Joining)
    path = write_json_lines(tmp_path / "a.jsonl", list(PRINCIPALS["letters that might separate"]))
    chunks, _ = read(settings(path))
    assert sum(len(chunk.features) for chunk in chunks) == 1


def test_one_principal_is_one_row_from_wherever_it_acts(tmp_path: Path) -> None:
    events = [make.okta(second, client__ipAddress=f"198.51.100.{second}") for second in range(5)]
    (row,) = features_of(settings(write_json_lines(tmp_path / "a.jsonl", events))).to_dict("records")
    assert (row["events"], row["principal"]) == (pytest.approx(np.log1p(5)), "jane@example.com")


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05T08:00:00Z",
        "2026-01-05T08:00:00.123456789Z",
        "2026-01-05 08:00:00.1",
        "2026-01-05 08:00:00.123 UTC",
        "2026-01-05T09:00:00+0100",
        "2026-01-05T10:00:00.0000000+02:00",
        "1767600000",
        "1767600000.5",
        "1767600000123",
        "1767600000123456",
        "1767600000123456789",
    ],
)
def test_times_of_all_forms_are_seconds(text: str) -> None:
    assert seconds_of(text) == START


@pytest.mark.parametrize("text", ["", "yesterday", "-1", "nan", "inf", "-inf", "9999-01-01T00:00:00Z", "1" * 400])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        seconds_of(text)


CARRIERS: dict[str, Any] = {
    "webhook of Kubernetes": lambda e: {"kind": "EventList", "items": e["kubernetes"]},
    "CloudWatch subscription of EKS": lambda e: {
        "messageType": "DATA_MESSAGE",
        "logGroup": "/aws/eks/one/cluster",
        "logEvents": [{"id": str(i), "message": json.dumps(event)} for i, event in enumerate(e["kubernetes"])],
    },
    "Event Hub": lambda e: {"records": e["azure_activity"]},
    "Graph": lambda e: {"@odata.context": "x", "value": e["entra_signin_graph"]},
    "Pub/Sub": lambda e: [
        {"message": {"data": _base64(json.dumps(event)), "messageId": "1"}, "subscription": "s"}
        for event in e["gcp_audit"]
    ],
    "EventBridge of Okta": lambda e: [{"detail-type": "SystemLog", "detail": event} for event in e["okta"]],
    "HTTP event collector": lambda e: [{"time": 1, "source": "okta", "event": event} for event in e["okta"]],
    "Elastic": lambda e: {
        "hits": {"hits": [{"_source": {"event": {"original": json.dumps(event)}}} for event in e["gcp_audit"]]}
    },
}


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_records_come_out_of_what_carries_them(tmp_path: Path, carrier: str) -> None:
    events = {name: [maker(second) for second in range(3)] for name, maker in MAKERS.items()}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CARRIERS[carrier](events)))
    chunks, broken = read(settings(path))
    assert broken.broken == 0
    assert sum(int(chunk.meta["events"].sum()) for chunk in chunks) == 3


def test_keys_in_lower_case_and_flattened_objects_are_found() -> None:
    lower = {"verb": "get", "kind": "Event", "user.username": "jane", "responsestatus": {"Code": 403}}
    call = TABLES["kubernetes"].call(lower | {"stagetimestamp": "2026-01-05T08:00:00Z"})
    assert (call["principal"], call["denied"], call["time"]) == ("jane", True, START)


def test_a_path_goes_through_lists_and_texts_of_json() -> None:
    record = {"a": [{"b": None}, {"b": '{"c": [1, 2]}'}]}
    assert Field.of(["a.b.c"]).text(record) == "1"
    assert Field.of(["a.x", "a.b.c + a.b.c + x"]).parts(record) == ("a.b.c + a.b.c + x", ("1", "1", ""))
    assert Field.of(["a.x", "=x"]).text(record) == "x"


def test_services_side_by_side_are_read_and_all_records_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = [maker(second) for second in range(4) for maker in MAKERS.values()]
    odd = [make.kubernetes(9, stage="RequestReceived"), {"no": "service"}, "a line", make.okta(9, published=None)]
    path = write_json_lines(tmp_path / "a.jsonl", [*events, *odd, events[0]])
    with caplog.at_level(logging.INFO, "data"):
        chunks, broken = read(settings(path, max_broken_share=0.5))
    assert sum(int(chunk.meta["events"].sum()) for chunk in chunks) == len(events)
    assert broken.left_out == {"kubernetes records of its left_out": 1, "events that were there already": 1}
    assert broken.broken == 3
    assert broken.lines == len(events) + 5
    assert "of no service that there is a table for: it has no; see audit_map" in caplog.text
    assert "no time of a okta record: none of published" in caplog.text


@pytest.mark.parametrize("column", ["@message", "_raw"])
def test_records_of_all_services_are_read_out_of_a_column_of_a_table(tmp_path: Path, column: str) -> None:
    events = [maker(second) for second in range(4) for maker in MAKERS.values()]
    table = pd.DataFrame({"@timestamp": "2026-01-05", column: [json.dumps(event) for event in events]})
    (tmp_path / "logs").mkdir()
    table.to_csv(tmp_path / "logs" / "export.csv", index=False)
    chunks, broken = read(settings(tmp_path / "logs"))
    assert sum(int(chunk.meta["events"].sum()) for chunk in chunks) == broken.lines == len(events)


def test_events_of_ocsf_are_read_out_of_a_column_of_a_table(tmp_path: Path) -> None:
    events = [make.api_activity(second) for second in range(4)]
    table = pd.DataFrame({"_time": "2026-01-05", "_raw": [json.dumps(event) for event in events]})
    (tmp_path / "logs").mkdir()
    table.to_csv(tmp_path / "logs" / "export.csv", index=False, sep=";")
    config = settings_of("ocsf", tmp_path / "logs", labels="none", max_broken_share=0.0)
    chunks, broken = read_chunks(ocsf, config, labelled=False)
    assert sum(int(chunk.meta["events"].sum()) for chunk in chunks) == broken.lines == len(events)


DEEP: dict[str, str] = {
    "lists": '{"kind": "Event", "verb": ' + "[" * 900 + "]" * 900 + "}",
    "objects": '{"kind": "Event", "verb": "get", "user": ' + '{"a":' * 900 + "1" + "}" * 900 + "}",
    "a text of lists": json.dumps({"category": "kube-audit", "properties": {"log": "[" * 100_000}}),
    "a text of objects": json.dumps({"category": "kube-audit", "properties": {"log": '{"verb":' * 100_000}}),
    "a text of texts": json.dumps({"category": "kube-audit", "properties": {"log": json.dumps('{"verb": 1}')}}),
    "no key": '{"": {"": []}}',
    "a long name": json.dumps(make.kubernetes(user={"username": "x" * 1_000_000})),
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("source", ["audit", "ocsf", "vpc_flow"])
def test_a_record_that_is_deep_or_long_costs_itself_alone(tmp_path: Path, name: str, source: str) -> None:
    path = tmp_path / "a.jsonl"
    flow = {"event_type": "flow", "src_ip": "192.0.2.1", "dest_ip": "192.0.2.2", "proto": "TCP", "flow": {}}
    good = {"audit": make.okta(), "ocsf": make.api_activity(), "vpc_flow": flow | {"timestamp": make.iso(0)}}[source]
    path.write_text(f"{DEEP[name]}\n{json.dumps(good)}")
    config = settings(path, data_source=source, max_broken_share=1.0)
    broken = BrokenLines(path, 1.0)
    reader = {"audit": audit, "ocsf": ocsf, "vpc_flow": vpc_flow}[source]
    inputs = Inputs(path, labelled=False)
    chunks = list(reader.stream(config, inputs, reader.schema(config, inputs), broken))
    rows = sum(int(chunk.meta["flows" if source == "vpc_flow" else "events"].sum()) for chunk in chunks)
    assert rows >= 1
    assert rows + broken.broken + broken.left_out.total() == broken.lines


def test_a_flow_that_carries_a_deep_list_is_read(tmp_path: Path) -> None:
    flow = dict.fromkeys(
        ("srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes", "start", "end"), 0
    )
    flow |= {"start": 1_767_600_000, "end": 1_767_600_030}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(flow)[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}")
    config = settings(path, data_source="vpc_flow")
    inputs = Inputs(path, labelled=False)
    (chunk,) = vpc_flow.stream(config, inputs, vpc_flow.schema(config, inputs))
    assert chunk.meta["flows"].tolist() == [1]


def test_a_folder_of_other_logs_is_refused(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", [{"message": "hello"}] * 5)
    with pytest.raises(DataError, match=r"5 of 5 lines are broken.*expected an audit record, found 'hello'"):
        read(settings(tmp_path))


def test_cloudtrail_among_them_is_read_as_by_its_own_source(tmp_path: Path) -> None:
    role = {"type": "AssumedRole", "principalId": "AROAONE:any", "arn": "arn:aws:sts::1:assumed-role/one/any"}
    events = [make.cloudtrail(0), make.cloudtrail(1, userIdentity=role, errorCode="Client.UnauthorizedOperation")]
    path = write_json_lines(tmp_path / "a.jsonl", events)
    found = features_of(settings(path)).set_index("principal")
    config = settings(path, data_source="cloudtrail", num_features=42)
    inputs = Inputs(path, labelled=False)
    schema = cloudtrail.schema(config, inputs)
    (chunk,) = cloudtrail.stream(config, inputs, schema)
    own = pd.DataFrame(chunk.features, columns=list(schema.names), index=chunk.meta["principal"])
    shared = [name for name in own.columns if name in found]
    assert len(shared) == 13 + 16
    pd.testing.assert_frame_equal(found.loc[own.index, shared], own[shared], check_index_type=False)
    assert sorted(own["denied_share"]) == [0, 1]


# Labels


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


# Sigma rules, which call each service's fields as they like

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


OWN_SIGMA = "sigma: {product: github, service: audit, fields: {who.login: actor}}\n"


def own_rules(folder: Path) -> Path:
    folder = folder / "rules"
    folder.mkdir()
    source, selection = "product: github, service: audit", "action: repo.create, who.login: jane"
    (folder / "a.yml").write_text(SIGMA.format(title="a", source=source, selection=selection, level="high"))
    return folder


def test_a_table_may_say_how_rules_call_its_fields(tmp_path: Path) -> None:
    own = tmp_path / "github.yaml"
    own.write_text(documented_table() + OWN_SIGMA)
    folder = own_rules(tmp_path)
    config = settings(tmp_path, audit_map=str(own), labels="rules", rules_path=str(folder))
    assert [len(load_rules(config, folder).hits(event)) for event in GITHUB] == [1, 0, 0]


def test_rules_for_none_of_the_services_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "a.yml").write_text(SIGMA.format(title="a", source="product: windows", selection="a: b", level="high"))
    config = settings(tmp_path, labels="rules", rules_path=str(folder))
    with pytest.raises(OrchestratorError, match="no rule that can be evaluated for cloudtrail, kubernetes"):
        load_rules(config, folder)
    with pytest.raises(ConfigError, match="records of cloudtrail alone, and these are of ocsf"):
        load_rules(settings(tmp_path, data_source="ocsf"), folder)


# A person's own table

GITHUB = [
    {"@timestamp": 1767600000123, "_document_id": "1", "action": "repo.create", "actor": "jane", "actor_id": 7,
     "actor_ip": "198.51.100.7", "actor_location": {"country_code": "DE"}, "org": "example", "repo": "example/one",
     "operation_type": "create"},
    {"@timestamp": 1767600001123, "_document_id": "2", "action": "protected_branch.policy_override", "actor": "joe",
     "actor_id": 8, "actor_ip": "203.0.113.1", "org": "example", "repo": "example/one", "operation_type": "modify"},
    {"@timestamp": 1767600002123, "_document_id": "3", "action": "git.clone", "actor": "deploy", "actor_id": 9,
     "actor_is_bot": True, "org": "example", "repo": "example/one", "operation_type": "access"},
]  # fmt: skip


def documented_table() -> str:
    text = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(name: .*?)```", text, re.DOTALL)
    return str(block)


def test_the_table_of_the_documentation_reads_a_service_without_code(tmp_path: Path) -> None:
    own = tmp_path / "github.yaml"
    own.write_text(documented_table())
    path = write_json_lines(tmp_path / "a.jsonl", [*GITHUB, make.okta()])
    with pytest.raises(DataError, match="of no service that there is a table for"):
        read(settings(path))
    found = features_of(settings(path, audit_map=str(own))).set_index("principal")
    assert set(found.index) == {"jane", "joe", "deploy", "jane@example.com"}
    assert found.loc["joe", "first_event_id"] == "2"
    assert found.loc["deploy", ["machine_share", "write_share"]].tolist() == [1, 0]
    assert found.loc["joe", ["machine_share", "write_share"]].tolist() == [0, 1]
    assert found.loc["jane", "start"] == START // 300 * 300


def test_a_folder_of_tables_and_one_in_place_of_the_projects_own(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "github.yaml").write_text(documented_table())
    (folder / "okta.yml").write_text(
        "name: okta\nrecords: {uuid: '*'}\ntime: published\nprincipal: actor.id\naction: uuid"
    )
    path = write_json_lines(tmp_path / "a.jsonl", [*GITHUB, make.okta()])
    chunks, _ = read(settings(path, audit_map=str(folder)))
    assert sorted(api for row in chunks[-1].meta["apis"] for api in row)[-1] == "okta:okta-0"


def test_new_records_are_scored_by_the_same_table_named_once_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "private" / "github.yaml"
    own.parent.mkdir()
    own.write_text(documented_table() + OWN_SIGMA)
    events = [
        GITHUB[n % 3] | {"@timestamp": 1000 * (START + 60 * n), "_document_id": str(n), "actor_id": n % 20}
        for n in range(600)
    ]
    path = write_json_lines(tmp_path / "a.jsonl", events)
    config = settings(path, audit_map=str(own), labels="", label_field="actor_id", label_patterns=("7",))
    train_bundle(config.replace(num_features=31), tmp_path / "run", epochs=1)
    assert "private" not in (tmp_path / "run" / "bundle.json").read_text()
    output = tmp_path / "alerts.jsonl"
    arguments = ["--model", str(tmp_path / "run"), "--input", str(path), "--output", str(output), "--threshold", "0"]
    assert score.main(arguments) != 0
    assert "name yours with --audit_map" in "".join(capfd.readouterr())
    assert score.main([*arguments, "--audit_map", str(own)]) == 0
    alerts = [json.loads(line) for line in output.read_text().splitlines()]
    assert {alert["evidences"][0]["actor"]["user"]["name"] for alert in alerts} == {"jane", "joe", "deploy"}
    arguments[-1] = "1"  # no score is above it
    assert score.main([*arguments, "--audit_map", str(own), "--rules_path", str(own_rules(tmp_path))]) == 0
    alerts = [json.loads(line) for line in output.read_text().splitlines()]
    assert {alert["evidences"][0]["actor"]["user"]["name"] for alert in alerts} == {"jane"}
    assert {str(alert["unmapped"]["raised_by"]) for alert in alerts} == {"['rules']"}


GOOD = "name: x\nrecords: {a: '*'}\ntime: t\nprincipal: p\naction: c\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table: .*a table has name, records"),
        ("[1, 2]", "the table: .*a table has name, records"),
        ("name: x", "records: Field required"),
        (GOOD + "tyme: x", "tyme: Extra inputs are not permitted; a table has"),
        (GOOD.replace("name: x", "name: X Y"), "name: String should match"),
        (GOOD.replace("time: t", "time: {a: b}"), "time"),
        (GOOD.replace("{a: '*'}", "{}"), "records: Dictionary should have at least 1 item"),
        (GOOD.replace("time: t", "time: []"), "time: .*at least 1 item"),
        (GOOD + "name: y", "key 'name' is given twice"),
        (GOOD + "id: !!python/object:os.system x", "not valid YAML"),
        ("a: &a [x]\nb: *a", "an alias"),
        (GOOD + "failed: {a: [1.5]}", "failed.a"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    path = write_json_lines(tmp_path / "a.jsonl", [make.okta()])
    with pytest.raises(ConfigError, match=message) as refusal:
        read(settings(path, audit_map=str(own)))
    assert str(own) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_and_doubled_tables_are_refused(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [make.okta()])
    with pytest.raises(ConfigError, match="0 files; expected a table, or a folder"):
        read(settings(path, audit_map=str(tmp_path / "none.yaml")))
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match="a second table of the name 'x'"):
        read(settings(path, audit_map=str(tmp_path)))
    with pytest.raises(ConfigError, match="data_source audit alone reads it"):
        settings(path, data_source="cloudtrail", audit_map="x")


# A federation without labels, and alerts


def day_of(seed: int, people: int, *, odd: bool = False) -> list[Event]:
    """A day of some services; at the end somebody who never did so deletes much and is refused much."""
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for second in range(0, 14_400, 40):
        name = f"user-{rng.integers(people)}"
        verb = ("get", "list", "watch")[rng.integers(3)]
        events.append(make.kubernetes(second, auditID=f"k{second}", user={"username": name}, verb=verb))
        events.append(make.okta(second, uuid=f"o{second}", actor__id=name, actor__alternateId=f"{name}@example.com"))
    for second in range(14_400 - 300, 14_400) if odd else ():
        events.append(
            make.kubernetes(
                second, auditID=f"x{second}", user={"username": "mallory"}, verb="delete", sourceIPs=["203.0.113.66"],
                responseStatus__code=(403, 200)[second % 2], objectRef__resource=f"thing{second % 40}",
            )
        )  # fmt: skip
    return events


def test_a_run_without_labels_ends_in_alerts_that_name_principal_and_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for client in range(3):
        write_json_lines(tmp_path / f"audit-{client}.jsonl", day_of(client, 12))
    write_json_lines(tmp_path / "audit-test.jsonl", day_of(7, 12))
    base = load_config(ROOT / "config/audit.yaml")
    config = parse_config(
        base.model_dump() | {
            "data_path": str(tmp_path / "audit-{client_id}.jsonl"), "test_path": str(tmp_path / "audit-test.jsonl"),
            "he_key_length": 512, "allow_insecure_key": True, "window_minutes": 5,
        }
    )  # fmt: skip
    bundle = ModelBundle.load(simulate(config).folder)
    new, output = write_json_lines(tmp_path / "new.jsonl", day_of(9, 12, odd=True)), tmp_path / "ranked.jsonl"
    summary = score_files(bundle, [new], output, None, top=1)
    assert (summary.ranked, summary.broken, summary.lines) == (1, 0, 720 + 300)
    (found,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert found["evidences"][0]["actor"]["user"]["name"] == "mallory"
    assert "kubernetes:delete thing" in found["evidences"][0]["data"]["apis"][0]
    assert found["evidences"][0]["data"]["addresses"] == ["203.0.113.66"]
    assert found["metadata"]["log_name"] == "audit"
    assert "mallory" in found["message"]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no audit events at {SAMPLES}")
@pytest.mark.parametrize(
    ("name", "least"),
    [("kubernetes", 119), ("gcp_audit", 63), ("okta", 31), ("entra_signin", 26), ("azure_activity", 103)],
)
def test_events_that_others_wrote_are_read(tmp_path: Path, name: str, least: int) -> None:
    """Tests of detection rules, some of which have no time, as they are about one field each; they get one here."""
    lines = (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line)["event"] for line in lines]
    for number, event in enumerate(events):
        for key in ("timestamp", "published", "time", "stageTimestamp"):
            if re.match(r"\d{4}-", str(event.get(key))) is None:
                event[key] = make.iso(number)
    chunks, broken = read(settings(write_json_lines(tmp_path / "a.jsonl", events), max_broken_share=1.0))
    rows = sum(int(chunk.meta["events"].sum()) for chunk in chunks)
    assert rows + broken.broken + broken.left_out.total() == len(events)
    assert rows + broken.left_out["events that were there already"] >= least
