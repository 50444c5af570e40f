"""The client launcher with one rule of the tenants left out, for `tests/test_peek.py`.

python tests/careless_clients.py RULE --config CONFIG
"""

import itertools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import shared.masking.client
from benchmarks.dishonest import CLIENTS
from client import learning
from client import tenant as tenant_module
from client.run_clients import main
from client.tenant import Tenant
from client.training import train
from shared.exchange import Kind, Refusal, Reply, Request
from shared.masking import ClientRound
from shared.masking.memory import RoundMemory
from shared.masking.messages import RevealRequest
from shared.masking.stream import MaskSum
from shared.metrics import evaluate


class CarelessMaskSum(MaskSum):
    """A client adds its own mask first, and then those that it has in common with a peer; one kind is left out."""

    left_out = ""
    _made = itertools.count()
    _streams = 0

    def __init__(self, modulus: int, ciphertexts: int) -> None:
        super().__init__(modulus, ciphertexts)
        # The features' statistics come first, two vectors of each client; with those botched there is no round.
        self._honest = next(self._made) < 2 * CLIENTS

    def _wanted(self) -> bool:
        self._streams += 1
        return self._honest or (self._streams == 1) == (self.left_out == "pair")

    def add(self, key: bytes) -> None:
        if self._wanted():
            super().add(key)

    def subtract(self, key: bytes) -> None:
        if self._wanted():
            super().subtract(key)


def one_kind_of_mask(kind: str) -> None:
    CarelessMaskSum.left_out = kind
    setattr(shared.masking.client, "MaskSum", CarelessMaskSum)  # noqa: B010  (mypy knows no such assignment)
    # A sum of botched masks opens to nothing, so the model stays and the same work is asked again over other tenants.
    no_sets()


def no_views() -> None:
    """Nobody counts the signatures under one view."""
    ClientRound._check_confirms = lambda *_: None  # type: ignore[method-assign]


def both_shares() -> None:
    """What is asked for is what is given."""

    class Anything(frozenset[str]):
        __hash__ = frozenset.__hash__

        def __and__(self, _other: object) -> frozenset[Any]:
            return frozenset()

        def __eq__(self, _other: object) -> bool:
            return True

        def __ne__(self, _other: object) -> bool:
            return False

    parse = RevealRequest.parse

    def parse_blindly(payload: bytes, context: bytes) -> RevealRequest:
        request = parse(payload, context)
        return replace(request, seeds=Anything(request.seeds), keys=Anything(request.keys))

    RevealRequest.parse = parse_blindly  # type: ignore[method-assign]


def settings_as_told() -> None:
    told = threading.local()  # a client is a thread

    def check(asked: Mapping[str, Any], _own: object) -> None:
        told.learning_rate = asked["learning_rate"]

    def obey(model: Any, rows: Any, settings: Any, *rest: Any) -> None:
        train(model, rows, replace(settings, learning_rate=told.learning_rate), *rest)

    setattr(tenant_module, "check_training", check)  # noqa: B010
    setattr(learning, "train", obey)  # noqa: B010


def no_task() -> None:
    mask = ClientRound.mask

    def mask_whatever(self: ClientRound, boxes: bytes, plaintexts: Any, _task: bytes, work: bytes) -> list[int]:
        return mask(self, boxes, plaintexts, cast(Any, self._state).terms.task, work)

    ClientRound.mask = mask_whatever  # type: ignore[method-assign, assignment]


def no_sets() -> None:
    RoundMemory.check_set = RoundMemory.open_sum = lambda *_: None  # type: ignore[method-assign, assignment]


def no_memory() -> None:
    """Neither of stages nor of sets: each of the two stands against a machine that is set back."""
    no_sets()
    RoundMemory.claim = lambda *_: None  # type: ignore[method-assign]


def no_zeros() -> None:
    """Whoever fails says so."""
    Tenant._or_zeros = lambda _self, compute, _nothing: compute()  # type: ignore[method-assign, assignment]


def loss_in_clear() -> None:
    answer = Tenant.answer

    def answer_openly(self: Tenant, request: Request) -> Reply | Refusal:
        reply = answer(self, request)
        if request.kind is not Kind.EVALUATE or isinstance(reply, Refusal):
            return reply
        self._load(request.model)
        _, holdout = self._rows.scaled(cast(bytes, request.values["scaler"]))
        return replace(reply, values={**reply.values, "loss": evaluate(self.model, holdout).loss})

    Tenant.answer = answer_openly  # type: ignore[method-assign]


RULES: dict[str, Callable[[], None]] = {
    "pair masks": lambda: one_kind_of_mask("pair"),
    "own mask": lambda: one_kind_of_mask("own"),
    "one view": no_views,
    "one share": both_shares,
    "own settings": settings_as_told,
    "one task": no_task,
    "one set": no_sets,
    "a memory": no_memory,
    "zeros": no_zeros,
    "no clear text": loss_in_clear,
}


if __name__ == "__main__":
    RULES[sys.argv[1]]()
    code = main(sys.argv[2:])
    sys.stdout.flush()
    os._exit(code)
