"""The parameters of the ring-LWE encryption behind `he_scheme: kahe`, and what they rest on. Nothing but arithmetic.

**Security.** The Homomorphic Encryption Standard (Albrecht, Chase, Chen et al., HomomorphicEncryption.org, 2018), table
1, has the most bits of modulus that leave 128 bits of strength, for the smallest secrets (-1, 0, 1) and errors of
deviation 3.2; keys as wide as the errors, as here, are no easier:

    degree   modulus, at most
    1024     27 bits
    2048     54 bits
    4096     109 bits

The modulus is a power of two, which costs nothing: Peikert, Regev, Stephens-Davidowitz, "Pseudorandomness of Ring-LWE
for Any Ring and Modulus", STOC 2017.

**Why 6.4.** The sum of keys and the sum of errors become known to whoever decrypts: that is the use of the scheme. Such
a sum is a hint about each of its terms. By Kim, Lee, Seo, Song, "Toward Practical Lattice-Based Proof of Knowledge from
Hint-MLWE", CRYPTO 2023, the problem with that hint is as hard as the one without it at a deviation σ of

    1/σ² = 2·(1/σ₁² + 1/σ₂²)

for the deviations σ₁ of what is hidden and σ₂ of what is added to it. With one other honest term both are 6.4, so σ is
3.2, what the table is for. ACORN (Bell, Gascón, Lepoint, Li, Meiklejohn, Raykova, Yun, USENIX Security 2023, section
3.2) meets the same leakage.

None of these is a setting: a narrower error or a wider modulus would be a weaker scheme under the same name.
"""

import math

from shared.errors import ConfigError

DEGREE = 2048  # N of the ring Z_q[x] / (x^N + 1): coefficients of one polynomial
MAX_MODULUS_BITS = 54  # log2 q, from the table
STANDARD_DEVIATION = 3.2  # of an error, which the table is for
DEVIATION = 2 * STANDARD_DEVIATION  # of each coefficient of a key and of an error
TAIL = 64  # coefficients are cut to magnitudes below this, which is 10 deviations
FAILURE_BITS = 64  # a sum decrypts wrongly with a probability below 2**-FAILURE_BITS
MOST_COEFFICIENTS = 1 << 31  # of one vector; what the bound below is for


def polynomials_for(size: int) -> int:
    """Polynomials that `size` values take, one value a coefficient; never none."""
    return max(1, -(-size // DEGREE))


def error_bound(contributors: int) -> int:
    """The largest magnitude of a coefficient in the sum of `contributors` errors.

    The lesser of two bounds. Each error is below `TAIL`. And a sum of n discrete Gaussians of deviation σ, cut or not,
    is sub-Gaussian: it is beyond t with a probability of at most 2·exp(-t² / (2·n·σ²)), so that not one of all M
    coefficients is beyond σ·sqrt(2·n·(64·ln 2 + ln(2·M))), but for a probability of 2^-64. M is that of the longest
    vector, so that all vectors have one modulus; for short ones the probability is so much smaller.
    """
    spread = 2 * contributors * (FAILURE_BITS * math.log(2) + math.log(2 * MOST_COEFFICIENTS))
    return min(TAIL * contributors, math.floor(DEVIATION * math.sqrt(spread)))


def noise_bits(contributors: int) -> int:
    """k, the bits below each value that the errors of a full sum fill: 2^k > 2·error_bound + 1."""
    return (2 * error_bound(contributors) + 1).bit_length()


def modulus_bits(sum_bits: int, contributors: int) -> int:
    """b = log2 q: the bits of a sum of values, and those of its errors.

    Args:
        sum_bits: bits of one value of a sum of `contributors` vectors.
        contributors: the most vectors that one sum may hold.

    Raises:
        ConfigError: more bits than the table allows.
    """
    bits = sum_bits + noise_bits(contributors)
    if bits > MAX_MODULUS_BITS:
        raise ConfigError(
            f"he_scheme kahe would need a modulus of {bits} bits; at most {MAX_MODULUS_BITS} are secure at its degree: "
            "lower he_precision_bits, he_integer_bits or num_clients"
        )
    return bits
