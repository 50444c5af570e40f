"""The server's port: gRPC's own server, who may come in by it, and how many. Free of Flower.

With client certificates a stranger gets no further than the TLS handshake. What is left to strangers, and to tenants
that misbehave, is bounded: connections and streams of one address, streams that have not said who they are, bytes of a
message, seconds of a handshake and of silence, and the descriptors of this process.
"""

import contextlib
import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from orchestrator.seats import MAX_UNGREETED, Channel
from orchestrator.sockets import RESERVE, Doorkeeper, raise_descriptor_limit
from orchestrator.streams import Peer, Stream, Why
from orchestrator.told import Told
from shared.addresses import split_address
from shared.bounded_files import MAX_CERTIFICATE_BYTES, read_bounded
from shared.config import Config
from shared.errors import ConfigError, EnrolmentError, KeyMaterialError, NetworkError
from shared.identity import channel_binding
from shared.pieces import PIECE_BYTES
from shared.printable import printable
from shared.private_files import read_private_file
from shared.roster import SOON_DAYS

_SERVICE: Final = "flwr.proto.FlowerService"  # Flower's name for the stream of a client
_METHOD: Final = "Join"
_HANDSHAKE_SECONDS: Final = 10
_IDLE_SECONDS: Final = 30  # of a connection without a stream
_KEEPALIVE_SECONDS: Final = 60  # of silence, after which the other end is asked for a sign of life
_LIFE_SECONDS: Final = 30  # that it has for one
_STUCK_SECONDS: Final = 2.0  # that the end of a stream may wait for a client that reads nothing
_LEEWAY: Final = 8  # streams of one address beside its tenants'
_LOOK_SECONDS: Final = 0.25  # between two looks at who is here
_LONGEST_REASON: Final = 1_000  # letters; HTTP/2 takes some thousand bytes of them

RENEW: Final = "run where ca.key is: orchestrator/provision.py --renew_server --out FOLDER"

_log = logging.getLogger("orchestrator")


@dataclass(frozen=True)
class Certificates:
    """The server's TLS, as PEM.

    Attributes:
        ca: that client certificates must be of.
        certificate, key: the server's.
        from_clients: whether each client must have one.
    """

    ca: bytes
    certificate: bytes
    key: bytes
    from_clients: bool

    @classmethod
    def load(cls, config: Config) -> "Certificates | None":
        """Those that the settings name; None where TLS is off.

        Raises:
            ConfigError, KeyMaterialError: they can't be read.
        """
        if not config.tls_ca:
            return None
        if not config.tls_certificate:
            raise ConfigError(
                "tls_certificate = '': with tls_ca set the server needs tls_certificate and tls_key as well"
            )
        try:
            ca, certificate = (
                read_bounded(path, MAX_CERTIFICATE_BYTES) for path in (config.tls_ca, config.tls_certificate)
            )
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; make it with orchestrator/provision.py") from None
        key = read_private_file(Path(config.tls_key), f"bring it here, or {RENEW}")
        _check_pair(certificate, key, config)
        return cls(ca, certificate, key, config.asks_client_certificates)

    def tell_end(self) -> None:
        """Say in the log that the server's certificate has ended or soon does: it is clients that refuse it."""
        own, now = x509.load_pem_x509_certificate(self.certificate), datetime.now(UTC)
        if own.not_valid_before_utc > now:
            said = f"begins on {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: no client takes it; set the clock by NTP"
        elif own.not_valid_after_utc < now:
            said = f"ended on {own.not_valid_after_utc:%Y-%m-%d}: no client takes it; {RENEW}"
        elif (days := (own.not_valid_after_utc - now).days) < SOON_DAYS:
            said = f"ends in {days} days; {RENEW}"
        else:
            return
        _log.warning("the certificate of this server %s", said)


