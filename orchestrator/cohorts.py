"""Which of the connected clients take part in a round, the same ones whenever the same run is run again."""

import numpy as np


def choose(connected: int, count: int, seed: int, server_round: int, *, stream: int = 0) -> list[int]:
    """A random choice of `count` of the clients 0 to connected - 1, ascending; another one each round."""
    draw = np.random.default_rng((seed, server_round, stream))
    return sorted(int(i) for i in draw.choice(connected, count, replace=False))


def choose_masked(connected: int, count: int, seed: int, server_round: int, fewest: int) -> list[int]:
    """The same for masked sums: no client refuses it for what two rounds in a row would show of one tenant.

    The clients stand in a circle in random order, and each round takes the next `count` of them. Between two rounds
    `count` clients go and `count` others come, or all who were out come in; at least `fewest` of both, as
    `shared.masking.memory.RoundMemory.check_cohort` demands. Where that can't be, all are taken.
    """
    if 2 * (connected - count) < fewest:
        return list(range(connected))
    circle = np.random.default_rng(seed).permutation(connected)
    return sorted(int(circle[(server_round * count + i) % connected]) for i in range(count))
