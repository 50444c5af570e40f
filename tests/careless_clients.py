"""The client launcher with one of the two kinds of mask left out, for `tests/test_peek.py`.

python tests/careless_clients.py pair|own --config CONFIG
"""

import itertools
import os
import sys

import shared.masking.client
from benchmarks.peek import CLIENTS
from client.run_clients import main
from shared.masking.memory import RoundMemory
from shared.masking.stream import MaskSum

LEFT_OUT = sys.argv[1]


class Careless(MaskSum):
    """A client adds its own mask first, and then those that it has in common with a peer."""

    _made = itertools.count()
    _streams = 0

    def __init__(self, modulus: int, ciphertexts: int) -> None:
        super().__init__(modulus, ciphertexts)
        # The features' statistics come first, two vectors of each client; with those botched there is no round.
        self._honest = next(self._made) < 2 * CLIENTS

    def _wanted(self) -> bool:
        self._streams += 1
        return self._honest or (self._streams == 1) == (LEFT_OUT == "pair")

    def add(self, key: bytes) -> None:
        if self._wanted():
            super().add(key)

    def subtract(self, key: bytes) -> None:
        if self._wanted():
            super().subtract(key)


if __name__ == "__main__":
    shared.masking.client.MaskSum = Careless  # type: ignore[attr-defined]
    # A sum of botched masks opens to nothing, so the model stays and the same work is asked again over other tenants.
    RoundMemory.check_set = RoundMemory.open_sum = lambda *_: None  # type: ignore[method-assign, assignment]
    code = main(sys.argv[2:])
    sys.stdout.flush()
    os._exit(code)
