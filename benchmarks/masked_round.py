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

from benchmarks.measuring import Figures, Passes, medians, wait_for_randomisers
from benchmarks.rounds import PARAMETERS, round_settings
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
from shared.data_utils import ClientData, load_client_data, load_test_data, load_validation_data
from shared.he.paillier import PaillierPrivate
from shared.he_utils import PrivateScheme, make_keys
from shared.identity import ClientIdentity
from shared.preprocessing import Preprocessing

SESSION = "5e" * 16
RUN = "20260101-000000-abcdef"
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
        answer = self.client.evaluate(ins)
        self._traffic["evaluation"] += _payload(ins.config, "boxes") + _payload(answer.metrics)
        return answer

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

    def connected(self) -> list[ClientProxy]:
        return list(self._proxies)

    def tenant_of(self, client: ClientProxy) -> str:
        return client.cid.removeprefix("connection-")


def _payload(values: dict[str, Scalar], *names: str) -> int:
    """Bytes under these names, or under all."""
    wanted = (value for name, value in values.items() if name in names or not names)
    return sum(len(value) for value in wanted if isinstance(value, bytes))


class Federation:
    """A server and its clients for as many rounds as are asked for, all with or all without masks."""

    def __init__(self, config: Config, keys: PrivateScheme[Any], rows: Sequence[ClientData]) -> None:
        admission = Admission(config.enrolled_clients, SESSION)
        self._traffic: Counter[str] = Counter()
        self._bytes: dict[str, int] = {}
        proxies = []
        for i, own in enumerate(rows):
            identity = ClientIdentity.load(config.client_identity.format(client_id=i), f"client-{i}")
            client = TenantClient(config, i, own, identity)
            greeting: dict[str, Scalar] = {"run": RUN, "session": SESSION, "nonce": admission.greeting_nonce()}
            greeting["key_proof"] = keys.key_proof()
            client.get_properties(GetPropertiesIns(greeting))
            proxies.append(LocalProxy(client, self._traffic))
        aggregation: Aggregation = PlainAggregation()
        if config.masked and isinstance(keys, PaillierPrivate):
            aggregation = MaskedAggregation(config, keys.public, admission)
        aggregator = Aggregator(keys, config.fewest_contributors, config.num_clients, config.weighting, admission)
        self._roster = LocalRoster(proxies, admission)
        self.strategy = EncryptedFedAvg(
            config, aggregator, aggregation, self._roster, load_validation_data(config), load_test_data(config)
        )
        self.strategy.scale_by(Preprocessing.pooled(rows[0].schema, [own.train for own in rows]))

    def round(self, number: int) -> Figures:
        """The seconds of one round and its parts. Returns when the randomisers for the next one are made, too."""
        self._traffic.clear()
        clock, cpu = [time.perf_counter()], time.process_time()
        instructions = self.strategy.configure_fit(
            number, self.strategy.initialize_parameters(self._roster), self._roster
        )
        clock.append(time.perf_counter())
        results = [(client, client.fit(ins, None, None)) for client, ins in instructions]
        clock.append(time.perf_counter())
        self.strategy.aggregate_fit(number, [r for r in results if r[1].status.code == Code.OK], [])
        clock.append(time.perf_counter())
        self._bytes = {stage: self._traffic[stage] for stage in STAGES}
        self._traffic.clear()
        self._evaluate(number)
        self._bytes["evaluation"] = self._traffic.total()
        clock.append(time.perf_counter())
        if self.strategy.record.failed or self.strategy.record.skipped or not self.strategy.record.client_rows:
            raise RuntimeError(f"a round of the benchmark went wrong: {self.strategy.record}")
        wait_for_randomisers()  # else they would be made, and counted, in the other federation's round
        cpu = time.process_time() - cpu
        before, fit, after, evaluation = (later - earlier for earlier, later in itertools.pairwise(clock))
        parts = {"before": before, "fit": fit, "after": after, "evaluation": evaluation}
        return {**parts, "round": clock[-1] - clock[0], "cpu": cpu}

    def _evaluate(self, number: int) -> None:
        """By the clients, of the new model."""
        parameters = self.strategy.initialize_parameters(self._roster)
        instructions = self.strategy.configure_evaluate(number, parameters, self._roster)
        results = [(client, client.evaluate(ins, None, None)) for client, ins in instructions]
        self.strategy.aggregate_evaluate(number, [r for r in results if r[1].status.code == Code.OK], [])

    def payload_bytes(self) -> dict[str, int]:
        """Of the last round, by stage."""
        return dict(self._bytes)


def masked_cost(clients: int, local_epochs: int, passes: Passes) -> MaskedCost:
    """Train NSL-KDD with and without masks, a round each in turn; 3072 bits. A first pair is not timed."""
    torch.set_num_threads(1)  # as the launcher of the clients does
    warm_up()
    log = logging.getLogger("orchestrator")
    propagated, log.propagate = log.propagate, False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provision(folder / "pki", clients, [])
        configs = {kind: _settings(folder, clients, local_epochs, kind) for kind in ("none", "masked")}
        keys = make_keys(configs["masked"])
        rows = [load_client_data(configs["masked"], i) for i in range(clients)]
        plain, masked = (Federation(config, keys, rows) for config in configs.values())
        figures: dict[Federation, list[Figures]] = {plain: [], masked: []}
        for number in itertools.chain([-1], passes):
            for federation in (plain, masked) if number % 2 else (masked, plain):
                figures[federation].append(federation.round(number + 2))
    log.propagate = propagated
    for key, array in plain.strategy.parameters.items():
        if not (array == masked.strategy.parameters[key]).all():
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
            "min_fit_clients": clients,
            "fraction_evaluate": 1.0,
            "log_dir": str(folder / kind),
            "enrolled_clients": str(folder / "pki/enrolled.json"),
            "client_identity": str(folder / "pki/clients/client-{client_id}.key"),
            "secure_aggregation": kind,
        }
    )
