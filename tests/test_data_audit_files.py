"""`data_source: audit` out of files: what carries records, services side by side, what is deep, long or none."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from shared.data_sources import audit, cloudtrail, ocsf, vpc_flow
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.record_fields import Field
from shared.data_sources.source_types import Inputs
from shared.errors import DataError
from tests import audit_events as make
from tests.audit_events import MAKERS, START
from tests.source_files import read_chunks, settings_of, write_json_lines
from tests.test_data_audit import TABLES, features_of, read, settings

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
    assert "no time in a record of okta: none of published" in caplog.text


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
