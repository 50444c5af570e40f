"""What the tests of the packing share: the values that a layout can hold, and a layout that is wrong."""

import numpy as np
from numpy.typing import NDArray

from shared.he.packing import PackingLayout


def quantise(layout: PackingLayout, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest values that the layout's fixed point has, (size,)."""
    return layout.fixed_point.decode(layout.fixed_point.encode(vector)[0])


class TooNarrow(PackingLayout):
    """A broken twin: its slots are one bit short, so that the largest sums carry into the neighbour."""

    @property
    def slot_bits(self) -> int:
        return super().slot_bits - 1
