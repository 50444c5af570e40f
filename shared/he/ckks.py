"""CKKS, approximate arithmetic on real vectors, by TenSEAL: a second scheme behind the same interface.

    Decrypt(Enc(a) + Enc(b))  =  a + b + noise,   |noise| <= tolerance

Cheon, Kim, Kim, Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers", ASIACRYPT 2017. One ciphertext is
two polynomials of degree below N with coefficients modulo one prime q, and holds N / 2 values ("slots").

Only sums are needed, so there are no relinearisation or Galois keys and no levels, and q is as small as the settings
allow. SEAL encrypts modulo q times a second, "special" prime and divides by it afterwards. That takes 4 bits of noise
away (a deviation of 21 instead of 334 in a coefficient), and no ciphertext carries the second prime.

TenSEAL makes the keys, encrypts and decrypts. What travels is not its own serialisation, which is compressed (no fixed
width, and a decompression bomb to the reader) and is parsed by C++ code: it is the coefficients alone, bit-packed. The
degree, the level, the scale and the number of polynomials are therefore nothing that a sender can say. Any string of
the right length whose numbers are below q is a ciphertext of *something*; what a client encrypted is judged by
`decrypt_sum`, as with Paillier. TenSEAL first sees a client's numbers when the checked sum is decrypted.

What it does not protect: the noise of a decrypted CKKS value depends on the secret key. Whoever holds ciphertexts *and*
their exact decryptions can solve for that key (Li, Micciancio, "On the Security of Homomorphic Encryption on
Approximate Numbers", EUROCRYPT 2021: CKKS is IND-CPA secure, but not IND-CPA^D). Here the orchestrator, which decrypts,
owns the key, and a client sees only the new global model, which is derived from the decrypted sum, and its own
ciphertexts. No noise is flooded over the sum: a client that also read the other clients' ciphertexts off the network
would have to be feared. Paillier's decryption is exact and has no such caveat.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shared.errors import CiphertextError, ConfigError, EncodingError, KeyMaterialError, MissingDependencyError
from shared.he.fixed_point import FixedPoint
from shared.he.scheme import Encrypted, Layout, Parts, PrivateScheme, Progress, PublicScheme, Vector, no_progress

try:
    import tenseal as ts
    from tenseal import sealapi
except ImportError:
    raise MissingDependencyError('he_scheme ckks needs tenseal: install it with `pip install -e ".[ckks]"`') from None

Residues = NDArray[np.uint64]  # (2, N) coefficients modulo q, in SEAL's order (number-theoretic transform)

DEGREE = 8192  # N. With at most 80 bits of modulus far beyond 128-bit security: HomomorphicEncryption.org Security
# Standard (2018), table 1, ternary secret: 218 bits of modulus give 128 bits of security, 118 give 256. SEAL checks it.
SLOTS = DEGREE // 2
SPECIAL_BITS = 20  # small, since the public key carries it; the noise divided by it is far below the rounding
MAX_MODULUS_BITS = 60  # of one prime, SEAL's limit

# The noise of one slot in units of 1 / scale. Dividing by the special prime rounds both polynomials, so that each
# coefficient is off by r0 + r1 * s: variance 1/12 and 1/12 * 2/3 N, for a ternary secret s of N coefficients; encoding
# rounds once more. A slot sums N coefficients times roots of unity, half of it in the real part.
_NOISE_DEVIATION = math.sqrt(DEGREE / 2 * (2 + 2 / 3 * DEGREE) / 12)  # 1366; measured: 1341 to 1374
# In a slot, r1 * s is a product: a normal variable whose variance, the secret's power in that slot, is itself
# exponentially distributed. That is Laplace's distribution, whose tails are heavier than normal: more than t deviations
# have the probability exp(-sqrt(2) * t), here one in 10**15. Measured: up to 9.8 deviations among 100,000 values.
_NOISE_BOUND = _NOISE_DEVIATION * math.log(1e15) / math.sqrt(2)  # 24.4 deviations


@dataclass(frozen=True)
class CkksParameters:
    """What follows from the settings; server and clients each derive it for themselves.

    Attributes:
        fixed_point: the precision to reach, and the range at which a value saturates: ± 2**integer_bits.
        max_contributors: the most updates that one sum may hold.

    Raises:
        ConfigError: the settings need a larger modulus than one prime offers.
    """

    fixed_point: FixedPoint
    max_contributors: int

    def __post_init__(self) -> None:
        if self.modulus_bits > MAX_MODULUS_BITS:
            raise ConfigError(
                f"he_scheme ckks would need a modulus of {self.modulus_bits} bits; at most {MAX_MODULUS_BITS} are "
                "possible: lower he_precision_bits, he_integer_bits or num_clients"
            )

    @property
    def limit(self) -> float:
        """Values saturate at ± limit."""
        return 2.0**self.fixed_point.integer_bits

    @property
    def scale_bits(self) -> int:
        """log2 of the scale at which the noise of a full sum stays below 2**-(precision_bits + 1)."""
        noise = _NOISE_BOUND * math.sqrt(self.max_contributors)
        return math.ceil(math.log2(noise)) + self.fixed_point.precision_bits + 1

    @property
    def modulus_bits(self) -> int:
        """Bits of q: a full sum at the edge of the range, its sign, and one bit so that what is beyond is seen."""
        headroom = math.ceil(math.log2(self.max_contributors))
        return self.scale_bits + self.fixed_point.integer_bits + headroom + 2

    @cached_property
    def moduli(self) -> tuple[int, int]:
        """(q, special prime), as SEAL chooses them: each the largest of its bits with 2N dividing prime - 1."""
        q, special = sealapi.CoeffModulus.Create(DEGREE, [self.modulus_bits, SPECIAL_BITS])
        return q.value(), special.value()

    @property
    def header(self) -> bytes:
        """Leads the public key on the wire, so that sides of different settings find out before anything is sent."""
        return struct.pack("<HBBB", DEGREE, self.scale_bits, self.modulus_bits, SPECIAL_BITS)

    def new_context(self) -> ts.Context:
        """A TenSEAL context with a fresh key pair. One thread: clients share a machine's cores."""
        return ts.context(
            ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=[self.modulus_bits, SPECIAL_BITS], n_threads=1
        )


