"""A notation for hostile pickles: opcodes by what they push, stretched to the exact length of an honest payload."""

import pickle
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shared.errors import Flaw
from tests.vectors.world import blobs, encrypt, header, honest_payload

CANARY = "canary"
LENGTH = len(honest_payload("1"))


class Pickled(NamedTuple):
    """A hostile payload, its name, what it is, the flaw that it must be refused for, and how it is live."""

    name: str
    about: str
    flaw: Flaw
    payload: bytes
    live: str = ""


def text(value: str) -> bytes:
    """Opcodes that push a string."""
    data = value.encode()
    return pickle.SHORT_BINUNICODE + bytes([len(data)]) + data


def number(value: int) -> bytes:
    """Opcodes that push a whole number from 0 to 255."""
    return pickle.BININT1 + bytes([value])


def data(value: bytes) -> bytes:
    """Opcodes that push up to 255 bytes."""
    return pickle.SHORT_BINBYTES + bytes([len(value)]) + value


def stretch(pickled: bytes, length: int = LENGTH) -> bytes:
    """Give a pickle the exact honest length, with bytes below whatever it pushes."""
    at = 2 if pickled[:1] == pickle.PROTO else 0
    filler = length - len(pickled) - 5
    if filler < 0:
        raise ValueError(f"{len(pickled)} bytes do not fit {length}")
    return pickled[:at] + pickle.BINBYTES + struct.pack("<I", filler) + bytes(filler) + pickled[at:]


def opcodes(body: bytes) -> bytes:
    """Opcodes as a protocol-4 pickle of the honest length."""
    return stretch(b"\x80\x04" + body + b".")


def update(items: Mapping[str, bytes] | Sequence[bytes] = (), values: Sequence[bytes] | None = None) -> bytes:
    """An update put together by hand, without frames, and with as many memo entries as the honest length needs.

    Args:
        items: opcodes of the header's values by name, over the honest ones; or all of the dict's keys and values.
        values: opcodes of the list's elements, if not the honest ciphertexts.
    """
    if isinstance(items, Mapping) or not items:
        items = header_items({} if not isinstance(items, Mapping) else items)
    if values is None:
        values = [data(blob) for blob in blobs(encrypt("1"))]
    rest = b"(" + b"".join(items) + b"u](" + b"".join(values) + b"e\x86."
    padding = LENGTH - len(rest) - 3
    if padding < 0:
        raise ValueError(f"{-padding} bytes too long")
    # A memo entry is one byte, and the same object may have any number of them.
    return b"\x80\x04}" + pickle.MEMOIZE * padding + rest


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes that call a global, in the oldest notation."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def header_items(values: Mapping[str, bytes] | None = None, renamed: Mapping[str, str] | None = None) -> list[bytes]:
    """Opcodes of the honest header's names and values, some of them replaced."""
    honest = {
        "scheme": text("paillier"),
        "round": number(header().round),
        "key": text(header().key),
        "size": number(header().size),
        "encoding": text(header().encoding),
        "format": number(header().format),
    }
    return [text((renamed or {}).get(name, name)) + value for name, value in (honest | dict(values or {})).items()]
