"""CSV and Parquet: files that the code has never seen, and what it does with the bad ones."""

import gzip
import io
import itertools
import logging
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from shared.config import Config, load_config
from shared.data_sources import csv, csv_layout, tables
from shared.data_sources.file_source import FileSource
from shared.data_sources.quotes import WatchedQuotes
from shared.data_sources.schema import buckets
from shared.data_sources.source_types import Inputs, Table
from shared.data_utils import feature_count, load_client_data, load_test_data, load_validation_data, stream_features
from shared.errors import DataError
from tests.processes import ROOT
from tests.source_files import settings_of, write_lines

SOURCE = FileSource(csv)
CIC_HEADER = " Destination Port, Flow Duration,Flow Bytes/s, Fwd Header Length, Fwd Header Length, Label"
CIC_LABELS = ("BENIGN", "Benign", "DoS Hulk", "PortScan")


def cic_line(row: int) -> str:
    rate = "Infinity" if row % 9 == 1 else "NaN" if row % 9 == 2 else str(row * 1e6)
    return f"{80 + row},{row * 1000},{rate},{row},{row * 2},{CIC_LABELS[row % 4]}"


def cic(rows: int = 80) -> list[str]:
    return [CIC_HEADER, *(cic_line(row) for row in range(rows))]


UNSW_HEADER = "id,dur,proto,service,state,spkts,attack_cat,label"


def unsw_line(row: int) -> str:
    attack = row % 3 == 0
    service = "-" if row % 2 else "http"
    return f"{row},{row / 7},{('tcp', 'udp', 'ospf')[row % 3]},{service},FIN,{row},{'DoS' if attack else ''},{attack:d}"


def unsw(rows: int = 60) -> list[str]:
    return [UNSW_HEADER, *(unsw_line(row) for row in range(rows))]


settings = partial(settings_of, "csv", csv_label_column="Label", num_features=5)


def unsw_settings(path: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "csv_label_column": "label",
        "csv_benign_values": ("0",),
        "csv_family_column": "attack_cat",
        "csv_drop_columns": ("id",),
        "hash_width": 8,
        "num_features": 2 + 3 * 8,
    }
    return settings(path, **(values | changes))


def table(config: Config) -> Table:
    """All rows of `data_path`, before any split."""
    inputs = Inputs(Path(config.data_path))
    schema = csv.schema(config, inputs)
    chunks = list(csv.stream(config, inputs, schema))
    return Table(
        schema,
        np.concatenate([chunk.features for chunk in chunks]),
        np.concatenate([chunk.families for chunk in chunks]),
        np.concatenate([chunk.groups for chunk in chunks]),
        None,
    )


def test_a_cic_shaped_file_works_by_settings_alone(tmp_path: Path) -> None:
    rows = table(settings(write_lines(tmp_path / "day.csv", cic())))
    names = ("Destination Port", "Flow Duration", "Flow Bytes/s", "Fwd Header Length", "Fwd Header Length.1")
    assert rows.schema.names == names
    assert rows.schema.excluded == ("Label",)
    assert list(rows.families[:4]) == ["benign", "benign", "dos hulk", "portscan"]
    assert np.isfinite(rows.features).all()
    assert rows.features[1, 2] == pytest.approx(np.log1p(1e12))  # Infinity: a very large rate
    assert rows.features[2, 2] == 0  # NaN
    assert rows.features[5, 4] == pytest.approx(np.log1p(10))  # the second of two columns with one name


def test_an_unsw_shaped_file_works_by_settings_alone(tmp_path: Path) -> None:
    config = unsw_settings(write_lines(tmp_path / "part.csv", unsw()))
    rows = table(config)
    assert rows.schema.names[:3] == ("dur", "spkts", "proto#0")
    assert feature_count(config) == len(rows.schema) == 26
    assert rows.schema.excluded == ("attack_cat", "label")
    assert list(rows.families[:3]) == ["dos", "benign", "benign"]
    hashed = rows.features[:, 2:].reshape(60, 3, 8)
    assert np.array_equal(hashed.sum(axis=2), np.ones((60, 3)))
    bucket = int(buckets("proto", pd.Series(["tcp"]), 8)[0])
    assert (hashed[::3, 0, bucket] == 1).all()


