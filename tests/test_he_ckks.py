"""What is particular to CKKS: its noise, its own wire form against hostile bytes, and the key that travels."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tenseal as ts
from numpy.typing import NDArray

from orchestrator.aggregator import Aggregator
from shared.config import parse_config
from shared.errors import CiphertextError, ConfigError, EncodingError, KeyMaterialError, MissingDependencyError
from shared.he import ckks
from shared.he.ckks import DEGREE, SLOTS, CkksPrivate, CkksPublic
from shared.he.fixed_point import FixedPoint
from shared.he_utils import make_keys, public_scheme
from shared.weighting import Limits, average
from shared.wire import dump_update

CONFIG = parse_config({"he_scheme": "ckks", "he_integer_bits": 2, "num_clients": 3})


@pytest.fixture(scope="module")
def keys() -> CkksPrivate:
    scheme = make_keys(CONFIG)
    assert isinstance(scheme, CkksPrivate)
    return scheme


@pytest.fixture(scope="module")
def honest(keys: CkksPrivate) -> bytes:
    """One ciphertext of three values."""
    parts = keys.public.to_bytes(keys.public.encrypt(np.array([0.5, -1.0, 3.0])).ciphertexts)
    return parts.ciphertexts[0]


def sum_of(public: CkksPublic, vectors: list[NDArray[np.float64]]) -> list[NDArray[np.uint64]]:
    total = public.encrypt(vectors[0]).ciphertexts
    for vector in vectors[1:]:
        total = public.add(total, public.encrypt(vector).ciphertexts)
    return total


class TestNoise:
    def test_it_is_what_the_tolerance_is_derived_from(self, keys: CkksPrivate) -> None:
        vectors = [np.random.default_rng(seed).uniform(-4, 4, 5 * SLOTS) for seed in range(3)]
        decrypted = keys.decrypt_sum(sum_of(keys.public, vectors), 5 * SLOTS, 3)
        errors = (decrypted - np.sum(vectors, axis=0)) * 2.0**keys.public.parameters.scale_bits
        expected = ckks._NOISE_DEVIATION * np.sqrt(3)
        assert 0.9 * expected < errors.std() < 1.1 * expected
        assert np.abs(errors).max() > 5 * errors.std(), "a normal tail would allow a smaller bound"

    @pytest.mark.parametrize(("precision", "integer", "contributors"), [(1, 0, 2), (16, 2, 4), (16, 22, 3), (36, 2, 4)])
    def test_full_sums_at_the_edge_of_the_range_stay_precise(
        self, precision: int, integer: int, contributors: int
    ) -> None:
        keys = CkksPrivate.generate(FixedPoint(precision, integer), contributors)
        for edge in (2.0**integer, -(2.0**integer)):
            decrypted = keys.decrypt_sum(sum_of(keys.public, [np.full(10, edge)] * contributors), 10, contributors)
            np.testing.assert_allclose(decrypted, contributors * edge, rtol=0, atol=2.0 ** -(precision + 1))

    def test_the_tolerance_is_half_a_fixed_point_step_at_most(self) -> None:
        for contributors in (2, 3, 5, 100, 10_000):
            public = CkksPrivate.generate(FixedPoint(14, 2), contributors).public
            assert 2**-17 < public.tolerance(contributors) <= 2**-15

    def test_settings_beyond_one_prime_are_an_error(self) -> None:
        with pytest.raises(ConfigError, match="lower he_precision_bits"):
            make_keys(parse_config({"he_scheme": "ckks", "he_precision_bits": 48}))


def test_values_saturate_and_are_counted(keys: CkksPrivate) -> None:
    encrypted = keys.public.encrypt(np.array([100.0, -100.0, 4.0, 0.0]))
    assert encrypted.saturated == 2
    np.testing.assert_allclose(keys.decrypt_sum(encrypted.ciphertexts, 4, 1), [4, -4, 4, 0], rtol=0, atol=2**-17)


def test_two_encryptions_of_one_delta_differ(keys: CkksPrivate) -> None:
    first, second = (keys.public.encrypt(np.zeros(3)).ciphertexts[0] for _ in range(2))
    assert np.count_nonzero(first == second) < DEGREE // 100


def test_addition_is_tenseals_own(keys: CkksPrivate) -> None:
    scale_bits = keys.public.parameters.scale_bits
    a, b = (keys.public.encrypt(np.linspace(-1, 1, 9)).ciphertexts for _ in range(2))
    x, y = (ckks._tenseal_vector(keys._private_context, c, scale_bits) for c in (a, b))
    (theirs,) = (x + y).ciphertext()
    np.testing.assert_array_equal(ckks._residues(theirs, primes=1)[:, 0], keys.public.add(a, b)[0])


class TestHostileCiphertexts:
    """The length and the numbers' range are all that a sender can get wrong before decryption."""

    @pytest.mark.parametrize(
        ("tamper", "reason"),
        [
            (lambda blob: b"", "0 bytes"),
            (lambda blob: blob[:-1], "bytes; expected"),
            (lambda blob: blob + b"\0", "bytes; expected"),
            (lambda blob: blob[: len(blob) // 2], "bytes; expected"),  # one polynomial of two
            (lambda blob: blob + blob[: len(blob) // 2], "bytes; expected"),  # three, as after a multiplication
            (lambda blob: bytes(len(blob)), "polynomial is zero"),
            (lambda blob: blob[: len(blob) // 2] + bytes(len(blob) // 2), "polynomial is zero"),  # values in the clear
            (lambda blob: b"\xff" * len(blob), "not below the modulus"),
            (lambda blob: blob[:-5] + b"\xff" * 5, "not below the modulus"),
        ],
    )
    def test_malformed_bytes_are_refused(
        self, keys: CkksPrivate, honest: bytes, tamper: Callable[[bytes], bytes], reason: str
    ) -> None:
        with pytest.raises(CiphertextError, match=f"ciphertext 1: .*{reason}"):
            keys.public.from_bytes([honest, tamper(honest)])

    def test_tenseals_own_serialisation_is_refused_unread(self, keys: CkksPrivate) -> None:
        with pytest.raises(CiphertextError, match="bytes; expected"):
            keys.public.from_bytes([ts.ckks_vector(keys._private_context, [1.0], 2.0**33).serialize()])

    @pytest.mark.parametrize("size", [1, 3, SLOTS])
    def test_a_flipped_bit_is_a_ciphertext_of_garbage_and_spoils_the_sum_aloud(
        self, keys: CkksPrivate, size: int
    ) -> None:
        (blob,), _ = keys.public.to_bytes(keys.public.encrypt(np.zeros(size)).ciphertexts)
        for position in np.random.default_rng(1).integers(0, len(blob), 5):
            flipped = bytearray(blob)
            flipped[position] ^= 1
            with pytest.raises((EncodingError, CiphertextError)):
                keys.decrypt_sum(keys.public.from_bytes([bytes(flipped)]), size, 1)

    def test_random_numbers_decrypt_to_an_error_and_never_crash(self, keys: CkksPrivate) -> None:
        random = np.random.default_rng(2)
        for _ in range(20):
            numbers = random.integers(0, keys.public.parameters.moduli[0], (2, DEGREE), dtype=np.uint64)
            sent = keys.public.from_bytes(*keys.public.to_bytes([numbers]))
            with pytest.raises(EncodingError, match="beyond what 2 honest updates"):
                keys.decrypt_sum(keys.public.add(sent, sent), 1, 2)

    def test_another_keys_ciphertext_is_garbage(self, keys: CkksPrivate) -> None:
        other = make_keys(CONFIG).public
        sent = keys.public.from_bytes(*other.to_bytes(other.encrypt(np.zeros(3)).ciphertexts))
        with pytest.raises(EncodingError, match="beyond what 1 honest"):
            keys.decrypt_sum(sent, 3, 1)

    def test_a_larger_scale_is_a_larger_value(self, keys: CkksPrivate) -> None:
        # The scale does not travel, so a client that encrypts at another one has sent other values, no more.
        context, scale = keys.public._context, 2.0**keys.public.parameters.scale_bits
        (encrypted,) = ts.ckks_vector(context, [3.0] + [0.0] * (SLOTS - 1), 16 * scale).ciphertext()
        sent = keys.public.from_bytes(*keys.public.to_bytes([ckks._residues(encrypted, primes=1)[:, 0]]))
        with pytest.raises(EncodingError, match="value 0 of the sum"):
            keys.decrypt_sum(sent, 1, 1)

    def test_values_in_the_padding_are_refused(self, keys: CkksPrivate) -> None:
        sent = keys.public.encrypt(np.array([0.5, 0.5])).ciphertexts
        with pytest.raises(EncodingError, match="value 1 of the sum"):
            keys.decrypt_sum(sent, 1, 1)

    def test_two_clients_whose_ciphertexts_cancel_do_no_harm(self, keys: CkksPrivate) -> None:
        # SEAL's own addition raises here, after both were accepted.
        a = keys.public.encrypt(np.array([1.0])).ciphertexts
        opposite = [np.uint64(keys.public.parameters.moduli[0]) - a[0]]
        total = keys.public.add(a, keys.public.from_bytes(*keys.public.to_bytes(opposite)))
        assert not total[0].any()
        assert keys.decrypt_sum(total, 1, 2) == pytest.approx([0.0], abs=2**-17)

    def test_a_sum_of_more_than_it_is_sized_for_is_refused(self, keys: CkksPrivate) -> None:
        with pytest.raises(EncodingError, match="num_clients"):
            keys.decrypt_sum(keys.public.encrypt(np.zeros(1)).ciphertexts, 1, 4)

    def test_a_wrong_count_is_refused(self, keys: CkksPrivate) -> None:
        with pytest.raises(EncodingError, match="expected 2"):
            keys.decrypt_sum(keys.public.encrypt(np.zeros(SLOTS)).ciphertexts, SLOTS + 1, 1)


class TestPublicKey:
    def test_it_cannot_decrypt(self, keys: CkksPrivate) -> None:
        assert not keys.public._context.has_secret_key()
        vector = ckks._tenseal_vector(keys.public._context, keys.public.encrypt(np.zeros(3)).ciphertexts, 33)
        with pytest.raises(ValueError, match="doesn't hold a secret_key"):
            vector.decrypt()

    def test_what_travels_is_the_public_key_and_nothing_more(self, keys: CkksPrivate) -> None:
        bits = keys.public.parameters.modulus_bits + ckks.SPECIAL_BITS
        assert len(keys.public.public_bytes()) == len(keys.public.parameters.header) + 2 * DEGREE * bits // 8

    def test_a_context_with_a_secret_key_is_refused(self, keys: CkksPrivate) -> None:
        honest = keys.public.public_bytes()
        whole = keys._private_context.serialize(save_secret_key=True)
        for data in (whole, honest + whole, keys._private_context.serialize(), whole[: len(honest)]):
            with pytest.raises(KeyMaterialError, match="not one of this side's parameters"):
                public_scheme(CONFIG, data, CONFIG.num_clients)

    @pytest.mark.parametrize("change", [{"he_precision_bits": 15}, {"he_integer_bits": 3}, {"num_clients": 100}])
    def test_other_parameters_are_refused(self, keys: CkksPrivate, change: dict[str, Any]) -> None:
        theirs = parse_config({"he_scheme": "ckks", "num_clients": 3, **change})
        with pytest.raises(KeyMaterialError, match="he_precision_bits"):
            public_scheme(theirs, keys.public.public_bytes(), theirs.num_clients)

    def test_the_scale_is_compared_even_where_the_modulus_is_the_same(self, keys: CkksPrivate) -> None:
        theirs = parse_config({"he_scheme": "ckks", "num_clients": 3, "he_precision_bits": 15, "he_integer_bits": 3})
        assert len(make_keys(theirs).public.public_bytes()) == len(keys.public.public_bytes())
        with pytest.raises(KeyMaterialError, match="he_precision_bits"):
            public_scheme(theirs, keys.public.public_bytes(), theirs.num_clients)

    def test_malformed_keys_are_refused(self, keys: CkksPrivate) -> None:
        honest, header = keys.public.public_bytes(), keys.public.parameters.header
        body = len(honest) - len(header)
        for data in (b"", honest[:-1], honest + b"\0", header + bytes(body), header + b"\xff" * body):
            with pytest.raises(KeyMaterialError):
                public_scheme(CONFIG, data, CONFIG.num_clients)


def test_without_tenseal_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    monkeypatch.delitem(sys.modules, "shared.he.ckks")
    with pytest.raises(MissingDependencyError, match=r'pip install -e "\.\[ckks\]"'):
        make_keys(CONFIG)


def test_a_round_gives_the_average_of_the_plain_twin(keys: CkksPrivate) -> None:
    """Two ciphertexts a client, through the wire format and the aggregator; one client sends a malformed one."""
    size = SLOTS + 7
    deltas = np.random.default_rng(3).normal(0, 0.1, (3, size))
    round_sum = Aggregator(keys, min_contributors=2, max_contributors=3).open_round(1, size)
    client = public_scheme(CONFIG, keys.public.public_bytes(), CONFIG.num_clients)
    for index, delta in enumerate(deltas):
        blobs, _ = client.to_bytes(client.encrypt(delta).ciphertexts)
        if index == 1:
            with pytest.raises(CiphertextError, match="ciphertext 1: a polynomial is zero"):
                round_sum.add("1", dump_update(round_sum.header, [blobs[0], bytes(keys.public.width)]))
        round_sum.add(str(index), dump_update(round_sum.header, blobs))
    mean = average(round_sum.decrypt_sum(), len(deltas), "uniform", Limits.of(CONFIG))
    assert round_sum.contributors == ["0", "1", "2"]
    np.testing.assert_allclose(mean, deltas.mean(axis=0), rtol=0, atol=2**-17 / 3)
