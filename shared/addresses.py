"""Addresses that the server listens on: taken apart, and whether other machines reach them."""

import ipaddress
import re

from shared.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str, setting: str = "server_address") -> tuple[str, int]:
    """`host:port` or `[v6]:port` as host and port.

    Args:
        address: the text.
        setting: which one it is, for the error.

    Raises:
        ConfigError: no such form, or a port outside 1 to 65535.
    """
    match = re.fullmatch(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>\d{1,5})", address)
    if not match or not 1 <= int(match["port"]) <= 65_535:
        raise ConfigError(f"{setting} = {address!r}: expected host:port with a port from 1 to 65535")
    host = match["v6"] or match["host"]
    try:
        host.encode("idna")  # as who looks it up does
    except UnicodeError as error:
        raise ConfigError(f"{setting} = {address!r}: {host!r} is no host's name: {error}") from None
    return host, int(match["port"])
