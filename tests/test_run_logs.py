"""A tenant's log files: no name that a server gives decides which of them go, or leads out of their folder."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import run_logs as run_logs_module
from client.run_logs import KEPT_DAYS, MOST_A_DAY, RunLogs
from client.tenant import Tenant
from shared.config import Config
from shared.data_utils import load_client_data
from shared.exchange import Kind, Refusal, Reply, Request
from tests.processes import SMALL

DAY = 86_400
_log = logging.getLogger("test-run-logs")


@pytest.fixture(autouse=True)
def _no_file_of_another_test() -> Iterator[None]:
    yield
    for logger in (_log, logging.getLogger("client.0")):
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def name_of(number: int, date: str = "20260101") -> str:
    return f"{date}-120000-{number:06x}"


def wrote(log_dir: Path, run: str, days_ago: float, *, more: tuple[str, ...] = ()) -> Path:
    """A log of before, whose last line is that old."""
    folder = log_dir / run
    folder.mkdir(parents=True)
    for name in ("client-0.log", *more):
        (folder / name).write_text("what I did\n", encoding="utf-8")
    then = time.time() - days_ago * DAY
    os.utime(folder / "client-0.log", (then, then))
    return folder / "client-0.log"


def tenant(log_dir: Path, keep_runs: int) -> Tenant:
    config = Config(**SMALL, log_dir=str(log_dir), keep_runs=keep_runs)
    return Tenant(config, 0, load_client_data(config, 0))


def greet(who: Tenant, run: object) -> Reply | Refusal:
    return who.answer(Request(Kind.GREET, {"run": run, "session": "s", "nonce": b""}))  # type: ignore[dict-item]


def test_chosen_names_remove_no_log_of_the_tenant(tmp_path: Path) -> None:
    """`keep_runs` greetings with names of the year 9999, and each log of before was gone."""
    mine = [wrote(tmp_path, name_of(number), days_ago=number) for number in range(5)]
    who = tenant(tmp_path, keep_runs=3)
    for number in range(10):
        assert isinstance(greet(who, name_of(number, "99991231")), Reply)
    assert all(path.exists() for path in mine)


def test_what_is_old_by_the_tenants_own_clock_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    # Their names say the opposite of their age.
    old = [wrote(tmp_path, name_of(9 - number), days_ago=KEPT_DAYS + 1 + number) for number in range(4)]
    recent = wrote(tmp_path, name_of(0, "19990101"), days_ago=KEPT_DAYS - 1)
    greet(tenant(tmp_path, keep_runs=3), name_of(0, "20260301"))
    assert [path.exists() for path in (*old, recent)] == [True, False, False, False, True]
    assert not old[3].parent.exists()
    assert "removed my logs of 3 runs of before (keep_runs: 3)" in caplog.messages


def test_nothing_goes_that_the_tenant_did_not_write(tmp_path: Path) -> None:
    """The folder may be that of a server on the same machine, or of other tenants."""
    more = ("client-0.log.1", "server.log", "client-1.log", "model.safetensors")
    old = wrote(tmp_path, name_of(1), KEPT_DAYS + 5, more=more)
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (elsewhere / "client-0.log").write_text("x")
    os.utime(elsewhere / "client-0.log", (0, 0))
    (tmp_path / name_of(2)).symlink_to(elsewhere)
    greet(tenant(tmp_path, keep_runs=1), name_of(3))
    assert sorted(path.name for path in old.parent.iterdir()) == ["client-1.log", "model.safetensors", "server.log"]
    assert (elsewhere / "client-0.log").exists()


def test_all_stay_unless_asked_for(tmp_path: Path) -> None:
    old = wrote(tmp_path, name_of(1), days_ago=1000)
    greet(tenant(tmp_path, keep_runs=0), name_of(2))
    assert old.exists()


def test_a_name_that_was_before_goes_on_in_its_file(tmp_path: Path) -> None:
    """A run that is resumed; nothing of what was written is written over."""
    before = wrote(tmp_path, name_of(1), days_ago=KEPT_DAYS + 5)
    greet(tenant(tmp_path, keep_runs=1), name_of(1))
    lines = before.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "what I did"
    assert "found run" in lines[1]


def test_a_thousand_names_make_no_thousand_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    who = tenant(tmp_path, keep_runs=0)
    for number in range(300):
        assert isinstance(greet(who, name_of(number)), Reply), "the run itself goes on"
    assert len(list(tmp_path.glob("*/client-0.log"))) == MOST_A_DAY
    assert sum("runs within a day" in line for line in caplog.messages) == 1
    last = tmp_path / name_of(MOST_A_DAY - 1) / "client-0.log"
    assert f"found run {name_of(299)}" in last.read_text(encoding="utf-8"), "no line is lost"


def test_who_starts_anew_is_held_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_logs_module, "MOST_A_DAY", 2)
    for number, days in ((1, 0.1), (2, 0.2), (3, 5)):
        wrote(tmp_path, name_of(number), days)
    greet(tenant(tmp_path, keep_runs=0), name_of(4))
    assert not (tmp_path / name_of(4)).exists()
    assert "found run" in (tmp_path / name_of(1) / "client-0.log").read_text(encoding="utf-8")
    monkeypatch.setattr(run_logs_module, "MOST_A_DAY", 4)
    logs = RunLogs(Config(log_dir=str(tmp_path)), 0, _log)
    logs.enter(name_of(5))
    assert (tmp_path / name_of(5)).exists()


@pytest.mark.parametrize(
    "name",
    [
        "../20260101-120000-abcdef", "20260101-120000-abcdef/../..", "/20260101-120000-abcdef",
        "20260101-120000-abcdef\n", "20260101-120000-abcdef\0", "20260101-120000-abcdef/", "..", "", "latest", "state",
        "20260101-120000-ABCDEF", "２０２６０１０１-１２００００-abcdef", b"20260101-120000-abcdef", None, 7,
    ],
)  # fmt: skip
def test_a_name_leads_nowhere_else(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "a" / "logs"
    folder.mkdir(parents=True)
    assert isinstance(greet(tenant(folder, keep_runs=1), name), Refusal)
    assert [path for path in tmp_path.rglob("*") if path.name not in ("a", "logs")] == []
