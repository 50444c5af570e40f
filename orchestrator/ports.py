"""The ports that the server listens on."""

import socket

from shared.addresses import split_address
from shared.errors import NetworkError


def check_port_free(where: str, setting: str = "server_address") -> None:
    """gRPC shares a port between servers without a word, so ask for it alone first.

    Args:
        where: host:port.
        setting: that names it.

    Raises:
        NetworkError: the server can't listen there.
    """
    host, port = split_address(where, setting)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise NetworkError(
            f"can't listen on {where}: {error.strerror or error}; stop the other server or choose another {setting}"
        ) from None
