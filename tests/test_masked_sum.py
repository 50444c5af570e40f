"""Both sides of masked sums: `shared/masking` between real Paillier ciphertexts, without a network."""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.common import Code, Status
from numpy.typing import NDArray

from client.private_sum import MaskedPart, Part, PlainPart, make_part
from orchestrator.admission import Admission
from orchestrator.aggregator import Aggregator
from orchestrator.flower_transport import of_properties
from orchestrator.masked_sum import Extras, MaskedSum, Opening
from orchestrator.pki import revoke_client
from orchestrator.round import Job, SumRounds
from orchestrator.seats import Seats
from orchestrator.transport import MemoryTransport
from shared.config import Config
from shared.errors import ConfigError, EncodingError, OrchestratorError, RoundRefusedError
from shared.exchange import Kind, Outcome, Refusal, Reply, Request, drive
from shared.he.scheme import Encrypted, MaskablePublic, no_progress
from shared.he_utils import make_keys
from shared.identity import ClientIdentity, UpdateStatement
from shared.masking import WEIGHTS
from shared.masking.errors import RoundAbandonedError
from shared.roster import Roster
from shared.task import Task
from shared.wire import Header, dump_update
from tests.federations import masked_settings

SESSION = "ab" * 16
SIZE = 40
CLIENTS = 4


class Member:
    """A tenant without rows and without a model: its part in masked sums, and a vector of its own.

    Attributes:
        part: what is tested.
        spoilt: what it answers instead, by the kind of the request.
    """

    def __init__(self, number: int, part: Part, identity: ClientIdentity, scheme: MaskablePublic[Any]) -> None:
        self.part = part
        self.spoilt: dict[Kind, Reply | Refusal] = {}
        self._number, self._identity, self._scheme = number, identity, scheme

    def answer(self, request: Request) -> Reply | Refusal:
        try:
            answer = self._answer(request)
        except OrchestratorError as error:
            answer = Refusal(error.coded)
        return self.spoilt.get(request.kind, answer)

    def _answer(self, request: Request) -> Reply | Refusal:
        asked: dict[str, Any] = dict(request.values)
        if request.kind is Kind.GREET:
            return Reply(b"", {"client_id": self._number})
        if request.kind is Kind.ADVERTISE:
            assert asked["public_key"] == self._scheme.public_bytes()
            return Reply(self.part.enter(asked["payload"], self._scheme, {WEIGHTS: SIZE}, asked))
        if request.kind is Kind.TRAIN:
            return self._vector(asked)
        return Reply(self.part.answer(request.kind, asked["payload"]))

    def _vector(self, asked: dict[str, Any]) -> Reply:
        """A one-hot delta, so that a client that counts twice or not at all shows."""
        scheme, number = self._scheme, asked["round"]
        encrypted = self.encrypt(np.eye(SIZE)[self._number], number, asked.get("boxes"))
        header = Header(scheme.name, number, scheme.fingerprint(), SIZE, scheme.encoding_name)
        payload = dump_update(header, *scheme.to_bytes(encrypted.ciphertexts))
        statement = UpdateStatement(
            session=SESSION,
            server_round=number,
            nonce=asked["nonce"],
            key_fingerprint=scheme.fingerprint(),
            task_sha256=task(scheme, number).digest().hex(),
            payload=payload,
        )
        return Reply(payload, {"signature": self._identity.sign(statement)})

    def encrypt(
        self, vector: NDArray[np.float64], number: int, boxes: object, scheme: MaskablePublic[Any] | None = None
    ) -> Encrypted[Any]:
        given = task(self._scheme, number)
        work = given.work(f"rows of {self._number}")
        return self.part.encrypt(scheme or self._scheme, vector, number, boxes, no_progress, given, work)


def about(number: int) -> str:
    """Another model each round, so another task."""
    return f"{number:064}"


def task(scheme: MaskablePublic[Any], number: int) -> Task:
    return Task(WEIGHTS, about(number), scheme.fingerprint(), CLIENTS)


