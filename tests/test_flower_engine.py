"""The app on Flower's real engines: a simulation on Ray, and a SuperLink with SuperNodes, TLS and node keys.

Both end with the model of the same federation in memory, to the last bit.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml

from benchmarks.deployments import written
from benchmarks.simulate import run_app, superlink
from orchestrator.pki import add_node_keys
from orchestrator.simulation import make_tenants
from shared.config import Config
from shared.exchange import Kind, Reply, Request
from shared.frames import decode_answer, encode_request, receive_frame, send_frame
from tests import sandbox
from tests.deployments import Deployment
from tests.federations import masked_settings, open_in_memory
from tests.namespaces import available, hosts
from tests.processes import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SETTINGS: dict[str, Any] = {
    "num_rounds": 2, "num_features": 4, "num_hidden_units": 3, "num_samples_per_client": 60, "local_epochs": 1,
    "min_fit_clients": 3, "fraction_evaluate": 0.0,
}  # fmt: skip


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


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """On hosts of their own where this machine allows it, else on one."""
    with hosts(["link", *(f"tenant-{number}" for number in range(4))] if available() else []) as addresses:
        config = masked_settings(tmp_path, 4, hosts=list(addresses.values())[:1], **SETTINGS)
        add_node_keys(tmp_path / "pki")
        deployment = Deployment(config.replace(num_clients=3, num_rounds=3), tmp_path, addresses)
        try:
            yield deployment
        finally:
            deployment.close()


def test_a_superlink_its_nodes_and_the_tenants_agents(deployment: Deployment, tmp_path: Path) -> None:
    deployment.confined = sandbox.available()  # what the units of deploy/systemd take away is taken away here
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


@pytest.mark.skipif(not available() or which("setpriv") is None, reason="needs root, to take its powers from a node")
def test_a_hostile_app_on_a_tenant_s_node_gets_nothing(deployment: Deployment, tmp_path: Path) -> None:
    """Shipped by Flower, as an operator could: it has the socket, and the powers of a hostile orchestrator.

    The agent's own are of another user, and the node has none of root's powers over other users' files.
    """
    config = Config(**yaml.safe_load(deployment.settings.read_text(encoding="utf-8")))
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    shutil.copy(tmp_path / "pki/clients/client-0.key", secrets / "client-0.key")
    own = config.replace(log_dir=str(secrets), client_identity=str(secrets / "client-{client_id}.key"))
    (tmp_path / "own.yaml").write_text(own.as_yaml(), encoding="utf-8")
    deployment.start_link()
    deployment.settings, theirs = tmp_path / "own.yaml", deployment.settings
    deployment.start_agent(0)
    deployment.settings = theirs
    deployment.wait_for("agent-0", "answering on")
    os.chown(secrets, 65534, 65534)
    secrets.chmod(0o700)
    deployment.register(0)
    without = "-dac_override,-dac_read_search,-sys_ptrace,-setuid,-chown,-fowner,-sys_admin"
    deployment.start_node(0, "setpriv", f"--bounding-set={without}", f"--inh-caps={without}")
    deployment.wait_for("node-0", "SuperNode ID")
    settings = f'secrets="{secrets}" agent={deployment.pid("agent-0")}'
    deployment.run_app("hostile", ROOT / "tests/hostile_app", settings)
    deployment.wait_for("hostile", "THE END")
    (line,) = [line for line in deployment.said("hostile").splitlines() if "STOLEN" in line]
    found = json.loads(line[line.index("{") :])
    denied = {name for name, got in found.items() if got == "Permission denied"}
    assert denied == {"folder", "key", "ledger", "memory of the agent"}, found
    assert found["its own environment"] == "[]"
    refused = {"RoundRefusedError", "round: other settings", "Refused", "hung up"}
    for asked in ("greet", "reveal before its time", "train", "no request", "statistics"):
        assert found[asked] in refused, found
    assert int(found["flood"]) < 500, "who floods the socket is turned away"
    # And the tenant is there for whoever asks as it should.
    deployment.kill("node-0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as node:
        node.connect(str(tmp_path / "0.sock"))
        send_frame(node, encode_request(Request(Kind.DISMISS, {"reason": "over"})))
        assert isinstance(decode_answer(*receive_frame(node)), Reply)
