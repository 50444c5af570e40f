"""The fixed world that the hostile updates are made for and thrown at: keys, clients, nonces, and a file format.

Everything follows from constants and from the published keys beside this file, so that `tests/vectors/make.py` writes
the same bytes on every machine. Nothing here is secret, and nothing here may be used outside the tests.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz
from phe import paillier

from orchestrator.admission import Admission
from orchestrator.aggregator import Aggregator, RoundSum
from shared.enrolled_clients import EnrolledClient
from shared.enrolment import Enrolment
from shared.errors import Flaw
from shared.he.fixed_point import FixedPoint
from shared.he.keys import PrivateKeyMaterial, PublicKeyMaterial
from shared.he.paillier import PaillierPrivate, PaillierPublic
from shared.he.scheme import Vector
from shared.identity import ClientIdentity, UpdateStatement, identity_name
from shared.roster import Roster
from shared.wire import Header, dump_update, unwrap_tensor, wrap_array

FOLDER = Path(__file__).parent
PAYLOADS = FOLDER / "payloads"

SESSION = "vectors-run"
ROUND = 3
SIZE = 96  # values of a delta: 4 ciphertexts of 128 bytes
TASK = hashlib.sha256(b"the global model of round 3").hexdigest()
HONEST = ("0", "2", "4")  # as many as a sum may hold
ATTACKER = "1"  # enrolled: an insider, who may sign whatever it likes
REVOKED = "3"
EXPIRED = "5"
FOREIGN = "9"  # asked by mistake, never enrolled
ENROLLED = (*HONEST, ATTACKER, REVOKED, EXPIRED)

Scalar = bool | bytes | float | int | str | None  # what Flower delivers, and None for what is not there


@cache
def _primes() -> dict[str, int]:
    text = (FOLDER / "insecure-test-keys.txt").read_text(encoding="ascii")
    pairs = (line.split(" = ") for line in text.splitlines() if not line.startswith("#"))
    return {name: int(value, 16) for name, value in pairs}


@cache
def keys(prefix: str = "") -> PaillierPrivate:
    """The server's key pair, or with the prefix `other_` one that is not the server's."""
    p, q = _primes()[prefix + "p"], _primes()[prefix + "q"]
    public_key = paillier.PaillierPublicKey(p * q)
    public = PaillierPublic(PublicKeyMaterial(public_key), FixedPoint(16, 2), max_contributors=len(HONEST))
    return PaillierPrivate(PrivateKeyMaterial(paillier.PaillierPrivateKey(public_key, p, q)), public)


def header(**changes: Any) -> Header:
    """The header that this round expects, with changes."""
    public = keys().public
    return replace(
        Header(scheme=public.name, round=ROUND, key=public.fingerprint(), size=SIZE, encoding=public.encoding_name),
        **changes,
    )


@cache
def delta(client: str) -> Vector:
    """A client's delta, (SIZE,); no two clients' are alike."""
    return np.random.default_rng(int(client)).uniform(-1, 1, SIZE)


def randomiser(label: str, public: PaillierPublic) -> mpz:
    """r**n mod n**2 for an r that follows from the label: of no use but to make the same file again."""
    digest = b"".join(hashlib.sha256(f"{label} {part}".encode()).digest() for part in range(2))
    return pow(mpz(int.from_bytes(digest, "big") % public.n), public.n, public.n_square)


def encrypt(client: str, prefix: str = "", label: str = "") -> list[int]:
    """A client's encrypted delta with fixed randomness, as numbers."""
    public = keys(prefix).public
    plaintexts, _ = public.encoding.pack(delta(client))
    return [
        int((1 + m * public.n) * randomiser(f"{label} {client} {index}", public) % public.n_square)
        for index, m in enumerate(plaintexts)
    ]


def blobs(numbers: Sequence[int]) -> list[bytes]:
    """Numbers as ciphertexts travel."""
    return [number.to_bytes(keys().public.width, "big") for number in numbers]


def npy(payload: bytes) -> bytes:
    """A payload as Flower carries it: a serialised uint8 array."""
    buffer = io.BytesIO()
    np.save(buffer, wrap_array(payload), allow_pickle=False)
    return buffer.getvalue()


@cache
def honest_payload(client: str) -> bytes:
    """What an honest client pickles in this round."""
    return dump_update(header(), blobs(encrypt(client)))


def identity(client: str) -> Ed25519PrivateKey:
    """A client's signing key, from a fixed seed."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"identity of {client}".encode()).digest())


def nonce(client: str, round_number: int = ROUND) -> bytes:
    """The server's challenge, which in these tests is not random."""
    return hashlib.sha256(f"nonce of {client} in round {round_number}".encode()).digest()


def statement(client: str, payload: bytes, **changes: Any) -> UpdateStatement:
    """What an honest client signs about its payload, with changes."""
    honest = UpdateStatement(
        session=SESSION,
        server_round=ROUND,
        nonce=nonce(client),
        key_fingerprint=keys().public.fingerprint(),
        task_sha256=TASK,
        payload=payload,
    )
    return replace(honest, **changes)


