"""Shamir sharing: its two properties, known answers, and what corrupt shares may and may not do.

pycryptodome's sharing is over GF(2^128), so no share of it means anything here. What stands in for it: shares that
another program made over the same prime field, and values that a computer algebra system worked out.
"""

import hashlib
import itertools
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.masking import shamir
from shared.masking.errors import RoundAbandonedError
from shared.masking.shamir import PRIME, Rebuilder, evaluate, lagrange_at_zero, split

# Shares, x = 1 to 6, of two secrets with t = 4, made once by the package `shamirs` 4.0.0 for the modulus 2**256 + 297.
# The second secret is the largest that there is.
FOREIGN_SHARES = {
    "20e18dd9752c4dd88526af94b8865bc2df5c78b743102279a8ebad9a4fd0327c": [
        0x00A26B469FDBF2F1178A2F8AF2FAD600139B20494F0207C4DF7D8F424A057A87EF,
        0x00C62B75442E58D7F1024E6836A0AA9372032E2F6497016BA8201D725E89751759,
        0x00DA7A634779E68686FACF8F642E6732A4A7654EF21523F851DBBB1BA596E678F1,
        0x002DB05A2ACC2480FB80FF4880286EFA7217A4CBF18F964C5AFB8D1BECE8F543C5,
        0x000E25A36F329B4B70A229DB8F132507A0E3CBCA5D197F4941CAB851023AC81135,
        0x00CA328895BAD36A086B9B909572EC76F79BB96E2EC605D084946198B347857978,
    ],
    "ff" * 32: [
        0x00B9027BFD921D66E640831861AA932ED99610D2D6DB047EA447F71918BC542C51,
        0x00C97528DE2679E4BEA9BCD83D07816967DDCD6FAADB34D8BDC7624A1517C73A23,
        0x00DBA082929C0C9224C54024D0A4E312D850D4A7573525635FF4A63091EC56AD20,
        0x0099CD050BD1CC87B41C9FE35B10D08E5868C54AB71D6A739E46276A2C140008F3,
        0x00AE432C3AA6B0DE08396EF91AD9623F159F3E2AA5C8985E8C324A948068C0D270,
        0x00C34B740FF9B0ADBCA5404B4E8CB0883D6DDE17FE6B43793D2F744D2BC4968D42,
    ],
}


