"""The proof of one round's sum, as a file: whoever is enrolled can check from it that the sum was made truly.

It holds what the tenants sent, signed, what the orchestrator made of it, and nothing that the tenants can't know
already: `client/auditing.py` has the check, docs/privacy.md what it shows. On the disk it is a row of frames
(`shared/frames.py`): the head with the model that the round began with, the server's momentum, the evidence of the
masks, the opening of the product, and then one contribution after the other, so that neither side ever holds all.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.atomic import naming
from shared.bounded_files import open_regular
from shared.errors import FrameError
from shared.exchange import Kind, Model, Reply, Request, Value
from shared.frames import (
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    receive_frame,
    send_frame,
)
from shared.learner import State

SUFFIX = ".proof"


def proof_name(round_number: int) -> str:
    """The file's name in its folder."""
    return f"round-{round_number:04}{SUFFIX}"


@dataclass(frozen=True)
class SumProof:
    """All of a proof but the contributions.

    Attributes:
        run: the run's name.
        session: the start of the server that the round was in.
        round_number: from 1.
        public_key: as it went to the tenants.
        max_contributors: the most vectors that the sum might hold.
        scaler: as it went to the tenants.
        before: the global model that the tenants trained.
        bucket: which vector it is a sum of.
        state: of the learner before its step; see `shared/learner.py`.
        after: `digest_arrays` of the global model that it led to.
        masks: `OpenedMasks` of the sum.
        plaintexts: that the product of the contributions' ciphertexts is said to hold.
        roots: the proof of that, see `shared/he/openings.py`.
        contributions: how many there are.
    """

    run: str
    session: str
    round_number: int
    public_key: bytes
    max_contributors: int
    scaler: bytes
    before: Model
    bucket: str
    state: State
    after: str
    masks: bytes
    plaintexts: list[int]
    roots: list[int]
    contributions: int


@dataclass(frozen=True)
class Contribution:
    """One tenant's vector.

    Attributes:
        client: who sent it, by the name in the enrolled list.
        payload: as it came.
        nonce: that it had to sign.
        signature: that it gave.
    """

    client: str
    payload: bytes
    nonce: bytes
    signature: bytes


class _File:
    """A file as the stream that frames are written to and read from."""

    def __init__(self, file: BinaryIO) -> None:
        self.recv, self.sendall = file.read, file.write


def append_contribution(file: BinaryIO, contribution: Contribution) -> None:
    """Write one contribution to the end of a file that `write_proof` takes them from."""
    said: dict[str, Value] = {
        "client": contribution.client, "nonce": contribution.nonce, "signature": contribution.signature,
    }  # fmt: skip
    send_frame(_File(file), encode_answer(Reply(contribution.payload, said)))


def write_proof(path: Path, proof: SumProof, contributions: Path) -> None:
    """Write a proof, whole or not at all; `contributions` is what `append_contribution` wrote."""
    width = max(((number.bit_length() + 7) // 8 for number in (*proof.plaintexts, *proof.roots)), default=1)
    values: dict[str, Value] = {
        "run": proof.run, "session": proof.session, "round": proof.round_number, "public_key": proof.public_key,
        "max_contributors": proof.max_contributors, "scaler": proof.scaler, "after": proof.after,
        "bucket": proof.bucket, "width": width, "contributions": proof.contributions,
    }  # fmt: skip
    opening = b"".join(number.to_bytes(width) for number in (*proof.plaintexts, *proof.roots))
    part = path.with_name(path.name + ".part")
    with naming(path), part.open("wb") as file:
        send_frame(_File(file), encode_request(Request(Kind.AUDIT, values, proof.before)))
        for data in (save(proof.state), proof.masks, opening):
            send_frame(_File(file), encode_answer(Reply(data)))
        with contributions.open("rb") as source:
            shutil.copyfileobj(source, file)
    part.replace(path)


@contextmanager
def open_proof(path: Path) -> Iterator[tuple[SumProof, Iterator[Contribution]]]:
    """A proof from anywhere, and its contributions as they are read, which is once.

    Raises:
        FrameError: not such a file; while its contributions are read as well.
        OSError: it can't be read.
    """
    with open_regular(path) as file:
        request = decode_request(*receive_frame(_File(file)))
        state, masks, opening = (_answer(file).payload for _ in range(3))
        match request.values:
            case {
                "run": str(run), "session": str(session), "round": int(number), "public_key": bytes(key),
                "max_contributors": int(most), "scaler": bytes(scaler), "after": str(after), "bucket": str(bucket),
                "width": int(width), "contributions": int(count), **rest,
            } if not rest and 1 <= width <= len(opening):  # fmt: skip
                numbers = [int.from_bytes(opening[i : i + width]) for i in range(0, len(opening), width)]
                half = len(numbers) // 2
                proof = SumProof(
                    run, session, number, key, most, scaler, request.model, bucket, _state(state), after, masks,
                    numbers[:half], numbers[half:], count,
                )  # fmt: skip
            case _:
                raise FrameError("a proof's head is not of its form")
        yield proof, _contributions(file, count)


def _contributions(file: BinaryIO, count: int) -> Iterator[Contribution]:
    for _ in range(count):
        reply = _answer(file)
        match reply.values:
            case {"client": str(client), "nonce": bytes(nonce), "signature": bytes(signature), **rest} if not rest:
                yield Contribution(client, reply.payload, nonce, signature)
            case _:
                raise FrameError("a contribution without its client, nonce and signature")
    if file.read(1):
        raise FrameError(f"the proof goes on behind its {count} contributions")


def _answer(file: BinaryIO) -> Reply:
    reply = decode_answer(*receive_frame(_File(file)))
    if not isinstance(reply, Reply):
        raise FrameError(f"a proof holds {reply.reason!r:.80} where it should hold data")
    return reply


def _state(data: bytes) -> State:
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise FrameError(f"a proof's state of the learner is none: {error}") from None
