"""Flower's grid as a transport: requests are pushed as messages, and answers pulled as they come.

One thread of our own does all the pushing and pulling, whoever waits. Flower's `send_and_receive` is not used: it hands
replies on when the last is in, polls every three seconds, and does not say who is missing.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from flower_app.codec import pack, pack_body, unpack
from orchestrator.patience import Patience
from orchestrator.seats import Seats
from orchestrator.transport import Transport
from shared.exchange import Exchange, Kind, Lost, Outcome, Request
from shared.frames import decode_answer, encode_request
from shared.printable import printable

_BATCH = 100  # messages at a time; Flower refuses a call that is too long
_NODES_SECONDS = 2.0  # between two looks at who is there
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 10.0, 600.0  # before who was sent away is greeted again
_MOST_UNHEARD = 32  # answers that wait to be taken; more stay where they are
_TIDY_SECONDS = 3600.0  # that a message which nobody waits for may lie there

_log = logging.getLogger("orchestrator")
Inbox = queue.SimpleQueue[tuple[str, Outcome]]


@dataclass
class _Asked:
    """A request on its way.

    Attributes:
        node: whom it is for.
        kind: what it asks for.
        head, body: the request.
        end: `time.monotonic` of its time-out.
        asker: the name that the answer is handed on under.
        inbox: takes it; None: nobody waits for one.
    """

    node: str
    kind: Kind
    head: bytes
    body: ArrayRecord
    end: float
    asker: str
    inbox: Inbox | None


class GridTransport(Transport):
    """Reaches tenants behind Flower's nodes.

    Args:
        seats: who sits at which node.
        grid: Flower's.
        patience: how long answers may take on this engine.
        idle_seconds: the least time between two pulls.
    """

    def __init__(self, seats: Seats, grid: Grid, patience: Patience, idle_seconds: float = 0.1) -> None:
        super().__init__(seats)
        self._grid, self._patience, self._idle = grid, patience, idle_seconds
        self._outgoing: deque[_Asked] = deque()
        self._pending: dict[str, _Asked] = {}  # by message id
        self._again: dict[str, tuple[float, float]] = {}  # node -> when to greet it again, and the wait after that
        self._work, self._closed = threading.Condition(), False
        self._pump = threading.Thread(target=self._run, name="grid", daemon=True)
        self._pump.start()

    def close(self) -> None:
        """Send what is still to be sent, and stop."""
        with self._work:
            self._closed = True
            self._work.notify_all()
        self._pump.join(timeout=10.0)

    def ask_one(self, node: str, request: Request, timeout: float) -> Outcome:
        inbox: Inbox = queue.SimpleQueue()
        seconds = self._patience.seconds(timeout, first=request.kind is Kind.GREET)
        head, body = encode_request(request)
        self._send(_Asked(node, request.kind, head, pack_body(body), time.monotonic() + seconds, node, inbox))
        return inbox.get()[1]

    def dismiss(self, node: str, reason: str) -> None:
        head, body = encode_request(Request(Kind.DISMISS, {"reason": reason}))
        end = time.monotonic() + _TIDY_SECONDS
        self._send(_Asked(node, Kind.DISMISS, head, pack_body(body), end, node, None))

    def ask(self, exchange: Exchange) -> None:
        nodes = self.seats.tenants()
        end = time.monotonic() + self._patience.seconds(exchange.timeout)
        inbox: Inbox = queue.SimpleQueue()
        bodies: dict[bytes, ArrayRecord] = {}
        for tenant, request in exchange.requests.items():
            if tenant not in nodes:
                inbox.put((tenant, Lost("disconnected")))
                continue
            head, body = encode_request(request)
            if body not in bodies:
                bodies = {body: pack_body(body)}
            self._send(_Asked(nodes[tenant], request.kind, head, bodies[body], end, tenant, inbox))
        for _ in exchange.requests:
            tenant, outcome = inbox.get()
            if isinstance(outcome, Lost):
                _log.debug("client %s: no answer: %s", tenant, outcome.reason)
                outcome = Lost(f"disconnected, or no answer within {exchange.setting}")
            exchange.on_reply(tenant, outcome)

    def _send(self, asked: _Asked) -> None:
        with self._work:
            if self._closed:
                _answer(asked, Lost("the run is over"))
                return
            self._outgoing.append(asked)
            self._work.notify_all()

    def _run(self) -> None:
        next_look = 0.0
        while not self._closed or self._outgoing:
            try:
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + _NODES_SECONDS
                    self._look_around()
                self._push()
                self._pull()
            except Exception as error:  # Flower's, or the network's: what is asked meanwhile runs into its time-outs
                _log.warning("Flower's grid: %s: %s", type(error).__name__, error)
                time.sleep(1.0)
            self._expire()
            with self._work:
                if not self._outgoing and not self._closed:
                    # A pull costs the engine time for each message that it is asked about.
                    self._work.wait(min(2.0, max(self._idle, len(self._pending) / 500)))
        for asked in self._pending.values():
            _answer(asked, Lost("the run is over"))

    def _look_around(self) -> None:
        """Greet who has come, and forget who has left."""
        present, known = {str(node) for node in self._grid.get_node_ids()}, self.seats.nodes()
        for node in sorted(known - present):
            self.seats.leave(node)
            self._again.pop(node, None)
        for node in sorted(present - known):
            # Who is sent away, or displaced by another node of its tenant, stays connected: it is greeted again, but
            # after a while, which is longer each time.
            at, wait = self._again.get(node, (0.0, _FIRST_RETRY_SECONDS))
            if at <= time.monotonic() and self.seats.arrive(node):
                self._again[node] = (time.monotonic() + wait, min(2 * wait, _LAST_RETRY_SECONDS))
                threading.Thread(target=self.seats.greet, args=(node, self), name="greeting", daemon=True).start()

    def _push(self) -> None:
        while batch := list(islice(self._take_outgoing(), _BATCH)):
            try:
                messages = [_message(asked) for asked in batch]
                # Of a node that is gone Flower returns None in one engine, and nothing at all in the other.
                pushed = set(self._grid.push_messages(messages))
            except Exception:  # whatever it is: who asked must not wait for what never left
                for asked in batch:
                    _answer(asked, Lost("Flower's grid took no message"))
                raise
            for asked, message in zip(batch, messages, strict=True):
                if message.metadata.message_id in pushed:
                    self._pending[message.metadata.message_id] = asked
                else:
                    _answer(asked, Lost("the node is gone"))

    def _take_outgoing(self) -> Iterator[_Asked]:
        while self._outgoing:
            yield self._outgoing.popleft()

    def _pull(self) -> None:
        ids = iter([number for number, asked in self._pending.items() if not _full(asked.inbox)])
        while batch := list(islice(ids, _BATCH)):
            for message in self._grid.pull_messages(batch):
                asked = self._pending.pop(message.metadata.reply_to_message_id, None)
                if asked is not None:
                    _answer(asked, _outcome(message))

    def _expire(self) -> None:
        now = time.monotonic()
        for number in [number for number, asked in self._pending.items() if asked.end <= now]:
            _answer(self._pending.pop(number), Lost("no answer in time"))


def _full(inbox: Inbox | None) -> bool:
    return inbox is not None and inbox.qsize() >= _MOST_UNHEARD


def _message(asked: _Asked) -> Message:
    kind = asked.kind.value
    action = kind if asked.kind in (Kind.TRAIN, Kind.EVALUATE) else f"query.{kind}"
    ttl = max(1.0, asked.end - time.monotonic())
    return Message(pack(asked.head, asked.body), int(asked.node), action, ttl=ttl)


def _outcome(message: Message) -> Outcome:
    if message.has_error():
        return Lost(f"Flower's error {message.error.code}: {printable(str(message.error.reason))}")
    return decode_answer(*unpack(message.content))


def _answer(asked: _Asked, outcome: Outcome) -> None:
    if asked.inbox is not None:
        asked.inbox.put((asked.asker, outcome))
