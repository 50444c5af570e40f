"""Who is connected: Flower's client manager with a greeting, tenant ids, and waits that end."""

import contextlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from flwr.common import Code, GetPropertiesIns, Scalar
from flwr.server import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from orchestrator.admission import Admission
from shared.errors import TooFewClientsError, UpdateRejectedError

_log = logging.getLogger("orchestrator")


class Roster(SimpleClientManager):
    """Connected clients by tenant id.

    Flower's `cid` belongs to a connection and is random. The greeting asks each new connection once which tenant it is,
    so that choices are reproducible and no tenant takes part twice.
    """

    def __init__(
        self, run_name: str, session: str, greeting_timeout: float, admission: Admission | None = None
    ) -> None:
        super().__init__()
        self._run_name, self._session, self._admission = run_name, session, admission
        self._greeting_timeout = greeting_timeout
        self._tenants: dict[str, str] = {}  # cid -> tenant id, of every connection that was greeted, lost ones too
        self._changed = threading.Condition()
        self._closing = False

    def close(self) -> None:
        """The run is over: from now on a client that disconnects is no news."""
        self._closing = True

    def register(self, client: ClientProxy) -> bool:
        registered = super().register(client)
        with self._changed:
            self._changed.notify_all()
        return registered

    def all(self) -> dict[str, ClientProxy]:
        """A copy: Flower goes through it at the end of a run, while clients still come and go."""
        return dict(self.clients)

    def unregister(self, client: ClientProxy) -> None:
        # A lost connection and the greeting that fails on it both come here, from two threads; one of them is first.
        if self.clients.pop(client.cid, None) is None:
            return
        if not self._closing and client.cid in self._tenants:
            _log.warning("client %s disconnected", self.tenant_of(client))

    def tenant_of(self, client: ClientProxy) -> str:
        """The tenant behind a connection, also one that has just been lost; "?" if it never said."""
        return self._tenants.get(client.cid, "?")

    def connected(self) -> list[ClientProxy]:
        """The greeted clients that are connected now, sorted by tenant id."""
        present = [client for cid, client in list(self.clients.items()) if cid in self._tenants]
        return sorted(present, key=lambda client: int(self._tenants[client.cid]))

    def gather(self, needed: int, timeout: float) -> list[ClientProxy]:
        """All greeted clients, sorted by tenant id, as soon as there are `needed` of them.

        Raises:
            TooFewClientsError: not so many within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        reported = -1
        while True:
            self._greet_new()
            present = self.connected()
            if len(present) >= needed:
                return present
            if len(present) != reported:
                reported = len(present)
                _log.info("waiting for clients: %d of %d connected", reported, needed)
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TooFewClientsError(
                        f"{len(present)} clients came within {timeout:g} s, {needed} are needed; start more clients "
                        "or lower min_available_clients, or raise client_wait_timeout"
                    )
                if all(cid in self._tenants for cid in list(self.clients)):  # a copy: clients come and go
                    self._changed.wait(timeout=left)

    def _greet_new(self) -> None:
        new = [client for cid, client in list(self.clients.items()) if cid not in self._tenants]
        if new:
            with ThreadPoolExecutor(max_workers=len(new)) as pool:
                list(pool.map(self._greet, new))

    def _refuse(self, client: ClientProxy, reason: str) -> None:
        _log.warning("refused a connection: %s", reason)
        # The client ends the connection when it hears this, so there is no answer to wait for.
        with contextlib.suppress(Exception):
            client.get_properties(GetPropertiesIns({"refused": reason}), self._greeting_timeout, group_id=None)
        self.unregister(client)

    def _greet(self, client: ClientProxy) -> None:
        nonce = self._admission.greeting_nonce() if self._admission else b""
        greeting: dict[str, Scalar] = {"run": self._run_name, "session": self._session, "nonce": nonce}
        try:
            answer = client.get_properties(GetPropertiesIns(greeting), timeout=self._greeting_timeout, group_id=None)
            tenant = answer.properties.get("client_id")
            if answer.status.code != Code.OK or type(tenant) is not int or tenant < 0:
                raise ValueError(answer.status.message or f"client_id = {tenant!r:.80}")
            if self._admission:
                self._admission.check_greeting(str(tenant), nonce, answer.properties.get("signature"))
        except UpdateRejectedError as error:
            self._refuse(client, str(error))
            return
        except Exception as error:  # whatever a stranger's connection raises, the others are served
            # Told, and not only forgotten: a client that is still there would wait for its first round forever.
            self._refuse(client, f"no proper answer to the greeting: {type(error).__name__}: {error}")
            return
        name = str(tenant)
        with self._changed:
            older = [other for other in self.connected() if self._tenants[other.cid] == name]
            if not older or self._admission:
                self._tenants[client.cid] = name
        if older and self._admission:
            # It has proven who it is, so its older connection is one that it lost without our noticing.
            self.unregister(older[0])
        elif older:  # first come, first served: a stranger must not push out a client that is at work
            self._refuse(client, f"a client {name} is connected already; each client needs an id of its own")
            return
        _log.info("client %s connected", name)
