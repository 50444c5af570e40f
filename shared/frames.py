"""Requests and answers as bytes, for whatever carries bytes: Flower's grid, or the socket of a tenant's agent.

A frame has two parts. The head is JSON with one reading: what is asked or said, bytes in it as base64. The body is what
may be long: the model's parameters one after the other, or an answer's payload. Nothing is pickled, and a frame that is
not exactly as it must be is refused. On a socket a frame is the two lengths (4 and 8 bytes, big-endian), head and body.
"""

import base64
import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from shared.errors import FrameError
from shared.exchange import Answer, Kind, Lost, Model, Outcome, Refusal, Reply, Request, Value, Values
from shared.strict_json import parse_strict_json

MAX_HEAD_BYTES = 1 << 24  # a thousand tenants' adverts, boxes and shares are a megabyte
MAX_BODY_BYTES = 1 << 31  # gRPC's limit, which is that of the other transport
_LENGTHS = (4, 8)  # bytes of each length on a socket
_MAX_ARRAYS = 10_000

Frame = tuple[bytes, bytes]  # head, body


def encode_request(request: Request) -> Frame:
    """A request as a frame."""
    shapes = [list(array.shape) for array in request.model]
    head = {"kind": request.kind.value, "values": _packed(request.values), "shapes": shapes}
    return _head(head), b"".join(np.ascontiguousarray(array, dtype="<f4").tobytes() for array in request.model)


def decode_request(head: bytes, body: bytes) -> Request:
    """The inverse of `encode_request`, for a side that trusts none of it.

    Raises:
        FrameError: not a request.
    """
    match _parsed(head):
        case {"kind": str(kind), "values": dict(values), "shapes": list(shapes), **rest} if not rest:
            if kind not in set(Kind):
                raise FrameError(f"a request of the kind {kind!r:.80}; is the other side of the same version?")
            return Request(Kind(kind), _unpacked(values), _model(shapes, body))
    raise FrameError("no request: expected kind, values and shapes")


def encode_answer(answer: Answer) -> Frame:
    """An answer as a frame."""
    if isinstance(answer, Refusal):
        return _head({"refusal": answer.reason}), b""
    return _head({"values": _packed(answer.values)}), answer.payload


def decode_answer(head: bytes, body: bytes) -> Outcome:
    """The inverse of `encode_answer`; what is no answer counts as none."""
    try:
        match _parsed(head):
            case {"refusal": str(reason), **rest} if not rest:
                return Refusal(reason)
            case {"values": dict(values), **rest} if not rest:
                return Reply(body, _unpacked(values))
    except FrameError as error:
        return Lost(str(error))
    return Lost("no answer: expected a refusal, or values and a payload")


def encode_values(values: Values) -> bytes:
    """Named values as JSON."""
    return _head(_packed(values))


def decode_values(data: bytes) -> dict[str, Value]:
    """The inverse of `encode_values`.

    Raises:
        FrameError: not such bytes.
    """
    values = _parsed(data)
    if not isinstance(values, dict):
        raise FrameError(f"values: {type(values).__name__}; expected names with values")
    return _unpacked(values)


class Stream(Protocol):
    """What a frame is written to and read from: a stream socket."""

    def recv(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""

    def sendall(self, data: bytes, /) -> object:
        """Write all of it."""


def send_frame(connection: Stream, frame: Frame) -> None:
    """Write a frame to a stream socket.

    Raises:
        OSError: the other side is gone, or takes longer than the socket's timeout.
    """
    lengths = (len(part).to_bytes(size, "big") for part, size in zip(frame, _LENGTHS, strict=True))
    connection.sendall(b"".join((*lengths, *frame)))


def receive_frame(connection: Stream, most_body_bytes: int = MAX_BODY_BYTES) -> Frame:
    """Read a frame from a stream socket; memory grows with what arrives, not with what is announced.

    Raises:
        FrameError: it announces more than it may have, or ends early.
        OSError: nothing comes within the socket's timeout.
    """
    lengths = [int.from_bytes(_receive(connection, size), "big") for size in _LENGTHS]
    for length, most in zip(lengths, (MAX_HEAD_BYTES, most_body_bytes), strict=True):
        if length > most:
            raise FrameError(f"a frame announces {length:,} bytes; expected at most {most:,}")
    head, body = (_receive(connection, length) for length in lengths)
    return head, body


def _receive(connection: Stream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        part = connection.recv(min(size - len(received), 1 << 20))
        if not part:
            raise FrameError(f"a frame ends after {len(received):,} of {size:,} bytes")
        received += part
    return bytes(received)


def _head(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _parsed(head: bytes) -> Any:
    if len(head) > MAX_HEAD_BYTES:
        raise FrameError(f"a head of {len(head):,} bytes; expected at most {MAX_HEAD_BYTES:,}")
    try:
        return parse_strict_json(head)
    except ValueError as error:
        raise FrameError(f"a head that is {error}") from None


def _packed(values: Values) -> dict[str, Any]:
    return {
        key: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for key, value in values.items()
    }


def _unpacked(values: Mapping[str, Any]) -> dict[str, Value]:
    return {key: _value(key, value) for key, value in values.items()}


def _value(key: str, value: Any) -> Value:
    match value:
        case {"base64": str(text), **rest} if not rest:
            try:
                return base64.b64decode(text, validate=True)
            except ValueError:
                raise FrameError(f"{key!r:.80} is not base64") from None
        case bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
    raise FrameError(f"{key!r:.80} is {type(value).__name__}; expected a number, a text or bytes")


def _model(shapes: list[Any], body: bytes) -> Model:
    model: Model = []
    start = 0
    if len(shapes) > _MAX_ARRAYS:
        raise FrameError(f"a model of {len(shapes)} arrays; expected at most {_MAX_ARRAYS}")
    for shape in shapes:
        if not isinstance(shape, list) or not all(type(side) is int and 0 <= side <= MAX_BODY_BYTES for side in shape):
            raise FrameError("a model's shape that is no list of lengths")
        count = math.prod(shape)
        if start + 4 * count > len(body):
            raise FrameError(f"a model of {len(body):,} bytes; its shapes need more")
        model.append(np.frombuffer(body, "<f4", count, start).reshape(shape).astype(np.float32))
        start += 4 * count
    if start != len(body):
        raise FrameError(f"a model of {len(body):,} bytes; its shapes need {start:,}")
    return model
