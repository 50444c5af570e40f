"""Whole federations in this process: real tenants, the real coordinator, function calls in the place of a network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.pki import identity_settings, provision
from orchestrator.run import OpenRun, open_run
from orchestrator.simulation import make_tenants as make_tenants
from orchestrator.transport import Answering, MemoryTransport
from shared.config import Config, parse_config
from shared.exchange import Kind, Refusal, Reply, Request

# Rounds of one batch, for tests of which the training is not the point.
SHORT: dict[str, Any] = {
    "num_rounds": 2, "num_features": 4, "num_hidden_units": 3, "num_samples_per_client": 60, "local_epochs": 1,
}  # fmt: skip


def never(_node: str, _request: Request) -> bool:
    return False


class Tapped:
    """A tenant at the end of a line that is in other hands: they may alter what it is asked, and keep what it says.

    Attributes:
        alter: what becomes of each request on its way.
        said: each request as it arrived, with the answer.
    """

    def __init__(self, tenant: Answering) -> None:
        self.tenant = tenant
        self.alter: Callable[[Request], Request] = lambda request: request
        self.said: list[tuple[Request, Reply | Refusal]] = []

    def answer(self, request: Request) -> Reply | Refusal:
        request = self.alter(request)
        self.said.append((request, self.tenant.answer(request)))
        return self.said[-1][1]

    def answers(self, kind: Kind) -> list[Reply | Refusal]:
        return [answer for request, answer in self.said if request.kind is kind]


def masked_settings(folder: Path, clients: int, *, hosts: Sequence[str] = (), **settings: Any) -> Config:
    """Settings of a masked federation whose identities are made here, in `folder / "pki"`; small keys."""
    provision(folder / "pki", clients, hosts)
    return parse_config(
        {
            "he_key_length": 512, "allow_insecure_key": True, "num_clients": clients, "log_dir": str(folder),
            **identity_settings(folder / "pki"), **settings,
        }
    )  # fmt: skip


def tls_settings(folder: Path) -> dict[str, str]:
    """The settings of TLS with the certificates of a federation's folder."""
    return {"tls_ca": str(folder / "ca.pem"), "tls_certificate": str(folder / "server.pem"),
            "tls_key": str(folder / "server.key")}  # fmt: skip


def mutual_tls_settings(folder: Path) -> dict[str, str]:
    """The same, with each client's own certificate."""
    clients = str(folder / "clients" / "client-{client_id}")
    own = {"tls_client_certificate": f"{clients}.tls.pem", "tls_client_key": f"{clients}.tls.key"}
    return {**tls_settings(folder), **own}


def open_in_memory(
    config: Config,
    tenants: Mapping[str, Answering],
    whom: Iterable[str] | None = None,
    *,
    resume: str | None = None,
    lost: Callable[[str, Request], bool] = never,
) -> OpenRun[MemoryTransport]:
    """One start of a server over these tenants, all greeted and seated; connections are named as tenants are."""
    run = open_run(config, lambda seats: MemoryTransport(seats, tenants, lost), resume)
    run.transport.connect(whom)
    return run
