"""The mask streams: exact sums, uniform residues, and never one stream for two vectors."""

import math
import secrets

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from shared.masking import agreement, stream
from shared.masking.stream import MaskSum
from tests.masking_harness import MODULUS, NAMES, TASK, WORK, Simulation, make_terms

BINS = 16
ROUNDS = 20
PER_ROUND = 20_000


def naive_stream(key: bytes, modulus: int, ciphertexts: int) -> list[int]:
    limbs = -(-(modulus.bit_length() + 128) // 32)
    data = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * limbs * ciphertexts))
    return [int.from_bytes(data[4 * limbs * k : 4 * limbs * (k + 1)], "little") for k in range(ciphertexts)]


@pytest.mark.parametrize("modulus", [3, 2**31 - 1, MODULUS, 2**128 - 1, 2**128 + 1, 2**3072 - 1])
def test_sum_of_streams_is_exact(modulus: int) -> None:
    keys = [secrets.token_bytes(32) for _ in range(9)]
    signs = [1, -1, -1, -1, 1, -1, -1, 1, -1]
    masks = MaskSum(modulus, 5)
    total = [secrets.randbelow(modulus) for _ in range(5)]
    plaintexts = list(total)
    for key, sign in zip(keys, signs, strict=True):
        (masks.add if sign > 0 else masks.subtract)(key)
        total = [a + sign * b for a, b in zip(total, naive_stream(key, modulus, 5), strict=True)]
    assert masks.apply(plaintexts) == [value % modulus for value in total]


def test_carries_at_their_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    for fill in (0, 2**32 - 1):
        monkeypatch.setattr(MaskSum, "_stream", lambda s, _: np.full(s._limbs.shape, fill, dtype="<u4"))  # noqa: B023
        masks = MaskSum(MODULUS, 2)
        value = int.from_bytes(np.full(8, fill, dtype="<u4").tobytes(), "little")
        for _ in range(1000):
            masks.subtract(b"")
        assert masks.apply([1, 2]) == [(1 - 1000 * value) % MODULUS, (2 - 1000 * value) % MODULUS]
        for _ in range(3000):
            masks.add(b"")
        assert masks.apply([1, 2]) == [(1 + 2000 * value) % MODULUS, (2 + 2000 * value) % MODULUS]


def chi_square_z(modulus: int) -> float:
    """How far the masked plaintexts of one client over many rounds are from uniform on Z_n, in standard deviations."""
    counts = [0] * BINS
    for round_number in range(ROUNDS):
        terms = make_terms(3, ciphertexts=PER_ROUND, modulus=modulus, round_number=round_number)
        simulation = Simulation(3, terms, modulus=modulus)
        boxes = simulation.share()
        for value in simulation.clients[NAMES[1]].mask(boxes[NAMES[1]], [0] * PER_ROUND, TASK, WORK):
            counts[value * BINS // modulus] += 1
    expected = ROUNDS * PER_ROUND / BINS
    degrees = BINS - 1
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    return (chi_square - degrees) / math.sqrt(2 * degrees)


# n near 0.7 * 2**64: where reducing 64 bits mod n is most uneven, and so a missing margin most visible.
UNEVEN = int(0.7 * 2**64) | 1


def test_masked_plaintexts_are_uniform() -> None:
    assert abs(chi_square_z(UNEVEN)) < 6


def test_without_the_extra_bits_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "EXTRA_BITS", 0)
    assert chi_square_z(UNEVEN) > 6


def test_every_term_of_the_round_changes_every_key() -> None:
    base = make_terms(3)
    others = [
        base,
        make_terms(3, bucket="scaler"),
        make_terms(3, round_number=2),
        make_terms(3, session=bytes(16)),
        make_terms(3, modulus=MODULUS + 2),
        make_terms(4),
        make_terms(3, n_min=4),
        make_terms(3, ciphertexts=5),
        make_terms(3, task=bytes(32)),
    ]
    secret = secrets.token_bytes(32)
    contexts = [terms.context() for terms in others]
    assert len(set(contexts)) == len(others)
    for derive in (agreement.self_mask_key, agreement.commit):
        assert len({derive(secret, context, owner) for context in contexts for owner in "ab"}) == 2 * len(others)
    pairs = [("a", "b"), ("a", "c"), ("b", "c"), ("a", "bc")]
    assert len({agreement.pair_mask_key(secret, c, *pair) for c in contexts for pair in pairs}) == 4 * len(others)
    boxes = [*pairs, ("b", "a")]
    assert len({agreement.box_key(secret, c, *pair) for c in contexts for pair in boxes}) == 5 * len(others)


def test_keys_of_one_secret_differ_by_purpose() -> None:
    secret, context = secrets.token_bytes(32), make_terms(3).context()
    keys = {
        agreement.pair_mask_key(secret, context, "a", "b"),
        agreement.box_key(secret, context, "a", "b"),
        agreement.self_mask_key(secret, context, "a"),
        agreement.commit(secret, context, "a"),
    }
    assert len(keys) == 4
    assert agreement.pair_mask_key(secret, context, "b", "a") in keys  # a pair is without order


def test_two_vectors_of_one_round_get_unrelated_masks() -> None:
    rounds = [Simulation(3, make_terms(3, bucket=bucket)) for bucket in ("weights", "scaler")]
    masks = []
    for simulation in rounds:
        simulation.mask()
        masks.append(
            [(y - x) % MODULUS for y, x in zip(simulation.masked[NAMES[0]], simulation.vectors[NAMES[0]], strict=True)]
        )
    assert not set(masks[0]) & set(masks[1])
    assert len(set(masks[0])) == 4  # nor one mask for two ciphertexts
