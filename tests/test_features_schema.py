"""The schema of raw features, and the scaling that is made from sums."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from shared.config import Config
from shared.data_sources.scaling import (
    GRID,
    MAX_SCALED,
    POINTS,
    SPREAD,
    FeatureSums,
    Quantiles,
    Scaler,
    grid_bins,
    grid_counts,
    grid_edges,
)
from shared.data_sources.schema import Column, FeatureSchema, buckets, compressed, number_column
from shared.data_utils import feature_count, stream_features
from shared.errors import DataError
from tests.processes import ROOT

A, B, C, D = number_column("a"), Column("b#0", "b", "category"), number_column("c"), Column("d", "d", "cyclic")
SCHEMA = FeatureSchema("csv", (A, B, C, D), 1, excluded=("label",))


def changed(**values: object) -> FeatureSchema:
    return dataclasses.replace(SCHEMA, **values)  # type: ignore[arg-type]


def test_a_schema_survives_json_and_its_hash_is_pinned() -> None:
    assert FeatureSchema.from_json(SCHEMA.to_json()) == SCHEMA
    # A change of this value makes every stored model unusable: raise SCHEMA_VERSION on purpose, never by accident.
    assert SCHEMA.hash() == "8a4a55526d6df26c5e9d86c8e1efd7444fcb6f6aa45352d9f6b2cbc74ebdfebb"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (SCHEMA, ""),
        (changed(source="vpc_flow"), "source is csv here and vpc_flow there"),
        (changed(hash_width=2), "hash_width is 1 here and 2 there"),
        (changed(window_minutes=5), "window_minutes is 0 here and 5 there"),
        (changed(excluded=()), "excluded is label here and nothing there"),
        (changed(version=9), "version is 4 here and 9 there"),
        (changed(columns=(A, B, C, dataclasses.replace(D, name="e"))), "only here: d; only there: e"),
        (changed(columns=(A, C)), "4 features here and 2 there; only here: b#0, d"),
        (changed(columns=(A, C, B, D)), "another order from column 1 on: b#0 here, c there"),
        (changed(columns=(dataclasses.replace(A, kind="cyclic"), B, C, D)), "another kind: a"),
    ],
)
def test_a_difference_is_told_in_words_and_changes_the_hash(other: FeatureSchema, message: str) -> None:
    assert SCHEMA.difference(other).startswith(message)
    assert bool(SCHEMA.difference(other)) == bool(message) == (SCHEMA.hash() != other.hash())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps(json.loads(SCHEMA.to_json()) | {"more": 1}),
        json.dumps(json.loads(SCHEMA.to_json()) | {"columns": "abcd"}),
        json.dumps(json.loads(SCHEMA.to_json()) | {"columns": []}),
        *(
            json.dumps(json.loads(SCHEMA.to_json()) | {"columns": [dataclasses.asdict(A), changed]})
            for changed in (
                dataclasses.asdict(A),
                {"name": "b", "field": "b", "kind": "numeric"} | {"more": 1},
                {"name": "b", "field": "b", "kind": "x", "log": False},
                {"name": "b", "field": "b", "kind": "numeric", "log": 1},
                {"name": 1, "field": "b", "kind": "numeric", "log": True},
                ["b", "b", "numeric", True],
            )
        ),
        json.dumps(json.loads(SCHEMA.to_json()) | {"hash_width": True}),
    ],
)
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="feature schema"):
        FeatureSchema.from_json(text)


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(3, 5, (count, 4)).astype(np.float32)


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 1))
def test_sums_of_clients_give_the_scaler_of_all_rows(sizes: list[int]) -> None:
    parts = [rows(size, seed) for seed, size in enumerate(sizes)]
    total = FeatureSums.of(parts[0], SCHEMA)
    for part in parts[1:]:
        total = total + FeatureSums.of(part, SCHEMA)
    everything = np.concatenate(parts)
    scaled = Scaler.from_sums(total, SCHEMA).transform(everything)
    expected = StandardScaler().fit_transform(everything[:, [0, 2]].astype(np.float64))
    assert scaled[:, [0, 2]] == pytest.approx(expected, abs=1e-4)
    assert np.array_equal(scaled[:, [1, 3]], everything[:, [1, 3]])


def test_a_constant_column_and_an_odd_record_stay_within_bounds() -> None:
    features = np.full((1000, 4), 0.1, dtype=np.float32)
    scaler = Scaler.from_sums(FeatureSums.of(features, SCHEMA), SCHEMA)
    assert scaler.variance == pytest.approx([1, 1])
    assert scaler.transform(features)[:, 0] == pytest.approx(0, abs=1e-6)
    features[0, 2] = 1e6
    scaled = Scaler.from_sums(FeatureSums.of(features, SCHEMA), SCHEMA).transform(features)
    assert scaled[0, 2] == MAX_SCALED


def test_transform_leaves_its_input_alone() -> None:
    features = rows(10)
    before = features.copy()
    Scaler.from_sums(FeatureSums.of(features, SCHEMA), SCHEMA).transform(features)
    assert np.array_equal(features, before)


def test_sums_that_no_rows_have_are_refused() -> None:
    with pytest.raises(DataError, match=r"features of shape \(2, 3\): expected \(rows, 4\)"):
        FeatureSums.of(np.zeros((2, 3), dtype=np.float32), SCHEMA)
    with pytest.raises(DataError, match="over 0 rows"):
        Scaler.from_sums(FeatureSums.of(rows(0), SCHEMA), SCHEMA)
    with pytest.raises(DataError, match="expected finite sums"):
        Scaler.from_sums(FeatureSums(1, np.array([np.nan, 0]), np.zeros(2)), SCHEMA)
    with pytest.raises(DataError, match="feature sums of 3 columns, expected the 2 numeric ones"):
        Scaler.from_sums(FeatureSums(1, np.zeros(3), np.zeros(3)), SCHEMA)
    with pytest.raises(DataError, match="of 2 and 1 columns can't be added"):
        FeatureSums.of(rows(1), SCHEMA) + FeatureSums(1, np.zeros(1), np.zeros(1))


def test_no_raw_number_exceeds_what_a_sum_in_fixed_point_relies_on() -> None:
    numbers = np.array([0, 1, -1, 1e300, -np.inf, np.inf, np.nan])
    assert compressed(numbers) == pytest.approx([0, np.log(2), -np.log(2), 27.631, -27.631, 27.631, 0], abs=1e-3)


def test_buckets_are_spread_and_depend_on_the_column() -> None:
    values = pd.Series([f"value-{number}" for number in range(2000)])
    counts = np.bincount(buckets("a", values, 16), minlength=16)
    assert counts.min() > 80
    assert counts.max() < 180
    assert (buckets("a", values, 16) == buckets("b", values, 16)).mean() < 0.12


def test_sources_without_files_have_the_width_of_the_settings() -> None:
    assert feature_count(Config(num_features=7)) == 7
    with pytest.raises(DataError, match="data_source = 'synthetic': records of 'csv' were learned from"):
        next(stream_features(Config(), ROOT, SCHEMA))


LOG, PLAIN = number_column("bytes"), number_column("share", log=False)
NUMBERS = FeatureSchema("csv", (LOG, PLAIN, Column("d", "d", "cyclic")))


def raw(values: list[float]) -> NDArray[np.float32]:
    """The same numbers in the column of logarithms, in the plain one, and, for the third, in no way scaled."""
    plain = np.array(values)
    return np.column_stack([compressed(plain), plain, np.sin(plain)]).astype(np.float32)


def test_the_grid_has_four_points_a_decade_on_either_side_of_zero() -> None:
    assert (len(POINTS), POINTS[0], POINTS[8], POINTS[16], GRID) == (48, 0.01, 1.0, 100.0, 99)
    assert np.allclose(POINTS[4:] / POINTS[:-4], 10)
    assert (np.diff(grid_edges(NUMBERS), axis=1) > 0).all()
    values = [-1e12, -5.0, -0.001, 0.0, 0.001, 0.009, 0.01, 0.5, 1.0, 1.7, 100.0, 5e9, 6e9, 1e12]
    bins = grid_bins(raw(values), NUMBERS)
    assert np.array_equal(bins[:, 0], bins[:, 1])  # the same number, whichever way the column holds it
    middle = GRID // 2
    assert (bins[:, 0] - middle).tolist() == [-49, -12, -1, 0, 1, 1, 2, 8, 10, 10, 18, 48, 49, 49]


def test_a_value_becomes_the_middle_rank_of_its_bin() -> None:
    features = raw([0.0] * 60 + [5.0] * 30 + [1000.0] * 10)
    scaler = Quantiles.from_counts(grid_counts(features, NUMBERS), NUMBERS)
    expected = [(0.3 - 0.5) * SPREAD, (0.75 - 0.5) * SPREAD, (0.95 - 0.5) * SPREAD]
    for column in (0, 1):
        scaled = scaler.transform(features)[:, column]
        assert [scaled[0], scaled[60], scaled[90]] == pytest.approx(expected, abs=1e-4)
        assert scaled.mean() == pytest.approx(0, abs=1e-4)
    assert np.array_equal(scaler.transform(features)[:, 2], features[:, 2])
    # What no row had lies between its neighbours; beyond all of them is the end of the scale.
    new = scaler.transform(raw([-3.0, 0.5, 50.0, 1e9]))[:, 0]
    assert new == pytest.approx([-SPREAD / 2, 0.1 * SPREAD, 0.4 * SPREAD, SPREAD / 2], abs=1e-4)


def test_quantiles_of_many_values_have_mean_0_and_variance_1() -> None:
    features = raw(np.random.default_rng(0).lognormal(3, 2, 20_000).tolist())
    scaled = Quantiles.from_counts(grid_counts(features, NUMBERS), NUMBERS).transform(features)
    assert scaled[:, :2].mean(axis=0) == pytest.approx([0, 0], abs=1e-4)
    assert scaled[:, :2].var(axis=0) == pytest.approx([1, 1], abs=0.02)


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 1))
def test_counts_of_clients_give_the_quantiles_of_all_rows_exactly(sizes: list[int]) -> None:
    parts = [rows(size, seed) for seed, size in enumerate(sizes)]
    total = sum((grid_counts(part, SCHEMA) for part in parts), np.zeros((2, GRID), dtype=np.int64))
    everything = np.concatenate(parts)
    whole = Quantiles.from_counts(grid_counts(everything, SCHEMA), SCHEMA)
    of_parts = Quantiles.from_counts(total, SCHEMA)
    assert np.array_equal(of_parts.ranks, whole.ranks)
    back = Quantiles.from_bytes(of_parts.to_bytes(), SCHEMA)
    assert np.array_equal(back.transform(everything), whole.transform(everything))
    order = np.argsort(everything[:, 0])
    assert (np.diff(whole.transform(everything)[order, 0]) >= 0).all()


def test_counts_that_no_rows_have_make_no_quantiles() -> None:
    counts = grid_counts(rows(5), SCHEMA)
    for wrong in (counts[:1], counts * 0, counts - 1):
        with pytest.raises(DataError, match="counts"):
            Quantiles.from_counts(wrong, SCHEMA)
    uneven = counts.copy()
    uneven[1, 3] += 1
    with pytest.raises(DataError, match="as many for every column"):
        Quantiles.from_counts(uneven, SCHEMA)
    with pytest.raises(DataError, match=r"features of shape \(2, 3\)"):
        grid_counts(np.zeros((2, 3), dtype=np.float32), SCHEMA)
