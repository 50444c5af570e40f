"""What files of logs and tables look like before they are mutated: some fifty shapes."""

import base64
import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shared.data_sources.flow_records import DEFAULT_FIELDS
from tests import audit_events

RECORDS = 12


@dataclass(frozen=True)
class Shape:
    """What a file may look like.

    Attributes:
        source: whose reader it is for.
        content: with `RECORDS` records.
        by_lines: whether each record is one line, with so many lines before the first.
    """

    source: str
    content: bytes
    by_lines: int | None = None


def _event(number: int) -> dict[str, Any]:
    user = f"AIDAEXAMPLE{number % 3}"
    return {
        "eventVersion": "1.09",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": user,
            "arn": f"arn:aws:iam::1:user/{user}",
            "accountId": "1",
        },
        "eventTime": f"2026-01-05T08:{number:02}:00Z",
        "eventSource": "s3.amazonaws.com",
        "eventName": "ListBuckets",
        "awsRegion": "eu-west-1",
        "sourceIPAddress": "192.0.2.1",
        "userAgent": "example, \u00e9 {x}",
        "eventID": f"e{number}",
        "readOnly": True,
        "responseElements": {"ConsoleLogin": "Failure"} if number % 4 == 0 else None,
        "recipientAccountId": "111122223333",
    }


