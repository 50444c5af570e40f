"""A grid of Flower's messages in this process: real messages, the real ClientApp, agents behind real sockets."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.agent import Agent
from client.tenant import Tenant
from flower_app import client_app
from flower_app.codec import unpack
from shared.exchange import Request
from shared.frames import decode_request
from tests.federations import never


class FakeGrid:
    """Delivers messages to nodes by calling the ClientApp.

    Args:
        sockets: of the tenants' agents, by node.
        lost: whether the answer of this node to a request is lost.

    Attributes:
        nodes: who is connected.
        absent: nodes that messages are not taken for.
        errors: nodes that Flower answers for with an error.
        silent: nodes that never answer.
        pushed: every message, as (node, type, ttl).
    """

    def __init__(self, sockets: Mapping[int, Path], lost: Callable[[str, Request], bool] = never) -> None:
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1  # what Flower gives an app's process
        self.nodes, self._sockets, self._lost = set(sockets), dict(sockets), lost
        self.absent: set[int] = set()
        self.errors: set[int] = set()
        self.silent: set[int] = set()
        self.pushed: list[tuple[int, str, float]] = []
        self._replies: dict[str, Message] = {}
        self._lock = threading.Lock()

    def get_node_ids(self) -> list[int]:
        return sorted(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        taken = []
        for message in messages:
            number, node = str(uuid4()), message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = number  # as Flower's own grids do
            self.pushed.append((node, message.metadata.message_type, message.metadata.ttl))
            if node in self.absent or node not in self.nodes:
                continue
            taken.append(number)
            threading.Thread(target=self._deliver, args=(node, number, message), daemon=True).start()
        return taken

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        with self._lock:
            return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def _deliver(self, node: int, number: str, message: Message) -> None:
        if node in self.silent:
            return
        if node in self.errors:
            reply = Message(Error(code=3, reason="Node\nunavailable"), reply_to=message)
        else:
            context = Context(1, node, {"socket": str(self._sockets[node])}, RecordDict(), {})
            reply = client_app.handle(message, context)
            if self._lost(str(node), decode_request(*unpack(message.content))):
                reply = Message(Error(code=3, reason="lost"), reply_to=message)
        with self._lock:
            self._replies[number] = reply


@contextmanager
def agents(tenants: Mapping[str, Tenant], folder: Path) -> Iterator[dict[int, Path]]:
    """Agents of these tenants, each behind a socket, by the tenant's number."""
    running = {int(name): Agent(tenant, folder / f"{name}.sock") for name, tenant in tenants.items()}
    threads = [threading.Thread(target=agent.serve, daemon=True) for agent in running.values()]
    for thread in threads:
        thread.start()
    try:
        yield {number: folder / f"{number}.sock" for number in running}
    finally:
        for agent in running.values():
            agent.close()
        for thread in threads:
            thread.join()


def until(holds: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)
