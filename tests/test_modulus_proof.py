"""The proof that n is a Paillier-Blum modulus without short factors: keys of ours pass, each kind of attack key fails.

The prover of an attack key knows all prime factors and follows the algorithm as far as it can (`forge`). Each attack
has a broken twin: with the check removed that is there for it, the same proof is accepted.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gmpy2
import pytest
from gmpy2 import mpz

from client.tenant import Tenant
from shared.config import Config, parse_config
from shared.data_utils import load_client_data, load_schema
from shared.errors import KeyMaterialError
from shared.exchange import Kind as RequestKind
from shared.exchange import Refusal, Reply, Request, Value
from shared.feature_statistics import QUANTILES
from shared.he import modulus_proof, no_small_factor
from shared.he.keys import check_public_key, generate_keypair
from shared.he.modulus_proof import FOURTH_ROOTS, NTH_ROOTS, ModulusProof, prove, verify
from shared.he.no_small_factor import RSA_2048, NoSmallFactorProof, S, Sizes, T
from shared.he.paillier import PaillierPublic
from shared.he_utils import make_keys, public_scheme

Primes = list[mpz]
BITS = 512
RSA_2048_SHA256 = "b3c2468add10e2a0c4a251d9d2bac4ba04d4b3527156ceead43a1305e03f1fc0"  # of its decimal digits


def primes_of(bits: int) -> Primes:
    private = generate_keypair(bits)[1].private_key
    return [mpz(private.p), mpz(private.q)]


def prime_after(start: mpz, residue: int = 3, modulus: int = 4) -> mpz:
    prime = gmpy2.next_prime(start)
    while prime % modulus != residue:
        prime = gmpy2.next_prime(prime)
    return prime


def blum_primes(count: int, bits: int) -> Primes:
    """Different primes that are 3 mod 4, large enough for their product to have count·bits bits."""
    primes = [prime_after((mpz(1) << bits) - (mpz(1) << (bits - 8)))]
    while len(primes) < count:
        primes.append(prime_after(primes[-1]))
    return primes


@pytest.fixture(scope="module")
def key() -> Primes:
    return primes_of(BITS)


@pytest.fixture(scope="module")
def proof(key: Primes) -> bytes:
    return prove(*key)


# Keys of ours


@pytest.mark.parametrize("bits", [480, 512, 768, 1024, 2048])
def test_keys_of_all_lengths_can_be_proven(bits: int) -> None:
    p, q = primes_of(bits)
    found = prove(p, q)
    assert len(found) == ModulusProof.length(bits)
    verify(int(p * q), found)
    assert ModulusProof.from_bytes(found, bits).to_bytes(bits) == found


def test_two_proofs_of_one_key_have_nothing_random_in_common(key: Primes, proof: bytes) -> None:
    first, second = (ModulusProof.from_bytes(blob, BITS).no_small_factor for blob in (proof, prove(*key)))
    for field in fields(NoSmallFactorProof):
        assert getattr(first, field.name) != getattr(second, field.name)


@pytest.mark.parametrize(
    ("bits", "challenge", "hiding", "shortest_factor"),
    [(480, 80, 40, 120), (512, 80, 48, 128), (1024, 128, 128, 256), (2048, 128, 128, 768), (3072, 128, 128, 1280)],
)
def test_what_is_proven_of_each_length(bits: int, challenge: int, hiding: int, shortest_factor: int) -> None:
    sizes = Sizes.of(bits)
    assert (sizes.challenge, sizes.hiding, sizes.shortest_factor) == (challenge, hiding, shortest_factor)


def test_an_n_too_short_for_the_statement_is_refused() -> None:
    p, q = primes_of(478)
    with pytest.raises(KeyMaterialError, match="478 bits; expected at least 480"):
        prove(p, q)
    with pytest.raises(KeyMaterialError, match="478 bits; expected at least 480"):
        verify(int(p * q), b"")


def test_the_chance_of_a_false_proof_is_small_enough() -> None:
    assert FOURTH_ROOTS >= 128
    assert NTH_ROOTS * 16 >= 128


def test_the_auxiliary_modulus_is_the_published_one() -> None:
    """Length, ends and digit sum as RSA Laboratories gave them; a mistyped digit could make its factors known."""
    digits = RSA_2048.digits()
    assert (len(digits), sum(map(int, digits)), RSA_2048.bit_length()) == (617, 2738, 2048)
    assert RSA_2048.digits(16).startswith("c7970ceedcc3b075")
    assert RSA_2048.digits(16).endswith("6361cc7e5")
    assert hashlib.sha256(digits.encode()).hexdigest() == RSA_2048_SHA256
    assert gmpy2.gcd(RSA_2048, gmpy2.primorial(1 << 20)) == 1
    assert gmpy2.powmod(2, RSA_2048 - 1, RSA_2048) != 1
    for base in (S, T):
        assert gmpy2.gcd(base * (base - 1), RSA_2048) == 1
        assert gmpy2.jacobi(base, RSA_2048) == 1


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (lambda p: p, lambda q: prime_after(q, 1)),
        (lambda p: prime_after(p, 1), lambda q: q),
        (lambda p: prime_after(mpz(1) << 200), lambda q: q),
    ],
)
def test_primes_of_another_form_are_not_proven(key: Primes, p: Callable[[mpz], mpz], q: Callable[[mpz], mpz]) -> None:
    with pytest.raises(KeyMaterialError, match="two primes of equal length that are 3 mod 4"):
        prove(p(key[0]), q(key[1]))


def test_a_root_that_a_fault_made_wrong_modulo_one_prime_never_leaves_the_prover(
    key: Primes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcd(root^4 - y, n) would be a factor of n (Boneh, DeMillo, Lipton, EUROCRYPT '97)."""
    p, q = key
    right = modulus_proof._roots

    def faulty(*arguments: Any) -> list[mpz]:
        roots = right(*arguments)
        return [(roots[0] + p) % (p * q), *roots[1:]]

    monkeypatch.setattr(modulus_proof, "_roots", faulty)
    with pytest.raises(KeyMaterialError, match="a fourth root is wrong"):
        prove(p, q)


