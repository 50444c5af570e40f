"""The two adapters of masked rounds: `shared/masking` between real Paillier ciphertexts, without a network."""

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.common import Code, GetPropertiesIns, GetPropertiesRes, Scalar, Status
from flwr.server.client_proxy import ClientProxy

from client.aggregation import PlainAggregation
from client.masked_round import MaskedAggregation, make_aggregation
from orchestrator import masked_round
from orchestrator.admission import Admission, SignedStatement
from orchestrator.aggregation import Opening
from orchestrator.aggregator import Aggregator, RoundSum
from orchestrator.provision import provision, revoke_client
from shared.config import Config, parse_config
from shared.errors import ConfigError, EncodingError, OrchestratorError, RoundRefusedError
from shared.he.paillier import PaillierPrivate
from shared.he_utils import make_keys, no_progress
from shared.identity import ClientIdentity, UpdateStatement
from shared.masking import WEIGHTS
from shared.masking.errors import RoundAbandonedError
from shared.task import Task
from shared.wire import dump_update
from tests.test_aggregator import npy

SESSION = "ab" * 16
SIZE = 40
MODEL = "0" * 64
CLIENTS = 4


class Proxy(ClientProxy):
    """A connection to a client that lives in this process; `spoil` may alter what it answers."""

    def __init__(self, client: MaskedAggregation | PlainAggregation, scheme: Any) -> None:
        super().__init__("connection")
        self.client, self.scheme = client, scheme
        self.spoil: Callable[[str, GetPropertiesRes], GetPropertiesRes] = lambda _stage, answer: answer

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        stage, payload = str(ins.config["stage"]), ins.config["payload"]
        assert isinstance(payload, bytes)
        try:
            if stage == "advertise":
                assert ins.config["public_key"] == self.scheme.public_bytes()
                message = self.client.enter(payload, self.scheme, {WEIGHTS: SIZE})
            else:
                message = self.client.answer(stage, payload)
            answer = GetPropertiesRes(Status(Code.OK, ""), {"payload": message})
        except OrchestratorError as error:
            answer = GetPropertiesRes(Status(Code.FIT_NOT_IMPLEMENTED, f"{type(error).__name__}: {error}"), {})
        return self.spoil(stage, answer)

    get_parameters = fit = evaluate = reconnect = None  # type: ignore[assignment]


