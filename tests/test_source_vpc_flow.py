"""VPC flow logs: formats, what a window holds, labels, and what happens to broken lines."""

import gzip
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shared.config import Config, load_config
from shared.data_sources import flow_records, vpc_flow
from shared.data_sources.file_source import FileSource
from shared.data_sources.flow_records import DEFAULT_FIELDS
from shared.data_sources.source_types import Chunk, Inputs
from shared.data_utils import feature_count, load_client_data, load_test_data, stream_features
from shared.errors import DataError
from tests.processes import ROOT
from tests.source_files import named_features, read_chunks, settings_of, write_lines

SOURCE = FileSource(vpc_flow)
START = 1_714_557_600  # 2024-05-01 10:00:00 UTC, the begin of a window
Flow = dict[str, object]


def flow(second: int = 0, **changes: object) -> Flow:
    values: Flow = dict.fromkeys(DEFAULT_FIELDS, 0)
    values |= {"version": 2, "account-id": "111111111111", "interface-id": "eni-1", "srcaddr": "10.0.0.1"}
    values |= {"dstaddr": "10.0.1.1", "srcport": 40_000, "dstport": 443, "protocol": 6, "packets": 10, "bytes": 1000}
    values |= {"start": START + second, "end": START + second + 60, "action": "ACCEPT", "log-status": "OK"}
    return values | {name.replace("_", "-"): value for name, value in changes.items()}


def some_flows() -> list[Flow]:
    """Two addresses for two hours; 10.0.0.9 scans ports all the time."""
    quiet = [flow(second, bytes=1000 + second) for second in range(0, 7200, 10)]
    scan = [flow(s, srcaddr="10.0.0.9", dstport=s % 1000, action="REJECT", packets=1) for s in range(0, 7200, 10)]
    return sorted(quiet + scan, key=lambda values: str(values["start"]))


def line(values: Flow, fields: tuple[str, ...] = DEFAULT_FIELDS) -> str:
    return " ".join(str(values[name]) for name in fields)


def lines_of(flows: list[Flow], fields: tuple[str, ...] = DEFAULT_FIELDS) -> list[str]:
    return [line(values, fields) for values in flows]


settings = partial(settings_of, "vpc_flow", label_field="srcaddr", label_patterns=("10.0.0.9",), num_features=20)


def read(config: Config) -> Chunk:
    ((chunk,), _) = read_chunks(vpc_flow, config)
    return chunk


features_of = partial(named_features, vpc_flow)


def test_a_window_counts_what_its_address_did(tmp_path: Path) -> None:
    flows = [
        flow(0, dstport=22, packets=10, bytes=1000),
        flow(10, dstport=443, packets=20, bytes=3000, end=START + 10, action="REJECT"),
        flow(20, dstport=22, protocol=17, dstaddr="10.0.1.2"),
        flow(30, dstport=50_000, protocol=1, srcport=50_000),
        flow(301),
        flow(0, srcaddr="fd00::1", dstaddr="fd00::2", protocol=58),
    ]
    chunk_features = features_of(settings(write_lines(tmp_path / "a.log", lines_of(flows))))
    first, other, later = (chunk_features.iloc[row] for row in range(3))
    logs = {"flows": 4, "bytes": 6000, "packets": 50, "bytes_per_packet": 120, "largest_flow_bytes": 3000}
    logs |= {"destinations": 2, "destination_ports": 3, "source_ports": 2, "flows_per_destination": 2}
    logs |= {"seconds_per_flow": 45}
    for name, value in logs.items():
        assert first[name] == pytest.approx(np.log1p(value)), name
    shares: dict[str, float] = {"reject_share": 0.25, "tcp_share": 0.5, "udp_share": 0.25, "icmp_share": 0.25}
    shares |= {"port_entropy": 1.5, "well_known_port_share": 0.75, "admin_port_share": 0.5}
    for name, share in shares.items():
        assert first[name] == pytest.approx(share), name
    assert first["destination_entropy"] == pytest.approx(0.811278, abs=1e-5)
    assert (other["icmp_share"], other["port_entropy"], later["flows"]) == (1, 0, pytest.approx(np.log(2)))


