"""What a person sees: at 80 columns, with other characters than Unicode's, at the end of a run and at Ctrl-C."""

import io
import pickle
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.closing import closing
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from tests.conftest import Start
from tests.processes import ROOT, write_config
from tests.terminal import Terminal

SERVER, CLIENTS = "orchestrator/run_server.py", "client/run_clients.py"

# Everything that draws: a log line, a table, the closing box, in a process of its own with a real standard output. The
# box is made here: the server's code takes seconds to load, and what writes it is this much.
DRAWING = """
import logging, pickle, sys
from rich.table import Table
from shared.console import console, setup_logging

setup_logging()
logging.getLogger("orchestrator").warning("key ab12… ±3 of café 中")
table = Table("round")
table.add_row("1")
console.print(table)
console.print(pickle.load(sys.stdin.buffer))
"""


def draw(**environment: str) -> str:
    """What the program above writes in this environment and no other; bytes that are not UTF-8 become U+FFFD."""
    box = closing(Config(), [RoundRecord(round=1, roc_auc=0.5)], Path("logs/latest"), None, boxed=True)
    end = subprocess.run(
        [sys.executable, "-c", DRAWING],
        input=pickle.dumps(box), capture_output=True, timeout=60,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
    )  # fmt: skip
    assert (end.returncode, end.stderr) == (0, b"")
    return end.stdout.decode(errors="replace")


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}], ids=str)
def test_boxes_and_letters_become_plain_where_the_reader_is_no_unicode_one(environment: dict[str, str]) -> None:
    screen = draw(**environment)
    assert screen.isascii()
    assert r"key ab12... +-3 of caf\xe9 \u4e2d" in screen
    assert "| round |" in screen
    assert max(map(len, screen.splitlines())) <= 80


@pytest.mark.parametrize("environment", [{"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "1"}, {}], ids=str)
def test_whoever_reads_unicode_gets_it(environment: dict[str, str]) -> None:
    """With nothing set, as in a container, Python takes UTF-8 for the locale's own."""
    screen = draw(**environment)
    assert "key ab12… ±3 of café 中" in screen
    assert "┃ round ┃" in screen


def test_letters_of_an_eight_bit_reader_stay() -> None:
    assert "key ab12... \ufffd3 of caf\ufffd" in draw(PYTHONIOENCODING="latin-1")


@pytest.mark.long
def test_a_whole_run_without_unicode(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("COLUMNS", "80")
    config = str(write_config(tmp_path))
    server, clients = start(SERVER, "--config", config), start(CLIENTS, "--config", config)
    server_end, client_end = server.finish(), clients.finish()
    assert (server_end.code, client_end.code) == (0, 0), server_end.output + client_end.output
    lines = server_end.output.splitlines()
    assert (server_end.output + client_end.output).isascii()
    assert max(len(line) for line in lines if line.startswith(("|", "+"))) <= 80
    folder = (tmp_path / "logs/latest").resolve()
    assert lines[-4].startswith("result: ROC-AUC ")
    assert lines[-3].startswith("privacy: Updates were encrypted, and the orchestrator held the key: ")
    assert lines[-2] == f"next: python benchmarks/local_vs_federated.py --run {folder}"
    assert lines[-1] == f"everything of this run is in {folder}; open {folder}/report.html"
    for line in client_end.output.splitlines():
        assert re.match(r"\d\d:\d\d:\d\d client(s|\.\d) ", line), "a library speaks on the screen"


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, "benchmarks/local_vs_federated.py --run 'my logs/latest'"),
        ({"model": "own.net:Net"}, "benchmarks/local_vs_federated.py --run 'my logs/latest' --model_class own.net:Net"),
        ({"data_source": "own.rows"}, "client/export.py --model 'my logs/latest' --out model.onnx"),
        (
            {"data_source": "vpc_flow", "data_path": "flows", "label_path": "labels", "num_features": 45},
            "client/score.py --model 'my logs/latest' --input FILE --output alerts.jsonl",
        ),
    ],
    ids=["synthetic", "own model", "own source", "files"],
)
def test_the_next_command_is_one_that_the_run_has_use_for(changes: dict[str, Any], command: str) -> None:
    config = Config(**changes)
    for boxed in (False, True):
        out = io.StringIO()
        Console(width=200, file=out).print(
            closing(config, [RoundRecord(round=1)], Path("my logs/latest"), None, boxed=boxed)
        )
        assert f"python {command}\n" in re.sub(r" +\n", "\n", re.sub(r" \\\s+", " ", out.getvalue()))


@contextmanager
def terminal(script: str, *arguments: str, folder: Path = ROOT) -> Iterator[Terminal]:
    opened = Terminal([sys.executable, script, *arguments], 80, folder, {"PYTHONPATH": str(ROOT)})
    try:
        yield opened
    finally:
        opened.kill()


@pytest.mark.long
def test_a_run_in_a_terminal_of_80_columns_ends_with_a_box_whose_command_works(start: Start, tmp_path: Path) -> None:
    for name in ("benchmarks", "client", "orchestrator", "shared"):
        (tmp_path / name).symlink_to(ROOT / name)
    config = str(write_config(tmp_path, log_dir="logs"))
    with terminal(SERVER, "--config", config, folder=tmp_path) as server:
        clients = start(CLIENTS, "--config", config, "--set", f"log_dir={tmp_path / 'logs'}")
        screen = server.finish()
    assert (screen.code, clients.finish().code) == (0, 0), screen.raw
    assert screen.cursor_is_shown
    assert max(map(len, screen.lines)) <= 80
    assert not any("clients train" in line for line in screen.lines), "the bar says it"
    log = (tmp_path / "logs/latest/server.log").read_text(encoding="utf-8")
    assert "round 2 of 2: 3 clients train" in log
    name = (tmp_path / "logs/latest").resolve().name
    top = next(at for at, line in enumerate(screen.lines) if f"─ run {name} is done ─" in line)
    *box, bottom, _ = screen.lines[top + 1 :]
    assert set(bottom.strip()) == {"─"}
    assert [line.split()[0] for line in box if line[2] != " "] == ["result", "privacy", "report", "next"]
    assert f"logs/{name}/report.html" in "\n".join(box)
    command = "\n".join(line[len("  privacy  ") :] for line in box[-2:])
    shell = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}; {command}'
    end = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert end.returncode == 0, end.stdout + end.stderr
    assert re.search(r"^ROC-AUC: alone \d\.\d\d, together \d\.\d\d; with all rows in one place", end.stdout, re.M)


