"""What would make figures that mean nothing is refused, or said in a line that nobody misses."""

import json
import logging
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.config import Config, load_config
from shared.data_sources import csv
from shared.data_sources.dataset import Dataset
from shared.data_sources.file_source import FileSource
from shared.data_sources.label_checks import LabelTally, tell_telling_columns
from shared.data_sources.schema import FeatureSchema, bucket_columns, number_column
from shared.data_sources.source_types import Inputs
from shared.data_sources.tables import BLANK_ROW
from shared.data_utils import load_client_data, load_test_data, load_validation_data, stream_features
from shared.errors import DataError
from tests import test_source_vpc_flow as vpc
from tests.source_files import settings_of, write_lines
from tests.test_source_cloudtrail import record


def table(path: Path, labels: list[str], extra: str = "", values: list[object] | None = None) -> Path:
    """Rows of noise with these labels, and one more column."""
    random = np.random.default_rng(1)
    names = ["a", "b", *([extra] if values else []), "Label"]
    lines = [",".join(names)]
    for row, label in enumerate(labels):
        cells = [f"{random.normal():.3f}", f"{random.integers(100)}", *([str(values[row])] if values else []), label]
        lines.append(",".join(cells))
    path.write_text("\n".join([*lines, ""]))
    return path


settings = partial(settings_of, "csv", csv_label_column="Label", num_features=2)


SOME = ["BENIGN", "BENIGN", "DoS", "BENIGN"] * 50


@pytest.mark.parametrize(
    ("labels", "benign", "there"),
    [
        (["Normal Traffic"] * 30 + ["DoS"] * 10, ("Normal",), "'Normal Traffic' 30, 'DoS' 10"),
        (["True", "False", "False"] * 10, ("benign", "0"), "'False' 20, 'True' 10"),
        (["Yes", "No"] * 20, ("benign",), "'Yes' 20, 'No' 20"),
        ([f"kind {number}" for number in range(40)], ("benign",), "'kind 7' 1 and 32 more"),
        (["1", "2"] * 20, ("0",), "'1' 20, '2' 20"),
        (["", "DoS"] * 20, ("benign",), "'DoS' 20; set csv_benign_values"),
    ],
)
def test_labels_of_which_none_is_benign_are_refused_and_counted(
    tmp_path: Path, labels: list[str], benign: tuple[str, ...], there: str
) -> None:
    config = settings(table(tmp_path / "a.csv", labels), csv_benign_values=benign, max_broken_share=0.5)
    with pytest.raises(DataError, match="no row is benign") as refusal:
        load_test_data(config)
    assert there in str(refusal.value)
    assert "'Label'" in str(refusal.value)
    assert "a.csv" in str(refusal.value)


