"""Every vector in `tests/vectors/payloads` against the real aggregator, and against careless twins of it.

A vector names the flaw that it must be refused for. Besides, the round must end as if its sender had never answered,
nothing in it may run, and it may not cost much more memory than an honest update.
"""

import json
import string
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from flwr.common import Code, FitRes, Parameters, Status

from orchestrator.aggregator import RoundSum
from orchestrator.flower_transport import of_fit
from shared.errors import Flaw, OrchestratorError, UpdateRejectedError
from shared.exchange import Refusal, Reply
from shared.he.decryption import decrypt_all
from shared.he.scheme import Vector
from shared.wire import dump_update, tensor_length
from tests.processes import ROOT
from tests.vectors import make, malformed, world
from tests.vectors.world import HONEST, HostileUpdate, honest_update, keys, open_round

VECTORS = world.read_all()
# What refusing an update may take at its peak, in bytes, for an honest update of so many bytes. A pickle may ask for
# objects of some 50 bytes with opcodes of a few each: 17 times the payload is the most that a vector takes.
MEMORY_FACTOR, MEMORY_REST = 32, 1 << 20


def live(kind: str) -> list[HostileUpdate]:
    return [vector for vector in VECTORS if vector.live == kind]


def names(vectors: list[HostileUpdate] | tuple[HostileUpdate, ...]) -> list[str]:
    return [vector.name for vector in vectors]


def is_no_array(vector: HostileUpdate) -> bool:
    """Whether it is refused before anything is known of the round: its bytes are no array of any payload."""
    return vector.name.startswith(("array-", "length-")) and vector.flaw is Flaw.MALFORMED


def encrypted_sum(round_sum: RoundSum) -> list[bytes]:
    assert round_sum._sum is not None
    return keys().public.to_bytes(round_sum._sum).ciphertexts


@pytest.fixture(scope="module")
def honest_round(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vector, list[bytes]]:
    """The sum of the honest clients alone, (SIZE,), decrypted and encrypted."""
    round_sum = open_round(tmp_path_factory.mktemp("honest"))
    for client in HONEST:
        round_sum.add(*honest_update(client))
    total = round_sum.decrypt_sum()
    expected = np.sum([keys().public.quantise(world.delta(c)) for c in HONEST], axis=0)
    np.testing.assert_array_equal(total, expected)
    return total, encrypted_sum(round_sum)


def test_the_vectors_reach_every_flaw_there_is() -> None:
    assert len(VECTORS) >= 60
    assert {vector.flaw for vector in VECTORS} == set(Flaw)


def test_the_script_makes_the_committed_files_again() -> None:
    assert make.differences() == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("vector", VECTORS, ids=names(VECTORS))
def test_a_vector_is_refused_for_its_flaw_and_leaves_no_trace(
    vector: HostileUpdate, tmp_path: Path, honest_round: tuple[Vector, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    monkeypatch.chdir(sandbox)  # where a canary would appear
    round_sum = open_round(tmp_path)
    budget = MEMORY_FACTOR * tensor_length(round_sum.header, round_sum.layout) + MEMORY_REST

    for present in vector.after:
        round_sum.add(*honest_update(present))
    rest: list[str | None] = [client for client in HONEST if client not in vector.after]
    for client in [*rest, None]:  # at first, between any two, and at the end
        tracemalloc.start()
        try:
            with pytest.raises(UpdateRejectedError) as caught:
                vector.send(round_sum)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # Once the sum has as many contributors as it has room for, whatever payload comes is one too many.
        full = len(round_sum.contributors) == len(HONEST) and vector.client not in HONEST and not is_no_array(vector)
        assert caught.type is UpdateRejectedError
        assert caught.value.code == (Flaw.TOO_MANY if full else vector.flaw)
        assert str(caught.value).isprintable(), "the message goes into a log"
        assert len(str(caught.value)) < 2000
        assert peak < budget
        if client is not None:
            round_sum.add(*honest_update(client))

    total, ciphertexts = honest_round
    assert round_sum.contributors == sorted(HONEST)
    assert encrypted_sum(round_sum) == ciphertexts
    assert round_sum.decrypt_sum().tobytes() == total.tobytes()
    assert list(sandbox.iterdir()) == []
    assert not hasattr(string, "canary")


def test_a_refused_client_may_still_do_it_right(tmp_path: Path) -> None:
    """No vector of the attacker's uses up its nonce or its place."""
    round_sum = open_round(tmp_path)
    for vector in VECTORS:
        if not vector.after:
            with pytest.raises(UpdateRejectedError):
                vector.send(round_sum)
    for client in (world.ATTACKER, *HONEST[:2]):
        round_sum.add(*honest_update(client))
    expected = sum(keys().public.quantise(world.delta(c)) for c in (world.ATTACKER, *HONEST[:2]))
    np.testing.assert_array_equal(round_sum.decrypt_sum(), expected)


def test_flowers_transport_refuses_what_is_no_array_and_hands_on_the_rest() -> None:
    """It never raises: Flower would call the sender lost, and the round would not learn of its answer."""
    for vector in VECTORS:
        values = {} if vector.signature is None else {"signature": vector.signature}
        outcome = of_fit(FitRes(Status(Code.OK, ""), Parameters([vector.tensor], ""), 1, values))
        if is_no_array(vector):
            assert isinstance(outcome, Refusal)
            assert outcome.reason.startswith("update: malformed: ")
        else:
            assert outcome == Reply(vector.tensor[128:], values)


# In a process of its own, as a careless server would read what came: by pickle, or by NumPy with pickles allowed.
_CARELESS = """
import io, json, os, pickle, string, sys
from pathlib import Path
from tests.vectors.world import HostileUpdate

import numpy, phe.paillier
report = {}
home = Path.cwd()
for path in json.load(sys.stdin):
    vector = HostileUpdate.read(Path(path))
    sandbox = home / vector.name
    sandbox.mkdir()
    os.chdir(sandbox)
    kind = ""
    try:
        if vector.live == "npy":
            numpy.load(io.BytesIO(vector.tensor), allow_pickle=True)
        else:
            kind = type(pickle.loads(vector.tensor[128:])).__module__
    except Exception:
        pass
    ran = any(sandbox.iterdir()) or hasattr(string, "canary")
    vars(string).pop("canary", None)
    report[vector.name] = [ran, kind]
json.dump(report, sys.stdout)
"""


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, str]]:
    """For each live pickle: whether its code ran, and the module of the object that came of it."""
    vectors = [*live("pickle"), *live("npy"), *live("object")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CARELESS],
        input=json.dumps([str(world.PAYLOADS / f"{vector.name}.txt") for vector in vectors]),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("careless"),
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=120,
        check=True,
    )
    report: dict[str, tuple[bool, str]] = {name: (ran, kind) for name, (ran, kind) in json.loads(done.stdout).items()}
    return report


