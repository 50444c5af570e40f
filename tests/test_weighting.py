"""Weighting by rows: the mean is the weighted one, and a weight is never in the clear."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from orchestrator.aggregator import Aggregator
from shared.config import parse_config
from shared.errors import ConfigError, EncodingError
from shared.he.scheme import Vector
from shared.he_utils import make_keys
from shared.weighting import Limits, average, encrypted_size, weigh
from shared.wire import dump_update

CONFIG = parse_config(
    {"he_key_length": 512, "allow_insecure_key": True, "weighting": "examples", "max_examples": 1000, "num_clients": 5}
)
KEYS = make_keys(CONFIG)
LIMITS = Limits.of(CONFIG)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 3000), st.floats(-2, 2)), min_size=2, max_size=5))
def test_the_mean_is_weighted_by_rows(clients: list[tuple[int, float]]) -> None:
    vectors = [weigh(np.full(3, value), rows, CONFIG, KEYS.public) for rows, value in clients]
    weights = [min(rows, 1000) / 1000 for rows, _ in clients]
    expected = np.average([value for _, value in clients], weights=weights)
    # Each value and each weight is rounded to 2**-17; the quotient magnifies that by one over the sum of the weights.
    tolerance = 5 * 2.0**-16 / sum(weights)
    np.testing.assert_allclose(weighted_mean(*vectors), np.full(3, expected), atol=tolerance)


def weighted_mean(*vectors: ArrayLike, limits: Limits | None = LIMITS) -> Vector:
    """The average of vectors as they are, weights at the end, through the ciphertexts."""
    round_sum = Aggregator(KEYS, 2, 5).open_round(1, encrypted_size(3, "examples"))
    for index, vector in enumerate(vectors):
        parts = KEYS.public.to_bytes(KEYS.public.encrypt(np.array(vector)).ciphertexts)
        round_sum.add(str(index), dump_update(round_sum.header, *parts))
    return average(round_sum.decrypt_sum(), len(vectors), "examples", limits)


HONEST = [0.001, 0.001, 0.001, 0.02]


def test_one_client_that_lies_about_its_weight_moves_nothing_further_than_the_fixed_point() -> None:
    """One of three moved each parameter by 100: its weight is negative, and the sum of weights next to nothing."""
    liar = [1.9, 1.9, 1.9, -0.03]
    assert np.abs(weighted_mean(HONEST, HONEST, liar, limits=None)).min() > 100  # the broken twin
    with pytest.raises(EncodingError, match="beyond the fixed-point range"):
        weighted_mean(HONEST, HONEST, liar)


@pytest.mark.parametrize("weights", [(0.02, 0.02, -0.04), (0.02, 0.02, -0.03999), (0.02, 0.02, -1.0), (1, 1, 1.5)])
def test_a_sum_of_weights_that_honest_clients_can_not_have_is_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(EncodingError, match="a client lies about its weight"):
        weighted_mean(*([0.0, 0.0, 0.0, weight] for weight in weights))


def test_one_row_among_very_many_still_counts() -> None:
    config = parse_config({"weighting": "examples", "max_examples": 10**12})
    assert weigh(np.ones(1), 1, config, KEYS.public)[-1] == 2.0**-16


def test_the_weight_travels_encrypted_alone() -> None:
    """Two clients that differ in their rows alone send updates of the same length and the same header."""
    payloads = []
    for rows in (1, 999):
        round_sum = Aggregator(KEYS, 2, 5).open_round(1, encrypted_size(3, "examples"))
        vector = weigh(np.zeros(3), rows, CONFIG, KEYS.public)
        payloads.append(dump_update(round_sum.header, *KEYS.public.to_bytes(KEYS.public.encrypt(vector).ciphertexts)))
    width = KEYS.public.layout(4)[1]
    assert len(payloads[0]) == len(payloads[1])
    assert payloads[0][:-width][:40] == payloads[1][:-width][:40]


def test_uniform_sends_the_delta_as_it_is() -> None:
    delta: np.ndarray[Any, Any] = np.array([0.25, -1.0])
    assert weigh(delta, 7, parse_config({}), KEYS.public) is delta
    assert (encrypted_size(5, "uniform"), encrypted_size(5, "examples")) == (5, 6)


def test_a_weight_that_would_saturate_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="weighting examples sends a weight of up to 1"):
        parse_config({"weighting": "examples", "he_integer_bits": 0})
