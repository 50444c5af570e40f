"""Hostile updates around the pickle: other lengths, other array wrappers, and numbers that are no ciphertexts."""

import io
import zipfile
from collections.abc import Iterator, Sequence

from shared.errors import Flaw
from shared.wire import dump_update
from tests.vectors import exploits, malformed
from tests.vectors.notation import CANARY, call, stretch, text
from tests.vectors.world import (
    ATTACKER,
    HostileUpdate,
    blobs,
    encrypt,
    header,
    honest_payload,
    keys,
    npy,
    sign,
    statement,
)

PREFIX = 128  # bytes of the array's header

_MKDIR = b"\x80\x04" + call("os", "mkdir", text(CANARY)) + b"."


def hostile(
    name: str,
    about: str,
    flaw: Flaw,
    payload: bytes,
    tensor: bytes | None = None,
    live: str = "",
) -> HostileUpdate:
    """A payload that its sender stands for with an honest signature."""
    wrapped = npy(payload) if tensor is None else tensor
    return HostileUpdate(name, about, flaw, wrapped, sign(ATTACKER, statement(ATTACKER, payload)), live=live)


def pickled() -> Iterator[HostileUpdate]:
    """The hostile pickles, each in an honest wrapper."""
    families = (exploits.executing, exploits.forging, malformed.needless_opcodes)
    more = (malformed.floods, malformed.structures, malformed.header_values)
    for family in (*families, *more):
        for name, about, flaw, payload, live in family():
            yield hostile(name, about, flaw, payload, live=live)


