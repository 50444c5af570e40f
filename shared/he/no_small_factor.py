"""A proof that neither prime factor of n is short, given that n is a product of two primes.

It is Π-fac, figure 28 of Canetti, Gennaro, Goldfeder, Makriyannis, Peled, "UC Non-Interactive, Proactive, Threshold
ECDSA with Identifiable Aborts" (CGGMP21, eprint 2021/060), made non-interactive by a hash (`fiat_shamir`). The prover
commits to p and q modulo an auxiliary modulus M, as s^p·t^mu and s^q·t^nu, and proves that the two multiply to n and
are below a bound. With L bits of n, challenges e of kappa bits and `hiding` bits of slack, the responses alpha + e·p
and beta + e·q are below B = 2^(kappa + hiding + ceil(L/2)).

**What is proven.** Two answers to one commitment give dz1·dz2 = n·de² over the integers, with |dz1|, |dz2| < B < n. So
either prime of n divides exactly one of them, both are below B, and both are above n/B >= 2^(L - 1 - kappa - hiding -
ceil(L/2)):

    bits of n      kappa   hiding   each prime factor has at least
    512 (tests)       80       48   128 bits
    1024 (tests)     128      128   256 bits
    2048             128      128   768 bits
    3072             128      128   1280 bits

A prover who may ask the hash Q times succeeds for another n with probability of about Q·2^-kappa, as long as nobody
knows integers (a, b) other than (0, 0) with s^a·t^b = 1 (mod M). The signed ranges of the figure are unsigned here,
which makes encodings unique, and its sigma is 0: it is sent in the clear and shifts one response by e·sigma, so it
hides nothing.

**The auxiliary modulus.** In the paper the verifier makes M. Here one proof serves all clients and all time, so M is
RSA-2048 of the RSA Factoring Challenge, whose makers say that they destroyed the disk it was made on; and s and t are
squares of hashes, so nobody chose them. The assumptions are those:

- Soundness: nobody knows the factors of M, or a relation of s and t as above. For a product of two safe primes a
  relation gives the factors; whether M is one isn't known, and for other moduli it is believed to be as hard. The
  paper's strong RSA assumption is not needed, since n is known to be a product of two primes. Whoever factors M could
  claim long factors for an n of short ones; no key of an honest maker is weakened by that. M is as strong as 112 bits
  (NIST SP 800-57 part 1, table 2), also where n is longer.
- Hiding: p and q are hidden within about 2^-hiding of perfectly, without any assumption, if s is in the group that t
  generates. Of two random squares it is, up to an index that is small with high probability; then who knows the factors
  of M learns p and q modulo this index, a few bits.
"""

import secrets
from dataclasses import dataclass, fields
from typing import Self

import gmpy2
from gmpy2 import mpz

from shared.errors import KeyMaterialError
from shared.he.fiat_shamir import hash_bits, hash_modulo

# RSA-2048 of the RSA Factoring Challenge, RSA Laboratories, 2001: 617 decimal digits.
RSA_2048 = mpz(
    "2519590847565789349402718324004839857142928212620403202777713783604366202070759555626401852588078440691829064124951508"
    "2189298559149176184502808489120072844992687392807287776735971418347270261896375014971824691165077613379859095700097330"
    "4597488084284017974291006424586918171951187461215151726546322822168699875491824224336372590851418654620435767984233871"
    "8477444792073993423658482382428119816381501067481045166037730605620161967625613384414360383390441495263443219011465754"
    "4454178424020924616515723350778707749817125772467962926386356373289912154831438167899885040445364023527381951378636564"
    "391212010397122822120720357"
)
S, T = (gmpy2.powmod(hash_modulo(f"auxiliary {name}", (RSA_2048,), RSA_2048), 2, RSA_2048) for name in ("s", "t"))

_LONG_KEY_BITS = 1024  # from here on with the full challenge
_LEAST_HIDING_BITS = 40