def _flat(record: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in record.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def _flow(number: int) -> str:
    start = 1_767_600_000 + 60 * number
    return f"2 111122223333 eni-0 192.0.2.{number % 2} 198.51.100.1 40000 443 6 5 500 {start} {start + 30} ACCEPT OK"


@cache
def shapes() -> dict[str, Shape]:
    """By name: the shapes that logs and tables come in."""
    events = [_event(number) for number in range(RECORDS)]
    texts = [json.dumps(event) for event in events]
    message = [{"message": text} for text in texts]
    packed = base64.b64encode(gzip.compress(json.dumps({"logEvents": message}).encode(), mtime=0)).decode()
    lake = [
        [{key: item if isinstance(item, str) else json.dumps(item)} for key, item in event.items()] for event in events
    ]
    lower = [{key.lower(): value for key, value in event.items()} for event in events]
    found: dict[str, bytes] = {
        "records": json.dumps({"Records": events}).encode(),
        "pretty": json.dumps({"Records": events}, indent=2).encode(),
        "jq": "\n".join(json.dumps(event, indent=2) for event in events).encode(),
        "concatenated": "".join(texts).encode(),
        "list": json.dumps(events).encode(),
        "subscription": json.dumps({"messageType": "DATA_MESSAGE", "logEvents": message}).encode(),
        "filter": json.dumps({"events": message}, indent=1).encode(),
        "eventbridge": "\n".join(json.dumps({"detail-type": "x", "detail": event}) for event in events).encode(),
        "firehose": json.dumps({"records": [{"recordId": "1", "data": packed}]}).encode(),
        "elastic": json.dumps(
            {"hits": {"hits": [{"_source": {"event": {"original": text}}} for text in texts]}}
        ).encode(),
        "splunk": "\n".join(json.dumps({"result": {"_raw": text}}) for text in texts).encode(),
        "lookup": json.dumps({"Events": [{"CloudTrailEvent": text} for text in texts]}).encode(),
        "lake": json.dumps({"QueryResultRows": lake}).encode(),
        "lower": "\n".join(map(json.dumps, lower)).encode(),
        "utf-16": json.dumps({"Records": events}).encode("utf-16"),
        "gzip": gzip.compress(json.dumps({"Records": events}).encode(), mtime=0),
        "xz": lzma.compress("\n".join(texts).encode()),
        "athena": _athena(events),
        "flat": "\n".join(json.dumps(_flat(event)) for event in events).encode(),
        "fields": json.dumps(
            {"hits": {"hits": [{"fields": {key: [item] for key, item in _flat(event).items()}} for event in events]}}
        ).encode(),
        "python": pd.DataFrame(events).to_csv(index=False, sep=";").encode(),
        "messages": pd.DataFrame({"a": "b", "@message": texts}).to_csv(index=False).encode(),
        "column": pd.DataFrame({"_raw": texts}).to_csv(index=False).encode(),
        "sqs": json.dumps({"Messages": [{"Body": text} for text in texts]}).encode(),
        "kinesis": json.dumps({"Records": [{"Data": packed}]}).encode(),
        "collector": "".join(json.dumps({"event": text}) for text in texts).encode(),
        "own-name": "\n".join(json.dumps({"kind": "x", "payload": event}) for event in events).encode(),
    }
    result = {f"ct-{name}": Shape("cloudtrail", content) for name, content in found.items()}
    result["ct-lines"] = Shape("cloudtrail", "\n".join(texts).encode(), 0)
    flows = [_flow(number) for number in range(RECORDS)]
    header = " ".join(DEFAULT_FIELDS)
    result["vpc-lines"] = Shape("vpc_flow", "\n".join(flows).encode(), 0)
    result["vpc-header"] = Shape("vpc_flow", "\n".join([header, *flows]).encode(), 1)
    result["vpc-time"] = Shape("vpc_flow", "\n".join(f"2026-01-05T08:00:00.000Z {flow}" for flow in flows).encode(), 0)
    result["vpc-message"] = Shape("vpc_flow", "\n".join(json.dumps({"message": flow}) for flow in flows).encode())
    result["vpc-csv"] = Shape(
        "vpc_flow",
        "\n".join([header.replace(" ", ",").replace("-", "_"), *(f.replace(" ", ",") for f in flows)]).encode(),
    )
    result["vpc-bz2"] = Shape("vpc_flow", bz2.compress("\n".join(flows).encode()))
    rows = [
        f"{number / 7},{number},{'tcp' if number % 2 else 'udp'},{'DoS' if number % 3 == 0 else 'BENIGN'}"
        for number in range(RECORDS)
    ]
    table = "\n".join(["dur,bytes,proto,Label", *rows])
    result["csv-plain"] = Shape("csv", table.encode(), 1)
    result["csv-sep"] = Shape("csv", ("sep=;\n" + table.replace(",", ";")).encode(), 2)
    result["csv-quoted"] = Shape(
        "csv", "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in table.splitlines()).encode()
    )
    result["csv-zip"] = Shape("csv", _zipped(table))
    zeek = [
        "#separator \\x09",
        "#fields\tdur\tbytes\tproto\tLabel",
        *(row.replace(",", "\t") for row in rows),
        "#close\tx",
    ]
    result["csv-zeek"] = Shape("csv", "\n".join(zeek).encode())
    frame = pd.read_csv(io.StringIO(table))
    result["csv-json"] = Shape("csv", frame.to_json(orient="records", lines=True).encode())
    result["csv-parquet"] = Shape("csv", _parquet(pa.Table.from_pandas(frame)))
    return result | _sensors() | _audit() | _ocsf()


def _sensors() -> dict[str, Shape]:
    """Flows of Zeek and of Suricata."""
    names = ("ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "duration", "orig_bytes", "conn_state")
    flows = [
        (1_767_600_000.5 + 60 * number, f"192.0.2.{number % 2}", 40000, "198.51.100.1", 443, "tcp", 3.5, 500, "SF")
        for number in range(RECORDS)
    ]
    zeek = ["#separator \\x09", "#path\tconn", "\t".join(["#fields", *names])]
    zeek += ["\t".join(map(str, flow)) for flow in flows]
    eve = [
        {
            "timestamp": audit_events.iso(60 * number, ".5+0000"), "event_type": "flow", "src_ip": "192.0.2.1",
            "src_port": 40000, "dest_ip": "198.51.100.1", "dest_port": 53, "proto": "UDP",
            "flow": {"pkts_toserver": 1, "bytes_toserver": 80, "start": audit_events.iso(60 * number, ".1+0000")},
        }
        for number in range(RECORDS)
    ]  # fmt: skip
    objects = [json.dumps(dict(zip(names, flow, strict=True))) for flow in flows]
    return {
        "vpc-zeek": Shape("vpc_flow", "\n".join(zeek).encode(), 3),
        "vpc-zeek-json": Shape("vpc_flow", "\n".join(objects).encode(), 0),
        "vpc-suricata": Shape("vpc_flow", "\n".join(map(json.dumps, eve)).encode(), 0),
    }


def _audit() -> dict[str, Shape]:
    """Audit records of each service, and in some carriers."""
    found = {}
    for name, maker in audit_events.MAKERS.items():
        texts = [json.dumps(maker(second)) for second in range(RECORDS)]
        found[f"audit-{name}"] = Shape("audit", "\n".join(texts).encode(), 0)
    events = [audit_events.kubernetes(second) for second in range(RECORDS)]
    found["audit-list"] = Shape("audit", json.dumps({"kind": "EventList", "items": events}).encode())
    message = [{"message": {"data": base64.b64encode(json.dumps(event).encode()).decode()}} for event in events]
    found["audit-pubsub"] = Shape("audit", json.dumps(message).encode())
    found["audit-hub"] = Shape(
        "audit", json.dumps({"records": [audit_events.azure(second) for second in range(RECORDS)]}).encode()
    )
    return found


def _ocsf() -> dict[str, Shape]:
    """OCSF events of calls and of flows as lines, and as a security lake has them."""
    found = {}
    for source, makers in (
        ("ocsf", (audit_events.api_activity, audit_events.authentication)),
        ("ocsf_flows", (audit_events.network,)),
    ):
        events = [makers[second % len(makers)](second) for second in range(RECORDS)]
        found[f"{source}-lines"] = Shape(source, "\n".join(map(json.dumps, events)).encode(), 0)
        of_one = [makers[0](second) for second in range(RECORDS)]
        found[f"{source}-parquet"] = Shape(source, _parquet(pa.Table.from_pylist(of_one)))
    return found


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _athena(events: Sequence[dict[str, Any]]) -> bytes:
    lines = ["eventtime,eventname,eventsource,useridentity,eventid"]
    for event in events:
        identity = ", ".join(f"{key.lower()}={value}" for key, value in event["userIdentity"].items())
        lines.append(f'"{event["eventTime"]}","ListBuckets","s3.amazonaws.com","{{{identity}}}","{event["eventID"]}"')
    return "\n".join(lines).encode()


def _zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("a.csv"), text)
    return buffer.getvalue()
