"""Mutated inputs against everything that reads a client's bytes before they are trusted.

    make fuzz                                                                # a million inputs, some minutes
    .venv/bin/python -m tests.fuzz_decoder --inputs 20000 --seed 7           # fewer, and others
    .venv/bin/python -m tests.fuzz_decoder --replay logs/fuzz-decoder-….bin  # one that failed, again

Two things must hold of each input: whatever comes out is an `UpdateRejectedError`, and whatever is accepted encodes
to the very same bytes again. An input that breaks one of them is saved under `logs/`, and the run fails.
"""

import argparse
import hashlib
import pickle
import pickletools
import random
import resource
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import gmpy2

from shared.errors import UpdateRejectedError
from shared.wire import dump_update, load_update, unwrap_tensor
from tests.vectors.world import HONEST, blobs, encrypt, header, honest_payload, keys, npy, read_all

LOGS = Path(__file__).resolve().parent.parent / "logs"
MEMORY_LIMIT = 4 << 30  # bytes of address space of one process; the decoder itself needs a few kB
LAYOUT = keys().public.layout(header().size)
WITH_BLOCK = LAYOUT._replace(block=224)  # as he_scheme kahe has one, if a shorter

Outcome = str  # "accepted", or the code of the error


class FuzzError(Exception):
    """An input that breaks what must hold of every input."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        share: of all inputs.
        read: gives the bytes to the reader, and again what it accepted as bytes.
        seeds: inputs to begin with, honest ones and hostile ones.
        length: the one length that is not refused at once; 0 where there is none.
        tokens: what is inserted, beside random bytes.
    """

    share: float
    read: Callable[[bytes], bytes]
    seeds: Sequence[bytes]
    length: int
    tokens: Sequence[bytes]


def _read_update(data: bytes) -> bytes:
    return dump_update(header(), *load_update(data, header(), LAYOUT))


def _read_with_block(data: bytes) -> bytes:
    return dump_update(header(), *load_update(data, header(), WITH_BLOCK))


def _read_array(data: bytes) -> bytes:
    return npy(unwrap_tensor(data))


def _read_ciphertexts(data: bytes) -> bytes:
    count, width, _ = LAYOUT
    data = data[: count * width].ljust(count * width, b"\1")
    public = keys().public
    accepted = public.from_bytes([data[i : i + width] for i in range(0, len(data), width)])
    numbers = [c.ciphertext(be_secure=False) for c in accepted]
    if not all(0 < c < public.n_square and gmpy2.gcd(c, public.n) == 1 for c in numbers):
        raise FuzzError("accepted what is no ciphertext")
    if b"".join(public.to_bytes(accepted).ciphertexts) != data:
        raise FuzzError("accepted ciphertexts are not those that were sent")
    return data


@cache
def targets() -> dict[str, Target]:
    """What is fuzzed, by name."""
    honest = [honest_payload(client) for client in HONEST]
    vectors = read_all()
    payload, n = len(honest[0]), int(keys().public.n)
    primes = [keys()._key.private_key.p, keys()._key.private_key.q]
    opcodes = [code.code.encode("latin-1") for code in pickletools.opcodes]
    opcodes += [code.code.encode("latin-1") for code, _, _ in pickletools.genops(honest[0])] * 3  # most of all its own
    frames = [pickle.FRAME + struct.pack("<Q", size) for size in (0, 1, 3, 5, 8, 64, payload, 1 << 32, (1 << 64) - 1)]
    calls = [
        b"cos\ngetcwd\n)R",
        b"\x8c\x02os\x8c\x06getcwd\x93",
        b"r\xff\xff\xff\x1f",
        b"B\xff\xff\xff\xff",
        b"J\0\0\0\0",
    ]
    width = LAYOUT[1]
    special = [0, 1, n, n * n, n * n - 1, n * n + 1, *primes, *(7 * p for p in primes), *(n * p for p in primes)]
    return {
        "decoder": Target(
            0.6,
            _read_update,
            [*honest * 20, *(v.tensor[-payload:] for v in vectors)],
            payload,
            [*opcodes, *frames, *calls],
        ),
        "block": Target(
            0.1,
            _read_with_block,
            [*(h + bytes(WITH_BLOCK.block) for h in honest), *(h + h[: WITH_BLOCK.block] for h in honest)],
            payload + WITH_BLOCK.block,
            [*opcodes, *frames, *calls],
        ),
        "array": Target(
            0.15,
            _read_array,
            [*(npy(h) for h in honest * 20), *(npy(honest[0][:k]) for k in range(20)), *(v.tensor for v in vectors)],
            0,
            [b"|O1", b"|u1", b"<f8", b"True", b"(1,)", b"99999999", b"\x93NUMPY", b"PK\x03\x04", b"{", b"}", b"\n"],
        ),
        "ciphertexts": Target(
            0.15,
            _read_ciphertexts,
            [b"".join(blobs(encrypt(client))) for client in HONEST],
            0,
            [number.to_bytes(width, "big") for number in special if number.bit_length() <= 8 * width],
        ),
    }