def sign(client: str, said: UpdateStatement) -> bytes:
    """This client's signature, in its own name."""
    return ClientIdentity(identity_name(client), identity(client)).sign(said)


def honest_update(client: str) -> tuple[str, bytes, bytes]:
    """The arguments of `RoundSum.add` for an honest client."""
    payload = honest_payload(client)
    return client, payload, sign(client, statement(client, payload))


def open_round(folder: Path) -> RoundSum:
    """The round that every vector is thrown at: an aggregator with a real enrolled list, written to `folder`."""
    day = date(2026, 1, 31)
    clients = {
        identity_name(c): EnrolledClient(
            identity(c).public_key().public_bytes_raw().hex(), day, day if c == EXPIRED else date.max, c == REVOKED
        )
        for c in ENROLLED
    }
    path = folder / "enrolled.json"
    path.write_bytes(Enrolment(MappingProxyType(clients)).signed(Ed25519PrivateKey.generate())[1])
    aggregator = Aggregator(keys(), 2, len(HONEST), admission=Admission(Roster(path), SESSION))
    round_sum = aggregator.open_round(ROUND, SIZE, TASK)
    asked = (*ENROLLED, FOREIGN)
    with mock.patch("orchestrator.admission.secrets.token_bytes", side_effect=[nonce(c) for c in asked]):
        for client in asked:
            round_sum.nonce_for(client)
    return round_sum


@dataclass(frozen=True)
class HostileUpdate:
    """One vector: what a client sends, and the flaw that it must be refused for.

    Attributes:
        name: of its file.
        about: what it is, in one line.
        flaw: the code of the `UpdateRejectedError` that must come of it.
        client: through whose connection it comes.
        after: the honest clients whose updates are in the sum already.
        live: how a careless server is hurt by it, which a test shows. `pickle`: `pickle.loads` runs its code;
            `object`: `pickle.loads` builds its forged object; `npy`: `numpy.load` runs its code; `sum`: the sum of
            everybody is wrong; empty: shown by the refusal alone.
        signature: what comes beside the tensor.
        tensor: the bytes of the array that should hold a payload, as Flower carries them.
    """

    name: str
    about: str
    flaw: Flaw
    tensor: bytes
    signature: Scalar
    client: str = ATTACKER
    after: tuple[str, ...] = ()
    live: str = ""

    def send(self, round_sum: RoundSum) -> None:
        """Take the payload out of its array and add it, as the orchestrator does with what comes.

        Raises:
            UpdateRejectedError: nothing else may come of it.
        """
        round_sum.add(self.client, unwrap_tensor(self.tensor), self.signature)

    def to_text(self) -> str:
        """The file's content: a header to read, an empty line, and the tensor in base64."""
        fields = {
            "about": self.about,
            "flaw": self.flaw,
            "client": self.client,
            "after": " ".join(self.after) or "-",
            "live": self.live or "-",
            "signature": _scalar_text(self.signature),
            "tensor": f"{len(self.tensor)} bytes",
        }
        body = base64.b64encode(self.tensor).decode()
        lines = [body[i : i + 120] for i in range(0, len(body), 120)]
        return "\n".join([*(f"{name}: {value}" for name, value in fields.items()), "", *lines, ""])

    @classmethod
    def read(cls, path: Path) -> "HostileUpdate":
        """The inverse of `to_text`."""
        head, _, body = path.read_text(encoding="utf-8").partition("\n\n")
        fields = dict(line.split(": ", 1) for line in head.splitlines())
        tensor = base64.b64decode(body)
        if fields["tensor"] != f"{len(tensor)} bytes":
            raise ValueError(f"{path}: the body has {len(tensor)} bytes")
        return cls(
            name=path.stem,
            about=fields["about"],
            flaw=Flaw(fields["flaw"]),
            tensor=tensor,
            signature=_scalar(fields["signature"]),
            client=fields["client"],
            after=() if fields["after"] == "-" else tuple(fields["after"].split()),
            live="" if fields["live"] == "-" else fields["live"],
        )


def _scalar_text(value: Scalar) -> str:
    return f"base64 {base64.b64encode(value).decode()}" if isinstance(value, bytes) else json.dumps(value)


def _scalar(text: str) -> Scalar:
    if text.startswith("base64 "):
        return base64.b64decode(text.removeprefix("base64 "))
    value: Scalar = json.loads(text)
    return value


@cache
def read_all() -> tuple[HostileUpdate, ...]:
    """Every vector, by name."""
    return tuple(HostileUpdate.read(path) for path in sorted(PAYLOADS.glob("*.txt")))


Unchecked = Callable[[Sequence[bytes], bytes], list[paillier.EncryptedNumber]]


def take_unchecked(public: PaillierPublic) -> Unchecked:
    """The broken twin of `PaillierPublic.from_bytes`: whatever arrives is a ciphertext."""
    return lambda sent, _: [paillier.EncryptedNumber(public.public_key, int.from_bytes(b, "big"), 0) for b in sent]
