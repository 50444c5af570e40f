"""Streams of 64-bit words that follow from 32 bytes: AES-256 in counter mode.

From a secret seed the words are for keys and errors, from a public one they are numbers that nobody chose.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

SEED_BYTES = 32
_WORD_BYTES = 8
_FIRST_COUNTER = bytes(16)  # a seed makes one stream, so each counts from zero


class Words:
    """The words of one seed, from the first on.

    Args:
        seed: `SEED_BYTES` bytes. It must make no other stream.
    """

    def __init__(self, seed: bytes) -> None:
        self._cipher = Cipher(algorithms.AES256(seed), modes.CTR(_FIRST_COUNTER)).encryptor()

    def take(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words, (count,)."""
        return np.frombuffer(self._cipher.update(bytes(_WORD_BYTES * count)), dtype="<u8")
