"""A tenant that starts each request in another process: the same model to the last bit, and no secret kept too long."""

import logging
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.tenant import Tenant
from orchestrator.simulation import make_tenants
from shared.exchange import Kind, Refusal, Reply, Request
from shared.frames import decode_answer, decode_request, encode_answer, encode_request
from shared.masking import codec
from shared.masking.client_state import Done, Fresh, Refused, Shared
from shared.masking.errors import Rule
from shared.masking.suspended import decode_state, encode_state
from tests.breaking import breaks
from tests.federations import SHORT, masked_settings, open_in_memory


class Restarting:
    """A tenant of which nothing but bytes outlives a request: what it is asked, what it says, and what it suspends."""

    def __init__(self, make: Any) -> None:
        self._make, self.state = make, b""
        self.longest: dict[Kind, int] = {}

    def answer(self, request: Request) -> Reply | Refusal:
        tenant: Tenant = self._make()
        tenant.resume(self.state)
        answer = tenant.answer(decode_request(*encode_request(request)))
        self.state = tenant.suspend()
        self.longest[request.kind] = len(self.state)
        arrived = decode_answer(*encode_answer(answer))
        assert isinstance(arrived, Reply | Refusal)
        return arrived


@pytest.mark.parametrize("secure_aggregation", ["masked", "none"])
def test_a_federation_of_tenants_that_restart_for_each_request(tmp_path: Path, secure_aggregation: str) -> None:
    models = []
    for restarting in (False, True):
        folder = tmp_path / str(restarting)
        folder.mkdir()
        config = masked_settings(folder, 3, **SHORT, secure_aggregation=secure_aggregation)
        tenants: dict[str, Any] = make_tenants(config)
        if restarting:
            for name, tenant in tenants.items():
                tenant.close()
                tenants[name] = Restarting(lambda name=name, config=config: _made_anew(config, int(name)))
        run = open_in_memory(config, tenants)
        run.coordinator.run()
        assert [record.contributors for record in run.coordinator.records] == [3, 3]
        models.append({name: array.tobytes() for name, array in run.coordinator.model.named.items()})
        run.close()
    assert models[0] == models[1]
    states = [tenant.longest for tenant in tenants.values()]
    assert all(sizes[Kind.GREET] > 10 * sizes[Kind.EVALUATE] for sizes in states), (
        "the key's proof is kept until checked"
    )
    if secure_aggregation == "masked":
        assert all(sizes[Kind.REVEAL] < sizes[Kind.SHARE] for sizes in states), "secrets go with their stage"


def test_tenants_that_restart_draw_groups_too(tmp_path: Path) -> None:
    """A toss outlives the process that made it, and so does whose sum is under way."""
    config = masked_settings(tmp_path, 6, **SHORT, groups=2, gate_loss=0.5, min_available_clients=6)
    tenants: dict[str, Any] = make_tenants(config)
    for name, tenant in tenants.items():
        tenant.close()
        tenants[name] = Restarting(lambda name=name: _made_anew(config, int(name)))
    run = open_in_memory(config, tenants)
    run.coordinator.run()
    assert [(record.contributors, record.failed) for record in run.coordinator.records] == [(6, {})] * 2
    run.close()


def _made_anew(config: Any, number: int) -> Tenant:
    from shared.data_utils import load_client_data
    from shared.identity import ClientIdentity

    identity = ClientIdentity.load(config.client_identity.replace("{client_id}", str(number)), f"client-{number}")
    tenant = Tenant(config, number, load_client_data(config, number), identity, log_file=False)
    tenant._part.close()  # as `resume` opens it
    return tenant


def test_a_state_that_was_set_back_answers_no_stage_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = masked_settings(tmp_path, 3, **SHORT)
    tenants: dict[str, Any] = make_tenants(config)
    tenants["0"].close()
    replayed: list[Reply | Refusal] = []

    class SetBack(Restarting):
        def answer(self, request: Request) -> Reply | Refusal:
            before = self.state
            answer = super().answer(request)
            if request.kind in (Kind.SHARE, Kind.TRAIN, Kind.CONFIRM, Kind.REVEAL):
                after, self.state = self.state, before
                replayed.append(super().answer(request))
                self.state = after
            return answer

    tenants["0"] = SetBack(lambda: _made_anew(config, 0))
    run = open_in_memory(config, tenants)
    with caplog.at_level(logging.ERROR, logger="client.0"):
        run.coordinator.run()
    run.close()
    assert len(replayed) > 10
    assert all(isinstance(answer, Refusal) for answer in replayed)
    reasons = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert all("masking: repeated stage" in reason or "masking: repeated work" in reason for reason in reasons), reasons


def test_a_suspended_round_leaves_nothing_behind(tmp_path: Path) -> None:
    config = masked_settings(tmp_path, 3, **SHORT)
    tenant = make_tenants(config)["0"]
    assert tenant.suspend()
    assert tenant._part._round is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("state", [Fresh(), Done(), Refused()])
def test_a_state_without_content(state: Any) -> None:
    assert decode_state(encode_state(state)) == state
    with breaks(Rule.MALFORMED_MESSAGE):
        decode_state(encode_state(state) + b"\0")


@pytest.mark.parametrize(
    "damage", [b"", b"MSK1", codec.header(codec.Kind.STATE), codec.header(codec.Kind.STATE) + b"\x09"]
)
def test_damaged_bytes_are_no_state(damage: bytes) -> None:
    with breaks(Rule.MALFORMED_MESSAGE):
        decode_state(damage)


def test_no_state_shows_its_secrets_in_a_log() -> None:
    key = X25519PrivateKey.generate().private_bytes_raw()
    shown = repr(Shared(None, b"", None, bytearray(key), 1, {"a": key}, {}))  # type: ignore[arg-type]
    assert key.hex() not in shown
    assert repr(key) not in shown
