"""Pickles that run nothing and are no update: needless opcodes, memory bombs, wrong structures, wrong headers.

Each has the exact length of an honest payload and is signed by the enrolled client that sends it.
"""

import pickle
import struct
from collections.abc import Iterator
from typing import Any

from shared.errors import Flaw
from shared.wire import dump_update
from tests.vectors.notation import LENGTH, Pickled, data, header_items, number, opcodes, stretch, text, update
from tests.vectors.world import blobs, encrypt, header, honest_payload, keys

# A way to write each opcode that an update never needs and that names no global. (Those that do: `executing`.)
_NEEDLESS: dict[str, bytes] = {
    "INT": b"I3\n",
    "INT-bool": b"I01\n",
    "LONG": b"L3L\n",
    "STRING": b"S'3'\n",
    "BINSTRING": b"T\x01\0\0\x003",
    "SHORT_BINSTRING": b"U\x013",
    "NONE": b"N",
    "NEWTRUE": b"\x88",
    "NEWFALSE": b"\x89",
    "UNICODE": b"V3\n",
    "BINUNICODE": b"X\x01\0\0\x003",
    "BINUNICODE8": b"\x8d\x01\0\0\0\0\0\0\x003",
    "BINBYTES8": b"\x8e\x01\0\0\0\0\0\0\x003",
    "BYTEARRAY8": b"\x96\x01\0\0\0\0\0\0\x003",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"\x97\x98",
    "FLOAT": b"F3.0\n",
    "BINFLOAT": b"G@\x08\0\0\0\0\0\0",
    "LIST": b"(l",
    "EMPTY_TUPLE": b")",
    "TUPLE": b"(t",
    "TUPLE1": b"]\x85",
    "TUPLE3": b"]]]\x87",
    "DICT": b"(d",
    "SETITEM": b"}K\x01K\x02s",
    "EMPTY_SET": b"\x8f",
    "ADDITEMS": b"\x8f(K\x01\x90",
    "FROZENSET": b"(K\x01\x91",
    "POP": b"]0",
    "DUP": b"]2",
    "POP_MARK": b"](1",
    "GET": b"]p0\ng0\n",
    "BINGET": b"]\x94h\0",
    "LONG_BINGET": b"]\x94j\0\0\0\0",
    "PUT": b"]p0\n",
    "BINPUT": b"]q\0",
    "LONG_BINPUT": b"]r\0\0\0\0",
    "REDUCE": b"]]R",
    "BUILD": b"]}b",
    "NEWOBJ": b"]]\x81",
    "NEWOBJ_EX": b"]]}\x92",
    "OBJ": b"(]o",
    "PERSID": b"Pcanary\n",
    "BINPERSID": b"K\x01Q",
    "LONG1": b"\x8a\x01\x03",
    "LONG4": b"\x8b\x01\0\0\0\x03",
    "unknown": b"\xff",
}
_EXTENSIONS = {"EXT1": b"\x82\x01", "EXT2": b"\x83\x01\x01", "EXT4": b"\x84\x01\x01\x01\x01"}


def needless_opcodes() -> Iterator[Pickled]:
    """Each opcode that an update never needs, in its most harmless form."""
    for name, body in _NEEDLESS.items():
        slug = name.lower().replace("_", "-")
        yield Pickled(f"opcode-{slug}", f"the opcode {name}", Flaw.MALFORMED, opcodes(body))
    for name, body in _EXTENSIONS.items():
        about = f"the opcode {name}: a global by its number in copyreg"
        yield Pickled(f"opcode-{name.lower()}", about, Flaw.MALFORMED, opcodes(body))


def _frame(length: int) -> bytes:
    return pickle.FRAME + struct.pack("<Q", length)


