"""Object stores: what is listed and copied, against a real S3 server, and what is refused."""

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from client import score
from client.sinks.lines import LinesFile
from shared.bundle import ModelBundle
from shared.config import Config
from shared.data_sources import stores
from shared.data_sources.stores import forget_copies, local_path, place_of, safe_name
from shared.data_utils import load_client_data
from shared.errors import ConfigError, DataError, MissingDependencyError, StoreError
from tests.flow_tables import table
from tests.followed import Following
from tests.object_store import Bucket, bucket, peaks_of_copying

pytest.importorskip("s3fs", reason="s3fs is of the extra s3")


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with bucket() as found:
        yield found


@pytest.fixture
def logs(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield server
    forget_copies()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def once(bundle: ModelBundle, folder: Path, url: str) -> list[dict[str, Any]]:
    """One start; the alerts that came of it."""
    output = folder / "alerts.jsonl"
    before = len(output.read_text().splitlines()) if output.exists() else 0
    with Following(bundle, folder / "state", [url], [LinesFile("output", output)]) as follower:
        follower.once()
    assert not (folder / "state" / "spool").exists(), "copies of objects do not stay"
    return [json.loads(line) for line in output.read_text().splitlines()[before:]] if output.exists() else []


def rows_of(alerts: list[dict[str, Any]]) -> list[int]:
    return sorted(int(alert["evidences"][0]["data"]["No"]) for alert in alerts)


def test_objects_are_read_once_late_and_replaced_ones_are_found(
    logs: Bucket, flows: tuple[Path, ModelBundle], tmp_path: Path
) -> None:
    logs.put("one/2026/11/27/b.csv", table(range(40)))
    logs.put("one/2026/11/27/c.csv.gz", gzip.compress(table(range(40, 80))))
    logs.put("one/folder/", b"")
    first = once(flows[1], tmp_path, "s3://logs/one/")
    assert rows_of(first) == list(range(0, 80, 4))
    assert {alert["unmapped"]["found_in"] for alert in first} == {
        "s3://logs/one/2026/11/27/b.csv", "s3://logs/one/2026/11/27/c.csv.gz",
    }  # fmt: skip
    assert once(flows[1], tmp_path, "s3://logs/one/") == []
    logs.put("one/2026/11/01/a.csv", table(range(80, 100)))  # late, under an older name
    assert rows_of(once(flows[1], tmp_path, "s3://logs/one/")) == list(range(80, 100, 4))
    logs.put("one/2026/11/27/b.csv", table(range(60)))  # replaced under its name, by a longer one
    assert rows_of(once(flows[1], tmp_path, "s3://logs/one/")) == list(range(40, 60, 4))
    logs.put("one/2026/11/27/b.csv", table(range(60)))  # and by the same bytes
    assert once(flows[1], tmp_path, "s3://logs/one/") == []
    logs.delete("one/2026/11/27/b.csv")
    logs.put("one/archive/b.csv", table(range(60)))  # moved
    assert once(flows[1], tmp_path, "s3://logs/one/") == []


def test_an_objects_name_leads_out_of_no_folder(logs: Bucket, flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    long = "x" * 900
    for key in ("evil/../../../../outside.csv", "evil//./b.csv", f"evil/{long}.csv", "evil/a", "evil/a/b.csv"):
        logs.put(key, table(range(4)))
    assert len(once(flows[1], tmp_path, "s3://logs/evil")) == 5
    copied = local_path("s3://logs/evil")
    files = [path for path in copied.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert not list(tmp_path.parent.glob("**/outside.csv"))
    assert copied.parents[2].name.startswith("copied-logs-")
    assert copied.parents[2].stat().st_mode & 0o077 == 0
    forget_copies()
    assert not copied.exists()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a/b.csv", "a/b.csv"), ("/etc/passwd", "etc/passwd"), ("../../b", "%2E%2E/%2E%2E/b"), ("a/./b", "a/b"),
        ("..", "%2E%2E"), ("", "%2F"), ("a\0b", "a%00b"),
    ],
)  # fmt: skip
def test_safe_names(name: str, path: str) -> None:
    assert safe_name(name) == Path(path)


def test_training_reads_objects(logs: Bucket, tmp_path: Path) -> None:
    (tmp_path / "flows.csv").write_bytes(table(range(200)))
    logs.put("train/tenant-0/flows.csv", table(range(200)))
    settings: dict[str, Any] = {
        "data_source": "csv", "csv_label_column": "Label", "hash_width": 8, "num_features": 10, "partition": "even",
        "csv_drop_columns": ("No", "Source IP", "Source Port", "Destination IP"),
    }  # fmt: skip
    settings["test_path"] = str(tmp_path / "flows.csv")
    there = load_client_data(Config(**settings, data_path="s3://logs/train/tenant-{client_id}/flows.csv"), 0)
    (tmp_path / "tenant-0").mkdir()
    (tmp_path / "tenant-0" / "flows.csv").write_bytes(table(range(200)))
    here = load_client_data(Config(**settings, data_path=f"{tmp_path}/tenant-{{client_id}}/flows.csv"), 0)
    assert np.array_equal(there.train.features, here.train.features)
    assert there.schema == here.schema
    with pytest.raises(DataError, match=r"s3://logs/train/tenant-1/flows.csv: no object there"):
        load_client_data(Config(**settings, data_path="s3://logs/train/tenant-{client_id}/flows.csv"), 1)


def test_a_store_that_is_away_or_refuses_is_a_typed_error(logs: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no object there"):
        list(place_of("s3://logs/nothing").listed())
    with pytest.raises(DataError):
        list(place_of("s3://no-such-bucket/x").listed())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StoreError, match=r"s3://logs/x: can't be listed: .*expected a store that this machine reaches"):
        list(place_of("s3://logs/x").listed())


def test_a_store_that_goes_away_holds_up_no_other_place(
    logs: Bucket,
    flows: tuple[Path, ModelBundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    folder, output = tmp_path / "logs", tmp_path / "alerts.jsonl"
    folder.mkdir()
    logs.put("away/a.csv", table(range(20)))
    logs.put("away/b.csv", table(range(20, 40)))
    places = ["s3://logs/away", str(folder)]
    with Following(flows[1], tmp_path / "state", places, [LinesFile("output", output)], settle=0.0) as follower:
        real, calls = follower._places[0].put, []

        def put(entry: stores.Entry, target: Path) -> None:
            calls.append(entry.name)
            if len(calls) == 2:
                monkeypatch.setattr(follower._places[0]._system, "get_file", _broken)  # type: ignore[attr-defined]
            real(entry, target)

        monkeypatch.setattr(follower._places[0], "put", put)
        (folder / "c.csv").write_bytes(table(range(40, 60)))
        for _ in range(3):
            follower.look()
        assert caplog.text.count("b.csv can't be read: ConnectionError") == 1, "said once"
        found = [json.loads(line) for line in output.read_text().splitlines()]
        assert rows_of(found) == [*range(0, 20, 4), *range(40, 60, 4)]
        monkeypatch.undo()
        monkeypatch.setenv("AWS_ENDPOINT_URL", logs.environment["AWS_ENDPOINT_URL"])
        follower.look()
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows_of(found) == list(range(0, 60, 4))


@pytest.mark.long
def test_a_large_object_takes_no_more_memory_than_a_small_one(logs: Bucket, tmp_path: Path) -> None:
    for megabytes in (1, 150):
        logs.put(f"large/{megabytes}", bytes(megabytes << 20))
    small, large = peaks_of_copying("s3://logs/large", tmp_path)
    assert (tmp_path / "150").stat().st_size == 150 << 20
    assert large - small < 30_000


def _broken(*_: object) -> None:
    raise ConnectionError("reset by the test")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host/x", "s3://, gs:// or az://"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/x", "a user or a password in it"),
    ],
)
def test_urls_that_are_refused(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refusal:
        place_of(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("az", "azure")])
def test_a_missing_library_is_named_with_its_command(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, stores._MODULES[scheme][0], None)
    with pytest.raises(MissingDependencyError, match=rf"pip install -e '\.\[{extra}\]'"):
        place_of(f"{scheme}://bucket/x")


def test_score_reads_a_url_without_a_state_too(logs: Bucket, tmp_path: Path, flows: tuple[Path, ModelBundle]) -> None:
    logs.put("plain/a.csv", table(range(40)))
    output = tmp_path / "alerts.jsonl"
    assert score.main(["--model", str(flows[0]), "--input", "s3://logs/plain/a.csv", "--output", str(output)]) == 0
    assert len(output.read_text().splitlines()) == 10
    assert list(tmp_path.iterdir()) == [output]