class Federation:
    """Four enrolled clients, their connections and the server's adapter."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        provision(folder / "pki", CLIENTS, [])
        self.config = parse_config(
            {
                "he_key_length": 512, "allow_insecure_key": True, "num_clients": CLIENTS, "log_dir": str(folder),
                "enrolled_clients": str(folder / "pki/enrolled.json"), **settings,
            }
        )  # fmt: skip
        keys = make_keys(self.config)
        assert isinstance(keys, PaillierPrivate)
        self.keys = keys
        self.folder = folder
        self.admission = Admission(self.config.enrolled_clients, SESSION)
        self.aggregator = Aggregator(keys, self.config.fewest_contributors, CLIENTS, admission=self.admission)
        self.server = masked_round.MaskedAggregation(self.config, keys.public, self.admission)
        self.proxies = {str(i): Proxy(self.client(i), keys.public) for i in range(CLIENTS)}
        self.failed: dict[str, str] = {}
        self.number = 0
        self.round_sum: RoundSum

    def identity(self, client_id: int) -> ClientIdentity:
        return ClientIdentity.load(self.folder / f"pki/clients/client-{client_id}.key", f"client-{client_id}")

    def client(self, client_id: int, config: Config | None = None) -> MaskedAggregation:
        return MaskedAggregation(config or self.config, self.identity(client_id))

    def restart(self, client_id: int, config: Config | None = None) -> None:
        old = self.proxies[str(client_id)].client
        assert isinstance(old, MaskedAggregation)
        old.close()
        self.proxies[str(client_id)] = Proxy(self.client(client_id, config), self.keys.public)

    def begin(self) -> dict[str, Any]:
        self.number += 1
        self.failed = {}
        task = self.task()
        self.round_sum = self.aggregator.open_round(self.number, SIZE, task.digest().hex())
        ciphertexts = self.round_sum.layout[0]
        encryption: dict[str, Scalar] = {"public_key": self.keys.public.public_bytes()}
        opening = Opening(self.number, self.proxies, ciphertexts, encryption, self.failed.__setitem__, task.digest())
        return self.server.begin(opening)

    def task(self) -> Task:
        """Another model each round, so another task."""
        return Task(WEIGHTS, f"{self.number:064}", self.keys.public.fingerprint(), CLIENTS)

    def work(self, tenant: str) -> bytes:
        return self.task().work(f"rows of {tenant}")

    def encrypt(self, tenant: str, vector: Any, number: int, boxes: object, scheme: Any = None) -> Any:
        client, task = self.proxies[tenant].client, self.task()
        return client.encrypt(scheme or self.keys.public, vector, number, boxes, no_progress, task, self.work(tenant))

    def upload(self, tenant: str, boxes: object) -> None:
        """A one-hot delta, so that a client that counts twice or not at all shows."""
        vector = np.eye(SIZE)[int(tenant)]
        encrypted = self.encrypt(tenant, vector, self.number, boxes)
        payload = dump_update(self.round_sum.header, self.keys.public.to_bytes(encrypted.ciphertexts))
        self.round_sum.add(tenant, npy(payload), self.sign(tenant, payload))

    def sign(self, tenant: str, payload: bytes) -> SignedStatement:
        statement = UpdateStatement(
            run_id=SESSION, server_round=self.number, nonce=self.round_sum.nonce_for(tenant),
            client_id=f"client-{tenant}", key_fingerprint=self.keys.public.fingerprint(),
            task_sha256=self.task().digest().hex(),
            payload_sha256=hashlib.sha256(payload).hexdigest(),
        )  # fmt: skip
        return SignedStatement(statement.to_bytes(), self.identity(int(tenant)).sign(statement))

    def run(self, lost: str = "") -> list[float]:
        """One round in which the upload of `lost` does not arrive; the sum of the deltas' first places."""
        for tenant, extra in self.begin().items():
            if tenant != lost:
                self.upload(tenant, extra["boxes"])
        aggregate = self.round_sum.decrypt_average(self.server.finish(self.round_sum.contributors))
        assert not aggregate.average_delta[CLIENTS:].any()
        total = aggregate.average_delta[:CLIENTS] * len(aggregate.contributors)
        return [round(float(value), 12) for value in total]


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


@pytest.mark.parametrize("packing", [True, False])
def test_the_sum_is_that_of_the_updates_that_arrived(tmp_path: Path, packing: bool) -> None:
    federation = Federation(tmp_path, he_packing=packing)
    assert federation.run() == [1, 1, 1, 1]
    assert federation.run(lost="2") == [1, 1, 0, 1]
    assert federation.run() == [1, 1, 1, 1]


def test_a_masked_update_alone_decrypts_to_nothing_and_its_sum_without_unmasking_too(federation: Federation) -> None:
    extras = federation.begin()
    vector = np.eye(SIZE)[0]
    boxes = extras["0"]["boxes"]
    masked = federation.encrypt("0", vector, 1, boxes)
    plain = federation.keys.public.encoding.pack(vector)[0]
    found = federation.keys.decrypt_plaintexts(masked.ciphertexts)
    assert not set(found) & set(plain)
    # The top bits of a packed plaintext are zero; masked they are as likely as not to be there.
    assert max(found).bit_length() >= federation.keys.public.n.bit_length() - 8
    with pytest.raises(EncodingError):
        federation.keys.decrypt_sum(masked.ciphertexts, SIZE, 1)


@pytest.mark.parametrize(
    ("stage", "answer", "words"),
    [
        ("advertise", None, "at advertise: lost: disconnected, or no answer within stage_timeout"),
        ("share", GetPropertiesRes(Status(Code.OK, ""), {"payload": "text"}), "at share: its answer holds no message"),
        (
            "share",
            GetPropertiesRes(Status(Code.OK, ""), {"payload": b"x"}),
            "at share: shares: 1 bytes; expected 5",
        ),
        ("share", GetPropertiesRes(Status(Code.FIT_NOT_IMPLEMENTED, "not me"), {}), "at share: refused: not me"),
    ],
)
def test_who_fails_before_the_training_is_left_out_with_the_reason(
    federation: Federation, stage: str, answer: GetPropertiesRes | None, words: str
) -> None:
    def spoil(at: str, good: GetPropertiesRes) -> GetPropertiesRes:
        if at != stage:
            return good
        if answer is None:
            raise ConnectionError("gone")
        return answer

    federation.proxies["3"].spoil = spoil
    assert federation.run() == [1, 1, 1, 0]
    assert list(federation.failed) == ["3"]
    assert federation.failed["3"].startswith(words)
    federation.proxies["3"].spoil = lambda _stage, good: good
    assert federation.run() == [1, 1, 1, 1]


