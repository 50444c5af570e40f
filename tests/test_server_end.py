"""What is left when a server has ended, well or badly."""

from pathlib import Path

import pytest

from orchestrator import server
from orchestrator.run_folder import RunFolder
from orchestrator.server import run_server
from shared.config import load_config
from shared.errors import OrchestratorError
from shared.exchange import Kind, Reply, Request
from tests.federations import Tapped, make_tenants, masked_settings, open_in_memory
from tests.processes import write_config


def test_a_run_that_ended_badly_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looked on was told nothing more, and another start in the same process found the run taken."""
    monkeypatch.setattr(server, "_exit_at_signals", lambda _go_on: None)
    events = tmp_path / "events"
    config = load_config(str(write_config(tmp_path, client_wait_timeout=0.2, tensorboard_dir=str(events))))
    for resume in (None, "latest"):
        with pytest.raises(OrchestratorError, match="clients"):
            run_server(config, resume)
    run = RunFolder.find(config, "latest")
    run.lock()
    run.unlock()


@pytest.mark.parametrize("scheme", ["paillier", "kahe"])
def test_no_honest_message_is_longer_than_the_doors_allow_for(tmp_path: Path, scheme: str) -> None:
    """What travels with a key or its proof was left out of the count."""
    config = masked_settings(
        tmp_path, 3, he_scheme=scheme, num_rounds=1, num_features=4, num_hidden_units=2, num_samples_per_client=40,
        min_fit_clients=3,
    )  # fmt: skip
    tapped = {name: Tapped(tenant) for name, tenant in make_tenants(config).items()}
    run = open_in_memory(config, tapped)
    run.coordinator.run()
    run.close()
    said = [pair for line in tapped.values() for pair in line.said]
    longest = max(max(_bytes(request), _bytes(reply)) for request, reply in said if isinstance(reply, Reply))
    proof = max(_bytes(request) for request, _ in said if request.kind is Kind.GREET)
    assert run.longest_message >= longest
    assert run.longest_message >= proof + max(len(reply.payload) for _, reply in said if isinstance(reply, Reply))


def _bytes(message: Request | Reply) -> int:
    """Of what is long in it."""
    held = sum(len(value) for value in message.values.values() if isinstance(value, bytes))
    if isinstance(message, Reply):
        return held + len(message.payload)
    return held + sum(array.nbytes for array in message.model)
