"""Private scaling: exact sums of feature statistics under each scheme, equal to the scaling of pooled rows."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from client.scaled_rows import ScaledRows
from orchestrator import run as run_module
from shared.config import Config, parse_config
from shared.data_sources.dataset import ClientData, Dataset
from shared.data_sources.scaling import GRID, FeatureSums, Quantiles, Scaler
from shared.data_sources.schema import Column, FeatureSchema, number_column
from shared.data_utils import load_client_data, load_schema
from shared.errors import DataError, EncodingError, RoundRefusedError, StatisticsError
from shared.exchange import Kind as RequestKind
from shared.exchange import Refusal, Reply, Request, drive
from shared.feature_statistics import HISTOGRAM, MOMENTS, QUANTILES, StatisticsCode
from shared.he.fixed_point import FixedPoint
from shared.he.paillier import PaillierPrivate
from shared.limbs import LimbCode
from shared.masking import RoundTerms, modulus_digest
from shared.preprocessing import BINS, FeatureCounts, FeatureHistogram, Preprocessing
from tests.federations import Tapped, make_tenants, masked_settings, open_in_memory

FEW_BITS: dict[str, Any] = {"he_key_length": 512, "allow_insecure_key": True}
A, B, C, D = number_column("a"), Column("b=1", "b", "category"), number_column("c"), Column("d", "d", "cyclic")
SCHEMA = FeatureSchema("csv", (A, B, C, D))


def rows(seed: int, count: int = 40, scale: float = 1.0) -> Dataset:
    rng = np.random.default_rng(seed)
    features = np.column_stack(
        [
            rng.normal(seed, scale, count),
            rng.integers(0, 2, count),
            rng.gamma(2.0, 3.0, count),
            rng.uniform(-1, 1, count),
        ]
    ).astype(np.float32)
    return Dataset(features, rng.integers(0, 2, count), np.full(count, "benign"))


class Federation:
    """The tenants of a run that is about to begin, each with its part of the rows, and the orchestrator's scaling."""

    def __init__(self, config: Config, parts: list[ClientData]) -> None:
        self.parts, self.scaling = parts, config.scaling
        self.tenants = make_tenants(config, dict(enumerate(parts)))
        self.lines = {name: Tapped(tenant) for name, tenant in self.tenants.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_module, "load_schema", lambda _config: parts[0].schema)
            run = open_in_memory(config, self.lines)
        self.keys = run.coordinator._rounds._aggregator._keys
        self._scaling, self._transport = run.coordinator._scaling, run.transport

    def collect(self) -> Preprocessing:
        return drive(self._scaling.steps(), self._transport.ask)

    def expected(self) -> Preprocessing:
        return Preprocessing.pooled(self.parts[0].schema, [part.train for part in self.parts], self.scaling)

    def answered(self, name: str, statistic: str) -> tuple[Request, Reply]:
        """What a tenant was asked for this statistic, and what it gave."""
        [(request, answer)] = [pair for pair in self.lines[name].said if pair[0].values.get("statistic") == statistic]
        assert isinstance(answer, Reply)
        return request, answer


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run leaves files."""
    monkeypatch.chdir(tmp_path)


def generated(count: int = 3) -> list[ClientData]:
    return [ClientData(SCHEMA, rows(seed, 40 + seed, 1.0 + seed), rows(seed + 9)) for seed in range(count)]


def assert_equal(found: Preprocessing, expected: Preprocessing) -> None:
    if isinstance(found.scaler, Quantiles):  # counts are whole numbers, and their sums exact
        arrays, theirs = found.arrays(), expected.arrays()
        assert arrays.keys() == theirs.keys()
        assert all(np.array_equal(array, theirs[name]) for name, array in arrays.items())
        return
    assert isinstance(expected.scaler, Scaler)
    np.testing.assert_allclose(found.scaler.mean, expected.scaler.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.scaler.variance, expected.scaler.variance, rtol=1e-9)
    # A value on the very edge of a bin may fall on either side, by the last bit of the mean.
    assert np.abs(found.histogram.counts - expected.histogram.counts).sum() <= 2
    assert found.histogram.rows == expected.histogram.rows


SCHEMES: dict[str, dict[str, Any]] = {
    "packed": FEW_BITS,
    "one each": FEW_BITS | {"he_packing": False},
    "few bits": FEW_BITS | {"he_precision_bits": 4, "he_integer_bits": 0},
    "many bits": FEW_BITS | {"he_precision_bits": 40},
    "weighted": FEW_BITS | {"weighting": "examples"},
    "kahe": FEW_BITS | {"he_scheme": "kahe"},
    "none": {"he_scheme": "none"},
}


@pytest.mark.parametrize("scaling", ["quantile", "zscore"])
@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_the_encrypted_sums_give_the_scaling_of_all_rows_together(scheme: str, scaling: str) -> None:
    federation = Federation(parse_config({"num_features": 4, "scaling": scaling} | SCHEMES[scheme]), generated())
    found = federation.collect()
    assert_equal(found, federation.expected())
    if not isinstance(found.scaler, Scaler):
        return
    pooled = np.concatenate([part.train.features for part in federation.parts])
    reference = StandardScaler().fit(pooled[:, [0, 2]].astype(np.float64))
    np.testing.assert_allclose(found.scaler.mean, reference.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.scaler.variance, reference.var_, rtol=1e-6)


@pytest.mark.parametrize("scaling", ["quantile", "zscore"])
def test_masked_and_signed_sums_are_the_same(tmp_path: Path, scaling: str) -> None:
    federation = Federation(masked_settings(tmp_path, 4, num_features=4, scaling=scaling), generated(4))
    assert_equal(federation.collect(), federation.expected())


def test_one_client_s_statistics_stay_closed_to_the_private_key_where_they_are_masked(tmp_path: Path) -> None:
    """What the key opens of one client is a number in Z_n that packs no statistics; without masks it packs them."""
    opened = {}
    for mode in ("none", "masked"):
        config = masked_settings(tmp_path / mode, 4, num_features=4, secure_aggregation=mode)
        federation = Federation(config, generated(4))
        federation.collect()
        keys, code = federation.keys, StatisticsCode(config, SCHEMA)
        assert isinstance(keys, PaillierPrivate)
        _, answer = federation.answered("0", QUANTILES)
        size = code.sizes[QUANTILES]
        blobs = _blobs(answer.payload, *keys.public.layout(size)[:2])
        plaintexts = keys.decrypt_plaintexts(keys.public.from_bytes(blobs))
        try:
            counts = code.decode_quantiles(keys.public.encoding.unpack(plaintexts, size, 1))
            opened[mode] = int(counts.grid[0].sum())
        except EncodingError:
            opened[mode] = -1
    assert opened == {"none": len(generated()[0].train), "masked": -1}


def _blobs(payload: bytes, count: int, width: int) -> list[bytes]:
    _, blobs = pickle.loads(payload)  # made by this test
    assert len(blobs) == count
    assert {len(blob) for blob in blobs} == {width}
    return list(blobs)


@pytest.mark.parametrize("scaling", ["quantile", pytest.param("zscore", marks=pytest.mark.long)])
def test_real_records_of_clients_that_know_one_attack_family_each(nsl_kdd_folder: Path, scaling: str) -> None:
    source: dict[str, Any] = {"data_source": "nsl_kdd", "data_path": str(nsl_kdd_folder), "num_features": 122}
    config = parse_config({**source, "partition": "family", "scaling": scaling, **FEW_BITS})
    federation = Federation(config, [load_client_data(config, client) for client in range(3)])
    found = federation.collect()
    assert_equal(found, federation.expected())
    pooled = np.concatenate([part.train.features for part in federation.parts])
    scaled = found.scaler.transform(pooled)[:, :38]
    if scaling == "zscore":
        reference = StandardScaler().fit_transform(pooled[:, :38].astype(np.float64))
        np.testing.assert_allclose(scaled, np.clip(reference, -10, 10), atol=1e-4)
    else:  # a column with many values has mean 0 and nearly variance 1, one that is constant is 0
        np.testing.assert_allclose(scaled.astype(np.float64).mean(axis=0), 0, atol=1e-4)
        assert scaled[:, 30].std() == pytest.approx(1, abs=0.1)
        assert not scaled[:, pooled[:, :38].std(axis=0) == 0].any()


whole = st.integers(-(2**100), 2**100)


@given(st.lists(whole, min_size=3, max_size=3), st.integers(1, 30), st.integers(0, 4))
@settings(max_examples=60)
def test_sums_of_limbs_are_exact(numbers: list[int], precision_bits: int, integer_bits: int) -> None:
    code = LimbCode(Config(he_precision_bits=precision_bits, he_integer_bits=integer_bits))
    vectors = [code.encode([number], 128) for number in numbers]
    fixed_point = FixedPoint(precision_bits, integer_bits)
    for vector in vectors:  # the scheme's fixed point holds every limb as it is
        integers, saturated = fixed_point.encode(vector)
        assert saturated == 0
        assert np.array_equal(fixed_point.decode(integers), vector)
    assert code.decode(np.sum(vectors, axis=0), 128) == [sum(numbers)]


def test_a_limb_one_bit_too_wide_would_not_be_exact() -> None:
    """The broken twin of the property above: it saturates."""
    code = LimbCode(Config(he_precision_bits=8, he_integer_bits=1))
    code._limb_bits += 1
    vector = code.encode([2**128 - 1], 128)
    assert FixedPoint(8, 1).encode(vector)[1] > 0


def test_numbers_beyond_what_a_vector_holds_are_refused() -> None:
    code = StatisticsCode(Config(scaling="zscore"), SCHEMA)
    with pytest.raises(DataError, match="too large"):
        code.encode_moments(FeatureSums(1, np.array([1.0, 2.0**90]), np.zeros(2)))


def test_counts_that_no_rows_have_are_refused() -> None:
    code = StatisticsCode(Config(), SCHEMA)
    good = FeatureHistogram.of(rows(1).features)
    good_counts = FeatureCounts.of(rows(1).features, SCHEMA)
    assert np.array_equal(code.decode_histogram(code.encode_histogram(good)).counts, good.counts)
    for change in (-100, 1):
        counts = good.counts.copy()
        counts[1, BINS - 1] += change
        with pytest.raises(EncodingError, match="none that rows can have"):
            code.decode_histogram(code.encode_histogram(FeatureHistogram(counts)))
        with pytest.raises(EncodingError, match="none that rows can have"):
            code.decode_quantiles(code.encode_quantiles(FeatureCounts(good_counts.grid, counts[:2])))
    assert np.array_equal(code.decode_quantiles(code.encode_quantiles(good_counts)).grid, good_counts.grid)
    with pytest.raises(EncodingError, match="over 0"):
        code.decode_moments(code.encode_moments(FeatureSums(0, np.zeros(2), np.zeros(2))))


def test_a_client_that_fails_is_left_out_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("orchestrator"), "propagate", True)
    federation = Federation(Config(num_features=4, num_clients=4, **FEW_BITS), generated(4))
    federation.tenants["2"]._rows = None  # type: ignore[assignment]
    found = federation.collect()
    federation.parts.pop(2)
    assert_equal(found, federation.expected())
    assert "client 2 is left out" in caplog.text


def test_without_enough_clients_there_is_no_sum() -> None:
    federation = Federation(Config(num_features=4, **FEW_BITS), generated())
    for name in ("1", "2"):
        federation.tenants[name]._rows = None  # type: ignore[assignment]
    with pytest.raises(StatisticsError, match="1 valid updates; at least 2"):
        federation.collect()


def test_a_client_with_other_features_refuses_and_says_how_they_differ() -> None:
    data = ScaledRows(Config(num_features=4, scaling="zscore"), generated()[0])
    other = FeatureSchema("csv", (A, B, number_column("x"), D))
    with pytest.raises(RoundRefusedError, match=r"only here: c; only there: x"):
        data.about(MOMENTS, other.to_json(), b"")
    with pytest.raises(RoundRefusedError, match="no feature schema"):
        data.about(MOMENTS, "{}", b"")
    with pytest.raises(RoundRefusedError, match="a statistic 'rows'"):
        data.about("rows", SCHEMA.to_json(), b"")
    with pytest.raises(RoundRefusedError, match=r"'quantiles', and this client gives moments, histogram; the setting"):
        data.about(QUANTILES, SCHEMA.to_json(), b"")
    counts = ScaledRows(Config(num_features=4), generated()[0])
    with pytest.raises(RoundRefusedError, match=r"'moments', and this client gives quantiles; the settings scaling"):
        counts.about(MOMENTS, SCHEMA.to_json(), b"")


@pytest.mark.parametrize(
    "scaler",
    [b"", bytes(31), np.array([0, 0, 1, 0.0]).tobytes(), np.array([0, np.nan, 1, 1]).tobytes(),
     np.array([0, 0, -1, 1.0]).tobytes(), np.array([0, 0, np.inf, 1.0]).tobytes()],
)  # fmt: skip
def test_a_scaler_that_no_rows_have_is_refused_by_the_client(scaler: bytes) -> None:
    with pytest.raises(RoundRefusedError, match="the server sent a scaler"):
        ScaledRows(Config(num_features=4, scaling="zscore"), generated()[0]).scaled(scaler)


@pytest.mark.parametrize("scaler", [b"", bytes(4 * GRID - 1), bytes(32), b"\xff\xff" + bytes(4 * GRID - 2)])
def test_quantiles_that_no_rows_have_are_refused_by_the_client(scaler: bytes) -> None:
    with pytest.raises(RoundRefusedError, match="the server sent a scaler"):
        ScaledRows(Config(num_features=4), generated()[0]).scaled(scaler)


def test_a_client_answers_the_request_for_statistics_of_too_small_a_cohort_with_a_refusal() -> None:
    federation = Federation(Config(num_features=4, **FEW_BITS), generated())
    federation.collect()
    request, _ = federation.answered("0", QUANTILES)
    answer = federation.tenants["0"].answer(Request(RequestKind.STATISTICS, {**request.values, "cohort": 1}))
    assert isinstance(answer, Refusal)
    assert "the sum would show too much of mine" in answer.reason


def test_each_sum_has_a_context_and_so_masks_of_its_own() -> None:
    contexts = {
        RoundTerms(bytes(16), 1, bucket, modulus_digest(15), 3, 3, 10, bytes(32)).context()
        for bucket in ("weights", QUANTILES, MOMENTS, HISTOGRAM)
    }
    assert len(contexts) == 4


def test_the_digest_tells_statistic_schema_and_scaler_apart() -> None:
    code = StatisticsCode(Config(), SCHEMA)
    scaler = Scaler(SCHEMA, np.zeros(2), np.ones(2))
    other = Scaler(SCHEMA, np.zeros(2), np.full(2, 2.0))
    assert len({code.digest(MOMENTS, None), code.digest(HISTOGRAM, scaler), code.digest(HISTOGRAM, other)}) == 3
    assert load_schema(Config()).hash() != SCHEMA.hash()


def test_the_stability_index_sees_a_shift_and_nothing_else() -> None:
    before = FeatureHistogram.of(rows(0, 5000).features)
    same = before.stability_index(FeatureHistogram.of(rows(0, 5000).features[::2]))
    assert same.max() < 0.02
    shifted = rows(0, 5000).features.copy()
    shifted[:, 0] += 1
    moved = before.stability_index(FeatureHistogram.of(shifted))
    assert moved[0] > 0.25
    assert moved[1:].max() == 0
    with pytest.raises(DataError, match="0 rows"):
        before.stability_index(FeatureHistogram(np.zeros((4, BINS), dtype=np.int64)))


def test_the_histogram_of_quantiles_is_that_of_the_scaled_rows() -> None:
    """Drift is told from the same counts: a value's bin of the grid says which bin its scaled value falls into."""
    data = rows(2, 3000)
    counted = Preprocessing.from_counts(FeatureCounts.of(data.features, SCHEMA), SCHEMA)
    assert np.array_equal(counted.histogram.counts, FeatureHistogram.of(counted.apply(data).features).counts)
    shifted = data.features.copy()
    shifted[:, 2] *= 10
    new = FeatureHistogram.of(counted.scaler.transform(shifted))
    index = counted.histogram.stability_index(new)
    assert index[2] > 0.25
    assert np.delete(index, 2).max() == 0
