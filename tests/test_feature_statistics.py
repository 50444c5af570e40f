"""Private scaling: exact sums of feature statistics under each scheme, equal to the scaling of pooled rows."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.common import Code, GetPropertiesIns, GetPropertiesRes, Scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from client.feature_statistics import ScaledData
from client.flower_client import TenantClient
from orchestrator.admission import Admission
from orchestrator.aggregation import Aggregation, PlainAggregation
from orchestrator.aggregator import Aggregator
from orchestrator.feature_statistics import StatisticsCollector
from orchestrator.masked_round import MaskedAggregation
from orchestrator.provision import provision
from orchestrator.roster import Roster
from shared.config import Config, parse_config
from shared.data_sources.scaling import FeatureSums, Scaler
from shared.data_sources.schema import FeatureSchema, Kind
from shared.data_utils import ClientData, Dataset, load_client_data, load_schema
from shared.errors import DataError, EncodingError, RoundRefusedError, StatisticsError
from shared.feature_statistics import HISTOGRAM, MOMENTS, StatisticsCode
from shared.he.fixed_point import FixedPoint
from shared.he.paillier import PaillierPrivate
from shared.he_utils import make_keys
from shared.identity import ClientIdentity
from shared.limbs import LimbCode
from shared.masking import RoundTerms, modulus_digest
from shared.preprocessing import BINS, FeatureHistogram, Preprocessing
from tests.test_early_stopping import InProcess

SESSION = "5c" * 16
RUN = "20260101-000000-abcdef"
FEW_BITS: dict[str, Any] = {"he_key_length": 512, "allow_insecure_key": True}
KINDS: tuple[Kind, ...] = ("numeric", "category", "numeric", "cyclic")
SCHEMA = FeatureSchema("csv", ("a", "b=1", "c", "d"), KINDS, 0, 0, ())


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
    """A collector and its clients, with nothing but a function call between them."""

    def __init__(self, config: Config, parts: list[ClientData], folder: Path | None = None) -> None:
        self.parts = parts
        self.keys = make_keys(config)
        admission = Admission(config.enrolled_clients, SESSION) if config.enrolled_clients else None
        aggregator = Aggregator(self.keys, config.fewest_contributors, config.num_clients, config.weighting, admission)
        aggregation: Aggregation = PlainAggregation()
        if config.masked:
            assert isinstance(self.keys, PaillierPrivate)
            assert admission is not None
            aggregation = MaskedAggregation(config, self.keys.public, admission)
        roster = Roster(RUN, SESSION, admission, self.keys.key_proof())
        self.clients = []
        for index, part in enumerate(parts):
            identity = None
            if folder is not None:
                identity = ClientIdentity.load(folder / f"clients/client-{index}.key", f"client-{index}")
            self.clients.append(TenantClient(config, index, part, identity))
            roster.register(InProcess(self.clients[-1], f"cid-{index}"))
        roster.gather(len(parts), 10)
        encryption: dict[str, Scalar] = {
            "public_key": self.keys.public.public_bytes(),
            "encoding": self.keys.public.encoding_name,
            "max_contributors": config.num_clients,
        }
        self.collector = StatisticsCollector(config, aggregator, aggregation, roster, parts[0].schema, encryption)

    def expected(self) -> Preprocessing:
        return Preprocessing.pooled(self.parts[0].schema, [part.train for part in self.parts])


def generated(count: int = 3) -> list[ClientData]:
    return [ClientData(SCHEMA, rows(seed, 40 + seed, 1.0 + seed), rows(seed + 9)) for seed in range(count)]


def assert_equal(found: Preprocessing, expected: Preprocessing) -> None:
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
    "none": {"he_scheme": "none"},
    "ckks": {"he_scheme": "ckks"},
}


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_the_encrypted_sums_give_the_scaling_of_all_rows_together(scheme: str) -> None:
    if scheme == "ckks":
        pytest.importorskip("tenseal", reason="he_scheme ckks needs the extra [ckks]")
    federation = Federation(Config(num_features=4, **SCHEMES[scheme]), generated())
    found = federation.collector.collect()
    assert_equal(found, federation.expected())
    pooled = np.concatenate([part.train.features for part in federation.parts])
    reference = StandardScaler().fit(pooled[:, [0, 2]].astype(np.float64))
    np.testing.assert_allclose(found.scaler.mean, reference.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.scaler.variance, reference.var_, rtol=1e-6)


def masked_config(folder: Path, clients: int = 4, **more: Any) -> Config:
    provision(folder / "pki", clients, [])
    return parse_config(
        FEW_BITS
        | {
            "num_features": 4, "num_clients": clients, "log_dir": str(folder), "stage_timeout": 5.0,
            "enrolled_clients": str(folder / "pki/enrolled.json"),
            "client_identity": str(folder / "pki/clients/client-{client_id}.key"), **more,
        }
    )  # fmt: skip


def test_masked_and_signed_sums_are_the_same(tmp_path: Path) -> None:
    federation = Federation(masked_config(tmp_path), generated(4), tmp_path / "pki")
    assert_equal(federation.collector.collect(), federation.expected())


def test_one_client_s_statistics_stay_closed_to_the_private_key_where_they_are_masked(tmp_path: Path) -> None:
    """What the key opens of one client is a number in Z_n that packs no statistics; without masks it packs them."""
    opened = {}
    for mode in ("none", "masked"):
        folder = tmp_path / mode
        federation = Federation(masked_config(folder, secure_aggregation=mode), generated(4), folder / "pki")
        keys = federation.keys
        assert isinstance(keys, PaillierPrivate)
        payloads: list[bytes] = []
        answer = federation.clients[0].get_properties

        def spy(ins: GetPropertiesIns, answer: Any = answer, payloads: list[bytes] = payloads) -> GetPropertiesRes:
            result: GetPropertiesRes = answer(ins)
            if ins.config.get("statistic") == MOMENTS:
                payload = result.properties["payload"]
                assert isinstance(payload, bytes)
                payloads.append(payload)
            return result

        federation.clients[0].get_properties = spy  # type: ignore[method-assign]
        federation.collector.collect()
        code = StatisticsCode(federation.clients[0].config, SCHEMA)
        count, width = keys.public.layout(code.sizes[MOMENTS])
        blobs = _blobs(payloads[0], count, width)
        plaintexts = keys.decrypt_plaintexts(keys.public.from_bytes(blobs))
        try:
            opened[mode] = code.decode_moments(keys.public.encoding.unpack(plaintexts, code.sizes[MOMENTS], 1)).count
        except EncodingError:
            opened[mode] = -1
    assert opened == {"none": len(generated()[0].train), "masked": -1}


def _blobs(payload: bytes, count: int, width: int) -> list[bytes]:
    _, blobs = pickle.loads(payload)  # made by this test
    assert len(blobs) == count
    assert {len(blob) for blob in blobs} == {width}
    return list(blobs)


def test_real_records_of_clients_that_know_one_attack_family_each(nsl_kdd_folder: Path) -> None:
    source: dict[str, Any] = {"data_source": "nsl_kdd", "data_path": str(nsl_kdd_folder), "num_features": 122}
    config = Config(**source, partition="family", **FEW_BITS)
    federation = Federation(config, [load_client_data(config, client) for client in range(3)])
    found = federation.collector.collect()
    assert_equal(found, federation.expected())
    pooled = np.concatenate([part.train.features for part in federation.parts])
    reference = StandardScaler().fit_transform(pooled[:, :38].astype(np.float64))
    scaled = found.scaler.transform(pooled)[:, :38]
    np.testing.assert_allclose(scaled, np.clip(reference, -10, 10), atol=1e-4)


whole = st.integers(-(2**100), 2**100)


@given(st.lists(whole, min_size=3, max_size=3), st.integers(1, 30), st.integers(0, 4))
@settings(deadline=None, max_examples=60)
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
    code = StatisticsCode(Config(), SCHEMA)
    with pytest.raises(DataError, match="too large"):
        code.encode_moments(FeatureSums(1, np.array([1.0, 2.0**90]), np.zeros(2)))


def test_counts_that_no_rows_have_are_refused() -> None:
    code = StatisticsCode(Config(), SCHEMA)
    good = FeatureHistogram.of(rows(1).features)
    assert np.array_equal(code.decode_histogram(code.encode_histogram(good)).counts, good.counts)
    for change in (-100, 1):
        counts = good.counts.copy()
        counts[1, BINS - 1] += change
        with pytest.raises(EncodingError, match="none that rows can have"):
            code.decode_histogram(code.encode_histogram(FeatureHistogram(counts)))
    with pytest.raises(EncodingError, match="over 0"):
        code.decode_moments(code.encode_moments(FeatureSums(0, np.zeros(2), np.zeros(2))))


def test_a_client_that_fails_is_left_out_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("orchestrator"), "propagate", True)
    federation = Federation(Config(num_features=4, num_clients=4, **FEW_BITS), generated(4))
    federation.clients[2]._data = None  # type: ignore[assignment]
    found = federation.collector.collect()
    federation.parts.pop(2)
    assert_equal(found, federation.expected())
    assert "client 2 is left out" in caplog.text


def test_without_enough_clients_there_is_no_sum() -> None:
    federation = Federation(Config(num_features=4, **FEW_BITS), generated())
    for client in federation.clients[1:]:
        client._data = None  # type: ignore[assignment]
    with pytest.raises(StatisticsError, match="1 valid updates; at least 2"):
        federation.collector.collect()


def test_a_client_with_other_features_refuses_and_says_how_they_differ() -> None:
    data = ScaledData(Config(num_features=4), generated()[0])
    other = FeatureSchema("csv", ("a", "b=1", "x", "d"), KINDS, 0, 0, ())
    with pytest.raises(RoundRefusedError, match=r"only here: c; only there: x"):
        data.about(MOMENTS, other.to_json(), b"")
    with pytest.raises(RoundRefusedError, match="no feature schema"):
        data.about(MOMENTS, "{}", b"")
    with pytest.raises(RoundRefusedError, match="a statistic 'rows'"):
        data.about("rows", SCHEMA.to_json(), b"")


@pytest.mark.parametrize(
    "scaler",
    [b"", bytes(31), np.array([0, 0, 1, 0.0]).tobytes(), np.array([0, np.nan, 1, 1]).tobytes(),
     np.array([0, 0, -1, 1.0]).tobytes(), np.array([0, 0, np.inf, 1.0]).tobytes()],
)  # fmt: skip
def test_a_scaler_that_no_rows_have_is_refused_by_the_client(scaler: bytes) -> None:
    with pytest.raises(RoundRefusedError, match="the server sent a scaler"):
        ScaledData(Config(num_features=4), generated()[0]).scaled(scaler)


def test_a_client_answers_the_request_for_statistics_of_too_small_a_cohort_with_a_refusal() -> None:
    federation = Federation(Config(num_features=4, **FEW_BITS), generated())
    request: dict[str, Scalar] = {
        "stage": "statistics", "statistic": MOMENTS, "round": 1, "cohort": 1, "schema": SCHEMA.to_json(),
        "scaler": b"", "public_key": federation.keys.public.public_bytes(), "max_contributors": 3,
        "encoding": federation.keys.public.encoding_name,
    }  # fmt: skip
    answer = federation.clients[0].get_properties(GetPropertiesIns(request))
    assert answer.status.code != Code.OK
    assert "the sum would show too much of mine" in answer.status.message
    assert not answer.properties


def test_each_sum_has_a_context_and_so_masks_of_its_own() -> None:
    contexts = {
        RoundTerms(bytes(16), 1, bucket, modulus_digest(15), 3, 3, 10, bytes(32)).context()
        for bucket in ("weights", MOMENTS, HISTOGRAM)
    }
    assert len(contexts) == 3


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
