"""What masking costs: one round with masks against the same round without, by the number of clients.

    python benchmarks/masked_round.py --clients 3 10 50

The server's strategy and real clients work in this one process, with no network between them: seconds are the sum of
all parties' work on this machine, and bytes are those of the messages' payloads. Prints a table, and one line of JSON.
"""

import argparse
import json
import logging
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Scalar,
)
from flwr.common.typing import DisconnectRes, ReconnectIns
from flwr.server.client_proxy import ClientProxy
from rich.table import Table

from client.flower_client import TenantClient
from client.training import warm_up
from orchestrator.admission import Admission
from orchestrator.aggregation import Aggregation, PlainAggregation
from orchestrator.aggregator import Aggregator
from orchestrator.masked_round import MaskedAggregation
from orchestrator.provision import provision
from orchestrator.roster import Roster
from orchestrator.strategy import EncryptedFedAvg
from shared.config import Config, parse_config
from shared.console import console
from shared.data_utils import load_client_data, load_test_data, load_validation_data
from shared.he.paillier import PaillierPrivate
from shared.he_utils import PrivateScheme, make_keys
from shared.identity import ClientIdentity

SESSION = "5e" * 16
RUN = "20260101-000000-abcdef"
STAGES = ("advertise", "share", "boxes", "upload", "confirm", "reveal")


@dataclass(frozen=True)
class Figures:
    """One round. Seconds are of all parties together, bytes of all clients' messages in both directions.

    Attributes:
        clients: N.
        masked: with masks or without.
        before_seconds: choosing the clients, and stages 0 and 1.
        fit_seconds: training, masking and encrypting.
        after_seconds: adding, stages 3 and 4, decrypting, unmasking.
        payload_bytes: by stage; `boxes` and `upload` travel with the training's request and answer.
    """

    clients: int
    masked: bool
    before_seconds: float
    fit_seconds: float
    after_seconds: float
    payload_bytes: dict[str, int]


class LocalProxy(ClientProxy):
    """A client in this process, and the bytes that go to and from it."""

    def __init__(self, client: TenantClient, traffic: Counter[str]) -> None:
        super().__init__(f"connection-{client.client_id}")
        self.client, self._traffic = client, traffic

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        answer = self.client.get_properties(ins)
        self._traffic[str(ins.config.get("stage"))] += _payload(ins.config) + _payload(answer.properties)
        return answer

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        boxes = ins.config.get("boxes", b"")
        answer = self.client.fit(ins)
        self._traffic["boxes"] += len(boxes) if isinstance(boxes, bytes) else 0
        self._traffic["upload"] += sum(len(tensor) for tensor in answer.parameters.tensors)
        return answer

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        return self.client.evaluate(ins)

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        return self.client.get_parameters(ins)

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        return DisconnectRes("")


class LocalRoster(Roster):
    """All clients, always connected."""

    def __init__(self, proxies: list[LocalProxy], admission: Admission) -> None:
        super().__init__(RUN, SESSION, admission)
        self._proxies = proxies

    def gather(self, needed: int, timeout: float) -> list[ClientProxy]:
        return list(self._proxies)

    def tenant_of(self, client: ClientProxy) -> str:
        return client.cid.removeprefix("connection-")


def _payload(values: dict[str, Scalar]) -> int:
    return sum(len(value) for value in values.values() if isinstance(value, bytes))


def settings(folder: Path, clients: int, masked: bool) -> Config:
    """NSL-KDD's shape, 122 features and an MLP of 64 and 32; few generated rows, since training is not the subject."""
    everyone = dict.fromkeys(("num_clients", "min_available_clients", "min_fit_clients"), clients)
    return parse_config(
        {
            **everyone, "num_features": 122, "num_hidden_units": [64, 32], "num_samples_per_client": 50,
            "local_epochs": 1, "fraction_evaluate": 0.0, "log_dir": str(folder / "logs"),
            "enrolled_clients": str(folder / "pki/enrolled.json"),
            "client_identity": str(folder / "pki/clients/client-{client_id}.key"),
            "secure_aggregation": "masked" if masked else "none",
        }
    )  # fmt: skip


