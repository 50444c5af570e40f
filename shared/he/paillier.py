"""Paillier's additively homomorphic encryption: steps 1, 6, 9 and 10 of the flow.

    Enc(a) * Enc(b) mod n**2  =  Enc(a + b mod n)

Pascal Paillier, "Public-Key Cryptosystems Based on Composite Degree Residuosity Classes", EUROCRYPT 1999, section 4.

Keys and ciphertexts live in `phe`'s classes, and `phe` can decrypt whatever is encrypted here. What makes it fast has
modules of its own: `packing` (many values in one plaintext), `randomness` (made while the model trains) and
`decryption` (on all cores). With `he_packing: false` each value is one ciphertext made by `phe` itself, the reference
that tests and benchmarks compare with.

A vector is encoded to plaintexts, elements of Z_n, and these are encrypted; `encode` and `encrypt_plaintexts` are
separate so that a mask can be added in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray
from phe import EncryptedNumber
from phe import util as phe_util

from shared.errors import EncodingError, Flaw, KeyMaterialError, MissingDependencyError, UpdateRejectedError
from shared.he import modulus_proof, openings
from shared.he.decryption import decrypt_all
from shared.he.fixed_point import FixedPoint
from shared.he.keys import PrivateKeyMaterial, PublicKeyMaterial
from shared.he.packing import PackingLayout
from shared.he.randomness import Randomiser, RandomiserPool
from shared.he.scheme import (
    Encrypted,
    Layout,
    Mask,
    MaskablePublic,
    Parts,
    PrivateScheme,
    Progress,
    Unmask,
    Vector,
    no_progress,
)


class Encoding(Protocol):
    """Vectors as lists of plaintexts in Z_n, so that adding plaintexts adds vectors."""

    @property
    def fixed_point(self) -> FixedPoint:
        """How one value becomes an integer."""

    @property
    def max_contributors(self) -> int:
        """The most vectors that one sum may hold."""

    def plaintexts_for(self, size: int) -> int:
        """Plaintexts that a vector of `size` values takes."""

    def pack(self, vector: Vector) -> tuple[list[mpz], int]:
        """The plaintexts of (size,) values, and how many values saturated."""

    def unpack(self, plaintexts: Sequence[int | mpz], size: int, contributors: int) -> Vector:
        """The (size,) values of the sum of exactly `contributors` vectors."""


@dataclass(frozen=True)
class OnePerPlaintext:
    """The unpacked encoding: each plaintext is one value modulo n."""

    n: mpz
    fixed_point: FixedPoint
    max_contributors: int

    def plaintexts_for(self, size: int) -> int:
        return size

    def pack(self, vector: Vector) -> tuple[list[mpz], int]:
        integers, saturated = self.fixed_point.encode(vector)
        return [mpz(integer) % self.n for integer in integers.tolist()], saturated

    def unpack(self, plaintexts: Sequence[int | mpz], size: int, contributors: int) -> Vector:
        if not 1 <= contributors <= self.max_contributors or len(plaintexts) != size:
            raise EncodingError(
                f"a sum of {contributors} contributors in {len(plaintexts)} plaintexts; expected 1 to "
                f"{self.max_contributors} contributors and {size} plaintexts"
            )
        signed = [m if m <= self.n // 2 else m - self.n for m in plaintexts]  # a negative sum is its residue
        bound = contributors * self.fixed_point.largest
        if any(abs(value) > bound for value in signed):
            raise EncodingError(f"a value of the sum is beyond what {contributors} honest updates can add up to")
        values: NDArray[np.int64] = np.array([int(value) for value in signed], dtype=np.int64)
        return self.fixed_point.decode(values)


class PaillierPublic(MaskablePublic[list[EncryptedNumber]]):
    """Encrypt, check and add under one public key.

    Args:
        key: n, and h where the key maker publishes it.
        fixed_point: how a value becomes an integer.
        max_contributors: the most vectors that one sum may hold.
        packing: many values per ciphertext; False is the slow reference.

    Raises:
        MissingDependencyError: `phe` found no gmpy2.
        EncodingError: the values do not fit the packing's slots.
    """

    name = "paillier"

    def __init__(
        self, key: PublicKeyMaterial, fixed_point: FixedPoint, max_contributors: int, packing: bool = True
    ) -> None:
        if not phe_util.HAVE_GMP:  # phe would go on in pure Python, many times slower, without a word
            raise MissingDependencyError("phe found no gmpy2: install it with `pip install -r requirements.txt`")
        self.key = key
        self.public_key = key.public_key
        # Computed here: phe's own nsquare is an attribute that whoever made the key object could have set.
        self.n = mpz(key.public_key.n)
        self.n_square = self.n * self.n
        self.width = (self.n_square.bit_length() + 7) // 8  # bytes of one ciphertext
        self.encoding: Encoding = (
            PackingLayout(self.n.bit_length() - 1, fixed_point, max_contributors)
            if packing
            else OnePerPlaintext(self.n, fixed_point, max_contributors)
        )
        self._packing = packing
        self._pool: RandomiserPool | None = None

    def public_bytes(self) -> bytes:
        return self.key.to_bytes()

    def check_proof(self, proof: object) -> None:
        if type(proof) is not bytes or not proof:
            raise KeyMaterialError(
                "the server's greeting had no proof that its public key is sound (key_proof); update the server"
            )
        modulus_proof.verify(int(self.n), proof)

    @property
    def encoding_name(self) -> str:
        fixed_point, most = self.encoding.fixed_point, self.encoding.max_contributors
        form = "packed" if self._packing else "one each"
        return f"{form}, {fixed_point.precision_bits}+{fixed_point.integer_bits} bits, up to {most} contributors"

    @property
    def modulus(self) -> int:
        return int(self.n)

    def layout(self, size: int) -> Layout:
        return Layout(self.encoding.plaintexts_for(size), self.width)

    def quantise(self, vector: Vector) -> Vector:
        fixed_point = self.encoding.fixed_point
        return fixed_point.decode(fixed_point.encode(vector)[0])

    def prepare(self, size: int) -> None:
        """See to it that the randomisers of one vector are ready or being made in the background.

        They don't depend on the data. Calling this again before they are used makes no more of them.
        """
        if self._packing:
            pool = self._randomisers()
            pool.start(max(0, self.encoding.plaintexts_for(size) - pool.coming))

    def encrypt_masked(
        self, vector: Vector, mask: Mask, context: bytes = b"", progress: Progress = no_progress
    ) -> Encrypted[list[EncryptedNumber]]:
        plaintexts, saturated = self.encoding.pack(vector)
        masked = mask([int(plaintext) for plaintext in plaintexts])
        return Encrypted(self.encrypt_plaintexts(masked, progress), saturated)

    def numbers(self, ciphertexts: list[EncryptedNumber]) -> list[int]:
        # be_secure=False: each was obfuscated when it was made; phe would raise r to the n once more.
        return [c.ciphertext(be_secure=False) for c in ciphertexts]

    def decode_sum(
        self,
        ciphertexts: list[EncryptedNumber],
        plaintexts: Sequence[int],
        size: int,
        contributors: int,
        context: bytes = b"",
    ) -> Vector:
        return self.encoding.unpack(plaintexts, size, contributors)

    def encrypt_plaintexts(self, plaintexts: Sequence[int], progress: Progress = no_progress) -> list[EncryptedNumber]:
        """Encrypt elements of Z_n, any of them: Enc(m) = (1 + m*n) * r**n mod n**2."""
        if not self._packing:
            ciphertexts = []
            for plaintext in plaintexts:
                ciphertexts.append(EncryptedNumber(self.public_key, self.public_key.raw_encrypt(int(plaintext)), 0))
                progress(1)
            return ciphertexts
        randomisers = self._randomisers().take(len(plaintexts))
        n, n_square = self.n, self.n_square
        numbers = [(1 + m * n) * r % n_square for m, r in zip(plaintexts, randomisers, strict=True)]
        progress(len(numbers))
        return [EncryptedNumber(self.public_key, int(number), 0) for number in numbers]

    def to_bytes(self, ciphertexts: list[EncryptedNumber]) -> Parts:
        return Parts([number.to_bytes(self.width, "big") for number in self.numbers(ciphertexts)])

    def from_bytes(self, blobs: Sequence[bytes], block: bytes = b"") -> list[EncryptedNumber]:
        numbers = [int.from_bytes(blob, "big") for blob in blobs]
        product = mpz(1)
        for index, number in enumerate(numbers):
            # phe decrypts 0, n and c + n**2 without an error, to garbage or to another ciphertext's plaintext.
            if not 0 < number < self.n_square:
                raise UpdateRejectedError(Flaw.CIPHERTEXT, f"ciphertext {index} is not between 0 and n squared")
            product = product * number % self.n
        # A number that shares a factor with n has no inverse: as a factor of the sum it wipes out everybody's values.
        # The product of units is a unit, so one gcd answers for the whole list.
        if gmpy2.gcd(product, self.n) != 1:
            raise UpdateRejectedError(Flaw.CIPHERTEXT, "a ciphertext is not a unit modulo n")
        # Rebuilt with the receiver's own key: a key that travelled could carry a forged modulus.
        return [EncryptedNumber(self.public_key, number, 0) for number in numbers]

    def add(self, a: list[EncryptedNumber], b: list[EncryptedNumber]) -> list[EncryptedNumber]:
        return [x + y for x, y in zip(a, b, strict=True)]

    def _randomisers(self) -> RandomiserPool:
        """Made at the first use: the orchestrator, which only adds, never pays for the table."""
        if self._pool is None:
            self._pool = RandomiserPool(Randomiser(self.key))
        return self._pool


class PaillierPrivate(PrivateScheme[list[EncryptedNumber]]):
    """Decrypts sums. Its key is never printed, logged or sent.

    Args:
        key: the private half.
        public: the public half.
        proof: of `modulus_proof`, where it was made before; else it is made when it is first asked for.
    """

    def __init__(self, key: PrivateKeyMaterial, public: PaillierPublic, proof: bytes = b"") -> None:
        self._key = key
        self._proof = proof
        self.public: PaillierPublic = public

    def key_proof(self) -> bytes:
        if not self._proof:
            self._proof = modulus_proof.prove(self._key.private_key.p, self._key.private_key.q)
        return self._proof

    def decrypt_sum(
        self, ciphertexts: list[EncryptedNumber], size: int, contributors: int, context: bytes = b""
    ) -> Vector:
        return self.public.encoding.unpack(self.decrypt_plaintexts(ciphertexts), size, contributors)

    def decrypt_masked_sum(
        self, ciphertexts: list[EncryptedNumber], size: int, contributors: int, unmask: Unmask, context: bytes = b""
    ) -> Vector:
        plaintexts = unmask(self.decrypt_plaintexts(ciphertexts))
        return self.public.decode_sum(ciphertexts, plaintexts, size, contributors)

    def roots(self, ciphertexts: list[EncryptedNumber]) -> list[int]:
        return openings.roots(self._key, self.public.numbers(ciphertexts))

    def decrypt_plaintexts(self, ciphertexts: list[EncryptedNumber]) -> list[int]:
        """The plaintexts in [0, n), (ciphertexts,); what they encode is for the caller to say."""
        return [int(m) for m in decrypt_all(self._key, self.public.numbers(ciphertexts))]
