"""Logs that are followed: what is new is found, nothing is lost or sent twice, whatever dies."""

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from client import follow as follow_module
from client import score
from client.cursor import Cursor
from client.follow import Follower
from client.follow_state import FollowState
from client.sinks.lines import LinesFile
from shared.bundle import ModelBundle
from shared.data_sources.files import is_cut_off
from shared.data_sources.stores import Entry
from shared.errors import DataError, NetworkError, ResumeError
from tests.flow_tables import table
from tests.followed import MOMENTS, Following, run_and_die
from tests.forked import Forked
from tests.sink_servers import Server, bulk, saying, serving, splunk


class Watch:
    """A folder that is followed, and the file that its alerts go to."""

    def __init__(self, bundle: ModelBundle, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        self.logs, self.output = folder / "logs", folder / "alerts.jsonl"
        self.logs.mkdir()

    def following(self, **pace: float) -> Following:
        sinks = [LinesFile("output", self.output)]
        return Following(self.bundle, self.folder / "state", [self.logs], sinks, **pace)

    def once(self) -> list[dict[str, Any]]:
        """Start a process' worth of reading; the alerts that came of it."""
        before = len(self.alerts)
        with self.following() as follower:
            follower.once()
        return self.alerts[before:]

    def passes(self, follower: Follower, count: int) -> list[dict[str, Any]]:
        """So many looks of one process that follows."""
        before = len(self.alerts)
        for _ in range(count):
            follower.look()
        return self.alerts[before:]

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text().splitlines()] if self.output.exists() else []

    def check_none_twice(self) -> None:
        ids = [alert["metadata"]["uid"] for alert in self.alerts]
        assert len(set(ids)) == len(ids)


@pytest.fixture
def watch(flows: tuple[Path, ModelBundle], tmp_path: Path) -> Watch:
    return Watch(flows[1], tmp_path)


def rows_of(alerts: Sequence[dict[str, Any]]) -> list[int]:
    return sorted(int(alert["evidences"][0]["data"]["No"]) for alert in alerts)


def attacks(rows: range) -> list[int]:
    return [row for row in rows if row % 4 == 0]


def test_nothing_is_read_twice_and_what_comes_late_is_found(watch: Watch) -> None:
    (watch.logs / "2026-11-27.csv").write_bytes(table(range(100)))
    assert rows_of(watch.once()) == attacks(range(100))
    assert watch.once() == []
    late = watch.logs / "earlier" / "2026-11-01.csv"  # an older name, and an older time
    late.parent.mkdir()
    late.write_bytes(table(range(100, 200)))
    os.utime(late, (1, 1))
    found = watch.once()
    assert rows_of(found) == attacks(range(100, 200))
    assert found[0]["unmapped"]["found_in"] == str(late)
    assert watch.once() == []


def test_equal_rows_of_two_files_are_two_alerts(watch: Watch) -> None:
    """The twin goes by the finding's own id, which has the file's name and not its folder: it would lose one."""
    for folder in ("monday", "tuesday"):
        (watch.logs / folder).mkdir()
        (watch.logs / folder / "flows.csv").write_bytes(table(range(20)))
    alerts = watch.once()
    assert len(alerts) == 2 * len(attacks(range(20)))
    watch.check_none_twice()
    assert len({alert["finding_info"]["uid"] for alert in alerts}) == len(attacks(range(20)))


def test_a_renamed_file_is_not_read_again_and_its_old_name_is_free(watch: Watch) -> None:
    path = watch.logs / "conn.csv"
    path.write_bytes(table(range(40)))
    watch.once()
    path.rename(watch.logs / "conn.1.csv")
    assert watch.once() == []
    path.write_bytes(table(range(40)))  # the same rows in a new file are other records
    assert rows_of(watch.once()) == attacks(range(40))
    (watch.logs / "conn.1.csv").rename(watch.logs / "conn.2.csv")
    path.rename(watch.logs / "conn.1.csv")
    path.write_bytes(table(range(40, 80)))
    assert rows_of(watch.once()) == attacks(range(40, 80))
    a, b = watch.logs / "conn.1.csv", watch.logs / "conn.2.csv"
    a.rename(watch.logs / "x"), b.rename(a), (watch.logs / "x").rename(b)
    assert watch.once() == []
    watch.check_none_twice()


