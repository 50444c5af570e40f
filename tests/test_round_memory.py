"""The orchestrator's memory in a round: one running sum, however many clients add to it."""

import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from orchestrator.admission import SignedStatement
from orchestrator.aggregator import Aggregator, RoundSum
from shared.config import Config
from shared.he_utils import PrivateScheme, make_keys
from shared.masking import WEIGHTS
from shared.wire import dump_update, load_update, unwrap_tensor, wrap_array

FEW, MANY = 3, 12
SIZE = 10_000  # parameters: 218 ciphertexts of 2048 bits


class Hoarding(RoundSum):
    """The broken twin: it keeps every client's ciphertexts until the end, as if the sum were made then."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kept: list[list[Any]] = []

    def add(self, client_id: str, tensor: bytes, signed: SignedStatement | None = None) -> None:
        super().add(client_id, tensor, signed)
        blobs = load_update(unwrap_tensor(tensor, self.header, self.layout), self.header, self.layout)
        self._kept.append(self._keys.public.from_bytes(blobs))


@pytest.fixture(scope="module")
def keys() -> PrivateScheme[Any]:
    config = Config(num_clients=MANY, he_key_length=1024, he_key_kind="subgroup", allow_insecure_key=True)
    return make_keys(config)


@pytest.fixture(scope="module")
def update(keys: PrivateScheme[Any]) -> bytes:
    """One client's update, as Flower hands it on."""
    round_sum = RoundSum(keys, Aggregator(keys, 2, MANY), 1, SIZE, "", WEIGHTS)
    ciphertexts = keys.public.encrypt(np.random.default_rng(0).normal(0, 0.05, SIZE)).ciphertexts
    buffer = io.BytesIO()
    np.save(buffer, wrap_array(dump_update(round_sum.header, keys.public.to_bytes(ciphertexts))))
    return buffer.getvalue()


def test_memory_does_not_grow_with_the_contributors(keys: PrivateScheme[Any], update: bytes) -> None:
    few, many = (peak_in_updates(RoundSum, keys, update, count) for count in (FEW, MANY))
    assert many < few + 0.5
    # The update that is being read (its payload, its blobs, its ciphertexts), the sum before it and the sum with it;
    # what an object weighs beside its digits makes the rest.
    assert many < 8


def test_a_twin_that_keeps_every_update_is_found_out(keys: PrivateScheme[Any], update: bytes) -> None:
    few, many = (peak_in_updates(Hoarding, keys, update, count) for count in (FEW, MANY))
    assert many > few + (MANY - FEW)
    assert many > 8


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
