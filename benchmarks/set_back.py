"""Runs a client launcher on a machine that its owner sets back, as a virtual machine's snapshot does.

    python benchmarks/set_back.py client/run_clients.py --config CONFIG

Whoever is asked a second time to confirm has the memory that it had when it was first asked. Files stay as they are.
"""

import runpy
import sys
from typing import Any
from weakref import WeakKeyDictionary

from client.private_sum import MaskedPart
from shared.exchange import Kind

_answer = MaskedPart.answer
_before: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def answer(self: MaskedPart, kind: Kind, payload: bytes) -> bytes:
    """As ever, but with what the client knew before it confirmed for the first time."""
    current = self._round
    if kind is Kind.CONFIRM and current is not None:
        current._state = _before.setdefault(current, current._state)
    return _answer(self, kind, payload)


if __name__ == "__main__":
    MaskedPart.answer = answer  # type: ignore[method-assign]  # the attack: the tenant's own code is left as it is
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