def floods(length: int = LENGTH) -> Iterator[Pickled]:
    """What asks for far more memory or time than its own length, in a payload of `length` bytes."""

    def filled(head: bytes, unit: bytes, tail: bytes) -> bytes:
        count, odd = divmod(length - len(head) - len(tail) - 1, len(unit))
        return head + unit * count + pickle.MEMOIZE * odd + tail + b"."

    start, end = b"\x80\x04", b"}(u]\x86"
    for name, about, flaw, payload in (
        ("memo-index", "LONG_BINPUT to entry 2**28: 4 GB of memo", Flaw.MALFORMED, b"]r\0\0\0\x10"),
        ("memo-text-index", "PUT to entry 10**9", Flaw.MALFORMED, b"]p1000000000\n"),
        ("long4", "LONG4 that announces 2 GB of digits", Flaw.MALFORMED, b"\x8b\xff\xff\xff\x7f"),
        ("binbytes8", "BINBYTES8 that announces 4 GB", Flaw.MALFORMED, b"\x8e\0\0\0\0\x01\0\0\0"),
        ("binunicode8", "BINUNICODE8 that announces 4 GB", Flaw.MALFORMED, b"\x8d\0\0\0\0\x01\0\0\0"),
        ("bytearray8", "BYTEARRAY8 that announces 4 GB", Flaw.MALFORMED, b"\x96\0\0\0\0\x01\0\0\0"),
        (
            "binbytes",
            "BINBYTES that announces 4 GB, an opcode that updates may use",
            Flaw.MALFORMED,
            b"B" + b"\xff" * 4,
        ),
        ("frame-huge", "a FRAME of 4 GB", Flaw.MALFORMED, _frame(1 << 32)),
        ("frame-endless", "a FRAME of 2**64 - 1 bytes", Flaw.MALFORMED, _frame((1 << 64) - 1)),
    ):
        yield Pickled(f"flood-{name}", about, flaw, stretch(start + payload + b"]}.", length))
    smuggled = (b"r\0\0\0\x10.").ljust(0x5D, b"\0")
    hidden = _frame(4) + b"J" + bytes(4) + b"K\0C\x5d" + smuggled + end
    yield Pickled(
        "flood-smuggled-memo-index",
        "LONG_BINPUT inside the bytes of a ciphertext, which the unpickler executes after an opcode over a frame's end",
        Flaw.MALFORMED,
        filled(start + hidden, pickle.MEMOIZE, b""),
    )
    units = {
        "marks": ("MARK, over and over", b"(", Flaw.MALFORMED),
        "lists": ("lists beside each other", b"]", Flaw.MALFORMED),
        "nested-lists": ("lists inside lists", b"]a", Flaw.MALFORMED),
        "dicts": ("dicts beside each other", b"}", Flaw.MALFORMED),
        "nested-tuples": ("tuples inside tuples", b"]\x86", Flaw.MALFORMED),
        "dup-tuples": ("each tuple holds the one before twice: 2**n leaves", b"2\x86", Flaw.MALFORMED),
        "memo-fetch": ("one object fetched from the memo, over and over", b"h\0", Flaw.MALFORMED),
        "frames": ("frames inside frames", _frame(20), Flaw.MALFORMED),
        "persistent": ("persistent ids", b"Q", Flaw.MALFORMED),
    }
    for name, (about, unit, flaw) in units.items():
        yield Pickled(f"flood-{name}", about, flaw, filled(start + b"]\x94", unit, end))
    yield Pickled(
        "flood-memo",
        "memo entries of one list, over and over",
        Flaw.MALFORMED,
        filled(start + end, b"\x94", b""),
    )
    for name, about, unit in (
        ("numbers", "a list of numbers in place of ciphertexts", b"J\xff\xff\xff\x7f"),
        ("short-strings", "a list of many two-letter strings", text("éé")),
        ("short-bytes", "a list of many two-byte ciphertexts", data(b"ab")),
    ):
        yield Pickled(f"flood-{name}", about, Flaw.MALFORMED, filled(start + b"}(u](", unit, b"e\x86"))
    count = (length - 11) // 6
    entries = b"".join(pickle.BININT2 + struct.pack("<H", i % 65_536) + number(0) + b"\x94" for i in range(count))
    yield Pickled(
        "flood-header-entries",
        "a header of as many entries as fit",
        Flaw.MALFORMED,
        filled(start + b"}(" + entries, b"\x94", b"u]\x86"),
    )


