"""Real server and client processes for the tests, as a person starts them."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import free_port as free_port

ROOT = Path(__file__).resolve().parent.parent
SMALL: dict[str, Any] = {
    # Small and quick; the key is short on purpose.
    "num_rounds": 2,
    "num_features": 6,
    "num_hidden_units": 3,
    "num_samples_per_client": 100,
    "local_epochs": 1,
    "he_key_length": 512,
    "allow_insecure_key": True,
    # Long enough for a busy machine; the tests of each time-out set their own.
    "client_wait_timeout": 120.0,
    "server_wait_timeout": 120.0,
    "round_timeout": 120.0,
}


@dataclass(frozen=True)
class Finished:
    """How a process ended and what it printed."""

    code: int
    output: str


class Running:
    """A process of this test, ended with it."""

    def __init__(self, script: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def finish(self, timeout: float = 150.0) -> Finished:
        """Wait for the end; a process that outlasts `timeout` seconds fails the test with its output."""
        try:
            output, _ = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, _ = self._process.communicate()
            raise AssertionError(f"still running after {timeout} s; it printed:\n{output}") from None
        return Finished(self._process.returncode, output)

    def wait_for_line(self, text: str) -> str:
        """Read the output up to the first line with `text`."""
        assert self._process.stdout is not None
        seen = ""
        for line in self._process.stdout:
            seen += line
            if text in line:
                return seen
        raise AssertionError(f"ended without {text!r}; it printed:\n{seen}")

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout is not None and not self._process.stdout.closed:
            self._process.communicate()


def write_config(folder: Path, **changes: Any) -> Path:
    """A small config with a free port and its own log folder."""
    settings = {**SMALL, "server_address": f"127.0.0.1:{free_port()}", "log_dir": str(folder / "logs"), **changes}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rounds of the latest run below `folder`."""
    text = (folder / "logs" / "latest" / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