class Federation:
    """Four enrolled clients, and the server's side of their sums.

    Attributes:
        lost: whose answers to what do not arrive.
        failed: who is left out of the last sum, and why.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.config = masked_settings(folder, CLIENTS, **settings)
        keys = make_keys(self.config)
        assert isinstance(keys.public, MaskablePublic)
        self.keys: Any = keys
        self.folder = folder
        admission = Admission(Roster(self.config.enrolled_clients), SESSION)
        self.masking = MaskedSum(self.config, keys.public, admission)
        aggregator = Aggregator(keys, self.config.fewest_contributors, CLIENTS, admission)
        self._rounds = SumRounds(self.config, aggregator, lambda: self.masking)
        self.members = {
            str(i): Member(i, MaskedPart(self.config, self._identity(i)), self._identity(i), keys.public)
            for i in range(CLIENTS)
        }
        self.lost: set[tuple[str, Kind]] = set()
        self.failed: dict[str, str] = {}
        self.number = 0
        self.transport = MemoryTransport(
            Seats("run", SESSION), self.members, lambda node, request: (node, request.kind) in self.lost
        )
        self.transport.connect()

    def _identity(self, number: int) -> ClientIdentity:
        return ClientIdentity.load(self.folder / f"pki/clients/client-{number}.key", f"client-{number}")

    def restart(self, number: int, config: Config | None = None) -> None:
        old = self.members[str(number)].part
        assert isinstance(old, MaskedPart)
        old.close()
        self.members[str(number)].part = MaskedPart(config or self.config, self._identity(number))

    def begin(self) -> Extras:
        """The stages before the vectors of one sum."""
        self.number, self.failed = self.number + 1, {}
        public = self.keys.public
        opening = Opening(
            round_number=self.number,
            cohort=list(self.members),
            ciphertexts=public.layout(SIZE)[0],
            encryption={"public_key": public.public_bytes()},
            note_failure=self.failed.__setitem__,
            task=task(public, self.number).digest(),
            bucket=WEIGHTS,
        )
        return drive(self.masking.open(opening), self.transport.ask)

    def run(self, cohort: Sequence[str] = ("0", "1", "2", "3")) -> list[float]:
        """One sum of one-hot vectors: how often each client's is in it."""
        self.number, self.failed = self.number + 1, {}
        job = Job(Kind.TRAIN, WEIGHTS, self.number, SIZE, about(self.number), {})
        result = drive(self._rounds.steps(job, cohort, self.failed.__setitem__), self.transport.ask)
        counts = [float(count) for count in result.total]
        assert not any(counts[CLIENTS:])
        assert result.contributors == [str(i) for i in range(CLIENTS) if counts[i]]
        return counts[:CLIENTS]


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"he_packing": False}, {"he_scheme": "kahe"}], ids=str)
def test_the_sum_is_that_of_the_updates_that_arrived(tmp_path: Path, settings: dict[str, Any]) -> None:
    federation = Federation(tmp_path, **settings)
    assert federation.run() == [1, 1, 1, 1]
    federation.lost = {("2", Kind.TRAIN)}
    assert federation.run() == [1, 1, 0, 1]
    assert federation.failed == {"2": "lost: disconnected, or no answer within round_timeout"}
    federation.lost = set()
    assert federation.run() == [1, 1, 1, 1]
    assert federation.failed == {}


def test_a_masked_update_alone_decrypts_to_nothing_and_its_sum_without_unmasking_too(federation: Federation) -> None:
    boxes = federation.begin()["0"]["boxes"]
    vector = np.eye(SIZE)[0]
    masked = federation.members["0"].encrypt(vector, 1, boxes)
    plain = federation.keys.public.encoding.pack(vector)[0]
    found = federation.keys.decrypt_plaintexts(masked.ciphertexts)
    assert not set(found) & set(plain)
    # The top bits of a packed plaintext are zero; masked they are as likely as not to be there.
    assert max(found).bit_length() >= federation.keys.public.n.bit_length() - 8
    with pytest.raises(EncodingError):
        federation.keys.decrypt_sum(masked.ciphertexts, SIZE, 1)


@pytest.mark.parametrize("kind", [Kind.ADVERTISE, Kind.SHARE, Kind.TRAIN, Kind.CONFIRM, Kind.REVEAL])
def test_a_one_time_key_is_in_the_sum_if_its_vector_is_wherever_a_client_is_lost(tmp_path: Path, kind: Kind) -> None:
    federation = Federation(tmp_path, he_scheme="kahe")
    federation.lost = {("2", kind)}
    assert federation.run() == [1, 1, 1 if kind in (Kind.CONFIRM, Kind.REVEAL) else 0, 1]


def test_a_masked_one_time_key_opens_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path, he_scheme="kahe")
    boxes, context = federation.begin()["0"]["boxes"], task(federation.keys.public, 1).digest()
    masked = federation.members["0"].encrypt(np.eye(SIZE)[0], 1, boxes)
    with pytest.raises(EncodingError, match=r"wider than its .* slots|can't add up to"):
        federation.keys.decrypt_sum(masked.ciphertexts, SIZE, 1, context)
    unmasked = federation.keys.public.encrypt(np.eye(SIZE)[0], context)
    np.testing.assert_array_equal(federation.keys.decrypt_sum(unmasked.ciphertexts, SIZE, 1, context), np.eye(SIZE)[0])


