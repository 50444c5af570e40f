"""Tables and flow logs as tools and people leave them: read as they were meant, or refused in a line that says how."""

import gzip
import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.config import Config
from shared.data_sources import csv, flow_records, vpc_flow
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.compressed import DAMAGE, damage_of, unpacked
from shared.data_sources.file_names import read_order
from shared.data_sources.file_source import FileSource
from shared.data_sources.flow_checks import NO_FLOWS
from shared.data_sources.flow_records import BLANK_LINES, DEFAULT_FIELDS
from shared.data_sources.source_types import Inputs
from shared.data_sources.tables import REPEATED_HEADER
from shared.data_utils import load_client_data, stream_features
from shared.errors import DataError
from tests import test_source_vpc_flow as vpc
from tests.source_files import read_chunks, write_lines
from tests.test_source_csv import SOURCE, cic, settings, table

ROWS = [f"{row / 7},{row},{('tcp', 'udp')[row % 2]},{('BENIGN', 'DoS', 'BENIGN')[row % 3]}" for row in range(60)]
HEADER = "dur,bytes,proto,Label"
PLAIN = [HEADER, *ROWS]


def strict(path: Path, **changes: Any) -> Config:
    return settings(path, **({"num_features": 18, "max_broken_share": 0.0} | changes))


def zeek(rows: list[str], *, iot23: bool = False) -> list[str]:
    names = ["dur", "bytes", "proto", "Label"]
    last = "   " if iot23 else "\t"
    cells = [row.split(",") for row in rows]
    return [
        "#separator \\x09",
        "#set_separator\t,",
        "#unset_field\t-",
        "#path\tconn",
        "#fields\t" + "\t".join(names[:3]) + last + names[3],
        "#types\tinterval\tcount\tenum\tstring",
        *("\t".join(row[:3]) + last + row[3] for row in cells),
        "#close\t2026-01-05-09-00-00",
    ]


def json_lines(rows: list[str]) -> list[str]:
    names = HEADER.split(",")
    return [
        json.dumps(dict(zip(names, row.split(","), strict=True)) | {"dur": float(row.split(",")[0])}) for row in rows
    ]