def structures() -> Iterator[Pickled]:
    """Allowed opcodes, wrong shapes."""
    honest = honest_payload("1")
    good = [data(blob) for blob in blobs(encrypt("1"))]
    cases = {
        "no-stop": ("the last byte is no STOP", honest[:-1] + b"\x94"),
        "two-pickles": ("two pickles, one after the other", stretch(b"\x80\x04}](e\x86.\x80\x04}](e\x86.")),
        "memo-after-stop": ("an empty update, STOP, and memo entries up to another STOP", _padded(b"}(u]\x86.")),
        "stop-inside": ("STOP after the header", honest.replace(b"u]", b".]", 1)),
        "bytes-alone": ("bytes and nothing else", stretch(b"\x80\x04.")),
        "no-proto": ("the honest update without its PROTO", b"\x94\x94" + honest[2:]),
        "proto-twice": ("PROTO twice", opcodes(b"\x80\x04}(u]\x86")),
        "proto-5": ("an honest update that says protocol 5", b"\x80\x05" + honest[2:]),
        "proto-3": ("an honest update that says protocol 3", b"\x80\x03" + honest[2:]),
        "proto-255": ("an honest update that says protocol 255", b"\x80\xff" + honest[2:]),
        "no-frame": ("an honest update without a frame", update()),
        "frame-short": ("a frame that ends inside a ciphertext", honest[:3] + struct.pack("<Q", 300) + honest[11:]),
        "frame-long": (
            "a frame one byte longer than the payload",
            honest[:3] + struct.pack("<Q", LENGTH - 10) + honest[11:],
        ),
        "frame-empty": ("an empty frame before the honest opcodes", b"\x80\x04" + _frame(0) + honest[11:]),
        "empty-list": ("a header and no ciphertext", update({}, [])),
        "one-short": ("one ciphertext less, the room filled by its neighbour", update(values=[*good[:2], _long(258)])),
        "one-more": (
            "one ciphertext more, cut out of the last",
            update(values=[*good[:3], data(bytes(63)), data(bytes(63))]),
        ),
        "width-short": ("one ciphertext a byte short, its neighbour a byte long", _widths(127, 129)),
        "width-none": ("one ciphertext empty, its neighbour of twice the width", _widths(1, 255)),
        "text-for-bytes": ("a ciphertext as a string", update(values=[*good[:3], text("7" * 128)])),
        "number-for-bytes": ("a ciphertext as a number", update(values=[*good[:3], number(7)])),
        "list-first": (
            "the list before the header",
            opcodes(b"](" + good[0] + b"e}(" + b"".join(header_items()) + b"u\x86"),
        ),
        "no-header": ("a list of a list and no header", opcodes(b"](" + number(1) + b"e" + number(1) + b"\x86")),
        "underflow": ("TUPLE2 of a stack that holds nothing", b"\x80\x04\x86}(u]" + _long(LENGTH - 8) + b"."),
        "append-to-header": ("APPENDS to the dict, SETITEMS to the list", opcodes(b"](K\1K\2u}(K\1e\x86")),
        "odd-header": ("a header with a name and no value", update([text("scheme")], good[:3])),
        "unhashable-name": ("a header's name is a list", opcodes(b"}(]" + number(1) + b"u" + number(1) + b"\x86")),
        "bad-utf8": ("a header's value is no UTF-8", honest.replace(b"paillier", b"paillie\xff", 1)),
        "text-over-end": ("a string that reaches over the end", honest[:-3] + b"\x8c\xff."),
        "bytes-over-end": ("bytes that reach over the end", honest[:-3] + b"C\xff."),
    }
    for name, (about, payload) in cases.items():
        flaw = Flaw.HEADER if name == "bad-utf8" else Flaw.MALFORMED
        yield Pickled(f"shape-{name}", about, flaw, payload)
    for protocol in (0, 1, 2, 3):
        payload = pickle.dumps((header().__dict__, blobs(encrypt("1")[:1])), protocol=protocol)
        yield Pickled(
            f"shape-protocol-{protocol}",
            f"a header and a ciphertext, pickled with protocol {protocol}",
            Flaw.MALFORMED,
            stretch(payload),
        )


def _padded(body: bytes) -> bytes:
    return b"\x80\x04" + body + pickle.MEMOIZE * (LENGTH - len(body) - 3) + b"."


def _long(length: int) -> bytes:
    """Opcodes of `length` bytes that push bytes."""
    return pickle.BINBYTES + struct.pack("<I", length - 5) + bytes(length - 5)


def _widths(first: int, second: int) -> bytes:
    good = blobs(encrypt("1"))
    return update(values=[*(data(blob) for blob in good[:2]), data(bytes(first)), data(bytes(second))])


