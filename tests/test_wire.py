"""The decoder of updates, against bytes that no honest client sends."""

import io
import os
import pickle
import re
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import wire
from shared.errors import Flaw, UpdateRejectedError
from shared.he.scheme import Layout
from shared.wire import Header, dump_update, load_update, payload_length, unwrap_tensor, wrap_array
from tests.breaking import breaks

HEADER = Header(scheme="paillier", round=3, key="ab" * 32, size=5, encoding="packed, 16+2 bits, up to 3 contributors")
LAYOUT = Layout(5, 64)
BLOBS = [bytes([i + 1]) * 64 for i in range(5)]
HONEST = dump_update(HEADER, BLOBS)


def npy(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, wrap_array(payload), allow_pickle=False)
    return buffer.getvalue()


def same_length(pickled: bytes) -> bytes:
    """A hostile pickle stretched to the honest length, so that the length check alone can't catch it."""
    filler = len(HONEST) - len(pickled) - 5
    assert filler >= 0
    # A bytes object on the bottom of the stack, before the hostile opcodes.
    return pickled[:2] + pickle.BINBYTES + struct.pack("<I", filler) + bytes(filler) + pickled[2:]


class Exploit:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/exploited-by-a-pickle",)


class Canary:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("canary",)


def test_an_honest_update_survives_the_wire() -> None:
    assert len(HONEST) == payload_length(HEADER, LAYOUT)
    assert load_update(unwrap_tensor(npy(HONEST)), HEADER, LAYOUT) == (BLOBS, b"")


def test_long_lists_and_large_blobs_survive_the_wire() -> None:
    for layout in (
        Layout(2500, 64),
        Layout(3, 70_000),
        Layout(1, 100),
    ):  # several batches; out-of-frame bytes; a single item
        header = replace(HEADER, size=layout[0])
        blobs = [os.urandom(layout[1]) for _ in range(layout[0])]
        payload = dump_update(header, blobs)
        assert len(payload) == payload_length(header, layout)
        assert load_update(payload, header, layout) == (blobs, b"")


@pytest.mark.parametrize(
    ("payload", "flaw"),
    [
        (b"", Flaw.LENGTH),
        (HONEST[:-1], Flaw.LENGTH),
        (HONEST + b".", Flaw.LENGTH),
        (dump_update(HEADER, BLOBS[:4]), Flaw.LENGTH),
        (b"\x80\x04" + b"\x00" * (len(HONEST) - 2), Flaw.MALFORMED),
        (same_length(pickle.dumps(Exploit(), protocol=4)), Flaw.MALFORMED),
        (same_length(b"\x80\x04cos\nsystem\n(S'true'\ntR."), Flaw.MALFORMED),
        (same_length(b"\x80\x04(S'true'\nios\nsystem\n."), Flaw.MALFORMED),
        (same_length(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), Flaw.MALFORMED),
        (same_length(b"\x80\x04\x82\x01."), Flaw.MALFORMED),
        (same_length(b"\x80\x04]r\xff\xff\xff\x0f."), Flaw.MALFORMED),  # LONG_BINPUT: 2 GB of memo in 9 bytes
        (same_length(b"\x80\x04]}b."), Flaw.MALFORMED),  # BUILD
        (same_length(b"\x80\x04]h\x00."), Flaw.MALFORMED),  # BINGET
        (same_length(b"\x80\x04P1\n."), Flaw.MALFORMED),  # PERSID
        (same_length(b"\x80\x04" + b"]" * 200 + b"."), Flaw.MALFORMED),
        (same_length(b"\x80\x04" + b"(" * 200 + b"]}u\x86."), Flaw.MALFORMED),
        (same_length(b"\x80\x04}(u]\x86B\xff\xff\xff\xff."), Flaw.MALFORMED),  # 4 GB announced
        (same_length(b"\x80\x04}(u]\x86."), Flaw.MALFORMED),
        (same_length(b"\x80\x04\x86}(u]."), Flaw.MALFORMED),
        (HONEST[:-1] + b"\x94", Flaw.MALFORMED),  # no STOP
        (HONEST.replace(b"C\x40", b"C\x3f", 1), Flaw.MALFORMED),
        (HONEST.replace(b"K\x03", b"K\x04", 1), Flaw.HEADER),
        (dump_update(replace(HEADER, key="cd" * 32), BLOBS), Flaw.HEADER),
        (dump_update(replace(HEADER, scheme="pallieri"), BLOBS), Flaw.HEADER),
        (dump_update(replace(HEADER, size=6), BLOBS), Flaw.HEADER),
        (dump_update(replace(HEADER, format=2), BLOBS), Flaw.HEADER),
        (dump_update(replace(HEADER, encoding=HEADER.encoding.replace("16+2", "15+3")), BLOBS), Flaw.HEADER),
        (dump_update(HEADER, [*BLOBS[:3], BLOBS[3] + b"x", BLOBS[4][1:]]), Flaw.MALFORMED),
        (HONEST.replace(b"K\x03", b"\x88\x94", 1), Flaw.MALFORMED),  # round: True
        (HONEST.replace(b"\x05round", b"\x05rounb", 1), Flaw.MALFORMED),
        (b"\x80\x05" + HONEST[2:], Flaw.MALFORMED),  # the same values, written in another way
    ],
)
def test_hostile_payloads_raise_their_error(payload: bytes, flaw: Flaw) -> None:
    with breaks(flaw):
        load_update(payload, HEADER, LAYOUT)
    assert not os.path.exists("/tmp/exploited-by-a-pickle")  # noqa: PTH110


