"""The orchestrator's memory in a round: one running sum, however many clients add to it."""

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters
from flwr.server.client_proxy import ClientProxy
from flwr.server.server import fit_clients

from orchestrator.aggregator import Aggregator, RoundSum
from orchestrator.flower_transport import of_fit
from orchestrator.strategy import _Listening
from shared.config import Config
from shared.exchange import Exchange, Kind, Outcome, Reply
from shared.he.scheme import PrivateScheme
from shared.he_utils import make_keys
from shared.masking import WEIGHTS
from shared.wire import dump_update, load_update, wrap_array

FEW, MANY = 3, 12
SIZE = 10_000  # parameters: 218 ciphertexts of 2048 bits


class Hoarding(RoundSum):
    """The broken twin: it keeps every client's ciphertexts until the end, as if the sum were made then."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kept: list[list[Any]] = []

    def add(self, tenant: str, payload: bytes, signature: object = None) -> None:
        super().add(tenant, payload, signature)
        self._kept.append(self._keys.public.from_bytes(*load_update(payload, self.header, self.layout)))


@pytest.fixture(scope="module")
def keys() -> PrivateScheme[Any]:
    config = Config(num_clients=MANY, he_key_length=1024, allow_insecure_key=True)
    return make_keys(config)


@pytest.fixture(scope="module")
def update(keys: PrivateScheme[Any]) -> bytes:
    """One client's payload."""
    round_sum = RoundSum(keys, Aggregator(keys, 2, MANY), 1, SIZE, "", WEIGHTS)
    ciphertexts = keys.public.encrypt(np.random.default_rng(0).normal(0, 0.05, SIZE)).ciphertexts
    return dump_update(round_sum.header, *keys.public.to_bytes(ciphertexts))


def test_memory_does_not_grow_with_the_contributors(keys: PrivateScheme[Any], update: bytes) -> None:
    few, many = (peak_in_updates(RoundSum, keys, update, count) for count in (FEW, MANY))
    assert many < few + 0.5
    # The update that is being read (its payload, its blobs, its ciphertexts), the sum before it and the sum with it;
    # what an object weighs beside its digits makes the rest.
    assert many < 7


def test_a_twin_that_keeps_every_update_is_found_out(keys: PrivateScheme[Any], update: bytes) -> None:
    few, many = (peak_in_updates(Hoarding, keys, update, count) for count in (FEW, MANY))
    assert many > few + (MANY - FEW)
    assert many > 7


def peak_in_updates(kind: Callable[..., RoundSum], keys: PrivateScheme[Any], update: bytes, contributors: int) -> float:
    """The most that was allocated at a time while so many updates were added, over the bytes of one update."""
    round_sum = kind(keys, Aggregator(keys, 2, MANY), 1, SIZE, "", WEIGHTS)
    round_sum.add("first", update)  # what is made once and kept, such as the expected length, is not the round's
    round_sum = kind(keys, Aggregator(keys, 2, MANY), 1, SIZE, "", WEIGHTS)
    tracemalloc.start()
    try:
        for client in range(contributors):
            round_sum.add(str(client), update)
        return tracemalloc.get_traced_memory()[1] / len(update)
    finally:
        tracemalloc.stop()


class Uploading(ClientProxy):
    """A connection that brings bytes of its own, as each does."""

    def __init__(self, cid: str, tensors: list[bytes]) -> None:
        super().__init__(cid)
        self.tensors = tensors

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        tensors = [bytes(bytearray(tensor)) for tensor in self.tensors]
        return FitRes(Status(Code.OK, ""), Parameters(tensors, ""), 1, {})

    get_parameters = get_properties = evaluate = reconnect = None  # type: ignore[assignment]


def test_flower_keeps_no_update_until_the_end(keys: PrivateScheme[Any], update: bytes) -> None:
    """It keeps each answer until it has the last; what it is given to keep are the answers without their updates."""
    few, many = (peak_by_flower(keys, update, count, listening=True) for count in (FEW, MANY))
    assert many < few + 1
    assert many < 9  # the update as Flower delivers it, and unwrapped, on top of what adding takes


def test_a_twin_that_adds_when_flower_has_all_answers_is_found_out(keys: PrivateScheme[Any], update: bytes) -> None:
    few, many = (peak_by_flower(keys, update, count, listening=False) for count in (FEW, MANY))
    assert many > few + (MANY - FEW) / 2
    assert many > 9


def peak_by_flower(keys: PrivateScheme[Any], update: bytes, contributors: int, *, listening: bool) -> float:
    """The same as `peak_in_updates`, where Flower carries the updates: one by one, to be able to compare."""
    round_sum = RoundSum(keys, Aggregator(keys, 2, MANY), 1, SIZE, "", WEIGHTS)
    round_sum.add("first", update)
    round_sum = RoundSum(keys, Aggregator(keys, 2, MANY), 1, SIZE, "", WEIGHTS)

    def add(tenant: str, outcome: Outcome) -> None:
        assert isinstance(outcome, Reply)
        round_sum.add(tenant, outcome.payload)

    exchange, lock = Exchange(Kind.TRAIN, {}, 60.0, "round_timeout", add), threading.Lock()
    tensors = ndarrays_to_parameters([wrap_array(update)]).tensors
    connections: list[ClientProxy] = [Uploading(str(client), tensors) for client in range(contributors)]
    if listening:
        connections = [_Listening(client, client.cid, exchange, lock) for client in connections]
    ins = FitIns(Parameters([], ""), {})
    tracemalloc.start()
    try:
        results, failures = fit_clients([(client, ins) for client in connections], 1, None, 1)
        if not listening:
            for client, result in results:
                add(client.cid, of_fit(result))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not failures
    assert len(round_sum.contributors) == contributors
    return peak / len(update)
