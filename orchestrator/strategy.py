"""The Flower strategy: it selects clients, sends the model, and turns encrypted deltas into the next global model.

Flower calls `configure_fit`, carries the requests, and calls `aggregate_fit`. In between lies the one protocol of
`Coordinator.train`: what comes before the training is asked in the first call, what comes after it in the second. Each
pickled list of ciphertexts is checked and added the moment it arrives; the sum alone is decrypted.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from flwr.common import (
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    ReconnectIns,
    Scalar,
    ndarrays_to_parameters,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy

from orchestrator.coordinator import Coordinator
from orchestrator.flower_transport import FlowerTransport, evaluate_ins, fit_ins, of_evaluation, of_fit
from shared.exchange import Exchange, Kind, Lost, Outcome, Request, Steps

Fit = list[tuple[ClientProxy, FitRes]]
Evaluations = list[tuple[ClientProxy, EvaluateRes]]


class EncryptedFedAvg(Strategy):
    """Federated averaging of deltas that are only ever added up encrypted.

    Args:
        coordinator: knows what to do.
        transport: asks what Flower's loop doesn't.
    """

    def __init__(self, coordinator: Coordinator, transport: FlowerTransport) -> None:
        self._coordinator, self._transport = coordinator, transport
        self._steps: Steps[None]  # of what Flower's loop is carrying out

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """The present global model: made from the seed, or restored. No client is asked for one."""
        return ndarrays_to_parameters(self._coordinator.model.parameters)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Choose the round's clients, and what each is asked: the global model, the public key and the settings.

        Raises:
            NetworkError: not enough clients within `client_wait_timeout`.
        """
        return [(client, fit_ins(request)) for client, request in self._begin(self._coordinator.train(server_round))]

    def aggregate_fit(
        self, server_round: int, results: Fit, failures: list[tuple[ClientProxy, FitRes] | BaseException]
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """All updates that came are added up by now: decrypt their sum, and move the global model by the average."""
        self._finish()
        if self._coordinator.record.skipped is not None:
            return None, {}
        return ndarrays_to_parameters(self._coordinator.model.parameters), {}

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]] | None:
        """The global model on the orchestrator's own rows."""
        self._coordinator.score()
        return self._coordinator.record.loss or 0.0, {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Ask clients for the global model's figures on their held-out rows, in an encrypted sum."""
        asked = self._begin(self._coordinator.evaluate(server_round))
        return [(client, evaluate_ins(request)) for client, request in asked]

    def aggregate_evaluate(
        self,
        server_round: int,
        results: Evaluations,
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Decrypt the sums over all held-out rows, and nobody's own."""
        self._finish()
        return self._coordinator.record.client_loss, {}

    def _begin(self, steps: Steps[None]) -> list[tuple[ClientProxy, Request]]:
        """Go up to the exchange that Flower's own loop carries; nobody is asked where it doesn't come to that."""
        for exchange in steps:
            if exchange.kind not in (Kind.TRAIN, Kind.EVALUATE):
                self._transport.ask(exchange)
            elif asked := self._addressed(exchange):
                self._steps = steps
                return asked
        return []

    def _addressed(self, exchange: Exchange) -> list[tuple[ClientProxy, Request]]:
        nodes = self._transport.seats.tenants()
        lock = threading.Lock()
        asked: list[tuple[ClientProxy, Request]] = []
        for tenant, request in exchange.requests.items():
            client = self._transport.connections.get(nodes.get(tenant, ""))
            if client is None:
                exchange.on_reply(tenant, Lost("disconnected"))
            else:
                asked.append((_Listening(client, tenant, exchange, lock), request))
        return asked

    def _finish(self) -> None:
        for exchange in self._steps:
            self._transport.ask(exchange)


Res = TypeVar("Res", FitRes, EvaluateRes)


class _Listening(ClientProxy):
    """A connection that hands each answer on as it comes, so that Flower never holds all of them."""

    def __init__(self, client: ClientProxy, tenant: str, exchange: Exchange, lock: threading.Lock) -> None:
        super().__init__(client.cid)
        self._client, self._tenant, self._exchange, self._lock = client, tenant, exchange, lock

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        result = self._heard(lambda: self._client.fit(ins, timeout, group_id), of_fit)
        return FitRes(result.status, Parameters([], ""), result.num_examples, {})

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        result = self._heard(lambda: self._client.evaluate(ins, timeout, group_id), of_evaluation)
        return EvaluateRes(result.status, 0.0, 0, {})

    def _heard(self, ask: Callable[[], Res], outcome_of: Callable[[Res], Outcome]) -> Res:
        try:
            result = ask()
        except BaseException:
            self._hand_on(Lost(f"disconnected, or no answer within {self._exchange.setting}"))
            raise
        self._hand_on(outcome_of(result))
        return result

    def _hand_on(self, outcome: Outcome) -> None:
        with self._lock:
            self._exchange.on_reply(self._tenant, outcome)

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        return self._client.get_properties(ins, timeout, group_id)

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        return self._client.get_parameters(ins, timeout, group_id)

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        return self._client.reconnect(ins, timeout, group_id)