@pytest.mark.long
def test_ctrl_c_leaves_a_cursor_and_a_command_that_goes_on(start: Start, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, num_rounds=1, local_epochs=200, num_samples_per_client=1000))
    with terminal(SERVER, "--config", config) as server, terminal(CLIENTS, "--config", config) as clients:
        server.wait_for("clients train")
        clients.wait_for("local epochs")
        server.signal(signal.SIGINT)
        screen = server.finish()
        clients.signal(signal.SIGINT)
        client_screen = clients.finish()
    for ended in (screen, client_screen):
        assert ended.code == 130
        assert "\x1b[?25l" in ended.raw, "no bar hid the cursor: this shows nothing"
        assert ended.cursor_is_shown
    command = next(line for line in screen.lines if line.startswith("python "))
    assert command == f"python {SERVER} --config {config} --resume"
    assert screen.lines[screen.lines.index(command) - 1].endswith("interrupted: server stopped; go on with:")
    _, script, *arguments = shlex.split(command)
    resumed, clients_again = start(script, *arguments), start(CLIENTS, "--config", config)
    end = resumed.finish()
    assert (end.code, clients_again.finish().code) == (0, 0), end.output
    assert len(list((tmp_path / "logs").glob("2*"))) == 1, "another run instead of the one that was interrupted"


@pytest.mark.long
def test_ctrl_c_before_there_is_anything_to_go_on_with(start: Start, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, he_key_length=8192))  # many seconds to make
    server = start(SERVER, "--config", config)
    server.wait_for_line("files in")
    server.interrupt()
    end = server.finish()
    assert end.code == 130
    assert end.output.endswith("interrupted: server stopped\n")


def test_the_file_has_the_finer_lines_and_the_screen_has_not(tmp_path: Path) -> None:
    program = (
        "import logging, sys; from pathlib import Path; from shared.console import add_log_file, setup_logging\n"
        "setup_logging(); log = logging.getLogger('orchestrator'); add_log_file(log, Path(sys.argv[1]))\n"
        "log.debug('a stage'); log.info('a round')\n"
    )
    path = tmp_path / "server.log"
    end = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (end.returncode, end.stderr) == (0, "")
    assert [line.split()[-1] for line in end.stdout.splitlines()] == ["round"]
    assert [line.split()[-1] for line in path.read_text(encoding="utf-8").splitlines()] == ["stage", "round"]
