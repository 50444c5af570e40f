"""Tenants that stay from run to run: when they come again, what they say of it, and what stays of old runs."""

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import yaml

from client import connection as connection_module
from client.connection import FIRST_WAIT_SECONDS, LOOKING_SECONDS, REFUSED_SECONDS, Backoff, run_client
from client.flower_client import FlowerClient
from client.server_key import check_pin
from client.tenant import Tenant
from orchestrator.run_folder import RunFolder
from shared import console as console_module
from shared.config import Config, parse_config
from shared.console import LOG_FILES, add_log_file, set_log_format, setup_logging
from shared.data_utils import load_client_data
from shared.errors import ConfigError, KeyMaterialError
from shared.retention import remove_old_runs
from tests.conftest import Start
from tests.living import Stopped
from tests.processes import SMALL, free_port, write_config

SERVER, CLIENTS = "orchestrator/run_server.py", "client/run_clients.py"
_log = logging.getLogger("test-staying")


class Ended(grpc.RpcError):  # type: ignore[misc]
    """How a stream ended."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._said = (code, details)

    def code(self) -> grpc.StatusCode:
        return self._said[0]

    def details(self) -> str:
        return self._said[1]


REFUSAL = Ended(grpc.StatusCode.PERMISSION_DENIED, "client 'client-2' is revoked")
LOST = Ended(grpc.StatusCode.UNAVAILABLE, "Socket closed")
OVER = "the run is over"


@pytest.fixture
def lived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[..., tuple[list[float], list[str]]]:
    """A client's life: how each of its streams goes; what it waited after each, in seconds, and what it said."""
    config = Config(**SMALL, server_address=f"127.0.0.1:{free_port()}", log_dir=str(tmp_path / "logs"))
    client = FlowerClient(Tenant(config, 0, load_client_data(config, 0)))

    def live(streams: list[Any], stay: bool = True) -> tuple[list[float], list[str]]:
        waits: list[float] = []
        left = iter(streams)

        def serve(_client: FlowerClient, _channel: grpc.Channel) -> bool:
            match next(left, None):
                case None:
                    raise Stopped
                case (greeted, Ended() as error):
                    client.welcome = greeted
                    raise error
            client.welcome = True
            return True

        monkeypatch.setattr(connection_module, "serve", serve)
        monkeypatch.setattr(connection_module, "check_channel", lambda _config: None)
        monkeypatch.setattr("client.connection.time.sleep", waits.append)
        caplog.clear()
        if stay:
            with pytest.raises(Stopped):
                run_client(client, stay=True)
        else:
            run_client(client)
        return waits, caplog.messages

    return live


def test_a_client_that_is_refused_comes_less_and_less_often_and_says_so_once(lived: Any) -> None:
    """85 lines in 79 seconds it was."""
    waits, said = lived([(True, REFUSAL)] * 40)
    assert said == ["the server refuses this client: client 'client-2' is revoked; trying again, less and less often"]
    longest = [min(FIRST_WAIT_SECONDS * 2**i, REFUSED_SECONDS) for i in range(40)]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert sum(waits) > 20 * 60 / 2
    assert len({round(wait, 6) for wait in waits[10:]}) > 20, "a thousand tenants don't come at once"


def test_a_client_that_stays_has_one_line_for_each_change_of_state(lived: Any) -> None:
    waits, said = lived([(False, LOST), (False, LOST), OVER, (False, LOST), (True, LOST), (False, LOST), OVER])
    assert said == [
        "looking for the server",
        "the run is over; waiting for the next one",
        "looking for the server",
        "lost the server (UNAVAILABLE: Socket closed); looking for it again",
        "looking for the server",
        "the run is over; waiting for the next one",
    ]
    assert max(waits) <= LOOKING_SECONDS
    assert waits[2] <= FIRST_WAIT_SECONDS, "a run that went well begins the waits anew"


def test_a_client_that_does_not_stay_ends_with_its_run(lived: Any) -> None:
    assert lived([OVER], stay=False) == ([], [])


def test_waits_grow_to_their_limit_and_begin_anew() -> None:
    backoff = Backoff()
    for _ in range(20):
        assert backoff.seconds(LOOKING_SECONDS) <= LOOKING_SECONDS
    assert backoff.seconds(REFUSED_SECONDS) >= LOOKING_SECONDS / 2, "another limit goes on from there"
    backoff.reset()
    assert backoff.seconds(REFUSED_SECONDS) <= FIRST_WAIT_SECONDS


# What stays on the disk


def runs_in(folder: Path, number: int) -> list[str]:
    names = [f"2026010{i}-120000-00000{i}" for i in range(1, number + 1)]
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "server.log").write_text("x")
    return names


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.is_symlink())


def test_the_newest_runs_stay_and_what_is_no_run(tmp_path: Path) -> None:
    names = runs_in(tmp_path, 6)
    (tmp_path / "state").mkdir()
    (tmp_path / "20260101-notes").mkdir()
    (tmp_path / "latest").symlink_to(names[-1])
    assert remove_old_runs(tmp_path, 0, names[-1], _log) == []
    assert remove_old_runs(tmp_path, 3, names[-1], _log) == [names[2], names[1], names[0]]
    assert left_in(tmp_path) == sorted([*names[3:], "state", "20260101-notes"])


