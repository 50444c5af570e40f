"""Tables that were joined, damaged or made by hand: no row is made up, and each that is none is counted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.data_sources import csv, vpc_flow
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.source_types import Chunk
from shared.data_sources.tables import BLANK_ROW, COMMENTS, REPEATED_HEADER
from shared.errors import DataError
from tests import test_source_vpc_flow as vpc
from tests.source_files import read_chunks, write_lines
from tests.test_odd_files import FLOWS, HEADER, LINES, PLAIN, ROWS, flows, strict
from tests.test_source_csv import table

QUOTED = ",".join(f'"{name}"' for name in HEADER.split(","))
NO_RECORDS: dict[str, tuple[list[str], str]] = {
    "the header in capitals": ([HEADER.upper()], REPEATED_HEADER),
    "the header after a byte order mark": (["\ufeff" + HEADER], REPEATED_HEADER),
    "the header in quotes after a byte order mark": (["\ufeff" + QUOTED], REPEATED_HEADER),
    "blanks alone": (["   ", "\t"], BLANK_ROW),
    "comments": (["# of Monday, and more", "#"], COMMENTS),
}


def read(path: Path, **changes: object) -> tuple[list[Chunk], BrokenLines]:
    chunks, broken = read_chunks(csv, strict(path, **changes), labelled=changes.get("labels") != "none")
    assert sum(len(chunk.features) for chunk in chunks) + broken.broken + broken.left_out.total() == broken.lines
    return chunks, broken


def features(chunks: Sequence[Chunk]) -> np.ndarray:
    return np.concatenate([chunk.features for chunk in chunks])


@pytest.mark.parametrize("name", NO_RECORDS)
def test_a_line_that_is_no_record_is_counted_as_what_it_is(tmp_path: Path, name: str) -> None:
    odd, kind = NO_RECORDS[name]
    expected = table(strict(write_lines(tmp_path / "a.csv", PLAIN))).features
    chunks, broken = read(write_lines(tmp_path / "b.csv", [*PLAIN[:9], *odd, *PLAIN[9:]]))
    assert np.array_equal(features(chunks), expected)
    assert (broken.left_out, broken.broken) == ({kind: len(odd)}, 0)


def test_a_byte_order_mark_before_a_record_is_no_part_of_it(tmp_path: Path) -> None:
    lines = [",".join([*line.split(",")[2:3], *line.split(",")[:2], line.split(",")[3]]) for line in PLAIN]
    expected = table(strict(write_lines(tmp_path / "a.csv", lines))).features
    for at in (9, 10):
        lines[at] = "\ufeff" + lines[at]
    assert np.array_equal(table(strict(write_lines(tmp_path / "b.csv", lines))).features, expected)


def test_files_that_were_joined_with_other_columns_are_read_up_to_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same names in another order: of what follows each cell would be in the wrong column."""
    other = [",".join([line.split(",")[1], line.split(",")[0], *line.split(",")[2:]]) for line in PLAIN]
    expected = table(strict(write_lines(tmp_path / "a.csv", PLAIN))).features
    chunks, broken = read(write_lines(tmp_path / "b.csv", [*PLAIN[:31], *other]), max_broken_share=0.1)
    assert np.array_equal(features(chunks), expected[:30])
    assert (broken.broken, broken.odd_files) == (1, 1)
    assert "b.csv, line 32: another header, with its columns in another order" in caplog.text
    swapped = [FLOWS["CSV"][0].replace("srcaddr,dstaddr", "dstaddr,srcaddr"), *FLOWS["CSV"][101:]]
    _, counted = flows(write_lines(tmp_path / "c.csv", [*FLOWS["CSV"][:101], *swapped]), max_broken_share=0.1)
    assert (counted.lines, counted.broken) == (101, 1)


NUL_ROWS = ["1.0,\x002,tcp,DoS", "1.0,2,t\x00cp,DoS", '1.0,2,"t\x00cp",DoS', "1.0,2,tcp,BEN\x00IGN", "\x00" * 50]


@pytest.mark.parametrize("odd", NUL_ROWS)
def test_a_row_with_nul_characters_is_broken_and_no_name(tmp_path: Path, odd: str) -> None:
    expected = table(strict(write_lines(tmp_path / "a.csv", PLAIN))).features
    chunks, broken = read(write_lines(tmp_path / "b.csv", [*PLAIN[:9], odd, *PLAIN[9:]]), max_broken_share=0.1)
    assert np.array_equal(features(chunks), expected)
    assert (broken.lines, broken.broken) == (61, 1)


def test_a_row_of_parquet_with_nul_characters_is_broken(tmp_path: Path) -> None:
    rows = [row.split(",") for row in [*ROWS, "1,2,t\0cp,DoS"]]
    columns = zip(HEADER.split(","), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(cells) for name, cells in columns}), tmp_path / "a.parquet")
    chunks, broken = read(tmp_path / "a.parquet", max_broken_share=0.1)
    assert (len(features(chunks)), broken.broken) == (60, 1)


