"""Google's and Azure's object stores: their own clients against servers on loopback."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest

from client.sinks.lines import LinesFile
from shared.bundle import ModelBundle
from shared.data_sources.stores import forget_copies, local_path, place_of
from shared.errors import DataError, StoreError
from tests.fake_stores import Store, store
from tests.flow_tables import table
from tests.followed import Following
from tests.object_store import peaks_of_copying


@pytest.fixture(params=[("gs", "gcsfs", "gcs"), ("az", "adlfs", "azure")], ids=["gs", "az"])
def logs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    scheme, module, extra = request.param
    if find_spec(module) is None:  # it is imported by the code under test alone
        pytest.skip(f'{module} is not installed: pip install -e ".[{extra}]"')
    with store(scheme) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found
        forget_copies()
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


def test_a_prefix_is_listed_over_all_pages_and_each_writing_is_another_version(logs: Store) -> None:
    for number in range(5):
        logs.put(f"one/2026/11/{number}.csv", bytes(10 + number))
    logs.put("one/folder/", b"")
    logs.put("one/.hidden", b"x")
    logs.put("onetwo/a.csv", b"x")
    place = place_of(f"{logs.scheme}://logs/one/")
    before = {entry.name: entry for entry in place.listed()}
    assert {name: entry.size for name, entry in before.items()} == {f"2026/11/{n}.csv": 10 + n for n in range(5)}
    assert logs.listings > 2
    assert len({entry.version for entry in before.values()}) == 5
    logs.put("one/2026/11/3.csv", bytes(13))
    after = {entry.name: entry.version for entry in place.listed()}
    assert [name for name in after if after[name] != before[name].version] == ["2026/11/3.csv"]


def test_one_object_may_be_named(logs: Store, tmp_path: Path) -> None:
    logs.put("plain/a b+c.csv", table(range(40)))
    url = f"{logs.scheme}://logs/plain/a b+c.csv"
    (entry,) = place_of(url).listed()
    assert (entry.key, entry.name, entry.size) == (url, "a b+c.csv", len(table(range(40))))
    assert local_path(url).read_bytes() == table(range(40))


def test_an_object_that_goes_while_its_neighbours_are_copied_stops_nobody(
    logs: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        logs.put(f"going/{name}.csv", table(range(40)))
    url = f"{logs.scheme}://logs/going"
    place = place_of(url)
    monkeypatch.setattr("shared.data_sources.stores.place_of", lambda _: place)
    listed = list(place.listed())
    monkeypatch.setattr(place, "listed", lambda: listed)
    del logs.objects["going/b.csv"]
    assert sorted(path.name for path in local_path(url).iterdir()) == ["a.csv", "c.csv"]
    assert f"{url}: 1 of 3 objects were gone" in caplog.text
    forget_copies()
    logs.objects.clear()
    with pytest.raises(DataError, match="no object there any more"):
        local_path(url)


def test_what_is_gone_is_away_or_refused_is_told_apart(
    logs: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.put("x/a.csv", b"x")
    place = place_of(f"{logs.scheme}://logs/x")
    (entry,) = place.listed()
    for nowhere in ("logs/nothing", "no-such-bucket/x"):
        with pytest.raises(DataError, match="no object there"):
            list(place_of(f"{logs.scheme}://{nowhere}").listed())
    del logs.objects["x/a.csv"]
    with pytest.raises(FileNotFoundError):
        place.put(entry, tmp_path / "a.csv")
    logs.refuses = True
    with pytest.raises(StoreError, match=r"a.csv can't be read: .*and rights to list and read it"):
        place.put(entry, tmp_path / "a.csv")
    with pytest.raises(StoreError, match=rf"{logs.scheme}://logs/x: can't be listed: .*and rights to list and read it"):
        list(place.listed())
    assert "Traceback" not in capfd.readouterr().err


def test_objects_are_followed(logs: Store, flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    output = tmp_path / "alerts.jsonl"

    def alerts() -> int:
        """Of all starts so far."""
        url = f"{logs.scheme}://logs/flows"
        with Following(flows[1], tmp_path / "state", [url], [LinesFile("output", output)]) as follower:
            follower.once()
        return len(output.read_text().splitlines())

    logs.put("flows/b.csv", table(range(40)))
    assert (alerts(), alerts()) == (10, 10)
    logs.put("flows/a.csv", table(range(40, 60)))  # late, under an older name
    assert alerts() == 15
    logs.put("flows/b.csv", table(range(60)))  # replaced under its name
    assert alerts() == 20
    logs.put("flows/b.csv", table(range(60)))  # and by the same bytes
    assert alerts() == 20


@pytest.mark.long
def test_an_object_of_any_size_takes_bounded_memory(logs: Store, tmp_path: Path) -> None:
    for megabytes in (1, 400):
        logs.put(f"large/{megabytes}", bytes(megabytes << 20))
    small, large = peaks_of_copying(f"{logs.scheme}://logs/large", tmp_path)
    assert (tmp_path / "400").stat().st_size == 400 << 20
    assert large - small < 100_000