@pytest.mark.parametrize("stage", ["advertise", "share", "confirm", "reveal"])
def test_too_few_at_a_stage_abandon_the_round_and_the_next_one_works(federation: Federation, stage: str) -> None:
    def lose(at: str, good: GetPropertiesRes) -> GetPropertiesRes:
        if at == stage:
            raise ConnectionError("gone")
        return good

    for tenant in ("1", "2"):
        federation.proxies[tenant].spoil = lose
    with pytest.raises(RoundAbandonedError, match=f"stage '{stage}': 2 clients answered; expected at least 3"):
        federation.run()
    for tenant in ("1", "2"):
        federation.proxies[tenant].spoil = lambda _stage, good: good
    assert federation.run() == [1, 1, 1, 1]


def test_a_revoked_client_is_not_invited(federation: Federation) -> None:
    revoke_client(federation.folder / "pki", "client-1")
    assert federation.run() == [1, 0, 1, 1]


def test_a_client_that_asks_for_a_larger_cohort_refuses_a_smaller_one(federation: Federation) -> None:
    strict = federation.config.replace(min_contributors=4, min_fit_clients=4, min_available_clients=4)
    federation.restart(0, strict)
    assert federation.run() == [0, 1, 1, 1]
    assert federation.failed["0"] == "at advertise: refused: CohortTooSmallError: n_min = 3; expected at least 4"


def test_a_client_never_falls_back_to_an_unmasked_update(federation: Federation) -> None:
    federation.begin()
    with pytest.raises(RoundRefusedError, match="asks for an update without masks, which it could open"):
        federation.encrypt("0", np.zeros(SIZE), 1, None)


def test_a_client_encrypts_for_the_round_and_key_of_its_masks_alone(federation: Federation) -> None:
    boxes = federation.begin()["0"]["boxes"]
    other = make_keys(federation.config).public
    for number, scheme in ((2, federation.keys.public), (1, other)):
        with pytest.raises(RoundRefusedError, match="another round or key"):
            federation.encrypt("0", np.zeros(SIZE), number, boxes, scheme)


def test_a_client_in_no_round_refuses_every_stage(federation: Federation) -> None:
    client = federation.proxies["0"].client
    for stage in ("share", "confirm", "reveal"):
        with pytest.raises(RoundRefusedError, match="in no masked round"):
            client.answer(stage, b"")
    federation.begin()
    with pytest.raises(RoundRefusedError, match="a stage 'decrypt'"):
        federation.proxies["0"].client.answer("decrypt", b"")


def test_a_restarted_client_remembers_the_rounds_it_was_in(federation: Federation) -> None:
    assert federation.run() == [1, 1, 1, 1]
    memory = federation.folder / "state/client-0.jsonl"
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.parent.stat().st_mode) == 0o700
    federation.restart(0)
    federation.number = 0  # a server that goes back in its own session
    with pytest.raises(RoundAbandonedError):
        federation.begin()
    assert "refused: StaleRoundError: round 1 of 'weights' after round 1" in federation.failed["0"]


def test_each_side_names_the_mismatch_when_the_other_does_not_mask(federation: Federation) -> None:
    federation.proxies["0"] = Proxy(PlainAggregation(), federation.keys.public)
    assert federation.run() == [0, 1, 1, 1]
    assert "the server masks updates and this client doesn't" in federation.failed["0"]


def test_masking_without_an_identity_is_a_config_error(federation: Federation) -> None:
    with pytest.raises(ConfigError, match="client_identity = ''"):
        make_aggregation(federation.config, None)


def test_two_of_three_is_no_cohort(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.proxies = {tenant: federation.proxies[tenant] for tenant in ("0", "1")}
    with pytest.raises(RoundAbandonedError):
        federation.run()
