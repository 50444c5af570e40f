"""The mask streams: from a 32-byte key to one mask per ciphertext, added up over the peers and reduced mod n once.

Each stream gives |n| + 128 bits or more per ciphertext. Reduced mod n such a value is within statistical distance
2**-128 of uniform on Z_n; with |n| bits alone the small residues would be visibly more likely.
"""

import math
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

EXTRA_BITS = 128
_LIMB_BITS = 32
_LIMB_MASK = 2**_LIMB_BITS - 1
_LIMB_OFFSET = 2 ** (_LIMB_BITS - 1)  # makes a signed carry of less than 31 bits non-negative
_NO_NONCE = bytes(16)  # a key serves one stream of one round, so counter and nonce may start at zero


class MaskSum:
    """A signed sum of mask streams, exact.

    It is kept in 32-bit limbs whose carries wait until the end, so that one stream costs one vector addition.
    The limbs are 64-bit accumulators, so up to 2**31 streams can be added before one could overflow.
    """

    def __init__(self, modulus: int, ciphertexts: int) -> None:
        limbs = math.ceil((modulus.bit_length() + EXTRA_BITS) / _LIMB_BITS)
        self._modulus = modulus
        self._limbs = np.zeros((ciphertexts, limbs), dtype=np.int64)  # (ciphertexts, 32-bit limbs), little-endian

    def add(self, key: bytes) -> None:
        """Add the ChaCha20 stream of a 32-byte key."""
        self._limbs += self._stream(key)

    def subtract(self, key: bytes) -> None:
        """Subtract the ChaCha20 stream of a 32-byte key."""
        self._limbs -= self._stream(key)

    def apply(self, plaintexts: Sequence[int]) -> list[int]:
        """(plaintext + sum of masks) mod n for each of the (ciphertexts,) plaintexts."""
        width = self._limbs.shape[1] * _LIMB_BITS // 8
        low = (self._limbs & _LIMB_MASK).astype("<u4").tobytes()
        carry = ((self._limbs >> _LIMB_BITS) + _LIMB_OFFSET).astype("<u4").tobytes()
        offset = int.from_bytes(_LIMB_OFFSET.to_bytes(4, "little") * self._limbs.shape[1], "little")
        masked = []
        for k, plaintext in enumerate(plaintexts):
            place = slice(k * width, (k + 1) * width)
            carried = (int.from_bytes(carry[place], "little") - offset) << _LIMB_BITS
            masked.append((plaintext + int.from_bytes(low[place], "little") + carried) % self._modulus)
        return masked

    def _stream(self, key: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
        encryptor = Cipher(algorithms.ChaCha20(key, _NO_NONCE), mode=None).encryptor()
        stream = encryptor.update(bytes(self._limbs.size * _LIMB_BITS // 8))
        return np.frombuffer(stream, dtype="<u4").reshape(self._limbs.shape)
