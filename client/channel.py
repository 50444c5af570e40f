"""The channel to the server, without Flower: TLS, looked at by a handshake of its own, and the environment's proxies.

gRPC does not say which certificate the server showed. So a client looks at it first, by a handshake that checks it
against the CA and the name, and then has gRPC trust that one certificate alone: what the client signs of its channel is
true of the connection that it speaks on.
"""

import base64
import http.client
import os
import socket
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from shared.addresses import is_loopback, split_address
from shared.bounded_files import MAX_CERTIFICATE_BYTES, read_bounded
from shared.config import Config
from shared.errors import ConfigError, KeyMaterialError, NetworkError, PassphraseError
from shared.identity import channel_binding
from shared.identity_files import IDENTITY_PASSPHRASE
from shared.passphrases import passphrase_in
from shared.private_files import read_private_file

MAX_MESSAGE_BYTES: Final = 2**31 - 1  # gRPC's own limit
_PROBE_SECONDS = 5.0
_AGAIN_SECONDS = 0.5
_OUT_OF_TIME: Final = {9: "has not begun", 10: "has ended"}  # X509_V_ERR_CERT_NOT_YET_VALID, ..._HAS_EXPIRED
_SPARED = "no_grpc_proxy"  # gRPC's own; it stands in place of `no_proxy`
_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),  # a server that is gone without a word is noticed
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True)
class ClientCertificate:
    """What a client shows in the TLS handshake.

    Attributes:
        path, key_path: of the two files.
        pem: the certificate.
        key: its private key, as PEM without a passphrase.
    """

    path: str
    key_path: str
    pem: bytes
    key: bytes = field(repr=False)

    @property
    def der(self) -> bytes:
        """The certificate, as it travels."""
        return x509.load_pem_x509_certificate(self.pem).public_bytes(Encoding.DER)


def load_client_certificate(config: Config, client_id: int) -> ClientCertificate:
    """The one that the settings name.

    Raises:
        ConfigError: the certificate can't be read.
        KeyMaterialError, PassphraseError: it or its key can't be used.
    """
    path = config.tls_client_certificate.replace("{client_id}", str(client_id))
    key_path = Path(config.tls_client_key.replace("{client_id}", str(client_id)))
    try:
        pem = read_bounded(path, MAX_CERTIFICATE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"tls_client_certificate = {path!r}: {error.strerror}; get it from the operator, who makes it of a request "
            "of client/enrol.py"
        ) from None
    data = read_private_file(key_path, "make it with client/enrol.py new, renew or rotate")
    try:
        public = x509.load_pem_x509_certificate(pem).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise KeyMaterialError(
            f"{path}: no certificate in PEM; get it anew from the operator, who makes it of a request"
        ) from None
    passphrase = passphrase_in(IDENTITY_PASSPHRASE) if b"ENCRYPTED" in data else None
    if b"ENCRYPTED" in data and passphrase is None:
        raise PassphraseError(f"{key_path}: is encrypted; set the environment variable {IDENTITY_PASSPHRASE}")
    try:
        key = load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if passphrase is not None:
            raise PassphraseError(
                f"{key_path}: the passphrase does not open this file, or the file was changed; check "
                f"{IDENTITY_PASSPHRASE}"
            ) from None
        raise KeyMaterialError(
            f"{key_path}: no private key in PEM; restore it, or remove it and run: client/enrol.py renew"
        ) from None
    if public != key.public_key():
        raise KeyMaterialError(
            f"{key_path}: not the key of {path}; get the certificate of the newest request from the operator"
        )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return ClientCertificate(path, str(key_path), pem, plain)


def load_ca(config: Config) -> str:
    """The CA of the settings, PEM, which the server's certificate must be of.

    Raises:
        ConfigError: the file can't be read.
        KeyMaterialError: it holds no certificate, or half of one.
    """
    try:
        pem = read_bounded(config.tls_ca, MAX_CERTIFICATE_BYTES)
        x509.load_pem_x509_certificates(pem)
        return pem.decode()
    except OSError as error:
        raise ConfigError(
            f"tls_ca = {config.tls_ca!r}: {error.strerror}; get ca.pem from whoever runs the server"
        ) from None
    except ValueError:
        raise KeyMaterialError(
            f"{config.tls_ca}: no certificate in PEM; get ca.pem anew from whoever runs the server"
        ) from None


@dataclass(frozen=True)
class TlsFiles:
    """What TLS needs of files, as they are at one moment.

    Attributes:
        ca: certificates that the server's may be of, PEM; empty without TLS.
        own: what this client shows; None: nothing.
    """

    ca: str
    own: ClientCertificate | None

    @classmethod
    def load(cls, config: Config, client_id: int) -> "TlsFiles":
        """Those that the settings name.

        Raises:
            ConfigError, KeyMaterialError, PassphraseError: one of them can't be read or used.
        """
        own = load_client_certificate(config, client_id) if config.tls_client_certificate else None
        return cls(load_ca(config) if config.tls_ca else "", own)

    def news(self, before: "TlsFiles") -> list[str]:
        """What is not as it was, in a line each."""
        found = []
        if self.ca != before.ca:
            found.append(f"tls_ca has changed: {_certificates_in(self.ca.encode())}")
        if self.own and before.own and self.own.der != before.own.der:
            found.append(f"this client's certificate has changed: {_certificates_in(self.own.pem)}")
        return found


def _certificates_in(pem: bytes) -> str:
    """Fingerprint and end of each."""
    return ", ".join(
        f"SHA-256 {one.fingerprint(SHA256()).hex()[:16]}…, until {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        for one in x509.load_pem_x509_certificates(pem)
    )


