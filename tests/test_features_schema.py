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
from shared.data_sources.scaling import MAX_SCALED, FeatureSums, Scaler
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
    assert SCHEMA.hash() == "af5fde49f91ce0a119090707baa0b02253a8054fa847119d2e789bfa06d794d4"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (SCHEMA, ""),
        (changed(source="vpc_flow"), "source is csv here and vpc_flow there"),
        (changed(hash_width=2), "hash_width is 1 here and 2 there"),
        (changed(window_minutes=5), "window_minutes is 0 here and 5 there"),
        (changed(excluded=()), "excluded is label here and nothing there"),
        (changed(version=9), "version is 2 here and 9 there"),
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


@settings(max_examples=50, deadline=None)
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
