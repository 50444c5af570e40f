"""How long an engine lets an answer take. Settings count for one idle tenant; an engine may be slower than that."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Stretches the time-outs of the settings.

    Attributes:
        times: as many requests are done one after the other where the settings count on one at a time.
        least: seconds below which no answer can be expected.
        first: the same for the first word of a connection, which may have to start its process.
    """

    times: int = 1
    least: float = 0.0
    first: float = 0.0

    def seconds(self, timeout: float, *, first: bool = False) -> float:
        """What a time-out of the settings comes to, in seconds."""
        return max(timeout * self.times, self.first if first else self.least)


def of_simulation(tenants: int, workers: int) -> Patience:
    """Tenants that share a machine's workers answer one after the other; a worker takes 20 seconds to start, cold."""
    return Patience(times=math.ceil(tenants / max(1, workers)), first=180.0)


# A stage costs a SuperNode's poll (3 s) and the start of a process; on a busy machine 40 seconds were seen.
OF_DEPLOYMENT = Patience(least=120.0, first=180.0)
