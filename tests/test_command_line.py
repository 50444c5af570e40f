"""Scripts answer `--help` and a mistyped setting before anything heavy is loaded, and end with the documented codes."""

import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from shared import cli
from shared.errors import ConfigError, KeyMaterialError
from tests.processes import ROOT

HEAVY = ("torch", "flwr", "grpc", "pandas", "sklearn", "pyarrow", "onnx")
MISTYPED = ["--set", "num_round=1"]

# Runs a script's `main` in a fresh interpreter, then names the heavy libraries that it loaded.
PROBE = f"""
import importlib, sys
try:
    code = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
except SystemExit as end:
    code = end.code
print("loaded:", *sorted(set({HEAVY!r}) & set(sys.modules)))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("script", "arguments", "code"),
    [
        ("client.run_clients", ["--help"], 0),
        ("client.score", ["--help"], 0),
        ("client.enrol", ["--help"], 0),
        ("client.export", ["--help"], 0),
        ("orchestrator.run_server", ["--help"], 0),
        ("orchestrator.make_report", ["--help"], 0),
        ("orchestrator.keys", ["--help"], 0),
        ("orchestrator.provision", ["--help"], 0),
        ("client.run_clients", ["--config", "config/config.yaml", *MISTYPED], 2),
        ("client.run_clients", ["--config", "config/config.yaml", "--client_ids", "7"], 2),
        ("orchestrator.run_server", ["--config", "config/config.yaml", *MISTYPED], 2),
        ("client.score", ["--model", "x", "--input", "y", "--output", "z", "--threshold", "2"], 2),
    ],
)
def test_nothing_heavy_is_loaded_for_an_answer_that_does_not_need_it(
    script: str, arguments: list[str], code: int
) -> None:
    end = subprocess.run(
        [sys.executable, "-c", PROBE, script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert end.returncode == code, end.stderr
    assert end.stdout.splitlines()[-1].strip() == "loaded:"
    assert "Traceback" not in end.stderr


def _raises(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (_raises(ConfigError("num_rounds = 0: expected at least 1")), 2, "num_rounds = 0: expected at least 1"),
        (_raises(KeyMaterialError("no key")), 1, "no key"),
        (_raises(OSError(28, "No space left on device")), 1, "No space left on device"),
        (_raises(KeyboardInterrupt()), 130, "interrupted: the file is whole"),
    ],
)
def test_each_end_has_its_code_and_one_line(
    work: Callable[[], int | None],
    code: int,
    line: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(work, logging.getLogger("test"), interrupted="the file is whole") == code
    assert line in caplog.text
    assert len(caplog.records) == bool(line)
    capsys.readouterr()  # an earlier test may have sent the log to the screen
    assert cli.run(work, interrupted="the file is whole") == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert line in printed.err
    assert printed.err.count("\n") == bool(line)


def test_a_bug_is_not_told_as_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run(_raises(ZeroDivisionError()))


def test_an_unexpected_error_ends_the_process_although_a_thread_goes_on() -> None:
    program = (
        "import threading, time; from shared import cli; threading.Thread(target=time.sleep, args=(600,)).start()\n"
    )
    end = subprocess.run(
        [sys.executable, "-c", program + "cli.exit_at_once(lambda: 1 // 0)"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert end.returncode == 1
    assert "stopped by an unexpected error" in end.stderr
    assert "ZeroDivisionError" in end.stderr
