"""The bytes of one update: a pickled header of plain values and list of ciphertexts, read without pickle's danger.

The pickle holds `(header, [ciphertext, ...])`: a dict of strings and whole numbers, and fixed-width `bytes`. No class,
no key and no exponent travels. The reader trusts nothing:

1. the length must be exactly what the model, the key and the packing imply, before anything is parsed;
2. every opcode must be one that such a pickle needs, none may reach over the end of its frame, and containers occur
   once each, so no memo index, nesting or declared length can cost more memory than the payload itself;
3. the unpickler refuses every global; and the result must be exactly the plain types expected.

Only then are the header's values compared and the numbers handed to the scheme, which checks each of them. What is
accepted is exactly what `dump_update` writes for these values: an update has one encoding.
"""

import io
import pickle
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from shared.errors import (
    ForbiddenGlobalError,
    ForbiddenOpcodeError,
    HeaderMismatchError,
    MalformedPayloadError,
    PayloadLengthError,
)
from shared.he.scheme import PublicScheme
from shared.masking import WEIGHTS

FORMAT = 1
_NPY_PREFIX_BYTES = 128  # of any one-dimensional array shorter than 10**50
_PROTOCOL = 4  # the first with framing and 8-bit counts; fixed, so that the length of a payload is


@dataclass(frozen=True)
class Header:
    """What an update says of itself. The server knows every value beforehand and compares.

    Attributes:
        scheme: the HE scheme's name.
        round: the round that the update answers, counted from 1.
        key: fingerprint of the public key, SHA-256 in hex.
        size: values in the encrypted vector.
        encoding: how values lie in ciphertexts (`vector_encoding`); unlike ones would add up to nonsense.
        format: version of this layout.
    """

    scheme: str
    round: int
    key: str
    size: int
    encoding: str
    format: int = FORMAT


def vector_encoding(scheme: PublicScheme[Any], bucket: str) -> str:
    """What a header says of the vector: the scheme's encoding, and which vector it is unless it is a model's delta."""
    return scheme.encoding_name if bucket == WEIGHTS else f"{bucket}: {scheme.encoding_name}"


def dump_update(header: Header, ciphertexts: list[bytes]) -> bytes:
    """Pickle a header and a list of fixed-width ciphertexts."""
    return pickle.dumps((asdict(header), ciphertexts), protocol=_PROTOCOL)


@lru_cache(maxsize=8)
def payload_length(header: Header, layout: tuple[int, int]) -> int:
    """The exact length in bytes of an update with this header and this (number of ciphertexts, bytes of each)."""
    count, width = layout
    # Distinct objects, as real ciphertexts are: pickle would write a repeated object as a reference.
    return len(dump_update(header, [bytes(width) for _ in range(count)]))


def check_length(payload: bytes, expected: Header, layout: tuple[int, int]) -> None:
    """The first thing that is asked of a payload, and the cheapest.

    Raises:
        PayloadLengthError: not exactly the expected number of bytes.
    """
    length = payload_length(expected, layout)
    if len(payload) != length:
        raise PayloadLengthError(f"the payload has {len(payload)} bytes; an update of this round has exactly {length}")


def load_update(payload: bytes, expected: Header, layout: tuple[int, int]) -> list[bytes]:
    """The ciphertexts of an update from an untrusted client, as `layout[0]` byte strings of `layout[1]` bytes.

    Raises:
        PayloadLengthError: not exactly the expected number of bytes.
        ForbiddenOpcodeError, ForbiddenGlobalError: an opcode that such a list never needs.
        MalformedPayloadError: not a header and a list of byte strings of the right count and width, or not written as
            `dump_update` writes it.
        HeaderMismatchError: of another round, key, scheme, size, encoding or format.
    """
    check_length(payload, expected, layout)
    _check_opcodes(payload, ciphertexts=layout[0])
    try:
        content = _PlainUnpickler(io.BytesIO(payload)).load()
    except ForbiddenGlobalError:
        raise
    except Exception as error:  # the unpickler has no closed set of exceptions for bytes that are no pickle
        raise MalformedPayloadError(f"not a pickled update: {type(error).__name__}") from None
    header, ciphertexts = _check_shape(content, layout)
    for name, value in asdict(expected).items():
        if header[name] != value:
            raise HeaderMismatchError(f"header says {name} = {header[name]!r:.80}; this round's is {value!r}")
    # A key given twice, another protocol, memo entries left out: a pickle can say the same in many ways. One counts.
    if dump_update(expected, ciphertexts) != payload:
        raise MalformedPayloadError("the pickle is not written the way `dump_update` writes it")
    return ciphertexts


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain values alone. `_check_opcodes` has refused whatever could reach these two methods already."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise ForbiddenGlobalError(f"the pickle asks for {module_name}.{global_name}; an update needs no global")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise ForbiddenOpcodeError("the pickle holds a persistent id; an update needs none")


