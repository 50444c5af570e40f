"""Processes that start in a tenth of a second, so that a test can kill and start many.

They are forked from one process that has imported everything and started nothing: gRPC's and torch's threads do not
survive a fork, their imports do.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["tests.one_hot", "orchestrator.server", "sklearn.metrics", "safetensors.torch", "tests.followed"]
)


class Forked:
    """A process that runs `target(*arguments)` and exits with what it returns; what it prints goes to a file."""

    def __init__(self, output: Path, target: Callable[..., int], *arguments: Any) -> None:
        self._output = output
        self._process = _context.Process(target=_run, args=(output, target, arguments), daemon=True)
        self._process.start()

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8") if self._output.exists() else ""

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def finish(self, timeout: float = 60.0) -> int:
        """The exit code; a process that outlasts `timeout` seconds fails the test with its output."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self.kill()
            raise AssertionError(f"still running after {timeout} s; it printed:\n{self.output}")
        return code

    def freeze(self) -> None:
        """Stop it in its tracks: its connections stay open, and nobody reads them."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self._process.kill()
        self._process.join()


def _run(output: Path, target: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    with output.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    code = 70
    try:
        code = target(*arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once, as the scripts do: gRPC's threads may wait for somebody who is gone
