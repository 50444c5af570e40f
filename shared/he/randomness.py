"""Randomisers r^n mod n², what hides a Paillier plaintext: made fast, ahead of time, and used once each.

**The variant.** Drawing a fresh r and raising it to n costs as many squarings as n has bits. Damgård, Jurik and Nielsen
("A generalization of Paillier's public-key system with applications to electronic voting", Int. J. Inf. Secur. 9, 2010,
the section on optimising encryption) fix h = -x² mod n and take (h^n)^a mod n² for a short random a: the base is the
same for every randomiser, so its powers can be tabulated.

**What it rests on.** With p ≡ q ≡ 3 (mod 4) and gcd(p-1, q-1) = 2, the squares modulo n form a cyclic group of odd
order, and -1 is no square yet has Jacobi symbol 1. So a random -x² generates the group of all units of Jacobi symbol 1,
or all of it but a small factor, and that symbol anybody can compute. With other primes the squares are not cyclic, and
h could generate a much smaller group. What remains is (1) decisional composite residuosity (Paillier, EUROCRYPT '99)
for n-th residues from the group that h^n generates, and (2), for the short exponent, that a half as long as n can't be
told from one of full length, which holds if factoring Blum integers is hard (Goldreich, Rosen, "On the security of
modular exponentiation with application to the construction of pseudorandom generators", J. Cryptology 16, 2003).

**The table.** A fixed-base comb: C. H. Lim, P. J. Lee, "More flexible exponentiation with precomputation", CRYPTO '94;
Menezes, van Oorschot, Vanstone, "Handbook of Applied Cryptography", algorithm 14.117.
"""

import functools
import os
import secrets
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import NoReturn

import gmpy2
import numpy as np
from gmpy2 import mpz

from shared.he.keys import PublicKeyMaterial

COMB_ROWS = 8  # bits that one table look-up covers; 8 makes a column of the comb one byte
COMB_BLOCK = 8  # columns that share one table: COMB_BLOCK - 1 squarings a power save this factor in memory

# A multiplication of big numbers keeps Python's interpreter lock, and whoever waits for the lock waits 5 ms each time:
# measured, a small model trained 50 times slower beside such a loop. In the background a nap after each power hands
# the lock over.
NAP_SECONDS = 1e-6