@pytest.mark.parametrize(
    ("kind", "answer", "words"),
    [
        (Kind.ADVERTISE, None, "at advertise: lost: disconnected, or no answer within stage_timeout"),
        (Kind.SHARE, of_properties(Status(Code.OK, ""), {"payload": "text"}), "at share: its answer holds no message"),
        (Kind.SHARE, Reply(b"x"), "at share: shares: 1 bytes; expected 5"),
        (Kind.SHARE, Refusal("not me"), "at share: not me"),
        (Kind.SHARE, Refusal("masking: weak key"), "at share: masking: weak key: a tenant's key is weak"),
    ],
)
def test_who_fails_before_the_training_is_left_out_with_the_reason(
    federation: Federation, kind: Kind, answer: Outcome | None, words: str
) -> None:
    if isinstance(answer, Reply | Refusal):
        federation.members["3"].spoilt = {kind: answer}
    else:
        federation.lost = {("3", kind)}
    assert federation.run() == [1, 1, 1, 0]
    assert list(federation.failed) == ["3"]
    assert federation.failed["3"].startswith(words)
    federation.members["3"].spoilt, federation.lost = {}, set()
    assert federation.run() == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", [Kind.ADVERTISE, Kind.SHARE, Kind.CONFIRM, Kind.REVEAL])
def test_too_few_at_a_stage_abandon_the_round_and_the_next_one_works(federation: Federation, kind: Kind) -> None:
    federation.lost = {("1", kind), ("2", kind)}
    with pytest.raises(RoundAbandonedError, match=f"stage '{kind}': 2 clients answered; expected at least 3"):
        federation.run()
    federation.lost = set()
    assert federation.run() == [1, 1, 1, 1]


def test_a_revoked_client_is_not_invited(federation: Federation) -> None:
    revoke_client(federation.folder / "pki", "client-1")
    assert federation.run() == [1, 0, 1, 1]
    assert federation.failed == {"1": "it is not enrolled, or no longer"}


def test_a_client_that_asks_for_a_larger_cohort_refuses_a_smaller_one(federation: Federation) -> None:
    strict = federation.config.replace(min_contributors=4, min_fit_clients=4, min_available_clients=4)
    federation.restart(0, strict)
    assert federation.run() == [0, 1, 1, 1]
    assert federation.failed["0"] == "at advertise: masking: small cohort: n_min = 3; expected at least 4"


def test_a_client_never_falls_back_to_an_unmasked_update(federation: Federation) -> None:
    federation.begin()
    with pytest.raises(RoundRefusedError, match="asks for an update without masks, which it could open"):
        federation.members["0"].encrypt(np.zeros(SIZE), 1, None)


def test_a_client_encrypts_for_the_round_and_key_of_its_masks_alone(federation: Federation) -> None:
    boxes = federation.begin()["0"]["boxes"]
    other = make_keys(federation.config).public
    assert isinstance(other, MaskablePublic)
    for number, scheme in ((2, federation.keys.public), (1, other)):
        with pytest.raises(RoundRefusedError, match="another round or key"):
            federation.members["0"].encrypt(np.zeros(SIZE), number, boxes, scheme)


def test_a_client_in_no_round_refuses_every_stage(federation: Federation) -> None:
    part = federation.members["0"].part
    for kind in (Kind.SHARE, Kind.CONFIRM, Kind.REVEAL):
        with pytest.raises(RoundRefusedError, match="in no masked round"):
            part.answer(kind, b"")
    federation.begin()
    for kind in set(Kind) - {Kind.SHARE, Kind.CONFIRM, Kind.REVEAL, Kind.TOSS, Kind.DRAW}:
        with pytest.raises(RoundRefusedError, match=f"asks for '{kind}' as a stage"):
            part.answer(kind, b"")


def test_a_restarted_client_remembers_the_rounds_it_was_in(federation: Federation) -> None:
    assert federation.run() == [1, 1, 1, 1]
    memory = federation.folder / "state/client-0.jsonl"
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.parent.stat().st_mode) == 0o700
    federation.restart(0)
    federation.number = 0  # a server that goes back in its own session
    with pytest.raises(RoundAbandonedError):
        federation.begin()
    assert "masking: stale round: round 1 of 'weights' after round 1" in federation.failed["0"]


def test_each_side_names_the_mismatch_when_the_other_does_not_mask(federation: Federation) -> None:
    federation.members["0"].part = PlainPart()
    assert federation.run() == [0, 1, 1, 1]
    assert "the server masks updates and this client doesn't" in federation.failed["0"]
    with pytest.raises(RoundRefusedError, match="the server masks updates and this client doesn't"):
        PlainPart().answer(Kind.SHARE, b"")


def test_masking_without_an_identity_is_a_config_error(federation: Federation) -> None:
    with pytest.raises(ConfigError, match="client_identity = ''"):
        make_part(federation.config, None)


def test_two_of_three_is_no_cohort(federation: Federation) -> None:
    with pytest.raises(RoundAbandonedError):
        federation.run(cohort=("0", "1"))