def header_values() -> Iterator[Pickled]:
    """Headers of other types, names or values."""
    short = [data(blob) for blob in blobs(encrypt("1"))[:3]]
    malformed = {
        "round-text": ("the round as a string", update({"round": text("3")})),
        "size-text": ("the size as a string", update({"size": text("96")})),
        "scheme-number": ("the scheme as a number", update({"scheme": number(1)})),
        "key-bytes": ("the key's fingerprint as bytes", update({"key": data(header().key.encode())})),
        "round-list": ("the round as a list", update({"round": b"]"})),
        "missing-key": ("no format", update(header_items()[:4])),
        "extra-key": ("a sixth entry", update([*header_items(), text("n") + number(1)])),
        "key-twice": (
            "the round twice, first another, then the right one",
            update([text("round") + number(2), *header_items()]),
        ),
        "look-alike-name": ("`round` with a Cyrillic о", update(header_items(renamed={"round": "rоund"}))),
        "full-width-name": ("`size` with a full-width ｓ", update(header_items(renamed={"size": "ｓize"}))),
        "combining-name": ("`key` with a combining accent", update(header_items(renamed={"key": "ke\u0301y"}))),
        "invisible-name": (
            "`format`, a zero-width space",
            update(header_items(renamed={"format": "format\u200b"})),
        ),
        "name-of-a-method": ("`__class__` in place of `size`", update(header_items(renamed={"size": "__class__"}))),
        "name-as-bytes": (
            "a name as bytes",
            update([data(b"round") + number(3), *header_items()[2:]]),
        ),
        "wide-number": ("the round in four bytes where one would do", update({"round": b"J\x03\0\0\0"})),
    }
    for name, (about, payload) in malformed.items():
        yield Pickled(f"header-{name}", about, Flaw.MALFORMED, payload)
    forbidden = {
        "round-true": ("the round as True", b"\x88"),
        "round-none": ("the round as None", b"N"),
        "round-float": ("the round as 3.0", b"G@\x08\0\0\0\0\0\0"),
        "round-long": ("the round as LONG1", b"\x8a\x01\x03"),
        "round-huge": ("a round of 100 bits", b"\x8a\x0d" + b"\x7f" * 13),
        "round-bool-text": ("the round as protocol 0 writes True", b"I01\n"),
        "round-big-text": ("a round of ten digits in text", b"L9999999999L\n"),
    }
    for name, (about, value) in forbidden.items():
        yield Pickled(f"header-{name}", about, Flaw.MALFORMED, update({"round": value}))
    yield Pickled(
        "header-int-subclass",
        "the round as an instance of a class derived from int",
        Flaw.MALFORMED,
        update({"round": b"cenum\nIntFlag\nK\x03\x85R"}, short),
    )
    other = keys("other_").public.fingerprint()
    different: dict[str, tuple[str, dict[str, Any]]] = {
        "round-stale": ("the round before, signed for this one", {"round": 2}),
        "round-future": ("the next round, signed for this one", {"round": 4}),
        "round-zero": ("round 0", {"round": 0}),
        "scheme-typo": ("a scheme of the same length", {"scheme": "pallieri"}),
        "scheme-surrogate": ("a scheme that ends in half a surrogate pair", {"scheme": "paill\ud800"}),
        "scheme-case": ("the scheme in capitals", {"scheme": "PAILLIER"}),
        "key-other": ("the fingerprint of another key", {"key": other}),
        "key-upper": ("the fingerprint in capitals", {"key": header().key.upper()}),
        "size-larger": ("one value more", {"size": 97}),
        "size-smaller": ("one value less, in as many ciphertexts", {"size": 95}),
        "encoding-other": (
            "one fractional bit less, one integer bit more: every value would count half",
            {"encoding": header().encoding.replace("16+2", "15+3")},
        ),
        "format-next": ("the next format version", {"format": 2}),
        "format-zero": ("format version 0", {"format": 0}),
    }
    for name, (about, changes) in different.items():
        payload = dump_update(header(**changes), blobs(encrypt("1")))
        yield Pickled(f"header-{name}", about, Flaw.HEADER, payload)
    for name, scheme in (("plain", "none"), ("ckks", "ckks")):
        payload = update({"scheme": text(scheme)})
        yield Pickled(f"header-scheme-{name}", f"the scheme `{scheme}`", Flaw.MALFORMED, payload)
    payload = update({"round": b"J\xfd\xff\xff\xff"})
    yield Pickled("header-round-negative", "round -3", Flaw.MALFORMED, payload)
    payload = dump_update(header(key=other), blobs([c % int(keys().public.n_square) for c in encrypt("1", "other_")]))
    yield Pickled("key-other-throughout", "another key's ciphertexts under its fingerprint", Flaw.HEADER, payload)
