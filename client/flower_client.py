"""What Flower calls: its messages become requests to the tenant, and the tenant's answers messages. Nothing more."""

from flwr.client import Client
from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    Scalar,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)

from client.tenant import Tenant
from shared.exchange import Kind, Refusal, Reply, Request
from shared.refusals import OTHER
from shared.wire import wrap_array

_OK = Status(Code.OK, "")
_ASKED_HERE = set(Kind) - {Kind.TRAIN, Kind.EVALUATE, Kind.DISMISS}


class FlowerClient(Client):
    """A tenant at the other end of a Flower connection.

    Attributes:
        tenant: who answers.
        welcome: whether the server has asked it anything on this connection.
    """

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.welcome = False

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        """Everything but training and evaluation: the greeting, statistics, the stages of masked sums."""
        self.welcome = True
        kind = ins.config.get("kind")
        if kind not in _ASKED_HERE:
            self.tenant.log.error("the server asks for %.80r; is it of the same version?", kind)
            return GetPropertiesRes(_failed(OTHER), {})
        kind = Kind(str(kind))
        answer = self.tenant.answer(Request(kind, ins.config))
        if isinstance(answer, Refusal):
            return GetPropertiesRes(_failed(answer.reason), {})
        return GetPropertiesRes(_OK, {"payload": answer.payload, **answer.values})

    def fit(self, ins: FitIns) -> FitRes:
        """One round of training. The payload travels as a NumPy array of bytes."""
        answer = self._ask(Kind.TRAIN, ins)
        if isinstance(answer, Refusal):
            return FitRes(_failed(answer.reason), Parameters([], ""), 0, {})
        # num_examples travels in the clear, so it says nothing: how many rows a tenant has is its own affair.
        parameters = ndarrays_to_parameters([wrap_array(answer.payload)])
        return FitRes(_OK, parameters, num_examples=1, metrics=dict(answer.values))

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        """The global model on the tenant's held-out rows; what Flower has fields for would travel in the clear."""
        answer = self._ask(Kind.EVALUATE, ins)
        if isinstance(answer, Refusal):
            return EvaluateRes(_failed(answer.reason), 0.0, 0, {})
        metrics: dict[str, Scalar] = {"payload": answer.payload, **answer.values}
        return EvaluateRes(_OK, loss=0.0, num_examples=1, metrics=metrics)

    def _ask(self, kind: Kind, ins: FitIns | EvaluateIns) -> Reply | Refusal:
        try:
            model = parameters_to_ndarrays(ins.parameters)
        except Exception:  # NumPy's reader has no closed set of them
            self.tenant.log.exception("the server sent no model")
            model = []  # which is none of this tenant's shapes
        return self.tenant.answer(Request(kind, ins.config, model))


def _failed(reason: str) -> Status:
    # The legacy protocol has no code for "failed"; any code but OK makes the server count a failure.
    return Status(Code.FIT_NOT_IMPLEMENTED, reason)