@pytest.mark.parametrize("text", ["nan", "NaN", "null", "None", "-", "?", "N/A", "<NA>", "(null)", "\\N"])
def test_a_text_that_stands_for_nothing_is_no_attack(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    labels = [text if row % 10 == 3 else ("DoS" if row % 4 == 0 else "BENIGN") for row in range(200)]
    path = table(tmp_path / "a.csv", labels)
    with pytest.raises(DataError, match=r"20 of 200 lines.*a.csv, line 5: no label in column 'Label'"):
        load_test_data(settings(path))
    rows = FileSource(csv).test_table(settings(path, max_broken_share=0.2, test_fraction=0.9))
    assert set(rows.families.tolist()) == {"benign", "dos"}
    assert "if it means benign, name it in csv_benign_values" in caplog.text
    named = FileSource(csv).test_table(settings(path, csv_benign_values=("benign", text), test_fraction=0.9))
    assert set(named.families.tolist()) == {"benign", "dos"}


def test_a_label_of_a_decimal_column_is_its_number(tmp_path: Path) -> None:
    values = [Decimal(int(row % 4 == 0)) for row in range(200)]
    made = {"a": pa.array([row * 7 % 13 for row in range(200)]), "Label": pa.array(values, pa.decimal128(4, 2))}
    pq.write_table(pa.table(made), tmp_path / "a.parquet")
    rows = load_test_data(settings(tmp_path / "a.parquet", num_features=1))
    assert set(rows.labels.tolist()) == {0, 1}


@pytest.mark.parametrize("name", ["LABEL", "label", "LaBeL"])
def test_a_label_in_another_case_is_asked_for(tmp_path: Path, name: str) -> None:
    path = table(tmp_path / "a.csv", SOME)
    path.write_text(path.read_text().replace("Label", name, 1))
    with pytest.raises(DataError, match=f"did you mean '{name}'.*csv_label_column"):
        load_test_data(settings(path))


def test_a_table_of_labels_alone_is_refused_with_the_settings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv: no column to make features of.*csv_drop_columns"):
        load_test_data(settings(table(tmp_path / "a.csv", SOME), csv_drop_columns=("a", "b")))


def test_false_in_a_list_of_yaml_is_the_label_false(tmp_path: Path) -> None:
    data = table(tmp_path / "a.csv", ["True", "False", "False"] * 50)
    (tmp_path / "c.yaml").write_text(
        f"data_source: csv\ndata_path: {data}\ncsv_label_column: Label\ncsv_benign_values: [false]\n"
        "num_features: 2\npartition: even\n"
    )
    rows = load_client_data(load_config(tmp_path / "c.yaml"), 0).train
    assert 0 < rows.labels.mean() < 0.5


@pytest.mark.parametrize(
    ("benign", "attacks"),
    [(("flow=Background*",), 100), (("flow=*Normal*", "flow=background*"), 50), (("flow=?o-Normal",), 150)],
)
def test_benign_labels_may_be_patterns(tmp_path: Path, benign: tuple[str, ...], attacks: int) -> None:
    labels = ["flow=Background-UDP", "flow=To-Normal", "flow=From-Botnet", "flow=Background"] * 50
    config = settings(table(tmp_path / "a.csv", labels), csv_benign_values=benign)
    rows = [load_client_data(config, client) for client in range(3)]
    found = sum(int(part.labels.sum()) for data in rows for part in (data.train, data.holdout))
    found += sum(int(part.labels.sum()) for part in (load_test_data(config), load_validation_data(config)))
    assert found == attacks


def test_a_benign_value_with_letters_that_patterns_know_means_itself(tmp_path: Path) -> None:
    config = settings(table(tmp_path / "a.csv", ["[ok].", "DoS"] * 50), csv_benign_values=("[ok].",))
    assert 0 < load_client_data(config, 0).train.labels.mean() < 1


def test_no_attack_is_said_by_the_reader_and_of_each_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = settings(table(tmp_path / "a.csv", ["BENIGN"] * 100))
    load_client_data(config, 0)
    load_test_data(config)
    load_validation_data(config)
    for whose in ("a.csv: NO ATTACK: all 100", "client 0: NO ATTACK", "test set: NO ATTACK", "validation rows: NO"):
        assert whose in caplog.text


def test_a_tenant_without_one_class_is_told_and_those_with_both_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table(tmp_path / "tenant-0.csv", SOME)
    table(tmp_path / "tenant-1.csv", ["BENIGN"] * 50)
    table(tmp_path / "test.csv", SOME[::-1])
    config = settings(tmp_path / "tenant-{client_id}.csv", test_path=str(tmp_path / "test.csv"))
    load_client_data(config, 0)
    load_test_data(config)
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]
    load_client_data(config, 1)
    assert "tenant-1.csv: NO ATTACK" in caplog.text


def test_patterns_that_match_no_log_record_are_said_with_what_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"Records": [record(60 * minute) for minute in range(300)]}))
    config = Config(
        data_source="cloudtrail", data_path=str(path), label_field="userAgent", label_patterns=("*stratus*",),
        num_features=42, partition="even",
    )  # fmt: skip
    load_client_data(config, 0)
    assert "NO ATTACK among 300 records: none matches label_patterns ['*stratus*'] in userAgent" in caplog.text
    assert "'aws-cli/2' 300" in caplog.text


COPIES: dict[str, list[object]] = {
    "a copy": [int(label != "BENIGN") for label in SOME],
    "its opposite": [int(label == "BENIGN") for label in SOME],
    "a name": ["bad" if label != "BENIGN" else "fine" for label in SOME],
    "a text of many": [f"{label}-{row}" if label != "BENIGN" else "fine" for row, label in enumerate(SOME)],
    "nearly a copy": [float(label != "BENIGN") + (row % 97 == 0) for row, label in enumerate(SOME)],
}