def test_a_replaced_or_longer_file_sends_what_is_new_in_it(watch: Watch) -> None:
    path = watch.logs / "flows.csv"
    path.write_bytes(table(range(40)))
    watch.once()
    path.write_bytes(table(range(60)))
    assert rows_of(watch.once()) == attacks(range(40, 60))
    other = watch.logs / ".flows.csv.tmp"
    other.write_bytes(table(range(1000, 1020)) + table(range(60)).partition(b"\n")[2][-1_000:].partition(b"\n")[2])
    other.replace(path)
    assert set(attacks(range(1000, 1020))) <= set(rows_of(watch.once()))
    watch.check_none_twice()


def test_a_file_is_read_when_it_rests(watch: Watch) -> None:
    path = watch.logs / "flows.csv"
    whole = table(range(80))
    with watch.following(settle=0.0) as follower, path.open("wb") as file:
        assert watch.passes(follower, 1) == []
        for cut in range(500, len(whole), 500):
            file.write(whole[cut - 500 : cut])
            file.flush()
            assert watch.passes(follower, 1) == [], "it changed since the last look"
        file.write(whole[cut:])
        file.close()
        assert watch.passes(follower, 1) == []
        assert rows_of(watch.passes(follower, 1)) == attacks(range(80))
        assert watch.passes(follower, 3) == []
        (watch.logs / "half.csv").write_bytes(whole[:1000])
        follower.look()
        (watch.logs / "half.csv").unlink()
        follower.look()
        assert not any(follower._unsettled.values())
    with watch.following(settle=1000.0) as follower:
        (watch.logs / "new.csv").write_bytes(table(range(80, 90)))
        assert watch.passes(follower, 5) == []


def test_two_folders_of_like_names_are_both_followed(flows: tuple[Path, ModelBundle], tmp_path: Path) -> None:
    places = [tmp_path / "logs", tmp_path / "logs-2"]
    for number, place in enumerate(places):
        place.mkdir()
        (place / "flows.csv").write_bytes(table(range(20 * number, 20 * number + 20)))
    single = tmp_path / "of.today"  # a file that was named is a log, whatever it is called
    single.write_bytes(table(range(40, 60)))
    output = tmp_path / "alerts.jsonl"
    sinks = [LinesFile("output", output)]
    with Following(flows[1], tmp_path / "state", [*places, single], sinks, settle=0.0) as follower:
        for _ in range(2):
            follower.look()
    assert rows_of([json.loads(line) for line in output.read_text().splitlines()]) == attacks(range(60))


