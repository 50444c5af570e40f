"""The ring-LWE half of `he_scheme: kahe`: exact at its edges, and each of its rules with a twin that breaks it."""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.config import parse_config
from shared.errors import EncodingError
from shared.he import bit_block, gaussian, key_additive
from shared.he.fixed_point import FixedPoint
from shared.he.kahe import KaheCiphertexts, KahePrivate
from shared.he.key_additive import KeyAdditive, public_seed
from shared.he.offset_values import OffsetValues
from shared.he.ring import Factor
from shared.he.rlwe import DEGREE, DEVIATION, MAX_MODULUS_BITS, TAIL, error_bound
from shared.he.scheme import Vector
from shared.he.words import Words
from shared.he_utils import make_keys

CONTEXT = hashlib.sha256(b"a task").digest()
MOST = 10_000  # contributors that the settings allow
SETTINGS: dict[str, Any] = {
    "he_scheme": "kahe",
    "he_key_length": 512,
    "allow_insecure_key": True,
    "min_available_clients": 2,
}
Numbers = NDArray[np.uint64]
Integers = NDArray[np.int64]


@cache
def keys(num_clients: int = 3) -> KahePrivate:
    scheme = make_keys(parse_config({**SETTINGS, "num_clients": num_clients}))
    assert isinstance(scheme, KahePrivate)
    return scheme


def encrypted_sum(scheme: KahePrivate, vectors: Sequence[Vector], context: bytes = CONTEXT) -> KaheCiphertexts:
    public = scheme.public
    total = public.encrypt(vectors[0], context).ciphertexts
    for vector in vectors[1:]:
        total = public.add(total, public.encrypt(vector, context).ciphertexts)
    return total


def exact_product(numbers: Numbers, coefficients: Integers, bits: int) -> Numbers:
    """One polynomial times another modulo x^N + 1 and 2^bits, by multiplying two large integers. Both are (N,)."""
    place_bytes, degree = 12, len(numbers)  # a coefficient of the product is far below 2^96

    def as_integer(values: Sequence[int]) -> int:
        return int.from_bytes(b"".join(value.to_bytes(place_bytes, "little") for value in values), "little")

    first, product = as_integer(numbers.tolist()), np.zeros(2 * degree, dtype=object)
    for sign in (1, -1):
        second = as_integer([max(0, sign * value) for value in coefficients.tolist()])
        whole = int(gmpy2.mpz(first) * gmpy2.mpz(second)).to_bytes(2 * degree * place_bytes, "little")
        parts = [whole[at : at + place_bytes] for at in range(0, len(whole), place_bytes)]
        product += sign * np.array([int.from_bytes(part, "little") for part in parts], dtype=object)
    reduced = (product[:degree] - product[degree:]) % (1 << bits)
    return reduced.astype(np.uint64)


def extremes(bits: int) -> dict[str, Numbers]:
    """Polynomials modulo 2^bits, (N,), whose limbs are as large as they get."""
    top, half = (1 << bits) - 1, 1 << (bits - 1)
    return {
        "all ones": np.full(DEGREE, top, dtype=np.uint64),
        "the middle": np.full(DEGREE, half, dtype=np.uint64),
        "the middle, alternating": np.where(np.arange(DEGREE) % 2, half, half - 1).astype(np.uint64),
        "random": np.random.default_rng(1).integers(0, top, DEGREE, dtype=np.uint64, endpoint=True),
    }


def largest_keys(contributors: int) -> dict[str, Integers]:
    edge, signs = contributors * (TAIL - 1), np.random.default_rng(2).choice([-1, 1], DEGREE)
    return {
        "all at the edge": np.full(DEGREE, edge),
        "all at the other": np.full(DEGREE, -edge),
        "alternating": np.where(np.arange(DEGREE) % 2, edge, -edge),
        "random signs": edge * signs,
    }