SHAPES: dict[str, list[str]] = {
    "a blank line first": ["", "  ", *PLAIN],
    "a comment first": ["# exported by a tool", "#", *PLAIN],
    "Excel's sep": ["sep=;", *(line.replace(",", ";") for line in PLAIN)],
    "sep and a blank": ["", "SEP=,", *PLAIN],
    "a separator after each row": [HEADER, *(f"{row}," for row in ROWS)],
    "a separator after each line": [f"{line}," for line in PLAIN],
    "two byte order marks": ["\ufeff\ufeff" + HEADER, *ROWS],
    "blanks after the last cell": [line + "  " for line in PLAIN],
    "blanks around all cells": [line.replace(",", " , ") for line in PLAIN],
    "tabs": [line.replace(",", "\t") for line in PLAIN],
    "pipes": [line.replace(",", "|") for line in PLAIN],
    "all in quotes": [",".join(f'"{cell}"' for cell in line.split(",")) for line in PLAIN],
    "separators alone at the end": [*PLAIN, *[",,,"] * 40],
    "separators alone in between": [*PLAIN[:9], ",,,", " , ,,", *PLAIN[9:]],
    "the header again": [*PLAIN[:9], HEADER, *PLAIN[9:], HEADER],
    "the header again, with blanks": [*PLAIN[:9], HEADER.replace(",", ", "), *PLAIN[9:]],
    "Zeek": zeek(ROWS),
    "Zeek of two days in one file": [*zeek(ROWS[:20]), *zeek(ROWS[20:])],
    "Zeek as IoT-23 has it": zeek(ROWS, iot23=True),
    "JSON lines": json_lines(ROWS),
    "a JSON list": ["[", ",\n".join(json_lines(ROWS)), "]"],
    "a search engine's answer": [
        json.dumps({"hits": {"hits": [{"_source": json.loads(line)} for line in json_lines(ROWS)]}})
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_a_table_is_read_whatever_stands_around_its_rows(tmp_path: Path, name: str) -> None:
    expected = table(strict(write_lines(tmp_path / "a.csv", PLAIN)))
    found = table(strict(write_lines(tmp_path / "b.csv", SHAPES[name])))
    assert found.schema == expected.schema
    assert np.array_equal(found.features, expected.features)
    assert np.array_equal(found.families, expected.families)


@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.pq", "a.parq", "a.parquet", "a.binetflow", "conn.log.labeled", "a.log", "000000.gz", "a.CSV.zip"],
)
def test_a_table_is_found_by_its_name_or_by_what_is_in_it(tmp_path: Path, name: str) -> None:
    expected = table(strict(write_lines(tmp_path / "expected.csv", PLAIN)))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README").write_text("One line, with a comma.")
    (folder / "notes.md").write_text("a,b\nc,d")
    path = write_lines(folder / name, PLAIN)
    if "pa" in name or name.endswith(".pq"):
        pd.read_csv(tmp_path / "expected.csv").to_parquet(path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv", "\n".join(PLAIN))
    assert np.array_equal(table(strict(folder)).features, expected.features)


ROTATED = [
    "{}.1",
    "{}.12.gz",
    "{}.gz.1",
    "{}-20261101",
    "{}.2026-11-01",
    "{}-2026-11-01_10:00:00.gz",
    "{}_20261101T10Z",
]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside others"])
@pytest.mark.parametrize("name", ROTATED)
def test_a_rotated_file_is_read_like_what_it_was(tmp_path: Path, name: str, beside: bool) -> None:
    write_lines(tmp_path / "expected.csv", PLAIN)
    write_lines(tmp_path / "expected.log", LINES)
    for kind, base, lines in (("csv", "a.csv", PLAIN), ("flows", "a.log", LINES), ("names", "a.parquet", PLAIN)):
        folder = tmp_path / kind
        folder.mkdir()
        path = write_lines(folder / name.format(base), lines)
        if kind == "names":
            pd.read_csv(tmp_path / "expected.csv").to_parquet(path)
        elif "gz" in name:
            path.write_bytes(gzip.compress(path.read_bytes()))
        if beside:
            write_lines(folder / f"z{base}", [HEADER] if base == "a.csv" else [])
    expected = table(strict(tmp_path / "expected.csv")).features
    assert np.array_equal(table(strict(tmp_path / "csv")).features, expected)
    assert np.array_equal(flows(tmp_path / "flows")[0], flows(tmp_path / "expected.log")[0])
    if not beside:
        assert np.array_equal(table(strict(tmp_path / "names")).features, expected)


def test_rotated_logs_are_read_from_the_oldest_on() -> None:
    numbered = ["a/x.log.10.gz", "a/x.log.2.gz", "a/x.log.1", "a/x.log"]
    dated = ["a/y.log-20261101", "a/y.log-20261102.gz", "a/y.log"]
    split = ["a/z.csv.00", "a/z.csv.01", "a/z.csv.02"]
    no_rotations = ["b/part-00001", "b/part-00002", "b/part-00010"]
    ordered = [*numbered, *dated, *split, *no_rotations]
    assert [str(path) for path in sorted(map(Path, reversed(ordered)), key=read_order)] == ordered


def test_a_log_that_is_rotated_in_between_makes_the_windows_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When scoring, windows close as time goes on: the newest file read first would make all others late."""
    monkeypatch.setattr(flow_records, "CHUNK_LINES", 50)
    everything = vpc.lines_of(vpc.some_flows())
    whole = write_lines(tmp_path / "whole.log", everything)
    folder = tmp_path / "rotated"
    folder.mkdir()
    third = len(everything) // 3
    for name, start in (("a.log.2.gz", 0), ("a.log.1", third), ("a.log", 2 * third)):
        path = write_lines(folder / name, everything[start : start + third])
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
    config = vpc.settings(whole)
    schema = vpc_flow.schema(config, Inputs(whole))
    expected, found = (
        np.concatenate([features for _, features in stream_features(config, path, schema)]) for path in (whole, folder)
    )
    assert np.array_equal(found, expected)


def test_what_is_left_out_of_a_folder_is_a_warning_with_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lines(tmp_path / "a.csv", PLAIN)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    write_lines(folder / "m.csv", PLAIN)
    for name in ("a.csv.bak", "README", "notes.md", "a.csv.part"):
        write_lines(folder / name, PLAIN if name != "README" else ["a word"])
    (folder / "link").symlink_to(elsewhere)
    (folder / "nowhere.csv").symlink_to(elsewhere / "gone.csv")
    assert len(table(strict(folder))) == 60
    (told,) = [line for line in caplog.records if "left out" in line.getMessage()]
    assert told.levelno == logging.WARNING
    assert "left out 6 that are no such logs" in told.getMessage()
    assert "a.csv.bak" in told.getMessage()
    assert "end in .csv" in told.getMessage()


def test_an_archive_of_several_files_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "\n".join(PLAIN))
        archive.writestr("b.csv", "\n".join(PLAIN))
    with pytest.raises(DataError, match="a zip archive of 2 files, expected one; unpack it"):
        table(strict(tmp_path / "a.zip"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_with_any_byte_changed_is_read_or_refused(method: int) -> None:
    """Found by fuzz: an empty name in the directory was an IndexError, and damaged bzip2 a RuntimeError."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("a.csv", "\n".join(PLAIN))
    outcomes = {_unpack(bytes(changed)) for changed in _changed(packed.getvalue())}
    assert outcomes == {"whole", "damaged", "refused"}


def _changed(content: bytes) -> Iterator[bytes]:
    for place, byte in enumerate(content):
        for other in {0, 255, byte ^ 1, byte ^ 128}:
            yield content[:place] + bytes([other]) + content[place + 1 :]


def _unpack(content: bytes) -> str:
    raw = io.BufferedReader(io.BytesIO(content))
    try:
        stream = unpacked(raw)
        while stream is not raw and stream.read(1000):
            pass
    except (OSError, *DAMAGE):
        return "refused"
    return "whole" if damage_of(stream) is None else "damaged"


@pytest.mark.parametrize("first", ["a.csv", "z.csv"])
@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"", mtime=0)])
def test_an_empty_table_beside_a_good_one_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str, content: bytes
) -> None:
    write_lines(tmp_path / "m.csv", PLAIN)
    (tmp_path / first).write_bytes(content)
    assert len(table(strict(tmp_path))) == 60
    assert caplog.text.count("empty, nothing to read") == 1


