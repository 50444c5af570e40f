"""CloudTrail records out of whatever carries them: the same rows from each, and a skip told where one can't be read."""

import base64
import bz2
import copy
import csv as csv_module
import gzip
import io
import json
import logging
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shared.data_sources import cloudtrail, json_values
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.cloudtrail_records import canonical, other_kind
from shared.data_sources.envelopes import CONTROL, NOTHING, records
from shared.data_sources.json_values import JsonValues
from shared.data_sources.source_types import Inputs
from shared.data_sources.times import epoch_seconds
from shared.errors import DataError
from tests.source_files import read_chunks
from tests.test_source_cloudtrail import Record, record, settings, some_records, write


def read(path: Path, **changes: Any) -> tuple[np.ndarray, BrokenLines]:
    chunks, broken = read_chunks(cloudtrail, settings(path, **({"max_broken_share": 0.0} | changes)))
    return np.concatenate([chunk.features for chunk in chunks]), broken


def lines(values: list[Any]) -> bytes:
    return "\n".join(json.dumps(value) for value in values).encode()


def messages(events: list[Record], key: str = "message") -> list[dict[str, str]]:
    return [{"id": str(number), key: json.dumps(event)} for number, event in enumerate(events)]


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def subscription(events: list[Record]) -> dict[str, Any]:
    return {"messageType": "DATA_MESSAGE", "owner": "1", "logEvents": messages(events)}


def lower(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.lower(): lower(item) for key, item in value.items()}
    return value


