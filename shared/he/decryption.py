"""Decryption of many Paillier ciphertexts at once, on all cores.

Paillier, "Public-Key Cryptosystems Based on Composite Degree Residuosity Classes", EUROCRYPT '99, section 7,
"Decryption using Chinese remaindering": modulo p² the exponent p-1 removes the randomiser and leaves 1 + (p-1)·m·n.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from shared.errors import Flaw, UpdateRejectedError
from shared.he.keys import PrivateKeyMaterial


def decrypt_all(private: PrivateKeyMaterial, ciphertexts: Sequence[int | mpz]) -> list[mpz]:
    """Decrypt each ciphertext to its plaintext, 0 <= m < n, as `phe`'s `raw_decrypt` does.

    Raises:
        UpdateRejectedError of CIPHERTEXT: a ciphertext is outside 0 < c < n², or shares a factor with n. `phe` returns
            garbage here.
    """
    key = private.private_key
    n = mpz(key.public_key.n)
    if any(not 0 < ciphertext < n * n for ciphertext in ciphertexts):
        raise UpdateRejectedError(Flaw.CIPHERTEXT, "a ciphertext is outside 0 < c < n²; it can't be decrypted")
    p, q = mpz(key.p), mpz(key.q)
    p_inverse = gmpy2.invert(p, q)
    plaintexts = []
    for m_p, m_q in zip(*_on_all_cores([_Half(p, q), _Half(q, p)], ciphertexts), strict=True):
        if m_p is None or m_q is None:
            raise UpdateRejectedError(Flaw.CIPHERTEXT, "a ciphertext shares a factor with n; it can't be decrypted")
        plaintexts.append(m_p + p * ((m_q - m_p) * p_inverse % q))
    return plaintexts


@dataclass(frozen=True)
class _Half:
    """Decryption modulo one prime of n = prime · other, by the exponent that removes the randomiser modulo prime²."""

    prime: mpz
    other: mpz

    def decrypt(self, ciphertexts: Sequence[int | mpz]) -> list[mpz | None]:
        """m mod prime for each ciphertext; None for one that the prime divides."""
        exponent = self.prime - 1
        powers = gmpy2.powmod_base_list(ciphertexts, exponent, self.prime * self.prime)
        # c^exponent = (1+n)^(exponent·m) = 1 + exponent·m·n (mod prime²), and n = prime·other. By Fermat it is 1 modulo
        # the prime, unless that divides c.
        scale = gmpy2.invert(exponent * self.other, self.prime)
        return [power // self.prime * scale % self.prime if power % self.prime == 1 else None for power in powers]


def _on_all_cores(halves: list[_Half], ciphertexts: Sequence[int | mpz]) -> list[list[mpz | None]]:
    """Each half's answers, in order. Threads suffice: `powmod_base_list` releases the interpreter lock."""
    cores = os.cpu_count() or 1
    step = max(1, -(-len(ciphertexts) // cores))
    chunks = [ciphertexts[i : i + step] for i in range(0, len(ciphertexts), step)]
    with ThreadPoolExecutor(cores) as executor:
        jobs = [[executor.submit(half.decrypt, chunk) for chunk in chunks] for half in halves]
        return [[m for job in of_half for m in job.result()] for of_half in jobs]