@dataclass(frozen=True)
class Sizes:
    """Bit lengths, all from that of n.

    Attributes:
        n: bits of n.
        challenge: kappa; a false statement is proven with probability 2^-kappa for each try.
        hiding: the proof is within 2^-hiding of one that depends on no secret.
    """

    n: int
    challenge: int
    hiding: int

    @classmethod
    def of(cls, n_bits: int) -> Self:
        """The sizes for n of this length; together they leave at least a quarter of it to the proven bound.

        Raises:
            KeyMaterialError: n is so short that the statement would be empty or the proof would give p away.
        """
        challenge = 128 if n_bits >= _LONG_KEY_BITS else 80
        hiding = min(128, n_bits // 4 - challenge)
        if hiding < _LEAST_HIDING_BITS:
            shortest = 4 * (80 + _LEAST_HIDING_BITS)
            raise KeyMaterialError(
                f"key proof: n has {n_bits} bits; expected at least {shortest} for a proof about it (he_key_length)"
            )
        return cls(n_bits, challenge, hiding)

    @property
    def response(self) -> int:
        """Bits of B: what z1 and z2 must be shorter than, for the proof to say something."""
        return self.challenge + self.hiding + (self.n + 1) // 2

    @property
    def shortest_factor(self) -> int:
        """The bits that each prime factor is proven to have at least."""
        return self.n - self.response

    @property
    def widths(self) -> dict[str, int]:
        """Bytes of each number of the encoded proof."""
        modulus = RSA_2048.bit_length()
        masked = self.challenge + 2 * self.hiding + modulus
        bits = {
            "p_commitment": modulus, "q_commitment": modulus, "challenge": self.challenge,
            "z1": self.response, "z2": self.response, "w1": masked, "w2": masked, "v": masked + (self.n + 1) // 2,
        }  # fmt: skip
        return {name: (count + 7) // 8 for name, count in bits.items()}


@dataclass(frozen=True)
class NoSmallFactorProof:
    """The figure's (P, Q, z1, z2, w1, w2, v), and e in place of A, B and T, which follow from it."""

    p_commitment: mpz
    q_commitment: mpz
    challenge: mpz
    z1: mpz
    z2: mpz
    w1: mpz
    w2: mpz
    v: mpz

    @staticmethod
    def length(n_bits: int) -> int:
        """Bytes of an encoded proof for n of this length."""
        return sum(Sizes.of(n_bits).widths.values())

    def to_bytes(self, n_bits: int) -> bytes:
        """The numbers one after the other, big-endian, each at its own fixed width."""
        widths = Sizes.of(n_bits).widths
        return b"".join(bytes(getattr(self, field.name).to_bytes(widths[field.name], "big")) for field in fields(self))

    @classmethod
    def from_bytes(cls, blob: bytes, n_bits: int) -> Self:
        """The inverse of `to_bytes`, for bytes of `length(n_bits)`."""
        numbers, start = {}, 0
        for name, width in Sizes.of(n_bits).widths.items():
            numbers[name] = mpz.from_bytes(blob[start : start + width], "big")
            start += width
        return cls(**numbers)


def prove(p: int | mpz, q: int | mpz) -> NoSmallFactorProof:
    """Prove that n = p·q has no short prime factor; p and q have half of n's bits each."""
    n = mpz(p) * q
    sizes, half = Sizes.of(n.bit_length()), (n.bit_length() + 1) // 2
    kappa, hiding, modulus = sizes.challenge, sizes.hiding, RSA_2048.bit_length()
    while True:  # once, but for a chance of 2^-hiding that a response leaves its range
        alpha, beta = _random(sizes.response), _random(sizes.response)
        mu, nu = _random(modulus + hiding), _random(modulus + hiding)
        x, y = _random(modulus + kappa + 2 * hiding), _random(modulus + kappa + 2 * hiding)
        r = _random(modulus + kappa + 2 * hiding + half)
        p_commitment, q_commitment = _commit(p, mu), _commit(q, nu)
        t_commitment = gmpy2.powmod(q_commitment, alpha, RSA_2048) * gmpy2.powmod(T, r, RSA_2048) % RSA_2048
        first = (p_commitment, q_commitment, _commit(alpha, x), _commit(beta, y), t_commitment)
        e = _challenge(n, sizes, *first)
        proof = NoSmallFactorProof(
            *first[:2], e, z1=alpha + e * p, z2=beta + e * q, w1=x + e * mu, w2=y + e * nu, v=r - e * nu * p
        )
        masked = modulus + kappa + 2 * hiding
        if _in_range(proof, sizes) and proof.v >= 0 and max(proof.w1, proof.w2).bit_length() <= masked:
            return proof


def verify(n: int | mpz, proof: NoSmallFactorProof) -> None:
    """Check the proof for this n, which must be known to be a product of two primes.

    Raises:
        KeyMaterialError: it does not show that both are as long as `Sizes.shortest_factor` says.
    """
    sizes = Sizes.of(n.bit_length())
    if not _in_range(proof, sizes):
        raise KeyMaterialError(
            f"key proof: a response is out of range, so a prime factor of n may be below {sizes.shortest_factor} bits"
        )
    p_commitment, q_commitment, e = proof.p_commitment, proof.q_commitment, proof.challenge
    if max(p_commitment, q_commitment) >= RSA_2048 or gmpy2.gcd(p_commitment * q_commitment, RSA_2048) != 1:
        raise KeyMaterialError("key proof: a commitment is not a unit of the auxiliary modulus")
    # s^z1·t^w1 = A·P^e and its like, solved for A, B and T: they are right if they are hashed to e.
    a = _commit(proof.z1, proof.w1) * gmpy2.powmod(p_commitment, -e, RSA_2048) % RSA_2048
    b = _commit(proof.z2, proof.w2) * gmpy2.powmod(q_commitment, -e, RSA_2048) % RSA_2048
    t = gmpy2.powmod(q_commitment, proof.z1, RSA_2048) * gmpy2.powmod(T, proof.v, RSA_2048)
    t = t * gmpy2.powmod(S, -e * n, RSA_2048) % RSA_2048
    if _challenge(n, sizes, p_commitment, q_commitment, a, b, t) != e:
        raise KeyMaterialError(
            "key proof: it does not show that n has two long prime factors; it is damaged or of another key"
        )


def _in_range(proof: NoSmallFactorProof, sizes: Sizes) -> bool:
    return bool(max(proof.z1, proof.z2).bit_length() <= sizes.response)


def _commit(value: int | mpz, blinding: mpz) -> mpz:
    return gmpy2.powmod(S, value, RSA_2048) * gmpy2.powmod(T, blinding, RSA_2048) % RSA_2048


def _challenge(n: int | mpz, sizes: Sizes, *commitments: mpz) -> mpz:
    public = (RSA_2048, S, T, n, sizes.challenge, sizes.hiding)
    return hash_bits("no small factor", (*public, *commitments), sizes.challenge)


def _random(bits: int) -> mpz:
    return mpz(secrets.randbits(bits))
