"""Values of parsed JSON that have to be of one form: an object with these very entries, an array of this very shape."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def exact(value: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:
    """The value, if it is an object with exactly these entries.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"{what}: expected exactly {', '.join(names)}")
    return value


def numbers(value: Any, shape: tuple[int, ...], what: str) -> NDArray[np.float64]:
    """The value as an array, if it is finite numbers of this shape.

    Raises:
        ValueError: it is not.
    """
    # Python reads NaN and Infinity from JSON, and numpy makes numbers of texts: neither is one here.
    array = np.array(value)
    if array.shape != shape or (array.dtype.kind not in "if" and array.size):
        raise ValueError(f"{what}: shape {array.shape}, expected numbers of shape {shape}")
    if not np.isfinite(array.astype(np.float64)).all():
        raise ValueError(f"{what}: expected finite numbers")
    return array.astype(np.float64)
