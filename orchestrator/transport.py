"""What carries exchanges to tenants: the seam between the protocol and the world. Flower's has a module of its own."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol

from orchestrator.seats import Seats
from shared.exchange import Exchange, Lost, Outcome, Refusal, Reply, Request

_log = logging.getLogger("orchestrator")


class Transport(ABC):
    """Carries requests to connections (nodes) and answers back.

    Args:
        seats: who sits at which connection.
    """

    def __init__(self, seats: Seats) -> None:
        self.seats = seats

    @abstractmethod
    def ask_one(self, node: str, request: Request, timeout: float) -> Outcome:
        """One question to one connection; `timeout` in seconds. Whatever goes wrong is `Lost`."""

    @abstractmethod
    def dismiss(self, node: str, reason: str) -> None:
        """Say why, and end the connection; it may be gone already."""

    def seated(self, node: str) -> None:  # noqa: B027
        """It has said who it is; that makes no difference unless the transport says so."""

    def close(self) -> None:  # noqa: B027
        """Give back what the transport holds; there is nothing unless it says so."""

    def ask(self, exchange: Exchange) -> None:
        """All requests of an exchange at once; returns when each has its outcome."""
        nodes = self.seats.tenants()
        with ThreadPoolExecutor(max_workers=max(1, len(exchange.requests))) as pool:
            asked = {
                pool.submit(self._ask_seat, nodes.get(tenant), request, exchange): tenant
                for tenant, request in exchange.requests.items()
            }
            for answer in as_completed(asked):
                exchange.on_reply(asked.pop(answer), answer.result())  # no answer is kept until the last is in

    def _ask_seat(self, node: str | None, request: Request, exchange: Exchange) -> Outcome:
        outcome = self.ask_one(node, request, exchange.timeout) if node is not None else Lost("")
        # Which of the two it was, a connection does not say.
        return Lost(f"disconnected, or no answer within {exchange.setting}") if isinstance(outcome, Lost) else outcome


class Answering(Protocol):
    """A tenant as the memory transport sees it: `client.tenant.Tenant`."""

    def answer(self, request: Request) -> Reply | Refusal:
        """Do what is asked for, or say why not."""


class MemoryTransport(Transport):
    """Tenants in this process, asked one after the other by function calls.

    Args:
        seats: where they are seated.
        tenants: by connection; whatever name.
        lost: whether this tenant's answer to a request is lost; none is by default.
    """

    def __init__(
        self,
        seats: Seats,
        tenants: Mapping[str, Answering],
        lost: Callable[[str, Request], bool] = lambda _node, _request: False,
    ) -> None:
        super().__init__(seats)
        self._tenants, self._lost = dict(tenants), lost

    def connect(self, nodes: Iterable[str] | None = None) -> None:
        """Greet and seat all tenants, or these."""
        for node in self._tenants if nodes is None else nodes:
            self.seats.arrive(node)
            self.seats.greet(node, self)

    def ask_one(self, node: str, request: Request, timeout: float) -> Outcome:
        outcome = self._tenants[node].answer(request)
        return Lost("") if self._lost(node, request) else outcome

    def dismiss(self, node: str, reason: str) -> None:
        self._tenants.pop(node, None)

    def ask(self, exchange: Exchange) -> None:
        nodes = self.seats.tenants()
        for tenant, request in exchange.requests.items():
            exchange.on_reply(tenant, self._ask_seat(nodes.get(tenant), request, exchange))
