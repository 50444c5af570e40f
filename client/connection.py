"""A client's connection: look for the server, serve it until the run is over, and say what is wrong when it isn't."""

import os
import socket
import ssl
import threading
import time

import grpc
from flwr.client import start_client

from client.flower_client import FlowerClient
from shared.addresses import is_loopback, split_address
from shared.bounded_files import MAX_CERTIFICATE_BYTES, read_bounded
from shared.config import Config
from shared.errors import (
    ChannelError,
    ConfigError,
    OrchestratorError,
    RefusedByServerError,
    ServerUnreachableError,
)

MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own limit
_RETRY_SECONDS = 0.5
_PROBE_SECONDS = 5.0
_SPARED = "no_grpc_proxy"  # gRPC's own; it stands in place of `no_proxy`


def run_client(client: FlowerClient) -> None:
    """Serve one orchestrator until it says that the run is over; look for it again when the connection breaks.

    Raises:
        ServerUnreachableError: no word from the server for `server_wait_timeout` seconds.
        RefusedByServerError: the server has refused this client for as long; an id that is taken may become free.
        ChannelError: the two sides do not agree on TLS, which waiting would not mend.
    """
    config = client.tenant.config
    certificates = _read_ca(config)
    proxy = _mind_proxy(config.server_address)
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


def check_channel(config: Config) -> None:
    """Find out, by a handshake of its own, whether TLS is why a connection failed: gRPC's words help nobody.

    Raises:
        ChannelError: the server's certificate is not to be trusted, or one side speaks TLS and the other doesn't.
    """
    host, port = split_address(config.server_address)
    context = ssl.create_default_context(cafile=config.tls_ca or None)
    context.set_alpn_protocols(["h2"])
    if not config.tls_ca:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        raw = socket.create_connection((host, port), timeout=_PROBE_SECONDS)
        with raw, context.wrap_socket(raw, server_hostname=host):
            pass
    except ssl.SSLCertVerificationError as error:
        if "mismatch" in error.verify_message:
            raise ChannelError(
                f"the server's certificate is not for {host!r} ({error.verify_message}); connect to a name that it "
                "has, or make it with orchestrator/provision.py --host"
            ) from None
        raise ChannelError(
            f"the server's certificate is not signed by the CA in {config.tls_ca} ({error.verify_message}); get ca.pem "
            "from whoever runs the server; if you have it, you may be talking to somebody else"
        ) from None
    except ssl.SSLError:
        if config.tls_ca:
            raise ChannelError(
                f"the server at {config.server_address} does not speak TLS; set tls_certificate and tls_key there"
            ) from None
    except OSError:
        pass  # nobody listens, or the server is just being restarted
    else:
        if not config.tls_ca:
            raise ChannelError(
                f"the server at {config.server_address} speaks TLS and this client does not; set tls_ca to its ca.pem"
            )


def _read_ca(config: Config) -> bytes | None:
    if not config.tls_ca:
        return None
    try:
        return read_bounded(config.tls_ca, MAX_CERTIFICATE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"tls_ca = {config.tls_ca!r}: {error.strerror}; get ca.pem from whoever runs the server"
        ) from None


def _mind_proxy(address: str) -> str:
    """Keep gRPC from asking a proxy for this very machine, and say which one it asks for another; empty for none.

    gRPC goes by the way that the environment names, for loopback addresses, too, where no proxy can know the server.
    """
    host, _ = split_address(address)
    spared = os.environ.get(_SPARED) or os.environ.get("no_proxy", "")
    if host in spared.split(","):
        return ""
    if is_loopback(host):
        os.environ[_SPARED] = ",".join(filter(None, (spared, host)))
        return ""
    name = next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), "")
    return f"the proxy of {name}; name {host} in no_proxy to go without" if name else ""


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
