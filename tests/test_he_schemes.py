"""One conformance class that every HE scheme must pass, and what bites in `phe`."""

import hashlib
from typing import Any

import numpy as np
import phe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phe import EncryptedNumber, PaillierPublicKey

from shared.config import Config, parse_config
from shared.errors import ConfigError, EncodingError, Flaw, KeyMaterialError, MissingDependencyError
from shared.he.paillier import PaillierPrivate, PaillierPublic
from shared.he.scheme import PrivateScheme
from shared.he_utils import make_keys, public_scheme
from tests.breaking import breaks

SETTINGS: dict[str, dict[str, Any]] = {
    "paillier": {"he_scheme": "paillier", "he_key_length": 512, "allow_insecure_key": True},
    "paillier-unpacked": {
        "he_scheme": "paillier",
        "he_key_length": 512,
        "allow_insecure_key": True,
        "he_packing": False,
    },
    "kahe": {"he_scheme": "kahe", "he_key_length": 512, "allow_insecure_key": True},
    "none": {"he_scheme": "none"},
}


CONTEXT = hashlib.sha256(b"a task").digest()


@pytest.fixture(scope="module", params=SETTINGS)
def config(request: pytest.FixtureRequest) -> Config:
    return parse_config({"num_clients": 5, **SETTINGS[request.param]})


@pytest.fixture(scope="module")
def keys(config: Config) -> PrivateScheme[Any]:
    return make_keys(config)


def vectors(values: Any) -> Any:
    return st.integers(1, 6).flatmap(
        lambda size: st.lists(st.lists(values, min_size=size, max_size=size), min_size=1, max_size=5)
    )


class TestSchemeConformance:
    @settings(max_examples=30)
    @given(vectors(st.floats(-6, 6, width=32)))
    def test_the_law(self, keys: PrivateScheme[Any], rows: list[list[float]]) -> None:
        """decrypt(sum(encrypt(x_i))) == sum(quantise(x_i))."""
        public = keys.public
        arrays = [np.array(row) for row in rows]
        total = None
        for array in arrays:
            # Through bytes, as on the wire.
            sent = public.from_bytes(*public.to_bytes(public.encrypt(array, CONTEXT).ciphertexts))
            total = sent if total is None else public.add(total, sent)
        assert total is not None
        decrypted = keys.decrypt_sum(total, arrays[0].size, len(arrays), CONTEXT)
        # In long doubles, as `none` adds; the sums of the other schemes' coarse values are exact in any type.
        expected = np.sum([public.quantise(a).astype(np.longdouble) for a in arrays], axis=0).astype(np.float64)
        np.testing.assert_array_equal(decrypted, expected)

    def test_the_layout_is_what_travels(self, keys: PrivateScheme[Any]) -> None:
        for size in (1, 2, 37):
            layout = keys.public.layout(size)
            parts = keys.public.to_bytes(keys.public.encrypt(np.linspace(-1, 1, size), CONTEXT).ciphertexts)
            assert [len(b) for b in parts.ciphertexts] == [layout.width] * layout.ciphertexts
            assert len(parts.block) == layout.block

    def test_a_client_gets_the_same_scheme_from_the_public_bytes(
        self, config: Config, keys: PrivateScheme[Any]
    ) -> None:
        client = public_scheme(config, keys.public.public_bytes(), config.num_clients)
        assert client.fingerprint() == keys.public.fingerprint()
        vector = np.array([0.5, -1.25, 0.0])
        sent = keys.public.from_bytes(*client.to_bytes(client.encrypt(vector, CONTEXT).ciphertexts))
        np.testing.assert_array_equal(keys.decrypt_sum(sent, 3, 1, CONTEXT), vector)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_a_diverged_delta_is_an_error(self, keys: PrivateScheme[Any], bad: float) -> None:
        with pytest.raises(EncodingError, match="training diverged"):
            keys.public.encrypt(np.array([0.0, bad]), CONTEXT)

    def test_public_parts_hold_no_secret(self, keys: PrivateScheme[Any]) -> None:
        assert not [name for name in vars(keys.public) if "private" in name]


@pytest.fixture(scope="module", params=["paillier", "paillier-unpacked"])
def paillier(request: pytest.FixtureRequest) -> PaillierPrivate:
    scheme = make_keys(parse_config(SETTINGS[request.param]))
    assert isinstance(scheme, PaillierPrivate)
    return scheme


def test_values_saturate_and_are_counted(paillier: PaillierPrivate) -> None:
    encrypted = paillier.public.encrypt(np.array([100.0, -100.0, 1.5, 0.0]))
    assert encrypted.saturated == 2
    edge = 2.0 - 2.0**-16
    np.testing.assert_array_equal(paillier.decrypt_sum(encrypted.ciphertexts, 4, 1), [edge, -edge, 1.5, 0.0])


def test_a_sum_beyond_honest_values_is_refused(paillier: PaillierPrivate) -> None:
    poisoned = [paillier.public.public_key.encrypt(10**30)]
    with pytest.raises(EncodingError, match=r"can't add up to|can add up to|unused slot|wider than"):
        paillier.decrypt_sum(poisoned, 1, 2)


def test_two_encryptions_of_one_delta_share_no_ciphertext(paillier: PaillierPrivate) -> None:
    vector = np.zeros(200)
    count = paillier.public.layout(200).ciphertexts
    blobs = [
        blob
        for _ in range(2)
        for blob in paillier.public.to_bytes(paillier.public.encrypt(vector).ciphertexts).ciphertexts
    ]
    assert len(set(blobs)) == 2 * count > 1