class CkksPublic(PublicScheme[list[Residues]]):
    """Encrypt, check and add under one public key.

    Args:
        parameters: this side's own.
        key: the public key, (2, 2, N): two polynomials modulo q and the special prime.
    """

    name = "ckks"

    def __init__(self, parameters: CkksParameters, key: Residues) -> None:
        self.parameters = parameters
        self._key = key
        self._context = _public_context(parameters, key)
        self.width = _packed_bytes(parameters.modulus_bits)

    @classmethod
    def from_bytes_of_key(cls, data: bytes, fixed_point: FixedPoint, max_contributors: int) -> "CkksPublic":
        """The scheme for a public key that arrived over the network.

        The length is exact and each byte of it is spoken for: there is no room for a secret key or for other keys.

        Raises:
            KeyMaterialError: of other parameters than this side's own, of another length, or not a public key.
            ConfigError: the settings can't work with CKKS.
        """
        parameters = CkksParameters(fixed_point, max_contributors)
        q, special = parameters.moduli
        header = parameters.header
        split = len(header) + _packed_bytes(parameters.modulus_bits)
        end = split + _packed_bytes(SPECIAL_BITS)
        if data[: len(header)] != header or len(data) != end:
            raise KeyMaterialError(
                f"the server's ckks key of {len(data)} bytes is not one of this side's parameters ({end} bytes): "
                "he_precision_bits, he_integer_bits and num_clients must be the same on both sides"
            )
        try:
            parts = [_unpack(data[len(header) : split], q), _unpack(data[split:], special)]
        except ValueError as error:
            raise KeyMaterialError(f"the server's ckks key is malformed: {error}") from None
        return cls(parameters, np.stack(parts, axis=1))

    def public_bytes(self) -> bytes:
        return self.parameters.header + b"".join(
            _pack(self._key[:, index], modulus) for index, modulus in enumerate(self.parameters.moduli)
        )

    @property
    def encoding_name(self) -> str:
        p = self.parameters
        return (
            f"{p.scale_bits} bits of scale, {p.modulus_bits} bits of modulus, up to {p.max_contributors} contributors"
        )

    def layout(self, size: int) -> Layout:
        return Layout(-(-size // SLOTS), self.width)

    def tolerance(self, contributors: int) -> float:
        """24.4 standard deviations of a sum's noise, which one value in 10**15 exceeds.

        Below 2**-(he_precision_bits + 1) for up to `num_clients` contributors, by the choice of the scale.
        """
        return math.ldexp(_NOISE_BOUND * math.sqrt(contributors), -self.parameters.scale_bits)

    def quantise(self, vector: Vector) -> Vector:
        return np.clip(vector, -self.parameters.limit, self.parameters.limit)

    def encrypt(
        self, vector: Vector, context: bytes = b"", progress: Progress = no_progress
    ) -> Encrypted[list[Residues]]:
        if not np.isfinite(vector).all():
            raise EncodingError("the delta holds NaN or infinity: local training diverged; lower learning_rate")
        count = self.layout(vector.size).ciphertexts
        padded = np.zeros(count * SLOTS)  # TenSEAL pads by repeating the values
        padded[: vector.size] = self.quantise(vector)
        scale = math.ldexp(1.0, self.parameters.scale_bits)
        ciphertexts = []
        for chunk in padded.reshape(count, SLOTS):
            (encrypted,) = ts.ckks_vector(self._context, chunk.tolist(), scale).ciphertext()
            ciphertexts.append(_residues(encrypted, primes=1).reshape(2, DEGREE))
            progress(1)
        saturated = int(np.count_nonzero(np.abs(vector) > self.parameters.limit))
        return Encrypted(ciphertexts, saturated)

    def to_bytes(self, ciphertexts: list[Residues]) -> Parts:
        return Parts([_pack(c, self.parameters.moduli[0]) for c in ciphertexts])

    def from_bytes(self, blobs: Sequence[bytes], block: bytes = b"") -> list[Residues]:
        ciphertexts = []
        for index, blob in enumerate(blobs):
            try:
                ciphertexts.append(_unpack(blob, self.parameters.moduli[0]))
            except ValueError as error:
                raise CiphertextError(f"ciphertext {index}: {error}") from None
        return ciphertexts

    def add(self, a: list[Residues], b: list[Residues]) -> list[Residues]:
        # The definition of CKKS addition. SEAL's own raises an error when colluding clients make a sum's second
        # polynomial vanish, and would have to parse every ciphertext. No overflow: q is below 2**60.
        q = np.uint64(self.parameters.moduli[0])
        return [(x + y) % q for x, y in zip(a, b, strict=True)]


class CkksPrivate(PrivateScheme[list[Residues]]):
    """Decrypts sums. Its key is never printed, logged or sent."""

    def __init__(self, private_context: ts.Context, public: CkksPublic) -> None:
        self._private_context = private_context
        self.public: CkksPublic = public

    @classmethod
    def generate(cls, fixed_point: FixedPoint, max_contributors: int) -> "CkksPrivate":
        """A fresh key pair for sums of at most `max_contributors` updates.

        Raises:
            ConfigError: the settings can't work with CKKS.
        """
        parameters = CkksParameters(fixed_point, max_contributors)
        context = parameters.new_context()
        key = _residues(context.data.public_key().data(), primes=2)
        # Rebuilt from the public key alone: TenSEAL's `make_context_public` leaves a decryptor with the key behind.
        return cls(context, CkksPublic(parameters, key))

    def decrypt_sum(self, ciphertexts: list[Residues], size: int, contributors: int, context: bytes = b"") -> Vector:
        parameters, tolerance = self.public.parameters, self.public.tolerance(contributors)
        count = self.public.layout(size).ciphertexts
        if len(ciphertexts) != count:
            raise EncodingError(f"{len(ciphertexts)} ciphertexts for {size} values; expected {count}")
        if contributors > parameters.max_contributors:
            raise EncodingError(
                f"a sum of {contributors} updates; the modulus is sized for {parameters.max_contributors}, num_clients"
            )
        slots = np.array(_tenseal_vector(self._private_context, ciphertexts, parameters.scale_bits).decrypt())
        # A ciphertext of garbage fills all slots with it, so the padding is a witness too, however short the vector.
        bound = np.full(count * SLOTS, tolerance)  # (count * SLOTS,)
        bound[:size] += contributors * parameters.limit
        beyond = np.flatnonzero(~(np.abs(slots) <= bound))
        if beyond.size:
            raise EncodingError(
                f"value {beyond[0]} of the sum is beyond what {contributors} honest updates can add up to"
            )
        return slots[:size]


def _residues(ciphertext: ts._ts_cpp.Ciphertext, primes: int) -> Residues:
    """The coefficients of a fresh two-component SEAL ciphertext or public key, (2, primes, N)."""
    total = 2 * primes * DEGREE
    flat = np.fromiter((ciphertext[index] for index in range(total)), dtype=np.uint64, count=total)
    return flat.reshape(2, primes, DEGREE)


def _packed_bytes(bits: int) -> int:
    return 2 * DEGREE * bits // 8


def _pack(residues: Residues, modulus: int) -> bytes:
    """(2, N) residues as consecutive little-endian numbers of the modulus' bits each."""
    flat = np.ascontiguousarray(residues, dtype="<u8").reshape(-1, 1)
    bits = np.unpackbits(flat.view(np.uint8), axis=1, count=modulus.bit_length(), bitorder="little")
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack(blob: bytes, modulus: int) -> Residues:
    """The inverse of `_pack`, (2, N), for bytes of unknown origin. Takes about 100 bytes a number, whatever they hold.

    Raises:
        ValueError: not the exact length, a number not below the modulus, or a polynomial that is zero.
    """
    bits = modulus.bit_length()
    if len(blob) != _packed_bytes(bits):
        raise ValueError(f"{len(blob)} bytes; expected {_packed_bytes(bits)}")
    wide = np.zeros((2 * DEGREE, 64), dtype=np.uint8)
    wide[:, :bits] = np.unpackbits(np.frombuffer(blob, np.uint8), bitorder="little").reshape(-1, bits)
    residues = np.packbits(wide, axis=1, bitorder="little").view("<u8").astype(np.uint64).reshape(2, DEGREE)
    if (residues >= modulus).any():
        raise ValueError("a number is not below the modulus")
    if not residues.any(axis=1).all():  # a zero polynomial has no secret in it: whoever sees it reads the values
        raise ValueError("a polynomial is zero, so nothing is encrypted")
    return residues


# SEAL reads objects from byte streams alone. These write such streams, uncompressed, from numbers that were checked.


def _public_context(parameters: CkksParameters, key: Residues) -> ts.Context:
    """A TenSEAL context with this public key and no other. `key` is (2, 2, N)."""
    template = parameters.new_context()  # its own keys are left out and dropped
    stream = _seal_stream(key, template.data.seal_context().key_parms_id(), scale_bits=0)
    # Protocol buffers merge when concatenated: the template's parameters, and the public key (field 1 of field 2).
    serialised = template.serialize(save_public_key=False, save_galois_keys=False, save_relin_keys=False)
    return ts.context_from(serialised + _protobuf_bytes(2, _protobuf_bytes(1, stream)), n_threads=1)


def _tenseal_vector(context: ts.Context, ciphertexts: Sequence[Residues], scale_bits: int) -> ts.CKKSVector:
    """TenSEAL's vector of whole chunks. See TenSEAL's `tensors.proto`, message CKKSVectorProto."""
    parms_id = context.data.seal_context().first_parms_id()
    chunks = b"".join(_protobuf_bytes(2, _seal_stream(c[:, np.newaxis], parms_id, scale_bits)) for c in ciphertexts)
    sizes = _protobuf_bytes(1, b"".join(_varint(SLOTS) for _ in ciphertexts))
    return ts.ckks_vector_from(context, sizes + chunks)


def _seal_stream(residues: Residues, parms_id: Sequence[int], scale_bits: int) -> bytes:
    """(2, primes, N) residues as an uncompressed SEAL 4 `Ciphertext`, which a public key is too."""
    numbers = np.ascontiguousarray(residues, dtype="<u8").tobytes()
    array = _seal_object(struct.pack("<Q", residues.size) + numbers)
    polynomials, primes, degree = residues.shape
    scale, correction = math.ldexp(1.0, scale_bits), 1  # the correction factor is BGV's
    is_ntt = True
    members = struct.pack("<4Q?3QdQ", *parms_id, is_ntt, polynomials, degree, primes, scale, correction)
    return _seal_object(members + array)


def _seal_object(content: bytes) -> bytes:
    about = sealapi.Serialization.SEALHeader()  # for the version that TenSEAL was built with
    uncompressed, reserved = 0, 0
    versions = (about.magic, about.header_size, about.version_major, about.version_minor)
    return struct.pack("<HBBBBHQ", *versions, uncompressed, reserved, about.header_size + len(content)) + content


def _protobuf_bytes(field: int, content: bytes) -> bytes:
    length_delimited = 2
    return _varint(field << 3 | length_delimited) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