def test_neither_the_newest_nor_one_at_work_goes(tmp_path: Path) -> None:
    config = Config(log_dir=str(tmp_path))
    names = runs_in(tmp_path, 5)
    at_work = RunFolder(tmp_path / names[0])
    at_work.lock()
    (tmp_path / "latest").symlink_to(names[1])
    assert remove_old_runs(tmp_path, 1, names[2], _log) == [names[4], names[3]]
    assert left_in(tmp_path) == names[:3], "one at work, the one that `latest` names, the current one"
    at_work.unlock()
    assert remove_old_runs(tmp_path, 1, names[2], _log) == [names[0]]
    assert RunFolder.create(config).path.is_dir()


def test_a_link_in_the_place_of_a_run_leads_nowhere_else(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    names = runs_in(tmp_path / "logs", 2)
    (tmp_path / "logs" / "20250101-120000-000000").symlink_to(precious)
    (tmp_path / "logs" / names[0] / "link").symlink_to(precious)
    assert remove_old_runs(tmp_path / "logs", 1, names[1], _log) == [names[0]]
    assert (precious / "file").exists()


def test_a_log_file_that_is_full_is_put_aside_and_each_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "LOG_FILE_BYTES", 10_000)
    before = os.umask(0)
    try:
        add_log_file(_log, tmp_path / "server.log")
        for number in range(1000):
            _log.info("line %d %s", number, "x" * 90)
    finally:
        os.umask(before)
        for handler in list(_log.handlers):
            _log.removeHandler(handler)
            handler.close()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["server.log", *(f"server.log.{i + 1}" for i in range(LOG_FILES))]
    assert all(path.stat().st_size <= 10_000 and path.stat().st_mode & 0o077 == 0 for path in files)
    assert "line 999 " in files[0].read_text()


def test_json_lines_hold_one_object_each_whatever_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        setup_logging(bars=False)
        set_log_format("json")
        add_log_file(_log, tmp_path / "a.log")
        _log.warning("client %s: “%s”", "1", "a\nb\x1b[2J " + "x" * 500)
        try:
            raise ValueError("in\ntwo lines")
        except ValueError:
            _log.exception("stopped")
    finally:
        set_log_format("text")
        for handler in list(_log.handlers):
            _log.removeHandler(handler)
            handler.close()
        root.handlers[:] = before
        root.setLevel(level)
    screen = capsys.readouterr().out
    for text in ((tmp_path / "a.log").read_text(encoding="utf-8"), screen):
        first, second = (json.loads(line) for line in text.splitlines())
        assert first.keys() == {"time", "level", "logger", "message"}
        assert (first["level"], first["logger"]) == ("WARNING", "test-staying")
        assert first["message"].startswith("client 1: “a b\N{REPLACEMENT CHARACTER}[2J xxx")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
        assert "ValueError" in second["traceback"]


# A key that is exchanged without a gap


def test_each_of_several_pinned_keys_is_taken_and_no_other() -> None:
    def scheme(fingerprint: str) -> Any:
        return SimpleNamespace(fingerprint=lambda: fingerprint)

    present, following = "ab" * 32, "cd" * 32
    config = Config(pinned_key_fingerprint=(present, following))
    check_pin(config, scheme(present))
    check_pin(config, scheme(following))
    with pytest.raises(KeyMaterialError, match=f"insists on {present} or {following}"):
        check_pin(config, scheme("ef" * 32))
    assert parse_config({"pinned_key_fingerprint": present}).pinned_key_fingerprint == (present,)
    check_pin(parse_config({"pinned_key_fingerprint": ""}), scheme("ef" * 32))
    assert parse_config(yaml.safe_load(config.as_yaml())) == config
    with pytest.raises(ConfigError, match="pinned_key_fingerprint = 'xy': expected 64 lower-case hex digits"):
        Config(pinned_key_fingerprint=(present, "xy"))


# Real processes


@pytest.mark.long
def test_tenants_stay_for_the_next_run_and_old_runs_go(start: Start, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, num_rounds=1, keep_runs=2, log_format="json"))
    clients = start(CLIENTS, "--config", config, "--stay")
    names = []
    for _ in range(3):
        end = start(SERVER, "--config", config).finish()
        assert end.code == 0, end.output
        names.append((tmp_path / "logs" / "latest").resolve().name)
        lines = [line for line in end.output.splitlines() if line.startswith("{")]
        assert any("connected" in json.loads(line)["message"] for line in lines)
    assert len(set(names)) == 3
    assert [path.name for path in sorted((tmp_path / "logs").glob("2*"))] == sorted(names[1:])
    clients.interrupt()
    end = clients.finish()
    assert end.code == 130, end.output
    assert end.output.count("the run is over; waiting for the next one") == 3 * 3
