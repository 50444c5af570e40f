"""Independent random streams from one seed.

Every use of randomness in the data has its own stream, so that what one client draws never depends on another client,
on the order of calls or on how much another part drew.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream is for. The numbers are part of every data set made so far: add new ones, never renumber."""

    WORLD = 0
    CLIENT_ROWS = 1
    TEST_ROWS = 2
    PARTITION = 3
    HOLDOUT = 4
    WITHHELD = 5
    TEST_SPLIT = 6
    VALIDATION_ROWS = 7


def generator(seed: int, stream: Stream, client_id: int = 0) -> np.random.Generator:
    """A fresh generator at the start of one stream (NumPy's `SeedSequence` keeps streams apart by their spawn key)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, client_id)))