@pytest.mark.parametrize("name", ["0.csv", "z.csv"])
@pytest.mark.parametrize(
    "content",
    [b"\0" * 5000, b"dur,by\0tes,proto,Label\n1,2,tcp,DoS", b"\0dur,bytes,proto,Label\n1,2,tcp,DoS"],
    ids=["nothing else", "within the header", "before the header"],
)
def test_a_file_of_nul_characters_beside_a_good_one_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes
) -> None:
    write_lines(tmp_path / "m.csv", PLAIN)
    (tmp_path / name).write_bytes(content)
    chunks, broken = read(tmp_path, max_broken_share=0.1)
    assert (len(features(chunks)), broken.broken, broken.odd_files) == (60, 1, 1)
    assert f"{name}, line 1: NUL characters where a header was expected" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# of Monday\n# and Tuesday\n", "empty; expected a header line"),
        ("#separator \\x09\n#path\tconn\n", "a Zeek log without #fields"),
        ("sep=;\n", "empty; expected a header line"),
    ],
)
def test_a_file_without_a_record_beside_a_good_one_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, message: str
) -> None:
    write_lines(tmp_path / "m.csv", PLAIN)
    (tmp_path / "a.csv").write_text(content)
    chunks, broken = read(tmp_path, max_broken_share=0.1)
    assert (len(features(chunks)), broken.broken, broken.odd_files) == (60, 1, 1)
    assert f"a.csv: {message}" in caplog.text


@pytest.mark.parametrize("form", ["log", "csv", "json"])
@pytest.mark.parametrize("field", ["srcaddr", "action", "bytes"])
def test_a_flow_with_nul_characters_is_broken(tmp_path: Path, form: str, field: str) -> None:
    odd = vpc.some_flows()[9]
    cells = {name: f"{cell}\0" if name == field else str(cell) for name, cell in odd.items()}
    lines = {
        "log": [*LINES[:9], " ".join(cells.values()), *LINES[9:]],
        "csv": [*FLOWS["CSV"][:10], ",".join(cells.values()), *FLOWS["CSV"][10:]],
        "json": [*FLOWS["extracted fields"], str(cells).replace("'", '"').replace("\\x00", "\\u0000")],
    }[form]
    expected, _ = flows(write_lines(tmp_path / "a.log", LINES))
    found, broken = flows(write_lines(tmp_path / f"b.{form}", lines), max_broken_share=0.1)
    assert np.array_equal(found, expected)
    assert (broken.lines, broken.broken) == (301, 1)


SECRETS = ("alice", "s3cret-bucket", "203.0.113.9", "90210")


@pytest.mark.parametrize(
    "cells",
    [
        ("alice", "s3cret-bucket", "mallory", "DoS"),
        ("203.0.113.9", "90210", "alice", "DoS"),
        ("90210", "90210", "90210.1", "alice"),
        ("alice", "90210", "90210", "90210.1"),
        ("203.0.113.9", "90210", "s3cret-bucket", "0.5"),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"csv_label_column": "", "labels": "none", "model": "density"}])
@pytest.mark.parametrize("second", [False, True])
def test_what_is_said_of_a_file_without_a_header_holds_nothing_of_its_first_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cells: tuple[str, ...], changes: dict[str, str], second: bool
) -> None:
    write_lines(tmp_path / "b.csv", [",".join(cells), "bob,1,2,BENIGN", "bob,3,4,BENIGN"])
    if second:
        write_lines(tmp_path / "a.csv", PLAIN)
    if changes and not second and sum(map(str.isalpha, (cell[0] for cell in cells))) > 2:
        pytest.skip("names alone can't be told from a header where no column is asked for")
    with pytest.raises(DataError, match="csv_column_names") as refusal:
        read(tmp_path, **changes)
    told = str(refusal.value) + caplog.text
    assert "b.csv" in told
    assert not [secret for secret in SECRETS if secret in told]


def test_a_first_line_of_data_is_told_by_the_places_of_its_values(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", ["tcp,0.5,,DoS,203.0.113.9", *["tcp,1,2,DoS,203.0.113.9"] * 9])
    with pytest.raises(DataError, match="5 columns; a number, an address or nothing is in columns 2, 3, 5; name all"):
        read(path)


def test_a_file_of_labels_without_a_header_is_refused_and_not_shown(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("203.0.113.9,alice,label\n203.0.113.9,alice,scan\n")
    config = vpc.settings(
        write_lines(tmp_path / "a.log", LINES), label_path=str(labels), label_field="", label_patterns=()
    )
    with pytest.raises(DataError, match="of 3 there are known the columns label; expected a column label") as refusal:
        read_chunks(vpc_flow, config)
    assert not [secret for secret in SECRETS if secret in str(refusal.value)]