# Attack keys


def fourth_root(y: mpz, prime: mpz, power: int) -> mpz | None:
    """A fourth root modulo prime^power, for a prime that is 3 mod 4 or 5 mod 8; None where there is none."""
    order = prime ** (power - 1) * (prime - 1) // (2 if prime % 4 == 3 else 4)  # of the fourth powers; odd
    modulus = prime**power
    return gmpy2.powmod(y, gmpy2.invert(4, order), modulus) if gmpy2.powmod(y, order, modulus) == 1 else None


def chinese(residues: list[mpz], moduli: list[mpz]) -> mpz:
    n = mpz(math.prod(moduli))
    return mpz(sum(a * (n // m) * gmpy2.invert(n // m, m) for a, m in zip(residues, moduli, strict=True)) % n)


def forge(factors: dict[mpz, int], split: tuple[mpz, mpz]) -> bytes:
    """The proof of a prover who knows n's factors (each with its power), with the number 1 where no root is.

    Args:
        factors: the power of each prime.
        split: two factors of n that multiply to it, which are passed off as its primes.
    """
    n, moduli = mpz(math.prod(split)), [prime**power for prime, power in factors.items()]
    w = modulus_proof._least_nonresidue(n)
    fourth = []
    for y in modulus_proof.fourth_challenges(n):
        found = mpz(1)
        for candidate in (y, -y, w * y, -w * y):
            roots = [fourth_root(candidate % n, prime, power) for prime, power in factors.items()]
            if None not in roots:
                found = chinese([root for root in roots if root is not None], moduli)
                break
        fourth.append(found)
    order = math.prod(prime ** (power - 1) * (prime - 1) for prime, power in factors.items())
    exponent = gmpy2.invert(n, order) if gmpy2.gcd(n, order) == 1 else mpz(0)
    nth = [gmpy2.powmod(y, exponent, n) for y in modulus_proof.nth_challenges(n)]
    parts = ModulusProof(tuple(fourth), tuple(nth), no_small_factor.prove(*split))
    return parts.to_bytes(n.bit_length())


def sixteen_short_primes() -> tuple[dict[mpz, int], tuple[mpz, mpz]]:
    primes = blum_primes(16, 128)
    return dict.fromkeys(primes, 1), (mpz(math.prod(primes[:8])), mpz(math.prod(primes[8:])))


def three_primes() -> tuple[dict[mpz, int], tuple[mpz, mpz]]:
    """Two of them 3 mod 4 and one 1 mod 4, so that n is 1 mod 4."""
    p, q, r = *blum_primes(2, 256), prime_after(mpz(7) << 509, 5, 8)
    return dict.fromkeys((p, q, r), 1), (p * q, r)


def two_primes_that_are_1_mod_4() -> tuple[dict[mpz, int], tuple[mpz, mpz]]:
    p, q = prime_after(mpz(6) << 509, 5, 8), prime_after(mpz(7) << 509, 5, 8)
    return {p: 1, q: 1}, (p, q)


def a_squared_prime() -> tuple[dict[mpz, int], tuple[mpz, mpz]]:
    """p²·q: half of all y have a fourth root, the most that any n of another form than ours can reach."""
    p, q = blum_primes(1, 256)[0], prime_after(mpz(7) << 509, 5, 8)
    return {p: 2, q: 1}, (p * p, q)


def a_cubed_prime() -> tuple[dict[mpz, int], tuple[mpz, mpz]]:
    """p³·q with both 3 mod 4: fourth roots are there for every y."""
    p, q = blum_primes(1, 176)[0], prime_after(mpz(7) << 509)
    return {p: 3, q: 1}, (p**3, q)


def gcd_of_n_and_phi_not_1() -> tuple[dict[mpz, int], tuple[mpz, mpz]]:
    p = blum_primes(1, 480)[0]
    k = (mpz(1) << 63) + 1
    while not gmpy2.is_prime(2 * k * p + 1):
        k += 2
    q = 2 * k * p + 1
    return {p: 1, q: 1}, (p, q)


Attack = Callable[[], tuple[dict[mpz, int], tuple[mpz, mpz]]]
ATTACKS: list[tuple[Attack, str, str]] = [
    (sixteen_short_primes, "_is_fourth_root", "a fourth root is wrong"),
    (three_primes, "_is_fourth_root", "a fourth root is wrong"),
    (two_primes_that_are_1_mod_4, "_is_fourth_root", "a fourth root is wrong"),
    (a_squared_prime, "_is_fourth_root _is_nth_root", "a fourth root is wrong"),
    (a_cubed_prime, "_is_nth_root", "an n-th root is wrong"),
    (gcd_of_n_and_phi_not_1, "_is_nth_root", "an n-th root is wrong"),
]


@pytest.mark.parametrize(("attack", "checks", "words"), ATTACKS, ids=[case[0].__name__ for case in ATTACKS])
def test_an_attack_key_cannot_be_proven_and_without_the_check_against_it_it_can(
    attack: Attack, checks: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, split = attack()
    n = int(math.prod(split))
    forged = forge(factors, split)
    check_public_key(n, n.bit_length())  # all that a client without the proof could see
    with pytest.raises(KeyMaterialError, match=words):
        verify(n, forged)
    for check in checks.split():
        monkeypatch.setattr(modulus_proof, check, lambda *_: True)
    verify(n, forged)


def test_half_of_all_y_have_a_fourth_root_at_most() -> None:
    """The bound that the number of roots rests on, at the n that comes closest to it."""
    factors, split = a_squared_prime()
    roots = ModulusProof.from_bytes(forge(factors, split), int(math.prod(split)).bit_length()).fourth_roots
    assert 30 < sum(root != 1 for root in roots) < 98  # 64 expected; 6 standard deviations of 5.7 on either side


@pytest.mark.parametrize(("short", "long"), [(128, 1920), (766, 1282)])
def test_a_short_factor_cannot_be_proven_and_without_the_range_check_it_can(
    short: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, q = prime_after(mpz(3) << (short - 2)), prime_after(mpz(3) << (long - 2))
    n = p * q
    with monkeypatch.context() as twin:
        twin.setattr(Sizes, "response", property(lambda sizes: sizes.challenge + sizes.hiding + sizes.n))
        forged = forge({p: 1, q: 1}, (p, q))
        verify(int(n), forged)
        proof = ModulusProof.from_bytes(forged, n.bit_length()).no_small_factor
    with pytest.raises(KeyMaterialError, match="bytes; expected"):
        verify(int(n), forged)
    with pytest.raises(KeyMaterialError, match="out of range, so a prime factor of n may be below 768 bits"):
        no_small_factor.verify(n, proof)
    bound = mpz(1) << Sizes.of(n.bit_length()).response
    folded = replace(proof, z1=proof.z1 % bound, z2=proof.z2 % bound)  # what would fit
    with pytest.raises(KeyMaterialError, match="two long prime factors"):
        no_small_factor.verify(n, folded)


def test_nothing_is_proven_of_factors_between_the_bound_and_half_of_n() -> None:
    """The gap of the statement, as wide as challenge and hiding together."""
    p, q = prime_after(mpz(3) << 940), prime_after(mpz(3) << 1104)
    no_small_factor.verify(p * q, no_small_factor.prove(p, q))


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (lambda p, q: (2, p, q), "even"),
        (lambda p, q: (3, 7, p, q), "prime factor below 65536"),
        (lambda p, q: (prime_after(p * q, 1),), "is prime"),
        (lambda p, q: (p, p), "perfect power"),
        (lambda p, q: (p, prime_after(q, 1)), "not 1 mod 4"),
    ],
)
def test_an_n_that_needs_no_proof_to_be_refused_is(
    proof: bytes, key: Primes, factors: Callable[[mpz, mpz], tuple[mpz, ...]], words: str
) -> None:
    with pytest.raises(KeyMaterialError, match=words):
        verify(int(math.prod(factors(*key))), proof)


# Damaged proofs

WIDTH = BITS // 8
ROOTS_END = (FOURTH_ROOTS + NTH_ROOTS) * WIDTH
FIELDS = list(Sizes.of(BITS).widths.items())


def starts() -> dict[str, int]:
    """Where each number of the proof begins."""
    found = {"first fourth root": 0, "last fourth root": (FOURTH_ROOTS - 1) * WIDTH}
    found |= {"first n-th root": FOURTH_ROOTS * WIDTH, "last n-th root": ROOTS_END - WIDTH}
    position = ROOTS_END
    for name, width in FIELDS:
        found[name] = position
        position += width
    return found


@pytest.mark.parametrize("name", starts())
@pytest.mark.parametrize("offset", [0, 8])
def test_a_changed_bit_of_each_number_is_refused(key: Primes, proof: bytes, name: str, offset: int) -> None:
    damaged = bytearray(proof)
    damaged[starts()[name] + offset] ^= 1
    with pytest.raises(KeyMaterialError, match="key proof"):
        verify(int(key[0] * key[1]), bytes(damaged))


@pytest.mark.parametrize(
    "change",
    [lambda proof: b"", lambda proof: proof[:-1], lambda proof: proof[1:], lambda proof: proof + b"\0",
     lambda proof: b"\0" + proof, lambda proof: proof * 2, lambda proof: proof[:ROOTS_END]],
)  # fmt: skip
def test_another_length_is_refused(key: Primes, proof: bytes, change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(KeyMaterialError, match="bytes; expected"):
        verify(int(key[0] * key[1]), change(proof))


def test_another_keys_proof_is_refused_whole_or_in_part(key: Primes, proof: bytes) -> None:
    other = prove(*primes_of(BITS))
    n = int(key[0] * key[1])
    parts = (slice(0, FOURTH_ROOTS * WIDTH), slice(FOURTH_ROOTS * WIDTH, ROOTS_END), slice(ROOTS_END, len(proof)))
    for part, words in zip(parts, ("fourth root|not below n", "n-th root|not below n", "two long"), strict=True):
        mixed = bytearray(proof)
        mixed[part] = other[part]
        with pytest.raises(KeyMaterialError, match=words):
            verify(n, bytes(mixed))
    with pytest.raises(KeyMaterialError):
        verify(n, other)
    verify(n, proof)


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("first fourth root", lambda p, q: (1 << BITS) - 1, "a root is not below n"),
        ("last n-th root", lambda p, q: p * q, "a root is not below n"),
        ("first fourth root", lambda p, q: 0, "not a unit modulo n"),
        ("last n-th root", lambda p, q: p, "not a unit modulo n"),
        ("p_commitment", lambda p, q: 0, "not a unit of the auxiliary modulus"),
        ("p_commitment", lambda p, q: RSA_2048 + 1, "not a unit of the auxiliary modulus"),
        ("q_commitment", lambda p, q: RSA_2048, "not a unit of the auxiliary modulus"),
        ("q_commitment", lambda p, q: 1, "two long prime factors"),
        ("challenge", lambda p, q: 0, "two long prime factors"),
    ],
)
def test_a_number_out_of_its_range_is_refused(
    key: Primes, proof: bytes, name: str, number: Callable[[mpz, mpz], int], words: str
) -> None:
    start, width = starts()[name], dict(FIELDS).get(name, WIDTH)
    damaged = proof[:start] + int(number(*key)).to_bytes(width, "big") + proof[start + width :]
    with pytest.raises(KeyMaterialError, match=words):
        verify(int(key[0] * key[1]), damaged)


# A real client

T8_BITS = 2048
RUN = "20260101-000000-abcdef"


class Server:
    """What a server asks a tenant for, of a federation in which the tenant takes part alone."""

    def __init__(self, bits: int = BITS) -> None:
        self.config = parse_config({"he_key_length": bits, "allow_insecure_key": True, "num_samples_per_client": 60})
        self.tenant = Tenant(self.config, 0, load_client_data(self.config, 0))

    def key_message(self, public_key: bytes, **proof: Value) -> dict[str, Value]:
        """Greets the tenant with the proof; what a request then holds."""
        assert isinstance(self.tenant.answer(Request(RequestKind.GREET, {"run": RUN, **proof})), Reply)
        scheme = public_scheme(self.config, public_key, self.config.num_clients)
        return {
            "public_key": public_key, "encoding": scheme.encoding_name, "max_contributors": self.config.num_clients,
        }  # fmt: skip

    def ask(self, key_message: dict[str, Value], attempt: int = 1) -> Reply | Refusal:
        """For the tenant's encrypted statistics, the first thing that it ever encrypts."""
        request: dict[str, Value] = {
            "statistic": QUANTILES, "round": attempt, "cohort": self.config.num_clients,
            "schema": load_schema(self.config).to_json(), "scaler": b"",
        }  # fmt: skip
        return self.tenant.answer(Request(RequestKind.STATISTICS, request | key_message))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A greeted tenant begins a log file."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def encrypted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many plaintexts each call encrypted."""
    calls: list[int] = []
    encrypt = PaillierPublic.encrypt_plaintexts

    def counting(self: PaillierPublic, plaintexts: Any, *rest: Any) -> Any:
        calls.append(len(plaintexts))
        return encrypt(self, plaintexts, *rest)

    monkeypatch.setattr(PaillierPublic, "encrypt_plaintexts", counting)
    return calls


def refusal(answer: Reply | Refusal) -> str:
    assert isinstance(answer, Refusal)
    return answer.reason


def test_a_client_checks_each_key_once_before_it_encrypts(
    encrypted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    first, second = make_keys(server.config), make_keys(server.config)
    proofs = {keys: keys.key_proof() for keys in (first, second)}  # made, and looked at by their maker, beforehand
    checked: list[int] = []
    check = modulus_proof.verify

    def counting(n: int, proof: bytes) -> None:
        assert len(encrypted) == 2 * len(checked)
        checked.append(n)
        check(n, proof)

    monkeypatch.setattr(modulus_proof, "verify", counting)
    for keys in (first, first, second):
        message = server.key_message(keys.public.public_bytes(), key_proof=proofs[keys])
        assert isinstance(server.ask(message, 1 + len(encrypted)), Reply)
    assert len(encrypted) == 3
    assert len(set(checked)) == len(checked) == 2


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        ({}, "KeyMaterialError: the server's greeting had no proof that its public key is sound"),
        ({"key_proof": b""}, "KeyMaterialError: the server's greeting had no proof that its public key is sound"),
        ({"key_proof": "text"}, "KeyMaterialError: the server's greeting had no proof that its public key is sound"),
        ({"key_proof": b"short"}, "KeyMaterialError: key proof: 5 bytes; expected"),
    ],
)
def test_a_client_refuses_a_key_without_a_proof(proof: dict[str, Value], words: str, encrypted: list[int]) -> None:
    server = Server()
    message = server.key_message(make_keys(server.config).public.public_bytes(), **proof)
    for _ in range(2):  # asked again it has not become used to the key
        assert words in refusal(server.ask(message))
    assert encrypted == []


def test_a_client_refuses_a_key_with_another_keys_proof(encrypted: list[int]) -> None:
    server = Server()
    keys, other = make_keys(server.config), make_keys(server.config)
    message = server.key_message(keys.public.public_bytes(), key_proof=other.key_proof())
    assert "KeyMaterialError: key proof" in refusal(server.ask(message))
    assert encrypted == []


def test_a_client_refuses_the_key_of_sixteen_128_bit_primes(
    encrypted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The elliptic-curve method finds such factors, so whoever listens could decrypt; clients once took this key."""
    factors, split = sixteen_short_primes()
    n = math.prod(split)
    server = Server(T8_BITS)
    message = server.key_message(b"\0" + n.to_bytes(T8_BITS // 8, "big"), key_proof=forge(factors, split))
    assert "KeyMaterialError: key proof: a fourth root is wrong" in refusal(server.ask(message))
    assert encrypted == []
    monkeypatch.setattr(PaillierPublic, "check_proof", lambda _self, _proof: None)
    assert isinstance(server.ask(message), Reply)
    assert encrypted


def test_a_scheme_without_a_proof_asks_for_none() -> None:
    config = Config(he_scheme="none")
    keys = make_keys(config)
    assert keys.key_proof() == b""
    keys.public.check_proof(None)


def test_the_server_makes_the_proof_once(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = make_keys(Server().config)
    first = keys.key_proof()
    monkeypatch.delattr(modulus_proof, "prove")
    assert keys.key_proof() is first
