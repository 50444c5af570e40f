"""Packing: the law of exact sums, what saturates, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import EncodingError
from shared.he.fixed_point import FixedPoint
from shared.he.packing import PackingLayout
from tests.packings import TooNarrow, quantise

Vector = NDArray[np.float64]


def make(
    plaintext_bits: int,
    precision_bits: int,
    integer_bits: int,
    max_contributors: int,
    kind: type[PackingLayout] = PackingLayout,
) -> PackingLayout:
    return kind(plaintext_bits, FixedPoint(precision_bits, integer_bits), max_contributors)


def integers(layout: PackingLayout, vector: Vector) -> list[int]:
    """The fixed-point integers, by exact rational arithmetic."""
    largest = 2 ** (layout.fixed_point.value_bits) - 1
    return [
        max(-largest, min(largest, round(Fraction(x) * 2**layout.fixed_point.precision_bits))) for x in vector.tolist()
    ]


def law_holds(layout: PackingLayout, vectors: list[Vector]) -> bool:
    """decode(sum of packed) == sum of quantised, bit for bit."""
    size = len(vectors[0])
    sums = [mpz(0)] * layout.plaintexts_for(size)
    for vector in vectors:
        sums = [a + b for a, b in zip(sums, layout.pack(vector)[0], strict=True)]
    columns = zip(*(integers(layout, vector) for vector in vectors), strict=True)
    expected = np.array([sum(column) for column in columns], dtype=np.float64) / 2.0**layout.fixed_point.precision_bits
    try:
        return np.array_equal(layout.unpack(sums, size, len(vectors)), expected)
    except EncodingError:
        return False


@settings(max_examples=80)
@given(
    plaintext_bits=st.sampled_from([127, 511, 2047]),
    precision_bits=st.integers(0, 30),
    integer_bits=st.integers(0, 8),
    contributors=st.integers(1, 17),
    spare=st.integers(0, 5),
    size=st.integers(0, 300),
    seed=st.integers(0, 2**32),
)
def test_a_sum_of_packed_vectors_is_the_packed_sum(
    plaintext_bits: int, precision_bits: int, integer_bits: int, contributors: int, spare: int, size: int, seed: int
) -> None:
    layout = make(plaintext_bits, precision_bits, integer_bits, contributors + spare)
    random = np.random.default_rng(seed)
    vectors = [random.normal(scale=2.0**integer_bits, size=size) for _ in range(contributors)]
    assert law_holds(layout, vectors)


@pytest.mark.parametrize("contributors", [2, 3, 4, 5, 8, 100])
@pytest.mark.parametrize("extreme", [1e300, -1e300])
def test_extremes_in_every_slot_from_exactly_the_most_contributors_do_not_carry(
    contributors: int, extreme: float
) -> None:
    sizes = (1, 97, 98, 500)
    right = make(2047, 16, 2, contributors)
    twin = make(2047, 16, 2, contributors, TooNarrow)
    for size in sizes:
        vectors = [np.full(size, extreme)] * contributors
        assert law_holds(right, vectors)
        if extreme > 0:
            assert not law_holds(twin, vectors), "the check does not see a carry"


@pytest.mark.parametrize("precision_bits", range(54))
def test_every_slot_width_at_every_place_in_a_word(precision_bits: int) -> None:
    layout = make(4095, precision_bits, 0, 1)  # one contributor: a slot's top bit is in use
    random = np.random.default_rng(precision_bits)
    assert law_holds(layout, [random.uniform(-1, 1, 2 * layout.slots_per_plaintext)])


@settings(max_examples=100)
@given(
    vector=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=60), precision_bits=st.integers(0, 45)
)
def test_quantising_rounds_half_to_even_and_clips(vector: list[float], precision_bits: int) -> None:
    layout = make(1023, precision_bits, 3, 4)
    values = np.array(vector, dtype=np.float64)
    expected = integers(layout, values)
    assert quantise(layout, values).tolist() == [float(Fraction(q, 2**precision_bits)) for q in expected]
    assert np.array_equal(quantise(layout, quantise(layout, values)), quantise(layout, values))
    largest = 2 ** (3 + precision_bits) - 1
    assert layout.pack(values)[1] == sum(abs(round(Fraction(x) * 2**precision_bits)) > largest for x in vector)


@pytest.mark.parametrize(
    ("value", "expected", "saturated"),
    [(0.5, 0.0, 0), (1.5, 2.0, 0), (2.5, 2.0, 0), (-1.5, -2.0, 0), (3.4, 3.0, 0), (3.5, 3.0, 1), (-9.0, -3.0, 1)],
)
def test_the_edge_of_the_range(value: float, expected: float, saturated: int) -> None:
    layout = make(127, 0, 2, 2)
    assert quantise(layout, np.array([value])).tolist() == [expected]
    assert layout.pack(np.array([value]))[1] == saturated


def test_known_answer() -> None:
    layout = make(2047, 16, 2, 3)
    assert (layout.slot_bits, layout.slots_per_plaintext) == (21, 97)
    assert [layout.plaintexts_for(size) for size in (0, 1, 97, 98, 100_000)] == [0, 1, 1, 2, 1031]
    vector = np.zeros(98)
    vector[[0, 1, 4, 97]] = [1.0, -1.0, 2.0**-16, 3.5]
    slots = [0x40000] * 97
    slots[0], slots[1], slots[4] = 0x50000, 0x30000, 0x40001
    first = sum(slot << 21 * i for i, slot in enumerate(slots))
    assert layout.pack(vector) == ([first, 0x78000], 0)


def test_a_float32_vector_is_packed_as_its_exact_values() -> None:
    layout = make(2047, 40, 2, 3)
    vector = np.array([0.1, -0.3], dtype=np.float32)
    assert layout.pack(vector.astype(np.float64)) == layout.pack(vector)  # type: ignore[arg-type]


def test_phes_plain_integers_are_unpacked_too() -> None:
    layout = make(511, 16, 2, 3)
    vector = np.array([0.5, -0.25])
    assert layout.unpack([int(m) for m in layout.pack(vector)[0]], 2, 1).tolist() == [0.5, -0.25]


def test_the_widest_slot_is_exact_and_one_bit_more_is_refused() -> None:
    widest = make(2047, 48, 4, 2)
    assert widest.slot_bits == 54
    step = 2.0**-48
    assert law_holds(widest, [np.array([16 - step, -16 + step, step])] * 2)
    with pytest.raises(EncodingError, match="a slot of 55 bits; expected at most 54"):
        make(2047, 48, 4, 3)


@pytest.mark.parametrize(
    ("plaintext_bits", "precision_bits", "integer_bits", "contributors", "words"),
    [
        (20, 16, 2, 3, "does not fit a plaintext of 20 bits"),
        (2047, 16, 2, 0, "expected at least"),
    ],
)
def test_a_layout_that_cannot_work_is_refused(
    plaintext_bits: int, precision_bits: int, integer_bits: int, contributors: int, words: str
) -> None:
    with pytest.raises(EncodingError, match=words):
        make(plaintext_bits, precision_bits, integer_bits, contributors)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_value_is_refused(bad: float) -> None:
    layout = make(2047, 16, 2, 3)
    with pytest.raises(EncodingError, match="lower learning_rate"):
        layout.pack(np.array([0.0, bad]))


def test_what_is_no_sum_of_so_many_packed_vectors_is_refused() -> None:
    layout = make(511, 8, 2, 3)  # 13 bits a slot, 39 slots
    packed, _ = layout.pack(np.array([0.5, -0.5]))
    one = packed[0]
    for plaintexts, size, contributors, words in (
        ([one], 2, 4, "expected 1 to 3"),
        ([one], 2, 0, "expected 1 to 3"),
        ([one, one], 2, 1, "2 plaintexts; expected 1"),
        ([], 2, 1, "0 plaintexts; expected 1"),
        ([one + (mpz(1) << 13 * 39)], 2, 1, "wider than its 39 slots"),
        ([-one], 2, 1, "wider than its 39 slots"),
        ([one + (1 << 26)], 2, 1, "unused slot"),
        ([mpz(0)], 2, 1, "can't add up to"),  # an encrypted 0 instead of a contributor
        ([one * 3], 2, 1, "can't add up to"),
        ([one - 1151], 2, 3, "can't add up to"),  # three contributors leave at least 3 in each slot
    ):
        with pytest.raises(EncodingError, match=words):
            layout.unpack(plaintexts, size, contributors)