@pytest.mark.parametrize("field", ["start", "end"])
def test_a_flow_of_the_future_is_broken_and_closes_no_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setattr(flow_records, "CHUNK_LINES", 100)
    lines = lines_of(some_flows())
    expected = read(settings(write_lines(tmp_path / "expected.log", lines)))
    lines.insert(50, line(flow(0, **{field: 253_370_764_800})))  # in the year 9999
    path = write_lines(tmp_path / "a.log", lines)
    config = settings(path)
    parts = [features for _, features in stream_features(config, path, vpc_flow.schema(config, Inputs(path)))]
    assert np.array_equal(np.concatenate(parts), expected.features)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    flows = some_flows()
    expected = read(settings(write_lines(tmp_path / "a.log", lines_of(flows))))
    custom = ("start", "end", "action", *DEFAULT_FIELDS[3:10])
    (tmp_path / "b.log.gz").write_bytes(gzip.compress((tmp_path / "a.log").read_bytes()))
    write_lines(tmp_path / "header.log", [" ".join(DEFAULT_FIELDS), *lines_of(flows)])
    write_lines(tmp_path / "crlf.log", [text + "\r" for text in lines_of(flows)])
    write_lines(tmp_path / "utf16.log", lines_of(flows), "utf-16")
    write_lines(tmp_path / "utf16-without-a-mark.log", lines_of(flows), "utf-16-be")
    write_lines(tmp_path / "other-header.log", [" ".join(custom), *lines_of(flows, custom)])
    write_lines(tmp_path / "custom.txt", lines_of(flows, custom))
    empty = {"srcaddr": "-", "dstaddr": "-", "srcport": "-", "dstport": "-", "protocol": "-", "action": "-"}
    none = [line(flow(5, log_status=s, packets="-", bytes="-") | empty) for s in ("NODATA", "SKIPDATA")]
    write_lines(tmp_path / "nodata.log", [*none, *lines_of(flows), *none])
    folder = tmp_path / "2024" / "05"
    folder.mkdir(parents=True)
    half = len(flows) // 2
    write_lines(folder / "z_vpcflowlogs_eu_fl-1_20240501T1000Z_1.log", lines_of(flows[:half]))
    write_lines(folder / "a_vpcflowlogs_eu_fl-1_20240501T1100Z_2.log", lines_of(flows[half:]))
    fields = " ".join(f"${{{name}}}" for name in custom)
    for name in (
        "b.log.gz",
        "header.log",
        "crlf.log",
        "utf16.log",
        "utf16-without-a-mark.log",
        "other-header.log",
        "custom.txt",
        "nodata.log",
        "2024",
    ):
        found = read(settings(tmp_path / name, vpc_fields=fields if name == "custom.txt" else "", max_broken_share=0.0))
        assert np.array_equal(found.features, expected.features), name
        assert np.array_equal(found.families, expected.families), name


def test_broken_lines_are_skipped_and_named_and_too_many_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["", *lines_of(some_flows()[:400])]
    lines[3] = lines[3].rsplit(" ", 1)[0]
    lines[5] += " more"
    lines[7] = line(flow(bytes="many"))
    lines[9] = line(flow(bytes=-1))
    path = write_lines(tmp_path / "a.log", lines)
    with caplog.at_level(logging.WARNING, logger="data"):
        assert read(settings(path, max_broken_share=0.01)).meta["flows"].sum() == 396
    assert "line 4: 13 fields, expected 14" in caplog.text
    assert "line 6: 15 fields, expected 14" in caplog.text
    assert "line 8: bytes = 'many', expected a whole number" in caplog.text
    assert "skipped 4 broken lines of 401" in caplog.text
    with pytest.raises(DataError, match=r"4 of 401 lines are broken, more than max_broken_share = 0\.005; the first: "):
        read(settings(path, max_broken_share=0.005))


