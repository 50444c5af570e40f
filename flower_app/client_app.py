"""A tenant's half of the app: it carries bytes, and knows nothing.

Whoever may submit a run decides what this code is: Flower ships it to the tenants' nodes. On a real node it is given
neither rows nor keys. It runs as a user that can read none of them, and speaks to the tenant's agent over a socket
(`client/agent.py`). In a simulation, where one machine has everything anyway, it calls the tenant by itself.
"""

import socket

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from flower_app.codec import pack, pack_body, unpack
from shared.exchange import Kind, Refusal
from shared.frames import Frame, encode_answer, receive_frame, send_frame
from shared.refusals import OTHER

_CONNECT_SECONDS = 10.0  # the agent is on this machine
app = ClientApp()


def handle(message: Message, context: Context) -> Message:
    """One request, whatever it asks for."""
    try:
        head, body = _answer(unpack(message.content), context)
    except Exception as error:  # Flower sends the text of what escapes to the server
        print(f"no answer from this tenant: {type(error).__name__}: {error}", flush=True)
        head, body = encode_answer(Refusal(OTHER))
    return Message(pack(head, pack_body(body)), reply_to=message)


def _answer(request: Frame, context: Context) -> Frame:
    path = context.node_config.get("socket")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(_CONNECT_SECONDS)
            agent.connect(str(path))
            agent.settimeout(None)  # the server's patience is what ends a training that takes too long
            send_frame(agent, request)
            return receive_frame(agent)
    from client.simulated import answer_simulated  # an agent's node has none of its libraries to load

    kept = context.state.config_records["tenant"]["state"] if "tenant" in context.state else b""
    answer, state = answer_simulated(context.run_config, context.node_config, request, kept)
    context.state["tenant"] = ConfigRecord({"state": state})
    return answer


app.train()(handle)
app.evaluate()(handle)
for kind in set(Kind) - {Kind.TRAIN, Kind.EVALUATE}:
    app.query(kind.value)(handle)