def is_prime(n: int) -> bool:
    """Miller-Rabin with 40 random bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(40):
        x = pow(secrets.randbelow(n - 3) + 2, odd, n)
        if x not in (1, n - 1) and not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_field_is_prime_and_holds_every_secret() -> None:
    assert is_prime(PRIME)
    assert 2**256 < PRIME < 2**264


def test_known_answer() -> None:
    # 1234 + 166 x + 94 x^2, the worked example of the Wikipedia article on secret sharing.
    assert [evaluate([1234, 166, 94], x) for x in range(1, 7)] == [1494, 1942, 2578, 3402, 4414, 5614]
    values = {2: 1942, 4: 3402, 5: 4414}
    assert Rebuilder(3).rebuild("owner", values, lambda _: True) == (1234).to_bytes(32)


def test_known_answer_as_wide_as_the_field() -> None:
    # SHA-256 of "0" to "3" as coefficients; the values are sympy's, `Poly(..., domain=GF(PRIME)).eval(x)`.
    coefficients = [int.from_bytes(hashlib.sha256(str(i).encode()).digest()) for i in range(4)]
    assert [evaluate(coefficients, x) for x in (1, 2, 100)] == [
        0x00EDEE3C9A881A5E94B7CB57EED72EEC8122DC912DCCC0AEAE658E0ECDF54AFD0E,
        0x00F901CD62ADA1A1129B970CDF910A7C9D0E603CF6B0B04B8670AC08EA94FDB2CD,
        0x00635EAE2E2D568851A93FF4BD355B4FDC87149396E0EE09205BDCDEDBEF0CBCDA,
    ]


@pytest.mark.parametrize("secret", FOREIGN_SHARES)
def test_shares_that_another_program_made(secret: str) -> None:
    shares = dict(enumerate(FOREIGN_SHARES[secret], 1))
    for subset in itertools.combinations(shares, 4):
        rebuilt = Rebuilder(4).rebuild("owner", {x: shares[x] for x in subset}, lambda _: True)
        assert rebuilt == bytes.fromhex(secret)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\0" * 31 + b"\1", secrets.token_bytes(32)], ids=range(4))
def test_every_set_of_t_shares_rebuilds(secret: bytes) -> None:
    shares = dict(enumerate(split(secret, 3, 6), 1))
    for subset in itertools.combinations(shares, 3):
        assert Rebuilder(3).rebuild("owner", {x: shares[x] for x in subset}, lambda _: True) == secret


def test_fewer_than_t_shares_fit_every_secret() -> None:
    shares = split(secrets.token_bytes(32), 3, 5)
    for guess in (0, 1, PRIME - 1):
        # Whatever the secret is guessed to be, one polynomial of degree 2 passes through it and two of the shares.
        third = _through({0: guess, 1: shares[0], 2: shares[1]}, 3)
        completed = {1: shares[0], 2: shares[1], 3: third}
        coefficients = lagrange_at_zero([1, 2, 3])
        assert sum(c * completed[x] for c, x in zip(coefficients, (1, 2, 3), strict=True)) % PRIME == guess


def _through(points: dict[int, int], at: int) -> int:
    total = 0
    for x, y in points.items():
        for other in points:
            if other != x:
                y = y * (at - other) * pow(x - other, -1, PRIME) % PRIME
        total += y
    return total % PRIME


def test_one_share_is_uniform_whatever_the_secret() -> None:
    # The top four bits of a share of the zero secret; without random coefficients all would be alike.
    counts = [0] * 16
    for _ in range(4000):
        counts[split(bytes(32), 2, 2)[0] * 16 // PRIME] += 1
    chi_square = sum((count - 250) ** 2 / 250 for count in counts)
    assert chi_square < 80  # 15 degrees of freedom: p < 1e-9


@settings(max_examples=40)
@given(st.integers(2, 9), st.data())
def test_liars_among_enough_honest_holders(threshold: int, data: st.DataObject) -> None:
    honest = data.draw(st.integers(threshold, threshold + 2))
    liars = data.draw(st.integers(0, 2))
    secret = secrets.token_bytes(32)
    shares = dict(enumerate(split(secret, threshold, honest + liars), 1))
    for x in data.draw(st.permutations(list(shares)))[:liars]:
        shares[x] = secrets.randbelow(PRIME)
    assert Rebuilder(threshold).rebuild("owner", shares, secret.__eq__) == secret


def test_a_good_subset_is_kept_for_the_next_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shamir, "MAX_EXTRA_SUBSETS", 30)
    rebuilder = Rebuilder(6)
    for _ in range(50):  # each alone may need up to C(8, 6) = 28 sets; only the first has to search
        secret = secrets.token_bytes(32)
        shares = dict(enumerate(split(secret, 6, 8), 1)) | {1: 5, 2: 7}
        assert rebuilder.rebuild("owner", shares, secret.__eq__) == secret


def test_too_few_honest_shares() -> None:
    secret = secrets.token_bytes(32)
    shares = dict(enumerate(split(secret, 4, 5), 1))
    with pytest.raises(RoundAbandonedError, match="fits what it committed to"):
        Rebuilder(4).rebuild("owner", shares | {1: 1, 2: 2}, secret.__eq__)
    with pytest.raises(RoundAbandonedError, match="3 shares"):
        Rebuilder(4).rebuild("owner", {x: shares[x] for x in (1, 2, 3)}, secret.__eq__)


def test_the_search_among_many_shares_is_bounded() -> None:
    tried = 0

    def refuse(_secret: bytes) -> bool:
        nonlocal tried
        tried += 1
        return False

    rebuilder = Rebuilder(20)
    for _ in range(2):
        with pytest.raises(RoundAbandonedError, match="fits what it committed to"):
            rebuilder.rebuild("owner", dict(enumerate(split(bytes(32), 20, 30), 1)), refuse)
    assert tried <= shamir.MAX_EXTRA_SUBSETS + 2


def test_many_shares_with_a_liar_are_found_by_random_sets() -> None:
    secret = secrets.token_bytes(32)
    shares = dict(enumerate(split(secret, 20, 30), 1)) | {3: 0, 11: 1}
    assert Rebuilder(20).rebuild("owner", shares, secret.__eq__) == secret


@pytest.mark.parametrize(("length", "threshold", "holders"), [(31, 2, 3), (33, 2, 3), (32, 0, 3), (32, 4, 3)])
def test_split_refuses(length: int, threshold: int, holders: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        split(bytes(length), threshold, holders)
