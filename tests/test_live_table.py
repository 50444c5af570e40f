"""The server on a terminal: one table that grows, in the place of a scroll of lines. Elsewhere the lines stay."""

import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.eyes.terminal import LiveTable, round_table
from orchestrator.observers import Asked
from shared.config import Config
from shared.console import close_display, open_display
from shared.exchange import Kind
from tests.conftest import Start
from tests.processes import ROOT, write_config
from tests.run_folders import example_rounds
from tests.terminal import Terminal

SERVER, CLIENTS = "orchestrator/run_server.py", "client/run_clients.py"
TRAINING = Asked(Kind.TRAIN, 5, Kind.TRAIN, 3)

# Lines of a log on whatever the standard output is, with a display over them for a while.
SPEAKING = """
import logging, time
from shared.console import close_display, open_display, setup_logging, wait_for

class Drawing:
    said = ""
    def say(self, line):
        self.said = line
    def draw(self):
        return f"a table of rounds\\nthat grows\\n{self.said}"

setup_logging()
log = logging.getLogger("orchestrator")
log.info("before it")
open_display(Drawing())
log.info("a line of the log")
time.sleep(0.6)
log.warning("client 2 is left out")
with wait_for(log, "round 3 of 9: 3 clients train", 3) as arrived:
    arrived(1)
    time.sleep(0.6)
close_display()
log.info("after it")
"""


def drawn(table: LiveTable, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(width=width, file=out).print(table.draw())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_table_shows_the_rounds_what_goes_on_and_the_time_left() -> None:
    table = LiveTable(Config(num_rounds=9))
    table.began([])
    assert drawn(table) == ["waiting for clients  0 s", ""]
    records = example_rounds(4)
    for record in records:
        table.committed(record)
    table.asked(TRAINING)
    table.answered(TRAINING)
    table.say("client 2 \x1b[31mconnected\nand more")
    *rounds, going_on, said = drawn(table)
    assert [line.split()[1] for line in rounds if re.match(r"│ +\d", line)] == ["1", "2", "3", "4"]
    assert re.fullmatch(r"round 5 of 9: 3 clients train  ━+ +1/3  \d+ s, about \d\d s left", going_on)
    assert said == "client 2 \N{REPLACEMENT CHARACTER}[31mconnected and more"
    assert max(map(len, (*rounds, going_on, said))) <= 80


def test_a_long_run_shows_the_rounds_that_the_screen_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.eyes.terminal.console", Console(width=80, height=20, file=io.StringIO()))
    table = LiveTable(Config(num_rounds=500))
    table.began(example_rounds(100))
    lines = drawn(table)
    assert [line.split()[1] for line in lines if re.match(r"│ +\d", line)] == [str(n) for n in range(93, 101)]
    assert len(lines) < 20


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (130, ["round", "clients", "loss", "accuracy", "ROC-AUC", "PR-AUC", "FPR", "clients s", "add s", "decrypt s",
               "round s", "KB/client"]),
        (80, ["round", "clients", "loss", "accuracy", "ROC-AUC", "PR-AUC", "FPR", "round s"]),
        (60, ["round", "clients", "loss", "accuracy", "ROC-AUC", "round s"]),
        (40, ["round", "loss", "accuracy", "ROC-AUC"]),
    ],
)  # fmt: skip
def test_a_narrow_terminal_has_fewer_columns_and_each_figure_whole(
    monkeypatch: pytest.MonkeyPatch, width: int, shown: list[str]
) -> None:
    console = Console(width=width, file=io.StringIO())
    monkeypatch.setattr("orchestrator.eyes.terminal.console", console)
    with console.capture() as capture:
        console.print(round_table(example_rounds(12)))
    header = next(line for line in capture.get().splitlines() if line.startswith("┃"))
    assert [name.strip() for name in header.strip("┃").split("┃")] == shown
    assert "…" not in capture.get()


def test_where_nothing_is_drawn_there_is_no_display() -> None:
    assert not open_display(LiveTable(Config())), "the tests' output is no terminal"
    close_display()


def speaking(width: int = 80) -> list[str]:
    terminal = Terminal([sys.executable, "-c", SPEAKING], width, ROOT, {"PYTHONPATH": str(ROOT)})
    try:
        screen = terminal.finish()
    finally:
        terminal.kill()
    assert screen.code == 0, screen.raw
    assert screen.cursor_is_shown
    assert "a line of the log" in screen.raw, "it stood below the table"
    assert "that grows" in screen.raw
    return screen.lines


def test_on_a_terminal_the_table_stands_for_the_lines_and_warnings_stay() -> None:
    lines = [line for line in speaking() if line]
    assert [line.partition("orchestrator ")[2] for line in lines] == ["before it", "client 2 is left out", "after it"]


def test_where_there_is_no_terminal_every_line_is_printed_and_no_table() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPEAKING], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition("orchestrator ")[2] for line in done.stdout.splitlines()] == [
        "before it", "a line of the log", "client 2 is left out", "round 3 of 9: 3 clients train", "after it",
    ]  # fmt: skip


@pytest.mark.long
def test_a_server_on_a_terminal_shows_its_rounds_while_they_run(start: Start, tmp_path: Path) -> None:
    # The screen is drawn four times a second: of so many rounds some are seen, however quick the machine.
    config = str(write_config(tmp_path, num_rounds=40, local_epochs=5))
    server = Terminal([sys.executable, SERVER, "--config", config], 80, ROOT, {"PYTHONPATH": str(ROOT)})
    try:
        server.wait_for("waiting for clients: 0 of 3 connected")
        clients = start(CLIENTS, "--config", config)
        server.wait_for("s left")
        screen = server.finish()
    finally:
        server.kill()
    assert (screen.code, clients.finish().code) == (0, 0), screen.raw
    text = "\n".join(screen.lines)
    assert text.count("rounds of the global model") == 1, "the table that grew has gone, the last one stays"
    assert "round 2: loss" not in text
    log = (tmp_path / "logs/latest/server.log").read_text(encoding="utf-8")
    for line in (
        "waiting for clients: 0 of 3",
        "client 2 connected",
        "round 2 of 40: 3 clients train",
        "round 2: loss",
    ):
        assert line in log


def test_the_display_lets_the_log_go_on_when_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    table = LiveTable(Config())
    table.began([])
    table.close()
    table.close()
    with caplog.at_level(logging.INFO):
        logging.getLogger("orchestrator").info("still here")
    assert "still here" in caplog.text
