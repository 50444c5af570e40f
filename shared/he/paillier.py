"""Paillier's additively homomorphic encryption, by `phe`: steps 1, 6, 9 and 10 of the flow.

    Enc(a) * Enc(b) mod n**2  =  Enc(a + b mod n)

Pascal Paillier, "Public-Key Cryptosystems Based on Composite Degree Residuosity Classes", EUROCRYPT 1999, section 4.
Each parameter is one ciphertext: an integer at exponent 0, so that a ciphertext says nothing of its value's size.
"""

from collections.abc import Sequence

import gmpy2
import numpy as np
from phe import EncryptedNumber, PaillierPrivateKey, PaillierPublicKey, generate_paillier_keypair
from phe import util as phe_util

from shared.errors import CiphertextError, EncodingError, KeyMaterialError, MissingDependencyError
from shared.he.fixed_point import FixedPoint
from shared.he_utils import Encrypted, PrivateScheme, Progress, PublicScheme, Vector, no_progress


class PaillierPublic(PublicScheme[EncryptedNumber]):
    """Encrypt, check and add under one public key."""

    name = "paillier"

    def __init__(self, public_key: PaillierPublicKey, fixed_point: FixedPoint) -> None:
        if not phe_util.HAVE_GMP:  # phe would go on in pure Python, many times slower, without a word
            raise MissingDependencyError("phe found no gmpy2: install it with `pip install -r requirements.txt`")
        self.public_key = public_key
        self.fixed_point = fixed_point
        self.width = (public_key.nsquare.bit_length() + 7) // 8  # bytes of one ciphertext

    @classmethod
    def from_bytes_of_key(cls, data: bytes, key_length: int, fixed_point: FixedPoint) -> "PaillierPublic":
        """The scheme for a public key that arrived over the network.

        Raises:
            KeyMaterialError: not an odd modulus of exactly `key_length` bits.
        """
        n = int.from_bytes(data, "big")
        if len(data) != key_length // 8 or n.bit_length() != key_length or n % 2 == 0:
            raise KeyMaterialError(
                f"the server's public key has {n.bit_length()} bits in {len(data)} bytes; expected an odd modulus of "
                f"{key_length} bits: he_key_length must be the same on both sides"
            )
        return cls(PaillierPublicKey(n), fixed_point)

    def public_bytes(self) -> bytes:
        n: int = self.public_key.n
        return n.to_bytes((n.bit_length() + 7) // 8, "big")

    def layout(self, size: int) -> tuple[int, int]:
        return size, self.width

    def tolerance(self, contributors: int) -> float:
        return 0.0

    def quantise(self, vector: Vector) -> Vector:
        return self.fixed_point.decode(self.fixed_point.encode(vector)[0])

    def encrypt(self, vector: Vector, progress: Progress = no_progress) -> Encrypted[EncryptedNumber]:
        integers, saturated = self.fixed_point.encode(vector)  # (size,)
        ciphertexts = []
        for integer in integers.tolist():  # plain ints: phe rejects NumPy scalars
            ciphertexts.append(self.public_key.encrypt(integer))
            progress(1)
        return Encrypted(ciphertexts, saturated)

    def to_bytes(self, ciphertexts: Sequence[EncryptedNumber]) -> list[bytes]:
        # be_secure=False: each was obfuscated when it was made; phe would raise r to the n once more.
        return [c.ciphertext(be_secure=False).to_bytes(self.width, "big") for c in ciphertexts]

    def from_bytes(self, blobs: Sequence[bytes]) -> list[EncryptedNumber]:
        n, n_square = gmpy2.mpz(self.public_key.n), self.public_key.nsquare
        numbers = [int.from_bytes(blob, "big") for blob in blobs]
        product = gmpy2.mpz(1)
        for index, number in enumerate(numbers):
            # phe decrypts 0, n and c + n**2 without an error, to garbage or to another ciphertext's plaintext.
            if not 0 < number < n_square:
                raise CiphertextError(f"ciphertext {index} is not between 0 and n squared")
            product = product * number % n
        # A number that shares a factor with n has no inverse: as a factor of the sum it wipes out everybody's values.
        # The product of units is a unit, so one gcd answers for the whole list.
        if gmpy2.gcd(product, n) != 1:
            raise CiphertextError("a ciphertext is not a unit modulo n")
        # Rebuilt with the receiver's own key: a key that travelled could carry a forged modulus.
        return [EncryptedNumber(self.public_key, number, 0) for number in numbers]

    def add(self, a: Sequence[EncryptedNumber], b: Sequence[EncryptedNumber]) -> list[EncryptedNumber]:
        return [x + y for x, y in zip(a, b, strict=True)]


class PaillierPrivate(PrivateScheme[EncryptedNumber]):
    """Decrypts sums. Its key is never printed, logged or sent."""

    def __init__(self, private_key: PaillierPrivateKey, public: PaillierPublic) -> None:
        self._private_key = private_key
        self.public: PaillierPublic = public

    @classmethod
    def generate(cls, key_length: int, fixed_point: FixedPoint) -> "PaillierPrivate":
        """A fresh key pair with a modulus of exactly `key_length` bits."""
        public_key, private_key = generate_paillier_keypair(n_length=key_length)
        return cls(private_key, PaillierPublic(public_key, fixed_point))

    def decrypt_sum(self, ciphertexts: Sequence[EncryptedNumber], size: int, contributors: int) -> Vector:
        n: int = self._private_key.public_key.n
        if len(ciphertexts) != size:
            raise EncodingError(f"{len(ciphertexts)} ciphertexts for {size} values; expected one each")
        bound = contributors * self.public.fixed_point.largest
        values = np.empty(size, dtype=np.int64)
        for index, ciphertext in enumerate(ciphertexts):
            residue = self._private_key.raw_decrypt(ciphertext.ciphertext(be_secure=False))
            value = residue if residue <= n // 2 else residue - n  # a negative sum is its residue modulo n
            if abs(value) > bound:
                raise EncodingError(
                    f"value {index} of the sum is beyond what {contributors} honest updates can add up to"
                )
            values[index] = value
        return self.public.fixed_point.decode(values)
