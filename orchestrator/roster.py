"""Who is connected: Flower's client manager with a greeting, tenant ids, and waits that end."""

import contextlib
import logging
import threading
import time

from flwr.common import Code, GetPropertiesIns, Scalar
from flwr.server import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from orchestrator.admission import Admission, identity_name
from shared.errors import TooFewClientsError, UpdateRejectedError

GREETING_SECONDS = 30.0  # for one answer; it costs a client one signature
MAX_UNGREETED = 256  # connections that have not said who they are; beyond, new ones are turned away unheard

_log = logging.getLogger("orchestrator")


class Roster(SimpleClientManager):
    """Connected clients by tenant id.

    Flower's `cid` belongs to a connection and is random. The greeting asks each new connection once which tenant it is,
    so that choices are reproducible and no tenant takes part twice. Each greeting has a thread of its own: a connection
    that stays silent delays nobody.

    Args:
        run_name: the run folder's name, which clients use for their log files.
        session: names this start of the server; clients sign it.
        admission: who may connect; None where anyone may.
        key_proof: that the run's public key is sound. It goes with the greeting, as it is too long to go with each
            request: some 55,000 bytes at 3072 bits.
    """

    def __init__(self, run_name: str, session: str, admission: Admission | None = None, key_proof: bytes = b"") -> None:
        super().__init__()
        self._run_name, self._session, self._admission, self._key_proof = run_name, session, admission, key_proof
        self._tenants: dict[str, str] = {}  # cid -> tenant id, of every connection that was greeted, lost ones too
        self._changed = threading.Condition()  # guards `clients` and `_tenants`
        self._closing = False

    def close(self) -> None:
        """The run is over: from now on a client that disconnects is no news."""
        self._closing = True

    def register(self, client: ClientProxy) -> bool:
        """Called by Flower's thread of a new connection, before that thread can carry messages."""
        with self._changed:
            if len(self.clients) - len(self.connected()) >= MAX_UNGREETED:
                return False
            self.clients[client.cid] = client
        threading.Thread(target=self._greet, args=(client,), name="greeting", daemon=True).start()
        return True

    def all(self) -> dict[str, ClientProxy]:
        """A copy: Flower goes through it at the end of a run, while clients still come and go."""
        with self._changed:
            return dict(self.clients)

    def unregister(self, client: ClientProxy) -> None:
        """Forget a connection; called by Flower when it ends. Twice is fine."""
        with self._changed:
            known = self.clients.pop(client.cid, None) is not None
            self._changed.notify_all()
        if known and not self._closing and client.cid in self._tenants:
            _log.warning("client %s disconnected", self.tenant_of(client))

    def tenant_of(self, client: ClientProxy) -> str:
        """The tenant behind a connection, also one that has just been lost; "?" if it never said."""
        return self._tenants.get(client.cid, "?")

    def connected(self) -> list[ClientProxy]:
        """The greeted clients that are connected now, sorted by tenant id."""
        with self._changed:
            present = [client for cid, client in self.clients.items() if cid in self._tenants]
        return sorted(present, key=lambda client: int(self._tenants[client.cid]))

    def cut_off_revoked(self) -> None:
        """End the connection of every tenant that is no longer enrolled; called before each request to clients.

        Raises:
            EnrolmentError: the enrolled list can't be read.
        """
        if self._admission is None:
            return
        enrolled = self._admission.public_keys()
        for client in self.connected():
            tenant = self.tenant_of(client)
            if identity_name(tenant) not in enrolled:
                _log.warning("client %s is revoked: its connection ends", tenant)
                self.unregister(client)
                # In a thread: who is revoked must not hold the others up.
                reason = f"client {tenant} was revoked"
                threading.Thread(target=self._refuse, args=(client, reason), name="revoked", daemon=True).start()

    def gather(self, needed: int, timeout: float) -> list[ClientProxy]:
        """All greeted clients, sorted by tenant id, as soon as there are `needed` of them.

        Raises:
            TooFewClientsError: not so many within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        reported = -1
        with self._changed:
            while len(present := self.connected()) < needed:
                if len(present) != reported:
                    reported = len(present)
                    _log.info("waiting for clients: %d of %d connected", reported, needed)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TooFewClientsError(
                        f"{len(present)} clients came within {timeout:g} s, {needed} are needed; start more clients "
                        "or lower min_available_clients, or raise client_wait_timeout"
                    )
                self._changed.wait(timeout=left)
        return present

    def _greet(self, client: ClientProxy) -> None:
        nonce = self._admission.greeting_nonce() if self._admission else b""
        greeting: dict[str, Scalar] = {
            "run": self._run_name, "session": self._session, "nonce": nonce, "key_proof": self._key_proof,
        }  # fmt: skip
        try:
            answer = client.get_properties(GetPropertiesIns(greeting), timeout=GREETING_SECONDS, group_id=None)
            tenant = answer.properties.get("client_id")
            if answer.status.code != Code.OK or type(tenant) is not int or tenant < 0:
                raise ValueError(answer.status.message or f"client_id = {tenant!r:.80}")
            if self._admission:
                self._admission.check_greeting(str(tenant), nonce, answer.properties.get("signature"))
        except UpdateRejectedError as error:
            self._refuse(client, str(error))
        except Exception as error:  # a connection may break in any way
            # Told, and not only forgotten: a client that is still there would wait for its first round forever.
            self._refuse(client, f"no proper answer to the greeting: {type(error).__name__}: {error}")
        else:
            self._seat(client, str(tenant))

    def _seat(self, client: ClientProxy, tenant: str) -> None:
        with self._changed:
            older = [other for other in self.connected() if self._tenants[other.cid] == tenant]
            if older and not self._admission:
                seated = False  # first come, first served: a stranger must not push out a client that is at work
            else:
                # With a proof of who it is, the older connection is one that the tenant lost without our noticing.
                for other in older:
                    del self.clients[other.cid]
                seated = client.cid in self.clients  # it may be gone already
                if seated:
                    self._tenants[client.cid] = tenant
                    _log.info("client %s connected", tenant)
                self._changed.notify_all()
        if older and not seated:
            self._refuse(client, f"a client {tenant} is connected already; each client needs an id of its own")

    def _refuse(self, client: ClientProxy, reason: str) -> None:
        _log.warning("refused a connection: %s", reason)
        # The client ends the connection when it hears this, so there is no answer to wait for.
        with contextlib.suppress(Exception):
            client.get_properties(GetPropertiesIns({"refused": reason}), GREETING_SECONDS, group_id=None)
        self.unregister(client)
