"""Mutated files of real shapes against the readers of a tenant's logs and tables.

    make fuzz_readers                                                          # 20,000 files, ten minutes
    .venv/bin/python -m tests.fuzz_readers --inputs 500 --seed 7               # fewer, and others
    .venv/bin/python -m tests.fuzz_readers --replay logs/fuzz-readers-….ct     # one that failed, again

Three things must hold of each file: whatever comes out is rows or a `DataError`; it takes no more than
`SECONDS` of a processor; and each record that was read became part of a row or was counted as broken or left out. Of
files in which whole lines were replaced by garbage it is known how many those are. What breaks one of them is saved
under `logs/`, and the run fails.
"""

import argparse
import base64
import bz2
import contextlib
import gzip
import io
import json
import logging
import lzma
import random
import signal
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shared.config import Config
from shared.data_sources import audit, cloudtrail, csv, json_values, ocsf, vpc_flow
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.flow_records import DEFAULT_FIELDS
from shared.data_sources.source_types import Inputs
from shared.errors import DataError
from tests import audit_events

LOGS = Path(__file__).resolve().parent.parent / "logs"
SECONDS = 20  # of a processor, for a file of some kB: a busy machine, or one that was suspended, is no hang
RECORDS = 12
READERS = {"cloudtrail": cloudtrail, "csv": csv, "vpc_flow": vpc_flow, "audit": audit, "ocsf": ocsf, "ocsf_flows": ocsf}
# What the settings of a reader have beside its name, by the source here.
_SETTINGS: dict[str, dict[str, Any]] = {
    "csv": {"csv_label_column": "Label"},
    "cloudtrail": {"label_field": "userAgent", "label_patterns": ("x",)},
    "audit": {"label_field": "severity", "label_patterns": ("x",)},
    "ocsf": {"label_field": "status", "label_patterns": ("x",)},
    "ocsf_flows": {
        "data_source": "ocsf", "ocsf_events": "flows", "label_field": "status", "label_patterns": ("x",),
    },
}  # fmt: skip
_TOKENS = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"\n",
        b"\r\n",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"null",
        b"1e999",
        b"\0",
    ),
    *(b"-", b"0x1", b"9" * 400, b"\xff\xfe", b"\xef\xbb\xbf", b'{"Records":[', b'{"a":' * 30, b"[" * 2000, b"#fields"),
    *(b"sep=;\n", b" ", b"\t", b"-1", b"nan", b"Infinity", b"true", b"1767600000000", b'""', b"eventTime", b"srcaddr"),
]
_GARBAGE = (b"garbage", b"no such thing here", b"x", b"%%% ???", b"not a record; at all")

# As they are, and so small that long files are read in many pieces: which of both, the file's bytes decide.
_SIZES = ((json_values._READ, json_values.WHOLE), (64, 300))

Outcome = str  # "rows" or "DataError"


class FuzzError(Exception):
    """A file that breaks what must hold of every file."""


class _TooLongError(BaseException):
    """Not an `Exception`: nothing may catch it on its way."""


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


def mutated(content: bytes, others: Sequence[bytes], dice: random.Random) -> bytes:
    """The content after one to four changes of a few bytes, a slice, or the end."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.choice((1, 1, 3, 20, 200)))
        match dice.randrange(7):
            case 0:
                data[at:at] = dice.choice(_TOKENS)
            case 1:
                data[at:end] = dice.choice(_TOKENS)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                del data[at:]
            case 5 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case _:
                other = dice.choice(others)
                start = dice.randrange(len(other))
                data[at:at] = other[start : start + 200]
    return bytes(data)


def garbled(shape: Shape, dice: random.Random) -> tuple[bytes, int]:
    """The content with some of its records' lines as garbage, and how many of them are left."""
    assert shape.by_lines is not None
    lines = shape.content.split(b"\n")
    places = dice.sample(range(shape.by_lines + 1, len(lines)), dice.randint(1, 5))  # the first tells what the file is
    for place in places:
        lines[place] = dice.choice(_GARBAGE)
    return b"\n".join(lines), RECORDS - len(places)


