"""Key pairs: the properties that fast randomisers rest on, and a refusal with its own words for each malformed key."""

import math
import pickle
from collections.abc import Callable

import gmpy2
import pytest
from gmpy2 import mpz
from phe import paillier

from shared.errors import KeyMaterialError
from shared.he.keys import (
    PrivateKeyMaterial,
    PublicKeyMaterial,
    check_private_key,
    check_public_key,
    generate_keypair,
)

BITS = 512
Pair = tuple[PublicKeyMaterial, PrivateKeyMaterial]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return generate_keypair(BITS)


@pytest.mark.parametrize("bits", [128, 510, 512])
def test_a_key_has_exactly_the_length_asked_for_and_blum_primes(bits: int) -> None:
    for _ in range(5):
        public, private = generate_keypair(bits)
        p, q = private.private_key.p, private.private_key.q
        assert public.public_key.n.bit_length() == bits
        assert p * q == public.public_key.n
        assert (p % 4, q % 4) == (3, 3)
        assert gmpy2.is_prime(p)
        assert gmpy2.is_prime(q)
        assert math.gcd(p - 1, q - 1) == 2
        check_private_key(p, q, public.public_key.n)


def test_two_keys_differ() -> None:
    assert generate_keypair(BITS)[0].public_key.n != generate_keypair(BITS)[0].public_key.n


def test_phe_works_with_the_keys(pair: Pair) -> None:
    public, private = pair
    total = public.public_key.encrypt(40) + public.public_key.encrypt(2)
    assert private.private_key.decrypt(total) == 42


@pytest.mark.parametrize("bits", [126, 513])
def test_a_length_that_cannot_be_made_is_refused(bits: int) -> None:
    with pytest.raises(KeyMaterialError, match="expected"):
        generate_keypair(bits)


def test_public_bytes_round_trip_at_a_fixed_width(pair: Pair) -> None:
    public, _ = pair
    blob = public.to_bytes()
    assert blob == b"\0" + public.public_key.n.to_bytes(BITS // 8, "big")
    again = PublicKeyMaterial.from_bytes(blob, BITS)
    assert again.public_key.n == public.public_key.n
    assert again.to_bytes() == blob


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda blob: b"", "unknown version"),
        (lambda blob: b"\x07" + blob[1:], "unknown version"),
        (lambda blob: b"\x01" + blob[1:], "unknown version"),
        (lambda blob: b"\x01" + blob[1:] + blob[1:], "unknown version"),  # a key of the kind that was withdrawn
        (lambda blob: blob[:-1], "bytes; expected"),
        (lambda blob: blob + b"\0", "bytes; expected"),
        (lambda blob: blob[:1] + b"\0" + blob[2:], "bits; expected exactly"),
    ],
)
def test_damaged_public_bytes_are_refused(pair: Pair, damage: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(KeyMaterialError, match=words):
        PublicKeyMaterial.from_bytes(damage(pair[0].to_bytes()), BITS)


def test_a_key_of_other_primes_than_ours_is_refused() -> None:
    n = 0
    while n % 4 != 3:
        n = paillier.generate_paillier_keypair(n_length=BITS)[0].n
    with pytest.raises(KeyMaterialError, match="3 mod 4"):
        PublicKeyMaterial.from_bytes(b"\0" + n.to_bytes(BITS // 8, "big"), BITS)


def _prime(bits: int) -> int:
    return int(gmpy2.next_prime(mpz(3) << (bits - 2)))


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (_prime(256) * _prime(258), "has 514 bits; expected exactly 512"),
        (-_prime(256) * (_prime(256) + 2), "expected exactly 512"),
        (2 * _prime(511), "even"),
        (3 * _prime(510), "prime factor below 65536"),
        (65_521 * _prime(496), "prime factor below 65536"),
        (_prime(256) ** 2, "perfect power"),
        (int(gmpy2.next_prime(1 << 170)) ** 3, "perfect power"),
        (_prime(512), "is prime"),
    ],
)
def test_each_malformed_n_is_refused_in_its_own_words(n: int, words: str) -> None:
    bits = n.bit_length() if words == "perfect power" else BITS
    with pytest.raises(KeyMaterialError, match=words):
        check_public_key(n, bits)


def test_each_malformed_private_key_is_refused_in_its_own_words() -> None:
    _, private = generate_keypair(BITS)
    p, q = private.private_key.p, private.private_key.q
    close = int(gmpy2.next_prime(p))
    one_mod_four = _one_mod_four(BITS // 2)
    composite = 3 * int(gmpy2.next_prime(1 << BITS // 2 - 2))
    twin_p, twin_q = _sharing_a_factor(BITS // 2)
    for a, b, n, words in (
        (p, q, p * q + 2, "do not belong together"),
        (p, 3, p * 3, "differ in length"),
        (p, close, p * close, "too close"),
        (composite, q, composite * q, "p is not prime"),
        (one_mod_four, q, one_mod_four * q, "p is not 3 mod 4"),
        (q, p, p * q, "p is larger than q"),
        (twin_p, twin_q, twin_p * twin_q, "is not 2"),
    ):
        with pytest.raises(KeyMaterialError, match=words) as refusal:
            check_private_key(a, b, n)
        assert str(p) not in str(refusal.value)


def test_checked_gives_back_the_key(pair: Pair) -> None:
    public, private = pair
    key = private.private_key
    assert PublicKeyMaterial.checked(public.public_key.n, BITS) == public
    assert PrivateKeyMaterial.checked(public, key.p, key.q) == private


def _one_mod_four(bits: int) -> int:
    prime = _prime(bits)
    while prime % 4 != 1:
        prime = int(gmpy2.next_prime(prime))
    return prime


def _sharing_a_factor(bits: int) -> tuple[int, int]:
    """Two primes far apart, 3 mod 4 and with 7 in both p-1 and q-1."""
    found = []
    for start in (mpz(5) << (bits - 3), mpz(7) << (bits - 3)):
        prime = gmpy2.next_prime(start)
        while prime % 4 != 3 or prime % 7 != 1:
            prime = gmpy2.next_prime(prime)
        found.append(int(prime))
    return found[0], found[1]


def test_the_private_material_shows_no_secret_in_its_repr(pair: Pair) -> None:
    _, private = pair
    shown = repr(private)
    for secret in (private.private_key.p, private.private_key.q):
        assert str(secret) not in shown


def test_a_forged_square_in_phes_key_does_not_survive_the_bytes(pair: Pair) -> None:
    forged = pickle.loads(pickle.dumps(pair[0].public_key))
    forged.nsquare = 15
    blob = PublicKeyMaterial(forged).to_bytes()
    again = PublicKeyMaterial.from_bytes(blob, BITS)
    assert again.public_key.nsquare == again.public_key.n**2
