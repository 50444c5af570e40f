"""What orchestrator and tenants say to each other, whatever carries it: requests, replies, and exchanges of them.

The protocol is written without I/O. A generator yields exchanges; whoever drives it asks the tenants, by function calls
or by Flower, hands each answer to the exchange as it comes, and goes on.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = bool | bytes | float | int | str
Values = Mapping[str, Value]
Model = list[NDArray[np.float32]]  # the parameters, in the order of the model's `state_dict`
T = TypeVar("T")


class Kind(StrEnum):
    """What a request asks for."""

    GREET = "greet"  # who are you?
    DISMISS = "dismiss"  # you take no part, and this is why
    STATISTICS = "statistics"  # of the features, encrypted
    ADVERTISE = "advertise"  # the four stages of a masked sum that are not its vector
    SHARE = "share"
    CONFIRM = "confirm"
    REVEAL = "reveal"
    TRAIN = "train"  # the delta, encrypted
    EVALUATE = "evaluate"  # the figures on held-out rows, encrypted
    TOSS = "toss"  # a commitment, for a draw of groups
    DRAW = "draw"  # what it was to
    AUDIT = "audit"  # a piece of the proof of a round's sum
    LOG_HEAD = "log_head"  # the last head of the run's log chain


# What a tenant says to a piece of a proof.
MORE = "more"  # the next piece
VERIFIED = "verified"  # that was the last one, and the sum is true
WANTED = "wanted"  # first the proofs before it
OFF = "off"  # none: it does not audit


@dataclass(frozen=True)
class Request:
    """One question to one tenant.

    Attributes:
        kind: what it is about.
        values: what the tenant needs for it.
        model: the global model; empty where it plays no part.
    """

    kind: Kind
    values: Values
    model: Model = field(default_factory=list)


@dataclass(frozen=True)
class Reply:
    """A tenant's answer, of whatever types the network delivered; nothing in it is to be trusted.

    Attributes:
        payload: the message or the pickled vector.
        values: what comes beside it.
    """

    payload: bytes
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A tenant that answers, and does not do what it is asked for.

    Attributes:
        reason: a code of `shared/refusals.py` where updates are masked, else a text.
    """

    reason: str


@dataclass(frozen=True)
class Lost:
    """No answer, or none that is one.

    Attributes:
        reason: in plain words.
    """

    reason: str


Answer = Reply | Refusal
Outcome = Answer | Lost


@dataclass(frozen=True)
class Exchange:
    """One request to each of some tenants, all at once.

    Attributes:
        kind: of all the requests.
        requests: by tenant.
        timeout: seconds that an answer may take.
        setting: where the timeout comes from, for whoever has to change it.
        on_reply: takes each tenant's outcome as soon as it is there, one at a time, in any order; exactly once each.
    """

    kind: Kind
    requests: Mapping[str, Request]
    timeout: float
    setting: str
    on_reply: Callable[[str, Outcome], None]


Steps = Generator[Exchange, None, T]


def together(
    protocols: Mapping[str, Steps[T]], expected: tuple[type[Exception], ...]
) -> Steps[dict[str, T | Exception]]:
    """Several protocols side by side: what they ask of their tenants at one stage goes out as one exchange.

    Args:
        protocols: by name; no tenant is in two of them.
        expected: how one of them may fail without ending the others.

    Returns:
        What each of them returns, or how it failed.
    """
    ends: dict[str, T | Exception] = {}
    waiting: dict[str, Exchange] = {}

    def advance(name: str) -> None:
        try:
            waiting[name] = next(protocols[name])
        except StopIteration as end:
            ends[name] = end.value
        except expected as error:
            ends[name] = error

    for name in protocols:
        advance(name)
    while waiting:
        first = next(iter(waiting.values()))
        asked = {name: exchange for name, exchange in waiting.items() if exchange.kind is first.kind}
        of_tenant = {tenant: exchange for exchange in asked.values() for tenant in exchange.requests}
        requests = {tenant: exchange.requests[tenant] for tenant, exchange in of_tenant.items()}

        def hand_on(tenant: str, outcome: Outcome, of_tenant: Mapping[str, Exchange] = of_tenant) -> None:
            of_tenant[tenant].on_reply(tenant, outcome)

        yield Exchange(first.kind, requests, first.timeout, first.setting, hand_on)
        for name in asked:
            del waiting[name]
            advance(name)
    return ends


def drive(steps: Steps[T], ask: Callable[[Exchange], None]) -> T:
    """Put each exchange to the tenants until the protocol is at its end.

    Args:
        steps: the protocol.
        ask: returns when `on_reply` has had every outcome.

    Returns:
        What the protocol returns.
    """
    try:
        while True:
            ask(next(steps))
    except StopIteration as end:
        result: T = end.value
        return result
