"""Strangers at the port of a federation at work: what they take of it, with this project's doors and with Flower's own.

    python benchmarks/siege.py                               # every attack, 20 s each, behind three kinds of doors
    python benchmarks/siege.py --seconds 120 --attacks flood,idle --doors open,mtls

Real processes: a server, a launcher with all tenants, and the attack from this one. Three kinds of doors: `open` is
Flower's own server, as `start_server` starts it, and the broken twin here; `tls` is this project's without client
certificates; `mtls` asks for them. The server may have 1,024 descriptors and no more. Writes `siege.json` and
`siege.md` below `--out`, and exits with 1 if tenants missed a round behind doors that should hold.
"""

import argparse
import contextlib
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import yaml

from benchmarks.half_messages import hold
from benchmarks.machine import free_port, machine_facts
from orchestrator.pki import identity_settings, provision
from shared.pieces import PIECE_BYTES

ROOT = Path(__file__).resolve().parent.parent
METHOD = "/flwr.proto.FlowerService/Join"
TENANTS = 3
DESCRIPTORS = 1024
DOORS = ("open", "tls", "mtls")
_OPEN_BYTES = 1 << 20  # of a message that Flower's own server takes at least, with any model
_READY_SECONDS = 300.0
_LAST_WORDS = 2000  # characters of the log of a server that did not come up
_MORE_MB = 200  # that the server may take meanwhile
_MOST_MB = 2500  # beyond, the point is made, and this machine is needed
_PATIENCE_SECONDS = 180.0  # that the attack goes on for while the newcomer is not seated


@dataclass
class Outcome:
    """What an attack came to.

    Attributes:
        attack, doors: which.
        seconds: how long it went on.
        rounds: that the tenants finished meanwhile.
        missed: of them, without all tenants.
        rss_before, rss_peak: of the server, MB.
        descriptors_peak: of the server.
        newcomer_seconds: until a tenant that came back in the middle of it was seated; None: it was not.
        server_ended: the server's exit status, if it ended.
        note: what the attacker counted.
    """

    attack: str
    doors: str
    seconds: float = 0.0
    rounds: int = 0
    missed: int = 0
    rss_before: float = 0.0
    rss_peak: float = 0.0
    descriptors_peak: int = 0
    newcomer_seconds: float | None = None
    server_ended: int | None = None
    note: str = ""

    @property
    def went_on(self) -> bool:
        """Whether the tenants that were there felt nothing of it."""
        at_work = self.server_ended is None and self.rounds > 0 and not self.missed
        return at_work and self.rss_peak < self.rss_before + _MORE_MB

    @property
    def held(self) -> bool:
        """Whether a tenant that came back felt nothing of it either."""
        return self.went_on and self.newcomer_seconds is not None