@pytest.mark.parametrize("vector", [*live("pickle"), *live("npy")], ids=lambda vector: vector.name)
def test_a_careless_reader_runs_its_code(vector: HostileUpdate, careless: dict[str, tuple[bool, str]]) -> None:
    assert careless[vector.name][0]


@pytest.mark.parametrize("vector", live("object"), ids=lambda vector: vector.name)
def test_a_careless_reader_builds_its_object(vector: HostileUpdate, careless: dict[str, tuple[bool, str]]) -> None:
    assert careless[vector.name] == (False, "phe.paillier")


@pytest.mark.parametrize("vector", live("sum"), ids=lambda vector: vector.name)
def test_without_the_check_of_ciphertexts_its_sum_is_wrong(
    vector: HostileUpdate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decrypted by `phe`, as a careless server would: it says nothing, and the plaintexts are not the honest sum."""
    monkeypatch.setattr(keys().public, "from_bytes", world.take_unchecked(keys().public))
    round_sum = open_round(tmp_path)
    vector.send(round_sum)
    for client in HONEST[:2]:
        round_sum.add(*honest_update(client))
    assert round_sum._sum is not None
    private = keys()._key
    found = [private.private_key.raw_decrypt(c.ciphertext(be_secure=False)) for c in round_sum._sum]
    senders = (world.ATTACKER, *HONEST[:2])
    packed = [keys().public.encoding.pack(world.delta(client))[0] for client in senders]
    assert found != [sum(column) % keys().public.n for column in zip(*packed, strict=True)]
    with pytest.raises(OrchestratorError):  # the second fence, behind the check: the round is lost, not silently wrong
        round_sum.decrypt_sum()


def test_a_ciphertext_of_something_else_is_beyond_what_a_check_of_ciphertexts_can_see(tmp_path: Path) -> None:
    """A known limit: 1 is a ciphertext of 0, and 0 is a delta of -4 everywhere, a step beyond the range of the honest.

    What a client encrypts is not for this check to judge: within the range it could encrypt as much.
    """
    payload = dump_update(world.header(), [(1).to_bytes(128, "big") for _ in range(4)])
    round_sum = open_round(tmp_path)
    round_sum.add(world.ATTACKER, payload, world.sign(world.ATTACKER, world.statement(world.ATTACKER, payload)))
    round_sum.add(*honest_update(HONEST[0]))
    assert decrypt_all(keys()._key, [1]) == [0]
    expected = keys().public.quantise(world.delta(HONEST[0])) - 4
    np.testing.assert_array_equal(round_sum.decrypt_sum(), expected)


_FLOODS = """
import json, resource, sys, tracemalloc

from shared.errors import UpdateRejectedError
from shared.he.scheme import Layout
from shared.wire import load_update, payload_length
from tests.vectors import malformed, world

resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))  # a test that fails must not take the machine with it
layout = Layout(240, 128)
length = payload_length(world.header(), layout)
report = {"length": length}
for flood in malformed.floods(length):
    tracemalloc.start()
    try:
        load_update(flood.payload, world.header(), layout)
    except UpdateRejectedError as error:
        report[flood.name] = tracemalloc.get_traced_memory()[1]
        if error.code != flood.flaw or "MemoryError" in str(error):
            sys.exit(f"{flood.name}: {error!r}")
    tracemalloc.stop()
json.dump(report, sys.stdout)
"""


@pytest.mark.timeout(170)
def test_floods_in_an_update_of_a_real_size_stay_within_the_bound() -> None:
    """The honest update is 33 kB here, so that its multiple is what counts; in a process with a hard limit."""
    done = subprocess.run(
        [sys.executable, "-c", _FLOODS],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=160,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout)
    honest = peaks.pop("length")
    assert len(peaks) == len(list(malformed.floods()))
    too_much = {name: peak for name, peak in peaks.items() if peak > MEMORY_FACTOR * honest + MEMORY_REST}
    assert not too_much
