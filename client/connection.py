"""A client's connection: look for the server, serve it until the run is over, and say what is wrong when it isn't."""

import random
import threading
import time
from collections.abc import Callable
from typing import Final

import grpc

from client.channel import TlsFiles, check_channel, mind_proxy, open_channel
from client.flower_client import FlowerClient
from client.stream import serve
from shared.config import Config
from shared.errors import (
    ConfigError,
    FrameError,
    KeyMaterialError,
    NetworkError,
    OrchestratorError,
    ServerUnreachableError,
)
from shared.printable import printable

FIRST_WAIT_SECONDS: Final = 0.5
LOOKING_SECONDS: Final = 5.0  # the longest wait for a server that is not there
REFUSED_SECONDS: Final = 60.0  # and for one that does not take this client
_REFUSED: Final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)


class Backoff:
    """How long to wait before the next try: twice as long each time, half of it by chance."""

    def __init__(self) -> None:
        self._next = FIRST_WAIT_SECONDS

    def reset(self) -> None:
        """The last try went well."""
        self._next = FIRST_WAIT_SECONDS

    def seconds(self, longest: float) -> float:
        """Until the next try, at most `longest`."""
        present = min(self._next, longest)
        self._next = 2 * present
        return present / 2 + random.uniform(0, present / 2)


class Connection:
    """One client's way to its server, over as many streams as it takes.

    Certificates are read anew for each of them, and so are the keys that the settings pin.

    Args:
        client: answers.
        stay: whether it goes on when a run is over, and looks for the server for ever.
        settings: reads the settings anew; None: those of the start count for ever.

    Raises:
        ConfigError, KeyMaterialError, PassphraseError: its certificate or the CA can't be used.
    """

    def __init__(self, client: FlowerClient, stay: bool = False, settings: Callable[[], Config] | None = None) -> None:
        self._client, self._stay, self._settings = client, stay, settings
        self._config: Config = client.tenant.config
        self._files = TlsFiles.load(self._config, client.tenant.client_id)
        self._proxy = mind_proxy(self._config.server_address)
        self._state = ""
        self._backoff = Backoff()

    def run(self) -> None:
        """Serve until the run is over; with `stay` until the process ends.

        Raises:
            ServerUnreachableError: no word from the server for `server_wait_timeout` seconds.
            NetworkError: the server has refused this client for as long, as an id that is taken may become free; or,
                without `stay`, the two sides do not agree on TLS.
            ConfigError, KeyMaterialError: for as long, settings or a certificate that were replaced can't be used.
        """
        alone_since = time.monotonic()
        while True:
            self._client.welcome = False
            failure = self._serve()
            if self._client.welcome:
                alone_since = time.monotonic()
                self._backoff.reset()
            if failure is None:
                if not self._stay:
                    return
                self._tell("the run is over; waiting for the next one")
            elif not self._stay and time.monotonic() - alone_since > self._config.server_wait_timeout:
                raise failure
            else:
                self._tell_failure(failure)
            time.sleep(self._backoff.seconds(self._longest_wait(failure)))

    def _longest_wait(self, failure: OrchestratorError | None) -> float:
        if failure is None or isinstance(failure, ServerUnreachableError):
            return LOOKING_SECONDS
        return REFUSED_SECONDS if self._stay else min(REFUSED_SECONDS, self._config.server_wait_timeout / 4)

    def _serve(self) -> OrchestratorError | None:
        """One stream; why it ended before the run did, or None."""
        try:
            self._read_anew()
            channel, self._client.tenant.channel = open_channel(self._config, self._files.own)
        except (ConfigError, KeyMaterialError) as error:  # half copied, for one
            return error
        except NetworkError as error:
            return self._disagreed(error)
        except OSError as error:
            return self._unreachable(error.strerror or str(error))
        try:
            with channel:
                over = serve(self._client, channel)
        except grpc.RpcError as error:
            return self._broken(error)
        except FrameError as error:
            return error
        return None if over else self._unreachable("the server ended the stream")

    def _read_anew(self) -> None:
        """Take what was put in place since the last stream, and say so."""
        tenant = self._client.tenant
        files, before = TlsFiles.load(self._config, tenant.client_id), self._files
        self._files = files
        for line in files.news(before):
            tenant.log.info("%s", line)
        if self._settings is not None:
            tenant.pin(self._settings().pinned_key_fingerprint)

    def _broken(self, error: grpc.RpcError) -> OrchestratorError:
        """Why a stream broke."""
        said = printable(error.details() or "")
        if error.code() in _REFUSED:
            self._client.welcome = False
            return NetworkError(f"the server refuses this client: {said}")
        if not self._client.welcome and not self._config.tls_ca:
            try:
                check_channel(self._config)
            except NetworkError as disagreed:
                return self._disagreed(disagreed)
        return self._unreachable(f"{error.code().name}: {said}")

    def _disagreed(self, error: NetworkError) -> NetworkError:
        """The two sides do not agree on TLS: only who stays has the time until somebody mends it."""
        if not self._stay:
            raise error
        return error

    def _unreachable(self, reason: str) -> ServerUnreachableError:
        way = self._proxy and f" (asked by way of {self._proxy})"
        return ServerUnreachableError(
            f"no server at {self._config.server_address} for {self._config.server_wait_timeout:g} s "
            f"(server_wait_timeout){way}; start orchestrator/run_server.py with the same config (last try: {reason})",
            reason,
        )

    def _tell_failure(self, failure: OrchestratorError) -> None:
        if isinstance(failure, ServerUnreachableError):
            if self._client.welcome:
                self._tell(f"lost the server ({failure.reason}); looking for it again", always=True)
            else:
                self._tell("looking for the server")
        else:
            self._tell(f"{failure}; trying again, less and less often")

    def _tell(self, state: str, *, always: bool = False) -> None:
        """One line for each change of state."""
        if state != self._state or always:
            self._client.tenant.log.warning("%s", state)
        self._state = state


def run_client(client: FlowerClient, stay: bool = False, settings: Callable[[], Config] | None = None) -> None:
    """Serve one orchestrator until it says that the run is over; look for it again when the connection breaks.

    Args:
        client: answers.
        stay: whether to take part in the next run, too, for ever.
        settings: reads the settings anew, of which the pinned keys then count; None: those of the start do.

    Raises:
        OrchestratorError: as `Connection.run`, or the client's certificate can't be used.
    """
    _quieten_channel_watcher()
    Connection(client, stay, settings).run()


def _quieten_channel_watcher() -> None:
    """gRPC's thread that watches a channel loses a race with the channel's end, and prints a traceback about it.

    Installed by the first client of a process, and not by an import; every other thread's end is told as before.
    """
    before = threading.excepthook
    if getattr(before, "quiet_about_channels", False):
        return

    def hook(args: threading.ExceptHookArgs) -> None:
        if "Cannot monitor channel state: Channel closed!" not in str(args.exc_value):
            before(args)

    hook.quiet_about_channels = True  # type: ignore[attr-defined]  # by which the second call knows its own hook
    threading.excepthook = hook
