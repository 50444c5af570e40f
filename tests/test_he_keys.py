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
    KINDS,
    Kind,
    PrivateKeyMaterial,
    PublicKeyMaterial,
    check_base,
    check_private_key,
    check_public_key,
    check_sub_primes,
    generate_keypair,
    key_kind,
    subgroup_bits,
)

BITS = 512
Pair = tuple[PublicKeyMaterial, PrivateKeyMaterial]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return generate_keypair(BITS, request.param)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [128, 510, 512])
def test_a_key_has_exactly_the_length_asked_for_and_blum_primes(bits: int, kind: Kind) -> None:
    for _ in range(5):
        public, private = generate_keypair(bits, kind)
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


def test_a_subgroup_key_has_short_prime_factors_below_its_primes_and_a_base_of_their_order() -> None:
    public, private = generate_keypair(BITS, "subgroup")
    key, base = private.private_key, public.base
    assert private.alpha_p is not None
    assert private.alpha_q is not None
    for prime, alpha in ((key.p, private.alpha_p), (key.q, private.alpha_q)):
        assert alpha.bit_length() == subgroup_bits(BITS)
        assert gmpy2.is_prime(alpha)
        assert (prime - 1) % alpha == 0
        # The base has order exactly 2·alpha modulo each prime: it is 1 at that power and at neither divisor's.
        assert gmpy2.powmod(base, 2 * alpha, prime) == 1
        assert gmpy2.powmod(base, alpha, prime) != 1
        assert gmpy2.powmod(base, 2, prime) != 1


@pytest.mark.parametrize(("bits", "expected"), [(2048, 224), (3072, 256), (4096, 384), (15_360, 512), (512, 128)])
def test_the_subgroup_is_twice_as_many_bits_as_the_strength_of_n(bits: int, expected: int) -> None:
    assert subgroup_bits(bits) == expected


def test_phe_works_with_the_keys(pair: Pair) -> None:
    public, private = pair
    total = public.public_key.encrypt(40) + public.public_key.encrypt(2)
    assert private.private_key.decrypt(total) == 42


@pytest.mark.parametrize(("bits", "kind"), [(126, "blum"), (513, "blum"), (512, "rsa")])
def test_a_length_or_kind_that_cannot_be_made_is_refused(bits: int, kind: Kind) -> None:
    with pytest.raises(KeyMaterialError, match="expected"):
        generate_keypair(bits, kind)


def test_public_bytes_round_trip_at_a_fixed_width(pair: Pair) -> None:
    public, _ = pair
    blob = public.to_bytes()
    assert len(blob) == 1 + BITS // 8 * (1 if public.kind == "blum" else 2)
    again = PublicKeyMaterial.from_bytes(blob, BITS)
    assert (again.public_key.n, again.kind, again.base) == (public.public_key.n, public.kind, public.base)
    assert again.to_bytes() == blob


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda blob: b"", "unknown kind"),
        (lambda blob: b"\x07" + blob[1:], "unknown kind"),
        (lambda blob: blob[:-1], "bytes; expected"),
        (lambda blob: blob + b"\0", "bytes; expected"),
        (lambda blob: bytes([1 - blob[0]]) + blob[1:], "bytes; expected"),
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


def test_a_base_that_randomises_nothing_is_refused() -> None:
    _, private = generate_keypair(BITS, "subgroup")
    p, q = private.private_key.p, private.private_key.q
    n = p * q
    one_modulo_p_only = int(1 + p * (gmpy2.invert(p, q) * 3 % q))  # 1 mod p, 4 mod q: a square modulo both
    nonresidue = next(x for x in range(2, 1000) if gmpy2.jacobi(x, n) == -1)
    for base, words in (
        (0, "outside"),
        (1, "outside"),
        (n - 1, "outside"),
        (n + 4, "outside"),
        (p, "Jacobi"),
        (nonresidue, "Jacobi"),
        (one_modulo_p_only, "1 or -1 modulo"),
        (n - one_modulo_p_only, "1 or -1 modulo"),
    ):
        with pytest.raises(KeyMaterialError, match=words):
            check_base(base, n)


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


def test_each_malformed_sub_prime_is_refused_in_its_own_words() -> None:
    public, private = generate_keypair(BITS, "subgroup")
    p, q = private.private_key.p, private.private_key.q
    alpha_p, alpha_q, base = private.alpha_p, private.alpha_q, public.base
    assert alpha_p is not None
    assert alpha_q is not None
    assert base is not None
    check_sub_primes((alpha_p, alpha_q), p, q, base)
    for sub_primes, h, words in (
        ((2 * alpha_p, alpha_q), base, "alpha_p is not prime"),
        ((alpha_p, 3), base, f"alpha_q is too short; expected {subgroup_bits(BITS)} bits"),
        ((alpha_q, alpha_p), base, "alpha_p does not divide p-1"),
        ((alpha_p, alpha_p), base, "alpha_q does not divide q-1"),
        ((alpha_p, alpha_q), public.public_key.n - 4, "2·alpha_p modulo p"),
        ((alpha_p, alpha_q), public.public_key.n - base, "2·alpha_p modulo p"),
    ):
        with pytest.raises(KeyMaterialError, match=words) as refusal:
            check_sub_primes(sub_primes, p, q, h)
        assert str(alpha_p) not in str(refusal.value)


def test_what_a_kind_lacks_is_refused() -> None:
    public, private = generate_keypair(BITS, "subgroup")
    n, key = public.public_key.n, private.private_key
    for kind, base in (("subgroup", None), ("blum", public.base)):
        with pytest.raises(KeyMaterialError, match="expected a base h for kind subgroup, and none for blum"):
            PublicKeyMaterial.checked(n, key_kind(kind), base, BITS)
    assert private.alpha_p is not None
    assert private.alpha_q is not None
    for half, sub_primes in (
        (public, None),
        (PublicKeyMaterial(public.public_key, "blum"), (private.alpha_p, private.alpha_q)),
    ):
        with pytest.raises(KeyMaterialError, match="for kind subgroup alone"):
            PrivateKeyMaterial.checked(half, key.p, key.q, sub_primes)


def test_checked_gives_back_the_key(pair: Pair) -> None:
    public, private = pair
    key = private.private_key
    sub_primes = None if private.alpha_p is None or private.alpha_q is None else (private.alpha_p, private.alpha_q)
    assert PublicKeyMaterial.checked(public.public_key.n, public.kind, public.base, BITS) == public
    assert PrivateKeyMaterial.checked(public, key.p, key.q, sub_primes) == private


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
    for secret in (private.private_key.p, private.private_key.q, private.alpha_p, private.alpha_q):
        assert secret is None or str(secret) not in shown


def test_a_forged_square_in_phes_key_does_not_survive_the_bytes(pair: Pair) -> None:
    forged = pickle.loads(pickle.dumps(pair[0].public_key))
    forged.nsquare = 15
    blob = PublicKeyMaterial(forged, pair[0].kind, pair[0].base).to_bytes()
    again = PublicKeyMaterial.from_bytes(blob, BITS)
    assert again.public_key.nsquare == again.public_key.n**2
