"""Sharing one data set out among clients."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.data_sources.partition import (
    MIN_ROWS_PER_CLIENT,
    Families,
    Labels,
    Parts,
    by_family,
    by_quantity,
    dirichlet,
    even,
    natural,
    partition_rows,
)
from shared.errors import DataError

ATTACKS = ("dos", "probe", "r2l", "u2r")
# Two names that surround "benign" in the alphabet: no function may rely on where it sorts.
NAMES = ("apt", "benign", "dos", "probe")
KINDS = ("even", "dirichlet", "family", "quantity")


def rows_of(counts: dict[str, int]) -> tuple[Labels, Families]:
    families = np.random.default_rng(0).permutation(np.repeat(list(counts), list(counts.values())))
    return (families != "benign").astype(np.int64), families


def split(kind: str, counts: dict[str, int], num_clients: int, alpha: float = 0.5, seed: int = 42) -> Parts:
    return partition_rows(kind, *rows_of(counts), num_clients, dirichlet_alpha=alpha, seed=seed)


def assert_each_row_once(parts: Parts, rows: int) -> None:
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(rows))


FULL = {"benign": 6000, "dos": 4000, "probe": 1000, "r2l": 200, "u2r": 52}
COUNTS = st.fixed_dictionaries({name: st.integers(0, 60) for name in NAMES}).filter(lambda counts: any(counts.values()))


@settings(max_examples=150)
@given(
    counts=COUNTS,
    num_clients=st.integers(2, 12),
    alpha=st.sampled_from([1e-3, 0.1, 1.0, 1e6]),
    seed=st.integers(0, 2**31),
)
@example(counts={"apt": 2, "benign": 6, "dos": 2, "probe": 0}, num_clients=4, alpha=1.0, seed=0)
def test_every_row_goes_to_exactly_one_client(
    counts: dict[str, int], num_clients: int, alpha: float, seed: int
) -> None:
    labels, families = rows_of(counts)
    made = [
        even(labels, families, num_clients, seed),
        dirichlet(labels, families, num_clients, alpha, seed),
        by_quantity(labels, num_clients, alpha, seed),
    ]
    try:
        made.append(by_family(labels, families, num_clients, seed))
    except DataError:
        attacks = [count for name, count in counts.items() if name != "benign" and count]
        assert min(attacks) * len(attacks) < num_clients + len(attacks)
    for parts in made:
        assert len(parts) == num_clients
        assert_each_row_once(parts, len(labels))
        for label in np.unique(labels):
            if (labels == label).sum() >= num_clients:
                assert all(label in labels[part] for part in parts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str) -> None:
    first, again, other = split(kind, FULL, 3), split(kind, FULL, 3), split(kind, FULL, 3, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("num_clients", [2, 3, 7])
def test_even_parts_differ_by_at_most_one_row_in_size_and_in_each_class(num_clients: int) -> None:
    labels, _ = rows_of(FULL)
    parts = split("even", FULL, num_clients)
    for counts in ([len(part) for part in parts], [int(labels[part].sum()) for part in parts]):
        assert max(counts) - min(counts) <= 1


def largest_share(parts: Parts, families: Families, family: str) -> float:
    held = [int((families[part] == family).sum()) for part in parts]
    return max(held) / sum(held)


def test_a_small_alpha_skews_and_a_large_one_does_not() -> None:
    _, families = rows_of(FULL)
    for family in ("benign", "dos", "probe"):
        assert largest_share(split("dirichlet", FULL, 4, alpha=0.01), families, family) > 0.7
        assert largest_share(split("dirichlet", FULL, 4, alpha=1e5), families, family) < 0.27


def test_every_dirichlet_client_is_usable_however_skewed() -> None:
    labels, _ = rows_of(FULL)
    for seed in range(20):
        for part in split("dirichlet", FULL, 10, alpha=1e-3, seed=seed):
            assert len(part) >= MIN_ROWS_PER_CLIENT
            assert np.bincount(labels[part], minlength=2).min() >= MIN_ROWS_PER_CLIENT // 2


@pytest.mark.parametrize(
    ("num_clients", "expected"),
    [
        (2, ["dos r2l", "probe u2r"]),
        (3, ["dos u2r", "probe", "r2l"]),
        (4, ["dos", "probe", "r2l", "u2r"]),
        (6, ["dos", "probe", "r2l", "u2r", "dos", "probe"]),
    ],
)
def test_a_client_knows_its_families_and_no_other(num_clients: int, expected: list[str]) -> None:
    labels, families = rows_of(FULL)
    parts = split("family", FULL, num_clients)
    assert [" ".join(np.unique(families[part][labels[part] == 1])) for part in parts] == expected
    benign = [int((labels[part] == 0).sum()) for part in parts]
    assert max(benign) - min(benign) <= 1


def test_clients_of_one_family_share_it_evenly() -> None:
    _, families = rows_of(FULL)
    parts = split("family", FULL, 10)
    assert [int((families[parts[client]] == "dos").sum()) for client in (0, 4, 8)] == [1334, 1333, 1333]


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_rows_for_the_clients_says_what_to_change(kind: str) -> None:
    with pytest.raises(DataError, match=r"client \d of 5 would have \d of 40 rows, expected at least 10; lower num_cl"):
        split(kind, {"benign": 20, **dict.fromkeys(ATTACKS, 5)}, 5)


def test_a_family_that_can_not_be_shared_says_what_to_change() -> None:
    with pytest.raises(DataError, match=r"3 clients would share the 2 rows of family u2r.*at most 8 or use partition"):
        split("family", {**FULL, "u2r": 2}, 12)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DataError, match="partition = 'random': no such partition of this data; expected even"):
        split("random", FULL, 3)


def test_quantity_skews_the_sizes_and_not_the_mix() -> None:
    _, families = rows_of(FULL)
    parts = split("quantity", FULL, 4, alpha=0.5)
    sizes = [len(part) for part in parts]
    assert max(sizes) > 4 * min(sizes)
    for part in parts:
        if len(part) > 500:
            assert (families[part] == "dos").mean() == pytest.approx((families == "dos").mean(), abs=0.06)
    even_sizes = [len(part) for part in split("quantity", FULL, 4, alpha=1e6)]
    assert max(even_sizes) < 1.02 * min(even_sizes)


def test_every_client_of_skewed_sizes_is_usable() -> None:
    labels, _ = rows_of(FULL)
    for seed in range(20):
        for part in split("quantity", FULL, 10, alpha=1e-3, seed=seed):
            assert np.bincount(labels[part], minlength=2).min() >= MIN_ROWS_PER_CLIENT // 2


def test_natural_parts_keep_a_value_together_and_balance_the_rows() -> None:
    groups = np.repeat(["a", "b", "c", "d", "e"], [50, 40, 30, 20, 10])
    parts = natural(groups, 3)
    assert_each_row_once(parts, 150)
    assert [sorted(set(groups[part])) for part in parts] == [["a"], ["b", "e"], ["c", "d"]]
    labels = np.zeros(150, dtype=np.int64)
    with pytest.raises(DataError, match="5 values of partition_column for 6 clients, expected a value for each"):
        partition_rows("natural", labels, groups, 6, dirichlet_alpha=1.0, seed=0, groups=groups)
    with pytest.raises(DataError, match="no such partition of this data"):
        partition_rows("natural", labels, groups, 3, dirichlet_alpha=1.0, seed=0)