class Doors:
    """Lets clients in, one stream each.

    Args:
        config: the settings.
        certificates: for TLS; None: clear text.
        longest: bytes of the longest message of an honest client.
        come: called with each stream that is let in; False: there is no room for it.
        gone: called with each stream that has ended; twice is possible.
        why_not: why the client of this name may not take part, empty if it may; None: nobody is enrolled.
    """

    def __init__(
        self,
        config: Config,
        certificates: Certificates | None,
        longest: int,
        come: Callable[[Stream], bool],
        gone: Callable[[Stream], None],
        why_not: Callable[[str], str] | None,
    ) -> None:
        self._address, self._certificates, self._longest = config.server_address, certificates, longest
        self._come, self._gone, self._why_not = come, gone, why_not
        self._own = b"" if certificates is None else _der(certificates.certificate)
        self._per_address = config.max_streams_per_address or config.num_clients + _LEEWAY
        self._lock = threading.Lock()
        self._streams: dict[str, Stream] = {}  # that have not ended, by name, the oldest first
        self._contexts: dict[str, Any] = {}  # gRPC's, until it has told the client of the end
        self._ends: dict[str, float] = {}  # of those that have ended, `time.monotonic`
        self._told = Told(_log)
        most = config.num_clients + MAX_UNGREETED + _LEEWAY
        limit = raise_descriptor_limit(2 * most + 4 * RESERVE)
        connections = limit - min(RESERVE, limit // 2)
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=most, thread_name_prefix="stream"),
            handlers=(_handler(self._join),),
            options=self._options(connections),
            maximum_concurrent_rpcs=most,
        )
        _, port = split_address(config.server_address)
        # Each client looks at the server by a connection of its own before it opens its stream.
        self._keeper = Doorkeeper(port, connections - _LEEWAY, 2 * self._per_address, self._busy, self._told)
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, name="doors", daemon=True)

    def _options(self, connections: int) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", PIECE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self._per_address),  # of one connection
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.server_handshake_timeout_ms", 1000 * _HANDSHAKE_SECONDS),
            ("grpc.max_connection_idle_ms", 1000 * _IDLE_SECONDS),
            ("grpc.keepalive_time_ms", 1000 * _KEEPALIVE_SECONDS),
            ("grpc.keepalive_timeout_ms", 1000 * _LIFE_SECONDS),
            ("grpc.http2.max_pings_without_data", 0),  # a client may train for an hour without a word
            ("grpc.http2.min_ping_interval_without_data_ms", 1000 * _KEEPALIVE_SECONDS // 2),
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.so_reuseport", 0),  # or a second server would share the port without a word
        ]

    def open(self) -> None:
        """Listen.

        Raises:
            NetworkError: it can't.
        """
        try:
            if self._certificates is None:
                self._server.add_insecure_port(self._address)
            else:
                own = ((self._certificates.key, self._certificates.certificate),)
                credentials = grpc.ssl_server_credentials(
                    own, self._certificates.ca, require_client_auth=self._certificates.from_clients
                )
                self._server.add_secure_port(self._address, credentials)
        except RuntimeError as error:
            raise NetworkError(
                f"can't listen on {self._address}: {error}; stop the other server, choose another server_address, or "
                "look at the certificate and its key"
            ) from None
        self._server.start()
        self._watch.start()

    def close(self) -> None:
        """Stop listening, and end what is still open; gRPC has a second to say so."""
        self._over.set()
        self._watch.join(timeout=5.0)
        stopped = self._server.stop(grace=1.0)
        with self._lock:
            left = list(self._streams.values())
        for stream in left:
            stream.close(Why.LATER, "the server stops")
        stopped.wait(timeout=2.0)

    def _join(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """One stream from its beginning to its end, in a thread of its own; gRPC sends what it yields."""
        stream = Stream(Peer.parse(context.peer()), self._channel(context), self._ended, self._longest)
        with self._lock:
            self._contexts[stream.name] = context
        if not context.add_callback(lambda: self._told_of_end(stream)):
            self._told_of_end(stream)  # the client is gone already
            return
        self._admit(stream)
        if stream.end is None:
            threading.Thread(target=_read, args=(stream, messages), name="reader", daemon=True).start()
        yield from stream.requests()
        if stream.end is not None:
            context.set_code(grpc.StatusCode[stream.end.why.value])
            context.set_details(printable(stream.end.reason, _LONGEST_REASON))

    def _channel(self, context: Any) -> Channel:
        if not self._own:
            return Channel()
        said = context.auth_context()
        certificate = next(iter(said.get("x509_pem_cert", ())), b"")
        name = next(iter(said.get("x509_common_name", ())), b"")
        binding = channel_binding(self._own, _der(certificate) if certificate else b"")
        return Channel(binding, name.decode(errors="replace"))

    def _admit(self, stream: Stream) -> None:
        """Let it in, or end it. Where there are too many, one that has not said who it is makes room for it."""
        if self._why_not is not None and stream.channel.name:
            try:
                why = self._why_not(stream.channel.name)
            except EnrolmentError as error:  # half copied, for one
                stream.close(Why.LATER, str(error))
                return
            if why:
                self._told.warn("refused a connection: %s", why)
                stream.close(Why.REFUSED, why)
                return
        with self._lock:
            crowded, evicted = self._room_for(stream)
            if evicted is not None:
                del self._streams[evicted.name]  # at once, or two newcomers would choose the same one
            if not crowded:
                self._streams[stream.name] = stream
        if evicted is not None:
            self._told.warn("ended a stream of %s that has not said who it is: too many at once", evicted.peer.address)
            evicted.close(Why.CROWDED, "too many streams have not said who they are; this one was the longest here")
        if crowded or not self._come(stream):
            self._told.warn("refused a stream of %s: %s", stream.peer.address, crowded or "too many at once")
            stream.close(Why.CROWDED, crowded or "too many streams at once; try again later")
        elif stream.end is not None:  # meanwhile
            self._gone(stream)

    def _room_for(self, stream: Stream) -> tuple[str, Stream | None]:
        """Why there is none, or which one has to go for it."""
        address = stream.peer.address
        here = [other for other in self._streams.values() if other.peer.address == address]
        unproven = [other for other in self._streams.values() if not other.proven]
        if len(here) >= self._per_address:
            mine = [other for other in here if not other.proven]
            if not mine:
                return f"{len(here)} streams of one address, expected at most that (max_streams_per_address)", None
            return "", mine[0]
        if len(unproven) >= MAX_UNGREETED:
            crowds = Counter(other.peer.address for other in unproven)
            return "", max(unproven, key=lambda other: crowds[other.peer.address])  # of equals the first, the oldest
        return "", None

    def _ended(self, stream: Stream) -> None:
        with self._lock:
            self._streams.pop(stream.name, None)
            if stream.name in self._contexts:
                self._ends[stream.name] = time.monotonic()
        self._gone(stream)

    def _told_of_end(self, stream: Stream) -> None:
        """gRPC is done with it, for whatever reason."""
        with self._lock:
            self._contexts.pop(stream.name, None)
            self._ends.pop(stream.name, None)
        stream.close(Why.GONE, "the client is gone")

    def _busy(self) -> set[Peer]:
        with self._lock:
            return {stream.peer for stream in self._streams.values()}

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            with contextlib.suppress(OSError):  # such as no descriptor to look with; the next look may do better
                self._keeper.sweep()
            self._cut_stuck()

    def _cut_stuck(self) -> None:
        """A client that reads nothing keeps gRPC from telling it of the end."""
        latest = time.monotonic() - _STUCK_SECONDS
        with self._lock:
            stuck = [self._contexts[name] for name, ended in self._ends.items() if ended < latest]
        for context in stuck:
            context.cancel()


def _handler(join: Callable[[Iterator[bytes], Any], Iterator[bytes]]) -> Any:
    """Flower's one method, with messages as bytes, in pieces: their length is looked at before anything else."""
    method = grpc.stream_stream_rpc_method_handler(join)
    return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method})