def test_a_table_that_is_cut_off_gives_its_whole_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{row},{'tcp' if row % 2 else 'udp'},{'BENIGN' if row % 3 else 'DoS'}" for row in range(20_000)]
    packed = gzip.compress("\n".join(["n,proto,Label", *rows]).encode(), 1)
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    found = table(settings(tmp_path / "a.csv.gz", num_features=17))
    assert 5_000 < len(found) < 15_000
    expected = table(settings(write_lines(tmp_path / "b.csv", ["n,proto,Label", *rows]), num_features=17))
    assert np.array_equal(found.features, expected.features[: len(found)])
    assert "damaged or cut off" in caplog.text


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"PAR1 nothing", lambda data: data[:4]])
def test_a_damaged_parquet_file_beside_a_good_one_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    write_lines(tmp_path / "a.csv", PLAIN * 3)
    pd.read_csv(tmp_path / "a.csv").to_parquet(tmp_path / "b.parquet")
    (tmp_path / "b.parquet").write_bytes(damage((tmp_path / "b.parquet").read_bytes()))
    assert len(table(settings(tmp_path, num_features=18))) == 180
    assert "not a readable Parquet file" in caplog.text


def test_columns_of_parquet_that_are_nested_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = 60
    odd = {
        "ports": pa.array([[1, 2]] * rows),
        "where": pa.array([{"x": 1}] * rows),
        "tags": pa.array([[("a", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
        "proto": pa.array([b"tcp", b"udp"] * (rows // 2), pa.binary()),
        "when": pa.array([1_767_600_000_000 + row for row in range(0, 7 * rows, 7)], pa.timestamp("ms")),
        "big": pa.array(range(0, 2 * rows, 2), pa.decimal128(20, 2)),
        "Label": pa.array(["BENIGN", "DoS", "BENIGN"] * (rows // 3)),
    }
    pq.write_table(pa.table(odd), tmp_path / "a.parquet")
    found = table(strict(tmp_path / "a.parquet"))
    assert found.schema.names[:3] == ("when", "big", "proto#0")
    assert "hold lists or structures are no features: ports, where, tags" in caplog.text


@pytest.mark.parametrize(("text", "number"), [("0x0303", 771), ("0X1f", 31), ("0x", None), ("-", 0), ("(empty)", 0)])
def test_ports_in_hexadecimal_are_numbers(tmp_path: Path, text: str, number: int | None) -> None:
    lines = [
        "sport,Label",
        *(f"{1000 + 2 * row},{'DoS' if row % 3 else 'BENIGN'}" for row in range(60)),
        f"{text},BENIGN",
    ]
    path = write_lines(tmp_path / "a.csv", lines)
    if number is None:
        with pytest.raises(DataError, match="column sport holds a text where numbers are expected"):
            table(strict(path))
    else:
        assert table(strict(path)).features[-1, 0] == pytest.approx(np.log1p(number))


NAMES = ("dur", "bytes", "proto", "Label")


def test_a_separator_after_each_row_is_no_cell_to_name(tmp_path: Path) -> None:
    expected = table(strict(write_lines(tmp_path / "a.csv", PLAIN))).features
    bare = write_lines(tmp_path / "b.csv", [f"{row}," for row in ROWS])
    named = strict(bare, csv_column_names=tuple(HEADER.split(",")))
    assert np.array_equal(table(named).features, expected)


def test_addresses_that_end_in_zero_stay_what_they_are(tmp_path: Path) -> None:
    """10.1.2.0 was 10.1.2 in CSV, Parquet and Zeek, which no label, finding or person knows."""
    made = [vpc.some_flows()[0] | {"srcaddr": "10.1.2.0", "dstaddr": "203.0.113.0"}]
    text = vpc.lines_of(made)
    names = " ".join(DEFAULT_FIELDS)
    write_lines(tmp_path / "a.log", text)
    write_lines(tmp_path / "b.csv", [line.replace(" ", ",") for line in [names, *text]])
    pq.write_table(pa.Table.from_pylist([{k: str(v) for k, v in made[0].items()}]), tmp_path / "c.parquet")
    for path in ("a.log", "b.csv", "c.parquet"):
        config = vpc.settings(tmp_path / path)
        ((meta, _),) = stream_features(config, tmp_path / path, vpc_flow.schema(config, Inputs(tmp_path / path)))
        assert meta["source"].tolist() == ["10.1.2.0"]
        assert meta["destinations"][0][0].split()[0] == "203.0.113.0"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquets_times_are_seconds_whatever_their_unit(tmp_path: Path, unit: str) -> None:
    """One tenant's milliseconds are no other feature than another's microseconds."""
    labels = pa.array(["BENIGN", "DoS", "BENIGN"] * 20)
    of = {"when": [1_772_359_200 + 7 * row for row in range(60)], "took": list(range(60))}
    plain = pa.table({name: pa.array(values, pa.float64()) for name, values in of.items()} | {"Label": labels})
    kinds = {"when": pa.timestamp("s", "UTC"), "took": pa.duration("s")}
    finer = {"when": pa.timestamp(unit, "UTC"), "took": pa.duration(unit)}
    timed = {name: pa.array(values, pa.int64()).cast(kinds[name]).cast(finer[name]) for name, values in of.items()}
    pq.write_table(plain, tmp_path / "a.parquet")
    pq.write_table(pa.table(timed | {"Label": labels}), tmp_path / "b.parquet")
    expected = table(strict(tmp_path / "a.parquet", num_features=2)).features
    assert np.array_equal(table(strict(tmp_path / "b.parquet", num_features=2)).features, expected)


def test_a_file_without_a_header_line_needs_names(tmp_path: Path) -> None:
    addresses = [f"192.0.2.{row % 9},{line}" for row, line in enumerate(ROWS)]
    path = write_lines(tmp_path / "a.csv", addresses)
    with pytest.raises(DataError, match=r"first line looks like data and not like a header.* 5 columns; .*names"):
        table(strict(path))
    names = ("address", *NAMES)
    config = strict(path, csv_column_names=names, csv_drop_columns=("address",))
    assert np.array_equal(table(config).features, table(strict(write_lines(tmp_path / "b.csv", PLAIN))).features)
    assert (
        table(
            config.replace(data_path=str(write_lines(tmp_path / "c.csv", [",".join(names), *addresses])))
        ).features.shape[0]
        == 60
    )
    with pytest.raises(DataError, match="its first line has 5 cells, and csv_column_names 4 names"):
        table(config.replace(csv_column_names=NAMES, csv_drop_columns=()))


def test_a_folder_may_have_files_with_and_without_a_header_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "1.csv", ROWS[:30])
    write_lines(tmp_path / "2.csv", [HEADER, *ROWS[30:]])
    assert len(table(strict(tmp_path, csv_column_names=NAMES))) == 60


def test_new_records_without_a_header_line_are_refused_or_read_by_the_names(tmp_path: Path) -> None:
    config = strict(write_lines(tmp_path / "a.csv", PLAIN))
    schema = SOURCE.schema(config, None)
    new = write_lines(tmp_path / "new.csv", ROWS)
    with pytest.raises(DataError, match="first line looks like data"):
        list(stream_features(config, new, schema))
    parts = list(stream_features(config.replace(csv_column_names=NAMES), new, schema))
    assert sum(len(features) for _, features in parts) == 60


def test_a_title_before_the_header_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1 has 1 column and the next 4; take away what stands before the header"):
        table(strict(write_lines(tmp_path / "a.csv", ["Export of Monday", *PLAIN])))


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("b.csv", "a.csv")])
def test_a_column_to_drop_may_be_that_of_one_file(tmp_path: Path, names: tuple[str, str]) -> None:
    write_lines(tmp_path / names[0], PLAIN[:31])
    write_lines(tmp_path / names[1], ["Flow ID," + HEADER, *("x," + line for line in ROWS[30:])])
    assert len(table(strict(tmp_path, csv_drop_columns=("Flow ID",)))) == 60


def test_a_column_to_drop_may_be_nearly_called_like_a_feature_of_another_tenant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [line.replace("dur", "Dst IAT") for line in PLAIN]
    config = strict(write_lines(tmp_path / "a.csv", lines), csv_drop_columns=("Src IAT", "Dst ID"))
    assert len(table(config)) == 60
    assert "no column 'Src IAT' here" in caplog.text


def test_a_column_of_a_later_file_alone_is_no_feature_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lines(tmp_path / "a.csv", PLAIN[:31])
    write_lines(tmp_path / "b.csv", ["extra," + HEADER, *("1," + line for line in ROWS[30:])])
    assert len(table(strict(tmp_path))) == 60
    assert "b.csv: columns that the first file has not are no features: extra" in caplog.text


@pytest.mark.parametrize("odd", ["dur,bytes,proto", ",,", " , ,", "dur , bytes, proto"])
def test_a_line_that_is_no_record_is_none_when_scoring(tmp_path: Path, odd: str) -> None:
    config = strict(write_lines(tmp_path / "a.csv", PLAIN))
    new = write_lines(tmp_path / "new.csv", ["dur,bytes,proto", "0.1,1,tcp", odd, "0.3,3,udp"])
    broken = BrokenLines(new, 0.0)
    parts = list(stream_features(config, new, SOURCE.schema(config, None), broken))
    assert sum(len(features) for _, features in parts) == 2
    assert (broken.lines, broken.broken, broken.left_out.total()) == (3, 0, 1)


def test_tenants_that_differ_hear_in_which_column_and_never_a_number_to_set(tmp_path: Path) -> None:
    write_lines(tmp_path / "tenant-0.csv", PLAIN)
    write_lines(tmp_path / "tenant-1.csv", [line + (",9" if row else ",extra") for row, line in enumerate(PLAIN)])
    write_lines(tmp_path / "tenant-2.csv", [line.replace("tcp", "6").replace("udp", "17") for line in PLAIN])
    test_set = write_lines(tmp_path / "test.csv", PLAIN)
    config = strict(tmp_path / "tenant-{client_id}.csv", test_path=str(test_set))
    load_client_data(config, 0)
    for client, word in ((1, "column 'extra' is here alone"), (2, "column 'proto' holds numbers here and text there")):
        with pytest.raises(DataError, match=word) as refusal:
            load_client_data(config, client)
        assert f"tenant-{client}.csv" in str(refusal.value)
        assert "set num_features" not in str(refusal.value)
    test_set.unlink()  # a tenant does not have the orchestrator's file
    for client, word in ((1, "numbers dur, bytes, extra, names"), (2, "numbers dur, bytes, proto;")):
        with pytest.raises(DataError, match=word) as refusal:
            load_client_data(config, client)
        assert "csv_drop_columns" in str(refusal.value)
        assert "csv_categorical_columns" in str(refusal.value)


def flows(path: Path, **changes: Any) -> tuple[np.ndarray, BrokenLines]:
    chunks, broken = read_chunks(vpc_flow, vpc.settings(path, **({"max_broken_share": 0.0} | changes)))
    return np.concatenate([chunk.features for chunk in chunks]), broken


LINES = vpc.lines_of(vpc.some_flows()[:300])
FIELDS = " ".join(DEFAULT_FIELDS)
COLUMNS = FIELDS.replace("-", "_")
FLOWS: dict[str, list[str]] = {
    "a blank at the end": [line + " " for line in [FIELDS, *LINES]],
    "tabs": [line.replace(" ", "\t") for line in [FIELDS, *LINES]],
    "several blanks": [line.replace(" ", "   ") for line in LINES],
    "a blank line first": ["", FIELDS, *LINES],
    "a time before each": [f"2024-05-01T10:00:00.000Z {line}" for line in LINES],
    "a time with a zone": [f"2024-05-01T12:00:00+02:00 {line}" for line in LINES],
    "names with underscores": [COLUMNS, *LINES],
    "a header as the console shows it": [" ".join(f"${{{name}}}" for name in DEFAULT_FIELDS), *LINES],
    "the header again": [FIELDS, *LINES[:9], FIELDS, *LINES[9:]],
    "CSV": [line.replace(" ", ",") for line in [COLUMNS, *LINES]],
    "CSV in quotes": [",".join(f'"{cell}"' for cell in line.split()) for line in [COLUMNS, *LINES]],
    "message": [json.dumps({"message": line}) for line in LINES],
    "message, with more": [json.dumps({"@timestamp": "x", "message": line, "agent": {"a": 1}}) for line in LINES],
    "a subscription": [json.dumps({"logEvents": [{"id": "1", "message": line} for line in LINES]})],
    "filter-log-events": [json.dumps({"events": [{"message": line} for line in LINES]}, indent=1)],
    "extracted fields": [json.dumps(dict(zip(DEFAULT_FIELDS, line.split(), strict=True))) for line in LINES],
    "extracted, underscores": [json.dumps(dict(zip(COLUMNS.split(), line.split(), strict=True))) for line in LINES],
    "Splunk": [json.dumps({"result": {"_raw": line}}) for line in LINES],
}  # fmt: skip


@pytest.mark.parametrize("name", FLOWS)
def test_flows_are_read_in_every_form(tmp_path: Path, name: str) -> None:
    expected, _ = flows(write_lines(tmp_path / "a.log", LINES))
    found, broken = flows(write_lines(tmp_path / "b.log", FLOWS[name]))
    assert np.array_equal(found, expected)
    assert broken.lines - broken.left_out.total() == len(LINES)
    assert set(broken.left_out) <= {REPEATED_HEADER, BLANK_LINES}


@pytest.mark.parametrize(
    "name", ["a.log", "000000.gz", "a.log.parquet", "export.csv", "a.json", "0f3c-11aa", "a.txt.gz"]
)
def test_flows_are_found_by_name_or_content_and_labels_beside_them_are_none(tmp_path: Path, name: str) -> None:
    expected, _ = flows(write_lines(tmp_path / "expected.log", LINES))
    folder = tmp_path / "year=2024" / "month=05"
    folder.mkdir(parents=True)
    (folder / "README").write_text("notes")
    (folder / "labels.csv").write_text("address,start,end,label\n10.0.0.9,,,scan\n")
    path = write_lines(
        folder / name, FLOWS["message"] if name == "a.json" else FLOWS["CSV"] if name == "export.csv" else LINES
    )
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    if name.endswith(".parquet"):
        frame = pd.DataFrame([line.split() for line in LINES], columns=COLUMNS.split())
        numbers = [
            column for column in frame if column not in ("srcaddr", "dstaddr", "action", "log_status", "interface_id")
        ]
        frame.astype(dict.fromkeys(numbers, "int64")).to_parquet(path)
    assert np.array_equal(flows(tmp_path / "year=2024")[0], expected)


@pytest.mark.parametrize("unit", [1_000, 1_000_000, 1_000_000_000])
def test_times_in_other_units_are_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, unit: int) -> None:
    expected, _ = flows(write_lines(tmp_path / "a.log", LINES))
    changed = [
        vpc.line(values | {name: int(str(values[name])) * unit + 1 for name in ("start", "end")})
        for values in vpc.some_flows()[:300]
    ]
    found, _ = flows(write_lines(tmp_path / f"b{unit}.log", changed))
    assert np.array_equal(found, expected)
    assert "times are in" in caplog.text


@pytest.mark.parametrize("form", ["2024-05-01T10:00:00Z", "2024-05-01 10:00:00.000 UTC", "s", "ms", "us", "ns", "zone"])
def test_times_in_words_and_as_parquets_own_are_read(tmp_path: Path, form: str) -> None:
    """As Athena and Sentinel write them, and with the type that Parquet has for them."""
    made = pd.DataFrame(vpc.some_flows()[:300]).rename(columns=lambda name: str(name).replace("-", "_"))
    expected, _ = flows(write_lines(tmp_path / "a.log", LINES))
    moments = {name: pd.to_datetime(made[name].astype("int64"), unit="s", utc=True) for name in ("start", "end")}
    if form.startswith("2024"):
        words = "%Y-%m-%dT%H:%M:%SZ" if form.endswith("Z") else "%Y-%m-%d %H:%M:%S.000 UTC"
        path = tmp_path / "b.csv"
        made.assign(**{name: moment.dt.strftime(words) for name, moment in moments.items()}).to_csv(path, index=False)
    else:
        unit, zone = ("ms", "Europe/Berlin") if form == "zone" else (form, None)
        table = pa.Table.from_pandas(made.assign(**moments), preserve_index=False)
        for name in moments:
            column = table[name].cast(pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC"))
            column = column.cast(pa.timestamp(unit, zone) if zone else pa.timestamp(unit))
            table = table.set_column(table.schema.get_field_index(name), name, column)
        path = tmp_path / "b.parquet"
        pq.write_table(table, path)
    found, _ = flows(path)
    assert np.array_equal(found, expected)


def test_a_format_without_action_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fields = tuple(name for name in DEFAULT_FIELDS if name != "action")
    some = vpc.some_flows()[:300]
    accepted = [vpc.line(values | {"action": "ACCEPT"}) for values in some]
    expected, _ = flows(write_lines(tmp_path / "a.log", accepted))
    found, _ = flows(write_lines(tmp_path / "b.log", [" ".join(fields), *vpc.lines_of(some, fields)]))
    assert np.array_equal(found, expected)
    assert "no field action" in caplog.text


def test_a_flow_without_ports_is_one_and_nodata_is_none(tmp_path: Path) -> None:
    some = [vpc.flow(second, protocol=47, srcport="-", dstport="-") for second in range(5)]
    none = {"srcaddr": "-", "dstaddr": "-", "srcport": "-", "dstport": "-", "protocol": "-", "action": "-"}
    path = write_lines(tmp_path / "a.log", [vpc.line(vpc.flow(1, log_status="NODATA") | none), *vpc.lines_of(some)])
    _, broken = flows(path)
    assert (broken.lines, broken.broken, broken.left_out) == (6, 0, {NO_FLOWS: 1})


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"", mtime=0)])
def test_an_empty_flow_log_beside_a_good_one_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    write_lines(tmp_path / "a.log", LINES)
    (tmp_path / "b.log").write_bytes(content)
    flows(tmp_path)
    assert caplog.text.count("empty, nothing to read") == 1


def test_fields_of_version_5_without_a_header_name_the_setting(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.log", [line + " - - - - - - -" for line in LINES])
    with pytest.raises(DataError, match=r"21 fields, expected 14; vpc_fields names the fields"):
        flows(path)
    more = f"{FIELDS} vpc-id subnet-id instance-id tcp-flags type pkt-srcaddr pkt-dstaddr"
    assert flows(path, vpc_fields=more)[1].broken == 0


def test_labels_by_a_field_of_either_spelling(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.log", FLOWS["CSV"])
    for field in ("account-id", "account_id"):
        assert len(flows(path, label_field=field)[0])


def test_what_was_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="data"):
        table(strict(write_lines(tmp_path / "a.csv", SHAPES["the header again"])))
    assert f"left out 2 of 62: {REPEATED_HEADER}" in caplog.text


def test_real_shapes_stay_what_they_were(tmp_path: Path) -> None:
    """A first line of names that are numbers, and a comment sign in a header, are a header all the same."""
    lines = [
        "#1,2,3,Label",
        *(f"{row},{row % 3},{row % 5},{'DoS' if row % 4 else 'BENIGN'}" for row in range(0, 120, 2)),
    ]
    assert table(strict(write_lines(tmp_path / "a.csv", lines))).schema.names == ("#1", "2", "3")
    assert len(FileSource(csv).test_table(settings(write_lines(tmp_path / "b.csv", cic()))))


def test_fields_in_fields_of_json_are_columns_and_lists_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def event(row: int) -> dict[str, Any]:
        return {
            "timestamp": "x", "event_type": "alert" if row % 4 == 0 else "flow", "proto": "TCP", "vlan": [1],
            "flow": {"pkts_toserver": row * 2, "age": {"days": row % 3}}, "ok": row % 2 == 0, "gone": None,
        }  # fmt: skip

    path = write_lines(tmp_path / "eve.json", [json.dumps(event(row)) for row in range(60)])
    config = strict(path, csv_label_column="event_type", csv_benign_values=("flow",), csv_drop_columns=("timestamp",))
    found = table(config)
    assert {column.field for column in found.schema.columns} == {
        "proto",
        "flow.pkts_toserver",
        "flow.age.days",
        "ok",
        "gone",
    }
    assert int(found.labels.sum()) == 15
    assert "no features: vlan" in caplog.text
