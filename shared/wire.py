"""The bytes of one update: a pickled header of plain values and list of ciphertexts, read without pickle's danger.

The pickle holds `(header, [ciphertext, ...])`: a dict of strings and whole numbers, and fixed-width `bytes`. No class,
no key and no exponent travels. Behind it stands the block of a scheme that has one: bytes of a length that follows from
the vector's size, any of which are legal, and which are never unpickled. An update has one legal encoding, what
`dump_update` writes, and the reader knows all of it beforehand but the ciphertexts and the block themselves:

1. the length must be exactly what the model, the key and the packing imply, before anything else is looked at;
2. the bytes in the ciphertexts' places are taken as ciphertexts, and what `dump_update` makes of them must be the
   payload, byte for byte;
3. only then is it unpickled.

The numbers are then handed to the scheme, which checks each of them.
"""

import io
import pickle
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from shared.errors import Flaw, UpdateRejectedError
from shared.he.scheme import Layout, Parts, PublicScheme
from shared.masking import WEIGHTS

FORMAT = 1
_SHOWN = 64  # differing bytes that an error looks at
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


def dump_update(header: Header, ciphertexts: list[bytes], block: bytes = b"") -> bytes:
    """Pickle a header and a list of fixed-width ciphertexts, and put the block behind."""
    return pickle.dumps((asdict(header), ciphertexts), protocol=_PROTOCOL) + block


def payload_length(header: Header, layout: Layout) -> int:
    """The exact length in bytes of an update with this header and this layout."""
    pickled, _ = _anatomy(header, layout.ciphertexts, layout.width)
    return pickled + layout.block


def check_length(payload: bytes, expected: Header, layout: Layout) -> None:
    """The first thing that is asked of a payload, and the cheapest.

    Raises:
        UpdateRejectedError of LENGTH: not exactly the expected number of bytes.
    """
    length = payload_length(expected, layout)
    if len(payload) != length:
        raise UpdateRejectedError(
            Flaw.LENGTH, f"the payload has {len(payload)} bytes; an update of this round has exactly {length}"
        )


def load_update(payload: bytes, expected: Header, layout: Layout) -> Parts:
    """The ciphertexts and the block of an update from an untrusted client, of the form that `layout` says.

    Raises:
        UpdateRejectedError of LENGTH: not exactly the expected number of bytes.
        UpdateRejectedError of HEADER: of another round, key, scheme, size, encoding or format, and else as it should
            be.
        UpdateRejectedError of MALFORMED: not written as `dump_update` writes it.
    """
    check_length(payload, expected, layout)
    length, places = _anatomy(expected, layout.ciphertexts, layout.width)
    pickled, block = payload[:length], payload[length:]
    ciphertexts = [pickled[place : place + layout.width] for place in places]
    legal = dump_update(expected, ciphertexts)
    if pickled != legal:
        raise _difference(pickled, legal, expected)
    _, found = pickle.loads(pickled)  # noqa: S301 (every byte outside the ciphertexts is the one that it has to be)
    return Parts(list(found), block)


@lru_cache(maxsize=8)
def _anatomy(header: Header, count: int, width: int) -> tuple[int, tuple[int, ...]]:
    """The length of the pickle in bytes, and where each ciphertext begins; neither depends on the ciphertexts."""
    # Distinct objects, as real ciphertexts are: pickle would write a repeated object as a reference.
    zeros, ones = (dump_update(header, [first + bytes(width - 1) for _ in range(count)]) for first in (b"\0", b"\1"))
    places = np.flatnonzero(np.frombuffer(zeros, np.uint8) != np.frombuffer(ones, np.uint8))
    return len(zeros), tuple(map(int, places))


def _difference(pickled: bytes, legal: bytes, expected: Header) -> UpdateRejectedError:
    """What is wrong with a pickle that is not the one legal way to write its ciphertexts down."""
    found, right = (np.frombuffer(data, np.uint8) for data in (pickled, legal))
    wrong = set(map(int, np.flatnonzero(found != right)[:_SHOWN]))
    for name, value in asdict(expected).items():
        place = _places_of(expected, name, legal)
        if wrong and wrong <= place:
            said = bytes(pickled[min(place) : max(place) + 1])
            shown = int.from_bytes(said, "little") if type(value) is int else said.decode("ascii", "replace")
            return UpdateRejectedError(Flaw.HEADER, f"header says {name} = {shown!r:.80}; this round's is {value!r}")
    return UpdateRejectedError(
        Flaw.MALFORMED,
        f"byte {min(wrong)} is none that an update of this round has there: it is not a header and a list of "
        "ciphertexts as `dump_update` writes them",
    )


def _places_of(header: Header, name: str, legal: bytes) -> set[int]:
    """Where a header's value stands in an update: the bytes that another value of the same length would change."""
    value: Any = getattr(header, name)
    other: Any = value ^ 1 if type(value) is int else "".join("b" if letter == "a" else "a" for letter in value)
    start, changed = (dump_update(h, []) for h in (header, replace(header, **{name: other})))
    differing = [i for i, (a, b) in enumerate(zip(start, changed, strict=False)) if a != b]
    # A frame says how long it is before the header comes, and an update's is longer than this one's.
    shift = legal.find(start[min(differing) - 1 : max(differing) + 1]) - (min(differing) - 1)
    return set(range(min(differing) + shift, max(differing) + 1 + shift))


def wrap_array(payload: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The payload as the NumPy array that Flower carries, (len(payload),) uint8, without a copy."""
    return np.frombuffer(payload, dtype=np.uint8)


@lru_cache(maxsize=8)
def _npy_prefix(length: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (length,)})
    return buffer.getvalue()


def tensor_length(expected: Header, layout: Layout) -> int:
    """Bytes of an honest update once it is wrapped in a serialised uint8 array."""
    length = payload_length(expected, layout)
    return len(_npy_prefix(length)) + length


def unwrap_tensor(tensor: bytes) -> bytes:
    """The payload inside a serialised uint8 array (NumPy's .npy, as Flower sends it) of an untrusted client.

    NumPy's own reader evaluates the header's text and allocates what it declares. The only header an honest client can
    send for so many bytes is known beforehand, so it is compared instead of parsed.

    Raises:
        UpdateRejectedError of MALFORMED: not a one-dimensional uint8 array.
    """
    prefix = _npy_prefix(max(0, len(tensor) - _NPY_PREFIX_BYTES))
    if len(prefix) != _NPY_PREFIX_BYTES or not tensor.startswith(prefix):
        raise UpdateRejectedError(Flaw.MALFORMED, "the update is not wrapped in a one-dimensional uint8 array")
    return tensor[_NPY_PREFIX_BYTES:]