def presto(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key.lower()}={presto(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value)


def as_text(value: Any) -> Any:
    """As Lake has it: structures as JSON, and true as a word."""
    return json.dumps(value) if isinstance(value, dict | bool) else value


def as_word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def as_csv(events: list[Record], structure: Callable[[Any], str], names: Callable[[str], str]) -> bytes:
    text = io.StringIO()
    keys = list(events[0])
    writer = csv_module.writer(text, quoting=csv_module.QUOTE_ALL)
    writer.writerow([names(key) for key in keys])
    for event in events:
        writer.writerow([structure(v) if isinstance(v := event[key], dict) else as_text(v) for key in keys])
    return text.getvalue().encode()


def one_column(events: list[Record], name: str, **others: str) -> bytes:
    """A table with the whole record in a column, and before it others."""
    text = io.StringIO()
    writer = csv_module.writer(text, quoting=csv_module.QUOTE_ALL)
    writer.writerow([*others, name])
    writer.writerows([*others.values(), json.dumps(event)] for event in events)
    return text.getvalue().encode()


def searched(event: Record, level: str = "") -> dict[str, Any]:
    """As Elastic's `fields` have it: each field a list, those of structures by their paths."""
    found: dict[str, Any] = {}
    for key, value in event.items():
        found |= searched(value, f"{level}{key}.") if isinstance(value, dict) else {level + key: [value]}
    return found


def as_result_set(table: bytes) -> dict[str, Any]:
    """A table as `aws athena get-query-results` prints it."""
    rows = list(csv_module.reader(io.StringIO(table.decode())))
    return {"Rows": [{"Data": [{"VarCharValue": cell} if cell else {} for cell in row]} for row in rows]}


def later_page(table: bytes) -> dict[str, Any]:
    """One without a header among its rows."""
    header, *rows = as_result_set(table)["Rows"]
    columns = [{"Name": cell["VarCharValue"], "Type": "varchar"} for cell in header["Data"]]
    return {"Rows": rows, "ResultSetMetadata": {"ColumnInfo": columns}}


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", content)
    return buffer.getvalue()


def by_arrow(content: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(content)
    return bytes(sink.getvalue())


Form = Callable[[list[Record]], bytes]
FORMS: dict[str, Form] = {
    "jq": lambda r: "\n".join(json.dumps(item, indent=2) for item in r).encode(),
    "concatenated": lambda r: "".join(map(json.dumps, r)).encode(),
    "lists on lines": lambda r: lines([r[:100], r[100:]]),
    "JSON text sequence": lambda r: b"".join(b"\x1e" + json.dumps(item).encode() + b"\n" for item in r),
    "commas between lines": lambda r: ",\n".join(map(json.dumps, r)).encode(),
    "subscription": lambda r: json.dumps(subscription(r)).encode(),
    "subscriptions on lines": lambda r: lines([subscription(r[:9]), subscription(r[9:])]),
    "filter-log-events": lambda r: json.dumps({"events": messages(r), "searchedLogStreams": []}, indent=4).encode(),
    "Logs Insights": lambda r: json.dumps(
        {"results": [[{"field": "@message", "value": json.dumps(i)}, {"field": "@ptr", "value": "x"}] for i in r]}
    ).encode(),
    "EventBridge": lambda r: lines([{"version": "0", "detail-type": "AWS API Call", "detail": i} for i in r]),
    "EventBridge through SQS": lambda r: json.dumps(
        {"Messages": [{"Body": json.dumps({"detail": item})} for item in r]}
    ).encode().replace(b'"Messages"', b'"Records"'),
    "SNS": lambda r: lines([{"Records": [{"Sns": {"Message": json.dumps(item)}}]} for item in r]),
    "Firehose request": lambda r: json.dumps(
        {"requestId": "x", "records": [{"recordId": "1", "data": in_base64(json.dumps(item).encode())} for item in r]}
    ).encode(),
    "Firehose, packed subscription": lambda r: json.dumps(
        {"records": [{"data": in_base64(gzip.compress(json.dumps(subscription(r[i::3])).encode()))} for i in range(3)]}
    ).encode(),
    "Kinesis event": lambda r: json.dumps(
        {"Records": [{"kinesis": {"data": in_base64(json.dumps(item).encode())}} for item in r]}
    ).encode(),
    "Lambda, awslogs": lambda r: json.dumps(
        {"awslogs": {"data": in_base64(gzip.compress(json.dumps(subscription(r)).encode()))}}
    ).encode(),
    "Firehose object, gzips in a row": lambda r: b"".join(
        gzip.compress(json.dumps(subscription(r[i::3])).encode()) for i in range(3)
    ),
    "Elastic, event.original": lambda r: lines([{"@timestamp": "x", "event": {"original": json.dumps(i)}} for i in r]),
    "Elastic, flat key": lambda r: lines([{"event.original": json.dumps(i)} for i in r]),
    "Elastic, message": lambda r: lines([{"@timestamp": "x", "message": json.dumps(i), "tags": []} for i in r]),
    "Elastic, search": lambda r: json.dumps({"took": 3, "hits": {"hits": [{"_source": i} for i in r]}}).encode(),
    "Elastic, search of originals": lambda r: json.dumps(
        {"hits": {"hits": [{"_id": "1", "_source": {"event": {"original": json.dumps(i)}}} for i in r]}}
    ).encode(),
    "Splunk": lambda r: lines([{"preview": False, "result": {"_raw": json.dumps(i), "_time": "x"}} for i in r]),
    "Splunk, results": lambda r: json.dumps({"results": [{"_raw": json.dumps(i)} for i in r]}).encode(),
    "Docker": lambda r: lines([{"log": json.dumps(i) + "\n", "stream": "stdout"} for i in r]),
    "lookup-events": lambda r: json.dumps({"Events": messages(r, "CloudTrailEvent"), "NextToken": "x"}).encode(),
    "Lake": lambda r: json.dumps({"QueryResultRows": [[{k: as_text(v)} for k, v in i.items()] for i in r]}).encode(),
    "Lake, structures as Presto": lambda r: json.dumps(
        {"QueryResultRows": [[{k: presto(v) if isinstance(v, dict) else v} for k, v in i.items()] for i in r]}
    ).encode(),
    "lower case": lambda r: lines([lower(item) for item in r]),
    "lower case, outer keys alone": lambda r: lines([{key.lower(): v for key, v in item.items()} for item in r]),
    "Athena CSV": lambda r: as_csv(r, presto, str.lower),
    "Lake CSV": lambda r: as_csv(r, json.dumps, str),
    "a time before each": lambda r: "\n".join(f"2024-05-01T10:00:00.000Z {json.dumps(i)}" for i in r).encode(),
    "syslog": lambda r: "\n".join(f"<134>May  1 10:00:00 host trail[7]: {json.dumps(i)}" for i in r).encode(),
    "texts in quotes": lambda r: lines([json.dumps(item) for item in r]),
    "list of texts": lambda r: json.dumps([json.dumps(item) for item in r]).encode(),
    "sqs receive-message": lambda r: json.dumps(
        {"Messages": [{"MessageId": "1", "Body": json.dumps(i)} for i in r]}
    ).encode(),
    "sqs receive-message of S3 deliveries": lambda r: json.dumps(
        {"Messages": [{"Body": json.dumps({"Records": r[i::3]})} for i in range(3)]}
    ).encode(),
    "sqs receive-message of SNS": lambda r: json.dumps(
        {"Messages": [{"Body": json.dumps({"Type": "Notification", "Message": json.dumps(i)})} for i in r]}
    ).encode(),
    "sqs receive-message of base64": lambda r: json.dumps(
        {"Messages": [{"Body": in_base64(json.dumps(i).encode())} for i in r]}
    ).encode(),
    "kinesis get-records": lambda r: json.dumps(
        {"Records": [{"SequenceNumber": "1", "Data": in_base64(json.dumps(i).encode())} for i in r]}
    ).encode(),
    "kinesis get-records, packed subscriptions": lambda r: json.dumps(
        {"Records": [{"Data": in_base64(gzip.compress(json.dumps(subscription(r[i::3])).encode()))} for i in range(3)]}
    ).encode(),
    "Kafka to Lambda": lambda r: json.dumps(
        {"eventSource": "aws:kafka", "records": {"t-0": [{"value": in_base64(json.dumps(i).encode())} for i in r]}}
    ).encode(),
    "Splunk HEC": lambda r: lines([{"time": 1, "sourcetype": "aws:cloudtrail", "event": i} for i in r]),
    "Splunk HEC, event as text": lambda r: lines([{"time": 1, "host": "h", "event": json.dumps(i)} for i in r]),
    "Splunk HEC, in a row": lambda r: b"".join(json.dumps({"event": json.dumps(i)}).encode() for i in r),
    "Elastic, fields": lambda r: json.dumps(
        {"hits": {"hits": [{"_id": "1", "fields": searched(i)} for i in r]}}
    ).encode(),
    "Elastic, fields with the original": lambda r: json.dumps(
        {"hits": {"hits": [{"_id": "1", "fields": {"event.original": [json.dumps(i)]}} for i in r]}}
    ).encode(),
    "Lake, a column of JSON": lambda r: json.dumps(
        {"QueryResultRows": [[{"eventJson": json.dumps(i)}] for i in r]}
    ).encode(),
    "Lake, a column of JSON of another name": lambda r: json.dumps(
        {"QueryResultRows": [[{"whole": json.dumps(i)}] for i in r]}
    ).encode(),
    "Lake, JSON beside fields": lambda r: json.dumps(
        {"QueryResultRows": [
            [{"eventName": i["eventName"]}, {"eventSource": "x"}, {"eventJson": json.dumps(i)}] for i in r
        ]}
    ).encode(),
    "lookup-events, one event a line": lambda r: lines(
        [{"EventName": "x", "EventSource": "x", "Username": "x", "CloudTrailEvent": json.dumps(i)} for i in r]
    ),
    "Logs Insights, fields": lambda r: json.dumps(
        {"results": [[{"field": k, "value": as_word(v[0])} for k, v in searched(i).items()] for i in r]}
    ).encode(),
    "Logs Insights CSV": lambda r: one_column(r, "@message", **{"@timestamp": "2024-05-01 10:00:00.000"}),
    "Logs Insights CSV, one column": lambda r: one_column(r, "@message"),
    "Splunk CSV": lambda r: one_column(r, "_raw", _time="2024-05-01T10:00:00.000+0000", source="a,b", linecount="1"),
    "Splunk CSV, one column": lambda r: one_column(r, "_raw"),
    "Splunk CSV, fields beside": lambda r: one_column(r, "_raw", eventName="x", eventSource="x"),
    "Lake CSV, a column of JSON": lambda r: one_column(r, "eventJson"),
    "a CSV with JSON in a column of any name": lambda r: one_column(r, "payload", id="1"),
    "a CSV of a column of any name": lambda r: one_column(r, "payload"),
    "a CSV of EventBridge": lambda r: one_column([{"id": "1", "detail": i} for i in r], "payload"),
    "a CSV of messages": lambda r: one_column(r, "message", id="1"),
    "a CSV of CloudTrailEvent": lambda r: one_column(r, "CloudTrailEvent", EventName="x", EventSource="x"),
    "under a name of somebody's own": lambda r: lines([{"kind": "x", "payload": i} for i in r]),
    "text under a name of somebody's own": lambda r: lines([{"kind": "x", "payload": json.dumps(i)} for i in r]),
    "a list under a name of somebody's own": lambda r: json.dumps({"cloudtrail_logs": r}).encode(),
    "json_normalize of EventBridge": lambda r: lines(
        [{"version": "0", **{f"detail.{k}": v[0] for k, v in searched(i).items()}} for i in r]
    ),
    "Athena get-query-results": lambda r: json.dumps(
        {"ResultSet": as_result_set(as_csv(r, presto, str.lower))}
    ).encode(),
    "Athena get-query-results, later": lambda r: json.dumps(
        {"UpdateCount": 0, "ResultSet": later_page(as_csv(r, presto, str.lower))}
    ).encode(),
    "UTF-16 without a mark": lambda r: json.dumps({"Records": r}).encode("utf-16-le"),
    "UTF-32": lambda r: json.dumps({"Records": r}).encode("utf-32"),
    "bzip2": lambda r: bz2.compress(lines(r)),
    "xz": lambda r: lzma.compress(lines(r)),
    "zstd": lambda r: by_arrow(lines(r), "zstd"),
    "lz4": lambda r: by_arrow(lines(r), "lz4"),
    "zip": lambda r: zipped(lines(r)),
    "gzip in gzip": lambda r: gzip.compress(gzip.compress(lines(r))),
    "blanks around": lambda r: b"\n\n  " + json.dumps({"Records": r}).encode() + b"  \n\n",
    "empty envelopes between": lambda r: lines([{"Records": []}, {"Records": r}, {"Records": []}]),
}  # fmt: skip


@pytest.mark.parametrize("whole", [json_values.WHOLE, 300], ids=["at once", "item by item"])
@pytest.mark.parametrize("name", FORMS)
def test_every_carrier_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, whole: int
) -> None:
    monkeypatch.setattr(json_values, "WHOLE", whole)
    expected, _ = read(write(tmp_path / "expected.json", some_records()))
    path = tmp_path / "found.json"
    path.write_bytes(FORMS[name](some_records()))
    found, broken = read(path)
    assert np.array_equal(found, expected)
    assert broken.lines == len(some_records())


@pytest.mark.parametrize(
    "name", ["a.json", "a.log", "a.txt", "a.jsonl.gz", "000000.gz", "part-00000", "a.JSON", "stream-1-2026-01-05-x"]
)
def test_a_file_is_found_by_what_is_in_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(lines(some_records()))
    (tmp_path / "README").write_text("{notes} about them")
    (tmp_path / "notes.md").write_text("# notes")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".hidden.json").write_text("{}")
    assert read(tmp_path)[1].lines == len(some_records())


