"""The homomorphic encryption (HE) scheme behind one small interface.

A scheme is two objects. `PublicScheme` is what every client holds: it encrypts, checks and adds. `PrivateScheme` is
what the orchestrator alone holds: it decrypts a *sum*. To bring another scheme, implement both, name it in
`shared/config.py` and in the two functions of `shared/he_utils.py`, and add it to the conformance tests. One whose
updates can be masked is a `MaskablePublic`.

The law that each scheme obeys, exactly:

    decrypt_sum(encrypt(x_1) + ... + encrypt(x_k), k) == quantise(x_1) + ... + quantise(x_k)
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError

Vector = NDArray[np.float64]  # (size,) a flattened model delta
Ciphertexts = TypeVar("Ciphertexts")  # an encrypted vector, or the sum of several
Progress = Callable[[int], None]  # called with the number of ciphertexts just made
Mask = Callable[[Sequence[int]], list[int]]  # puts a tenant's masks on the plaintexts of its vector
Unmask = Callable[[Sequence[int]], list[int]]  # takes the masks off the plaintexts of a sum, see `shared/masking`


def no_progress(_done: int) -> None:
    """For callers that show none."""


class Layout(NamedTuple):
    """How a vector of a certain size travels; both sides know it before anything does.

    Attributes:
        ciphertexts: in the list.
        width: bytes of each.
        block: bytes of what stands beside the list, all of whose values are legal; 0 where a scheme has no such thing.
    """

    ciphertexts: int
    width: int
    block: int = 0


class Parts(NamedTuple):
    """An encrypted vector as it travels: the list of ciphertexts that is pickled, and the block that is not."""

    ciphertexts: list[bytes]
    block: bytes = b""


@dataclass(frozen=True)
class Encrypted(Generic[Ciphertexts]):
    """One client's encrypted vector.

    Attributes:
        ciphertexts: what travels.
        saturated: how many values were beyond the fixed-point range and clipped to its edge.
    """

    ciphertexts: Ciphertexts
    saturated: int


class PublicScheme(ABC, Generic[Ciphertexts]):
    """What a client may know: encrypt, check, add. It can't decrypt."""

    name: ClassVar[str]

    @abstractmethod
    def public_bytes(self) -> bytes:
        """The public key as the bytes that travel to the clients."""

    @property
    @abstractmethod
    def encoding_name(self) -> str:
        """How values lie in ciphertexts, in a few words: equal on both sides, or sums are nonsense."""

    @abstractmethod
    def layout(self, size: int) -> Layout:
        """How a vector of `size` values travels."""

    @abstractmethod
    def quantise(self, vector: Vector) -> Vector:
        """The nearest values that the scheme can represent, (size,)."""

    def prepare(self, size: int) -> None:
        """Begin what the next encryption of (size,) values needs beside them. Returns at once; twice is fine."""

    @abstractmethod
    def encrypt(self, vector: Vector, context: bytes = b"", progress: Progress = no_progress) -> Encrypted[Ciphertexts]:
        """Encrypt (size,) values.

        Args:
            vector: the values.
            context: what the sum is of, `Task.digest()`. A scheme whose public key says all does not look at it.
            progress: called with the number of ciphertexts just made.

        Raises:
            EncodingError: a value is NaN or infinite.
        """

    @abstractmethod
    def to_bytes(self, ciphertexts: Ciphertexts) -> Parts:
        """Each ciphertext as fixed-width bytes, and the block; of the form that `layout` says."""

    @abstractmethod
    def from_bytes(self, blobs: Sequence[bytes], block: bytes = b"") -> Ciphertexts:
        """The inverse of `to_bytes`, for bytes of unknown origin that have the right form.

        Raises:
            UpdateRejectedError of CIPHERTEXT: a blob is not a valid ciphertext under this key.
        """

    @abstractmethod
    def add(self, a: Ciphertexts, b: Ciphertexts) -> Ciphertexts:
        """The encrypted element-wise sum of two encrypted vectors."""

    def check_proof(self, proof: object) -> None:
        """Check the key maker's proof that the public key is sound; a scheme that has none takes anything.

        Args:
            proof: what came with the key, from anywhere.

        Raises:
            KeyMaterialError: it is missing, or does not prove it of this key.
        """

    def fingerprint(self) -> str:
        """SHA-256 of the scheme's name and public key, in hex: the key's identity on the wire and in the log."""
        return hashlib.sha256(self.name.encode() + b"\0" + self.public_bytes()).hexdigest()


class MaskablePublic(PublicScheme[Ciphertexts]):
    """A scheme whose ciphertexts hold plaintexts modulo n, so that masks can be added before these are encrypted."""

    @property
    @abstractmethod
    def modulus(self) -> int:
        """n, which plaintexts and masks are added up modulo."""

    @abstractmethod
    def encrypt_masked(
        self, vector: Vector, mask: Mask, context: bytes = b"", progress: Progress = no_progress
    ) -> Encrypted[Ciphertexts]:
        """As `encrypt`, with the plaintexts of the `layout(size).ciphertexts` ciphertexts masked by `mask`.

        Raises:
            EncodingError: a value is NaN or infinite; nothing was masked.
        """

    @abstractmethod
    def numbers(self, ciphertexts: Ciphertexts) -> list[int]:
        """The Paillier ciphertexts in it, each in (0, n²): what masks are under, and what is opened of a sum."""

    @abstractmethod
    def decode_sum(
        self, ciphertexts: Ciphertexts, plaintexts: Sequence[int], size: int, contributors: int, context: bytes = b""
    ) -> Vector:
        """The (size,) values of a sum whose plaintexts are known, and free of masks; no private key is needed.

        Raises:
            EncodingError: not the sum of so many honest vectors, as far as it shows.
        """

    def encrypt(self, vector: Vector, context: bytes = b"", progress: Progress = no_progress) -> Encrypted[Ciphertexts]:
        return self.encrypt_masked(vector, list, context, progress)


class PrivateScheme(ABC, Generic[Ciphertexts]):
    """What the orchestrator holds. Its one act is to decrypt a sum."""

    public: PublicScheme[Ciphertexts]

    def key_proof(self) -> bytes:
        """What `PublicScheme.check_proof` asks for; empty where the scheme has none."""
        return b""

    @abstractmethod
    def decrypt_sum(self, ciphertexts: Ciphertexts, size: int, contributors: int, context: bytes = b"") -> Vector:
        """Decrypt the sum of `contributors` vectors, all encrypted for this context, to (size,) values.

        The count must be exact: packed slots carry an offset once per contributor.

        Raises:
            EncodingError: more contributors than the slots were sized for.
        """

    def decrypt_masked_sum(
        self, ciphertexts: Ciphertexts, size: int, contributors: int, unmask: Unmask, context: bytes = b""
    ) -> Vector:
        """The same for vectors whose plaintexts were masked: they are unmasked between decrypting and decoding.

        Raises:
            ConfigError: the scheme has no plaintexts that a mask could be added to.
            EncodingError, RoundAbandonedError: the sum is not one of honest updates, or can't be unmasked.
        """
        raise ConfigError(f"he_scheme = {self.public.name!r}: its updates can't be masked; use paillier or kahe")

    def roots(self, ciphertexts: Ciphertexts) -> list[int]:
        """The proof that a sum was decrypted truly: r of each of its Paillier ciphertexts; see `shared/he/openings.py`.

        Raises:
            ConfigError: the scheme has no such ciphertexts.
        """
        raise ConfigError(f"he_scheme = {self.public.name!r}: its sums can't be proven; use paillier or kahe")
