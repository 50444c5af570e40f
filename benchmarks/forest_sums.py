"""What growing a whole forest costs each tenant: every level of every tree is one masked sum over all of them."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import wait_for_randomisers
from benchmarks.rounds import data_settings
from client.tenant import Tenant
from orchestrator.pki import identity_settings, provision
from orchestrator.run import open_run
from orchestrator.simulation import make_tenants
from orchestrator.transport import MemoryTransport
from shared.config import Config, parse_config
from shared.data_sources.dataset import ClientData, Dataset
from shared.data_utils import load_client_data
from shared.exchange import Kind, Refusal, Reply, Request, Values
from shared.forest.plan import ForestPlan

CLIENTS = 3
ROWS = 40_000  # of a tenant, to train on
SCHEMES = ("none", "paillier", "kahe")
_DRAW = 11  # seed of the tenants' rows


@dataclass(frozen=True)
class ForestCost:
    """One tenant's part in a forest, the mean over the tenants, who are asked one after the other; masked, 3072 bits.

    Attributes:
        scheme: `he_scheme`; `none` has no masks either, and shows what the adding up itself takes.
        data: where the rows came from.
        clients: tenants.
        rows: of each, to train on.
        sums: rounds that the forest took.
        values: numbers in the largest of one tenant's vectors.
        vector_seconds: adding up its rows, masking and encrypting, over all sums.
        stage_seconds: the four other stages of masking, over all sums.
        cpu_seconds: processor seconds of both, of all threads, which other work on the machine hardly changes.
        sent_bytes: all that it sent.
        received_bytes: all that it was sent, but for the forest.
        decrypt_seconds: what the orchestrator takes to decrypt the sums, over all of them.
        seconds: of the whole run of all parties in one process, scoring and checkpoints included.
    """

    scheme: str
    data: str
    clients: int
    rows: int
    sums: int
    values: int
    vector_seconds: float
    stage_seconds: float
    cpu_seconds: float
    sent_bytes: int
    received_bytes: int
    decrypt_seconds: float
    seconds: float


class Timed:
    """A tenant whose answers are timed, and whose messages are counted.

    Attributes:
        vectors, stages: seconds of its answers with a vector, and of those to the other stages of masking.
        cpu: processor seconds of both.
        sent, received: bytes.
    """

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.forget()

    def forget(self) -> None:
        """Begin anew: what comes before the first sum does not count."""
        self.vectors = self.stages = self.cpu = 0.0
        self.sent = self.received = 0

    def answer(self, request: Request) -> Reply | Refusal:
        start, cpu = perf_counter(), process_time()
        answer = self._tenant.answer(request)
        taken = perf_counter() - start
        self.cpu += process_time() - cpu
        if request.kind is Kind.TRAIN:
            self.vectors += taken
        else:
            self.stages += taken
        self.received += _bytes(request.values)
        if isinstance(answer, Reply):
            self.sent += len(answer.payload) + _bytes(answer.values)
        return answer


def _bytes(values: Values) -> int:
    return sum(len(value) for value in values.values() if isinstance(value, bytes))


def forest_costs(rows: int = ROWS, key_bits: int = 3072, **changes: Any) -> list[ForestCost]:
    """Grow one forest with each scheme, of the same rows.

    Args:
        rows: of each tenant.
        key_bits: of the Paillier key.
        **changes: other settings than the forest's own defaults.

    Raises:
        ArithmeticError: two schemes grew two forests, so the figures would mean nothing.
    """
    threads, log = torch.get_num_threads(), logging.getLogger("orchestrator")
    torch.set_num_threads(1)  # as the launcher of the tenants does
    propagated, log.propagate = log.propagate, False
    costs, forests = [], set()
    try:
        with tempfile.TemporaryDirectory() as name:
            provision(Path(name) / "pki", CLIENTS, [])
            own: Mapping[int, ClientData] = {}
            for scheme in SCHEMES:
                config = _settings(Path(name), scheme, rows, key_bits, changes)
                own = own or _drawn(config, rows)
                cost, forest = _grow(config, own)
                costs.append(cost)
                forests.add(forest)
    finally:
        torch.set_num_threads(threads)
        log.propagate = propagated
    if len(forests) != 1:
        raise ArithmeticError("the schemes grew forests that differ")
    return costs


def _settings(folder: Path, scheme: str, rows: int, key_bits: int, changes: Mapping[str, Any]) -> Config:
    data = data_settings(CLIENTS) | {"num_features": 122}
    settings = {
        **data, "model": "forest", "num_clients": CLIENTS, "min_available_clients": CLIENTS, "min_fit_clients": CLIENTS,
        "num_rounds": ForestPlan.of(Config(model="forest")).sums, "fraction_evaluate": 0.0, "he_scheme": scheme,
        "he_key_length": key_bits, "allow_insecure_key": True, "log_dir": str(folder / scheme),
    }  # fmt: skip
    if data["data_source"] == "synthetic":
        settings["num_samples_per_client"] = 2 * rows
    if scheme != "none":
        settings |= identity_settings(folder / "pki")
    return parse_config(settings | dict(changes))


def _drawn(config: Config, rows: int) -> dict[int, ClientData]:
    """So many rows for each tenant, drawn from all tenants' rows without repeats within one tenant."""
    clients = [load_client_data(config, number) for number in range(CLIENTS)]
    every = Dataset(
        *(
            np.concatenate([getattr(client.train, name) for client in clients])
            for name in ("features", "labels", "families")
        )
    )
    random = np.random.default_rng(_DRAW)
    return {
        number: ClientData(client.schema, every.take(random.permutation(len(every))[:rows]), client.holdout)
        for number, client in enumerate(clients)
    }


def _grow(config: Config, rows: Mapping[int, ClientData]) -> tuple[ForestCost, bytes]:
    """One forest from its first sum to its last, and its bytes."""
    tenants = make_tenants(config, rows)
    timed = {name: Timed(tenant) for name, tenant in tenants.items()}
    run = open_run(config, lambda seats: MemoryTransport(seats, timed))
    run.transport.connect()
    run.coordinator.prepare()
    wait_for_randomisers()
    for tenant in timed.values():
        tenant.forget()
    start = perf_counter()
    run.coordinator.run()
    seconds = perf_counter() - start
    records = run.coordinator.records
    if any(record.skipped or record.contributors != CLIENTS for record in records):
        raise RuntimeError("a tenant was lost while the forest grew; its figures would mean nothing")
    values = max(run.coordinator.model.learner.sizes(rows[0].schema).values())
    forest = b"".join(array.tobytes() for array in run.coordinator.model.named.values())
    run.close()
    for own in tenants.values():
        own.close()
    whom = list(timed.values())
    cost = ForestCost(
        config.he_scheme, config.data_source, len(whom), len(rows[0].train), len(records), values,
        sum(t.vectors for t in whom) / len(whom), sum(t.stages for t in whom) / len(whom),
        sum(t.cpu for t in whom) / len(whom),
        sum(t.sent for t in whom) // len(whom), sum(t.received for t in whom) // len(whom),
        sum(record.decrypt_seconds or 0.0 for record in records), seconds,
    )  # fmt: skip
    return cost, forest
