"""Flow logs as tools and people leave them: what is no flow is counted, and what is half a flow is refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shared.data_sources import flow_records, ocsf
from shared.data_sources.flow_checks import NO_FLOWS
from shared.data_sources.flow_records import BLANK_LINES, DEFAULT_FIELDS
from shared.data_sources.tables import BLANK_ROW, COMMENTS, REPEATED_HEADER
from shared.errors import DataError
from tests import audit_events
from tests import test_source_vpc_flow as vpc
from tests.source_files import read_chunks, settings_of, write_json_lines, write_lines
from tests.test_odd_files import COLUMNS, FIELDS, FLOWS, LINES, flows

MIXED: dict[str, tuple[int, Callable[[int], object]]] = {
    "some in milliseconds": (1, lambda start: start * 1000),
    "some in seconds": (1000, lambda start: start),
    "some in nanoseconds": (1000, lambda start: start * 1_000_000_000),
    "zero": (1, lambda _: 0),
    "zero of milliseconds": (1000, lambda _: 0),
    "before 1970": (1, lambda _: -5),
    "1900": (1, lambda _: -2_208_988_800),
    "1989": (1, lambda _: 631_151_999),
    "the year 9999 in milliseconds": (1000, lambda _: 253_370_764_800_000),
    "no number": (1000, lambda _: "nan"),
    "a fraction": (1, lambda start: start + 0.5),
}


@pytest.mark.parametrize("field", ["start", "end"])
@pytest.mark.parametrize("name", MIXED)
def test_a_time_that_is_none_in_the_unit_of_its_file_is_a_broken_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, field: str
) -> None:
    unit, odd = MIXED[name]
    some = vpc.some_flows()[:300]
    for values in some:
        values |= {key: int(str(values[key])) * unit for key in ("start", "end")}
    expected, _ = flows(write_lines(tmp_path / "a.log", vpc.lines_of(some)))
    there = int(str(some[0][field])) // unit
    mixed = [*some[:9], *[some[0] | {field: odd(there)}] * 20, *some[9:]]
    found, broken = flows(write_lines(tmp_path / f"{name}.log", vpc.lines_of(mixed)), max_broken_share=0.1)
    assert np.array_equal(found, expected)
    assert (broken.lines, broken.broken) == (320, 20)
    words = "milliseconds since 1970, as most of the file are" if unit == 1000 else "seconds since 1970"
    assert f"line 10: {field} = '{odd(there)}', expected {words}, from 1990 to a day from now" in caplog.text


def test_the_unit_of_times_is_that_of_the_file_and_not_of_the_part_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_records, "CHUNK_LINES", 50)
    some = vpc.some_flows()[:300]
    late = [values | {key: int(str(values[key])) * 1000 for key in ("start", "end")} for values in some[200:]]
    _, broken = flows(write_lines(tmp_path / "a.log", vpc.lines_of([*some[:200], *late])), max_broken_share=0.5)
    assert (broken.lines, broken.broken) == (300, 100)


def flow_table(*, odd: list[str], separator: str = ",", at: int = 10, first: tuple[str, ...] = ()) -> list[str]:
    """The flows as CSV, with odd lines in between, and others before the header."""
    lines = [*FLOWS["CSV"][:at], *odd, *FLOWS["CSV"][at:]]
    return [*first, *(line.replace(",", separator) for line in lines)]


def csv_flow(**changes: object) -> str:
    return vpc.line(vpc.some_flows()[9] | {name.replace("_", "-"): value for name, value in changes.items()}).replace(
        " ", ","
    )


NOTHING = dict.fromkeys(("srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes", "action"), "")
CSV_COLUMNS = FLOWS["CSV"][0]
ODD_FLOWS: dict[str, tuple[list[str], str]] = {
    "the header again": ([CSV_COLUMNS], REPEATED_HEADER),
    "the header again in capitals": ([CSV_COLUMNS.upper()], REPEATED_HEADER),
    "the header again after a byte order mark": (["\ufeff" + CSV_COLUMNS], REPEATED_HEADER),
    "the header again in quotes": ([",".join(f'"{name}"' for name in CSV_COLUMNS.split(","))], REPEATED_HEADER),
    "commas alone": ([",,,,,,,,,,,,,", " , ,,,,,,,,,,,,"], BLANK_ROW),
    "blanks alone": (["   ", "\t"], BLANK_ROW),
    "comments": (["# of Monday", "#", "# a, b"], COMMENTS),
    "NODATA": ([csv_flow(**NOTHING, log_status="NODATA"), csv_flow(**NOTHING, log_status="skipdata")], NO_FLOWS),
    "nothing, and no status": ([csv_flow(**NOTHING, log_status="")], NO_FLOWS),
    "dashes, and no status": ([csv_flow(**dict.fromkeys(NOTHING, "-"), log_status="-")], NO_FLOWS),
}


@pytest.mark.parametrize("separator", [",", ";", "|"])
@pytest.mark.parametrize("name", ODD_FLOWS)
def test_what_is_no_flow_in_a_table_is_left_out_and_counted(tmp_path: Path, name: str, separator: str) -> None:
    odd, kind = ODD_FLOWS[name]
    expected, _ = flows(write_lines(tmp_path / "a.log", LINES))
    found, broken = flows(write_lines(tmp_path / "b.csv", flow_table(odd=odd, separator=separator)))
    assert np.array_equal(found, expected)
    assert broken.left_out == {kind: len(odd)}
    assert (broken.lines, broken.broken) == (len(LINES) + len(odd), 0)


@pytest.mark.parametrize("first", [("sep=;",), ("# of Monday",), ("", "sep=;"), ("# of Monday", "", "# and Tuesday")])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_of_flows_is_read_whatever_stands_before_its_header(
    tmp_path: Path, first: tuple[str, ...], separator: str
) -> None:
    expected, _ = flows(write_lines(tmp_path / "a.log", LINES))
    first = tuple(line.replace("sep=;", f"sep={separator}") for line in first)
    found, broken = flows(write_lines(tmp_path / "b.csv", flow_table(odd=[], separator=separator, first=first)))
    assert np.array_equal(found, expected)
    assert (broken.lines, broken.broken) == (len(LINES), 0)


@pytest.mark.parametrize(
    ("text", "port"), [("", 0), ("-", 0), ("null", 0), ("0x1bb", 443), ("0X1BB", 443), ("443.0", 443)]
)
@pytest.mark.parametrize("form", ["csv", "parquet", "log"])
def test_a_port_that_is_none_or_in_hexadecimal(tmp_path: Path, text: str, port: int, form: str) -> None:
    def read(cell: object, name: str) -> np.ndarray:
        row = vpc.flow(dstport=cell)
        if form == "log":
            path = write_lines(tmp_path / f"{name}.log", [vpc.line(row)])
        elif form == "csv":
            path = write_lines(tmp_path / f"{name}.csv", [FLOWS["CSV"][0], vpc.line(row).replace(" ", ",")])
        else:
            path = tmp_path / f"{name}.parquet"
            frame = pd.DataFrame([[str(cell) for cell in row.values()]], columns=COLUMNS.split())
            frame.assign(dstport=None if cell == "" else str(cell)).to_parquet(path)
        return flows(path)[0]

    np.testing.assert_array_equal(read(text, "found"), read(port, "expected"))


@pytest.mark.parametrize("name", ["srcaddr", "dstaddr"])
@pytest.mark.parametrize("cell", ["-", ""])
def test_a_flow_without_an_address_is_broken_and_none_of_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, cell: str
) -> None:
    path = write_lines(tmp_path / "a.csv", flow_table(odd=[csv_flow(**{name: cell})]))
    assert flows(path, max_broken_share=0.1)[1].broken == 1
    assert f"line 11: {name} = {cell!r}, expected an address" in caplog.text


def test_comments_and_headers_in_a_text_of_flows_are_counted_and_say_what_follows(tmp_path: Path) -> None:
    """Of two formats that were joined, each part is read by its own header."""
    other = (*reversed(DEFAULT_FIELDS[:13]), "log-status")
    some = vpc.some_flows()[:300]
    expected, _ = flows(write_lines(tmp_path / "a.log", LINES))
    lines = [
        "# srcaddr of Monday", "", FIELDS, *LINES[:100], FIELDS.upper(), "# and Tuesday", *LINES[100:200],
        "\ufeff" + " ".join(other), *vpc.lines_of(some[200:], other), "", COLUMNS,
    ]  # fmt: skip
    found, broken = flows(write_lines(tmp_path / "b.log", lines))
    assert np.array_equal(found, expected)
    assert broken.left_out == {COMMENTS: 2, BLANK_LINES: 2, REPEATED_HEADER: 3}
    assert broken.lines == 300 + 7


@pytest.mark.parametrize("before", [[], [""], ["# of Monday", ""]])
def test_the_label_may_be_any_field_of_the_header(tmp_path: Path, before: list[str]) -> None:
    path = write_lines(tmp_path / "a.log", [*before, FIELDS, *LINES])
    _, broken = flows(path, label_field="account-id", label_patterns=("1*",))
    assert broken.lines == len(LINES) + len(before)


@pytest.mark.parametrize("form", ["log", "csv"])
def test_an_action_counts_in_any_letter_case(tmp_path: Path, form: str) -> None:
    lines = {"log": LINES, "csv": FLOWS["CSV"]}[form]
    expected, _ = flows(write_lines(tmp_path / "a.log", LINES))
    lower = [line.replace("REJECT", "reject").replace("ACCEPT", "Accept") for line in lines]
    assert np.array_equal(flows(write_lines(tmp_path / f"b.{form}", lower))[0], expected)


def test_an_action_of_other_products_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines(tmp_path / "a.log", [line.replace("REJECT", "DENY") for line in LINES])
    flows(path)
    assert caplog.text.count("a.log: there are actions that are neither ACCEPT nor REJECT") == 1
    caplog.clear()
    flows(write_lines(tmp_path / "b.log", LINES))
    assert "actions" not in caplog.text


def test_nodata_as_json_without_addresses_is_no_damage(tmp_path: Path) -> None:
    none = [{"log_status": "NODATA", "interface_id": "eni-1"}, {"log-status": "SKIPDATA", "srcaddr": None}]
    path = write_lines(tmp_path / "a.json", [*map(json.dumps, none), *FLOWS["extracted fields"]])
    assert flows(path)[1].left_out == {NO_FLOWS: 2}


def test_a_file_of_ocsf_that_has_no_flow_at_all_is_counted(tmp_path: Path) -> None:
    events = [audit_events.network(second) | {"status_code": "NODATA"} for second in range(5)]
    path = write_json_lines(tmp_path / "a.json", events)
    config = settings_of("ocsf", path, ocsf_events="flows", labels="none", num_features=20, max_broken_share=0.0)
    chunks, broken = read_chunks(ocsf, config, labelled=False)
    assert (chunks, broken.lines, broken.left_out) == ([], 5, {NO_FLOWS: 5})


@pytest.mark.parametrize("beside", [False, True])
def test_a_parquet_file_of_no_bytes_is_an_empty_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, beside: bool
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    if beside:
        write_lines(tmp_path / "b.log", LINES)
        assert flows(tmp_path)[1].broken == 0
    else:
        with pytest.raises(DataError, match="empty; expected records"):
            flows(tmp_path)
    assert caplog.text.count("a.parquet: empty, nothing to read") == 1


def test_a_packed_log_that_is_damaged_from_its_begin_on_is_not_called_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lines(tmp_path / "a.log", LINES)
    (tmp_path / "b.log.gz").write_bytes(gzip.compress(b"x" * 100)[:12])
    assert flows(tmp_path, max_broken_share=0.1)[1].broken == 1
    assert "damaged or cut off" in caplog.text
    assert "empty" not in caplog.text


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\v", "\x1c", "\u2028"])
@pytest.mark.parametrize("place", ["after a blank", "in place of a blank", "at the end", "in a word"])
def test_a_line_end_in_a_message_is_no_other_flow(tmp_path: Path, end: str, place: str) -> None:
    """A JSON text may have one; the table of the lines had a row more than there were lines, and the reader crashed."""
    whole = vpc.lines_of(vpc.some_flows()[:20])
    changed = {
        "after a blank": whole[5].replace(" ", " " + end, 1), "in place of a blank": whole[5].replace(" ", end, 1),
        "at the end": whole[5] + end, "in a word": whole[5][:6] + end + whole[5][6:],
    }[place]  # fmt: skip
    messages = [{"message": line} for line in (*whole[:5], changed, *whole[6:])]
    found, broken = flows(write_json_lines(tmp_path / "a.json", messages), max_broken_share=0.1)
    assert (broken.lines, broken.broken) == (20, int(place == "in a word"))
    if place != "in a word":
        expected, _ = flows(write_lines(tmp_path / "a.log", vpc.lines_of(vpc.some_flows()[:20])))
        assert np.array_equal(found, expected)
