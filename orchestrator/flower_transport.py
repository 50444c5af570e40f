"""Flower's legacy transport: streams of its gRPC protocol as nodes, its messages as requests and outcomes."""

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
from flwr.proto.transport_pb2 import ClientMessage
from flwr.server import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import GrpcBridge, InsWrapper, ResWrapper
from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy

from orchestrator.seats import Seats
from orchestrator.streams import Stream, Why
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

    def come(self, stream: Stream) -> bool:
        """A stream is let in; False: there is no room for it."""
        return self.connections.register(Connection(stream))

    def gone(self, stream: Stream) -> None:
        """A stream has ended. Twice is fine."""
        self.connections.forget(stream.name)

    def dismiss(self, node: str, reason: str) -> None:
        stream = self.connections.stream(node)
        if stream is not None:
            stream.close(Why.REFUSED, reason)

    def seated(self, node: str) -> None:
        stream = self.connections.stream(node)
        if stream is not None:
            stream.prove()


class _Bridge(GrpcBridge):
    """Flower's requests go to the stream."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def request(self, ins_wrapper: InsWrapper) -> ResWrapper:
        """Send it, and wait for the answer.

        Raises:
            ConnectionError: there is none.
        """
        answer = self._stream.ask(ins_wrapper.server_message.SerializeToString(), ins_wrapper.timeout)
        return ResWrapper(ClientMessage.FromString(answer))


class Connection(GrpcClientProxy):
    """What Flower asks a client through.

    Attributes:
        stream: carries it.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.name, _Bridge(stream))
        self.stream = stream


class Connections(SimpleClientManager):
    """Flower's list of connections, each of which is greeted in a thread of its own."""

    def __init__(self, transport: FlowerTransport) -> None:
        super().__init__()
        self._transport = transport
        self._streams: dict[str, Stream] = {}
        self._lock = threading.Lock()

    def register(self, client: ClientProxy) -> bool:
        """Called with each new connection; False: there is no room for it."""
        seats = self._transport.seats
        if not isinstance(client, Connection) or not seats.arrive(client.cid, client.stream.channel):
            return False
        with self._lock:
            self.clients[client.cid], self._streams[client.cid] = client, client.stream
        greeting = (client.cid, self._transport)
        threading.Thread(target=seats.greet, args=greeting, name="greeting", daemon=True).start()
        return True

    def unregister(self, client: ClientProxy) -> None:
        """The connection is no more. Twice is fine."""
        self.forget(client.cid)

    def forget(self, cid: str) -> None:
        """The same, by its name."""
        with self._lock:
            self.clients.pop(cid, None)
            self._streams.pop(cid, None)
        self._transport.seats.leave(cid)

    def all(self) -> dict[str, ClientProxy]:
        """Whom Flower's goodbye reaches, as a copy: clients still come and go. Who was sent away is not waited for."""
        here = self._transport.seats.nodes()
        with self._lock:
            return {cid: client for cid, client in self.clients.items() if cid in here}

    def get(self, cid: str) -> ClientProxy | None:
        """The connection of this name, if it is still there."""
        with self._lock:
            return self.clients.get(cid)

    def stream(self, cid: str) -> Stream | None:
        """What carries it."""
        with self._lock:
            return self._streams.get(cid)


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
        return Refusal(error.coded)


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