def test_neither_the_label_nor_the_family_nor_a_dropped_column_reaches_a_feature(tmp_path: Path) -> None:
    before = table(unsw_settings(write_lines(tmp_path / "a.csv", unsw()))).features
    lines = [line.split(",") for line in unsw()]
    changed = [lines[0], *([str(900 - i), *cells[1:6], "other", str(int(i > 0))] for i, cells in enumerate(lines[1:]))]
    after = table(unsw_settings(write_lines(tmp_path / "b.csv", [",".join(cells) for cells in changed])))
    assert after.labels[1:].all()
    assert np.array_equal(before, after.features)


def test_the_wrong_width_says_which_is_right(tmp_path: Path) -> None:
    config = unsw_settings(write_lines(tmp_path / "a.csv", unsw()), num_features=20)
    with pytest.raises(DataError, match="num_features = 20: this data has 26 features; set num_features: 26"):
        load_test_data(config)


def test_named_categories_make_codes_categories_and_leave_other_texts_broken(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", cic())
    config = settings(path, csv_categorical_columns=("Destination Port",), hash_width=4)
    assert csv.schema(config, Inputs(path)).names[-4:] == tuple(f"Destination Port#{i}" for i in range(4))
    with pytest.raises(DataError, match=r"60 of 60 lines are broken.*column proto holds a text"):
        table(unsw_settings(write_lines(tmp_path / "b.csv", unsw()), csv_categorical_columns=("state",)))


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-le", "utf-16-be", "cp1252"]
)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    lines = [line.replace("DoS Hulk", "Web Attack – XSS") for line in cic()]
    if encoding == "utf-16-le-bom":
        lines[0], encoding = "\ufeff" + lines[0], "utf-16-le"
    rows = table(settings(write_lines(tmp_path / "a.csv", lines, encoding)))
    name = "web attack \ufffd xss" if encoding == "cp1252" else "web attack – xss"
    assert sorted(set(rows.families)) == sorted({"benign", "portscan", name})
    assert np.array_equal(rows.features, table(settings(write_lines(tmp_path / "b.csv", cic()))).features)