def mutate(rng: random.Random, target: Target) -> bytes:
    """One input: a seed with up to 8 changes, or one put together from tokens, mostly of the length that is read."""
    if rng.random() < 0.15:
        data = bytearray(b"".join(_token(rng, target) for _ in range(rng.randrange(1, 60))))
        if target.length and rng.random() < 0.9:
            data[:0] = b"\x80\x04"
    else:
        data = bytearray(rng.choice(target.seeds))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
            _change(rng, target, data)
    if target.length and len(data) != target.length and rng.random() < 0.95:
        _fit(rng, data, target.length)
    return bytes(data)


def _token(rng: random.Random, target: Target) -> bytes:
    return rng.choice(target.tokens) + rng.randbytes(rng.choice((0, 0, 0, 1, 1, 2, 4)))


def _change(rng: random.Random, target: Target, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    # Half of the changes go to the first bytes, where the header is: a ciphertext's bytes say little to a parser.
    if rng.random() < 0.5:
        at %= 200
    until = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 32, 130)))
    match rng.randrange(8):
        case 0:
            data[at:until] = rng.randbytes(until - at)
        case 1 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 2 if at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, (data[at] + 1) % 256, (data[at] - 1) % 256))
        case 3:
            data[at:at] = _token(rng, target)
        case 4:
            token = _token(rng, target)
            data[at : at + len(token)] = token
        case 5:
            del data[at:until]
        case 6:
            data[at:at] = data[at:until]
        case _:
            other = rng.choice(target.seeds)
            data[at:until] = other[at:until]


def _fit(rng: random.Random, data: bytearray, length: int) -> None:
    """Give it the exact length: memo entries cost nothing, and bytes near the end are those of a ciphertext."""
    if len(data) < length:
        at = rng.choice((min(3, len(data)), max(0, len(data) - 4), len(data)))
        data[at:at] = pickle.MEMOIZE * (length - len(data))
    else:
        at = rng.choice((length, max(0, length - 40)))
        del data[at : at + len(data) - length]
    if rng.random() < 0.7:
        data[-1:] = pickle.STOP


def try_input(target: Target, data: bytes) -> Outcome:
    """Read one input.

    Raises:
        FuzzError: what must hold of every input does not hold of this one.
    """
    try:
        again = target.read(data)
    except UpdateRejectedError as error:
        if "MemoryError" in str(error):
            raise FuzzError("asked for more memory than there is") from None
        return error.code
    except FuzzError:
        raise
    except Exception as error:
        raise FuzzError(f"{type(error).__name__}: {error}") from error
    if again != data and target.read is not _read_ciphertexts:
        raise FuzzError("what was accepted encodes to other bytes")
    return "accepted"


def fuzz(name: str, target: Target, inputs: int, seed: str, logs: Path = LOGS) -> Counter[Outcome]:
    """Try so many inputs that follow from the seed.

    Raises:
        FuzzError: after the input was saved; the message says where.
    """
    rng = random.Random(f"{seed} {name}")
    outcomes: Counter[Outcome] = Counter()
    for _ in range(inputs):
        data = mutate(rng, target)
        try:
            outcomes[try_input(target, data)] += 1
        except FuzzError as error:
            path = logs / f"fuzz-{name}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
            logs.mkdir(exist_ok=True)
            path.write_bytes(data)
            raise FuzzError(f"{name}: {error}; replay it with --replay {path}") from error
    return outcomes


def _work(inputs: int, seed: str) -> dict[str, Counter[Outcome]]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    return {name: fuzz(name, t, round(t.share * inputs), seed) for name, t in targets().items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--replay", type=Path, help="a saved input")
    arguments = parser.parse_args()
    if arguments.replay:
        print(try_input(targets()[arguments.replay.name.split("-")[1]], arguments.replay.read_bytes()))
        return 0

    start = time.perf_counter()
    share = -(-arguments.inputs // arguments.processes)
    tally: dict[str, Counter[Outcome]] = {name: Counter() for name in targets()}
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        jobs = [pool.submit(_work, share, f"{arguments.seed}.{i}") for i in range(arguments.processes)]
        try:
            for job in jobs:
                for name, outcomes in job.result().items():
                    tally[name] += outcomes
        except FuzzError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    print("| target | inputs | outcome | times |\n|---|---|---|---|")
    for name, outcomes in tally.items():
        for outcome, times in outcomes.most_common():
            print(f"| {name} | {outcomes.total():,} | {outcome} | {times:,} |")
    total = sum(outcomes.total() for outcomes in tally.values())
    print(
        f"\n{total:,} inputs in {time.perf_counter() - start:.0f} s; nothing but typed errors, and what is accepted is"
    )
    print("what was sent.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
