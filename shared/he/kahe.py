"""`he_scheme: kahe`: Paillier whose cost does not grow with the model.

The vector is encrypted by ring-LWE under a key of 2,048 small integers that is new for each vector (`key_additive`),
and that key is what travels under Paillier, and under the masks:

    one update  =  [Enc(s)]  and  c = A·s + e + 2^k·m

Adding updates adds their keys and their vectors. The Paillier sum opens the sum of the keys, which opens the sum of the
vectors and nothing else. The key takes 7 ciphertexts of 3072 bits for 3 contributors and 12 for 1,000, whatever the
model's size: a vector of 2,048 whole numbers, which the packed Paillier scheme encrypts, masks, checks, adds and
decrypts like any other, each plus 64 in a slot of 7 + ceil(log2(contributors)) bits.

Bell-Clark, Gascón, Li, Raykova, Schoppmann, "Willow: Secure Aggregation with One-Shot Clients", CRYPTO 2025.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from phe import EncryptedNumber

from shared.he.fixed_point import FixedPoint
from shared.he.key_additive import Block, KeyAdditive, public_seed
from shared.he.keys import PublicKeyMaterial
from shared.he.offset_values import OffsetValues
from shared.he.paillier import PaillierPrivate, PaillierPublic
from shared.he.rlwe import DEGREE, TAIL
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

KEY_FIXED_POINT = FixedPoint(precision_bits=0, integer_bits=TAIL.bit_length() - 1)  # whole numbers below TAIL


@dataclass(frozen=True)
class KaheCiphertexts:
    """One vector, or the sum of several.

    Attributes:
        key: the one-time key under Paillier, packed.
        block: the vector under that key.
    """

    key: list[EncryptedNumber]
    block: Block


class KahePublic(MaskablePublic[KaheCiphertexts]):
    """Encrypt, check and add under one Paillier public key, which is the key's identity too.

    Args:
        key: the Paillier public key.
        fixed_point: how a value becomes an integer.
        max_contributors: the most vectors that one sum may hold.

    Raises:
        ConfigError: the settings would need a modulus that is not secure.
        MissingDependencyError: `phe` found no gmpy2.
    """

    name = "kahe"

    def __init__(self, key: PublicKeyMaterial, fixed_point: FixedPoint, max_contributors: int) -> None:
        self.transport = PaillierPublic(key, KEY_FIXED_POINT, max_contributors)
        self.vectors = KeyAdditive(OffsetValues(fixed_point, max_contributors))

    def public_bytes(self) -> bytes:
        return self.transport.public_bytes()

    def fingerprint(self) -> str:
        return self.transport.fingerprint()

    def check_proof(self, proof: object) -> None:
        self.transport.check_proof(proof)

    @property
    def modulus(self) -> int:
        return self.transport.modulus

    @property
    def encoding_name(self) -> str:
        fixed_point, most = self.vectors.values.fixed_point, self.vectors.values.max_contributors
        form = f"ring of {DEGREE} mod 2^{self.vectors.bits}"
        return f"{form}, {fixed_point.precision_bits}+{fixed_point.integer_bits} bits, up to {most} contributors"

    def layout(self, size: int) -> Layout:
        key = self.transport.layout(DEGREE)
        return Layout(key.ciphertexts, key.width, self.vectors.block_bytes(size))

    def quantise(self, vector: Vector) -> Vector:
        fixed_point = self.vectors.values.fixed_point
        return fixed_point.decode(fixed_point.encode(vector)[0])

    def prepare(self, size: int) -> None:
        """See to it that the randomisers of one key are ready or being made, whatever the vector's size."""
        self.transport.prepare(DEGREE)

    def encrypt_masked(
        self, vector: Vector, mask: Mask, context: bytes = b"", progress: Progress = no_progress
    ) -> Encrypted[KaheCiphertexts]:
        encrypted = self.vectors.encrypt(vector, self.seed(context))
        key = self.transport.encrypt_masked(encrypted.key.astype(np.float64), mask, progress=progress)
        return Encrypted(KaheCiphertexts(key.ciphertexts, encrypted.block), encrypted.saturated)

    def numbers(self, ciphertexts: KaheCiphertexts) -> list[int]:
        return self.transport.numbers(ciphertexts.key)

    def decode_sum(
        self,
        ciphertexts: KaheCiphertexts,
        plaintexts: Sequence[int],
        size: int,
        contributors: int,
        context: bytes = b"",
    ) -> Vector:
        key = self.transport.decode_sum(ciphertexts.key, plaintexts, DEGREE, contributors)
        return self.open_block(ciphertexts.block, key, size, contributors, context)

    def open_block(self, block: Block, key: Vector, size: int, contributors: int, context: bytes) -> Vector:
        """The (size,) values of a sum's block, by the sum of the keys, (N,); for what is raised see `decode_sum`."""
        return self.vectors.decrypt(block, key.astype(np.int64), size, contributors, self.seed(context))

    def to_bytes(self, ciphertexts: KaheCiphertexts) -> Parts:
        return Parts(self.transport.to_bytes(ciphertexts.key).ciphertexts, ciphertexts.block.tobytes())

    def from_bytes(self, blobs: Sequence[bytes], block: bytes = b"") -> KaheCiphertexts:
        # Any bytes are numbers modulo q: there is nothing in a block to check but its length, which the wire did.
        return KaheCiphertexts(self.transport.from_bytes(blobs), np.frombuffer(block, dtype=np.uint8))

    def add(self, a: KaheCiphertexts, b: KaheCiphertexts) -> KaheCiphertexts:
        return KaheCiphertexts(self.transport.add(a.key, b.key), self.vectors.add(a.block, b.block))

    def seed(self, context: bytes) -> bytes:
        """Of the public polynomials of the sum that the context names."""
        return public_seed(context, self.fingerprint())


class KahePrivate(PrivateScheme[KaheCiphertexts]):
    """Decrypts sums: their keys by Paillier, their vectors by these keys.

    Args:
        transport: the Paillier key pair.
        public: the public half of the scheme.
    """

    def __init__(self, transport: PaillierPrivate, public: KahePublic) -> None:
        self._transport = transport
        self.public: KahePublic = public

    def key_proof(self) -> bytes:
        return self._transport.key_proof()

    def decrypt_sum(self, ciphertexts: KaheCiphertexts, size: int, contributors: int, context: bytes = b"") -> Vector:
        key = self._transport.decrypt_sum(ciphertexts.key, DEGREE, contributors)
        return self.public.open_block(ciphertexts.block, key, size, contributors, context)

    def decrypt_masked_sum(
        self, ciphertexts: KaheCiphertexts, size: int, contributors: int, unmask: Unmask, context: bytes = b""
    ) -> Vector:
        key = self._transport.decrypt_masked_sum(ciphertexts.key, DEGREE, contributors, unmask)
        return self.public.open_block(ciphertexts.block, key, size, contributors, context)

    def roots(self, ciphertexts: KaheCiphertexts) -> list[int]:
        return self._transport.roots(ciphertexts.key)
