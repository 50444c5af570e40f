"""Audit logs by tables of fields: who, what, whether it failed, when; what is told apart, counted and refused."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.data_sources import audit, audit_table
from shared.data_sources.audit_table import SERVICES, AuditTable, shipped
from shared.data_sources.record_fields import seconds_of
from tests import audit_events as make
from tests.audit_events import MAKERS, START, Event
from tests.processes import ROOT
from tests.source_files import named_features, read_chunks, settings_of, write_json_lines

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


@pytest.mark.parametrize("blank", ["-", "null", " NaN ", "None", "\\N"])
@pytest.mark.parametrize("service", ["kubernetes", "gcp_audit", "okta", "entra_signin_graph"])
def test_events_without_an_id_of_their_own_are_no_copies_of_each_other(
    tmp_path: Path, service: str, blank: str
) -> None:
    name = {"kubernetes": "auditID", "gcp_audit": "insertId", "okta": "uuid", "entra_signin_graph": "id"}[service]
    events = [MAKERS[service](3) | {name: blank} for _ in range(4)]
    chunks, broken = read(settings(write_json_lines(tmp_path / "a.jsonl", events)))
    assert (int(chunks[0].meta["events"].sum()), broken.left_out.total()) == (4, 0)


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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (make.entra(0, properties__userId="AB-1"), make.entra(1, properties__userId="ab-1")),
        (make.entra(0, tenantId="T-1"), make.entra(1)),
        (
            make.entra(0, properties__userId="", properties__userPrincipalName="Jane@example.com"),
            make.entra(1, properties__userId="", properties__userPrincipalName="jane@example.com"),
        ),
        (make.entra_graph(0, userId="U-1"), make.entra_graph(1)),
        (make.azure(0, identity={}, caller="Jane@example.com"), make.azure(1, identity={}, caller="jane@example.com")),
    ],
)
def test_a_principal_of_microsofts_is_one_in_any_case(tmp_path: Path, one: Event, other: Event) -> None:
    chunks, _ = read(settings(write_json_lines(tmp_path / "a.jsonl", [one, other])))
    assert sum(len(chunk.features) for chunk in chunks) == 1


def test_a_user_of_kubernetes_is_another_in_another_case(tmp_path: Path) -> None:
    events = [make.kubernetes(n, user={"username": name}) for n, name in enumerate(("Jane", "jane"))]
    chunks, _ = read(settings(write_json_lines(tmp_path / "a.jsonl", events)))
    assert sum(len(chunk.features) for chunk in chunks) == 2


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


NO_TIMES = [
    *("", "yesterday", "-1", "nan", "inf", "-inf", "9999-01-01T00:00:00Z", "1" * 400),
    *("0", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2026-01-05", "20260105"),
]


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        seconds_of(text)
