"""A deployment on Flower's present engine: a SuperLink with TLS and node keys, SuperNodes, and tenants' agents."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.machine import free_port
from benchmarks.rounds import ROOT
from benchmarks.simulate import QUIET
from shared.config import Config

PROGRAMS = Path(sys.executable).parent


def written(config: Config, folder: Path) -> Path:
    """The settings as a file."""
    path = folder / "settings.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    return path


class Deployment:
    """A SuperLink with TLS and node keys, three SuperNodes, and the three tenants' agents."""

    def __init__(self, config: Config, folder: Path, address: str = "127.0.0.1") -> None:
        """Prepare, with the identities in `folder / "pki"`; `address` is the SuperLink's own."""
        self.folder, self.pki = folder, folder / "pki"
        self.port, self.ports = free_port(), [free_port() for _ in range(4)]
        self.address, self.settings = address, written(config, folder)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: set[str] = set()
        self._environment = {
            **os.environ, **QUIET, "FLWR_HOME": str(folder / "flower"), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        (folder / "flower").mkdir()
        connection = f'address = "{self.address}:{self.port}"\nroot-certificates = "{self.pki}/ca.pem"\n'
        links = f'[superlink]\ndefault = "prod"\n\n[superlink.prod]\n{connection}'
        (folder / "flower/config.toml").write_text(links, encoding="utf-8")

    def prefix(self, _name: str, _host: str) -> list[str]:
        """What comes before the command of a process that is to run on this host."""
        return []

    def start(self, name: str, *command: object, host: str = "link") -> None:
        self._started.add(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self.prefix(name, host), *map(str, command)],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_agent(self, number: int) -> None:
        script = (sys.executable, "client/run_clients.py", "--config", self.settings)
        self.start(
            f"agent-{number}", *script, "--client_ids", number, "--agent", "--socket", self.folder / f"{number}.sock",
            host=f"tenant-{number}",
        )  # fmt: skip

    def start_link(self) -> None:
        before = self.said("superlink").count("startup complete") if "superlink" in self._started else 0
        certificates = ("--ssl-ca-certfile", "ca.pem", "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key")
        self.start(
            "superlink", "flower-superlink", *(self.pki / part if "." in part else part for part in certificates),
            "--enable-supernode-auth", "--database", self.folder / "link.db", "--host", self.address,
            "--port", self.port,
        )  # fmt: skip
        self.wait_for("superlink", "startup complete", times=before + 1)

    def register(self, number: int) -> None:
        key = self.pki / f"nodes/client-{number}.key.pub"
        command = [*self.prefix("register", "link"), "flwr", "supernode", "register", str(key), "prod"]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=120)

    def start_node(self, number: int, *prefix: str) -> None:
        self.start(
            f"node-{number}", *prefix, "flower-supernode", "--superlink", f"{self.address}:{self.port}",
            "--root-certificates", self.pki / "ca.pem", "--auth-supernode-private-key",
            self.pki / f"nodes/client-{number}.key", "--node-config", f'socket="{self.folder}/{number}.sock"',
            "--port", self.ports[number],
            host=f"tenant-{number}",
        )  # fmt: skip

    def run(self, name: str, *, resume: bool = False) -> None:
        settings = f'config="{self.settings}" resume={str(resume).lower()} engine="deployment"'
        self.run_app(name, ROOT, settings)

    def run_app(self, name: str, app: Path, settings: str) -> None:
        self.start(name, "flwr", "run", app, "prod", "--run-config", settings, "--stream")

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def wait_for(self, name: str, text: str, seconds: float = 400.0, times: int = 1) -> None:
        """Until a process has said this so many times.

        Raises:
            TimeoutError: it has not within so many seconds, or has ended without.
        """
        end = time.monotonic() + seconds
        while True:
            over = time.monotonic() > end or self._processes[name].poll() is not None
            if self.said(name).count(text) >= times:
                return
            if over:
                raise TimeoutError(f"{name} never said {text!r}:\n{self.said(name)}")
            time.sleep(0.5)

    def code_of(self, name: str, seconds: float = 120.0) -> int:
        return self._processes[name].wait(timeout=seconds)

    def kill(self, name: str) -> None:
        """With all that it has started, as a machine that loses its power."""
        process = self._processes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
        process.wait()

    def close(self) -> None:
        for name in list(self._processes):
            self.kill(name)
