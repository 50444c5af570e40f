"""Requests and answers as bytes: what goes in comes out, and whatever else comes is refused by name."""

import base64
import json
import socket
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import FrameError
from shared.exchange import Kind, Lost, Refusal, Reply, Request
from shared.frames import (
    MAX_HEAD_BYTES,
    decode_answer,
    decode_request,
    decode_values,
    encode_answer,
    encode_request,
    receive_frame,
    send_frame,
)

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.dictionaries(st.text(), st.booleans() | numbers | st.text() | st.binary(), max_size=5)


@settings(max_examples=50)
@given(kind=st.sampled_from(Kind), values=values, shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=3))
def test_a_request_arrives_as_it_left(kind: Kind, values: dict[str, Any], shapes: list[list[int]]) -> None:
    model = [np.random.default_rng(1).normal(size=shape).astype(np.float32) for shape in shapes]
    arrived = decode_request(*encode_request(Request(kind, values, model)))
    assert (arrived.kind, arrived.values) == (kind, values)
    assert [type(value) for value in arrived.values.values()] == [type(value) for value in values.values()]
    assert [array.tobytes() for array in arrived.model] == [array.tobytes() for array in model]
    assert [array.shape for array in arrived.model] == [array.shape for array in model]
    assert all(array.flags.writeable for array in arrived.model)


@settings(max_examples=50)
@given(values=values, payload=st.binary())
def test_an_answer_arrives_as_it_left(values: dict[str, Any], payload: bytes) -> None:
    assert decode_answer(*encode_answer(Reply(payload, values))) == Reply(payload, values)
    assert decode_answer(*encode_answer(Refusal("text\n"))) == Refusal("text\n")


def head(**changes: Any) -> bytes:
    return json.dumps({"kind": "train", "values": {}, "shapes": [], **changes}).encode()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ((b"", b""), "not JSON"),
        ((b"\xff", b""), "not UTF-8"),
        ((b"[" * 100_000, b""), "nested too deeply"),
        ((b'{"kind": "train", "kind": "greet"}', b""), "given twice"),
        ((b" " * (MAX_HEAD_BYTES + 1), b""), "expected at most"),
        ((b"{}", b""), "no request"),
        ((head(more=1), b""), "no request"),
        ((head(kind="format"), b""), "kind 'format'"),
        ((head(kind=1), b""), "no request"),
        ((head(values=[]), b""), "no request"),
        ((head(values={"a": None}), b""), "NoneType"),
        ((head(values={"a": [1]}), b""), "list"),
        ((head(values={"a": {"base64": "?"}}), b""), "not base64"),
        ((head(values={"a": {"base64": "", "b": 1}}), b""), "dict"),
        ((head().replace(b"{}", b'{"a": NaN}'), b""), "float"),
        ((head().replace(b"{}", b'{"a": 1e999}'), b""), "float"),
        ((head(shapes=[[-1]]), b""), "shape"),
        ((head(shapes=[[True]]), b""), "shape"),
        ((head(shapes=[3]), b""), "shape"),
        ((head(shapes=[[2**31, 2**31, 2**31]]), b""), "need more"),
        ((head(shapes=[[1]] * 10_001), b"\0" * 4 * 10_001), "10001 arrays"),
        ((head(shapes=[[2]]), b"\0" * 7), "need more"),
        ((head(shapes=[[2]]), b"\0" * 9), "need 8"),
        ((head(), b"\0"), "need 0"),
    ],
)
def test_what_is_no_request_is_refused_by_name(frame: tuple[bytes, bytes], message: str) -> None:
    with pytest.raises(FrameError, match=message):
        decode_request(*frame)


@pytest.mark.parametrize(
    "head", [b"", b"{}", b"[]", b'{"refusal": 1}', b'{"values": {}, "refusal": "a"}', b'{"values": 1}']
)
def test_what_is_no_answer_counts_as_none(head: bytes) -> None:
    assert isinstance(decode_answer(head, b"payload"), Lost)


def test_values_are_a_mapping() -> None:
    with pytest.raises(FrameError, match="list"):
        decode_values(b"[]")


def test_frames_on_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frame = (b"{}", bytes(3_000_000))
        sender = threading.Thread(target=send_frame, args=(ours, frame))
        sender.start()
        assert receive_frame(theirs) == frame
        sender.join()
        ours.sendall((2).to_bytes(4, "big") + (100).to_bytes(8, "big") + b"{}")
        with pytest.raises(FrameError, match="announces 100 bytes; expected at most 99"):
            receive_frame(theirs, most_body_bytes=99)
        assert theirs.recv(10) == b"{}", "nothing is read of what is refused"
        ours.sendall((2).to_bytes(4, "big") + (100).to_bytes(8, "big") + b"{}half")
        ours.close()
        with pytest.raises(FrameError, match="ends after 4 of 100 bytes"):
            receive_frame(theirs)


def test_bytes_are_not_mistaken_for_texts() -> None:
    text = base64.b64encode(b"key").decode()
    request = Request(Kind.GREET, {"bytes": b"key", "text": text})
    assert decode_request(*encode_request(request)).values == request.values