def lengths() -> Iterator[HostileUpdate]:
    """Updates of another length than this round's; where it isn't what the wrapper says, the wrapper is refused."""
    honest = honest_payload(ATTACKER)
    tensor = npy(honest)
    numbers = blobs(encrypt(ATTACKER))
    for name, about, sent in (
        ("empty", "no bytes at all", b""),
        ("one-byte", "one byte", b"."),
        ("truncated", "the last byte is missing", tensor[:-1]),
        ("half", "the first half", tensor[: len(tensor) // 2]),
        ("wrapper-alone", "an array's header without its data", tensor[:PREFIX]),
        ("no-wrapper", "the pickle outside of any array", honest),
        ("one-more", "one zero byte more", tensor + b"\0"),
        ("stop-more", "one more STOP", tensor + b"."),
        ("twice", "the update twice over", tensor * 2),
    ):
        yield hostile(f"length-{name}", about, Flaw.MALFORMED, honest, sent)
    for name, about, sent in (
        ("count-short", "one ciphertext less", npy(dump_update(header(), numbers[:-1]))),
        ("count-long", "one ciphertext more", npy(dump_update(header(), [*numbers, numbers[0][::-1]]))),
        ("count-none", "no ciphertext", npy(dump_update(header(), []))),
        ("repeated-object", "one ciphertext four times, as references", npy(dump_update(header(), numbers[:1] * 4))),
        ("width-short", "ciphertexts of 127 bytes", npy(dump_update(header(), [n[1:] for n in numbers]))),
        ("size-two-bytes", "a size that takes two bytes", npy(dump_update(header(size=1000), numbers))),
        ("round-huge", "a round of 100 bits", npy(dump_update(header(round=1 << 100), numbers))),
        ("round-true", "the round as True, the rest honest", npy(dump_update(header(round=True), numbers))),
        ("round-none", "the round as None, the rest honest", npy(dump_update(header(round=None), numbers))),
        ("round-float", "the round as 3.0, the rest honest", npy(dump_update(header(round=3.0), numbers))),
        ("bare-exploit", "a pickle that runs os.mkdir, nothing else", npy(_MKDIR)),
    ):
        yield hostile(f"length-{name}", about, Flaw.LENGTH, honest, sent)


def wrappers() -> Iterator[HostileUpdate]:
    """Arrays that are not the one-dimensional uint8 array of an honest update, in its length."""
    honest = honest_payload(ATTACKER)
    count = len(honest)

    def array(says: str, magic: bytes = b"\x93NUMPY\x01\x00", data: bytes = honest) -> bytes:
        room = PREFIX - len(magic) - 2
        return magic + room.to_bytes(2, "little") + says.encode().ljust(room - 1)[: room - 1] + b"\n" + data

    def fields(descr: str = "'|u1'", order: str = "False", shape: str = f"({count},)") -> str:
        return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"

    exploit = stretch(_MKDIR)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            zipfile.ZipInfo("arr_0.npy"), npy(honest)[: count + PREFIX - 116]
        )  # the archive's own bytes are 116
    wide = array(fields(), b"\x93NUMPY\x03\x00")
    version_3 = b"\x93NUMPY\x03\x00" + (PREFIX - 12).to_bytes(4, "little") + wide[10 : PREFIX - 3] + b"\n" + honest
    cases: dict[str, tuple[str, bytes]] = {
        "object": ("an array of objects: numpy would unpickle it", array(fields("'|O'"))),
        "object-exploit": ("an array of objects that runs os.mkdir", array(fields("'|O'", shape="()"), data=exploit)),
        "fortran": ("Fortran order", array(fields(order="True"))),
        "huge-shape": ("a shape of 10**18 bytes", array(fields(shape="(1000000000000000000,)"))),
        "negative-shape": ("a negative shape", array(fields(shape="(-1,)"))),
        "two-dimensional": ("two dimensions", array(fields(shape=f"(1, {count})"))),
        "scalar": ("no dimension", array(fields(shape="()"))),
        "one-less": ("one element less than there is", array(fields(shape=f"({count - 1},)"))),
        "int8": ("signed bytes", array(fields("'|i1'"))),
        "float64": ("float64", array(fields("'<f8'"))),
        "structured": ("a structured type", array(fields("[('a', '|u1')]"))),
        "expression": ("an expression in place of the header", array(f"__import__('os').mkdir({CANARY!r})")),
        "nesting": ("a header of brackets inside brackets", array("[" * 117)),
        "spaces": ("the honest header, spaced differently", array(fields().replace(", }", " , }"))),
        "no-newline": ("the honest header without its newline", npy(honest)[: PREFIX - 1] + b" " + honest),
        "version-2": ("format version 2", array(fields(), b"\x93NUMPY\x02\x00")),
        "version-3": ("format version 3", version_3),
        "version-9": ("format version 9", array(fields(), b"\x93NUMPY\x09\x00")),
        "magic": ("another magic", array(fields(), b"\x93NUMPX\x01\x00")),
        "zip-magic": ("a zip archive's magic, which numpy.load opens as .npz", b"PK\x03\x04" + npy(honest)[4:]),
        "npz": ("a real .npz archive", archive.getvalue()),
        "pickle-magic": ("a pickle where the array should begin, which numpy.load reads", exploit + bytes(PREFIX)),
        "shifted": ("the honest array a byte later", b"\0" + npy(honest)[:-1]),
        "two-arrays": ("two arrays, one after the other", npy(honest[:270]) + npy(honest[: count - 398])),
    }
    for name, (about, sent) in cases.items():
        live = "npy" if name in ("object-exploit", "pickle-magic") else ""
        yield hostile(f"array-{name}", about, Flaw.MALFORMED, honest, sent, live)


def ciphertexts() -> Iterator[HostileUpdate]:
    """Well-formed updates that hold a number which is no ciphertext under this key."""
    private = keys()._key.private_key
    n, p, q = int(keys().public.n), private.p, private.q
    honest = encrypt(ATTACKER)
    top = 1 << 8 * keys().public.width
    numbers: dict[str, tuple[str, int]] = {
        "zero": ("0, which turns everybody's sum into 0", 0),
        "p": ("the prime p", p),
        "q": ("the prime q", q),
        "p-multiple": ("a multiple of p", 7 * p),
        "q-multiple": ("a multiple of q, beyond n", (n + 2) * q),
        "p-squared": ("p squared", p * p),
        "p-cubed": ("p cubed", p**3),
        "n": ("n", n),
        "n-multiple": ("a multiple of n", 1234 * n),
        "n-squared": ("n squared", n * n),
        "n-squared-less-n": ("n squared less n", n * n - n),
        "shifted": ("c + n squared, which decrypts like c", honest[0] + n * n),
        "n-squared-more-one": ("n squared plus 1", n * n + 1),
        "negative": ("-c, in two's complement", top - honest[0]),
        "minus-one": ("-1, in two's complement", top - 1),
        "times-p": ("an honest ciphertext times p", honest[0] * p % (n * n)),
        "times-q": ("an honest ciphertext times q", honest[0] * q % (n * n)),
    }
    for name, (about, number) in numbers.items():
        # In the last place: the round must not be changed by the three good ones before it.
        payload = dump_update(header(), blobs([*honest[:-1], number]))
        live = "" if name in ("shifted", "n-squared-more-one") else "sum"
        yield hostile(f"ciphertext-{name}", about, Flaw.CIPHERTEXT, payload, live=live)
    for name, about, listed in (
        ("all-zero", "nothing but zeros", [0] * 4),
        ("first-zero", "0 in the first place", [0, *honest[1:]]),
        ("p-and-q", "p and q side by side: their product is n", [*honest[:2], p, q]),
        ("all-n", "n in every place", [n] * 4),
        ("little-endian", "honest numbers, each with its bytes reversed", _reversed(honest)),
        ("other-key", "another key's ciphertexts under this key's fingerprint, one beyond n squared", _beyond()),
    ):
        # Distinct objects: a repeated one would be pickled as a reference, in another length.
        payload = dump_update(header(), [bytes(bytearray(blob)) for blob in blobs(listed)])
        yield hostile(f"ciphertext-{name}", about, Flaw.CIPHERTEXT, payload, live="sum")


def _reversed(numbers: Sequence[int]) -> list[int]:
    return [int.from_bytes(blob[::-1], "big") for blob in blobs(numbers)]


def _beyond() -> list[int]:
    n_square = int(keys().public.n_square)
    for attempt in range(100):
        numbers = encrypt(ATTACKER, "other_", f"attempt {attempt}")
        if max(numbers) >= n_square:
            return numbers
    raise ValueError("the other key is too small")
