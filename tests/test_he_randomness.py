"""Randomisers: the comb is an exponentiation, each is an encryption of 0, and no one is handed out twice."""

import copy
import multiprocessing
import os
import pickle
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.he.keys import PrivateKeyMaterial, PublicKeyMaterial, generate_keypair
from shared.he.randomness import Comb, Randomiser, RandomiserPool, comb_for

BITS = 512
Pair = tuple[PublicKeyMaterial, PrivateKeyMaterial]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return generate_keypair(BITS)


@pytest.fixture(scope="module")
def randomiser() -> Randomiser:
    return Randomiser(generate_keypair(BITS)[0])


@settings(max_examples=60)
@given(bits=st.integers(1, 300), data=st.data())
def test_the_comb_is_an_exponentiation(bits: int, data: st.DataObject) -> None:
    modulus = mpz(2**255 - 19)
    comb = Comb.build(mpz(7), modulus, bits)
    assert bits <= comb.exponent_bits < bits + 8
    largest = (1 << comb.exponent_bits) - 1
    for exponent in (0, 1, largest, data.draw(st.integers(0, largest))):
        assert comb.power(exponent) == gmpy2.powmod(7, exponent, modulus)


def test_the_comb_of_a_real_key_is_an_exponentiation(pair: Pair) -> None:
    comb = comb_for(pair[0])
    for exponent in (0, 1, (1 << comb.exponent_bits) - 1, *(secrets.randbits(comb.exponent_bits) for _ in range(20))):
        assert comb.power(exponent) == gmpy2.powmod(comb.base, exponent, comb.modulus)


def test_a_randomiser_encrypts_zero_and_no_two_are_equal(pair: Pair) -> None:
    public, private = pair
    randomiser = Randomiser(public)
    made = randomiser.make(50) + randomiser.make(50)
    assert len(set(made)) == 100
    assert {private.private_key.raw_decrypt(int(r)) for r in made} == {0}
    assert randomiser.make(0) == []


def test_the_base_is_the_nth_power_of_a_negated_square(pair: Pair) -> None:
    public, private = pair
    p, q, n = private.private_key.p, private.private_key.q, public.public_key.n
    base = comb_for(public).base
    # n is odd, so h^n keeps h's Legendre symbols: -1 for a negated square, because p and q are 3 mod 4.
    assert gmpy2.jacobi(base, p) == gmpy2.jacobi(base, q) == -1
    assert gmpy2.powmod(base, (p - 1) * (q - 1), n * n) == 1  # an n-th residue: its order divides the units' modulo n


def test_exponents_are_half_as_long_as_n(pair: Pair) -> None:
    assert comb_for(pair[0]).exponent_bits == BITS // 2


def test_the_clients_of_one_key_share_one_table_and_no_randomiser() -> None:
    public, _ = generate_keypair(BITS)
    again = PublicKeyMaterial.from_bytes(public.to_bytes(), BITS)
    with ThreadPoolExecutor(4) as executor:
        clients = list(executor.map(Randomiser, [public, again, public, again]))
    assert len({id(client.comb) for client in clients}) == 1
    made = [r for client in clients for r in client.make(20)]
    assert len(set(made)) == 80
    assert Randomiser(generate_keypair(BITS)[0]).comb is not clients[0].comb


def test_eight_threads_never_get_the_same_randomiser(randomiser: Randomiser) -> None:
    pool = RandomiserPool(randomiser)
    pool.start(300)
    gate = threading.Barrier(8)

    def client(_: int) -> list[mpz]:
        gate.wait()
        taken = []
        for _turn in range(10):
            pool.start(3)
            taken += pool.take(7)
        return taken

    with ThreadPoolExecutor(8) as executor:
        taken = [r for of_one in executor.map(client, range(8)) for r in of_one]
    pool.close()
    assert len(taken) == 8 * 10 * 7
    assert len(set(taken)) == len(taken)


class _Counting(Randomiser):
    """Counts what is made where, and lets a test hold the background thread."""

    def __init__(self, key: PublicKeyMaterial) -> None:
        super().__init__(key)
        self.on_the_spot = 0
        self.in_background = 0
        self.go = threading.Event()
        self.all_made = threading.Semaphore(0)

    def make(self, count: int) -> list[mpz]:
        if threading.current_thread().name != "randomisers":
            self.on_the_spot += count
            return super().make(count)
        self.go.wait(30)
        self.in_background += count
        made = super().make(count)
        for _ in range(count):
            self.all_made.release()
        return made


def test_take_uses_what_is_ready_and_makes_only_the_rest() -> None:
    counting = _Counting(generate_keypair(BITS)[0])
    counting.go.set()
    pool = RandomiserPool(counting)
    pool.start(20)
    thread = pool._thread
    for _ in range(20):
        assert counting.all_made.acquire(timeout=30)
    if thread is not None:
        thread.join(30)  # the last batch is in the pool only now
    assert len(set(pool.take(25))) == 25
    assert (counting.in_background, counting.on_the_spot) == (20, 5)
    pool.close()


def test_take_does_not_wait_for_a_background_that_is_stuck_and_takes_over_its_work() -> None:
    counting = _Counting(generate_keypair(BITS)[0])
    pool = RandomiserPool(counting)
    pool.start(20)
    assert len(pool.take(20)) == 20
    assert counting.on_the_spot == 20
    counting.go.set()
    pool.close()
    assert counting.in_background < 20  # at most the batch that had begun


def test_a_closed_pool_is_empty_and_its_thread_gone(randomiser: Randomiser) -> None:
    pool = RandomiserPool(randomiser)
    pool.start(100_000)
    thread = pool._thread
    pool.close()
    pool.close()
    assert thread is not None
    assert not thread.is_alive()
    assert pool._ready == []
    for use in (pool.take, pool.start):
        with pytest.raises(RuntimeError, match="closed"):
            use(1)


def test_a_pool_starts_again_after_it_ran_dry(randomiser: Randomiser) -> None:
    pool = RandomiserPool(randomiser)
    taken = []
    for _ in range(5):
        pool.start(4)
        taken += pool.take(4)
    pool.close()
    assert len(set(taken)) == 20


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_pool_is_never_copied(randomiser: Randomiser, duplicate: object) -> None:
    assert callable(duplicate)
    with pytest.raises(TypeError, match="used once"):
        duplicate(RandomiserPool(randomiser))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_forked_child_does_not_inherit_the_randomisers(randomiser: Randomiser) -> None:
    pool = RandomiserPool(randomiser)
    pool.start(8)
    thread = pool._thread
    if thread is not None:
        thread.join(30)
    assert len(pool._ready) == 8
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: sender.send([int(r) for r in pool.take(8)]))
    child.start()
    assert receiver.poll(30)
    of_child = receiver.recv()
    child.join(30)
    assert set(of_child).isdisjoint(int(r) for r in pool.take(8))
    pool.close()
