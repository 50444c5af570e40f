"""The log of rounds: what a kill leaves of it, what is cut off when a run goes on, and what is refused."""

import json
import os
from pathlib import Path

import pytest

from orchestrator.run_folder import LoggedRounds, RoundRecord, RunFolder
from shared.config import Config
from shared.errors import ConfigError, ResumeError

RECORDS = [
    RoundRecord(round=1, contributors=2, contributor_ids=["0", "2"], failed={"1": "lost"}, loss=0.1 + 0.2),
    RoundRecord(round=2, skipped="too few", failures=3),
    RoundRecord(round=3, contributors=3, contributor_ids=["0", "1", "2"], client_loss=0.5),
]


@pytest.fixture
def written(tmp_path: Path) -> RunFolder:
    """With three rounds in its log."""
    folder = RunFolder(tmp_path)
    for record in RECORDS:
        folder.append_record(record)
    return folder


def opened_again(folder: RunFolder) -> RunFolder:
    return RunFolder(folder.path)


def test_what_is_appended_comes_back(written: RunFolder) -> None:
    assert written.logged.count == 3
    again = opened_again(written)
    assert again.restore_records(written.logged) == RECORDS
    assert again.logged == written.logged
    assert [json.loads(line)["round"] for line in written.metrics.read_bytes().splitlines()] == [1, 2, 3]


def test_a_log_dir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """It said "make room for the run's files, then go on with --resume", though there was no run yet."""
    (tmp_path / "file").touch()
    log_dir = str(tmp_path / "file" / "logs")
    with pytest.raises(ConfigError, match=r"log_dir = .*Not a directory; set another log_dir, or let this user write"):
        RunFolder.create(Config(log_dir=log_dir))


def test_a_line_is_on_the_disk_before_append_returns(written: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(written.metrics.read_bytes()))
    written.append_record(RoundRecord(round=4))
    assert synced == [written.metrics.read_bytes()]


def test_a_round_is_written_once_however_many_follow(written: RunFolder) -> None:
    """The twin that writes the whole log anew would make another file, or other bytes at its start."""
    before, file = written.metrics.read_bytes(), written.metrics.stat().st_ino
    written.append_record(RoundRecord(round=4))
    assert written.metrics.read_bytes().startswith(before)
    assert written.metrics.stat().st_ino == file


def test_every_cut_of_a_line_that_was_never_finished_is_cut_off(
    written: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed while it wrote round 4, at any byte, or after it and before the checkpoint."""
    finished, before = written.logged, written.metrics.read_bytes()
    written.append_record(RoundRecord(round=4, contributors=3))
    whole = written.metrics.read_bytes()
    for length in range(len(before), len(whole) + 1):
        written.metrics.write_bytes(whole[:length])
        caplog.clear()
        again = opened_again(written)
        with caplog.at_level("WARNING", logger="orchestrator"):
            assert again.restore_records(finished) == RECORDS
        assert written.metrics.read_bytes() == before
        said = [record.getMessage() for record in caplog.records]
        cut = f"metrics.jsonl: cut off {length - len(before)} bytes after round 3, of a round that was not finished"
        assert said == ([cut] if length > len(before) else [])
    again.append_record(RoundRecord(round=4, contributors=3))
    assert written.metrics.read_bytes() == whole, "the round is written anew where the other one was"
    assert again.logged == written.logged


def test_a_run_without_a_finished_round_begins_with_an_empty_log(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(b'{"round": 1}\n')
    assert folder.restore_records(LoggedRounds()) == []
    assert folder.metrics.read_bytes() == b""


def test_every_shorter_log_is_refused_and_left_alone(written: RunFolder) -> None:
    whole = written.metrics.read_bytes()
    for length in range(len(whole)):
        written.metrics.write_bytes(whole[:length])
        line = whole[:length].count(b"\n") + 1
        with pytest.raises(ResumeError, match=rf"metrics\.jsonl, line {line}: missing or cut off.*round 3; restore"):
            opened_again(written).restore_records(written.logged)
        assert written.metrics.stat().st_size == length


def test_a_flipped_bit_in_any_byte_is_refused(written: RunFolder) -> None:
    """A digit of a validation loss with one bit turned would choose another best round: only the digest can tell."""
    whole = written.metrics.read_bytes()
    for index in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[index] ^= 1 << index % 8
        written.metrics.write_bytes(spoilt)
        with pytest.raises(ResumeError, match=r"restore metrics\.jsonl and checkpoint\.safetensors from one backup"):
            opened_again(written).restore_records(written.logged)
        assert written.metrics.read_bytes() == spoilt


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(b"[" * 100_000, "nested too deeply", id="nested too deep"),
        pytest.param(b"\xff", "not UTF-8", id="no text"),
        pytest.param(b"3", "record 2 is not of round 2", id="a number"),
        pytest.param(b'{"loss": 1.0}', "record 2 is not of round 2", id="no round"),
        pytest.param(b'{"round": "2"}', "record 2 is not of round 2", id="a round that is a text"),
        pytest.param(b'{"round": true}', "record 2 is not of round 2", id="a round that is true"),
        pytest.param(b'{"round": 3}', "record 2 is not of round 2", id="a round too far"),
        pytest.param(b'{"round": 1}', "record 2 is not of round 2", id="a round twice"),
        pytest.param(b'{"round": 2, "round": 2}', "a key is given twice", id="a key twice"),
        pytest.param(b'{"round": 2, "contributor_ids": 7}', "contributor_ids = 7", id="contributors as a number"),
        pytest.param(b'{"round": 2, "contributor_ids": [7]}', "name clients", id="a contributor as a number"),
        pytest.param(b'{"round": 2, "loss": "low"}', "loss = 'low'", id="a loss that is a text"),
        pytest.param(b'{"round": 2, "family_recall": {"dos": "x"}}', "family_recall", id="a recall that is a text"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(b'{"round": 1}\n' + line + b"\n")
    with pytest.raises(ResumeError, match=rf"metrics\.jsonl, line 2: .*{message}"):
        folder.restore_records(LoggedRounds(2))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ResumeError, match="No such file or directory; restore"):
        folder.restore_records(LoggedRounds())
    os.mkfifo(folder.metrics, 0o600)
    with pytest.raises(ResumeError, match="not a regular file; restore"):
        folder.restore_records(LoggedRounds(1))
