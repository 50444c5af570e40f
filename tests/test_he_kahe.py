"""The ring-LWE half of `he_scheme: kahe`: exact at its edges, and each of its rules with a twin that breaks it."""

import hashlib
import secrets
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from phe import paillier

from orchestrator.aggregator import Aggregator
from shared.config import Config, parse_config
from shared.errors import ConfigError, EncodingError, Flaw, TooFewContributorsError
from shared.he import bit_block, gaussian, key_additive, rlwe
from shared.he.fixed_point import FixedPoint
from shared.he.kahe import KEY_FIXED_POINT, KaheCiphertexts, KahePrivate, KahePublic
from shared.he.key_additive import KeyAdditive, public_seed
from shared.he.keys import PublicKeyMaterial
from shared.he.offset_values import OffsetValues
from shared.he.packing import PackingLayout
from shared.he.ring import Factor
from shared.he.rlwe import DEGREE, DEVIATION, MAX_MODULUS_BITS, TAIL, error_bound, modulus_bits, noise_bits
from shared.he.scheme import Vector
from shared.he.words import Words
from shared.he_utils import make_keys, public_scheme
from shared.wire import dump_update, payload_length
from tests.breaking import breaks

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
    @settings(max_examples=60)
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
    @settings(max_examples=25)
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


def inverse(numbers: Numbers, bits: int) -> Numbers:
    """1 / a modulo x^N + 1 and 2^bits, (N,), for an a whose coefficients add up to an odd number."""
    mask = np.uint64((1 << bits) - 1)

    def times(a: Numbers, b: Numbers) -> Numbers:
        return exact_product(a & mask, (b & mask).astype(np.int64), bits)

    # Modulo 2 the ring is F_2[x] / (x + 1)^N, in which the N-th power of a unit is 1.
    power, result = numbers, np.zeros(DEGREE, dtype=np.uint64)
    result[0] = 1
    for _ in range(DEGREE.bit_length() - 1):
        result, power = times(result, power), times(power, power)
    two = np.zeros(DEGREE, dtype=np.uint64)
    two[0] = 2
    for _ in range(bits.bit_length()):  # Newton's steps double the bits that are right
        result = times(result, two - times(numbers, result))
    return result