def read(source: str, path: Path) -> tuple[int, BrokenLines]:
    """The records of a file that became part of a row, and all others, counted.

    Raises:
        DataError: the file is refused.
    """
    values: dict[str, Any] = {
        "data_source": source,
        "data_path": str(path),
        "partition": "even",
        "max_broken_share": 1.0,
    }
    values |= _SETTINGS.get(source, {"labels": "none"})
    config = Config(**values)
    inputs, broken = Inputs(path, labelled=config.labels != "none"), BrokenLines(path, 1.0)
    reader = READERS[source]
    parts = list(reader.stream(config, inputs, reader.schema(config, inputs), broken))
    assert all(np.isfinite(part.features).all() for part in parts)
    if source == "csv":
        return sum(len(part.features) for part in parts), broken
    column = "flows" if source in ("vpc_flow", "ocsf_flows") else "events"
    return sum(int(part.meta[column].sum()) for part in parts), broken


def try_file(source: str, content: bytes, folder: Path, expected: int | None = None) -> Outcome:
    """Read one file, and check what must hold.

    Raises:
        FuzzError: it does not.
    """
    path = folder / f"input.{ {'csv': 'csv', 'vpc_flow': 'log'}.get(source, 'json') }"
    path.write_bytes(content)
    try:
        with _time_limit(), _sizes(*_SIZES[zlib.crc32(content) % 2]):
            records, broken = read(source, path)
    except DataError:
        return "DataError"
    except _TooLongError:
        raise FuzzError(f"more than {SECONDS} seconds") from None
    except Exception as error:
        raise FuzzError(f"{type(error).__name__}: {error}") from error
    told = records + broken.broken + broken.left_out.total()
    if told != broken.lines:
        raise FuzzError(
            f"{broken.lines} records read; {records} in rows, {broken.broken} broken, left out {dict(broken.left_out)}"
        )
    if expected is not None and (records, broken.lines) != (expected, RECORDS):
        raise FuzzError(f"{records} records of {broken.lines} in rows, expected {expected} of {RECORDS}")
    return "rows"


@contextlib.contextmanager
def _sizes(piece: int, whole: int) -> Iterator[None]:
    """With so many characters read at once, and so long a JSON value taken for one that fits into memory."""
    before = json_values._READ, json_values.WHOLE
    json_values._READ, json_values.WHOLE = piece, whole
    try:
        yield
    finally:
        json_values._READ, json_values.WHOLE = before


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


Reader = Callable[[str, bytes, Path, int | None], Outcome]


def fuzz(inputs: int, seed: int, logs: Path, attempt: Reader = try_file) -> Counter[str]:
    """Try so many mutated files, of each shape about as many.

    Args:
        inputs: how many.
        seed: equal ones give equal files.
        logs: where a file that failed is saved.
        attempt: what is tried with each.

    Raises:
        FuzzError: at the first that failed.
    """
    dice = random.Random(seed)
    outcomes: Counter[str] = Counter()
    contents = [shape.content for shape in shapes().values()]
    names = list(shapes())
    with tempfile.TemporaryDirectory() as folder:
        for number in range(inputs):
            name = names[number % len(names)]
            shape = shapes()[name]
            expected = None
            if shape.by_lines is not None and dice.random() < 0.3:
                content, expected = garbled(shape, dice)
            else:
                content = mutated(shape.content, contents, dice)
            try:
                outcomes[f"{shape.source} {attempt(shape.source, content, Path(folder), expected)}"] += 1
            except FuzzError as error:
                logs.mkdir(exist_ok=True)
                saved = logs / f"fuzz-readers-{seed}-{number}.{shape.source}"
                saved.write_bytes(content)
                raise FuzzError(f"{name}: {error}; saved as {saved}") from error
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and print what came of it; 1 if a file failed."""
    parser = argparse.ArgumentParser(description="Mutated files against the readers of logs and tables.")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path)
    args = parser.parse_args(arguments)
    logging.getLogger("data").setLevel(logging.CRITICAL)
    try:
        if args.replay:
            with tempfile.TemporaryDirectory() as folder:
                print(try_file(args.replay.suffix[1:], args.replay.read_bytes(), Path(folder)))
        else:
            print(dict(sorted(fuzz(args.inputs, args.seed, LOGS).items())))
    except FuzzError as error:
        print(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
