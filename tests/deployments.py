"""A deployment under test: on hosts of their own where there are such, confined as its units are, and broken into."""

import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from benchmarks import deployments
from shared.config import Config
from tests import sandbox
from tests.namespaces import command_in

UNITS = {"superlink": "superlink", "agent": "tenant@", "node": "supernode@"}  # by how a process's name begins


class Deployment(deployments.Deployment):
    """One that can be cut to pieces.

    Attributes:
        confined: run each process with what its unit in `deploy/systemd` leaves it, and no more.
    """

    confined = False

    def __init__(self, config: Config, folder: Path, addresses: Mapping[str, str] | None = None) -> None:
        """Prepare; `addresses` are those of hosts of their own (`tests/namespaces.py`): "link" and "tenant-<n>"."""
        self._addresses = addresses or {}
        super().__init__(config, folder, self._addresses.get("link", "127.0.0.1"))

    def prefix(self, name: str, host: str) -> list[str]:
        unit = UNITS.get(name.partition("-")[0]) if self.confined else None
        within = sandbox.inside(sandbox.FOLDER / f"orchestrator-{unit}.service", [self.folder]) if unit else []
        return [*(command_in(host) if self._addresses else []), *within]

    def start_node_again(self, number: int, seconds: float = 180.0) -> None:
        """As a supervisor does: until its heartbeats have run out Flower takes it for a second one, and it ends."""
        end, here = time.monotonic() + seconds, self.said(f"node-{number}").count("SuperNode ID") + 1
        while self.said(f"node-{number}").count("SuperNode ID") < here:
            assert time.monotonic() < end, self.said(f"node-{number}")
            if self._processes.get(f"node-{number}") is None or self._processes[f"node-{number}"].poll() is not None:
                self.start_node(number)
            time.sleep(2.0)

    def kill_serverapp(self) -> None:
        link = psutil.Process(self._processes["superlink"].pid)
        found = [child for child in link.children(recursive=True) if "flwr-serverapp" in " ".join(child.cmdline())]
        assert found
        for child in found:
            child.kill()
