"""What masking costs a whole round: with masks against the same round without, by the number of clients.

The server's strategy and real clients work in this one process, with no network between them, and the clients train
one after the other: seconds are the sum of all parties' work, and bytes are those of the messages' payloads.
Both kinds start from one model and train on the same rows. Their models have to stay equal to the last bit, or there
are no figures.
"""

import itertools
import logging
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measuring import Figures, Passes, medians, wait_for_randomisers
from benchmarks.rounds import PARAMETERS, round_settings
from client.tenant import Tenant
from orchestrator.coordinator import Coordinator
from orchestrator.keys import new_key
from orchestrator.pki import identity_settings, provision
from orchestrator.run import open_run
from orchestrator.transport import MemoryTransport
from shared.config import Config, parse_config
from shared.data_sources.dataset import ClientData
from shared.data_utils import load_client_data
from shared.exchange import Exchange, Kind, Outcome, Reply, Request, Values, drive
from shared.identity import ClientIdentity

STAGES = (  # of the messages; boxes and upload travel with the request to train and its answer
    "advertise",
    "share",
    "boxes",
    "upload",
    "confirm",
    "reveal",
)


@dataclass(frozen=True)
class MaskedCost:
    """Medians over pairs of rounds, one with masks and one without, in turn and in changing order.

    Attributes:
        clients: N.
        data: where the rows came from.
        parameters: of the model, an MLP 122-64-32-2.
        pairs: rounds timed, of each kind.
        plain, masked: median seconds of all parties together: `before` (choosing the clients, stages 0 and 1), `fit`
            (training, masking, encrypting), `after` (adding, stages 3 and 4, decrypting, unmasking), `evaluation` by
            the clients (a sum like that of the updates), and their `round`; `cpu`: processor seconds of all threads,
            the making of the next round's randomisers included.
        over_plain: median of each pair's masked round seconds / plain round seconds: what slows the machine for a while
            slows both of a pair.
        lowest, highest: of those ratios.
        cpu_over_plain: the same median of processor seconds, which other work on the machine hardly changes.
        plain_bytes, masked_bytes: of all clients' messages of a round, both ways, by stage of the updates' sum; those
            of all stages of the evaluation's sum in one.
    """

    clients: int
    local_epochs: int
    data: str
    parameters: int
    pairs: int
    plain: dict[str, float]
    masked: dict[str, float]
    over_plain: float
    lowest: float
    highest: float
    cpu_over_plain: float
    plain_bytes: dict[str, int]
    masked_bytes: dict[str, int]


