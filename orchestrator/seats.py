"""Who is here: each connection is greeted once, and each tenant has one seat.

Free of Flower: a connection is a name, and `Line` carries what is said to it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.admission import Admission
from orchestrator.told import Told
from shared.errors import Flaw, NetworkError, UpdateRejectedError
from shared.exchange import Kind, Outcome, Reply, Request, Value
from shared.identity import client_number, identity_name
from shared.printable import printable

GREETING_SECONDS = 30.0  # for one answer; it costs a client one signature
MAX_UNGREETED = 256  # connections that have not said who they are; beyond, new ones are turned away unheard

_log = logging.getLogger("orchestrator")


@dataclass(frozen=True)
class Channel:
    """What is known of a connection before it says who it is.

    Attributes:
        binding: the name of its TLS connection, which its greeting must be signed for; empty without TLS.
        name: whom its client certificate is made out to, such as client-2; empty where none was asked for.
    """

    binding: bytes = b""
    name: str = ""


class Line(Protocol):
    """Speaks to one connection at a time."""

    def ask_one(self, node: str, request: Request, timeout: float) -> Outcome:
        """One question; `timeout` in seconds."""

    def dismiss(self, node: str, reason: str) -> None:
        """Say why, and end the connection; it may be gone already."""

    def seated(self, node: str) -> None:
        """It has said who it is: from now on it may send what a tenant sends."""


class Seats:
    """Connected tenants by their ids.

    A connection's own name is random. The greeting asks each new one once which tenant it is, so that choices are
    reproducible and no tenant takes part twice. Each greeting may have a thread of its own: a connection that stays
    silent delays nobody.

    Args:
        run_name: the run folder's name, which clients use for their log files.
        session: names this start of the server; clients sign it.
        admission: who may connect; None where anyone may.
        key_proof: that the run's public key is sound. It goes with the greeting, as it is too long to go with each
            request: some 55,000 bytes at 3072 bits.
    """

    def __init__(self, run_name: str, session: str, admission: Admission | None = None, key_proof: bytes = b"") -> None:
        self._run_name, self.session, self._admission, self._key_proof = run_name, session, admission, key_proof
        self._nodes: dict[str, str] = {}  # node -> tenant, "" before the greeting; of every connection that is here
        self._channels: dict[str, Channel] = {}  # node -> what it came through
        self._changed = threading.Condition()
        self._closing = False
        self._told = Told(_log)

    def close(self) -> None:
        """The run is over: from now on a tenant that disconnects is no news."""
        self._closing = True

    def why_not(self, name: str) -> str:
        """Why the client of this name may not take part, by the enrolled list; empty if it may, or anyone may.

        Raises:
            EnrolmentError: the list can't be read.
        """
        return self._admission.why_not(client_number(name)) if self._admission else ""

    def arrive(self, node: str, channel: Channel = Channel()) -> bool:
        """Make room for a new connection, to be greeted by `greet`; whether there is room."""
        with self._changed:
            if sum(not tenant for tenant in self._nodes.values()) >= MAX_UNGREETED:
                return False
            self._nodes[node], self._channels[node] = "", channel
        return True

    def leave(self, node: str) -> None:
        """Forget a connection. Twice is fine."""
        with self._changed:
            tenant = self._nodes.pop(node, "")
            self._channels.pop(node, None)
            self._changed.notify_all()
        if tenant and not self._closing:
            _log.warning("client %s disconnected", tenant)

    def nodes(self) -> set[str]:
        """Every connection that is here, greeted or not."""
        with self._changed:
            return set(self._nodes)

    def tenants(self) -> Mapping[str, str]:
        """Tenant id -> its connection, of all that are here, ascending."""
        with self._changed:
            seated = {tenant: node for node, tenant in self._nodes.items() if tenant}
        return dict(sorted(seated.items(), key=lambda item: int(item[0])))

    def gather(self, needed: int, timeout: float) -> list[str]:
        """All tenants that are here, ascending, as soon as there are `needed` of them.

        Raises:
            NetworkError: not so many within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        reported = -1
        with self._changed:
            while len(present := self.tenants()) < needed:
                if len(present) != reported:
                    reported = len(present)
                    _log.info("waiting for clients: %d of %d connected", reported, needed)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NetworkError(
                        f"{len(present)} clients came within {timeout:g} s, {needed} are needed; start more clients "
                        "or lower min_available_clients, or raise client_wait_timeout"
                    )
                self._changed.wait(timeout=left)
        return list(present)

    def cut_off_revoked(self, line: Line) -> None:
        """End the connection of every tenant that may no longer take part; called before each request to tenants.

        Raises:
            EnrolmentError: the enrolled list can't be read.
        """
        if self._admission is None:
            return
        enrolled = self._admission.public_keys()
        for tenant, node in self.tenants().items():
            if identity_name(tenant) not in enrolled:
                reason = self._admission.why_not(tenant)
                _log.warning("the connection of client %s ends: %s", tenant, reason)
                self.leave(node)
                # In a thread: who is revoked must not hold the others up.
                threading.Thread(target=self._refuse, args=(node, line, reason), name="revoked", daemon=True).start()

    def greet(self, node: str, line: Line) -> None:
        """Ask a connection who it is, and seat it or send it away."""
        nonce = self._admission.greeting_nonce() if self._admission else b""
        greeting: dict[str, Value] = {
            "run": self._run_name, "session": self.session, "nonce": nonce, "key_proof": self._key_proof,
        }  # fmt: skip
        try:
            answer = line.ask_one(node, Request(Kind.GREET, greeting), GREETING_SECONDS)
            if not isinstance(answer, Reply):
                raise ValueError(answer.reason)
            tenant = answer.values.get("client_id")
            if type(tenant) is not int or tenant < 0:
                raise ValueError(f"client_id = {tenant!r:.80}")
            if self._admission:
                channel = self._channels.get(node, Channel())
                self._admission.check_greeting(str(tenant), nonce, answer.values.get("signature"), channel.binding)
                _check_name(str(tenant), channel)
        except UpdateRejectedError as error:
            self._refuse(node, line, str(error))
        except Exception as error:  # a connection may break in any way
            # Told, and not only forgotten: a client that is still there would wait for its first round forever.
            why = printable(str(error))  # it may quote what the other side sent
            self._refuse(node, line, f"no proper answer to the greeting: {type(error).__name__}: {why}")
        else:
            self._seat(node, line, str(tenant))

    def _seat(self, node: str, line: Line, tenant: str) -> None:
        with self._changed:
            older = [other for other, whose in self._nodes.items() if whose == tenant]
            # Without proofs it is first come, first served: a stranger must not push out a client that is at work.
            # With a proof of who it is, the older connection is one that the tenant lost without our noticing.
            refused = bool(older) and not self._admission
            if not refused:
                if node in self._nodes:  # it may be gone already
                    for other in older:
                        del self._nodes[other]
                    self._nodes[node] = tenant
                    line.seated(node)
                    _log.info("client %s connected", tenant)
                else:
                    older = []
                self._changed.notify_all()
        if not refused:
            for other in older:
                with contextlib.suppress(Exception):
                    line.dismiss(other, f"client {tenant} has connected anew, and a client has one connection")
        else:
            self._refuse(node, line, f"a client {tenant} is connected already; each client needs an id of its own")

    def _refuse(self, node: str, line: Line, reason: str) -> None:
        self._told.warn("refused a connection: %s", reason)
        with contextlib.suppress(Exception):
            line.dismiss(node, reason)
        self.leave(node)


def _check_name(tenant: str, channel: Channel) -> None:
    if channel.name not in ("", identity_name(tenant)):
        raise UpdateRejectedError(
            Flaw.SIGNATURE,
            f"client {tenant} came with the certificate of {channel.name}; each needs its own (tls_client_certificate)",
        )