@pytest.mark.parametrize(
    "key_bytes",
    [b"", b"\x01" * 64, b"\x00\x7f" + b"\xff" * 63, b"\x00" + b"\xff" * 63 + b"\xfe", b"\x00" * 66],
    ids=len,
)
def test_a_malformed_public_key_is_refused(key_bytes: bytes) -> None:
    with pytest.raises(KeyMaterialError):
        public_scheme(parse_config(SETTINGS["paillier"]), key_bytes, 3)


class TestWhatBitesInPhe:
    """Each of these is a fact about `phe` that the scheme has to know. If one changes, the code beside it may go."""

    def test_decrypting_0_p_and_n_is_silent_garbage_so_they_are_refused_before(self, paillier: PaillierPrivate) -> None:
        private = paillier._key.private_key
        n, n_square = private.public_key.n, private.public_key.nsquare
        honest = paillier.public.encrypt(np.array([0.5])).ciphertexts[0].ciphertext(be_secure=False)
        width = paillier.public.width
        for number in (0, private.p, private.q, n, 2 * n, private.p * 7, n_square, n_square - n):
            private.raw_decrypt(number)  # no error
            with breaks(Flaw.CIPHERTEXT):
                paillier.public.from_bytes([number.to_bytes(width, "big")])
            with breaks(Flaw.CIPHERTEXT):
                paillier.public.from_bytes([honest.to_bytes(width, "big"), number.to_bytes(width, "big")])

    def test_a_shifted_ciphertext_decrypts_alike_so_it_is_refused(self, paillier: PaillierPrivate) -> None:
        private = paillier._key.private_key
        c = paillier.public.encrypt(np.array([0.5])).ciphertexts[0].ciphertext(be_secure=False)
        shifted = c + private.public_key.nsquare
        assert private.raw_decrypt(shifted) == private.raw_decrypt(c)
        if shifted.bit_length() <= 8 * paillier.public.width:
            with breaks(Flaw.CIPHERTEXT):
                paillier.public.from_bytes([shifted.to_bytes(paillier.public.width, "big")])

    def test_one_zero_wipes_out_the_sum(self, paillier: PaillierPrivate) -> None:
        key = paillier.public.public_key
        total = key.encrypt(5) + EncryptedNumber(key, 0, 0)
        assert paillier._key.private_key.raw_decrypt(total.ciphertext(be_secure=False)) != 5

    def test_a_forged_n_square_passes_for_the_same_key_and_takes_over_the_sum(self, paillier: PaillierPrivate) -> None:
        key = paillier.public.public_key
        forged = PaillierPublicKey(key.n)
        forged.nsquare = 7
        assert forged == key
        total = EncryptedNumber(forged, 3, 0) + key.encrypt(5)  # phe computes modulo the left operand's nsquare
        assert total.ciphertext(be_secure=False) < 7

    def test_encrypt_rejects_numpy_scalars(self, paillier: PaillierPrivate) -> None:
        with pytest.raises(TypeError):
            paillier.public.public_key.encrypt(np.int64(5))

    def test_float_exponents_leak_the_size_of_a_value_so_integers_are_used(self, paillier: PaillierPrivate) -> None:
        key = paillier.public.public_key
        assert key.encrypt(1e-9).exponent != key.encrypt(1.0).exponent
        encrypted = paillier.public.encrypt(np.array([1e-9, 1.0, 3.0])).ciphertexts
        assert {c.exponent for c in encrypted} == {0}

    def test_ciphertext_obfuscates_again_unless_told(self, paillier: PaillierPrivate) -> None:
        number = paillier.public.public_key.encrypt(1)
        total = number + number
        first = total.ciphertext(be_secure=False)
        assert first == total.ciphertext(be_secure=False)
        assert first != total.ciphertext()

    def test_without_gmpy2_phe_is_silently_slow_so_it_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, paillier: PaillierPrivate
    ) -> None:

        monkeypatch.setattr(phe.util, "HAVE_GMP", False)
        with pytest.raises(MissingDependencyError, match="gmpy2"):
            make_keys(parse_config(SETTINGS["paillier"]))


def test_phe_decrypts_ours_and_ours_decrypts_phes() -> None:
    """A known answer at a real key length, through both implementations."""
    keys = make_keys(parse_config({"he_key_length": 2048}))
    assert isinstance(keys, PaillierPrivate)
    public, private = keys.public, keys._key.private_key
    vector = np.array([1.0, -1.0, 2.0**-16])
    (ours,) = public.encrypt(vector).ciphertexts
    offset, slot = 1 << 17, 20
    expected = (offset + (1 << 16)) + ((offset - (1 << 16)) << slot) + ((offset + 1) << 2 * slot)
    assert private.decrypt(ours) == expected
    theirs = public.public_key.encrypt(expected)
    np.testing.assert_array_equal(keys.decrypt_sum([theirs], 3, 1), vector)
    np.testing.assert_array_equal(keys.decrypt_sum([theirs + ours], 3, 2), 2 * vector)


def test_preparing_twice_makes_no_more_randomisers_than_one_vector_needs() -> None:
    public = make_keys(parse_config(SETTINGS["paillier"])).public
    assert isinstance(public, PaillierPublic)
    count = public.layout(200).ciphertexts
    for _ in range(3):
        public.prepare(200)
    assert public._randomisers().coming <= count


def test_packing_that_cannot_fit_is_refused_at_start() -> None:
    settings = {"he_key_length": 2048, "he_precision_bits": 48, "he_integer_bits": 5, "num_clients": 3}
    with pytest.raises(ConfigError, match="a slot of 56 bits; expected at most 54"):
        parse_config(settings)