class TestProducts:
    @pytest.mark.parametrize("bits", [28, 45, MAX_MODULUS_BITS])
    @pytest.mark.parametrize("contributors", [1, MOST])
    def test_they_are_exact_at_the_edge(self, bits: int, contributors: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """And what is rounded is nearer to an integer than the 1/4 that the limbs are chosen for."""
        away: list[float] = []
        rint = np.rint

        def watched(values: NDArray[np.float64]) -> NDArray[np.float64]:
            away.append(float(np.abs(values - rint(values)).max()))
            result: NDArray[np.float64] = rint(values)
            return result

        monkeypatch.setattr(np, "rint", watched)
        numbers = extremes(bits)
        for key in largest_keys(contributors).values():
            found = Factor(key).times(np.stack(list(numbers.values())), bits) & np.uint64((1 << bits) - 1)
            for row, polynomial in zip(found, numbers.values(), strict=True):
                np.testing.assert_array_equal(row, exact_product(polynomial, key, bits))
        assert 0 < max(away) < 1 / 32

    def test_a_twin_whose_limbs_are_wider_than_the_bound_is_wrong(self) -> None:
        key, polynomial = largest_keys(MOST)["random signs"], extremes(MAX_MODULUS_BITS)["random"]
        factor = Factor(key)
        assert factor.limb_bits == 13
        factor.limb_bits = MAX_MODULUS_BITS // 2
        found = factor.times(polynomial[np.newaxis], MAX_MODULUS_BITS)[0] & np.uint64((1 << MAX_MODULUS_BITS) - 1)
        assert (found != exact_product(polynomial, key, MAX_MODULUS_BITS)).any()

    def test_a_key_of_nothing_is_a_product_of_nothing(self) -> None:
        assert not Factor(np.zeros(DEGREE, dtype=np.int64)).times(extremes(28)["random"][np.newaxis], 28).any()


class TestGaussian:
    COUNT = 1_000_000

    @staticmethod
    def misfit(values: NDArray[np.int8], deviation: float) -> float:
        """χ² of the values between ± 3 deviations, in standard deviations from what it should be."""
        x = np.arange(-20, 21)
        weights = np.exp(-(np.arange(-TAIL, TAIL + 1) ** 2) / (2 * deviation**2))
        expected = len(values) * np.exp(-(x**2) / (2 * deviation**2)) / weights.sum()
        found = np.array([np.count_nonzero(values == value) for value in x])
        return float((((found - expected) ** 2 / expected).sum() - len(x)) / np.sqrt(2 * len(x)))

    def test_it_has_the_deviation_that_it_should_have_and_no_other(self) -> None:
        values = gaussian.draw(Words(bytes(32)), self.COUNT)
        assert abs(self.misfit(values, DEVIATION)) < 4
        assert self.misfit(values, 0.99 * DEVIATION) > 10, "a test that takes another deviation tests nothing"
        assert int(np.abs(values.astype(int)).max()) < TAIL

    def test_a_word_at_the_edge_of_two_values_is_the_right_one(self) -> None:
        """The table by the first 16 bits against a search in all 63."""
        edges = gaussian.thresholds()[gaussian.thresholds() < np.uint64(1 << 63)]
        words = np.concatenate([edges - np.uint64(1), edges, edges + np.uint64(1)]) << np.uint64(1)
        words = np.concatenate([words, words | np.uint64(1)])
        expected = np.searchsorted(edges, words >> np.uint64(1), side="right").astype(np.int8)
        expected = np.where(words & np.uint64(1), -expected, expected)

        class Fixed(Words):
            def take(self, count: int) -> Numbers:
                return words[:count]

        np.testing.assert_array_equal(gaussian.draw(Fixed(bytes(32)), len(words)), expected)

    def test_the_table_is_that_of_the_formula(self) -> None:
        """By other arithmetic: exact fractions of floats, good to 2^-50."""
        weights = np.exp(-(np.arange(TAIL) ** 2) / (2 * DEVIATION**2)) * np.where(np.arange(TAIL) > 0, 2, 1)
        expected = np.cumsum(weights)[:-1] / weights.sum()
        np.testing.assert_allclose(gaussian.thresholds() / 2.0**63, expected, rtol=0, atol=2.0**-50)
        assert (np.diff(gaussian.thresholds().astype(object)) >= 0).all()


class TestBitBlocks:
    @given(st.integers(1, 64), st.integers(1, 3), st.randoms(use_true_random=False))
    @settings(max_examples=60, deadline=None)
    def test_a_block_is_one_long_number(self, bits: int, groups: int, random: Any) -> None:
        numbers = [random.getrandbits(bits) for _ in range(groups * bit_block.GROUP)]
        block = bit_block.pack(np.array(numbers, dtype=np.uint64), bits)
        expected = sum(number << bits * place for place, number in enumerate(numbers))
        assert block.tobytes() == expected.to_bytes(bit_block.block_bytes(len(numbers), bits), "little")
        assert bit_block.unpack(block, bits).tolist() == numbers


VALUES = st.one_of(
    st.floats(-3, 3),
    st.sampled_from([2.0, -2.0, 1e300, -1e300, 2.0**-16, -(2.0**-17), 2 - 2.0**-16, 2.0**-16 - 2, 0.0, -0.0]),
)


class TestTheLaw:
    @pytest.mark.parametrize("num_clients", [3, MOST])
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_it_holds_for_extreme_values(self, num_clients: int, data: st.DataObject) -> None:
        """decrypt(sum(encrypt(x_i))) == sum(quantise(x_i))."""
        size = data.draw(st.sampled_from([1, 2, 5, DEGREE - 1, DEGREE, DEGREE + 1]))
        rows = data.draw(st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=1, max_size=3))
        vectors = [np.resize(np.array(row), size) for row in rows]
        scheme = keys(num_clients)
        found = scheme.decrypt_sum(encrypted_sum(scheme, vectors), size, len(vectors), CONTEXT)
        np.testing.assert_array_equal(found, np.sum([scheme.public.quantise(v) for v in vectors], axis=0))

    @pytest.mark.parametrize("num_clients", [2, 3, 4])
    def test_it_holds_with_as_many_as_a_sum_may_hold_over_several_chunks(self, num_clients: int) -> None:
        size = (key_additive.CHUNK + 1) * DEGREE + 1
        vectors = list(np.random.default_rng(3).uniform(-2.5, 2.5, (num_clients, size)))
        scheme = keys(num_clients)
        found = scheme.decrypt_sum(encrypted_sum(scheme, vectors), size, num_clients, CONTEXT)
        np.testing.assert_array_equal(found, np.sum([scheme.public.quantise(v) for v in vectors], axis=0))

    @pytest.mark.parametrize("edge", ["drawn", "highest", "lowest"])
    def test_it_holds_for_the_sum_of_ten_thousand(self, edge: str) -> None:
        """The sum of 10,000 ciphertexts, made of the sums of their keys, errors and values, which is the same thing."""
        form, seed = KeyAdditive(OffsetValues(FixedPoint(16, 1), MOST)), public_seed(CONTEXT, "00")
        words, bound = Words(bytes(32)), error_bound(MOST)
        integers = np.random.default_rng(4).integers(-1, 1, DEGREE, endpoint=True) * MOST * ((1 << 17) - 1)
        if edge == "drawn":
            key, errors = (gaussian.draw(words, MOST * DEGREE).reshape(MOST, DEGREE).sum(axis=0) for _ in range(2))
            assert 500 < np.abs(errors).max() < bound / 2
        else:
            sign = 1 if edge == "highest" else -1
            key, errors = np.full(DEGREE, sign * MOST * (TAIL - 1)), np.full(DEGREE, sign * bound)
        numbers = sum_of(form, seed, key, errors, integers, MOST)
        found = form.decrypt(numbers, key, DEGREE, MOST, seed)
        np.testing.assert_array_equal(found, np.ldexp(integers.astype(np.float64), -16))

    def test_an_error_beyond_the_bound_is_told_from_a_sum(self) -> None:
        form, seed = KeyAdditive(OffsetValues(FixedPoint(16, 1), MOST)), public_seed(CONTEXT, "00")
        nothing, errors = np.zeros(DEGREE, dtype=np.int64), np.zeros(DEGREE, dtype=np.int64)
        errors[7] = error_bound(3) + 1
        block = sum_of(form, seed, nothing, errors, nothing, 3)
        with pytest.raises(EncodingError, match="no sum of 3 vectors under these keys"):
            form.decrypt(block, nothing, DEGREE, 3, seed)


def sum_of(
    form: KeyAdditive, seed: bytes, key: Integers, errors: Integers, integers: Integers, contributors: int
) -> NDArray[np.uint8]:
    """The block of a sum of so many vectors, by its definition; one polynomial."""
    public = Words(seed).take(DEGREE) & np.uint64((1 << form.bits) - 1)
    values = (integers + contributors * form.values.offset).astype(np.uint64) << np.uint64(form.noise_bits)
    numbers = exact_product(public, key, form.bits) + errors.astype(np.int64).view(np.uint64) + values
    return bit_block.pack(numbers & np.uint64((1 << form.bits) - 1), form.bits)