@pytest.mark.parametrize("name", COPIES)
def test_a_column_that_alone_tells_the_label_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = table(tmp_path / "a.csv", SOME, "leak", COPIES[name])
    config = settings(path)
    width = 3 if isinstance(COPIES[name][0], int | float) else 18
    load_client_data(config.replace(num_features=width), 0)
    assert "EACH OF THESE COLUMNS ALONE TELLS THE LABEL" in caplog.text
    assert "leak (" in caplog.text
    assert "csv_drop_columns" in caplog.text
    assert " b (" not in caplog.text


def test_an_index_of_rows_that_are_sorted_by_label_is_named_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = table(tmp_path / "a.csv", sorted(SOME), "row", list(range(200)))
    load_client_data(settings(path, num_features=3), 0)
    assert "row counts the rows" in caplog.text
    assert "row (1.000)" in caplog.text


@pytest.mark.parametrize("values", [range(200), range(7, 207)])
def test_an_index_under_any_name_is_named_and_what_does_not_count_rows_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: range
) -> None:
    load_client_data(settings(table(tmp_path / "a.csv", SOME, "nr", list(values)), num_features=3), 0)
    assert "nr counts the rows" in caplog.text
    caplog.clear()
    load_client_data(
        settings(table(tmp_path / "b.csv", SOME, "nr", [2 * value for value in values]), num_features=3), 0
    )
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


@pytest.mark.parametrize("odd", ["x,1,57,DoS", "1", "a,b,nr,Label", ",,,", "1,2,57,", "1,2,3,4,5,6"])
def test_an_index_is_named_whatever_odd_rows_are_in_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    path = table(tmp_path / "a.csv", SOME, "nr", list(range(200)))
    lines = path.read_text().splitlines()
    if odd[0].isdigit() or odd[0] == "x":
        lines[58] = odd  # in the place of the row that the index has as 57
    else:
        lines.insert(58, odd)
    path.write_text("\n".join(lines))
    load_client_data(settings(path, num_features=3, max_broken_share=0.1), 0)
    assert "nr counts the rows" in caplog.text
    assert " b counts" not in caplog.text
    assert "a, nr" not in caplog.text


TIMES: dict[str, list[object]] = {
    "seconds": [1_499_350_000 + row * 7 % 400 for row in range(200)],
    "milliseconds": [1_499_350_000_123 + row * 7919 % 400_000 for row in range(200)],
    "with a fraction and gaps": ["" if row % 50 == 0 else f"{1_499_350_000 + row * 7 % 400}.5" for row in range(200)],
    "some broken": [0 if row % 40 == 0 else 1_499_350_000 + row * 7 % 400 for row in range(200)],
}


@pytest.mark.parametrize("name", TIMES)
def test_a_column_of_times_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    path = table(tmp_path / "a.csv", SOME, "Stime", TIMES[name])
    load_client_data(settings(path, num_features=3), 0)
    assert "a.csv: A TIME IS A FEATURE: Stime reads like seconds since 1970" in caplog.text
    assert "csv_drop_columns" in caplog.text


@pytest.mark.parametrize("values", [[""] * 200, ["x", "y"] * 100, list(range(10**9, 10**12, 4_995_000_000))])
def test_columns_of_nothing_names_and_large_numbers_are_no_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: list[object]
) -> None:
    width = 18 if values[0] == "x" else 3
    load_client_data(settings(table(tmp_path / "a.csv", SOME, "c", values), num_features=width), 0)
    assert "A TIME" not in caplog.text


