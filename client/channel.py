"""The channel to the server, looked at without Flower: TLS by a handshake of its own, and the environment's proxies."""

import os
import socket
import ssl

from shared.addresses import is_loopback, split_address
from shared.config import Config
from shared.errors import ChannelError

_PROBE_SECONDS = 5.0
_SPARED = "no_grpc_proxy"  # gRPC's own; it stands in place of `no_proxy`


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


def proxy_for(address: str) -> str:
    """The environment's variable that names gRPC's proxy for another machine; empty: it asks none."""
    host, _ = split_address(address)
    spared = os.environ.get(_SPARED) or os.environ.get("no_proxy", "")
    if is_loopback(host) or host in spared.split(","):
        return ""
    return next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), "")


def mind_proxy(address: str) -> str:
    """Keep gRPC from asking a proxy for this very machine, and say which one it asks for another; empty for none.

    gRPC goes by the way that the environment names, for loopback addresses, too, where no proxy can know the server.
    """
    host, _ = split_address(address)
    spared = os.environ.get(_SPARED) or os.environ.get("no_proxy", "")
    if is_loopback(host) and host not in spared.split(","):
        os.environ[_SPARED] = ",".join(filter(None, (spared, host)))
    name = proxy_for(address)
    return f"the proxy of {name}; name {host} in no_proxy to go without" if name else ""