@pytest.mark.parametrize("name", ["a time before each", "syslog", "Athena CSV", "Splunk", "UTF-16 without a mark"])
def test_records_are_found_in_a_file_without_a_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / "000000").write_bytes(FORMS[name](some_records()))
    (tmp_path / "labels.csv").write_text("event_id,label\nx,y\n")
    assert read(tmp_path)[1].lines == len(some_records())


def test_a_folder_without_records_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    with pytest.raises(DataError, match=r"files that end in .json.*it has report\.pdf"):
        read(tmp_path)


OTHERS: dict[str, tuple[Any, str]] = {
    "digest": ({"awsAccountId": "1", "digestS3Object": "x", "logFiles": []}, "CloudTrail digest"),
    "Insights by category": (record() | {"eventCategory": "Insight"}, "CloudTrail Insights event"),
    "Insights by type": (record() | {"eventType": "AwsCloudTrailInsight"}, "CloudTrail Insights event"),
    "Insights by details": (
        {"eventVersion": "1.09", "insightDetails": {"state": "Start"}},
        "CloudTrail Insights event",
    ),
    "aggregated": ({"eventVersion": "1.0", "summaries": []}, "aggregated CloudTrail event"),
    "aggregated by category": ({"eventCategory": "Aggregated"}, "aggregated CloudTrail event"),
    "control": ({"messageType": "CONTROL_MESSAGE", "logEvents": [{"message": "CWL CONTROL MESSAGE"}]}, CONTROL),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_event_is_left_out_and_counted(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    other, kind = OTHERS[name]
    (tmp_path / "a.json").write_bytes(lines([*some_records(), other]))
    with caplog.at_level(logging.INFO, logger="data"):
        _, broken = read(tmp_path / "a.json")
    assert broken.left_out == {kind: 1}
    assert f"left out 1 of {len(some_records()) + 1}: {kind}" in caplog.text


ODD: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n \n",
    "empty gzip": gzip.compress(b""),
}
CUT: dict[str, Callable[[bytes], bytes]] = {
    "in a record": lambda whole: whole[: len(whole) // 2],
    "in the last bracket": lambda whole: whole[:-1],
    "a gzip": lambda whole: gzip.compress(whole, 1)[:-600],
    "an xz": lambda whole: lzma.compress(whole)[:-60],
    "a bzip2": lambda whole: bz2.compress(whole, 1)[:-20],
}


@pytest.mark.parametrize("name", ODD)
def test_an_empty_file_costs_one_warning(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    expected, _ = read(write(tmp_path / "a.json", some_records()))
    (tmp_path / "b.json").write_bytes(ODD[name])
    caplog.clear()
    found, broken = read(tmp_path)
    assert np.array_equal(found, expected)
    assert (broken.odd_files, broken.broken) == (1, 0)
    assert caplog.text.count("b.json: empty, nothing to read") == 1


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_off_gives_what_is_before_the_cut(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.json", some_records())
    more = [record(second, user=f"AIDA{second:05}") for second in range(3000)]
    (tmp_path / "b.json").write_bytes(CUT[name](json.dumps({"Records": more}).encode()))
    _, broken = read(tmp_path, max_broken_share=0.1)
    assert 1 <= broken.broken <= 2
    assert "cut off" in caplog.text
    # What bzip2 has in one block of 100 kB is lost as a whole.
    assert broken.lines > len(some_records()) + (900 if name != "a bzip2" else 0)


def test_a_file_that_is_cut_off_is_refused_where_it_is_all_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps({"Records": some_records()[:20]}).encode()[:-30])
    with pytest.raises(DataError, match=r"1 of 20 lines are broken.*the JSON is cut off, in line 1, after [\d,]+ char"):
        read(tmp_path / "a.json", max_broken_share=0.01)


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("form", ["lines", "list"])
def test_a_malformed_record_costs_itself_alone(tmp_path: Path, indent: int | None, form: str) -> None:
    texts = [json.dumps(item, indent=indent) for item in some_records()]
    texts[7] = texts[7].replace('"eventName": ', '"eventName": oops ')
    texts[9] = texts[9][:-20]
    text = "\n".join(texts) if form == "lines" else "[\n" + ",\n".join(texts) + "\n]"
    (tmp_path / "a.json").write_text(text)
    _, broken = read(tmp_path / "a.json", max_broken_share=0.1)
    assert (broken.lines, broken.broken) == (len(some_records()), 2)


def test_a_broken_text_within_a_carrier_is_named_by_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = messages(some_records())
    events[4]["message"] = events[4]["message"][:-5]
    events[6]["message"] = "no JSON"
    (tmp_path / "a.json").write_text(json.dumps({"events": events}))
    _, broken = read(tmp_path / "a.json", max_broken_share=0.1)
    assert (broken.lines, broken.broken) == (len(some_records()), 2)
    assert "the JSON is cut off" in caplog.text
    assert "expected a CloudTrail record, found 'no JSON'" in caplog.text


def test_carriers_in_carriers_end_somewhere(tmp_path: Path) -> None:
    text = json.dumps(record())
    for _ in range(12):
        text = json.dumps({"message": text})
    (tmp_path / "a.json").write_text(text)
    assert [found.broken for found in records(tmp_path / "a.json")] == ["carriers in carriers to a depth of 8"]


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("indent", [None, 1])
def test_wherever_a_piece_of_the_text_ends_the_values_are_the_same(
    monkeypatch: pytest.MonkeyPatch, size: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_values, "_READ", size)
    monkeypatch.setattr(json_values, "WHOLE", 40)
    values = [{"a": number, "s": 'x"}]' * (number % 5), "n": [1, -2.5e3, {"q": None}]} for number in range(40)]
    for text in (
        json.dumps({"meta": "x" * 50, "Records": values}, indent=indent),
        json.dumps(values, indent=indent),
        "\n".join(json.dumps(value, indent=indent) for value in values),
    ):
        assert [found.value for found in JsonValues(io.StringIO(text))] == values


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("2026-01-05T08:00:00Z", 1767600000), ("2026-01-05T09:00:00.123+01:00", 1767600000), (1767600000, 1767600000),
     (1767600000123, 1767600000), (1767600000123456, 1767600000)],
)  # fmt: skip
def test_the_time_may_be_in_at_timestamp(tmp_path: Path, time: object, seconds: int) -> None:
    event = {key: value for key, value in record().items() if key != "eventTime"}
    (tmp_path / "a.json").write_bytes(lines([event | {"@timestamp": time}]))
    config = settings(tmp_path / "a.json")
    (chunk,) = cloudtrail.stream(config, Inputs(tmp_path / "a.json"), cloudtrail.schema(config, Inputs(tmp_path)))
    assert int(chunk.meta["start"].iloc[0]) == seconds


def test_event_time_counts_before_at_timestamp_which_is_when_it_was_stored() -> None:
    event = record() | {"@timestamp": "2030-01-01T00:00:00Z"}
    assert canonical(copy.deepcopy(event))["eventTime"] == record()["eventTime"]


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e300, True, None, [], "yesterday"])
def test_a_time_that_is_none_is_a_broken_record(tmp_path: Path, time: object) -> None:
    (tmp_path / "a.json").write_bytes(lines([*some_records(), record() | {"eventTime": time}]))
    assert read(tmp_path / "a.json", max_broken_share=0.1)[1].broken == 1


