"""A short slice of `make fuzz`, and proof that it would notice what it looks for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.wire import dump_update, load_update
from tests.fuzz_decoder import LAYOUT, FuzzError, fuzz, targets, try_input
from tests.vectors.world import header

INPUTS = 5_000


@pytest.mark.parametrize("name", targets())
def test_mutated_inputs_meet_typed_errors_or_are_what_was_sent(name: str, tmp_path: Path) -> None:
    target = targets()[name]
    outcomes = fuzz(name, target, round(target.share * INPUTS), "slice", tmp_path)
    # An input of either kind is among them, so that neither rule holds for want of a case.
    assert outcomes["accepted"] >= 100
    assert outcomes.total() - outcomes["accepted"] >= 100
    assert list(tmp_path.iterdir()) == []


def _without_the_last_byte(data: bytes) -> bytes:
    return dump_update(header(), *load_update(data[:-1] + b".", header(), LAYOUT))


def _by_index(data: bytes) -> bytes:
    return bytes([data[600], {0: 0}[data[200]]])


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (_by_index, "KeyError|IndexError"),
        (_without_the_last_byte, "encodes to other bytes"),
    ],
)
def test_a_broken_twin_is_found_and_its_input_saved(
    read: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    broken = replace(targets()["decoder"], read=read)
    with pytest.raises(FuzzError, match=reason):
        fuzz("decoder", broken, 5_000, "twin", tmp_path)
    (saved,) = tmp_path.iterdir()
    with pytest.raises(FuzzError, match=reason):
        try_input(broken, saved.read_bytes())
    assert saved.name.startswith("fuzz-decoder-")