def test_every_container_gives_the_same_rows(tmp_path: Path) -> None:
    expected = table(unsw_settings(write_lines(tmp_path / "a.csv", unsw())))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    write_lines(tmp_path / "semicolons.csv", [line.replace(",", ";") for line in unsw()])
    write_lines(tmp_path / "crlf.csv", [line + "\r" for line in unsw()])
    pd.read_csv(tmp_path / "a.csv").to_parquet(tmp_path / "a.parquet")
    text = pa.table({name: pa.array(column) for name, column in pd.read_csv(tmp_path / "a.csv", dtype=str).items()})
    dictionaries = text.set_column(2, "proto", text["proto"].dictionary_encode())
    pq.write_table(dictionaries, tmp_path / "texts.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_lines(folder / "1.csv", unsw()[:31])
    reordered = [",".join(reversed(line.split(","))) for line in [UNSW_HEADER, *unsw()[31:]]]
    write_lines(folder / "2.txt", reordered)
    (folder / "notes.md").write_text("not data")
    for name in ("a.csv.gz", "semicolons.csv", "crlf.csv", "a.parquet", "texts.parquet", "folder"):
        rows = table(unsw_settings(tmp_path / name))
        assert rows.schema == expected.schema, name
        assert np.array_equal(rows.features, expected.features), name
        assert np.array_equal(rows.families, expected.families), name


def test_chunks_make_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.csv", unsw(600))
    pd.read_csv(path).to_parquet(tmp_path / "a.parquet")
    config = unsw_settings(path)
    schema = csv.schema(config, Inputs(path))
    whole = table(config).features
    monkeypatch.setattr(tables, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(tables, "CHUNK_ROWS", 70)
    for file, first in ((path, 2), (tmp_path / "a.parquet", 1)):  # the header is line 1 of a text
        parts = list(stream_features(config, file, schema))
        assert len(parts) > 4
        assert np.array_equal(np.concatenate([features for _, features in parts]), whole)
        assert list(pd.concat([meta for meta, _ in parts])["line"]) == list(range(first, first + 600))


def test_records_to_score_need_neither_label_nor_dropped_columns(tmp_path: Path) -> None:
    config = unsw_settings(write_lines(tmp_path / "a.csv", unsw()))
    schema = csv.schema(config, Inputs(Path(config.data_path)))
    bare = [",".join(line.split(",")[1:6]) for line in unsw()]
    ((meta, features),) = stream_features(config, write_lines(tmp_path / "new.csv", bare), schema)
    assert np.array_equal(features, table(config).features)
    assert list(meta.columns) == ["file", "line", "proto", "service", "state"]


def test_a_person_sees_what_is_no_feature_but_not_the_label(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", unsw())
    config = unsw_settings(path)
    schema = csv.schema(config, Inputs(path))
    ((meta, _),) = stream_features(config, path, schema)
    assert list(meta.columns) == ["file", "line", "proto", "service", "state", "id"]
    assert list(meta["id"].iloc[:3]) == ["0", "1", "2"]


def test_skipped_and_repeated_lines_do_not_shift_the_numbers_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = unsw(400)
    for at in (1, 2, 7, 150, 300):
        lines.insert(at, "too,few")
    path = write_lines(tmp_path / "a.csv", lines)
    config = unsw_settings(path, max_broken_share=0.5)
    monkeypatch.setattr(tables, "CHUNK_BYTES", 4096)
    parts = list(stream_features(config, path, csv.schema(config, Inputs(path))))
    assert len(parts) > 3
    meta = pd.concat([meta for meta, _ in parts])
    numbered = {number: line.split(",")[0] for number, line in enumerate(lines, start=1) if number > 1}
    assert [numbered[line] for line in meta["line"]] == [str(row) for row in range(400)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.split(",", 2)[2], "26 features here and 25 there; only here: dur"),
        (lambda line: line.replace("dur", "duration"), "only here: dur"),
        (lambda line: line if "dur" in line else ",".join([*line.split(",")[:1], "x", *line.split(",")[2:]]),
         "only here: dur; only there: dur#0"),
        (lambda line: "other,names" if "dur" in line else "1,2", "none of the columns that the model learned from"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_the_model_are_refused_with_the_difference(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    config = unsw_settings(write_lines(tmp_path / "a.csv", unsw()))
    schema = csv.schema(config, Inputs(Path(config.data_path)))
    other = write_lines(tmp_path / "other.csv", [change(line) for line in unsw()])
    with pytest.raises(DataError) as refusal:
        list(stream_features(config, other, schema))
    assert message in str(refusal.value)


def test_broken_rows_are_skipped_and_named_and_too_many_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = cic(100)
    lines[10] = "1,2,3"
    lines[20] = lines[20].replace("20,", "twenty,", 1).replace("99", "ninety", 1)
    lines[30] = "x" + lines[30]
    lines[40] = lines[40].rsplit(",", 1)[0] + ","
    path = write_lines(tmp_path / "a.csv", lines)
    with caplog.at_level(logging.WARNING, logger="data"):
        rows = table(settings(path, max_broken_share=0.04))
    assert len(rows) == 96
    assert "line 11: 3 cells, expected 6" in caplog.text
    assert "column Destination Port holds a text where numbers are expected" in caplog.text
    assert "no label" in caplog.text
    assert "skipped 4 broken lines of 100" in caplog.text
    with pytest.raises(DataError, match=r"4 of 100 lines are broken, more than max_broken_share = 0\.03; the first: "):
        table(settings(path, max_broken_share=0.03))


def test_a_header_repeated_within_a_file_is_no_damage(tmp_path: Path) -> None:
    lines = cic()
    lines.insert(40, CIC_HEADER)
    assert len(table(settings(write_lines(tmp_path / "a.csv", lines), max_broken_share=0.0))) == 80


def test_quoted_cells_may_hold_separators_and_line_ends(tmp_path: Path) -> None:
    lines = [line.rsplit(",", 1)[0] + f',"{label}"' for line in cic()[1:41] for label in ("DoS,\nHulk", "benign")]
    rows = table(settings(write_lines(tmp_path / "a.csv", [CIC_HEADER, *lines]), max_broken_share=0.0))
    assert (len(rows), set(rows.families)) == (80, {"dos,\nhulk", "benign"})


def test_duplicates_are_counted_and_can_be_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines(tmp_path / "a.csv", [*cic(), *cic()[1:21]])
    with caplog.at_level(logging.INFO, logger="data"):
        assert len(table(settings(path))) == 100
        assert len(table(settings(path, csv_drop_duplicates=True))) == 80
    assert caplog.text.count("20 rows equal an earlier one") == 2


def test_equal_features_with_another_label_are_no_duplicates(tmp_path: Path) -> None:
    again = [line.rsplit(",", 1)[0] + ",DoS Hulk" for line in cic()[1:5]]
    path = write_lines(tmp_path / "a.csv", [*cic(), *again])
    assert len(table(settings(path, csv_drop_duplicates=True))) == 82  # two of the four were attacks before


def test_clients_share_one_file_and_the_test_set_is_nobodys(tmp_path: Path) -> None:
    config = settings(write_lines(tmp_path / "a.csv", cic(200)), test_fraction=0.25)
    parts = [SOURCE.client_table(config, client) for client in range(3)]
    test = SOURCE.test_table(config)
    keys = np.concatenate([part.features[:, 0] for part in [*parts, test]])
    assert len(test) == 50
    assert len(keys) == len(np.unique(keys)) == 200
    data = load_client_data(config, 0)
    assert len(data.train) + len(data.holdout) == 50
    assert data.train.features.dtype == np.float32


def test_each_client_reads_its_own_file(tmp_path: Path) -> None:
    for client in range(3):
        write_lines(
            tmp_path / f"tenant-{client}.csv", [CIC_HEADER, *map(cic_line, range(client * 100, client * 100 + 20))]
        )
    test_file = write_lines(tmp_path / "test.csv", cic(30))
    config = settings(tmp_path / "tenant-{client_id}.csv", test_path=str(test_file))
    parts = [SOURCE.client_table(config, client) for client in range(3)]
    assert [len(part) for part in parts] == [20, 20, 20]
    assert parts[2].features[0, 0] == pytest.approx(np.log1p(280))
    assert len(load_test_data(config)) + len(load_validation_data(config)) == 30
    assert feature_count(config) == 5


def test_a_test_set_with_other_features_is_refused(tmp_path: Path) -> None:
    other = write_lines(tmp_path / "test.csv", [line.replace("FIN", "7") for line in unsw()])
    changes = {"hash_width": 1, "num_features": 5, "test_path": str(other)}
    with pytest.raises(DataError, match=r"different features: only here: state#0; only there: state"):
        SOURCE.client_table(unsw_settings(write_lines(tmp_path / "a.csv", unsw()), **changes), 0)


def test_the_ready_settings_fit_the_columns_of_unsw_nb15(tmp_path: Path) -> None:
    columns = """
        id dur proto service state spkts dpkts sbytes dbytes rate sttl dttl sload dload sloss dloss sinpkt dinpkt
        sjit djit swin stcpb dtcpb dwin tcprtt synack ackdat smean dmean trans_depth response_body_len ct_srv_src
        ct_state_ttl ct_dst_ltm ct_src_dport_ltm ct_dst_sport_ltm ct_dst_src_ltm is_ftp_login ct_ftp_cmd
        ct_flw_http_mthd ct_src_ltm ct_srv_dst is_sm_ips_ports attack_cat label
    """.split()  # noqa: SIM905 (one name per line would fill a screen)
    text = {"proto": "tcp", "service": "-", "state": "FIN", "attack_cat": "Normal", "label": "0"}
    line = ",".join(text.get(name, "1") for name in columns)
    config = load_config(ROOT / "config/csv_flows.yaml")
    path = write_lines(tmp_path / "part.csv", [",".join(columns), line])
    assert feature_count(config.replace(test_path=str(path))) == config.num_features


def test_natural_parts_follow_a_column(tmp_path: Path) -> None:
    config = unsw_settings(
        write_lines(tmp_path / "a.csv", unsw()), partition="natural", partition_column="proto", csv_drop_columns=("id",)
    )
    parts = [SOURCE.client_table(config, client) for client in range(3)]
    assert [len(set(part.groups)) for part in parts] == [1, 1, 1]
    assert {str(part.groups[0]) for part in parts} == {"tcp", "udp", "ospf"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"csv_label_column": "label"}, "no column 'label' among 6; did you mean 'Label'"),
        ({"csv_drop_columns": ("Flow Duratoin",)}, "no column 'Flow Duratoin' among 6; did you mean 'Flow Duration'"),
        ({"data_path": "/nowhere"}, "/nowhere: expected a file, or a folder with files that end in .csv"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as refusal:
        load_test_data(settings(write_lines(tmp_path / "a.csv", cic()), **changes))
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty; expected a header line"),
        ("a.csv", CIC_HEADER.encode() + b"\n", "no rows; expected labelled records"),
        ("a.parquet", b"PAR1 not really", "not a readable Parquet file"),
        ("a.csv.gz", gzip.compress("\n".join(cic()).encode(), mtime=0)[:-40], "damaged or cut off"),
        ("a.csv", ",".join(["a"] * 50_000).encode(), "50000 columns, expected at most 10000"),
        ("a.csv", b"Label,a,a,a.1\nBENIGN,1,2,3\n", "the name 'a.1' is that of a column and of a repeated one"),
        ("a.csv", b"Label,a,Label\nBENIGN,1,DoS\n", "two columns are called 'Label', and the settings name it"),
        (
            "a.csv",
            b'Label,a\nBENIGN,1\nBENIGN,"2\n' + b"DoS,3\n" * 1000,
            "line 3: a quote is opened and not closed; close it",
        ),
        (
            "a.csv.gz",
            gzip.compress(b'Label,a\nBENIGN,1\nBENIGN,"2\n' + b"DoS,3\n" * 1_000_000, mtime=0),
            "line 3: a quote is opened and not closed within 1048576 characters",
        ),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_test_data(settings(tmp_path / name))


@pytest.mark.long
def test_as_many_columns_as_are_allowed_are_read_before_the_test_is_ended(tmp_path: Path) -> None:
    """Looking each up in a list of all took 90 s for 50,000."""
    names = [f"c{number}" for number in range(csv_layout.MOST_COLUMNS - 1)]
    lines = [",".join(["Label", *names]), *(["BENIGN" + ",1" * len(names), "DoS" + ",2" * len(names)] * 10)]
    rows = table(settings(write_lines(tmp_path / "a.csv", lines), num_features=len(names)))
    assert len(rows.schema) == len(names)


CELLS = ("1", '"1"', '""', '"a ""b"" c"', '"two\nlines"', '5" disk', 'a""b', '"""', '"open', '""""', '"x"y"z', "")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("cells", list(itertools.product(CELLS, repeat=2)))
def test_open_quotes_are_found_as_arrow_has_them(cells: tuple[str, ...], size: int) -> None:
    """Wherever a piece of the text ends: within a pair of quotes, too. A quote is open where it hides a row."""
    text = "a,b\n" + ",".join(cells)
    options = pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _row: "skip")
    rows = pacsv.read_csv(io.BytesIO(f"{text}\nlast,row\n".encode()), parse_options=options)
    closed = ["last", "row"] in [[str(row[name]) for name in ("a", "b")] for row in rows.to_pylist()]
    watched = WatchedQuotes(io.StringIO(text), Path("a.csv"), ",")
    read = ""
    try:
        while data := watched.read(size):
            read += data
        assert closed, text
        assert read == text
    except DataError:
        assert not closed, text


def test_an_open_quote_hides_rows_from_arrow_alone(tmp_path: Path) -> None:
    """The twin: what the check of quotes is for."""
    path = write_lines(tmp_path / "a.csv", ["a,b", '1,"2', *["3,4"] * 1000])
    options = pacsv.ParseOptions(newlines_in_values=True)
    assert pacsv.read_csv(path, parse_options=options).num_rows == 1


def test_a_process_that_refused_a_file_ends_in_order(tmp_path: Path) -> None:
    """Arrow's reader, left open, took the process down with SIGABRT after the message."""
    lines = ["Label,a", *["BENIGN,1"] * 1_000_000, 'DoS,"2', *["DoS,3"] * 1_000_000]
    path = write_lines(tmp_path / "a.csv", lines)
    code = (
        "import sys; from pathlib import Path; from shared.data_sources.tables import batches, table_of;"
        "from shared.errors import DataError\n"
        "try:\n for _ in batches(table_of(Path(sys.argv[1])), ['Label', 'a'], None): pass\n"
        "except DataError as error:\n sys.exit(3)"
    )
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False).returncode == 3


def test_hashing_is_the_same_in_every_process() -> None:
    code = (
        "import pandas as pd; from shared.data_sources.schema import buckets;"
        "print(*buckets('proto', pd.Series(['tcp', 'udp', 'ospf', '', 'ü']), 1000))"
    )
    for seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        output = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert output.stdout.split() == ["538", "714", "251", "229", "216"]
