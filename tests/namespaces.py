"""Hosts of their own on one machine: Linux network namespaces on a bridge, each with an address and a loopback."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence


def available() -> bool:
    """Whether this process may make namespaces: as root, where the kernel and `ip` allow it."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Make these hosts; name -> address. `command_in` runs something in one."""
    if not names:
        yield {}
        return
    made: list[str] = []
    try:
        hub = _namespace("hub")
        made.append(hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        addresses = {}
        for number, name in enumerate(names, start=1):
            space = _namespace(name)
            made.append(space)
            _ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", f"port{number}", "netns", hub)
            _ip("-n", hub, "link", "set", f"port{number}", "master", "bridge", "up")
            addresses[name] = f"10.99.0.{number}"
            _ip("-n", space, "addr", "add", f"{addresses[name]}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", space, "link", "set", device, "up")
        yield addresses
    finally:
        for space in made:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def command_in(host: str) -> list[str]:
    """What comes before a command that is to run on this host."""
    return ["ip", "netns", "exec", _name(host)]


def _name(host: str) -> str:
    return f"aco-{os.getpid()}-{host}"


def _namespace(host: str) -> str:
    _ip("netns", "add", _name(host))
    return _name(host)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
