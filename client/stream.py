"""One stream to the server: Flower's messages come, Flower's client answers, until the server ends it.

Flower's own `start_client` shows no client certificate, does not hand on why a server ended a stream, and sends a long
answer whole.
"""

import queue
from collections.abc import Callable
from typing import Any, Final, TypeVar

import grpc
from flwr.client import Client
from flwr.common import serde
from flwr.proto.transport_pb2 import ClientMessage, Reason, ServerMessage

from shared.errors import FrameError
from shared.pieces import cut

JOIN: Final = "/flwr.proto.FlowerService/Join"  # Flower's name for the stream of a client
_Ins = TypeVar("_Ins")


def serve(client: Client, channel: grpc.Channel) -> bool:
    """Answer on one stream until it ends.

    Returns:
        Whether the server said that the run is over; False: the stream ended without a word.

    Raises:
        grpc.RpcError: the stream broke, or the server ended it; its code and details say why.
        FrameError: a message that Flower's server never sends.
    """
    answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    join = channel.stream_stream(JOIN, response_deserializer=ServerMessage.FromString)
    stream = join(piece for answer in iter(answers.get, None) for piece in cut(answer))
    try:
        for message in stream:
            if message.WhichOneof("msg") == "reconnect_ins":  # Flower's goodbye
                goodbye = ClientMessage(disconnect_res=ClientMessage.DisconnectRes(reason=Reason.ACK))
                answers.put(goodbye.SerializeToString())
                return True
            answers.put(_answer(client, message).SerializeToString())
    finally:
        answers.put(None)  # gRPC's thread that sends waits for it
    return False


def _answer(client: Client, message: ServerMessage) -> ClientMessage:
    kind = message.WhichOneof("msg")
    if kind == "get_properties_ins":
        properties = client.get_properties(_read(serde.get_properties_ins_from_proto, message.get_properties_ins))
        return ClientMessage(get_properties_res=serde.get_properties_res_to_proto(properties))
    if kind == "fit_ins":
        fitted = client.fit(_read(serde.fit_ins_from_proto, message.fit_ins))
        return ClientMessage(fit_res=serde.fit_res_to_proto(fitted))
    if kind == "evaluate_ins":
        evaluated = client.evaluate(_read(serde.evaluate_ins_from_proto, message.evaluate_ins))
        return ClientMessage(evaluate_res=serde.evaluate_res_to_proto(evaluated))
    raise FrameError(f"the server sent {kind!r}, which this client has no answer to; is it of the same version?")


def _read(from_proto: Callable[[Any], _Ins], part: Any) -> _Ins:
    try:
        return from_proto(part)
    except TypeError:  # Flower's reader asks a value that is of no kind for its kind's name
        raise FrameError("the server sent a value without a kind; is it of the same version?") from None
