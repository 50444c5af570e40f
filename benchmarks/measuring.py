"""How everything here is measured: interleaved passes, medians, ratios."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Figures = dict[str, float]  # operation -> seconds, or "bytes" -> bytes, for one whole vector


class Candidate(Protocol):
    """One way to encrypt, send, add and decrypt a vector.

    Attributes:
        name: what the tables call it.
        key_bits: bits of n; 0 for a scheme that has no such modulus.
        how: how its figures are obtained, for whoever reads the results.
    """

    name: str
    key_bits: int
    how: str

    def measure(self) -> Figures:
        """One pass over every operation."""


@dataclass(frozen=True)
class Measured:
    """Medians of a candidate's passes, for a vector of `size` values."""

    name: str
    key_bits: int
    size: int
    passes: int
    how: str
    median: Figures


@dataclass(frozen=True)
class Passes:
    """How often to measure: up to `most` times, but none begins after `limit_seconds`; once at least."""

    most: int
    limit_seconds: float

    def __iter__(self) -> Iterator[int]:
        start = time.perf_counter()
        for number in range(self.most):
            if number and time.perf_counter() - start > self.limit_seconds:
                return
            yield number


def interleave(candidates: Sequence[Candidate], size: int, passes: Passes) -> list[Measured]:
    """Measure the candidates in turn, pass by pass: whatever slows the machine for a while slows all of them."""
    figures: list[list[Figures]] = [[] for _ in candidates]
    for _ in passes:
        for candidate, own in zip(candidates, figures, strict=True):
            own.append(candidate.measure())
    return [
        Measured(c.name, c.key_bits, size, len(own), c.how, medians(own))
        for c, own in zip(candidates, figures, strict=True)
    ]


def medians(passes: Sequence[Figures]) -> Figures:
    """The median of each operation over the passes."""
    return {operation: statistics.median(p[operation] for p in passes) for operation in passes[0]}


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes, by the wall clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def times_better(ours: Measured, peer: Measured, operation: str) -> float:
    """The peer's figure over ours: above 1 ours is better. A peer without `online` encrypts then, too."""
    theirs = peer.median["encrypt"] if operation == "online" and "online" not in peer.median else peer.median[operation]
    return theirs / ours.median[operation]


def wait_for_randomisers() -> None:
    """Until the pools' background threads have made all that was ordered, and ended."""
    for thread in threading.enumerate():
        if thread.name == "randomisers":
            thread.join()