@pytest.mark.parametrize("time", ["May 01, 2024, 10:00:00 (UTC+00:00)", "yesterday", ""])
def test_a_time_that_is_none_is_named(tmp_path: Path, time: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.json").write_bytes(lines([*some_records(), record() | {"eventTime": time}]))
    read(tmp_path / "a.json", max_broken_share=0.1)
    assert f"eventTime = {time!r}: expected ISO 8601" in caplog.text


@pytest.mark.parametrize(
    "time", ["2024-05-01 10:00:00.000 UTC", "1714557600000", "1714557600.0", "2024-05-01T10:00:00.000+0000"]
)
def test_a_time_is_read_as_queries_write_it(tmp_path: Path, time: str) -> None:
    for event in ({"eventTime": time}, {"eventtime": time, "_time": "1"}, {"_time": time}):
        bare = {key: value for key, value in record().items() if key not in ("eventTime", "userIdentity")}
        row = bare | event | {"userIdentity.arn": "arn:aws:iam::1:user/a"}
        (tmp_path / "a.json").write_bytes(lines([row]))
        config = settings(tmp_path / "a.json")
        (chunk,) = cloudtrail.stream(config, Inputs(tmp_path / "a.json"), cloudtrail.schema(config, Inputs(tmp_path)))
        assert int(chunk.meta["start"].iloc[0]) == 1714557600


def test_epoch_seconds_of_no_number() -> None:
    with pytest.raises(ValueError, match="expected seconds since 1970"):
        epoch_seconds(float("inf"))


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("{type=IAMUser, arn=arn:aws:iam::1:user/a, b}", {"type": "IAMUser", "arn": "arn:aws:iam::1:user/a, b"}),
        ("{type=Root, sessioncontext={attributes={mfaauthenticated=false}}, username=null}",
         {"type": "Root", "sessionContext": {"attributes": {"mfaAuthenticated": "false"}}, "userName": None}),
        ('{"type": "Root", "principalid": "1"}', {"type": "Root", "principalId": "1"}),
        ("{}", "{}"),
    ],
)  # fmt: skip
def test_structures_as_texts(text: str, identity: object) -> None:
    assert canonical({"eventtime": "x", "useridentity": text})["userIdentity"] in (identity, {})


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00x", "a\\uD83D", "\\ud83d\\ud83d\\ude00"])
def test_half_a_letter_is_no_traceback(tmp_path: Path, text: str) -> None:
    """JSON may have one half of a pair, and no encoding can write it: hashing the name of an API failed."""
    (tmp_path / "a.json").write_text(json.dumps(record()).replace("ListUsers", text))
    _, broken = read(tmp_path / "a.json")
    assert (broken.lines, broken.broken) == (1, 0)


