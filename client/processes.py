"""Run clients as processes of this machine, which are forked from one that has loaded PyTorch and Flower for all.

This module loads neither: the launcher has no use for them, and its children have them from that process. Nothing of
them is at work there, since threads and gRPC's sockets do not survive a fork; what is only imported does.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from shared.config import Config
from shared.console import set_log_format, setup_logging

_LOADED = "client.launch"  # with all that it imports
_log = logging.getLogger("clients")


def run_processes(
    config: Config, client_ids: list[int], stay: bool = False, settings: Callable[[], Config] | None = None
) -> list[int]:
    """Run each of these clients as a process, with `stay` for one run after the other; those that did not finish.

    `settings` reads the settings anew, for what of them may change meanwhile; it is pickled.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_LOADED])
    processes = {
        i: context.Process(target=_process_main, args=(config, i, stay, settings), name=f"client-{i}")
        for i in client_ids
    }
    try:
        _log.info("waiting for PyTorch and Flower, which are loaded once for all processes")
        for process in processes.values():
            process.start()
        while any(process.is_alive() for process in processes.values()):
            time.sleep(0.1)
    except BaseException:
        for process in processes.values():
            if process.pid is not None:
                process.terminate()
        raise
    return [i for i, process in processes.items() if process.exitcode != 0]


def _process_main(config: Config, client_id: int, stay: bool, settings: Callable[[], Config] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher too, and it ends its children
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    setup_logging(bars=False)
    set_log_format(config.log_format)
    from client.launch import run_alone

    sys.exit(0 if run_alone(config, client_id, stay, settings) else 1)


def _end_with_launcher() -> None:
    """Be no client that nobody knows of: one that was interrupted while it started has no id to be ended by."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None  # noqa: S101 - this is a process of its own
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)