def _read(stream: Stream, messages: Iterator[bytes]) -> None:
    with contextlib.suppress(grpc.RpcError):  # the connection has ended, and gRPC says so to `_told_of_end`
        stream.read(messages)


def _check_pair(certificate: bytes, key: bytes, config: Config) -> None:
    """gRPC would take the port for taken, whatever is wrong with these.

    Raises:
        KeyMaterialError: one of them is none, or they do not belong together.
    """
    try:
        public = x509.load_pem_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise KeyMaterialError(f"{config.tls_certificate}: no certificate in PEM; restore it, or {RENEW}") from None
    try:
        own = load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyMaterialError(f"{config.tls_key}: no private key in PEM; restore it, or {RENEW}") from None
    if own != public:
        raise KeyMaterialError(
            f"{config.tls_key}: not the key of {config.tls_certificate}; take both from one folder of "
            "orchestrator/provision.py"
        )


def _der(pem: bytes) -> bytes:
    """The first certificate of a PEM file.

    Raises:
        KeyMaterialError: it holds none.
    """
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    try:
        return ssl.PEM_cert_to_DER_cert(pem[pem.index(begin) : pem.index(end) + len(end)].decode())
    except ValueError as error:
        raise KeyMaterialError(f"no certificate in PEM: {error}; take the one of orchestrator/provision.py") from None
