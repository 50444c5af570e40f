"""Packing: many fixed-point values side by side in one Paillier plaintext, so that adding plaintexts adds every value.

Integers only: nothing here knows of keys or ciphertexts. What one slot holds is for `offset_values` to say. The law,
exactly, for at most `max_contributors` vectors:

    unpack(pack(x_1) + ... + pack(x_k), size, k) == decode(encode(x_1) + ... + encode(x_k))   # of FixedPoint
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from shared.config_checks import MAX_SLOT_BITS
from shared.errors import EncodingError
from shared.he.fixed_point import FixedPoint
from shared.he.offset_values import OffsetValues

WORD_BITS = 64


@dataclass(frozen=True)
class PackingLayout:
    """How values lie in plaintexts: slot 0 in the lowest bits, slots next to each other, the topmost bits zero.

    A slot is as wide as a sum of `max_contributors` values (`OffsetValues`). One that is 0 after a sum shows that a
    contributor is missing. Unused slots of the last plaintext hold 0, with no offset.

    Attributes:
        plaintext_bits: bits of a plaintext; n.bit_length() - 1, so that every plaintext is below n.
        fixed_point: how a value becomes an integer.
        max_contributors: the most vectors that one sum may hold.

    Raises:
        EncodingError: a count is out of range, not one slot fits, or a sum would not be exact in a float64.
    """

    plaintext_bits: int
    fixed_point: FixedPoint
    max_contributors: int

    def __post_init__(self) -> None:
        if self.slot_bits > MAX_SLOT_BITS:
            raise EncodingError(
                f"packing: a slot of {self.slot_bits} bits; expected at most {MAX_SLOT_BITS}, so that a sum is exact: "
                "lower he_precision_bits, he_integer_bits or num_clients"
            )
        if self.slots_per_plaintext < 1:
            raise EncodingError(
                f"packing: a slot of {self.slot_bits} bits does not fit a plaintext of {self.plaintext_bits} bits: "
                "raise he_key_length, or lower he_precision_bits, he_integer_bits or num_clients"
            )

    @property
    def values(self) -> OffsetValues:
        """What the slots hold."""
        return OffsetValues(self.fixed_point, self.max_contributors)

    @property
    def slot_bits(self) -> int:
        """As many as a sum needs."""
        return self.values.sum_bits

    @property
    def slots_per_plaintext(self) -> int:
        """Values in one plaintext."""
        return self.plaintext_bits // self.slot_bits

    def plaintexts_for(self, size: int) -> int:
        """Plaintexts that a vector of `size` values takes."""
        return -(-size // self.slots_per_plaintext)

    def pack(self, vector: NDArray[np.float64]) -> tuple[list[mpz], int]:
        """Encode (size,) values as `plaintexts_for(size)` plaintexts, each 0 <= m < 2**plaintext_bits.

        Returns:
            The plaintexts, and how many values saturated.

        Raises:
            EncodingError: a value is NaN or infinite.
        """
        encoded, saturated = self.values.encode(vector)
        rows, slots = self.plaintexts_for(len(vector)), self.slots_per_plaintext
        values = np.zeros(rows * slots, dtype=np.uint64)  # 0 where there is no value
        values[: len(vector)] = encoded
        by_slot = np.ascontiguousarray(values.reshape(rows, slots).T)  # (slots, rows): each slot one run of memory
        words = np.zeros((self._words, rows), dtype="<u8")
        for slot in range(slots):
            word, shift = divmod(slot * self.slot_bits, WORD_BITS)
            words[word] |= by_slot[slot] << np.uint64(shift)
            if shift + self.slot_bits > WORD_BITS:
                words[word + 1] |= by_slot[slot] >> np.uint64(WORD_BITS - shift)
        width = self._words * WORD_BITS // 8
        blob = np.ascontiguousarray(words.T).tobytes()
        return [mpz.from_bytes(blob[i : i + width], "little") for i in range(0, len(blob), width)], saturated

    def unpack(self, plaintexts: Sequence[int | mpz], size: int, contributors: int) -> NDArray[np.float64]:
        """Decode the sum of exactly `contributors` packed vectors to (size,) values.

        What can't be such a sum is refused, as far as it shows: a wrong key or a broken mask always does, unless by a
        freak chance; a wrong count does where a value is near the edge of the range; a contributor who lies within the
        range never does.

        Raises:
            EncodingError: more contributors than the slots were sized for, or fewer than 1; a wrong number of
                plaintexts; a slot that `contributors` values can't add up to; a bit set where there is no value.
        """
        self.values.check_contributors(contributors)
        rows, slots = self.plaintexts_for(size), self.slots_per_plaintext
        if len(plaintexts) != rows:
            raise EncodingError(f"packing: {len(plaintexts)} plaintexts; expected {rows} for {size} values")
        if any(not 0 <= plaintext < 1 << (slots * self.slot_bits) for plaintext in plaintexts):
            raise EncodingError(f"packing: a plaintext is wider than its {slots} slots; it is no sum of packed vectors")
        width = self._words * WORD_BITS // 8
        blob = b"".join([plaintext.to_bytes(width, "little") for plaintext in plaintexts])
        words = np.ascontiguousarray(np.frombuffer(blob, dtype="<u8").reshape(rows, self._words).T)
        by_slot = np.empty((slots, rows), dtype=np.uint64)
        for slot in range(slots):
            word, shift = divmod(slot * self.slot_bits, WORD_BITS)
            by_slot[slot] = words[word] >> np.uint64(shift)
            if shift + self.slot_bits > WORD_BITS:
                by_slot[slot] |= words[word + 1] << np.uint64(WORD_BITS - shift)
        by_slot &= np.uint64((1 << self.slot_bits) - 1)
        sums = by_slot.T.reshape(-1)
        if sums[size:].any():
            raise EncodingError("packing: an unused slot is not 0; this is no sum of packed vectors")
        return self.values.decode(sums[:size], contributors)

    @property
    def _words(self) -> int:
        return -(-self.slots_per_plaintext * self.slot_bits // WORD_BITS)
