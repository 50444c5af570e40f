"""Files as they were met, each in a folder with a line that says what is right: read as that line says.

The folder is not part of the project; `CASES` names it, and where it is absent these tests are skipped. Inputs of the
same kinds that the project owns are in `tests/test_odd_files.py`.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shared.config import Config, load_config
from shared.data_sources import cloudtrail, csv, vpc_flow
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.file_source import FileSource
from shared.data_sources.source_types import Chunk, Inputs
from shared.data_utils import load_client_data, load_test_data, stream_features
from shared.errors import DataError
from tests.processes import ROOT
from tests.source_files import read_chunks, settings_of

CASES = Path(os.environ.get("CASES", ROOT.parent / "shared" / "cases"))
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no folder of cases at {CASES}")
_READERS = {"csv": csv, "cloudtrail": cloudtrail, "vpc_flow": vpc_flow}


# What is no file to read has its test where the code is.
ELSEWHERE = {"fed-http-proxy": "test_connection.py", "ops-logdir-unwritable": "test_run_folder.py"}


def test_every_case_is_named_by_a_test() -> None:
    told = Path(__file__).read_text(encoding="utf-8")
    assert [folder.name for folder in sorted(CASES.iterdir()) if f'"{folder.name}"' not in told] == []


def settings(source: str, path: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {"max_broken_share": 0.0}
    if source == "csv":
        values["csv_label_column"] = "Label"
    else:
        values |= {"label_field": "userAgent" if source == "cloudtrail" else "version", "label_patterns": ("no such",)}
    return settings_of(source, path, **(values | changes))


def read(config: Config) -> tuple[list[Chunk], BrokenLines]:
    return read_chunks(_READERS[config.data_source], config)


def case(name: str) -> Path:
    return CASES / name


def rows_of(config: Config) -> tuple[int, int]:
    """Rows, and attacks among them."""
    chunks, broken = read(config)
    assert broken.broken == 0
    families = np.concatenate([chunk.families for chunk in chunks])
    return len(families), int((families != "benign").sum())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("csv-binetflow", {"csv_benign_values": ("flow=Background*", "flow=*Normal*")}),
        ("csv-blank-first-line", {}),
        ("csv-blank-rows", {}),
        ("csv-bool-label", {"csv_benign_values": ("false",)}),
        ("csv-comment-line", {}),
        ("csv-drop-column-of-one-file", {"csv_drop_columns": ("Flow ID",)}),
        ("csv-empty-file", {}),
        ("csv-hex-ports", {}),
        ("csv-index-unnamed", {}),
        ("parquet-list-column", {}),
        ("parquet-pq-suffix", {}),
        ("zeek-tsv", {"csv_label_column": "label"}),
        ("suricata-eve", {"csv_label_column": "event_type", "csv_benign_values": ("flow",)}),
    ],
)
def test_a_table_gives_its_rows(name: str, changes: dict[str, object]) -> None:
    folder = case(name) / "data" if (case(name) / "data").is_dir() else case(name)
    assert rows_of(settings("csv", folder, **changes)) == (40, 10)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("csv-benign-no-match", {"csv_benign_values": ("Normal",)}, r"'Normal Traffic' 30, 'DoS' 10"),
        ("csv-bool-label", {}, r"no row is benign.*'False' 30, 'True' 10"),
        ("csv-no-header", {}, "first line looks like data.*csv_column_names"),
        ("csv-thousands", {}, "column 'bytes' holds numbers such as '1,200'.*csv_drop_columns"),
    ],
)
def test_a_table_that_would_be_nonsense_is_refused(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(settings("csv", case(name), **changes))


def test_csv_no_attack_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert rows_of(settings("csv", case("csv-no-attack"))) == (40, 0)
    assert "NO ATTACK" in caplog.text


def test_csv_index_unnamed_is_no_feature(caplog: pytest.LogCaptureFixture) -> None:
    config = settings("csv", case("csv-index-unnamed"))
    assert {column.field for column in csv.schema(config, Inputs(Path(config.data_path))).columns} == {
        "dur",
        "bytes",
        "proto",
    }


def test_parquet_list_column_is_named(caplog: pytest.LogCaptureFixture) -> None:
    config = settings("csv", case("parquet-list-column"))
    assert csv.schema(config, Inputs(Path(config.data_path))).names == ("dur",)


CLOUDTRAIL = [
    "ct-aggregated-events",
    "ct-athena-csv",
    "ct-cloudwatch-subscription",
    "ct-empty-file",
    "ct-eventbridge",
    "ct-filter-log-events",
    "ct-insight-among-records",
    "ct-jq-pretty",
    "ct-lake-results",
    "ct-log-suffix",
    "ct-lowercase-keys",
    "ct-siem-original",
]


@pytest.mark.parametrize("name", CLOUDTRAIL)
def test_six_cloudtrail_records_come_out(name: str) -> None:
    chunks, broken = read(settings("cloudtrail", case(name)))
    assert broken.broken == 0
    assert sum(int(chunk.meta["events"].sum()) for chunk in chunks) == 6
    expected, _ = read(settings("cloudtrail", case("ct-empty-file") / "a.json"))
    if name not in ("ct-lake-results",):  # the query asked for four fields
        found = np.concatenate([chunk.features for chunk in chunks])
        assert np.array_equal(found, np.concatenate([chunk.features for chunk in expected]))


def test_ct_truncated_says_that_it_is_cut_off_and_where() -> None:
    with pytest.raises(DataError, match=r"cut off, in line 1, after 2,441 characters"):
        read(settings("cloudtrail", case("ct-truncated")))
    chunks, broken = read(settings("cloudtrail", case("ct-truncated"), max_broken_share=0.5))
    assert (sum(int(chunk.meta["events"].sum()) for chunk in chunks), broken.broken) == (5, 1)


def by_principal(name: str) -> dict[str, pd.Series]:
    config = settings("cloudtrail", case(name))
    names = cloudtrail.schema(config, Inputs(Path(config.data_path))).names
    chunks, _ = read(config)
    return {
        str(principal): pd.Series(row, index=list(names))
        for chunk in chunks
        for principal, row in zip(chunk.meta["principal"], chunk.features, strict=True)
    }


def test_ct_console_login_failure() -> None:
    found = by_principal("ct-console-login-failure")
    assert [found[f"AIDAEXAMPLE{number}"]["error_share"] for number in (0, 1)] == [0, 1]


def test_ct_role_switch_failure_and_ct_denied_codes() -> None:
    (switched,) = by_principal("ct-role-switch-failure").values()
    (denied,) = by_principal("ct-denied-codes").values()
    assert (switched["error_share"], denied["denied_share"]) == (1, 1)


@pytest.mark.parametrize("name", ["ct-principal-oidc", "ct-principal-federated-root"])
def test_two_principals_are_two_rows(name: str) -> None:
    assert len(by_principal(name)) == 2


VPC = [
    "vpc-athena-csv",
    "vpc-cloudwatch-export",
    "vpc-custom-without-action",
    "vpc-dash-ports",
    "vpc-json-message",
    "vpc-milliseconds",
    "vpc-parquet-hive",
    "vpc-trailing-blank",
    "vpc-transit-gateway",
]


@pytest.mark.parametrize("name", VPC)
def test_six_flows_come_out(name: str) -> None:
    chunks, broken = read(settings("vpc_flow", case(name)))
    assert broken.broken == 0
    assert sum(int(chunk.meta["flows"].sum()) for chunk in chunks) == 6
    assert len(np.concatenate([chunk.features for chunk in chunks])) == 3  # two addresses, one in two windows


def test_vpc_v5_no_header_names_the_setting() -> None:
    with pytest.raises(DataError, match=r"21 fields, expected 14.*vpc_fields"):
        read(settings("vpc_flow", case("vpc-v5-no-header")))


def tenants(name: str, tmp_path: Path) -> Config:
    for file in case(name).iterdir():
        shutil.copy(file, tmp_path)
    config = load_config(tmp_path / "config.yaml")
    return config.replace(
        data_path=str(tmp_path / "tenant-{client_id}.csv"), test_path=str(tmp_path / "test.csv"), he_key_length=2048
    )


def without_test_set(config: Config, tmp_path: Path) -> Config:
    (tmp_path / "test.csv").unlink()
    return config


def as_it_is(config: Config, tmp_path: Path) -> Config:
    return config


@pytest.mark.parametrize("here", [as_it_is, without_test_set])
@pytest.mark.parametrize(
    ("name", "message", "elsewhere"),
    [
        (
            "fed-extra-column",
            "column 'extra' is here alone.*csv_drop_columns",
            r"numbers dur, bytes, extra, names.* proto",
        ),
        (
            "fed-category-kind-differs",
            "column 'proto' holds numbers here and text there.*csv_categorical_columns",
            "numbers dur, bytes, proto",
        ),
    ],
)
def test_a_tenant_that_differs_hears_in_which_column(
    name: str, message: str, elsewhere: str, here: Callable[[Config, Path], Config], tmp_path: Path
) -> None:
    config = here(tenants(name, tmp_path), tmp_path)
    load_client_data(config, 0)
    with pytest.raises(DataError, match=message if here is as_it_is else elsewhere) as refusal:
        load_client_data(config, 1)
    assert "set num_features" not in str(refusal.value)


def test_fed_extra_column_is_mended_by_the_setting_that_it_names(tmp_path: Path) -> None:
    config = tenants("fed-extra-column", tmp_path).replace(csv_drop_columns=("extra",))
    for client in range(3):
        load_client_data(config, client)
    load_test_data(config)


def test_score_repeated_header(tmp_path: Path) -> None:
    learned = settings("csv", case("csv-empty-file"), max_broken_share=0.0)
    schema = FileSource(csv).schema(learned, None)
    new = case("score-repeated-header") / "new.csv"
    broken = BrokenLines(new, 0.0)
    parts = [features for _, features in stream_features(learned, new, schema, broken)]
    assert (sum(map(len, parts)), broken.lines, broken.broken) == (3, 4, 0)
