"""Key-additive homomorphic encryption of one vector by ring-LWE: what `kahe` does beside Paillier.

    c_j  =  A_j·s + e_j + 2^k·m_j   in  Z_q[x] / (x^N + 1),   q = 2^b

Adding ciphertexts adds keys, so that the sum of the keys opens the sum of the vectors, and nothing else:

    (C_j - A_j·S) mod q  =  E_j + 2^k·M_j

Bell-Clark, Gascón, Li, Raykova, Schoppmann, "Willow: Secure Aggregation with One-Shot Clients", CRYPTO 2025, has the
term; Bell, Gascón, Lepoint, Li, Meiklejohn, Raykova, Yun, "ACORN: Input Validation for Secure Aggregation", USENIX
Security 2023, the construction. The parameters, and what they rest on, are in `rlwe`.

**Guarantees.** (1) A_j is uniform, whoever has a say in the task: each side derives it by itself from a hash of the
task and the key. A server that could choose it would choose 0. (2) A key and an error serve one vector: two with the
same would show their difference. Both are drawn here, from a seed that the system makes for this vector alone.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shared.errors import EncodingError
from shared.he import bit_block, gaussian
from shared.he.offset_values import OffsetValues
from shared.he.ring import Factor
from shared.he.rlwe import DEGREE, error_bound, modulus_bits, noise_bits, polynomials_for
from shared.he.scheme import Vector
from shared.he.words import SEED_BYTES, Words

CONTEXT_BYTES = 32  # SHA-256
CHUNK = 64  # polynomials that are worked on together: a mebibyte of numbers, and no more however large the vector

Block = NDArray[np.uint8]  # polynomials · N numbers modulo q, b bits each
OneTimeKey = NDArray[np.int64]  # (N,) coefficients of a key, or of a sum of keys


@dataclass(frozen=True)
class KeyedBlock:
    """One vector, encrypted.

    Attributes:
        block: what travels as it is.
        key: what opens it, and so travels under Paillier alone.
        saturated: how many values were beyond the fixed-point range and clipped to its edge.
    """

    block: Block
    key: OneTimeKey = field(repr=False)
    saturated: int


def public_seed(context: bytes, fingerprint: str) -> bytes:
    """What the public polynomials of one sum follow from, 32 bytes.

    Args:
        context: digest of the task, which names the vector and the key as well; see `shared/task.py`.
        fingerprint: of the public key that the one-time keys travel under, in hex.

    Raises:
        EncodingError: the context is no digest.
    """
    if len(context) != CONTEXT_BYTES:
        raise EncodingError(
            f"he_scheme kahe encrypts for one task: expected its digest of {CONTEXT_BYTES} bytes, found {len(context)}"
        )
    return hashlib.sha256(b"kahe: public polynomials\0" + context + bytes.fromhex(fingerprint)).digest()


@dataclass(frozen=True)
class KeyAdditive:
    """How vectors are encrypted and added.

    Attributes:
        values: how a value becomes an integer, and how many of them one sum may hold.

    Raises:
        ConfigError: the modulus would be wider than is secure.
    """

    values: OffsetValues

    def __post_init__(self) -> None:
        _ = self.bits

    @cached_property
    def bits(self) -> int:
        """b, bits of a number of the block."""
        return modulus_bits(self.values.sum_bits, self.values.max_contributors)

    @cached_property
    def noise_bits(self) -> int:
        """k, bits of a number that the errors fill."""
        return noise_bits(self.values.max_contributors)

    def block_bytes(self, size: int) -> int:
        """Bytes of the block of `size` values."""
        return bit_block.block_bytes(polynomials_for(size) * DEGREE, self.bits)

    def encrypt(self, vector: Vector, seed: bytes) -> KeyedBlock:
        """Encrypt (size,) values under a new key.

        Args:
            vector: the values.
            seed: of the public polynomials.

        Raises:
            EncodingError: a value is NaN or infinite.
        """
        secret = Words(secrets.token_bytes(SEED_BYTES))
        key = gaussian.draw(secret, DEGREE).astype(np.int64)
        factor, public = Factor(key), Words(seed)
        block, saturated = np.empty(self.block_bytes(vector.size), dtype=np.uint8), 0
        for rows, place in self._chunks(block):
            numbers = factor.times(self._take(public, rows), self.bits)  # (rows, N)
            numbers += gaussian.draw(secret, rows * DEGREE).reshape(rows, DEGREE).astype(np.int64).view(np.uint64)
            encoded, clipped = self.values.encode(vector[place : place + rows * DEGREE])
            numbers.reshape(-1)[: len(encoded)] += encoded << np.uint64(self.noise_bits)
            self._write(block, place, numbers)
            saturated += clipped
        return KeyedBlock(block, key, saturated)

    def add(self, a: Block, b: Block) -> Block:
        """The sum of two blocks, modulo q."""
        total = np.empty_like(a)
        for rows, place in self._chunks(a):
            self._write(total, place, self._read(a, place, rows) + self._read(b, place, rows))
        return total

    def decrypt(self, block: Block, key: OneTimeKey, size: int, contributors: int, seed: bytes) -> Vector:
        """The (size,) values of a sum of `contributors` vectors, by the sum of their keys.

        Raises:
            EncodingError: more contributors than a sum has bits for; a block of another size; or not the sum of so many
                honest vectors under these keys and this seed, as far as it shows: a wrong key, seed or count does,
                unless by a freak chance; a contributor who lies within the range never does.
        """
        self.values.check_contributors(contributors)
        if len(block) != self.block_bytes(size):
            raise EncodingError(
                f"kahe: a block of {len(block)} bytes; expected {self.block_bytes(size)} of {size} values"
            )
        factor, public = Factor(key), Words(seed)
        bound, half = error_bound(contributors), 1 << (self.noise_bits - 1)
        mask = np.uint64((1 << self.bits) - 1)
        vector = np.empty(size, dtype=np.float64)
        for rows, place in self._chunks(block):
            numbers = self._read(block, place, rows)
            numbers -= factor.times(self._take(public, rows), self.bits)
            numbers += np.uint64(half)  # so that cutting the low bits off rounds to the nearest
            numbers &= mask
            flat = numbers.reshape(-1)
            errors = (flat & np.uint64(2 * half - 1)).astype(np.int64) - half
            sums = flat >> np.uint64(self.noise_bits)
            used = min(size - place, len(sums))
            if max(-int(errors.min()), int(errors.max())) > bound or sums[used:].any():
                raise EncodingError(
                    f"kahe: this is no sum of {contributors} vectors under these keys; the number of contributors, the "
                    "task, a key or a mask is wrong"
                )
            vector[place : place + used] = self.values.decode(sums[:used], contributors)
        return vector

    def _chunks(self, block: Block) -> list[tuple[int, int]]:
        """(polynomials, where the first number is) of each chunk of a block."""
        polynomials = len(block) // bit_block.block_bytes(DEGREE, self.bits)
        return [(min(CHUNK, polynomials - first), first * DEGREE) for first in range(0, polynomials, CHUNK)]

    def _take(self, public: Words, rows: int) -> NDArray[np.uint64]:
        """The next public polynomials, (rows, N): the low b bits of each word."""
        return (public.take(rows * DEGREE) & np.uint64((1 << self.bits) - 1)).reshape(rows, DEGREE)

    def _read(self, block: Block, place: int, rows: int) -> NDArray[np.uint64]:
        """Numbers of a block, (rows, N)."""
        start, end = (bit_block.block_bytes(at, self.bits) for at in (place, place + rows * DEGREE))
        return bit_block.unpack(block[start:end], self.bits).reshape(rows, DEGREE)

    def _write(self, block: Block, place: int, numbers: NDArray[np.uint64]) -> None:
        """Put numbers, (rows, N), into a block, modulo q."""
        packed = bit_block.pack(numbers.reshape(-1) & np.uint64((1 << self.bits) - 1), self.bits)
        start = bit_block.block_bytes(place, self.bits)
        block[start : start + len(packed)] = packed
