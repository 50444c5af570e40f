"""Decryption of many Paillier ciphertexts at once, on all cores.

Paillier, "Public-Key Cryptosystems Based on Composite Degree Residuosity Classes", EUROCRYPT '99, section 7,
"Decryption using Chinese remaindering": modulo p² the exponent p-1 removes the randomiser and leaves 1 + (p-1)·m·n. For
a key of kind `subgroup` the short 2·alpha_p removes it as well (Ma, Han, Lei, ACSAC 2021), where it came from the key's
subgroup.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from shared.errors import CiphertextError
from shared.he.keys import PrivateKeyMaterial


def decrypt_all(private: PrivateKeyMaterial, ciphertexts: Sequence[int | mpz]) -> list[mpz]:
    """Decrypt each ciphertext to its plaintext, 0 <= m < n, as `phe`'s `raw_decrypt` does.

    A randomiser from outside the subgroup of a `subgroup` key (such as `phe`'s own `encrypt` makes) is noticed, and its
    ciphertext decrypted with the long exponent: right, but as slow as with a `blum` key.

    Raises:
        CiphertextError: a ciphertext is outside 0 < c < n², or shares a factor with n. `phe` returns garbage here.
    """
    key = private.private_key
    n = mpz(key.public_key.n)
    if any(not 0 < ciphertext < n * n for ciphertext in ciphertexts):
        raise CiphertextError("a ciphertext is outside 0 < c < n²; it can't be decrypted")
    p, q = mpz(key.p), mpz(key.q)
    plaintexts: list[mpz | None] = [None] * len(ciphertexts)
    todo = list(range(len(ciphertexts)))
    exponents = [(p - 1, q - 1)]
    if private.alpha_p is not None and private.alpha_q is not None:
        exponents.insert(0, (2 * mpz(private.alpha_p), 2 * mpz(private.alpha_q)))
    p_inverse = gmpy2.invert(p, q)
    for exponent_p, exponent_q in exponents:
        chosen = [ciphertexts[i] for i in todo]
        modulo_p, modulo_q = _on_all_cores([_Half(p, q, exponent_p), _Half(q, p, exponent_q)], chosen)
        for i, m_p, m_q in zip(todo, modulo_p, modulo_q, strict=True):
            if m_p is not None and m_q is not None:
                plaintexts[i] = m_p + p * ((m_q - m_p) * p_inverse % q)
        todo = [i for i in todo if plaintexts[i] is None]
    if todo:
        raise CiphertextError("a ciphertext shares a factor with n; it can't be decrypted")
    return [plaintext for plaintext in plaintexts if plaintext is not None]


@dataclass(frozen=True)
class _Half:
    """Decryption modulo one prime of n = prime · other, by an exponent that removes the randomiser modulo prime²."""

    prime: mpz
    other: mpz
    exponent: mpz

    def decrypt(self, ciphertexts: list[int | mpz]) -> list[mpz | None]:
        """m mod prime for each ciphertext; None where the exponent does not remove the randomiser."""
        powers = gmpy2.powmod_base_list(ciphertexts, self.exponent, self.prime * self.prime)
        # c^exponent = (1+n)^(exponent·m) = 1 + exponent·m·n (mod prime²), and n = prime·other. If it is 1 modulo the
        # prime, then the randomiser's part is 1 modulo prime², being an n-th residue: the test is exact.
        scale = gmpy2.invert(self.exponent * self.other, self.prime)
        return [power // self.prime * scale % self.prime if power % self.prime == 1 else None for power in powers]


def _on_all_cores(halves: list[_Half], ciphertexts: list[int | mpz]) -> list[list[mpz | None]]:
    """Each half's answers, in order. Threads suffice: `powmod_base_list` releases the interpreter lock."""
    cores = os.cpu_count() or 1
    step = max(1, -(-len(ciphertexts) // cores))
    chunks = [ciphertexts[i : i + step] for i in range(0, len(ciphertexts), step)]
    with ThreadPoolExecutor(cores) as executor:
        jobs = [[executor.submit(half.decrypt, chunk) for chunk in chunks] for half in halves]
        return [[m for job in of_half for m in job.result()] for of_half in jobs]