def test_a_packed_file_is_read_when_it_has_its_end(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = watch.logs / "flows.csv.gz", gzip.compress(table(range(400)))
    path.write_bytes(whole[: len(whole) // 2])
    assert is_cut_off(path)
    with watch.following(settle=0.0) as follower:
        assert watch.passes(follower, 5) == []
        path.write_bytes(whole)
        assert not is_cut_off(path)
        assert rows_of(watch.passes(follower, 3)) == attacks(range(400))
        path.write_bytes(whole[: len(whole) // 2])  # and one that stays so
        monkeypatch.setattr(follow_module, "PATIENCE", 0.0)
        assert watch.passes(follower, 3) == [], "what is before the cut was sent"
        path.write_bytes(whole)
        assert watch.passes(follower, 3) == []
    watch.check_none_twice()


def test_parquet_without_its_end_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and some bytes")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and some bytes PAR1")
    (tmp_path / "c.csv").write_bytes(b"a,b\n1,")
    assert [is_cut_off(path) for path in sorted(tmp_path.iterdir())] == [True, False, False]


def test_a_malformed_file_stops_no_other_and_is_tried_when_it_is_written_anew(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    (watch.logs / "a.csv").write_bytes(table(range(20)))
    (watch.logs / "b.csv").write_bytes(b"other,columns\n1,2\n3,4\n")
    (watch.logs / "c.csv").write_bytes(table(range(20, 40)))
    (watch.logs / "readme.md").write_bytes(b"# no log\n")
    os.mkfifo(watch.logs / "pipe.csv")
    with pytest.raises(DataError, match=r"^1 files or objects were refused, the first: .*/logs/b\.csv: none of the"):
        watch.once()
    assert rows_of(watch.alerts) == attacks(range(40))
    assert f"until it is written anew: {watch.logs / 'b.csv'}: none of the columns" in caplog.text
    assert watch.once() == [], "it is not tried again"
    (watch.logs / "b.csv").write_bytes(table(range(40, 60)))
    assert rows_of(watch.once()) == attacks(range(40, 60))


def test_an_empty_listing_for_a_while_makes_nothing_new(watch: Watch) -> None:
    """A disk that is not mounted looks empty."""
    (watch.logs / "a.csv").write_bytes(table(range(20)))
    watch.once()
    away = watch.folder / "away"
    watch.logs.rename(away)
    with pytest.raises(DataError, match="no such file or folder"):
        watch.once()
    watch.logs.mkdir()
    assert watch.once() == []
    watch.logs.rmdir()
    away.rename(watch.logs)
    assert watch.once() == []


def test_two_processes_never_share_a_state(watch: Watch) -> None:
    with watch.following(), pytest.raises(ResumeError, match="another process works with it"):
        watch.following()
    watch.following().__exit__()
    (watch.folder / "state" / "state.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ResumeError, match="put it aside"):
        watch.following()


def test_a_sink_that_stays_down_keeps_its_alerts_for_the_next_start(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.delivery.FIRST_PAUSE", 0.001)
    monkeypatch.setenv("SPLUNK_TOKEN", "of-the-test")
    from client.sinks.options import sinks_of

    (watch.logs / "a.csv").write_bytes(table(range(20)))
    with serving(saying(503)) as server:
        options = [f"splunk={server.url}"]
        state = watch.folder / "state"
        with (
            Following(watch.bundle, state, [watch.logs], sinks_of(options, allow_http=False)) as follower,
            pytest.raises(NetworkError, match="5 alerts are kept"),
        ):
            follower.once()
        server.usual = splunk
        with Following(watch.bundle, state, [watch.logs], sinks_of(options, allow_http=False)) as follower:
            follower.once()
        assert len(server.taken) == 5
        assert not server.twice


def entry(name: str, version: str = "1", identity: str = "") -> Entry:
    return Entry(f"/logs/{name}", name, version, identity or name, 10)


def test_the_cursor_forgets_what_is_gone_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = FollowState(tmp_path / "state")
    cursor, outbox = Cursor(state), _outbox(state)
    now = 1_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    for name in "ab":
        cursor.listed("/logs", [entry("a"), entry("b")])
        (unread,) = [one for one in cursor.unread(10) if one.entry.name == name]
        batch = cursor.begin("/logs", [unread])
        with state.transaction():
            outbox.put(batch, [(f"id-{name}", b"{}")])
        cursor.was_read("/logs", batch, [unread])
    for days, known in ((1, 2), (31, 2), (62, 1)):
        now = 1_000_000.0 + days * 86_400
        cursor.listed("/logs", [entry("a")])
        assert _count(state, "objects") == _count(state, "found") == known
    assert cursor.unread(10) == []
    state.close()


def test_names_that_change_while_a_file_is_read_make_no_other_ids(tmp_path: Path) -> None:
    """A process died in a file whose name was another file's before; the next one makes the same ids."""
    state = FollowState(tmp_path / "state")
    cursor = Cursor(state)
    cursor.listed("/logs", [entry("a", identity="1")])
    first = cursor.unread(1)
    cursor.was_read("/logs", cursor.begin("/logs", first), first)
    cursor.listed("/logs", [entry("b", identity="1"), entry("a", identity="2")])
    (one,) = cursor.unread(5)
    assert one.origin not in ("/logs/a", "/logs/b")
    cursor.begin("/logs", [one])
    state.close()
    state = FollowState(tmp_path / "state")
    cursor = Cursor(state)
    cursor.listed("/logs", [entry("b", identity="1"), entry("c", identity="2")])
    (again,) = cursor.unread(5)
    assert (again.entry.name, again.origin) == ("c", one.origin)
    state.close()


def _outbox(state: FollowState) -> Any:
    from client.outbox import Outbox

    return Outbox(state, ["sink"])


def _count(state: FollowState, table_name: str) -> int:
    return int(state.database.execute(f"SELECT count(*) FROM {table_name}").fetchone()[0])


class Killed:
    """A folder that is followed by processes that die, and three sinks: Splunk, Elasticsearch and a file."""

    def __init__(self, run: Path, folder: Path, hec: Server, index: Server) -> None:
        self.run, self.folder, self.hec, self.index = run, folder, hec, index
        self.output = folder / "alerts.jsonl"
        self.rows = 0
        (folder / "logs").mkdir()

    def add(self, count: int) -> None:
        """One more file of so many rows."""
        content = table(range(self.rows, self.rows + count))
        (self.folder / "logs" / f"{self.rows:06d}.csv").write_bytes(content)
        self.rows += count

    def start(self, moment: str = "", call: int = 1, twin: str = "") -> int:
        """The exit code of a process that reads what is there, and dies at the moment."""
        options = [f"splunk={self.hec.url}", f"elasticsearch={self.index.url}/alerts", f"file={self.output}"]
        arguments = (self.run, moment, call, self.folder / "state", [str(self.folder / "logs")], options, twin)
        return Forked(self.folder / "printed", run_and_die, *arguments).finish()

    def check(self, again: int) -> None:
        """Every alert is at every sink, once; at Splunk at most `again` came a second time, as the same."""
        written = [json.loads(line) for line in self.output.read_text().splitlines()]
        assert rows_of(written) == attacks(range(self.rows))
        ids = sorted(alert["metadata"]["uid"] for alert in written)
        assert sorted(self.index.taken) == ids
        assert sorted(set(self.hec.taken)) == ids
        assert len(self.hec.twice) <= again


@pytest.fixture
def killed(flows: tuple[Path, ModelBundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Killed]:
    with serving(splunk) as hec, serving(bulk) as index:
        yield Killed(flows[0], tmp_path, hec, index)


def test_killed_at_every_moment_no_alert_is_lost_or_taken_twice(killed: Killed) -> None:
    """kill -9 at one moment after the other, with a new file each time, and then a start that is left alone."""
    for moment in MOMENTS:
        killed.add(100)
        assert killed.start(moment) == -9
    assert killed.start() == 0
    # Splunk can't refuse what it has: a batch whose answer was not recorded comes again, with the same ids.
    killed.check(again=30)


def test_the_twins_lose_alerts_or_send_them_twice(killed: Killed) -> None:
    killed.add(100)
    assert killed.start("after the file counts as read", twin="notes first") == -9
    assert killed.start() == 0
    assert killed.index.taken == [], "25 attacks"
    killed.add(100)
    assert killed.start("before the file counts as read", twin="ids of its own") == -9
    assert killed.start(twin="ids of its own") == 0
    assert len(killed.index.taken) > 25
    assert not killed.index.twice, "and nobody can tell"


@pytest.mark.long
@pytest.mark.parametrize("call", [1, 2, 3, 5])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_again_and_again_at_a_moment(killed: Killed, moment: str, call: int) -> None:
    for _ in range(3):
        killed.add(300)
        killed.add(100)
        assert killed.start(moment, call) in (0, -9)  # 0 where the moment does not come so often
    assert killed.start() == 0
    killed.check(again=3 * 30 if moment == "before a batch is settled" else 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--output is missing"),
        (["--follow"], "--output is missing"),
        (["--sink", "webhook=https://example.com"], "--state is missing"),
        (["--output", "{out}", "--follow", "--rank", "5"], "use --threshold"),
        (["--output", "{out}", "--follow", "--page", "{out}.html"], "--page: shows all alerts of one reading"),
        (["--output", "{out}", "--sink", "file={out}.2", "--groups", "{out}.g"], "--groups: shows all alerts"),
        (["--output", "{out}", "--sink", "file={out}.2", "--navigator", "{out}.n"], "--navigator: shows all alerts"),
        (["--output", "{logs}/a.jsonl", "--follow"], "is, or is in, what is scored"),
        (["--output", "{out}", "--follow", "--state", "{logs}/state"], "is, or is in, what is scored"),
        (["--output", "{out}", "--sink", "file={logs}/b.jsonl"], "is, or is in, what is scored"),
        (["--output", "{out}", "--follow", "--poll", "-1"], "--poll -1: expected 0 to 86400"),
        (["--output", "{out}", "--follow", "--history", "nan"], "--history nan: expected 0 to 168"),
        (["--output", "{out}", "--sink", "splunk=https://splunk"], "SPLUNK_TOKEN is not set"),
    ],
)
def test_options_that_are_refused_before_anything_is_read(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").mkdir()
    given = [option.format(logs=tmp_path / "logs", out=tmp_path / "alerts.jsonl") for option in options]
    assert score.main(["--model", "nowhere", "--input", str(tmp_path / "logs"), *given]) == 2
    assert told in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == [tmp_path / "logs"]


def test_the_script_sends_what_is_there_and_says_so(
    flows: tuple[Path, ModelBundle], watch: Watch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLUNK_TOKEN", "of-the-test")
    (watch.logs / "a.csv").write_bytes(table(range(40)))
    state = watch.folder / "state"
    with serving(splunk) as server:
        arguments = ["--model", str(flows[0]), "--input", str(watch.logs), "--state", str(state), "--sink"]
        assert score.main([*arguments, f"splunk={server.url}"]) == 0
        assert len(server.taken) == 10
        assert score.main([*arguments, f"splunk={server.url}"]) == 0
        assert len(server.taken) == 10
    told = capsys.readouterr().out
    assert "1 read, 40 records scored, 10 new alerts, 0 known ones" in told
    assert "of-the-test" not in told
    assert state.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in state.iterdir())
