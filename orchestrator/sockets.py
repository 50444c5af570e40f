"""This process's sockets and descriptors: how many there may be, and which connections do nothing.

gRPC accepts whatever connects, and can't say from where. Each connection that stays silent costs a descriptor, and when
they are used up no checkpoint can be written. So a thread looks at the sockets themselves.
"""

import contextlib
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from orchestrator.streams import Peer
from orchestrator.told import Told

RESERVE: Final = 256  # descriptors that connections never get: files of the run, data, gRPC's own
_DESCRIPTORS: Final = "/dev/fd"


def raise_descriptor_limit(wanted: int) -> int:
    """Let this process have as many descriptors, as far as the hard limit goes. Returns how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return wanted if soft == resource.RLIM_INFINITY else soft


def connections(port: int) -> Iterator[tuple[Peer, socket.socket]]:
    """Every connection to a port of this process; each as a duplicate, so that it can't become another meanwhile."""
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 (numbers, and not paths)
        found = _duplicate(int(name))
        if found is None:
            continue
        with found:
            try:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
                    host, peer_port, *_ = found.getpeername()
                    yield Peer.of(host, peer_port), found
            except OSError:  # it listens, or has just ended
                continue


def _duplicate(descriptor: int) -> socket.socket | None:
    try:
        duplicate = os.dup(descriptor)
    except OSError:  # closed since, such as the one that the folder was read by
        return None
    try:
        return socket.socket(fileno=duplicate)
    except OSError:  # no socket
        os.close(duplicate)
        return None


class Doorkeeper:
    """Ends connections that do nothing where they are too many: of one address, or for the descriptors that are left.

    The oldest of the most crowded address goes first: whoever means it is at work within a second.

    Args:
        port: that the server listens on.
        most: connections that may be at once.
        per_address: of them, of one address.
        busy: the other ends that have a stream.
        told: where it says so.
    """

    def __init__(self, port: int, most: int, per_address: int, busy: Callable[[], set[Peer]], told: Told) -> None:
        self._port, self._most, self._per_address, self._busy, self._told = port, most, per_address, busy, told
        self._first_seen: dict[Peer, float] = {}

    def sweep(self) -> int:
        """Look once. Returns how many connections it has ended."""
        now, busy = time.monotonic(), self._busy()
        seen = {peer: self._first_seen.get(peer, now) for peer, _ in connections(self._port)}
        self._first_seen = seen
        ended = set(self._too_many(seen, busy))
        if ended:
            for peer, found in connections(self._port):
                if peer in ended:
                    with contextlib.suppress(OSError):
                        found.shutdown(socket.SHUT_RDWR)  # gRPC sees its end, and closes it
        return len(ended)

    def _too_many(self, seen: dict[Peer, float], busy: set[Peer]) -> Iterator[Peer]:
        """The idle connections that have to go."""
        crowds = Counter(peer.address for peer in seen)
        idle = sorted((peer for peer in seen if peer not in busy), key=lambda peer: seen[peer])
        left = len(seen)
        for peer in sorted(idle, key=lambda peer: -crowds[peer.address]):  # stable: the oldest of each address first
            if crowds[peer.address] > self._per_address or left > self._most:
                self._told.warn("ended connections of %s that did nothing: too many at once", peer.address)
                crowds[peer.address] -= 1
                left -= 1
                yield peer