def test_a_column_that_tells_the_label_by_its_middle_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Attacks in the middle of a day have neither the lowest nor the highest numbers."""
    labels = ["DoS" if 250 <= row < 500 else "BENIGN" for row in range(800)]
    path = table(tmp_path / "a.csv", labels, "minute", list(range(800)))
    load_client_data(settings(path, num_features=3, num_clients=2, min_available_clients=2), 0)
    assert "EACH OF THESE COLUMNS ALONE TELLS THE LABEL" in caplog.text
    assert "minute (" in caplog.text
    assert " b (" not in caplog.text


@pytest.mark.parametrize("cell", ["", "1", "nan", "1e300"])
def test_a_table_in_which_nothing_varies_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, cell: str) -> None:
    path = write_lines(tmp_path / "a.csv", ["a,b,Label", *(f"{cell},{cell},{label}" for label in SOME)])
    load_client_data(settings(path), 0)
    load_test_data(settings(path))
    for whose in ("client 0", "test set"):
        assert f"{whose}: NO FEATURE VARIES" in caplog.text


@pytest.mark.parametrize("form", ["one path", "in the folder", "a copy", "each tenant's own"])
def test_a_test_set_that_is_learned_from_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str) -> None:
    """Its figures would be those of what was learned by heart."""
    train, test = tmp_path / "0", tmp_path / "test.csv"
    train.mkdir()
    table(train / "a.csv", SOME)
    table(test, SOME[::-1])
    load_client_data(settings(train, test_path=str(test)), 0)
    assert "TESTED ON WHAT IS LEARNED" not in caplog.text
    if form == "in the folder":
        test = test.rename(train / "test.csv")
    elif form == "one path":
        test = train / "a.csv"
    else:
        test.write_bytes((train / "a.csv").read_bytes())
    own = tmp_path / "{client_id}" if form == "each tenant's own" else train
    load_client_data(settings(own, test_path=str(test)), 0)
    assert "TESTED ON WHAT IS LEARNED" in caplog.text


def test_files_of_one_row_each_have_no_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, label in enumerate(SOME[:60]):
        table(tmp_path / f"{number:02}.csv", [label])
    load_client_data(settings(tmp_path), 0)
    assert "counts the rows" not in caplog.text


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1", "__index_level_0__"])
def test_a_column_without_a_name_is_no_feature(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    path = table(tmp_path / "a.csv", SOME, "here", list(range(200)))
    path.write_text(path.read_text().replace("here", name))
    assert load_client_data(settings(path), 0).schema.names == ("a", "b")
    assert "a column without a name" in caplog.text


def test_columns_of_noise_are_not_said_to_tell_the_label(caplog: pytest.LogCaptureFixture) -> None:
    """Of 2,000 columns and 20 rows some would, if so few rows were judged."""
    random = np.random.default_rng(3)
    schema = FeatureSchema("csv", tuple([number_column(str(i)) for i in range(2000)] + bucket_columns("c", 8)))
    for rows in (18, 24, 200):
        features = np.concatenate([random.normal(size=(rows, 2000)), np.eye(8)[random.integers(8, size=rows)]], axis=1)
        labels = np.arange(rows) % 2
        data = Dataset(features.astype(np.float32), labels, np.where(labels, "x", "benign"))
        tell_telling_columns("client 0", schema, data, "drop it")
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


def test_a_tally_is_bounded_and_says_what_it_counted() -> None:
    tally = LabelTally()
    tally.add(pd.Series([str(number % 5000) for number in range(100_000)]), np.arange(100_000) < 3)
    assert (tally.records, tally.attacks) == (100_000, 3)
    assert tally.there.endswith("and 995 more")  # 1,000 of each class are kept


def test_which_labels_are_benign_and_which_attacks_is_said_once_with_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = ["BENIGN", "Benign", "DoS", "PortScan", "DoS", "BENIGN", ""] * 20
    config = settings(table(tmp_path / "a.csv", labels), max_broken_share=0.5)
    with caplog.at_level(logging.INFO, logger="data"):
        for client in range(3):
            load_client_data(config, client)
        load_test_data(config)
    told = "a.csv: by column 'Label' benign: 'BENIGN' 40, 'Benign' 20; attacks: 'DoS' 40, 'PortScan' 20"
    assert caplog.text.count(told) == 1


def test_which_values_of_a_log_are_benign_and_which_attacks_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines(tmp_path / "a.log", vpc.lines_of(vpc.some_flows()))
    with caplog.at_level(logging.INFO, logger="data"):
        load_test_data(vpc.settings(path))
    assert "by label_patterns ['10.0.0.9'] in srcaddr benign: '10.0.0.1' 720; attacks: '10.0.0.9' 720" in caplog.text


@pytest.mark.parametrize(
    "cells",
    [
        ["1,200", "1,201", "12,345,678"], ["0,5", "1,5", "2,25"], ["1.234,56", "0,1", "7,0"], ["1'200", "1'201", "9"],
        ["1 200", "1 201", "1 202"], ["-1,200", "+3,000", "5,000"], ["1.234.567", "2.345.678", "1.000.000"],
    ],
)  # fmt: skip
def test_numbers_with_separators_are_refused_with_column_file_and_setting(tmp_path: Path, cells: list[str]) -> None:
    lines = ["a;n;Label", *(f"1;{cells[row % 3]};{label}" for row, label in enumerate(SOME))]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"a\.csv: column 'n' holds numbers such as .*csv_drop_columns"):
        load_test_data(settings(path))
    with pytest.raises(DataError, match=r"column 'n' holds numbers such as"):
        load_test_data(settings(path, csv_categorical_columns=("a",)))
    named = settings(path, csv_categorical_columns=("n",), num_features=17)
    assert len(load_test_data(named))  # whoever says that they are names is believed


def test_new_records_with_separators_in_numbers_are_refused_with_what_they_are(tmp_path: Path) -> None:
    """A model's numeric column can't become one of names, and which columns a model lacks helps nobody here."""
    config = settings(table(tmp_path / "a.csv", SOME))
    schema = csv.schema(config, Inputs(tmp_path / "a.csv"))
    new = write_lines(tmp_path / "new.csv", ["a;b", *("0,5;3" for _ in SOME)])
    with pytest.raises(DataError, match=r"new\.csv: column 'a' holds numbers such as '0,5'.*1234\.5$"):
        list(stream_features(config, new, schema))


WRITTEN = {
    "numbers with a per cent sign": ["5%", "12.5 %", "-3%", "0%"],
    "amounts of money": ["$5", "12.50 €", "$1", "£3"],
    "numbers with a unit": ["12 ms", "1.5k", "3.2MB", "10s", "7 pkts", "1e3 kb/s", "2.5 Gbps", ".5µs"],
    "clock times": ["00:01:05", "12:30", "1:02:03.5", "100:00:00"],
    "dates": ["2026-11-28 10:00:00", "2026-11-28T10:00:00Z", "28/11/2026", "11/28/26 1:00", "28.11.2026"],
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_numbers_that_become_names_are_said_by_kind_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    cells = WRITTEN[kind]
    lines = ["a;n;Label", *(f"1;{cells[row % len(cells)]};{label}" for row, label in enumerate(SOME))]
    path = tmp_path / f"{kind}.csv"
    path.write_text("\n".join(lines))
    for _ in range(2):
        load_test_data(settings(path, num_features=17))
    (told,) = [line.getMessage() for line in caplog.records if "hashed as a name" in line.getMessage()]
    assert told.startswith(f"{path}: column 'n' holds {kind}, and each is hashed as a name; write plain numbers")
    assert not [cell for cell in cells if cell in told.removeprefix(str(path))]
    caplog.clear()
    load_test_data(settings(path, csv_categorical_columns=("n",), num_features=17))  # whoever says so is believed
    assert "hashed as a name" not in caplog.text
    with pytest.raises(DataError, match=f"column n holds {kind} where numbers are expected"):
        load_test_data(settings(path, csv_categorical_columns=("a",), num_features=17))


@pytest.mark.parametrize(
    "cells",
    [
        ["tcp", "udp"], ["10.0.0.1", "10.10.10.100"], ["00:1a:2b:3c:4d:5e", "00:11:22:33:44:55"], ["1.2.3", "1.10.3"],
        ["2001:db8::1", "::1"], ["S0", "SF"], ["http/1.1", "443/tcp"], ["a1b2c3", "12ab34"], ["5th", "3rd"],
        ["100-200"], ["1e5x", "0x1f5g"], ["%", "ms"],
    ],
)  # fmt: skip
def test_names_are_not_said_to_be_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture, cells: list[str]) -> None:
    lines = ["a;n;Label", *(f"1;{cells[row % len(cells)]};{label}" for row, label in enumerate(SOME))]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    load_test_data(settings(path, num_features=17))
    assert "hashed as a name" not in caplog.text


@pytest.mark.parametrize("cells", [["10.0.0.1", "10.100.200.100"], ["a,b", "c"], ["1-2", "3-4"], ["8,x", "y"]])
def test_names_are_not_taken_for_numbers_with_separators(tmp_path: Path, cells: list[str]) -> None:
    lines = ["a;n;Label", *(f"1;{cells[row % 2]};{label}" for row, label in enumerate(SOME))]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    assert len(load_test_data(settings(path, num_features=17)))


def test_rows_without_a_value_are_counted_and_are_no_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table(tmp_path / "a.csv", SOME)
    path.write_text(path.read_text() + ",,\n" * 30)
    with caplog.at_level("INFO", logger="data"):
        load_test_data(settings(path, max_broken_share=0.0))
    assert f"left out 30 of 230: {BLANK_ROW}" in caplog.text