def test_a_twin_that_does_not_compare_runs_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    payload = same_length(pickle.dumps(Canary(), protocol=4))
    with breaks(Flaw.MALFORMED):
        load_update(payload, HEADER, LAYOUT)
    assert not Path("canary").exists()
    monkeypatch.setattr(wire, "dump_update", lambda _header, _ciphertexts: payload)  # so that nothing differs
    with pytest.raises(TypeError):
        load_update(payload, HEADER, LAYOUT)
    assert Path("canary").exists()


@pytest.mark.parametrize("name", ["scheme", "round", "key", "size", "encoding", "format"])
def test_a_header_of_another_round_is_told_by_the_name_of_what_differs(name: str) -> None:
    value: Any = getattr(HEADER, name)
    other: Any = value + 1 if isinstance(value, int) else value[:-1] + "?"
    with breaks(Flaw.HEADER, match=f"header says {name} = .*; this round's is {re.escape(repr(value))}"):
        load_update(dump_update(replace(HEADER, **{name: other}), BLOBS), HEADER, LAYOUT)


LAYOUTS = [
    Layout(*form) for form in ((1, 2), (1, 300), (5, 255), (5, 256), (999, 64), (1001, 64), (3, 70_000), (1, 1 << 20))
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_written_is_read_whatever_the_layout(layout: Layout) -> None:
    """Pickle writes long bytes in another way, opens frames anew, and appends in batches of a thousand."""
    blobs = [os.urandom(layout[1]) for _ in range(layout[0])]
    assert load_update(dump_update(HEADER, blobs), HEADER, layout) == (blobs, b"")


def test_opcodes_can_not_hide_in_the_bytes_of_a_ciphertext() -> None:
    """A BININT over the end of its frame makes the unpickler skip 3 bytes, and so execute the data of a ciphertext."""
    smuggled = b"r" + struct.pack("<I", 1 << 22) + b"."  # LONG_BINPUT: 64 MB here, 4 GB with a larger index
    frame = pickle.FRAME + struct.pack("<Q", 4) + b"J" + bytes(4)
    payload = same_length(b"\x80\x04" + frame + b"K\x00C\x5d" + smuggled.ljust(0x5D, b"\0") + b"}](u\x86.")
    tracemalloc.start()
    with breaks(Flaw.MALFORMED):
        load_update(payload, HEADER, LAYOUT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * len(HONEST)


BLOCK = bytes(range(200, 248)) * 2
WITH_BLOCK = Layout(5, 64, len(BLOCK))


@pytest.mark.parametrize(
    "block", [BLOCK, bytes(96), b"cos\nsystem\n(S'true'\ntR.".ljust(96, b"."), HONEST[:96]], ids=len
)
def test_a_block_is_what_stands_behind_the_pickle_whatever_it_is(block: bytes) -> None:
    payload = dump_update(HEADER, BLOBS, block)
    assert len(payload) == payload_length(HEADER, WITH_BLOCK) == len(HONEST) + 96
    assert load_update(unwrap_tensor(npy(payload)), HEADER, WITH_BLOCK) == (BLOBS, block)


@pytest.mark.parametrize(
    ("payload", "flaw"),
    [
        (HONEST, Flaw.LENGTH),
        (HONEST + BLOCK[1:], Flaw.LENGTH),
        (HONEST + BLOCK + b"\0", Flaw.LENGTH),
        (BLOCK + HONEST, Flaw.MALFORMED),
        (HONEST[1:] + BLOCK + b"\0", Flaw.MALFORMED),
        (HONEST[:-1] + BLOCK + b".", Flaw.MALFORMED),  # the pickle would end where the block does
        (same_length(pickle.dumps(Exploit(), protocol=4)) + BLOCK, Flaw.MALFORMED),
        (dump_update(replace(HEADER, round=4), BLOBS, BLOCK), Flaw.HEADER),
        (pickle.dumps((asdict(HEADER), BLOBS, BLOCK), protocol=4)[: len(HONEST) + 96], Flaw.MALFORMED),
    ],
)
def test_hostile_payloads_with_a_block_raise_their_error(payload: bytes, flaw: Flaw) -> None:
    with breaks(flaw):
        load_update(payload, HEADER, WITH_BLOCK)
    assert not os.path.exists("/tmp/exploited-by-a-pickle")  # noqa: PTH110


@pytest.mark.parametrize(
    "tensor",
    [
        npy(HONEST)[:-1],
        npy(HONEST) + b"\0",
        npy(HONEST).replace(b"|u1", b"|O1"),
        npy(HONEST).replace(b"NUMPY", b"NUMPX"),
        npy(HONEST)[:127],
        npy(b"")[:-1],
        HONEST,
        b"PK\x03\x04" + npy(HONEST)[4:],
        b"",
    ],
)
def test_hostile_arrays_are_refused_unparsed(tensor: bytes) -> None:
    with breaks(Flaw.MALFORMED):
        unwrap_tensor(tensor)


@pytest.mark.parametrize("payload", [b"", HONEST[:-1], HONEST + b"\0", HONEST * 2], ids=len)
def test_an_array_of_another_length_is_refused_by_the_length_of_what_it_holds(payload: bytes) -> None:
    with breaks(Flaw.LENGTH, match=f"the payload has {len(payload)} bytes"):
        load_update(unwrap_tensor(npy(payload)), HEADER, LAYOUT)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 99, 100, 999_999, 1_000_000])