@pytest.mark.parametrize("half", ["\\ud800", "\\udc00"])
@pytest.mark.parametrize("written", [lambda held: json.dumps(held), str], ids=["as JSON", "as Python's"])
def test_half_a_letter_in_a_structure_that_is_a_text_is_no_traceback(
    tmp_path: Path, half: str, written: Callable[[object], str]
) -> None:
    """Columns of tables hold structures as texts, which are read by themselves: pandas could not keep the name."""
    identity = written({**record()["userIdentity"], "arn": "arn:aws:iam::1:user/HALF"}).replace("HALF", half)
    row = {
        **record(),
        "userIdentity": identity,
        "requestParameters": written({"userName": "HALF"}).replace("HALF", half),
    }
    table = io.StringIO()
    csv_module.DictWriter(table, list(row)).writerows([{key: key for key in row}, row])
    (tmp_path / "a.csv").write_text(table.getvalue())
    _, broken = read(tmp_path / "a.csv")
    assert (broken.lines, broken.broken) == (1, 0)


def test_ordinary_records_are_of_no_other_kind() -> None:
    assert {other_kind(item) for item in some_records()} == {""}


def joined(table: bytes, between: str) -> bytes:
    rows = list(csv_module.reader(io.StringIO(table.decode())))
    text = io.StringIO()
    csv_module.writer(text, delimiter=between).writerows(rows)
    return text.getvalue().encode()


