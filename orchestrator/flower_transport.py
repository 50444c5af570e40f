"""Flower's legacy transport: `start_server`'s connections as nodes, its messages as requests and outcomes."""

import threading

from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    Scalar,
    Status,
    ndarrays_to_parameters,
)
from flwr.server import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from orchestrator.seats import GREETING_SECONDS, Seats
from orchestrator.transport import Transport
from shared.errors import UpdateRejectedError
from shared.exchange import Lost, Outcome, Refusal, Reply, Request
from shared.wire import unwrap_tensor


class FlowerTransport(Transport):
    """Everything but training and evaluation, which Flower's own loop carries (`orchestrator/strategy.py`)."""

    def __init__(self, seats: Seats) -> None:
        super().__init__(seats)
        self.connections = Connections(self)

    def ask_one(self, node: str, request: Request, timeout: float) -> Outcome:
        client = self.connections.get(node)
        if client is None:
            return Lost("disconnected")
        try:
            ins = GetPropertiesIns({"kind": request.kind.value, **request.values})
            answer = client.get_properties(ins, timeout=timeout, group_id=None)
        except Exception as error:  # Flower's, or gRPC's: whatever it is, this client is gone and others are served
            return Lost(f"{type(error).__name__}: {error}")
        return of_properties(answer.status, answer.properties)

    def dismiss(self, node: str, reason: str) -> None:
        # The client ends the connection when it hears this, so there is no answer to wait for.
        client = self.connections.get(node)
        if client is not None:
            client.get_properties(GetPropertiesIns({"refused": reason}), GREETING_SECONDS, group_id=None)


class Connections(SimpleClientManager):
    """Flower's list of connections, each of which is greeted in a thread of its own."""

    def __init__(self, transport: FlowerTransport) -> None:
        super().__init__()
        self._transport = transport
        self._lock = threading.Lock()

    def register(self, client: ClientProxy) -> bool:
        """Called by Flower's thread of a new connection, before that thread can carry messages."""
        seats = self._transport.seats
        if not seats.arrive(client.cid):
            return False
        with self._lock:
            self.clients[client.cid] = client
        greeting = (client.cid, self._transport)
        threading.Thread(target=seats.greet, args=greeting, name="greeting", daemon=True).start()
        return True

    def unregister(self, client: ClientProxy) -> None:
        """Called by Flower when a connection ends."""
        with self._lock:
            self.clients.pop(client.cid, None)
        self._transport.seats.leave(client.cid)

    def all(self) -> dict[str, ClientProxy]:
        """Whom Flower's goodbye reaches, as a copy: clients still come and go. Who was sent away is not waited for."""
        here = self._transport.seats.nodes()
        with self._lock:
            return {cid: client for cid, client in self.clients.items() if cid in here}

    def get(self, cid: str) -> ClientProxy | None:
        """The connection of this name, if it is still there."""
        with self._lock:
            return self.clients.get(cid)


def fit_ins(request: Request) -> FitIns:
    """A request to train."""
    return FitIns(ndarrays_to_parameters(request.model), dict(request.values))


def evaluate_ins(request: Request) -> EvaluateIns:
    """A request to evaluate."""
    return EvaluateIns(ndarrays_to_parameters(request.model), dict(request.values))


def of_fit(result: FitRes) -> Outcome:
    """The answer to `fit_ins`; its payload is unwrapped from the array that Flower carried."""
    if result.status.code != Code.OK:
        return Refusal(result.status.message)
    try:
        return Reply(unwrap_tensor(b"".join(result.parameters.tensors)), result.metrics)
    except UpdateRejectedError as error:
        return Refusal(f"{type(error).__name__}: {error}")


def of_evaluation(result: EvaluateRes) -> Outcome:
    """The answer to `evaluate_ins`."""
    return of_properties(result.status, result.metrics)


def of_properties(status: Status, values: dict[str, Scalar]) -> Outcome:
    """An answer whose payload stands among its values."""
    if status.code != Code.OK:
        return Refusal(status.message)
    payload = values.get("payload")
    if type(payload) is not bytes:
        return Refusal("its answer holds no message")
    return Reply(payload, values)
