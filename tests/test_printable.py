"""Texts of others: whatever they hold, they forge no line, move no cursor and hide nothing, in any sink."""

import io
import logging
import sys
import unicodedata
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.seats import Seats
from shared import console as console_module
from shared.console import add_log_file, setup_logging
from shared.errors import DataError
from shared.exchange import Refusal
from shared.printable import LONGEST_ERROR, LONGEST_LINE, printable
from shared.refusals import spelt_out
from tests.full_disks import no_file_beyond
from tests.test_seats import Ends

FORGED = "2026-01-01 00:00:00,000 INFO    client 7 connected"
HOSTILE = f"lost\n{FORGED}\r\x1b[2J\x1b]0;title\x07\u202eegassem\u2066\u200b\x00\x9b31m\u2028\ud800\U000e0041 end"


def is_fit(text: str) -> bool:
    """One line of letters, signs and plain spaces; every line break of Unicode, too, is told by its category."""
    return not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for letter in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("client 3: 2,5 % – naïve, 漢字", "client 3: 2,5 % – naïve, 漢字", id="ordinary text stays"),
        pytest.param("INFO    padded", "INFO    padded", id="so do plain spaces"),
        pytest.param("a\r\n\tb\u2028c\u00a0d", "a b c d", id="line breaks and tabs become a space"),
        pytest.param("a\x00\u202eb", "a�b", id="one sign for a run"),
        pytest.param("\x1b[31mred\x9b0m", "�[31mred�0m", id="escape sequences, of one byte too"),
        pytest.param("a\ud800b", "a�b", id="half a surrogate pair"),
        pytest.param("\u200b\ufeff", "�", id="nothing that shows"),
        pytest.param(" \n ", "", id="blank"),
    ],
)
def test_what_becomes_of_a_text(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_every_character_of_unicode() -> None:
    for first in range(0, sys.maxunicode + 1, 64):
        shown = printable("".join(map(chr, range(first, min(first + 64, sys.maxunicode + 1)))))
        assert is_fit(shown), hex(first)
        assert "(cut)" not in shown, "what is cut is not looked at"


@pytest.mark.parametrize("text", ["x" * 301, "x" * 10_000_000, "\x00" * 10_000_000, "\x00x" * 5_000, " " * 10_000])
def test_it_is_of_bounded_length_and_says_that_it_was_cut(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= 300
    assert shown.endswith("… (cut)")
    assert printable(shown) == shown


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print(f"error: {DataError(HOSTILE + 'x' * 1_000_000)}")
    line = capsys.readouterr().out.removesuffix("\n")
    assert is_fit(line)
    assert len(line) <= LONGEST_ERROR + 10


def test_a_log_file_and_the_screen_hold_one_line_for_each_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console_module, "console", Console(file=screen, width=200, soft_wrap=True))
    root, log = logging.getLogger(), logging.getLogger("test-printable")
    before, level = list(root.handlers), root.level
    try:
        setup_logging(bars=False)
        add_log_file(log, tmp_path / "a.log")
        log.warning("client 1: %s", HOSTILE)
        log.warning("client 2: %s", "x" * 1_000_000)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception("stopped: %s", HOSTILE)
    finally:
        for handler in log.handlers:
            handler.close()
        root.handlers[:], log.handlers[:] = before, []
        root.setLevel(level)
    for text in ((tmp_path / "a.log").read_text(encoding="utf-8"), screen.getvalue()):
        lines = text.removesuffix("\n").split("\n")
        assert all(is_fit(line) for line in lines)
        assert not any(line.startswith(FORGED) for line in lines)
        assert "client 1: lost 2026" in lines[0]
        assert len(lines[1]) <= LONGEST_LINE
        assert [line[:1] for line in lines[3:]] == [" "] * (len(lines) - 3), "a traceback is indented"
        assert any("test_printable.py" in line for line in lines[3:])


def test_a_full_disk_costs_lines_of_the_file_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console_module, "console", Console(file=screen, width=200, soft_wrap=True))
    log, path = logging.getLogger("test-printable"), tmp_path / "a.log"
    add_log_file(log, path)
    try:
        log.warning("the first")
        with no_file_beyond(path.stat().st_size + 20):
            for number in range(3):
                log.warning("line %d", number)
        log.warning("the last")
        with no_file_beyond(0):
            log.warning("lost")
            add_log_file(log, tmp_path / "b.log")  # which closes the first
    finally:
        for handler in list(log.handlers):
            log.removeHandler(handler)
            handler.close()
    assert "Traceback" not in capsys.readouterr().err
    assert screen.getvalue().count("can't be written: File too large; make room") == 1
    assert "the last" in path.read_text(encoding="utf-8")


def test_a_log_without_the_formatter_is_forged(tmp_path: Path) -> None:
    """The attack works where it should: the twin of the test above."""
    handler = logging.FileHandler(tmp_path / "a.log", encoding="utf-8", errors="replace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.emit(logging.makeLogRecord({"msg": "client 1: %s", "args": (HOSTILE,)}))
    handler.close()
    lines = (tmp_path / "a.log").read_text(encoding="utf-8").split("\n")
    assert any(line.startswith(FORGED) for line in lines)


def test_a_logger_writes_to_one_file_at_a_time_and_that_is_its_owners_alone(tmp_path: Path) -> None:
    log = logging.getLogger("test-printable")
    try:
        for number in range(400):
            add_log_file(log, tmp_path / f"run-{number}" / "client.log")
        log.warning("here")
        assert len(log.handlers) == 1
        own = str(tmp_path)
        descriptors = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        assert sum(str(path).startswith(own) for path in descriptors) == 1
    finally:
        for handler in list(log.handlers):
            log.removeHandler(handler)
            handler.close()
    last = tmp_path / "run-399" / "client.log"
    assert "here" in last.read_text(encoding="utf-8")
    assert (last.stat().st_mode & 0o077, last.parent.stat().st_mode & 0o077) == (0, 0)


def test_what_a_status_says_is_made_printable() -> None:
    assert is_fit(spelt_out(HOSTILE))
    assert len(spelt_out("x" * 1_000_000)) <= 300
    assert spelt_out("masking: weak key") == "masking: weak key: a tenant's key is weak"


def test_a_greeting_that_is_answered_by_a_hostile_text() -> None:
    ends = Ends()
    ends.connect(Seats("run", "session"), "a", lambda _request: Refusal(HOSTILE + "x" * 1_000_000))
    assert is_fit(ends.told["a"])
    assert len(ends.told["a"]) < 400