@dataclass(frozen=True)
class Comb:
    """Powers of one base, tabulated: `power` takes one multiplication for each 8 bits of the exponent and 7 squarings.

    The exponent's bits are laid out in `COMB_ROWS` rows of `columns` bits; a column of them is one byte. Columns come
    in blocks of `COMB_BLOCK`, each with one table: entry u of block j is the product, over the bits i set in u, of
    base^(2^(i·columns + j·COMB_BLOCK)). That is 16 × 256 residues (2 MiB) at 2048 bits, 24 × 256 (4.5 MiB) at 3072. It
    is public: it holds nothing that the key does not say.

    Attributes:
        modulus: n².
        base: h^n mod n².
        columns: ceil(exponent bits / 8).
        tables: one per block, 256 residues modulo n² each.
    """

    modulus: mpz = field(repr=False)
    base: mpz = field(repr=False)
    columns: int
    tables: tuple[tuple[mpz, ...], ...] = field(repr=False)

    @property
    def exponent_bits(self) -> int:
        """An exponent is below 2 to this power."""
        return COMB_ROWS * self.columns

    @classmethod
    def build(cls, base: mpz, modulus: mpz, exponent_bits: int) -> "Comb":
        """Tabulate `base` for exponents of at least `exponent_bits` bits, rounded up to whole bytes."""
        columns = -(-exponent_bits // COMB_ROWS)
        squares = [base]  # squares[t] = base^(2^t)
        for _ in range(COMB_ROWS * columns - 1):
            squares.append(squares[-1] * squares[-1] % modulus)
        tables = []
        for start in range(0, columns, COMB_BLOCK):
            table = [mpz(1)]
            for row in range(COMB_ROWS):
                square = squares[row * columns + start]
                table += [entry * square % modulus for entry in table]
            tables.append(tuple(table))
        return cls(modulus, base, columns, tuple(tables))

    def power(self, exponent: int) -> mpz:
        """base^exponent mod n², for 0 <= exponent < 2**exponent_bits."""
        little_endian = np.frombuffer(exponent.to_bytes(self.columns, "little"), dtype=np.uint8)
        rows = np.unpackbits(little_endian, bitorder="little").reshape(COMB_ROWS, self.columns)
        columns = np.packbits(rows, axis=0, bitorder="little")[0].tobytes()
        result, modulus = mpz(1), self.modulus
        for place in range(min(COMB_BLOCK, self.columns) - 1, -1, -1):
            result = result * result % modulus
            # Not strict: the last block may be short of columns.
            for table, column in zip(self.tables, columns[place::COMB_BLOCK], strict=False):
                result = result * table[column] % modulus
        return result


_BUILDING = threading.Lock()


def comb_for(key: PublicKeyMaterial) -> Comb:
    """The comb of a key, built once per process: many clients of one key in one process share it, being public.

    The first caller's h = -x² is everybody's; h is part of the public key in the paper, too.
    """
    with _BUILDING:  # else clients that start together would each build it
        return _build_comb(mpz(key.public_key.n))


@functools.lru_cache(maxsize=4)
def _build_comb(n: mpz) -> Comb:
    # n² is computed here and not taken from `phe`'s key, whose equality and hash ignore it.
    return Comb.build(gmpy2.powmod(_random_base(n), n, n * n), n * n, exponent_bits=n.bit_length() // 2)


def _random_base(n: mpz) -> mpz:
    """h = -x² mod n for a random unit x."""
    while True:
        x = mpz(1 + secrets.randbelow(int(n) - 1))
        if gmpy2.gcd(x, n) == 1:
            return n - x * x % n


class Randomiser:
    """Makes randomisers r^n mod n² for one key. A ciphertext is (1 + n·plaintext)·randomiser mod n²."""

    def __init__(self, key: PublicKeyMaterial) -> None:
        self.comb = comb_for(key)

    def make(self, count: int) -> list[mpz]:
        """`count` fresh randomisers by the comb.

        gmpy2's `powmod_exp_list`, which needs neither a table nor the interpreter lock, takes about ten times the
        work: it would only pay on a machine with cores to spare.
        """
        return [self.comb.power(secrets.randbits(self.comb.exponent_bits)) for _ in range(count)]


class RandomiserPool:
    """Randomisers made by a background thread while the model trains.

    Guarantee: a randomiser is handed out once, to one caller. Two ciphertexts with one randomiser would show the
    difference of their plaintexts to everybody. So a pool is never pickled, copied or written, and in a forked child
    it is empty.
    """

    _lock: threading.Lock
    _ready: list[mpz]
    _wanted: int  # randomisers that the background thread has still to make
    _thread: threading.Thread | None
    _closed: bool

    def __init__(self, randomiser: Randomiser) -> None:
        self._randomiser = randomiser
        self._reset()
        _POOLS.add(self)

    def start(self, count: int) -> None:
        """Have `count` more randomisers made in the background; returns at once.

        Raises:
            RuntimeError: the pool is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool of randomisers is closed")
            self._wanted += count
            if self._thread is None and self._wanted > 0:
                # A daemon: an encryption that nobody waits for any more must not keep the process alive.
                self._thread = threading.Thread(target=self._fill, name="randomisers", daemon=True)
                self._thread.start()

    @property
    def coming(self) -> int:
        """Randomisers that are ready or being made."""
        with self._lock:
            return len(self._ready) + self._wanted

    def take(self, count: int) -> list[mpz]:
        """`count` randomisers: those that are ready, and the rest made on the spot. Never waits for the background.

        Raises:
            RuntimeError: the pool is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool of randomisers is closed")
            split = max(0, len(self._ready) - count)
            taken = self._ready[split:]
            del self._ready[split:]
            missing = count - len(taken)
            self._wanted = max(0, self._wanted - missing)  # what is made here need not be made in the background
        return taken + self._randomiser.make(missing)

    def close(self) -> None:
        """Stop the background thread and drop what is left. Closing twice is fine.

        Python can't overwrite a number in memory: dropped randomisers are gone for this program, not for whoever reads
        the process's memory.
        """
        with self._lock:
            self._closed = True
            self._wanted = 0
            self._ready.clear()
            thread = self._thread
        if thread is not None:
            thread.join()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a pool of randomisers can't be pickled or copied: each randomiser is used once")

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._ready = []
        self._wanted = 0
        self._thread = None
        self._closed = False

    def _fill(self) -> None:
        while True:
            with self._lock:
                if self._wanted == 0:
                    self._thread = None
                    return
                self._wanted -= 1
            made = self._randomiser.make(1)
            time.sleep(NAP_SECONDS)
            with self._lock:
                if not self._closed:
                    self._ready += made


_POOLS: "weakref.WeakSet[RandomiserPool]" = weakref.WeakSet()


def _empty_pools_after_fork() -> None:
    """A forked child must not hand out what its parent also has; nor does it have the parent's thread."""
    for pool in _POOLS:
        pool._reset()


if hasattr(os, "register_at_fork"):  # not on Windows, which can't fork
    os.register_at_fork(after_in_child=_empty_pools_after_fork)