def table_lines(table: bytes, *others: bytes) -> bytes:
    """The table with more rows after the fifth."""
    rows = table.split(b"\r\n")
    return b"\r\n".join([*rows[:5], *others, *rows[5:]])


def athena(events: list[Record]) -> bytes:
    return as_csv(events, presto, str.lower)


TABLES: dict[str, tuple[Form, dict[str, int]]] = {
    "a blank line before": (lambda r: b"\r\n\r\n" + athena(r), {}),
    "comments before": (lambda r: b"# by a query\r\n# of May\r\n" + athena(r), {}),
    "sep=; before": (lambda r: b"sep=;\r\n" + joined(athena(r), ";"), {}),
    "sep=, before": (lambda r: b"sep=,\r\n" + athena(r), {}),
    "semicolons": (lambda r: joined(athena(r), ";"), {}),
    "tabs": (lambda r: joined(athena(r), "\t"), {}),
    "bars": (lambda r: joined(athena(r), "|"), {}),
    "a mark and semicolons": (lambda r: b"\xef\xbb\xbf" + joined(athena(r), ";"), {}),
    "UTF-16": (lambda r: athena(r).decode().encode("utf-16"), {}),
    "gzip": (lambda r: gzip.compress(athena(r)), {}),
    "the header again": (lambda r: table_lines(athena(r), athena(r).split(b"\r\n")[0]), {"repeated header lines": 1}),
    "rows of commas": (
        lambda r: table_lines(athena(r), b"," * 9, b",".join([b'""'] * 10)), {"rows without a value": 2},
    ),
    "rows of semicolons": (lambda r: table_lines(joined(athena(r), ";"), b";" * 9), {"rows without a value": 1}),
    "a comma after each row": (lambda r: b"\r\n".join(
        line + b"," if number and line else line for number, line in enumerate(athena(r).split(b"\r\n"))
    ), {}),
    "blank lines between": (lambda r: athena(r).replace(b"\r\n", b"\r\n\r\n"), {}),
    "line feeds": (lambda r: athena(r).replace(b"\r\n", b"\n"), {}),
    "names with blanks": (lambda r: b" \r\n".join(
        part.replace(b'","', b' , ').replace(b'"', b"") if not number else part
        for number, part in enumerate(athena(r).split(b"\r\n", 1))
    ), {}),
    "upper case": (lambda r: as_csv(r, presto, str.upper), {}),
    "blanks around bars": (lambda r: joined(athena(r), "|").replace(b"|", b" | "), {}),
    "sep=, before messages": (lambda r: b"sep=,\r\n" + one_column(r, "@message", a="b"), {}),
    "one column after a blank line": (lambda r: b"\r\n" + one_column(r, "@message"), {}),
    "messages and commas": (lambda r: one_column(r, "@message", a="b") + b",\r\n", {"rows without a value": 1}),
    "messages with the header again": (lambda r: one_column(r, "_raw") + b'"_raw"\r\n', {"repeated header lines": 1}),
    "a backslash before each quote": (lambda r: (
        "a,_raw\n" + "".join('"b","' + json.dumps(i).replace('"', '\\"') + '"\n' for i in r)
    ).encode(), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_records_is_read_whatever_stands_around_its_rows(tmp_path: Path, name: str) -> None:
    expected, _ = read(write(tmp_path / "expected.json", some_records()))
    make, left_out = TABLES[name]
    path = tmp_path / "found"  # known by what is in it
    path.mkdir()
    (path / "000000").write_bytes(make(some_records()))
    found, broken = read(path)
    assert np.array_equal(found, expected)
    assert dict(broken.left_out) == left_out
    assert broken.lines == len(some_records()) + sum(left_out.values())


def test_a_row_that_is_no_csv_costs_itself_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_bytes(table_lines(athena(some_records()), b'"a"b,', b"a,b", b"," * 9 + b",x,y"))
    _, broken = read(tmp_path / "a.csv", max_broken_share=0.1)
    assert (broken.lines, broken.broken) == (len(some_records()) + 3, 3)
    assert all(f"line {line}: " in caplog.text for line in (6, 7, 8))


def test_what_an_open_quote_takes_with_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_bytes(athena(some_records()) + b'"open,\r\nx,\r\ny,\r\n')
    _, broken = read(tmp_path / "a.csv", max_broken_share=0.1)
    assert (broken.lines, broken.broken) == (len(some_records()) + 1, 1)
    begin = len(some_records()) + 2
    assert f"line {begin}: no CSV: unexpected end of data; lines {begin} to {begin + 2} are not read" in caplog.text


def test_a_table_with_a_title_does_not_stop_the_files_beside_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.json", some_records())
    (tmp_path / "b.csv").write_bytes(b"Results of May\n" + athena(some_records()))
    _, broken = read(tmp_path, max_broken_share=0.1)
    assert (broken.lines, broken.broken) == (len(some_records()) + 1, 1)
    assert "b.csv: line 1 has 1 column and the next 10; take away" in caplog.text


def test_a_call_that_an_insight_is_about_is_not_counted(tmp_path: Path) -> None:
    """Its details have a call's eventName and eventSource, and no field of the reference is opened as a carrier."""
    details = {"state": "Start", "eventName": "ListUsers", "eventSource": "iam.amazonaws.com"}
    insights: list[Any] = [
        {"eventVersion": "1.09", "insightDetails": details},
        {"eventVersion": "1.09", "insightDetails": json.dumps(details)},
        {f"insightDetails.{key}": value for key, value in details.items()},
        {"summaries": [record(), record(1)], "eventVersion": "1.0"},
    ]
    (tmp_path / "a.json").write_bytes(lines([*some_records(), *insights]))
    _, broken = read(tmp_path / "a.json")
    assert (broken.lines, broken.left_out.total()) == (len(some_records()) + 4, 4)


NO_RECORDS: dict[str, tuple[bytes, dict[str, int]]] = {
    "list": (b"[]\n", {}),
    "indented list": (b"[\n]", {}),
    "Records": (b'{"Records": []}', {}),
    "lookup-events": (b'{"Events": [], "NextToken": null}', {}),
    "Lake": (b'{"QueryStatus": "FINISHED", "QueryResultRows": []}', {}),
    "Insights": (b'{"results": [], "statistics": {}}', {}),
    "search": (b'{"hits": {"total": 0, "hits": []}}', {}),
    "receive-message": (b'{"Messages": []}', {}),
    "a header alone": (b"eventname,eventsource,eventtime\n", {}),
    "a header of messages alone": (b"@timestamp,@message\n", {}),
    "object": (b"{}", {NOTHING: 1}),
    "object with a mark": (b"\xef\xbb\xbf{}\r\n", {NOTHING: 1}),
    "packed object": (gzip.compress(b"{ }"), {NOTHING: 1}),
    "null": (b"null\n", {NOTHING: 1}),
    "no Records": (b'{"Records": null}', {NOTHING: 1}),
    "Records of none": (b'{"Records": {}}', {NOTHING: 1}),
    "objects on lines": (b"{}\n{}\nnull\n", {NOTHING: 3}),
}


@pytest.mark.parametrize("name", NO_RECORDS)
def test_a_file_of_no_records_is_honest_and_said(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    content, left_out = NO_RECORDS[name]
    expected, _ = read(write(tmp_path / "a.json", some_records()))
    (tmp_path / "b.json").write_bytes(content)
    with caplog.at_level(logging.INFO, logger="data"):
        found, broken = read(tmp_path)
    assert np.array_equal(found, expected)
    assert (broken.odd_files, broken.broken, dict(broken.left_out)) == (0, 0, left_out)
    assert (NOTHING if left_out else "b.json: no records, an empty list or a header alone") in caplog.text


def test_an_empty_object_among_records_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"Records": [*some_records(), {}, None]}))
    assert read(tmp_path / "a.json", max_broken_share=0.1)[1].broken == 2


def test_an_object_of_two_records_is_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines([*some_records(), {"before": record(1), "after": record(2)}]))
    _, broken = read(tmp_path / "a.json", max_broken_share=0.1)
    assert (broken.lines, broken.broken) == (len(some_records()) + 1, 1)