def test_a_wrong_format_is_refused_without_reading_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_records, "CHUNK_LINES", 5000)
    path = write_lines(tmp_path / "a.log", ["this is no flow log"] * 50_000)
    with pytest.raises(DataError, match="10000 of 10000 lines are broken"):
        read(settings(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vpc_fields": "srcaddr dstaddr"}, r"no srcport, dstport, .* \(by vpc_fields\)"),
        ({"label_field": "pkt-srcaddr"}, "no field 'pkt-srcaddr' for the labels or the partition"),
        ({"partition": "natural", "partition_column": "vpc-id"}, "no field 'vpc-id'"),
        ({"num_features": 7}, "num_features = 7: this data has 20 features; set num_features: 20"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_test_data(settings(write_lines(tmp_path / "a.log", lines_of(some_flows())), **changes))


@pytest.mark.parametrize(
    ("field", "gone"),
    [
        ("srcaddr", set()),
        ("action", {"reject_share"}),
        ("dstport", {"destination_ports", "port_entropy", "well_known_port_share", "admin_port_share"}),
        ("start", {"hour_sin", "hour_cos", "seconds_per_flow"}),
    ],
)
def test_what_is_made_from_the_field_of_the_label_is_no_feature(tmp_path: Path, field: str, gone: set[str]) -> None:
    full = vpc_flow.schema(settings(tmp_path, label_field="version"), Inputs(tmp_path))
    schema = vpc_flow.schema(settings(tmp_path, label_field=field), Inputs(tmp_path))
    assert set(full.names) - set(schema.names) == gone


def test_which_address_it_is_is_no_feature(tmp_path: Path) -> None:
    other = [values | {"srcaddr": str(values["srcaddr"]).replace("10.0.0", "172.16.5")} for values in some_flows()]
    before = read(settings(write_lines(tmp_path / "a.log", lines_of(some_flows()))))
    after = read(settings(write_lines(tmp_path / "b.log", lines_of(other))))
    assert np.array_equal(before.features, after.features)
    assert ((before.families != "benign").sum(), (after.families != "benign").sum()) == (24, 0)


def test_labels_from_a_file(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    data = write_lines(tmp_path / "a.log", lines_of(some_flows()))
    config = settings(data, label_path=str(labels), label_field="", label_patterns=(), num_features=17)
    labels.write_text("address,start,end,label\n10.0.0.9,2024-05-01T10:30:00Z,2024-05-01T11:00:00Z,scan\n")
    chunk = read(config)
    hit = chunk.meta[chunk.families == "scan"]
    assert len(hit) == (chunk.families != "benign").sum() == 6
    assert set(hit["source"]) == {"10.0.0.9"}
    assert feature_count(config) == 17
    labels.write_text("event_id,label\nx,y\n")
    with pytest.raises(DataError, match="column event_id, but flows have no ids; use address or start"):
        feature_count(config)


def test_parts_to_score_make_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.log", lines_of(some_flows()))
    config = settings(path)
    whole = read(config).features
    monkeypatch.setattr(flow_records, "CHUNK_LINES", 100)
    parts = list(stream_features(config, path, SOURCE.schema(config, None)))
    assert len(parts) > 5
    assert max(len(features) for _, features in parts) < 10  # not all at the end
    assert np.array_equal(np.concatenate([features for _, features in parts]), whole)
    assert list(parts[0][0].columns) == ["start", "end", "source", "flows", "destinations"]


def test_clients_share_by_account_and_are_tested_on_later_windows(tmp_path: Path) -> None:
    flows = [
        values | {"account-id": str(account), "srcaddr": f"10.{account}.0.{values['srcaddr'][-1]}"}  # type: ignore[index]
        for values in some_flows()
        for account in (111, 222, 333)
    ]
    path = write_lines(tmp_path / "a.log", lines_of(flows))
    config = settings(path, partition="natural", partition_column="account-id", label_patterns=("*.9",))
    parts = [SOURCE.client_table(config, client) for client in range(3)]
    assert sorted(str(part.groups[0]) for part in parts) == ["111", "222", "333"]
    assert all(len(set(part.groups)) == 1 for part in parts)
    test = SOURCE.test_table(config)
    assert test.starts is not None
    assert all(part.starts is not None and part.starts.max() < test.starts.min() for part in parts)
    data = load_client_data(config, 1)
    assert 0 < data.train.labels.mean() < 1


def test_the_ready_settings_fit_a_file_of_labels_with_times(tmp_path: Path) -> None:
    labels = tmp_path / "labels-test.csv"
    labels.write_text("address,start,end,label\n")
    config = load_config(ROOT / "config/vpc_flow.yaml")
    there = config.replace(label_path=str(tmp_path / "labels-{client_id}.csv"))
    assert feature_count(there) == config.num_features
