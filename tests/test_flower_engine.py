"""The app on Flower's real engines: a simulation on Ray, and a SuperLink with SuperNodes, TLS and node keys.

Both end with the model of the same federation in memory, to the last bit.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.simulate import QUIET, run_app, superlink
from orchestrator.provision import add_node_keys
from orchestrator.simulation import make_tenants
from shared.config import Config
from tests.federations import masked_settings, open_in_memory
from tests.processes import ROOT, free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SETTINGS: dict[str, Any] = {
    "num_rounds": 2, "num_features": 4, "num_hidden_units": 3, "num_samples_per_client": 60, "local_epochs": 1,
    "min_fit_clients": 3, "fraction_evaluate": 0.0,
}  # fmt: skip
PROGRAMS = Path(sys.executable).parent


def written(config: Config, folder: Path) -> Path:
    path = folder / "settings.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    return path


def in_memory(config: Config, folder: Path) -> bytes:
    """The model's file that the same federation leaves when it runs in this process."""
    alike = config.replace(log_dir=str(folder / "memory"))
    tenants = make_tenants(alike)
    run = open_in_memory(alike, tenants)
    run.coordinator.run()
    run.close()
    for tenant in tenants.values():
        tenant.close()
    return (run.folder.path / "model.safetensors").read_bytes()


@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra `simulation`")
def test_a_simulation_on_ray_is_the_federation_in_memory(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = masked_settings(tmp_path, 3, **SETTINGS)
    with superlink(tmp_path / "flower") as environment:
        folder = run_app(environment, written(config, tmp_path), 3, ["local_epochs=1"], workers=2)
    said = capfd.readouterr().out
    assert "SIMULATION: one machine sees the rows of all tenants" in said
    assert "privacy: A simulation: one machine saw all clients' rows and secrets." in said
    assert "updates are masked" in said
    assert (folder / "model.safetensors").read_bytes() == in_memory(config, tmp_path)


class Deployment:
    """A SuperLink with TLS and node keys, three SuperNodes, and the three tenants' agents."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.folder, self.pki = folder, folder / "pki"
        self.port, self.ports = free_port(), [free_port() for _ in range(4)]
        self.settings = written(config, folder)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: set[str] = set()
        self._environment = {
            **os.environ, **QUIET, "FLWR_HOME": str(folder / "flower"), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        (folder / "flower").mkdir()
        connection = f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{self.pki}/ca.pem"\n'
        links = f'[superlink]\ndefault = "prod"\n\n[superlink.prod]\n{connection}'
        (folder / "flower/config.toml").write_text(links, encoding="utf-8")

    def start(self, name: str, *command: object) -> None:
        self._started.add(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*map(str, command)], cwd=ROOT, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )

    def start_agent(self, number: int) -> None:
        script = (sys.executable, "client/run_clients.py", "--config", self.settings)
        self.start(
            f"agent-{number}", *script, "--client_ids", number, "--agent", "--socket", self.folder / f"{number}.sock"
        )

    def start_link(self) -> None:
        before = self.said("superlink").count("startup complete") if "superlink" in self._started else 0
        certificates = ("--ssl-ca-certfile", "ca.pem", "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key")
        self.start(
            "superlink", "flower-superlink", *(self.pki / part if "." in part else part for part in certificates),
            "--enable-supernode-auth", "--database", self.folder / "link.db", "--host", "127.0.0.1",
            "--port", self.port,
        )  # fmt: skip
        self.wait_for("superlink", "startup complete", times=before + 1)

    def register(self, number: int) -> None:
        key = self.pki / f"nodes/client-{number}.key.pub"
        command = ["flwr", "supernode", "register", str(key), "prod"]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=120)

    def start_node(self, number: int) -> None:
        self.start(
            f"node-{number}", "flower-supernode", "--superlink", f"127.0.0.1:{self.port}", "--root-certificates",
            self.pki / "ca.pem", "--auth-supernode-private-key", self.pki / f"nodes/client-{number}.key",
            "--node-config", f'socket="{self.folder}/{number}.sock"', "--port", self.ports[number],
        )  # fmt: skip

    def start_node_again(self, number: int, seconds: float = 180.0) -> None:
        """As a supervisor does: until its heartbeats have run out Flower takes it for a second one, and it ends."""
        end, here = time.monotonic() + seconds, self.said(f"node-{number}").count("SuperNode ID") + 1
        while self.said(f"node-{number}").count("SuperNode ID") < here:
            assert time.monotonic() < end, self.said(f"node-{number}")
            if self._processes.get(f"node-{number}") is None or self._processes[f"node-{number}"].poll() is not None:
                self.start_node(number)
            time.sleep(2.0)

    def run(self, name: str, *, resume: bool = False) -> None:
        settings = f'config="{self.settings}" resume={str(resume).lower()} engine="deployment"'
        self.start(name, "flwr", "run", ROOT, "prod", "--run-config", settings, "--stream")

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def wait_for(self, name: str, text: str, seconds: float = 400.0, times: int = 1) -> None:
        end = time.monotonic() + seconds
        while self.said(name).count(text) < times:
            assert time.monotonic() < end, f"{name} never said {text!r}:\n{self.said(name)}"
            time.sleep(0.5)

    def code_of(self, name: str, seconds: float = 120.0) -> int:
        return self._processes[name].wait(timeout=seconds)

    def kill(self, name: str) -> None:
        """With all that it has started, as a machine that loses its power."""
        import psutil

        process = self._processes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
        process.wait()

    def kill_serverapp(self) -> None:
        import psutil

        link = psutil.Process(self._processes["superlink"].pid)
        found = [child for child in link.children(recursive=True) if "flwr-serverapp" in " ".join(child.cmdline())]
        assert found
        for child in found:
            child.kill()

    def close(self) -> None:
        for name in list(self._processes):
            self.kill(name)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    config = masked_settings(tmp_path, 4, **SETTINGS).replace(num_clients=3, num_rounds=3)
    add_node_keys(tmp_path / "pki")
    deployment = Deployment(config, tmp_path)
    try:
        yield deployment
    finally:
        deployment.close()


def test_a_superlink_its_nodes_and_the_tenants_agents(deployment: Deployment, tmp_path: Path) -> None:
    deployment.start_link()
    for number in range(3):
        deployment.start_agent(number)
        deployment.register(number)
        deployment.start_node(number)
    deployment.start_node(3)  # of a key that nobody has registered
    deployment.run("first")
    deployment.wait_for("first", "round 1: loss")
    assert deployment.code_of("node-3") != 0
    assert "Failed to activate" in deployment.said("node-3")

    deployment.kill_serverapp()
    deployment.kill("node-1")
    deployment.start_node_again(1)  # its tenant's agent has gone on, with all that it remembers
    deployment.run("second", resume=True)
    deployment.wait_for("second", "round 2: loss")
    assert "resuming after round 1 of 3" in deployment.said("second")

    deployment.kill("superlink")  # and the ServerApp with it
    deployment.start_link()  # the nodes come back by themselves
    deployment.run("third", resume=True)
    deployment.wait_for("third", "everything of this run is in")
    assert "resuming after round 2 of 3" in deployment.said("third")
    config = Config(**yaml.safe_load(deployment.settings.read_text(encoding="utf-8")))
    left = (Path(config.log_dir) / "latest/model.safetensors").read_bytes()
    assert left == in_memory(config, tmp_path)
