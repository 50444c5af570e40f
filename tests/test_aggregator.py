"""The aggregator: one bad update leaves no trace, and nothing is ever decrypted that holds fewer than two."""

import ast
import re
from typing import Any

import numpy as np
import pytest

from orchestrator.aggregator import Aggregator, RoundSum
from shared.config import parse_config
from shared.errors import Flaw, TooFewContributorsError
from shared.he.paillier import PaillierPrivate
from shared.he.scheme import PrivateScheme, Vector
from shared.he_utils import make_keys
from shared.weighting import average
from shared.wire import dump_update
from tests.breaking import breaks
from tests.processes import ROOT

CONFIG = parse_config({"he_key_length": 512, "allow_insecure_key": True})
SIZE = 4


@pytest.fixture(scope="module")
def keys() -> PaillierPrivate:
    scheme = make_keys(CONFIG)
    assert isinstance(scheme, PaillierPrivate)
    return scheme


class CountingKeys(PrivateScheme[Any]):
    """Fails the test that decrypts what must stay closed."""

    def __init__(self, keys: PaillierPrivate) -> None:
        self._keys, self.public, self.decrypted = keys, keys.public, 0

    def decrypt_sum(self, ciphertexts: Any, size: int, contributors: int, context: bytes = b"") -> Vector:
        self.decrypted += 1
        return self._keys.decrypt_sum(ciphertexts, size, contributors, context)


def update(keys: PaillierPrivate, round_sum: RoundSum, vector: Vector) -> bytes:
    return dump_update(round_sum.header, *keys.public.to_bytes(keys.public.encrypt(vector).ciphertexts))


def test_the_average_is_that_of_the_contributors(keys: PaillierPrivate) -> None:
    round_sum = Aggregator(keys, 2, 3).open_round(1, SIZE)
    for client in (2, 0, 1):  # whoever comes first
        round_sum.add(str(client), update(keys, round_sum, np.eye(SIZE)[client]))
    total = round_sum.decrypt_sum()
    np.testing.assert_array_equal(total, [1, 1, 1, 0])
    np.testing.assert_array_equal(average(total, 3, "uniform", None) * 3, [1, 1, 1, 0])
    assert round_sum.contributors == ["0", "1", "2"]


@pytest.mark.parametrize("updates", [0, 1, 2])
def test_below_min_contributors_nothing_is_decrypted(keys: PaillierPrivate, updates: int) -> None:
    counting = CountingKeys(keys)
    round_sum = Aggregator(counting, 3, 3).open_round(1, SIZE)
    for client in range(updates):
        round_sum.add(str(client), update(keys, round_sum, np.ones(SIZE)))
    with pytest.raises(TooFewContributorsError, match=f"{updates} valid updates; at least 3"):
        round_sum.decrypt_sum()
    assert counting.decrypted == 0


def test_one_contributor_can_never_be_enough(keys: PaillierPrivate) -> None:
    with pytest.raises(TooFewContributorsError, match="a sum of one update is that update"):
        Aggregator(keys, 1, 3)


def test_a_refused_update_leaves_no_trace(keys: PaillierPrivate) -> None:
    round_sum = Aggregator(keys, 2, 3).open_round(2, SIZE)
    round_sum.add("a", update(keys, round_sum, np.full(SIZE, 0.5)))
    stale = Aggregator(keys, 2, 3).open_round(1, SIZE)
    zeros = dump_update(round_sum.header, [bytes(round_sum.layout[1]) for _ in range(round_sum.layout[0])])
    refused: list[tuple[str, bytes, Flaw]] = [
        ("a", update(keys, round_sum, np.ones(SIZE)), Flaw.REPEATED),
        ("b", update(keys, stale, np.ones(SIZE)), Flaw.HEADER),
        ("b", zeros, Flaw.CIPHERTEXT),
        ("b", b"", Flaw.LENGTH),
        ("b", update(keys, round_sum, np.ones(SIZE))[:-1], Flaw.LENGTH),
        ("b", update(keys, round_sum, np.ones(SIZE)) + b".", Flaw.LENGTH),
    ]
    for client, payload, flaw in refused:
        with breaks(flaw):
            round_sum.add(client, payload)
    round_sum.add("b", update(keys, round_sum, np.full(SIZE, 0.25)))  # a refused client may still do it right
    np.testing.assert_array_equal(round_sum.decrypt_sum(), np.full(SIZE, 0.75))


def test_one_more_contributor_than_agreed_is_refused(keys: PaillierPrivate) -> None:
    round_sum = Aggregator(keys, 2, 2).open_round(1, SIZE)
    for client in ("a", "b"):
        round_sum.add(client, update(keys, round_sum, np.ones(SIZE)))
    with breaks(Flaw.TOO_MANY):
        round_sum.add("c", update(keys, round_sum, np.ones(SIZE)))


def test_decryption_happens_in_one_place() -> None:
    """Reads the source: outside the schemes themselves, one function decrypts, and what it decrypts is the sum."""
    calls = []
    folders = ("orchestrator/**/*.py", "client/**/*.py", "shared/*.py", "shared/masking/*.py")
    for path in (path for folder in folders for path in ROOT.glob(folder)):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and re.match("decrypt_(?!seconds)", node.attr):
                    call = next((n for n in ast.walk(function) if isinstance(n, ast.Call) and n.func is node), None)
                    first = ast.unparse(call.args[0]) if call else "not called"
                    calls.append((path.name, function.name, node.attr, first))
    assert sorted(calls) == [
        ("aggregator.py", "decrypt_sum", "decrypt_masked_sum", "self._sum"),
        ("aggregator.py", "decrypt_sum", "decrypt_sum", "self._sum"),
        ("round.py", "steps", "decrypt_sum", "unmask"),
    ]
