"""Flows of Zeek, Suricata and OCSF as AWS's flow logs have them: values, what is left out, counted and refused."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.config import Config
from shared.data_sources import csv, vpc_flow
from shared.data_sources.source_types import Inputs
from shared.errors import DataError
from tests.source_files import read_chunks, read_features, settings_of

START = 1_767_600_000
# source, second, destination port, protocol, packets, bytes, rejected
FLOWS = [
    ("192.0.2.1", 0, 443, 6, 10, 1000, False),
    ("192.0.2.1", 5, 53, 17, 1, 80, False),
    ("192.0.2.2", 10, 22, 6, 1, 60, True),
    ("192.0.2.2", 400, 3, 1, 2, 120, False),
]
NAMES = {6: "tcp", 17: "udp", 1: "icmp"}
ZEEK_COLUMNS = (
    "ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "service", "duration", "orig_bytes",
    "resp_bytes", "conn_state", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes", "label",
)  # fmt: skip


def zeek(number: int) -> dict[str, Any]:
    source, second, port, protocol, packets, size, rejected = FLOWS[number]
    return {
        "ts": START + second + 0.25,
        "uid": f"C{number}",
        "id.orig_h": source,
        "id.orig_p": 40000,
        "id.resp_h": "198.51.100.1",
        "id.resp_p": port,
        "proto": NAMES[protocol],
        "duration": 30.5,
        "orig_bytes": size - 40,
        "resp_bytes": 5000,
        "conn_state": "REJ" if rejected else "SF",
        "orig_pkts": packets,
        "orig_ip_bytes": size,
        "resp_pkts": 7,
        "resp_ip_bytes": 5300,
        "label": "Malicious" if rejected else "Benign",
    }


def suricata(number: int) -> dict[str, Any]:
    source, second, port, protocol, packets, size, rejected = FLOWS[number]
    moment = f"2026-01-05T08:{second // 60:02}:{second % 60:02}.250000+0000"
    end = second + 30
    return {
        "timestamp": f"2026-01-05T08:{end // 60:02}:{end % 60:02}.990000+0000",
        "flow_id": number,
        "event_type": "flow",
        "src_ip": source,
        "src_port": 40000,
        "dest_ip": "198.51.100.1",
        "dest_port": port,
        "proto": NAMES[protocol].upper(),
        "flow": {
            "pkts_toserver": packets,
            "pkts_toclient": 7,
            "bytes_toserver": size,
            "bytes_toclient": 5300,
            "start": moment,
            "end": f"2026-01-05T08:{end // 60:02}:{end % 60:02}.990000+0000",
            "state": "closed",
            "alerted": rejected,
            **({"action": "drop"} if rejected else {}),
        },
    }


def aws(number: int) -> str:
    source, second, port, protocol, packets, size, rejected = FLOWS[number]
    action = "REJECT" if rejected else "ACCEPT"
    start = START + second
    return f"2 1 eni-0 {source} 198.51.100.1 40000 {port} {protocol} {packets} {size} {start} {start + 30} {action} OK"


def tsv(records: list[dict[str, Any]], path: str = "conn", columns: tuple[str, ...] = ZEEK_COLUMNS) -> str:
    head = ["#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-", f"#path\t{path}"]
    head.append("\t".join(["#fields", *columns]))
    head.append("\t".join(["#types", *(["string"] * len(columns))]))
    rows = ["\t".join(str(record.get(name, "-")) for name in columns) for record in records]
    return "\n".join([*head, *rows, "#close\t2026-01-05-09-00-00", ""])


settings = partial(settings_of, "vpc_flow", labels="none", num_features=20, max_broken_share=0.0)
read = partial(read_chunks, vpc_flow, labelled=False)


def features(path: Path) -> np.ndarray:
    return read_features(vpc_flow, settings(path), labelled=False)


@pytest.fixture
def expected(tmp_path: Path) -> np.ndarray:
    path = tmp_path / "expected" / "a.log"
    path.parent.mkdir()
    path.write_text("\n".join(map(aws, range(4))))
    return features(path)


NUMBERS = range(len(FLOWS))
FORMS: dict[str, tuple[str, Callable[[], str]]] = {
    "zeek as text": ("conn.log", lambda: tsv([zeek(n) for n in NUMBERS])),
    "zeek as JSON": ("conn.json", lambda: "\n".join(json.dumps(zeek(n)) for n in NUMBERS)),
    "zeek as JSON in a log": ("conn.log", lambda: "\n".join(json.dumps(zeek(n)) for n in NUMBERS)),
    "zeek with ISO times": (
        "conn.log",
        lambda: "\n".join(
            json.dumps(zeek(n) | {"ts": f"2026-01-05T08:{FLOWS[n][1] // 60:02}:{FLOWS[n][1] % 60:02}.0Z"})
            for n in NUMBERS
        ),
    ),
    "zeek with milliseconds": (
        "conn.json",
        lambda: "\n".join(json.dumps(zeek(n) | {"ts": int(zeek(n)["ts"] * 1000)}) for n in NUMBERS),
    ),
    "zeek nested, as shippers have it": (
        "conn.json",
        lambda: "\n".join(
            json.dumps({**zeek(n), "id": {k: zeek(n)[f"id.{k}"] for k in ("orig_h", "orig_p", "resp_h", "resp_p")}})
            for n in NUMBERS
        ),
    ),
    "suricata": ("eve.json", lambda: "\n".join(json.dumps(suricata(n)) for n in NUMBERS)),
    "suricata in Elastic": (
        "a.json",
        lambda: json.dumps({"hits": {"hits": [{"_source": suricata(n)} for n in NUMBERS]}}),
    ),
    "suricata in CloudWatch": (
        "a.json",
        lambda: json.dumps({"logEvents": [{"message": json.dumps(suricata(n))} for n in NUMBERS]}),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_sensors_flows_make_the_rows_of_a_flow_log(tmp_path: Path, form: str, expected: np.ndarray) -> None:
    name, text = FORMS[form]
    path = tmp_path / name
    path.write_text(text())
    np.testing.assert_array_equal(features(path), expected)


def as_csv(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path.with_suffix(".csv"), index=False)
    return path.with_suffix(".csv")


def as_parquet(table: pd.DataFrame, path: Path) -> Path:
    folder = path / "aws-account-id=1/aws-service=vpcflowlogs/aws-region=eu-west-1/year=2026/month=01/day=05"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pandas(table), folder / "a.log.parquet")
    return path


@pytest.mark.parametrize("write", [as_csv, as_parquet])
@pytest.mark.parametrize("gateway", [False, True])
@pytest.mark.parametrize("action", [False, True])
def test_tables_of_flows_with_and_without_action(
    tmp_path: Path, write: Callable[[pd.DataFrame, Path], Path], gateway: bool, action: bool, expected: np.ndarray
) -> None:
    """Of a VPC and of a Transit Gateway, whose logs have no action and other fields beside."""
    table = pd.DataFrame(
        [
            {"srcaddr": source, "dstaddr": "198.51.100.1", "srcport": 40000, "dstport": port, "protocol": protocol,
             "packets": packets, "bytes": size, "start": START + second, "end": START + second + 30,
             "log_status": "OK", **({"action": "REJECT" if rejected else "ACCEPT"} if action else {}),
             **({"resource_type": "TransitGateway", "tgw_id": "tgw-1", "tgw_src_vpc_id": "vpc-1"} if gateway else {})}
            for source, second, port, protocol, packets, size, rejected in FLOWS
        ]
    )  # fmt: skip
    found = features(write(table, tmp_path / "flows"))
    names = list(vpc_flow.schema(settings(tmp_path), Inputs(tmp_path, labelled=False)).names)
    at = names.index("reject_share")
    assert found[:, at].tolist() == (expected[:, at].tolist() if action else [0, 0, 0])
    np.testing.assert_array_equal(np.delete(found, at, axis=1), np.delete(expected, at, axis=1))


def test_a_folder_of_zeek_is_read_by_its_connections(
    tmp_path: Path, expected: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "zeek"
    folder.mkdir()
    (folder / "conn.log").write_text(tsv([zeek(n) for n in NUMBERS]))
    names = tsv([zeek(0), zeek(1)], "dns", ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto"))
    (folder / "dns.log").write_text(names)
    (folder / "packet_filter.log").write_text(
        tsv([{"ts": START, "node": "zeek"}], "packet_filter", ("ts", "node", "filter"))
    )
    http = {name: value for name, value in zeek(2).items() if name not in ("conn_state", "orig_pkts")}
    (folder / "http.json").write_text(json.dumps(http | {"method": "GET"}))
    np.testing.assert_array_equal(features(folder), expected)
    with caplog.at_level(logging.INFO, "data"):
        chunks, broken = read(settings(folder))
    assert broken.left_out["records of Zeek's dns.log"] == 2
    assert broken.left_out["records of Zeek's packet_filter.log"] == 1
    assert broken.left_out["records of Zeek's logs that are no connections"] == 1
    flows = sum(int(chunk.meta["flows"].sum()) for chunk in chunks)
    assert flows + broken.left_out.total() + broken.broken == broken.lines


def test_suricatas_other_events_are_counted_by_their_type(tmp_path: Path, expected: np.ndarray) -> None:
    others = [suricata(0) | {"event_type": kind} for kind in ("alert", "dns", "dns", "x" * 99)]
    path = tmp_path / "eve.json"
    path.write_text("\n".join(json.dumps(event) for event in [*others, *(suricata(n) for n in NUMBERS)]))
    np.testing.assert_array_equal(features(path), expected)
    _, broken = read(settings(path))
    assert broken.left_out == {
        "Suricata's alert events": 1,
        "Suricata's dns events": 2,
        "Suricata's other events": 1,
    }
    assert (broken.lines, broken.broken) == (8, 0)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (zeek, {"ts": "-"}, "ts = '-', expected a value"),
        (zeek, {"ts": "soon"}, "soon"),
        (zeek, {"ts": "nan"}, "nan"),
        (zeek, {"proto": "quic?"}, "protocol = 'quic\\?', expected a whole number"),
        (zeek, {"id.orig_h": "-"}, "id.orig_h"),
        (zeek, {"duration": "-5"}, "duration = '-5', expected seconds"),
        (zeek, {"duration": "inf"}, "duration"),
        (zeek, {"orig_pkts": "many"}, "packets = 'many'"),
        (suricata, {"flow": None}, "no flow, which Suricata's flow events have"),
        (suricata, {"flow": []}, "no flow"),
        (suricata, {"src_ip": None}, "no src_ip"),
        (suricata, {"flow": {"start": "soon"}}, "soon"),
        (suricata, {"flow": {"start": "9999-01-01T00:00:00Z"}}, "from 1990 to a day from now"),
        (suricata, {"src_port": 1.5}, "srcport = '1.5'"),
    ],
)
def test_a_malformed_flow_is_a_broken_line(
    tmp_path: Path, make: Callable[[int], dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n".join(json.dumps(record) for record in (make(0), make(1) | changes)))
    with pytest.raises(DataError, match=f"1 of 2 lines are broken.*{message}"):
        read(settings(path))
    if make is zeek:
        path = tmp_path / "conn.log"
        path.write_text(tsv([make(0), make(1) | changes]))
        with pytest.raises(DataError, match=r"1 of \d lines are broken"):
            read(settings(path))


def test_what_a_sensor_does_not_know_is_nothing(tmp_path: Path) -> None:
    """A flow without an end, and one whose packets were not counted."""
    unset = {"duration": "-", "orig_bytes": "-", "orig_pkts": "-", "orig_ip_bytes": "-"}
    path = tmp_path / "conn.log"
    path.write_text(tsv([zeek(0) | unset]))
    chunks, _ = read(settings(path))
    names = vpc_flow.schema(settings(path), Inputs(path, labelled=False)).names
    row = dict(zip(names, chunks[0].features[0].tolist(), strict=True))
    assert (row["bytes"], row["packets"], row["seconds_per_flow"]) == (0, 0, 0)
    path = tmp_path / "eve.json"
    path.write_text(json.dumps({**suricata(3), "src_port": None, "dest_port": None} | {"flow": {}}))
    assert len(read(settings(path))[0]) == 1


@pytest.mark.parametrize(
    ("name", "text", "field", "pattern"),
    [
        ("conn.log", lambda: tsv([zeek(n) for n in NUMBERS]), "label", "malicious"),
        ("conn.log", lambda: tsv([zeek(n) for n in NUMBERS]), "conn_state", "REJ"),
        ("eve.json", lambda: "\n".join(json.dumps(suricata(n)) for n in NUMBERS), "flow.alerted", "true"),
    ],
)
def test_any_field_of_a_sensor_may_be_the_label(
    tmp_path: Path, name: str, text: Callable[[], str], field: str, pattern: str
) -> None:
    path = tmp_path / name
    path.write_text(text())
    chunks, _ = read(settings(path, labels="", label_field=field, label_patterns=(pattern,)), labelled=True)
    assert np.concatenate([chunk.families for chunk in chunks]).tolist() == ["benign", "attack", "benign"]


def test_zeeks_conn_as_a_table_of_its_own_is_read_as_ever(tmp_path: Path) -> None:
    """`csv` has one row for each connection, of all its columns."""
    path = tmp_path / "conn.log"
    path.write_text(tsv([zeek(n % 4) for n in range(40)]))
    config = Config(
        data_source="csv", data_path=str(path), csv_label_column="label", partition="even", csv_drop_columns=("uid",)
    )
    inputs = Inputs(path)
    (chunk,) = csv.stream(config, inputs, csv.schema(config, inputs))
    assert len(chunk.features) == 40
    assert int((chunk.families != "benign").sum()) == 10