def measure(config: Config, keys: PrivateScheme[Any], number: int) -> Figures:
    """One round of fresh clients."""
    admission = Admission(config.enrolled_clients, SESSION)
    traffic: Counter[str] = Counter()
    proxies = []
    for i in range(config.num_clients):
        identity = ClientIdentity.load(config.client_identity.format(client_id=i), f"client-{i}")
        client = TenantClient(config, i, load_client_data(config, i), identity)
        client.get_properties(GetPropertiesIns({"run": RUN, "session": SESSION, "nonce": admission.greeting_nonce()}))
        proxies.append(LocalProxy(client, traffic))
    aggregation: Aggregation = PlainAggregation()
    if config.masked and isinstance(keys, PaillierPrivate):
        aggregation = MaskedAggregation(config, keys.public, admission)
    aggregator = Aggregator(keys, config.fewest_contributors, config.num_clients, config.weighting, admission)
    roster = LocalRoster(proxies, admission)
    strategy = EncryptedFedAvg(
        config, aggregator, aggregation, roster, load_validation_data(config), load_test_data(config)
    )

    clock = [time.perf_counter()]
    instructions = strategy.configure_fit(number, strategy.initialize_parameters(roster), roster)
    clock.append(time.perf_counter())
    with ThreadPoolExecutor(config.num_clients) as pool:
        results = list(pool.map(lambda asked: (asked[0], asked[0].fit(asked[1], None, None)), instructions))
    clock.append(time.perf_counter())
    strategy.aggregate_fit(number, [r for r in results if r[1].status.code == Code.OK], [])
    clock.append(time.perf_counter())
    if strategy.record.contributors != config.num_clients:
        raise SystemExit(f"the round went wrong: {strategy.record}")
    before, fit, after = (later - earlier for earlier, later in pairwise(clock))
    return Figures(config.num_clients, config.masked, before, fit, after, {s: traffic[s] for s in STAGES})


def main() -> None:
    parser = argparse.ArgumentParser(description="One masked round against one without masks.")
    parser.add_argument("--clients", type=int, nargs="+", default=[3, 10, 50])
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the fastest counts")
    args = parser.parse_args()
    logging.getLogger("orchestrator").propagate = False
    torch.set_num_threads(1)
    warm_up()
    figures = []
    with tempfile.TemporaryDirectory() as name:
        for clients in args.clients:
            folder = Path(name) / str(clients)
            provision(folder / "pki", clients, [])
            keys = make_keys(settings(folder, clients, masked=True))
            for masked in (False, True):
                config = settings(folder, clients, masked)
                runs = [measure(config, keys, number) for number in range(1, args.rounds + 1)]
                figures.append(min(runs, key=lambda f: f.before_seconds + f.fit_seconds + f.after_seconds))
    table = Table(title="one round, 3072-bit Paillier, MLP 122-64-32-2; seconds of all parties, bytes of all clients")
    for column in ("N", "masked", "before s", "fit s", "after s", "round s", "ratio", *(f"{s} B" for s in STAGES)):
        table.add_column(column, justify="right", no_wrap=True)
    plain_seconds = 0.0
    for f in figures:
        seconds = f.before_seconds + f.fit_seconds + f.after_seconds
        plain_seconds = plain_seconds if f.masked else seconds
        times = (f"{s:.3f}" for s in (f.before_seconds, f.fit_seconds, f.after_seconds, seconds))
        volumes = (f"{f.payload_bytes[s]:,}" for s in STAGES)
        table.add_row(str(f.clients), "yes" if f.masked else "no", *times, f"{seconds / plain_seconds:.2f}", *volumes)
    console.print(table)
    print(json.dumps([asdict(f) for f in figures]))


if __name__ == "__main__":
    main()