def test_an_array_of_any_length_is_unwrapped(length: int) -> None:
    """Its header is as long whatever it says: NumPy leaves room for the digits."""
    payload = os.urandom(length)
    assert unwrap_tensor(npy(payload)) == payload


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_changed_in_an_honest_update_nothing_but_typed_errors_come_out(data: st.DataObject) -> None:
    payload = bytearray(HONEST)
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(payload) - 1))
        payload[position] = data.draw(st.integers(0, 255))
    try:
        blobs, _ = load_update(bytes(payload), HEADER, LAYOUT)
    except UpdateRejectedError:
        return
    assert [len(b) for b in blobs] == [64] * 5, "what is let through has the right shape"


@settings(max_examples=300)
@given(st.lists(st.sampled_from(list(b"]}(u\x86\x94K\x01e.a\x8c\x00C\x00\x95")), max_size=400))
def test_sequences_of_allowed_opcodes_cost_no_memory(opcodes: list[int]) -> None:
    body = bytes(opcodes)[: len(HONEST) - 3]
    payload = b"\x80\x04" + body + b"." + b"\x94" * (len(HONEST) - 3 - len(body))
    tracemalloc.start()
    with pytest.raises(UpdateRejectedError):
        load_update(payload, HEADER, LAYOUT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * len(HONEST)


def test_the_header_is_plain_values() -> None:
    assert all(type(value) in (str, int) for value in asdict(HEADER).values())
