"""`he_scheme: none`: no encryption at all, the plaintext twin that tests and benchmarks compare against.

It obeys the same interface and the same wire rules, so whatever differs between two runs is due to the encryption.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import EncodingError, Flaw, UpdateRejectedError
from shared.he.scheme import Encrypted, Layout, Parts, PrivateScheme, Progress, PublicScheme, Vector, no_progress

# On x86 of 64 bits, so that a sum of float32 numbers hardly ever shows in which order they came.
Plain = NDArray[np.longdouble]


class PlainPublic(PublicScheme[list[Plain]]):
    """The "ciphertext" is the vector itself, as one little-endian float32 array: what plain FedAvg sends."""

    name = "none"

    def public_bytes(self) -> bytes:
        return b""

    @property
    def encoding_name(self) -> str:
        return "float32"

    def layout(self, size: int) -> Layout:
        return Layout(1, 4 * size)

    def quantise(self, vector: Vector) -> Vector:
        return vector.astype("<f4").astype(np.float64)

    def encrypt(self, vector: Vector, context: bytes = b"", progress: Progress = no_progress) -> Encrypted[list[Plain]]:
        if not np.isfinite(vector).all():
            raise EncodingError("the delta holds NaN or infinity: local training diverged; lower learning_rate")
        progress(1)
        return Encrypted([vector.astype("<f4").astype(np.longdouble)], saturated=0)

    def to_bytes(self, ciphertexts: list[Plain]) -> Parts:
        return Parts([plain.astype("<f4").tobytes() for plain in ciphertexts])

    def from_bytes(self, blobs: Sequence[bytes], block: bytes = b"") -> list[Plain]:
        plain = [np.frombuffer(blob, dtype="<f4").astype(np.longdouble) for blob in blobs]
        if not all(np.isfinite(p).all() for p in plain):
            raise UpdateRejectedError(Flaw.CIPHERTEXT, "the update holds NaN or infinity")
        return plain

    def add(self, a: list[Plain], b: list[Plain]) -> list[Plain]:
        return [x + y for x, y in zip(a, b, strict=True)]


class PlainPrivate(PrivateScheme[list[Plain]]):
    """There is nothing to decrypt."""

    def __init__(self) -> None:
        self.public = PlainPublic()

    def decrypt_sum(self, ciphertexts: list[Plain], size: int, contributors: int, context: bytes = b"") -> Vector:
        (plain,) = ciphertexts
        if plain.shape != (size,):
            raise EncodingError(f"a sum of shape {plain.shape} for {size} values")
        return plain.astype(np.float64)