class TestTheRules:
    """Each with a twin that breaks it: then the block alone, which whoever is on the way may see, gives it away."""

    SIZE = 300
    FORM = KeyAdditive(OffsetValues(FixedPoint(16, 1), 3))
    SEED = public_seed(CONTEXT, "00")
    MASK = np.uint64((1 << FORM.bits) - 1)

    @classmethod
    def vectors(cls) -> list[Vector]:
        """Two vectors of values that fixed point holds exactly, (SIZE,)."""
        integers = np.random.default_rng(5).integers(-(1 << 17) + 1, 1 << 17, (2, cls.SIZE))
        return list(np.ldexp(integers.astype(np.float64), -16))

    def numbers(self, vector: Vector) -> Numbers:
        return bit_block.unpack(self.FORM.encrypt(vector, self.SEED).block, self.FORM.bits)

    def read(self, numbers: Numbers, contributors: int) -> Vector:
        """What the high bits of numbers hold, rounded, as if there were no key."""
        half = np.uint64(1 << (self.FORM.noise_bits - 1))
        sums = ((numbers + half) & self.MASK) >> np.uint64(self.FORM.noise_bits)
        offsets = contributors * self.FORM.values.offset
        return np.ldexp((sums.astype(np.int64) - offsets).astype(np.float64), -16)[: self.SIZE]

    def difference(self, a: Numbers, b: Numbers) -> Vector:
        """What the high bits of a - b hold, rounded."""
        bits = self.FORM.bits - self.FORM.noise_bits
        half = np.uint64(1 << (self.FORM.noise_bits - 1))
        high = (((a - b + half) & self.MASK) >> np.uint64(self.FORM.noise_bits)).astype(np.int64)
        return np.ldexp(np.where(high >> (bits - 1), high - (1 << bits), high).astype(np.float64), -16)[: self.SIZE]

    def secret_of(self, block_low_bits: Numbers) -> Integers:
        """The key of A·s, if that is all that the low bits of numbers hold, (N,)."""
        bits = self.FORM.noise_bits
        public = Words(self.SEED).take(DEGREE) & self.MASK
        assert int(public.sum()) % 2, "a polynomial without an inverse: choose another seed"
        low = np.uint64((1 << bits) - 1)
        found = exact_product(inverse(public & low, bits), (block_low_bits & low).astype(np.int64), bits)
        signed: Integers = found.astype(np.int64)
        return np.where(signed >> (bits - 1), signed - (1 << bits), signed)

    def test_public_polynomials_of_zero_open_every_vector(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vector, _ = self.vectors()
        assert np.count_nonzero(self.read(self.numbers(vector), 1) == vector) < 3
        monkeypatch.setattr(KeyAdditive, "_take", lambda _self, _words, rows: np.zeros((rows, DEGREE), dtype=np.uint64))
        np.testing.assert_array_equal(self.read(self.numbers(vector), 1), vector)

    @pytest.mark.parametrize("context", [b"", b"short", CONTEXT + b"\0", CONTEXT.hex().encode()])
    def test_polynomials_follow_from_a_digest_or_there_are_none(self, context: bytes) -> None:
        with pytest.raises(EncodingError, match="expected its digest of 32 bytes"):
            keys().public.encrypt(np.zeros(3), context)

    def test_public_polynomials_are_of_one_task_and_key(self) -> None:
        seeds = {public_seed(hashlib.sha256(task).digest(), key) for task in (b"a", b"b") for key in ("00", "01")}
        assert len({Words(seed).take(4).tobytes() for seed in seeds}) == 4

    def test_a_key_or_an_error_used_twice_shows_the_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = self.vectors()
        a, b = self.numbers(first), self.numbers(second)
        assert np.count_nonzero(self.difference(a, b) == first - second) < 3

        # Both twice, as where the generator's seed is.
        monkeypatch.setattr(secrets, "token_bytes", bytes)
        np.testing.assert_array_equal(self.difference(self.numbers(first), self.numbers(second)), first - second)
        monkeypatch.undo()

        # The key alone: what is left is the difference of two errors, which rounding takes off.
        draw = gaussian.draw
        monkeypatch.setattr(gaussian, "draw", self.repeating(DEGREE, 0, draw))
        np.testing.assert_array_equal(self.difference(self.numbers(first), self.numbers(second)), first - second)
        monkeypatch.undo()

        # The errors alone: the low bits are A·(s - s'), from which linear algebra has s - s'.
        monkeypatch.setattr(gaussian, "draw", self.repeating(DEGREE, 1, draw))
        a, b = self.numbers(first), self.numbers(second)
        keys_apart = self.secret_of(a - b)
        public = Words(self.SEED).take(DEGREE) & self.MASK
        without = a - b - exact_product(public, keys_apart, self.FORM.bits)
        np.testing.assert_array_equal(self.difference(without, np.zeros_like(without)), first - second)

    @staticmethod
    def repeating(count: int, which: int, draw: Callable[[Words, int], NDArray[np.int8]]) -> Any:
        """Of each pair of draws (the key, the error) one is the same for each vector."""
        calls = [0]

        def drawn(words: Words, wanted: int) -> NDArray[np.int8]:
            assert wanted == count
            fresh, calls[0] = draw(words, wanted), calls[0] + 1
            return draw(Words(bytes(32)), wanted) if (calls[0] - 1) % 2 == which else fresh

        return drawn

    def test_a_narrower_error_is_a_weaker_scheme_and_no_error_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The deviation is no setting; `shared/he/rlwe.py` has the table. Without errors one vector gives its key."""
        assert (rlwe.STANDARD_DEVIATION, rlwe.DEVIATION, rlwe.DEGREE, rlwe.MAX_MODULUS_BITS) == (3.2, 6.4, 2048, 54)
        assert not [name for name in Config.model_fields if "sigma" in name or "deviation" in name]
        vector, _ = self.vectors()
        draw, calls = gaussian.draw, [0]

        def no_errors(words: Words, count: int) -> NDArray[np.int8]:
            calls[0] += 1
            return draw(words, count) if calls[0] == 1 else np.zeros(count, dtype=np.int8)

        monkeypatch.setattr(gaussian, "draw", no_errors)
        numbers = self.numbers(vector)
        public = Words(self.SEED).take(DEGREE) & self.MASK
        opened = numbers - exact_product(public, self.secret_of(numbers), self.FORM.bits)
        np.testing.assert_array_equal(self.read(opened, 1), vector)

    def test_a_modulus_wider_than_the_table_is_refused_by_each_side(self) -> None:
        widest = {**SETTINGS, "num_clients": MOST, "he_precision_bits": 24}
        assert modulus_bits(1 + 25 + 14, MOST) == MAX_MODULUS_BITS
        parse_config(widest)
        with pytest.raises(ConfigError, match="a modulus of 55 bits; at most 54 are secure"):
            parse_config({**widest, "he_precision_bits": 25})
        tenant = parse_config({**SETTINGS, "num_clients": 3, "he_precision_bits": 40})
        with pytest.raises(ConfigError, match="at most 54 are secure"):  # a server that says so many sends no key to it
            public_scheme(tenant, keys().public.public_bytes(), MOST)

    def test_a_key_s_slots_too_narrow_for_the_sum_are_wrong_and_more_vectors_than_they_hold_are_refused(self) -> None:
        careful = PackingLayout(511, KEY_FIXED_POINT, max_contributors=3)
        # All at the edge, but for the last of each plaintext: what is carried out of that is noticed.
        key = np.where(np.arange(DEGREE) % 63 == 62, 1.0 - TAIL, TAIL - 1.0)
        key[-1] = 1.0 - TAIL

        class ForTwo(PackingLayout):
            @property
            def slot_bits(self) -> int:
                return OffsetValues(KEY_FIXED_POINT, 2).sum_bits

        careless = ForTwo(511, KEY_FIXED_POINT, max_contributors=3)
        sums = [
            layout.unpack([3 * plaintext for plaintext in layout.pack(key)[0]], DEGREE, 3)
            for layout in (careful, careless)
        ]
        np.testing.assert_array_equal(sums[0], 3 * key)
        assert (sums[1] != 3 * key).all()

        scheme = keys(2)
        three = encrypted_sum(scheme, [np.ones(3)] * 3)
        with pytest.raises(EncodingError, match="a sum of 3 contributors; expected 1 to 2"):
            scheme.decrypt_sum(three, 3, 3, CONTEXT)

    def test_bits_too_few_for_the_errors_give_a_wrong_sum(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nothing, errors = np.zeros(DEGREE, dtype=np.int64), np.full(DEGREE, error_bound(3))
        block = sum_of(self.FORM, self.SEED, nothing, errors, nothing, 3)
        assert not self.FORM.decrypt(block, nothing, DEGREE, 3, self.SEED).any()
        monkeypatch.setattr(key_additive, "noise_bits", lambda contributors: noise_bits(contributors) - 1)
        monkeypatch.setattr(key_additive, "error_bound", lambda _: 1 << 60)  # nor does the twin look at what is left
        twin = KeyAdditive(self.FORM.values)
        block = sum_of(twin, self.SEED, nothing, errors, nothing, 3)
        assert twin.decrypt(block, nothing, DEGREE, 3, self.SEED).all()


class TestWhatItTakes:
    def test_memory_beside_the_vector_does_not_grow_with_it(self) -> None:
        """The block to encrypt or to add, the values to decrypt, and a few chunks."""
        form, seed, beside = KeyAdditive(OffsetValues(FixedPoint(16, 1), 3)), bytes(32), []
        for size in (2 * key_additive.CHUNK * DEGREE, 8 * key_additive.CHUNK * DEGREE):
            vector = np.zeros(size)
            made = form.encrypt(vector, seed)
            steps: list[tuple[Callable[[], object], int]] = [
                (partial(form.encrypt, vector, seed), len(made.block)),
                (partial(form.add, made.block, made.block), len(made.block)),
                (partial(form.decrypt, made.block, made.key, size, 1, seed), 8 * size),
            ]
            for step, result in steps:
                tracemalloc.start()
                step()
                beside.append(tracemalloc.get_traced_memory()[1] - result)
                tracemalloc.stop()
        few, many = beside[:3], beside[3:]
        assert all(large < small + 100_000 for small, large in zip(few, many, strict=True))
        assert max(many) < 12 * 8 * key_additive.CHUNK * DEGREE

    def test_a_vector_of_any_size_takes_the_randomisers_of_one_key(self) -> None:
        public = keys().public
        for _ in range(3):
            public.prepare(10_000_000)
        assert public.transport._randomisers().coming <= public.layout(10_000_000).ciphertexts

    @pytest.mark.parametrize(("num_clients", "ciphertexts", "bits"), [(3, 7, 28), (1000, 12, 41), (MOST, 15, 46)])
    def test_the_bytes_of_a_hundred_thousand_parameters(self, num_clients: int, ciphertexts: int, bits: int) -> None:
        config = parse_config({"he_scheme": "kahe", "num_clients": num_clients})
        n = (1 << 3072) - 1  # no key, but as long as one
        layout = KahePublic(
            PublicKeyMaterial(paillier.PaillierPublicKey(n)),
            FixedPoint(config.he_precision_bits, config.he_integer_bits),
            num_clients,
        ).layout(100_000)
        assert layout == (ciphertexts, 768, 49 * DEGREE * bits // 8)


class TestHostileCiphertexts:
    def test_any_block_is_taken_and_garbage_in_it_shows_in_the_sum(self) -> None:
        scheme = keys()
        layout = scheme.public.layout(5)
        for seed in range(3):
            parts = scheme.public.to_bytes(scheme.public.encrypt(np.zeros(5), CONTEXT).ciphertexts)
            garbage = np.random.default_rng(seed).bytes(layout.block)
            total = scheme.public.add(
                scheme.public.from_bytes(parts.ciphertexts, garbage),
                scheme.public.encrypt(np.zeros(5), CONTEXT).ciphertexts,
            )
            with pytest.raises(EncodingError, match="no sum of 2 vectors under these keys"):
                scheme.decrypt_sum(total, 5, 2, CONTEXT)

    def test_a_value_where_there_is_none_is_refused(self) -> None:
        scheme = keys()
        sent = scheme.public.encrypt(np.array([0.5, 0.5]), CONTEXT).ciphertexts
        with pytest.raises(EncodingError, match="no sum of 1 vectors"):
            scheme.decrypt_sum(sent, 1, 1, CONTEXT)

    def test_a_block_of_another_size_is_refused(self) -> None:
        scheme = keys()
        sent = scheme.public.encrypt(np.zeros(5), CONTEXT).ciphertexts
        with pytest.raises(EncodingError, match="a block of 7168 bytes; expected 14336"):
            scheme.decrypt_sum(sent, DEGREE + 1, 1, CONTEXT)

    def test_the_key_s_ciphertexts_are_checked_as_any(self) -> None:
        public = keys().public
        parts = public.to_bytes(public.encrypt(np.zeros(5), CONTEXT).ciphertexts)
        with breaks(Flaw.CIPHERTEXT):
            public.from_bytes([bytes(public.layout(5).width), *parts.ciphertexts[1:]], parts.block)

    def test_an_update_of_another_length_or_scheme_never_reaches_the_sum(self) -> None:
        scheme, vector = keys(), np.array([0.5, -1.0])
        running = Aggregator(scheme, 2, 3).open_round(1, 2, CONTEXT.hex())
        parts = scheme.public.to_bytes(scheme.public.encrypt(vector, CONTEXT).ciphertexts)
        honest, paillier = dump_update(running.header, *parts), scheme.public.transport
        assert len(honest) == payload_length(running.header, scheme.public.layout(2))
        packed = paillier.to_bytes(paillier.encrypt(vector).ciphertexts).ciphertexts
        zeros = [bytes(scheme.public.layout(2).width), *parts.ciphertexts[1:]]
        hostile: list[tuple[bytes, Flaw]] = [
            (honest[:-1], Flaw.LENGTH),
            (honest + b"\0", Flaw.LENGTH),
            (dump_update(running.header, parts.ciphertexts), Flaw.LENGTH),
            (dump_update(running.header, packed, parts.block), Flaw.LENGTH),
            (parts.block + dump_update(running.header, parts.ciphertexts), Flaw.MALFORMED),
            (dump_update(replace(running.header, scheme="ehak"), *parts), Flaw.HEADER),
            (dump_update(running.header, zeros, parts.block), Flaw.CIPHERTEXT),
        ]
        for payload, flaw in hostile:
            with breaks(flaw):
                running.add("x", payload)
            with pytest.raises(TooFewContributorsError):
                running.decrypt_sum()
        for tenant in ("a", "b"):
            parts = scheme.public.to_bytes(scheme.public.encrypt(vector, CONTEXT).ciphertexts)
            running.add(tenant, dump_update(running.header, *parts))
        np.testing.assert_array_equal(running.decrypt_sum(), 2 * vector)

    def test_a_wrong_number_of_contributors_shows(self) -> None:
        scheme = keys()
        two = encrypted_sum(scheme, [np.zeros(5)] * 2)
        with pytest.raises(EncodingError):
            scheme.decrypt_sum(two, 5, 3, CONTEXT)


KNOWN_KEY = [5, -5, -7, -5, 4, -1, 4, -5, -4, -14, -2, -1]
KNOWN_KEY_SHA256 = "8657fb62495c8f892a5485663e3c5e71f331d2dc4f59cebf126a8224d7316171"
KNOWN_BLOCK_SHA256 = "1fdcd79d545a909039d514c0b5ae9b36379ea1b66df0fbc487cbf665aa9c3ebf"


class TestKnownAnswers:
    """What a seed gives, for good: another implementation, and another version of this one, must find the same."""

    def test_words_are_aes_256_in_counter_mode(self) -> None:
        # AES-256 of a block of zeros under a key of zeros.
        assert Words(bytes(32)).take(2).tobytes().hex() == "dc95c078a2408989ad48a21492842087"

    def test_a_fixed_seed_gives_this_block_and_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(secrets, "token_bytes", bytes)
        form = KeyAdditive(OffsetValues(FixedPoint(16, 1), 3))
        made = form.encrypt(np.linspace(-2, 2, 5000), public_seed(CONTEXT, "ab" * 32))
        assert made.key[:12].tolist() == KNOWN_KEY
        assert hashlib.sha256(made.key.astype("<i8").tobytes()).hexdigest() == KNOWN_KEY_SHA256
        assert (form.bits, form.noise_bits, len(made.block)) == (28, 8, 3 * DEGREE * 28 // 8)
        assert hashlib.sha256(made.block.tobytes()).hexdigest() == KNOWN_BLOCK_SHA256

    def test_the_definition_gives_the_same_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """c = A·s + e + 2^k·m by whole numbers, without limbs, transforms or chunks."""
        monkeypatch.setattr(secrets, "token_bytes", bytes)
        form, seed = KeyAdditive(OffsetValues(FixedPoint(16, 1), 3)), public_seed(CONTEXT, "ab" * 32)
        vector = np.linspace(-2, 2, DEGREE)
        made, secret = form.encrypt(vector, seed), Words(bytes(32))
        key, errors = (gaussian.draw(secret, DEGREE).astype(np.int64) for _ in range(2))
        np.testing.assert_array_equal(made.key, key)
        integers, _ = FixedPoint(16, 1).encode(vector)
        np.testing.assert_array_equal(made.block, sum_of(form, seed, key, errors, integers, 1))

    def test_phe_opens_the_sum_of_the_keys(self) -> None:
        scheme = keys()
        total = encrypted_sum(scheme, [np.array([0.5, 1.0]), np.array([0.25, -1.0])])
        private = scheme._transport._key.private_key
        plaintexts = [private.raw_decrypt(c.ciphertext(be_secure=False)) for c in total.key]
        key = scheme.public.transport.encoding.unpack(plaintexts, DEGREE, 2)
        seed = scheme.public.seed(CONTEXT)
        opened = scheme.public.vectors.decrypt(total.block, key.astype(np.int64), 2, 2, seed)
        np.testing.assert_array_equal(opened, [0.75, 0.0])
