"""Exact products in Z[x] / (x^N + 1) by floating-point Fourier transforms.

With i for x^(N/2), a polynomial of N reals is one of N/2 complex numbers modulo x^(N/2) - i, and x = exp(iπ/N)·y makes
that modulo y^(N/2) - 1: a cyclic convolution, which a transform of length N/2 multiplies.

**Guarantee: every product is exact.** By Percival, "Rapid multiplication modulo the sum and difference of highly
composite numbers", Math. Comp. 72, 2003, theorem 5.1, with u = 2^-53, each coefficient of a product of a and s, of
length 2^m, is off by less than

    |a|·|s|·((1 + u)^(3m) · (1 + u·sqrt 5)^(3m+1) · (1 + v)^(3m) - 1)

where |·| is the Euclidean norm and v <= u says how far the roots of unity are off. (The theorem is of transforms of
radix 2; NumPy's are of radix 4 and round less often.) Here m = 10, and the twists before and after are three more
multiplications: less than |a|·|s|·2^-45. So a is cut into limbs small enough for that to be at most 1/4, and rounding
finds the integer. Where each of 10,000 keys has 64 in each of 2,048 places, a limb still has 13 bits of a; for one key
as it is drawn it has 30.
"""

import math

import numpy as np
from numpy.typing import NDArray

_ERROR_BITS = 45  # a product's error is below |a|·|s|·2**-_ERROR_BITS
_MARGIN_BITS = 2  # and has to be at most 2**-_MARGIN_BITS


class Factor:
    """One polynomial, to be multiplied with many.

    Args:
        coefficients: (N,) integers.

    Attributes:
        limb_bits: bits of the other factor that one transform multiplies exactly.
    """

    def __init__(self, coefficients: NDArray[np.int64]) -> None:
        self._degree = len(coefficients)
        # How many limbs there are follows from the norm, and so does the time. A key's norm is so close to σ·sqrt N
        # that this says nothing of it.
        norm = max(1.0, math.sqrt(float(np.square(coefficients, dtype=np.float64).sum())))
        # A limb is at most 2**(limb_bits - 1) in magnitude, so |a| <= 2**(limb_bits - 1) * sqrt(N).
        room = _ERROR_BITS - _MARGIN_BITS - math.log2(norm) - math.log2(self._degree) / 2
        self.limb_bits = 1 + math.floor(room)
        self._twist = np.exp(1j * np.pi / self._degree * np.arange(self._degree // 2))  # (N/2,)
        self._untwist = self._twist.conj()
        self._transform = np.fft.fft(self._fold(coefficients[np.newaxis].astype(np.float64)))  # (1, N/2)

    def times(self, numbers: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
        """The products with (rows, N) polynomials modulo 2^bits, (rows, N); higher bits hold anything.

        Args:
            numbers: below 2^bits.
            bits: at most 62.
        """
        limbs = -(-bits // self.limb_bits)
        width = -(-bits // limbs)
        # Limbs from -2^(width-1) on: adding that many at each place makes them non-negative. What is carried out of the
        # last limb is a multiple of 2^bits.
        bias = sum(1 << (width * limb + width - 1) for limb in range(limbs))
        shifted = numbers + np.uint64(bias)
        mask = np.uint64((1 << width) - 1)
        total = np.zeros(numbers.shape, dtype=np.uint64)
        for limb in range(limbs):
            place = np.uint64(width * limb)
            part = ((shifted >> place) & mask).astype(np.float64)
            part -= float(1 << (width - 1))
            total += self._product(part).view(np.uint64) << place
        return total

    def _product(self, polynomials: NDArray[np.float64]) -> NDArray[np.int64]:
        transform = np.fft.fft(self._fold(polynomials))
        transform *= self._transform
        product = np.fft.ifft(transform)
        product *= self._untwist
        result = np.empty(polynomials.shape, dtype=np.int64)
        half = self._degree // 2
        result[:, :half] = np.rint(product.real)
        result[:, half:] = np.rint(product.imag)
        return result

    def _fold(self, polynomials: NDArray[np.float64]) -> NDArray[np.complex128]:
        """(rows, N) reals as (rows, N/2) complex numbers, twisted."""
        half = self._degree // 2
        folded = np.empty((len(polynomials), half), dtype=np.complex128)
        folded.real, folded.imag = polynomials[:, :half], polynomials[:, half:]
        folded *= self._twist
        return folded