class Federation(MemoryTransport):
    """A server and its tenants for as many rounds as are asked for, all with or all without masks."""

    @classmethod
    def open(cls, config: Config, rows: Sequence[ClientData]) -> "Federation":
        """All tenants greeted, and their features scaled."""
        tenants = {}
        for i, own in enumerate(rows):
            identity = ClientIdentity.load(config.client_identity.format(client_id=i), f"client-{i}")
            tenants[str(i)] = Tenant(config, i, own, identity)
        run = open_run(config, lambda seats: cls(seats, tenants))
        federation = run.transport
        federation.coordinator = run.coordinator
        federation.traffic = Counter()
        federation.bucket = Kind.TRAIN
        federation.connect()
        run.coordinator.prepare()
        return federation

    coordinator: Coordinator
    traffic: Counter[tuple[Kind, str]]  # bytes, by the vector that a sum is of and the stage
    bucket: Kind

    def ask_one(self, node: str, request: Request, timeout: float) -> Outcome:
        """Ask, and count the bytes both ways, without the global model and what does not depend on masking."""
        outcome = super().ask_one(node, request, timeout)
        stage = "upload" if request.kind in (Kind.TRAIN, Kind.EVALUATE) else request.kind.value
        self.traffic[self.bucket, "boxes"] += _bytes(request.values, "boxes")
        self.traffic[self.bucket, stage] += _bytes(request.values, "payload")
        if isinstance(outcome, Reply):
            self.traffic[self.bucket, stage] += len(outcome.payload)
        return outcome

    def round(self, number: int) -> Figures:
        """The seconds of one round and its parts. Returns when the randomisers for the next one are made, too."""
        self.traffic.clear()
        clock, cpu = [time.perf_counter()], time.process_time()
        parts: Figures = {}

        def timed(exchange: Exchange) -> None:
            if exchange.kind is Kind.TRAIN:
                clock.append(time.perf_counter())
            self.ask(exchange)
            if exchange.kind is Kind.TRAIN:
                clock.append(time.perf_counter())

        self.bucket = Kind.TRAIN
        drive(self.coordinator.train(number), timed)
        clock.append(time.perf_counter())
        self.bucket = Kind.EVALUATE
        drive(self.coordinator.evaluate(number), self.ask)
        clock.append(time.perf_counter())
        record = self.coordinator.record
        if record.failed or record.skipped or not record.client_rows:
            raise RuntimeError(f"a round of the benchmark went wrong: {record}")
        wait_for_randomisers()  # else they would be made, and counted, in the other federation's round
        cpu = time.process_time() - cpu
        names = ("before", "fit", "after", "evaluation")
        parts = {name: b - a for name, (a, b) in zip(names, itertools.pairwise(clock), strict=True)}
        return {**parts, "round": clock[-1] - clock[0], "cpu": cpu}

    def payload_bytes(self) -> dict[str, int]:
        """Of the last round, by stage; all of the evaluation's in one."""
        stages = {stage: self.traffic[Kind.TRAIN, stage] for stage in STAGES}
        evaluation = sum(size for (bucket, _), size in self.traffic.items() if bucket is Kind.EVALUATE)
        return {**stages, "evaluation": evaluation}


def _bytes(values: Values, name: str) -> int:
    value = values.get(name)
    return len(value) if isinstance(value, bytes) else 0


def masked_cost(clients: int, local_epochs: int, passes: Passes) -> MaskedCost:
    """Train NSL-KDD with and without masks, a round each in turn; 3072 bits. A first pair is not timed."""
    torch.set_num_threads(1)  # as the launcher of the clients does
    log = logging.getLogger("orchestrator")
    propagated, log.propagate = log.propagate, False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provision(folder / "pki", clients, [])
        configs = {kind: _settings(folder, clients, local_epochs, kind) for kind in ("none", "masked")}
        new_key(folder / "paillier.json", configs["masked"].he_key_length, None)
        rows = [load_client_data(configs["masked"], i) for i in range(clients)]
        plain, masked = (Federation.open(config, rows) for config in configs.values())
        figures: dict[Federation, list[Figures]] = {plain: [], masked: []}
        for number in itertools.chain([-1], passes):
            for federation in (plain, masked) if number % 2 else (masked, plain):
                figures[federation].append(federation.round(number + 2))
    log.propagate = propagated
    for key, array in plain.coordinator.model.named.items():
        if not (array == masked.coordinator.model.named[key]).all():
            raise ArithmeticError(f"rounds with masks and without them made another {key}")
    pairs = list(zip(figures[plain][1:], figures[masked][1:], strict=True))
    ratios = [m["round"] / p["round"] for p, m in pairs]
    cpu_over_plain = statistics.median(m["cpu"] / p["cpu"] for p, m in pairs)
    return MaskedCost(
        clients, local_epochs, configs["masked"].data_source, PARAMETERS, len(pairs),
        medians([p for p, _ in pairs]), medians([m for _, m in pairs]),
        statistics.median(ratios), min(ratios), max(ratios), cpu_over_plain,
        plain.payload_bytes(), masked.payload_bytes(),
    )  # fmt: skip


def _settings(folder: Path, clients: int, local_epochs: int, kind: str) -> Config:
    return parse_config(
        {
            **round_settings(clients, local_epochs),
            "he_key_file": str(folder / "paillier.json"),
            "min_fit_clients": clients,
            "fraction_evaluate": 1.0,
            "log_dir": str(folder / kind),
            **identity_settings(folder / "pki"),
            "secure_aggregation": kind,
        }
    )
