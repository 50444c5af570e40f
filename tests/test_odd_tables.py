"""Tables that were joined, damaged or made by hand: no row is made up, and each that is none is counted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.data_sources import csv
from shared.data_sources.files import BrokenLines
from shared.data_sources.source_types import Chunk
from shared.data_sources.tables import BLANK_ROW, COMMENTS, REPEATED_HEADER
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
    chunks, broken = read_chunks(csv, strict(path, **changes))
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
    [b"\0" * 5000, b"dur,by\0tes,proto,Label\n1,2,tcp,DoS", "\n".join(PLAIN).encode("utf-16-le")],
    ids=["nothing else", "within the header", "UTF-16 without a mark"],
)
def test_a_file_of_nul_characters_beside_a_good_one_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes
) -> None:
    write_lines(tmp_path / "m.csv", PLAIN)
    (tmp_path / name).write_bytes(content)
    chunks, broken = read(tmp_path, max_broken_share=0.1)
    assert (len(features(chunks)), broken.broken, broken.odd_files) == (60, 1, 1)
    assert f"{name}, line 1: NUL characters where a header was expected" in caplog.text


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
