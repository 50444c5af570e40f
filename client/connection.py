"""A client's connection: look for the server, serve it until the run is over, and say what is wrong when it isn't."""

import threading
import time

import grpc
from flwr.client import start_client

from client.channel import check_channel, mind_proxy
from client.flower_client import FlowerClient
from shared.bounded_files import MAX_CERTIFICATE_BYTES, read_bounded
from shared.config import Config
from shared.errors import (
    ConfigError,
    OrchestratorError,
    RefusedByServerError,
    ServerUnreachableError,
)

MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own limit
_RETRY_SECONDS = 0.5


def run_client(client: FlowerClient) -> None:
    """Serve one orchestrator until it says that the run is over; look for it again when the connection breaks.

    Raises:
        ServerUnreachableError: no word from the server for `server_wait_timeout` seconds.
        RefusedByServerError: the server has refused this client for as long; an id that is taken may become free.
        ChannelError: the two sides do not agree on TLS, which waiting would not mend.
    """
    config = client.tenant.config
    certificates = _read_ca(config)
    proxy = mind_proxy(config.server_address)
    _quieten_channel_watcher()
    alone_since = time.monotonic()
    while True:
        client.welcome = False
        try:
            start_client(
                server_address=config.server_address,
                client=client,
                insecure=certificates is None,
                root_certificates=certificates,
                grpc_max_message_length=MAX_MESSAGE_BYTES,
            )
            return
        except (grpc.RpcError, StopIteration):  # refused, or cut: Flower's own retry does not cover this transport
            check_channel(config)
            failure: OrchestratorError = ServerUnreachableError(
                f"no server at {config.server_address} for {config.server_wait_timeout:g} s (server_wait_timeout); "
                f"start orchestrator/run_server.py with the same config{proxy and f' (asked by way of {proxy})'}"
            )
        except RefusedByServerError as error:
            failure = error
        if client.welcome:
            client.tenant.log.warning("lost the server; looking for it again")
            alone_since = time.monotonic()
        if time.monotonic() - alone_since > config.server_wait_timeout:
            raise failure
        time.sleep(_RETRY_SECONDS)


def _read_ca(config: Config) -> bytes | None:
    if not config.tls_ca:
        return None
    try:
        return read_bounded(config.tls_ca, MAX_CERTIFICATE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"tls_ca = {config.tls_ca!r}: {error.strerror}; get ca.pem from whoever runs the server"
        ) from None


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

    hook.quiet_about_channels = True  # type: ignore[attr-defined]
    threading.excepthook = hook
