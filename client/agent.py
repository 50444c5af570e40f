"""A tenant's agent: the tenant as a long-lived process of its own, behind a Unix socket.

Flower's node runs whatever code the operator of the federation submits. That code gets bytes in and bytes out here, and
nothing else: the agent has another user, who alone can read rows, keys and ledger, and it enforces all of a tenant's
rules by itself. To send it requests in a wrong order, twice or by the thousand is what a hostile orchestrator could do,
too, and is refused as ever.
"""

import os
import shutil
import socket
import stat
import threading
import time
from pathlib import Path

from client.tenant import Tenant
from shared.errors import FrameError, NetworkError
from shared.exchange import Refusal
from shared.frames import Frame, decode_request, encode_answer, receive_frame, send_frame
from shared.model import get_parameters
from shared.refusals import OTHER

MAX_CONNECTIONS = 8  # at once: a node has one request under way, and more of them means that something is wrong
FRAME_SECONDS = 60.0  # for a whole frame in either direction, on one machine
_POLL_SECONDS = 0.5
_SLACK_BYTES = 1 << 20


class Agent:
    """Answers for one tenant.

    Args:
        tenant: who answers; one request at a time.
        path: of the socket; made here, removed by `close`.
        group: the group whose members may connect, beside this user; empty: none.

    Raises:
        NetworkError: the path can't be a socket, or another agent listens on it.
    """

    def __init__(self, tenant: Tenant, path: Path, group: str = "") -> None:
        self._tenant, self._path = tenant, path
        self._model_bytes = 4 * sum(p.size for p in get_parameters(tenant.model))
        self._answering, self._closed = threading.Lock(), threading.Event()
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._listener = _listen(path, group)

    def serve(self) -> None:
        """Answer until `close`; a connection that misbehaves ends alone."""
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if self._closed.is_set():
                    return
                self._tenant.log.error("the socket %s: %s", self._path, error.strerror or error)
                self._closed.wait(_POLL_SECONDS)
                continue
            if not self._free.acquire(blocking=False):
                connection.close()  # whoever floods the socket waits, and not the tenant's memory
                continue
            threading.Thread(target=self._serve_one, args=(connection,), name="agent", daemon=True).start()

    def close(self) -> None:
        """Stop, and take the socket away; twice is fine."""
        self._closed.set()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            with connection:
                clock = _Deadline(connection, FRAME_SECONDS)
                request = receive_frame(clock, self._model_bytes + _SLACK_BYTES)
                answer = self._answer(request)
                send_frame(_Deadline(connection, FRAME_SECONDS), answer)
        except (OSError, FrameError) as error:
            self._tenant.log.warning("a connection to the agent's socket ended: %s", error)
        finally:
            self._free.release()

    def _answer(self, frame: Frame) -> Frame:
        try:
            request = decode_request(*frame)
        except FrameError as error:
            self._tenant.log.error("the node sent no request: %s", error)
            return encode_answer(Refusal(OTHER))
        with self._answering:
            return encode_answer(self._tenant.answer(request))


class _Deadline:
    """A socket whose reads and writes together have one time-out: one byte a minute must not hold a place for ever."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._end = connection, time.monotonic() + seconds

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes."""
        self._set()
        return self._connection.recv(size)

    def sendall(self, data: bytes) -> None:
        """All of it."""
        self._set()
        self._connection.sendall(data)

    def _set(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no whole frame in time")
        self._connection.settimeout(left)


def _listen(path: Path, group: str) -> socket.socket:
    try:
        _remove_stale(path)
        return _bound(path, group)
    except (OSError, LookupError) as error:
        raise NetworkError(
            f"--socket {path}: {getattr(error, 'strerror', None) or error}; name a path in a folder of this user's, of "
            "at most 107 bytes, and a group that it is in"
        ) from None


def _bound(path: Path, group: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if group:
            shutil.chown(path, group=group)
            path.chmod(0o660)
        listener.listen(MAX_CONNECTIONS)
        listener.settimeout(_POLL_SECONDS)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Take away what an agent left that was killed.

    Raises:
        NetworkError: somebody listens there, or it is something else.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise NetworkError(f"--socket {path}: there is a file that is no socket; name another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise NetworkError(f"--socket {path}: another agent listens there; stop it, or name another path")