class Federation:
    """A server and tenants, at work until the end of the block.

    Args:
        folder: where everything is.
        doors: which kind.
    """

    def __init__(self, folder: Path, doors: str) -> None:
        self.folder, self.doors, self.pki = folder, doors, folder / "pki"
        self.port = free_port()
        provision(self.pki, TENANTS + 1, [])
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(self._settings()), encoding="utf-8")
        self._processes: list[psutil.Popen] = []

    def _settings(self) -> dict[str, Any]:
        mutual = {
            "tls_client_certificate": str(self.pki / "clients/client-{client_id}.tls.pem"),
            "tls_client_key": str(self.pki / "clients/client-{client_id}.tls.key"),
        }
        return {
            "server_address": f"127.0.0.1:{self.port}", "num_rounds": 100_000, "num_clients": TENANTS + 1,
            "min_available_clients": TENANTS, "min_fit_clients": TENANTS, "min_evaluate_clients": TENANTS,
            "num_features": 6, "num_hidden_units": 3, "num_samples_per_client": 100, "local_epochs": 1,
            "he_key_length": 512, "allow_insecure_key": True,
            "client_wait_timeout": 600.0, "server_wait_timeout": 600.0,
            "secure_aggregation": "masked", **identity_settings(self.pki), "tls_ca": str(self.pki / "ca.pem"),
            "tls_certificate": str(self.pki / "server.pem"), "tls_key": str(self.pki / "server.key"),
            "log_dir": str(self.folder / "logs"), **(mutual if self.doors == "mtls" else {}),
        }  # fmt: skip

    def __enter__(self) -> "Federation":
        serve = ["benchmarks/siege.py", "--serve_open"] if self.doors == "open" else ["orchestrator/run_server.py"]
        self.server = self._start("server", serve, descriptors=DESCRIPTORS)
        self.start_clients(range(TENANTS))
        deadline = time.monotonic() + _READY_SECONDS
        while len(self.rounds()) < 2:
            if self.server.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "server.log").read_text(errors="replace")[-_LAST_WORDS:]
                raise SystemExit(f"the federation does not work: see {self.folder}; its server said last:\n{said}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()

    def start_clients(self, numbers: range) -> psutil.Popen:
        """Tenants, as threads of one process."""
        ids = ",".join(map(str, numbers))
        return self._start(f"clients-{ids}", ["client/run_clients.py", "--client_ids", ids])

    def _start(self, name: str, command: list[str], descriptors: int | None = None) -> psutil.Popen:
        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with (self.folder / f"{name}.log").open("w") as log:
            process = psutil.Popen(
                [sys.executable, *command, "--config", str(self.config)], cwd=ROOT, stdout=log,
                stderr=subprocess.STDOUT, preexec_fn=limit, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def rounds(self) -> list[dict[str, Any]]:
        """The rounds that are finished."""
        path = self.folder / "logs/latest/metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def channel(self) -> grpc.Channel:
        """A stranger's: it knows the CA, and has no certificate of its own."""
        credentials = grpc.ssl_channel_credentials((self.pki / "ca.pem").read_bytes())
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options)


Attack = Callable[[Federation, threading.Event], str]


def _until(over: threading.Event, say: bytes, most: int = 1 << 62) -> Iterator[bytes]:
    for _ in range(most):
        if over.is_set():
            return
        yield say
    over.wait()


def flood(federation: Federation, over: threading.Event) -> str:
    """N1: messages that nobody asked for, on one stream after the other."""
    streams = 0
    # An unknown field of 60,000 bytes: a message that is well-formed, and says nothing.
    message = b"\x7a\xe0\xd4\x03" + b"\0" * 60_000
    while not over.is_set():
        with federation.channel() as channel, contextlib.suppress(grpc.RpcError):
            streams += 1
            for _ in channel.stream_stream(METHOD)(_until(over, message)):
                pass
        over.wait(0.05)
    return f"{streams} streams"


def idle(federation: Federation, over: threading.Event) -> str:
    """N2: 1,100 sockets that say nothing, and come again when they are ended."""
    sockets: list[socket.socket] = []
    opened = 0
    while not over.is_set():
        for one in (ended := [one for one in sockets if _ended(one)]):
            one.close()
        sockets = [one for one in sockets if one not in ended]
        for _ in range(1100 - len(sockets)):
            try:
                sockets.append(socket.create_connection(("127.0.0.1", federation.port), timeout=1.0))
                opened += 1
            except OSError:
                break
        over.wait(0.2)
    for one in sockets:
        one.close()
    return f"{opened:,} sockets opened"


def _ended(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def refused(federation: Federation, over: threading.Event) -> str:
    """N3: 1,000 streams that answer the greeting wrongly, and stay."""
    counts = {"opened": 0, "ended": 0}

    def one(channel: grpc.Channel) -> None:
        while not over.is_set():
            counts["opened"] += 1
            with contextlib.suppress(grpc.RpcError, ValueError):  # the latter of a channel that was closed at the end
                for _ in channel.stream_stream(METHOD)(_until(over, b"", most=1)):
                    pass
            counts["ended"] += 1
            over.wait(1.0)

    channels = [federation.channel() for _ in range(50)]
    threads = [threading.Thread(target=one, args=(channels[i % 50],), daemon=True) for i in range(1000)]
    for thread in threads:
        thread.start()
    over.wait()
    for channel in channels:
        channel.close()
    for thread in threads:
        thread.join(10)
    return f"{counts['opened']:,} streams opened, {counts['ended']:,} ended"


def half(federation: Federation, over: threading.Event) -> str:
    """300 streams that each bring the longest message that is taken of a stranger, but for its last byte, and stay."""
    tls = ssl.create_default_context(cafile=str(federation.pki / "ca.pem"))
    tls.set_alpn_protocols(["h2"])
    size = _OPEN_BYTES if federation.doors == "open" else PIECE_BYTES
    begun, ended, most = hold(federation.port, tls, METHOD, size, 300, over)
    return f"{begun:,} streams of {size:,} bytes, {ended:,} ended, {most / 1e6:.0f} MB at once"


ATTACKS: dict[str, Attack] = {"flood": flood, "idle": idle, "refused": refused, "half": half}


def besiege(attack: str, doors: str, seconds: float, folder: Path, most_mb: float = _MOST_MB) -> Outcome:
    """One attack on one federation; a tenant more comes in the middle of it.

    Args:
        attack: of `ATTACKS`.
        doors: of `DOORS`.
        seconds: that it goes on for, and longer while the newcomer is not seated.
        folder: for its files.
        most_mb: memory of the server at which it ends.
    """
    outcome, over = Outcome(attack, doors), threading.Event()
    with Federation(folder, doors) as federation:
        notes: list[str] = []
        thread = threading.Thread(target=lambda: notes.append(ATTACKS[attack](federation, over)), daemon=True)
        begun, server = len(federation.rounds()), federation.server
        outcome.rss_before = server.memory_info().rss / 1e6
        start = time.monotonic()
        newcomer: float | None = None
        thread.start()
        while server.poll() is None:
            now = time.monotonic() - start
            if now > seconds and (outcome.newcomer_seconds is not None or now > seconds + _PATIENCE_SECONDS):
                break
            if newcomer is None and now > seconds / 3:
                federation.start_clients(range(TENANTS, TENANTS + 1))
                newcomer = now
            if newcomer is not None and outcome.newcomer_seconds is None and _seated(federation):
                outcome.newcomer_seconds = now - newcomer
            with contextlib.suppress(psutil.Error):
                outcome.rss_peak = max(outcome.rss_peak, server.memory_info().rss / 1e6)
                outcome.descriptors_peak = max(outcome.descriptors_peak, server.num_fds())
            if outcome.rss_peak > most_mb:
                break
            time.sleep(0.1)
        outcome.seconds = time.monotonic() - start
        finished = federation.rounds()[begun:]
        outcome.server_ended = server.poll()
        over.set()
        thread.join(30)
        outcome.rounds, outcome.missed = len(finished), sum(r["contributors"] < TENANTS for r in finished)
        outcome.note = " ".join(notes)
    return outcome


def _seated(federation: Federation) -> bool:
    return f"client {TENANTS} connected" in (federation.folder / "server.log").read_text()


def serve_open(arguments: list[str]) -> int:
    """The server as it was: Flower's own start of gRPC, whatever reaches it."""
    from flwr.proto.transport_pb2 import ServerMessage
    from flwr.server.superlink.fleet.grpc_bidi import grpc_server
    from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import GrpcBridge, InsWrapper
    from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy

    from orchestrator import run_server, server
    from orchestrator.seats import Channel
    from orchestrator.streams import Peer, Stream, Why
    from shared.identity import channel_binding

    class OpenStream(Stream):
        """A stream that is never ended, as Flower's."""

        def __init__(self, name: str, bridge: GrpcBridge, binding: bytes) -> None:
            super().__init__(Peer("127.0.0.1", 0), Channel(binding), lambda _stream: None, longest=0)
            self.name, self._bridge = name, bridge

        def ask(self, request: bytes, timeout: float | None) -> bytes:
            wrapped = InsWrapper(ServerMessage.FromString(request), timeout)
            answer: bytes = self._bridge.request(wrapped).client_message.SerializeToString()
            return answer

        def close(self, why: Why, reason: str) -> None:
            """Flower's has no way to."""

    class OpenDoors:
        """What `Doors` stands for."""

        def __init__(self, config: Any, certificates: Any, longest: int, come: Any, gone: Any, _why_not: Any) -> None:
            self._config, self._certificates, self._longest = config, certificates, longest
            self._come, self._gone, self._streams = come, gone, dict[str, OpenStream]()
            self._binding = channel_binding(ssl.PEM_cert_to_DER_cert(certificates.certificate.decode()))

        def register(self, client: GrpcClientProxy) -> bool:
            stream = self._streams[client.cid] = OpenStream(client.cid, client.bridge, self._binding)
            came: bool = self._come(stream)
            return came

        def unregister(self, client: GrpcClientProxy) -> None:
            self._gone(self._streams.pop(client.cid))

        def open(self) -> None:
            tls = self._certificates
            manager: Any = self  # all of a ClientManager that Flower's servicer asks for
            self._server = grpc_server.start_grpc_server(
                manager, self._config.server_address, max_message_length=self._longest,
                certificates=(tls.ca, tls.certificate, tls.key),
            )  # fmt: skip

        def close(self) -> None:
            self._server.stop(grace=1)

    setattr(server, "Doors", OpenDoors)  # noqa: B010 (mypy knows no such assignment)
    return run_server.main(arguments)


def markdown(outcomes: list[Outcome], facts: dict[str, Any]) -> str:
    """The figures as a table."""
    columns = "attack, doors, held, rounds, missed, MB before, MB at most, descriptors, newcomer seated, attacker"
    lines = [
        f"{TENANTS} masked tenants at work, a fourth comes in the middle; {facts['cpu']}, {facts['cores']} cores, load "
        f"{facts['load_average'][0]}, {facts['date']}",
        "",
        f"| {columns.replace(', ', ' | ')} |",
        "|---" * (columns.count(",") + 1) + "|",
    ]
    for o in outcomes:
        cells = [
            f"{o.attack}, {o.seconds:.0f} s",
            o.doors,
            "yes" if o.held else "no" if o.server_ended is None else f"no, ended with {o.server_ended}",
            o.rounds,
            o.missed,
            f"{o.rss_before:.0f}",
            f"{o.rss_peak:.0f}",
            o.descriptors_peak,
            "never" if o.newcomer_seconds is None else f"{o.newcomer_seconds:.1f} s",
            o.note,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    if "--serve_open" in sys.argv:
        return serve_open([part for part in sys.argv[1:] if part != "--serve_open"])
    parser = argparse.ArgumentParser(description="Strangers at the port of a federation at work.")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each attack (default: %(default)s)")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="(default: %(default)s)")
    parser.add_argument("--doors", default=",".join(DOORS), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "logs" / "siege", help="folder (default: %(default)s)")
    args = parser.parse_args()
    os.environ["GRPC_VERBOSITY"] = "NONE"  # handshakes that fail are what this is about
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard > 0 else soft, hard))
    args.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for attack in args.attacks.split(","):
        for doors in args.doors.split(","):
            with tempfile.TemporaryDirectory() as folder:
                outcomes.append(besiege(attack, doors, args.seconds, Path(folder)))
                print(outcomes[-1], flush=True)
    facts = machine_facts()
    made = {"machine": facts, "outcomes": [asdict(outcome) for outcome in outcomes]}
    (args.out / "siege.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
    (args.out / "siege.md").write_text(markdown(outcomes, facts), encoding="utf-8")
    print(markdown(outcomes, facts))
    return 0 if all(outcome.held for outcome in outcomes if outcome.doors != "open") else 1


if __name__ == "__main__":
    sys.exit(main())
