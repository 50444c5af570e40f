"""The machine and the libraries that a result belongs to, and its free ports."""

import contextlib
import os
import platform
import secrets
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("gmpy2", "phe", "tenseal", "sf-heu", "flwr", "torch", "numpy")
_PORTS = range(20_000, 32_768)


def machine_facts() -> dict[str, Any]:
    """Processor, cores, versions, and the load average at the moment of the call."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now.

    It lies below those that the system gives to connections that go out (from 32768 on Linux, from 49152 elsewhere):
    one of these would be taken by any connection of the seconds until a server listens on it.

    Raises:
        OSError: none is free among a thousand tries.
    """
    for _ in range(1000):
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port of {_PORTS.start} to {_PORTS.stop - 1} is free")


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