def open_channel(config: Config, own: ClientCertificate | None) -> tuple[grpc.Channel, bytes]:
    """A channel to the server, and its name (`channel_binding`), which a greeting is signed for; empty without TLS.

    Args:
        config: the settings.
        own: what this client shows; None: nothing.

    Raises:
        NetworkError: the two sides do not agree on TLS, or the certificate is not to be trusted.
        ConfigError, KeyMaterialError: `tls_ca` can't be used, or a file is being replaced.
        OSError: nobody listens, or the way there is closed.
    """
    if not config.tls_ca:
        return grpc.insecure_channel(config.server_address, options=_OPTIONS), b""
    server = look_at_server(config, own)
    pem = ssl.DER_cert_to_PEM_cert(server).encode()
    credentials = grpc.ssl_channel_credentials(pem, own.key if own else None, own.pem if own else None)
    binding = channel_binding(server, own.der if own else b"")
    return grpc.secure_channel(config.server_address, credentials, options=_OPTIONS), binding


def check_channel(config: Config, own: ClientCertificate | None = None) -> None:
    """Find out, by a handshake of its own, whether TLS is why a connection failed: gRPC's words help nobody.

    Raises:
        NetworkError: one side does not trust the other's certificate, or speaks TLS and the other doesn't.
    """
    try:
        look_at_server(config, own)
    except OSError:
        return  # nobody listens, or the server is just being restarted
    if not config.tls_ca:
        raise NetworkError(
            f"the server at {config.server_address} speaks TLS and this client does not; set tls_ca to its ca.pem"
        )


def look_at_server(config: Config, own: ClientCertificate | None) -> bytes:
    """The server's certificate as DER, checked against the CA and the name where TLS is on.

    Raises:
        NetworkError: one side does not trust the other's certificate, or the server does not speak TLS.
        ConfigError, KeyMaterialError: `tls_ca` can't be used, or a file is being replaced.
        OSError: nobody listens, the way there is closed, or without `tls_ca`: the server does not speak TLS.
    """
    host, _ = split_address(config.server_address)
    context = ssl.create_default_context(cadata=load_ca(config) if config.tls_ca else None)
    context.set_alpn_protocols(["h2"])
    if own is not None:
        _show(context, own)
    if not config.tls_ca:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        for tries_left in (1, 0):
            with _connect(config.server_address) as raw, context.wrap_socket(raw, server_hostname=host) as secured:
                certificate = secured.getpeercert(binary_form=True) or b""
                if not config.tls_ca or _is_welcome(secured):
                    return certificate
            if tries_left:
                time.sleep(_AGAIN_SECONDS)  # it may have been stopped at this very moment
    except ssl.SSLCertVerificationError as error:
        if "mismatch" in error.verify_message:
            raise NetworkError(
                f"the server's certificate is not for {host!r} ({error.verify_message}); connect to a name that it "
                "has, or make it with orchestrator/provision.py --host"
            ) from None
        if error.verify_code in _OUT_OF_TIME:
            raise NetworkError(
                f"the server's certificate, or its CA's, {_OUT_OF_TIME[error.verify_code]} by this machine's clock, "
                f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; set a wrong clock by NTP; else whoever runs the server makes "
                "its certificate anew: orchestrator/provision.py --renew_server"
            ) from None
        raise NetworkError(
            f"the server's certificate is not signed by the CA in {config.tls_ca} ({error.verify_message}); get ca.pem "
            "from whoever runs the server; if you have it, you may be talking to somebody else"
        ) from None
    except ssl.SSLError as error:
        if config.tls_ca and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            raise NetworkError(
                f"the server at {config.server_address} does not speak TLS; set tls_certificate and tls_key there"
            ) from None
        raise
    if own is None:
        raise NetworkError(
            "the server wants a certificate of each client; set tls_client_certificate and tls_client_key to this "
            "tenant's (client/enrol.py asks for one)"
        )
    raise NetworkError(
        f"the server does not take the certificate in {own.path}: of another CA, ended, or no client's; get a new one: "
        "client/enrol.py renew"
    )


def _show(context: ssl.SSLContext, own: ClientCertificate) -> None:
    try:
        context.load_cert_chain(own.path, own.key_path, passphrase_in(IDENTITY_PASSPHRASE) or "")
    except OSError as error:  # of OpenSSL, too
        raise KeyMaterialError(
            f"{own.path} or {own.key_path}: is being replaced ({error.strerror or error}); put both in place"
        ) from None


def _is_welcome(secured: ssl.SSLSocket) -> bool:
    """Whether the server begins to speak HTTP/2.

    In TLS 1.3 it looks at a client's certificate when the client's part of the handshake is done; gRPC then ends the
    connection, with an alert or without a word.
    """
    try:
        return bool(secured.recv(1))
    except ssl.SSLError as error:
        if "CERTIFICATE" in (error.reason or "") or "UNKNOWN_CA" in (error.reason or ""):
            return False
        raise


def _connect(address: str) -> socket.socket:
    """A socket to the server, by the way that gRPC takes."""
    host, port = split_address(address)
    proxy = os.environ.get(proxy_for(address), "")
    if not proxy:
        return socket.create_connection((host, port), timeout=_PROBE_SECONDS)
    way = urlsplit(proxy)
    try:
        tunnel = http.client.HTTPConnection(way.hostname or "", way.port or 80, timeout=_PROBE_SECONDS)
    except ValueError:
        raise NetworkError(
            f"{proxy_for(address)} names no proxy; expected http://name:port, or nothing at all"
        ) from None
    user = f"{way.username or ''}:{way.password or ''}"
    proof = {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if way.username else {}
    tunnel.set_tunnel(host, port, proof)
    try:
        tunnel.connect()
    except http.client.HTTPException as error:
        tunnel.close()
        raise OSError(f"the proxy answers no HTTP: {type(error).__name__}") from None
    return tunnel.sock


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