# Opcode -> (bytes of its fixed argument, whether that argument is the length of data that follows). A pickle of plain
# header and bytes, as `dump_update` writes it with protocol 4, needs these and no others.
_OPCODES: dict[int, tuple[int, bool]] = {
    pickle.PROTO[0]: (1, False),
    pickle.FRAME[0]: (8, False),
    pickle.EMPTY_DICT[0]: (0, False),
    pickle.EMPTY_LIST[0]: (0, False),
    pickle.MARK[0]: (0, False),
    pickle.SETITEMS[0]: (0, False),
    pickle.APPEND[0]: (0, False),
    pickle.APPENDS[0]: (0, False),
    pickle.TUPLE2[0]: (0, False),
    pickle.MEMOIZE[0]: (0, False),
    pickle.BININT1[0]: (1, False),
    pickle.BININT2[0]: (2, False),
    pickle.BININT[0]: (4, False),
    pickle.SHORT_BINUNICODE[0]: (1, True),
    pickle.SHORT_BINBYTES[0]: (1, True),
    pickle.BINBYTES[0]: (4, True),
    pickle.STOP[0]: (0, False),
}
_ONCE = (
    pickle.PROTO[0],
    pickle.EMPTY_DICT[0],
    pickle.EMPTY_LIST[0],
    pickle.SETITEMS[0],
    pickle.TUPLE2[0],
    pickle.STOP[0],
)
_GLOBALS = {getattr(pickle, name)[0] for name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")}
_BATCH = 1000  # pickle appends list items in batches of this many, each opened by a MARK


def _check_opcodes(payload: bytes, ciphertexts: int) -> None:
    """Walk the pickle without executing it; refuse the first opcode that an update doesn't need."""
    seen: Counter[int] = Counter()
    position, end, frame_end = 0, len(payload), 0
    while position < end:
        opcode = payload[position]
        if opcode in _GLOBALS:
            raise ForbiddenGlobalError(f"opcode {opcode:#04x} at byte {position} names a global; an update needs none")
        if opcode not in _OPCODES:
            raise ForbiddenOpcodeError(f"opcode {opcode:#04x} at byte {position} is none that an update needs")
        argument_bytes, is_length = _OPCODES[opcode]
        start = position
        argument = payload[start + 1 : start + 1 + argument_bytes]
        position += 1 + argument_bytes
        if is_length:
            position += int.from_bytes(argument, "little")
        # CPython drops what is left of a frame when an opcode needs more than that. Past such an opcode it would
        # execute other bytes than this walk has seen: bytes inside a ciphertext, of any opcode at all.
        if start < frame_end and (position > frame_end or opcode == pickle.FRAME[0]):
            raise MalformedPayloadError("an opcode reaches over the end of its frame")
        if opcode == pickle.FRAME[0]:
            frame_end = position + int.from_bytes(argument, "little")
        seen[opcode] += 1
    if position != end or frame_end > end or payload[-1] != pickle.STOP[0]:
        raise MalformedPayloadError("the pickle ends in the middle of an opcode, or without STOP")
    if any(seen[opcode] != 1 for opcode in _ONCE):
        raise MalformedPayloadError("an update holds one dict and one list in one tuple, and nothing after it")
    if seen[pickle.MARK[0]] > 1 + ciphertexts // _BATCH + 1:
        raise MalformedPayloadError("more MARK opcodes than a list of this length needs")


def _check_shape(content: Any, layout: tuple[int, int]) -> tuple[dict[str, Any], list[bytes]]:
    """Exact types only: `True` is no round number, and a subclass is no `bytes`."""
    count, width = layout
    if type(content) is not tuple or [type(part) for part in content] != [dict, list]:
        raise MalformedPayloadError("expected a tuple of a header and a list")
    header, ciphertexts = content
    expected_types = {"scheme": str, "round": int, "key": str, "size": int, "encoding": str, "format": int}
    found_types = {name: type(value) for name, value in header.items()}
    if found_types != expected_types:
        raise MalformedPayloadError(f"expected a header of {', '.join(expected_types)}, with plain values")
    if len(ciphertexts) != count or any(type(c) is not bytes or len(c) != width for c in ciphertexts):
        raise MalformedPayloadError(f"expected {count} ciphertexts of exactly {width} bytes")
    return header, ciphertexts


def wrap_array(payload: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The payload as the NumPy array that Flower carries, (len(payload),) uint8, without a copy."""
    return np.frombuffer(payload, dtype=np.uint8)


@lru_cache(maxsize=8)
def _npy_prefix(length: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (length,)})
    return buffer.getvalue()


def tensor_length(expected: Header, layout: tuple[int, int]) -> int:
    """Bytes of an honest update once it is wrapped in a serialised uint8 array."""
    length = payload_length(expected, layout)
    return len(_npy_prefix(length)) + length


def unwrap_tensor(tensor: bytes) -> bytes:
    """The payload inside a serialised uint8 array (NumPy's .npy, as Flower sends it) of an untrusted client.

    NumPy's own reader evaluates the header's text and allocates what it declares. The only header an honest client can
    send for so many bytes is known beforehand, so it is compared instead of parsed.

    Raises:
        MalformedPayloadError: not a one-dimensional uint8 array.
    """
    prefix = _npy_prefix(max(0, len(tensor) - _NPY_PREFIX_BYTES))
    if len(prefix) != _NPY_PREFIX_BYTES or not tensor.startswith(prefix):
        raise MalformedPayloadError("the update is not wrapped in a one-dimensional uint8 array")
    return tensor[_NPY_PREFIX_BYTES:]
