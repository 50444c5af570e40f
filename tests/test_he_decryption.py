"""Decryption: the whole law through real keys, and agreement with `phe` in both directions."""

import secrets
from collections.abc import Sequence

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import EncodingError, Flaw
from shared.he.decryption import decrypt_all
from shared.he.fixed_point import FixedPoint
from shared.he.keys import PublicKeyMaterial, generate_keypair
from shared.he.packing import PackingLayout
from shared.he.randomness import Randomiser
from tests.breaking import breaks
from tests.packings import TooNarrow, quantise

BITS = 512
PUBLIC, PRIVATE = generate_keypair(BITS)


def encrypt(public: PublicKeyMaterial, plaintexts: Sequence[int | mpz]) -> list[mpz]:
    n = mpz(public.public_key.n)
    randomisers = Randomiser(public).make(len(plaintexts))
    return [(1 + n * m) * r % (n * n) for m, r in zip(plaintexts, randomisers, strict=True)]


def encrypted_sum(layout: PackingLayout, vectors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    square = mpz(PUBLIC.public_key.n) ** 2
    total = [mpz(1)] * layout.plaintexts_for(len(vectors[0]))
    for vector in vectors:
        total = [a * b % square for a, b in zip(total, encrypt(PUBLIC, layout.pack(vector)[0]), strict=True)]
    return layout.unpack(decrypt_all(PRIVATE, total), len(vectors[0]), len(vectors))


@settings(max_examples=40)
@given(
    precision_bits=st.integers(1, 24),
    integer_bits=st.integers(0, 6),
    contributors=st.integers(1, 6),
    size=st.integers(1, 60),
    seed=st.integers(0, 2**32),
)
def test_the_law_through_ciphertexts(
    precision_bits: int, integer_bits: int, contributors: int, size: int, seed: int
) -> None:
    layout = PackingLayout(BITS - 1, FixedPoint(precision_bits, integer_bits), contributors)
    random = np.random.default_rng(seed)
    vectors = [random.normal(scale=2.0**integer_bits, size=size) for _ in range(contributors)]
    expected = np.sum([quantise(layout, vector) for vector in vectors], axis=0)
    assert np.array_equal(encrypted_sum(layout, vectors), expected)


@pytest.mark.parametrize("contributors", [3, 4])
def test_extremes_from_exactly_the_most_contributors_and_one_more(contributors: int) -> None:
    layout = PackingLayout(BITS - 1, FixedPoint(16, 2), contributors)
    size = 2 * layout.slots_per_plaintext  # every slot in use
    for extreme in (99.0, -99.0):
        vectors = [np.full(size, extreme)] * contributors
        expected = contributors * quantise(layout, vectors[0])
        assert np.array_equal(encrypted_sum(layout, vectors), expected)
        with pytest.raises(EncodingError, match="sized for"):
            encrypted_sum(layout, [*vectors, vectors[0]])
    twin = TooNarrow(BITS - 1, FixedPoint(16, 2), contributors)
    with pytest.raises(EncodingError, match=r"no sum of packed vectors|can't add up"):
        encrypted_sum(twin, [np.full(2 * twin.slots_per_plaintext, 99.0)] * contributors)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17])
def test_phe_decrypts_ours_and_we_decrypt_phes(count: int) -> None:
    public, private = PUBLIC, PRIVATE
    n = public.public_key.n
    plaintexts = [0, 1, n - 1, n // 2, *(secrets.randbelow(n) for _ in range(count))][:count]
    ours = encrypt(public, plaintexts)
    phes = [public.public_key.raw_encrypt(m) for m in plaintexts]
    assert [private.private_key.raw_decrypt(int(c)) for c in ours] == plaintexts
    assert decrypt_all(private, ours) == plaintexts
    assert decrypt_all(private, phes) == plaintexts
    mixed = [c for pair in zip(ours, phes, strict=True) for c in pair]
    assert decrypt_all(private, mixed) == [m for m in plaintexts for _ in range(2)]


def test_two_encryptions_of_one_plaintext_share_no_ciphertext() -> None:
    ciphertexts = encrypt(PUBLIC, [42] * 100)
    assert len(set(ciphertexts)) == 100


def test_a_number_that_is_no_ciphertext_is_refused_even_among_good_ones() -> None:
    public, private = PUBLIC, PRIVATE
    n, p, q = public.public_key.n, private.private_key.p, private.private_key.q
    good = encrypt(public, [1, 2])
    for bad, words in (
        (0, "outside"),
        (-1, "outside"),
        (n * n, "outside"),
        (n * n + 5, "outside"),
        (p, "factor"),
        (7 * q, "factor"),
        (n, "factor"),
    ):
        with breaks(Flaw.CIPHERTEXT, match=words):
            decrypt_all(private, [good[0], bad, good[1]])


def test_the_exponents_are_half_as_long_as_n(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    real = gmpy2.powmod_base_list

    def spy(bases: list[mpz], exponent: mpz, modulus: mpz) -> list[mpz]:
        used.append(exponent.bit_length())
        return list(real(bases, exponent, modulus))

    ciphertexts = encrypt(PUBLIC, [5, 6, 7])
    monkeypatch.setattr(gmpy2, "powmod_base_list", spy)
    assert decrypt_all(PRIVATE, ciphertexts) == [5, 6, 7]
    assert set(used) == {BITS // 2}


def test_a_key_of_2048_bits() -> None:
    public, private = generate_keypair(2048)
    layout = PackingLayout(2047, FixedPoint(16, 2), 3)
    vector = np.linspace(-5, 5, 200)
    packed, saturated = layout.pack(vector)
    assert saturated == int(np.count_nonzero(np.abs(vector) > 4))
    plaintexts = decrypt_all(private, encrypt(public, packed))
    assert plaintexts == packed
    assert np.array_equal(layout.unpack(plaintexts, 200, 1), quantise(layout, vector))
