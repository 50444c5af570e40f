"""An orchestrator whose owner changed its code: the altered parts of the server, and what it keeps against the rules.

It attacks one tenant, one attack in each round of a run. `benchmarks/peek.py` says what came of each.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from numpy.typing import NDArray

from orchestrator.admission import SignedStatement, identity_name
from orchestrator.aggregation import ask
from orchestrator.aggregator import Aggregate, Aggregator, RoundSum
from orchestrator.feature_statistics import StatisticsCollector
from orchestrator.masked_round import MaskedAggregation
from orchestrator.run_folder import RoundRecord
from orchestrator.strategy import EncryptedFedAvg
from shared.config import Config
from shared.data_sources.scaling import Scaler
from shared.data_utils import load_client_data
from shared.errors import OrchestratorError, StatisticsError, UpdateRejectedError
from shared.feature_statistics import HISTOGRAM, MOMENTS
from shared.he.paillier import PaillierPrivate
from shared.he_utils import PrivateScheme, Unmask, Vector, make_keys
from shared.masking import WEIGHTS, ServerRound, agreement
from shared.masking.errors import RoundAbandonedError
from shared.masking.messages import RevealRequest, encode_survivors
from shared.masking.shamir import Rebuilder
from shared.masking.stream import MaskSum
from shared.model import get_parameters, set_parameters
from shared.preprocessing import Preprocessing
from shared.wire import check_length, load_update, unwrap_tensor

CLIENTS = 4  # of which a sum needs 3
VICTIM = "3"
_FIRST_ATTEMPT = 2  # at statistics that were honestly added up in attempt 1

Model = list[NDArray[np.float32]]
Ins = TypeVar("Ins", FitIns, EvaluateIns)


class Attack(StrEnum):
    """What the orchestrator does in one round, in the order in which it does it."""

    DECRYPT = "decrypt"
    SPLIT_VIEW = "split-view"
    BOTH_SHARES = "both-shares"
    SETTINGS = "settings"
    MODEL = "model"
    EVALUATION = "evaluation"
    NAN = "nan"
    SCALER = "scaler"
    STATISTICS = "statistics"
    FALSE_LOSS = "false-loss"
    # In a second run, which begins where the first began: a new session, and the tenants' processes are new as well.
    SESSION = "session"
    SET_BACK = "set-back"


@dataclass
class Loot:
    """What the orchestrator keeps of one run.

    Attributes:
        plan: the attack of each round.
        now: the attack that is going on; None while the features' statistics are honestly added up.
        keys: its private key.
        collector: asks for statistics.
        preprocessing: how features are scaled.
        models: the global model that each attack began with.
        sent: the plaintexts of one tenant's vector, by (attack, bucket, tenant).
        sums: what each sum yields, which it may know, by (attack, bucket).
        masks: all that the revealed shares rebuild of a client's mask, ready to be taken off, by (attack, name).
        words: what tenants answered to an attack, by tenant.
        seen: all that can be told from outside of each tenant's answer to a model that fails on some rows.
        fails: the tenant with such a row.
        losses: what each tenant says in the clear of the global model on its own rows.
    """

    plan: tuple[Attack, ...]
    now: Attack | None = None
    keys: list[PaillierPrivate] = field(default_factory=list)
    collector: StatisticsCollector | None = None
    preprocessing: Preprocessing | None = None
    models: dict[Attack, Model] = field(default_factory=dict)
    sent: dict[tuple[Attack | None, str, str], list[int]] = field(default_factory=dict)
    sums: dict[tuple[Attack | None, str], Vector] = field(default_factory=dict)
    masks: dict[tuple[Attack | None, str], MaskSum] = field(default_factory=dict)
    words: dict[Attack, dict[str, str]] = field(default_factory=dict)
    seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    fails: str = ""
    losses: dict[str, float] = field(default_factory=dict)

    def steal_keys(self, config: Config) -> PrivateScheme[Any]:
        """The key pair of the run, as ever; and a copy."""
        keys = make_keys(config)
        if isinstance(keys, PaillierPrivate):
            self.keys.append(keys)
        return keys

    def note(self, tenant: str, words: str) -> None:
        """What a tenant, by its id or its enrolled name, answered to the attack that goes on."""
        if self.now is not None:
            self.words.setdefault(self.now, {})[tenant.removeprefix("client-")] = words


def spies(loot: Loot) -> Iterable[tuple[str, Any]]:
    """The altered parts of the server: what to replace, by what."""
    return [
        ("orchestrator.server.make_keys", loot.steal_keys),
        ("orchestrator.server.Aggregator", _aggregator(loot)),
        ("orchestrator.server.EncryptedFedAvg", _strategy(loot)),
        ("orchestrator.server.MaskedAggregation", _aggregation(loot)),
        ("orchestrator.server.StatisticsCollector", _collector(loot)),
        ("orchestrator.feature_statistics.ask", _ask(loot)),
        ("orchestrator.feature_statistics._note_failure", loot.note),
        ("orchestrator.masked_round.ServerRound", _server_round(loot)),
        ("orchestrator.admission.RoundAdmission.check", lambda *_: None),  # who is lied to signs for what it was given
        ("orchestrator.server._ROUNDS_WITHOUT_SUM", len(Attack) + 1),  # its lies cost it rounds; it goes on
    ]


def _aggregator(loot: Loot) -> type[Aggregator]:
    class CuriousSum(RoundSum):
        """Decrypts each vector beside the sum."""

        bucket = WEIGHTS

        def add(self, client_id: str, tensor: bytes, signed: SignedStatement | None = None) -> None:
            super().add(client_id, tensor, signed)
            self._open(client_id, unwrap_tensor(tensor, self.header, self.layout))

        def add_payload(self, client_id: str, payload: bytes, signed: SignedStatement | None = None) -> None:
            super().add_payload(client_id, payload, signed)
            self._open(client_id, payload)

        def _open(self, client_id: str, payload: bytes) -> None:
            check_length(payload, self.header, self.layout)
            (keys,) = loot.keys
            ciphertexts = keys.public.from_bytes(load_update(payload, self.header, self.layout))
            loot.sent[loot.now, self.bucket, client_id] = keys.decrypt_plaintexts(ciphertexts)

        def decrypt_average(self, unmask: Unmask | None = None) -> Aggregate:
            aggregate = super().decrypt_average(unmask)
            loot.sums[loot.now, self.bucket] = aggregate.average_delta * len(aggregate.contributors)
            return aggregate

    class CuriousAggregator(Aggregator):
        def open_round(self, round_number: int, size: int, task_sha256: str = "", bucket: str = WEIGHTS) -> RoundSum:
            opened = CuriousSum(self._keys, self, round_number, size, task_sha256, bucket)
            opened.bucket = bucket
            return opened

    return CuriousAggregator


def _strategy(loot: Loot) -> type[EncryptedFedAvg]:
    class LyingStrategy(EncryptedFedAvg):
        """Tells some tenants what it does not tell the others."""

        def configure_fit(
            self, server_round: int, parameters: Parameters, client_manager: ClientManager
        ) -> list[tuple[ClientProxy, FitIns]]:
            loot.now = attack = loot.plan[server_round - 1]
            loot.preprocessing = self.preprocessing
            loot.models[attack] = get_parameters(self._model)
            if attack in (Attack.STATISTICS, Attack.SCALER):
                self.record, self._chosen = RoundRecord(round=server_round), []
                self._skip(_ask_for_statistics(loot))
                return []
            if attack is Attack.NAN:
                loot.fails, model = _failing_model(self._config, loot)
                set_parameters(self._model, model)
                parameters = ndarrays_to_parameters(model)
            asked = super().configure_fit(server_round, parameters, client_manager)
            lies = {Attack.SETTINGS: _other_settings, Attack.MODEL: _other_model}
            return self._tell_others(asked, lies[attack]) if attack in lies else asked

        def aggregate_fit(
            self,
            server_round: int,
            results: list[tuple[ClientProxy, FitRes]],
            failures: list[tuple[ClientProxy, FitRes] | BaseException],
        ) -> tuple[Parameters | None, dict[str, Scalar]]:
            answer = super().aggregate_fit(server_round, results, failures)
            if loot.now is not Attack.NAN:
                return answer
            for client, result in [*results, *(f for f in failures if isinstance(f, tuple))]:
                lengths = [len(tensor) for tensor in result.parameters.tensors]
                words = "answered" if result.parameters.tensors else f"refused: {result.status.message}"
                loot.note(self._roster.tenant_of(client), words)
                what = (result.status.code, result.status.message, lengths, result.num_examples, sorted(result.metrics))
                loot.seen[self._roster.tenant_of(client)] = what
            model = loot.models[Attack.NAN]  # the tenants go on from the model that they know
            set_parameters(self._model, model)
            return ndarrays_to_parameters(model), {}

        def configure_evaluate(
            self, server_round: int, parameters: Parameters, client_manager: ClientManager
        ) -> list[tuple[ClientProxy, EvaluateIns]]:
            if loot.now is not Attack.EVALUATION:
                return []
            loot.models[Attack.EVALUATION] = get_parameters(self._model)
            asked = super().configure_evaluate(server_round, parameters, client_manager)
            return self._tell_others(asked, _blank_model)

        def aggregate_evaluate(
            self,
            server_round: int,
            results: list[tuple[ClientProxy, EvaluateRes]],
            failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
        ) -> tuple[float | None, dict[str, Scalar]]:
            loot.losses |= {self._roster.tenant_of(client): result.loss for client, result in results}
            return super().aggregate_evaluate(server_round, results, failures)

        def _choose(self, fraction: float, at_least: int, server_round: int, bucket: str) -> list[ClientProxy]:
            chosen = super()._choose(fraction, at_least, server_round, bucket)
            if loot.now is not Attack.SESSION:
                return chosen
            return [client for client in chosen if self._roster.tenant_of(client) != VICTIM]

        def _note_silence(self, tenant: str, reason: str) -> None:
            loot.note(tenant, reason)

        def _tell_others(
            self, asked: list[tuple[ClientProxy, Ins]], lie: Callable[[Ins], Ins]
        ) -> list[tuple[ClientProxy, Ins]]:
            return [(c, ins if self._roster.tenant_of(c) == VICTIM else lie(ins)) for c, ins in asked]

    return LyingStrategy


def _other_settings(ins: FitIns) -> FitIns:
    """Train, and move by nothing."""
    return FitIns(ins.parameters, {**ins.config, "learning_rate": 1e-300})


def _other_model(ins: FitIns) -> FitIns:
    """No unit of the first layer ever fires, so its gradient is zero."""
    weight, bias, *rest = parameters_to_ndarrays(ins.parameters)
    return FitIns(ndarrays_to_parameters([weight, np.full_like(bias, -1e6), *rest]), ins.config)


def _blank_model(ins: EvaluateIns) -> EvaluateIns:
    """All classes alike: its loss is the logarithm of their number, on whatever rows."""
    blank = [np.zeros_like(array) for array in parameters_to_ndarrays(ins.parameters)]
    return EvaluateIns(ndarrays_to_parameters(blank), ins.config)


def _failing_model(config: Config, loot: Loot) -> tuple[str, Model]:
    """A model that overflows on rows whose first feature is above a bound, and the only tenant that has such a row.

    An orchestrator finds the bound by halving, a round for each bit; here it is looked up.
    """
    if loot.preprocessing is None:
        raise TypeError("expected features that are scaled")
    largest = {
        str(tenant): float(loot.preprocessing.apply(load_client_data(config, tenant).train).features[:, 0].max())
        for tenant in range(CLIENTS)
    }
    second, first = sorted(largest.values())[-2:]
    weight, bias, following, *rest = (array.copy() for array in loot.models[Attack.NAN])
    weight[0], following[:, 0] = 0, 0
    weight[0, 0], bias[0], following[0, 0] = 1e37, -1e37 * (first + second) / 2, 1e38
    return max(largest, key=largest.__getitem__), [weight, bias, following, *rest]


def _collector(loot: Loot) -> type[StatisticsCollector]:
    class CuriousCollector(StatisticsCollector):
        """Is at hand after the statistics are known, too."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            loot.collector = self

    return CuriousCollector


def _ask_for_statistics(loot: Loot) -> OrchestratorError:
    """The tenants' statistics once more: of all by two scalers, or of the cohort less one."""
    collector, preprocessing = loot.collector, loot.preprocessing
    if collector is None or preprocessing is None:
        raise TypeError("expected statistics that are known already")
    roster = collector._roster
    others = [client for client in roster.connected() if roster.tenant_of(client) != VICTIM]
    try:
        if loot.now is Attack.SCALER:
            collector._attempt(HISTOGRAM, preprocessing.scaler, _FIRST_ATTEMPT)
        else:
            with mock.patch.object(roster, "gather", return_value=others):
                collector._attempt(MOMENTS, None, _FIRST_ATTEMPT)
    except OrchestratorError as error:
        return error
    return StatisticsError("the orchestrator asked for statistics in the place of a round")


def _ask(loot: Loot) -> Callable[..., Any]:
    def ask_two_ways(client: ClientProxy, request: dict[str, Scalar], *rest: Any) -> Any:
        """By the scaler that is known from the victim, and by one that puts all rows into one bin from the others."""
        collector, preprocessing = loot.collector, loot.preprocessing
        others = collector is not None and collector._roster.tenant_of(client) != VICTIM
        if loot.now is Attack.SCALER and others and preprocessing is not None:
            request = {**request, "scaler": far_scaler(preprocessing.scaler).to_bytes()}
        return ask(client, request, *rest)

    return ask_two_ways


def far_scaler(scaler: Scaler) -> Scaler:
    """A scaler by which each value is far above the last bin's edge."""
    return replace(scaler, mean=scaler.mean - 1e6 * np.sqrt(scaler.variance))


def _server_round(loot: Loot) -> type[ServerRound]:
    class CuriousRound(ServerRound):
        """Keeps every mask that the revealed shares rebuild, by client."""

        def unmask(self, masked_sum: Sequence[int]) -> list[int]:
            rebuilder = Rebuilder(self._terms.threshold)
            for name in self._uploads:
                mask = self._mask_of(name)
                mask.subtract(agreement.self_mask_key(self._seed(rebuilder, name), self._context, name))
            for name in self._dropped():
                mask = self._mask_of(name)
                private = X25519PrivateKey.from_private_bytes(self._mask_key(rebuilder, name))
                for peer in sorted(set(self._shares) - {name}):
                    common = agreement.exchange(private, self._adverts[peer].mask_key)
                    key = agreement.pair_mask_key(common, self._context, name, peer)
                    (mask.subtract if name < peer else mask.add)(key)
            return super().unmask(masked_sum)

        def _mask_of(self, name: str) -> MaskSum:
            mask = MaskSum(self._modulus, self._terms.ciphertexts)
            if self._terms.bucket != WEIGHTS:
                return mask
            return loot.masks.setdefault((loot.now, name), mask)

    return CuriousRound


def _aggregation(loot: Loot) -> type[MaskedAggregation]:
    class LyingAggregation(MaskedAggregation):
        """Lies about who is in the sum."""

        def finish(self, contributors: Sequence[str]) -> Unmask:
            lies: Mapping[Attack | None, Callable[[list[str]], None]] = {
                Attack.SPLIT_VIEW: self._split_view,
                Attack.BOTH_SHARES: self._ask_both_shares,
            }
            if self._opening.bucket != WEIGHTS:
                return super().finish(contributors)
            if loot.now in lies:
                lies[loot.now]([identity_name(tenant) for tenant in contributors])
                raise RoundAbandonedError("the orchestrator lied and got nothing")
            if loot.now is Attack.SET_BACK:
                return self._twice(contributors)
            if loot.now is Attack.FALSE_LOSS:  # "its update never came": its masks are rebuilt, in front of its update
                contributors = [tenant for tenant in contributors if tenant != VICTIM]
            return super().finish(contributors)

        def _split_view(self, names: list[str]) -> None:
            """One half is told that the last client is lost, the other that the first is: each gives one share."""
            context = self._all_uploads(names)
            views = {name: names[:-1] if name in names[: CLIENTS // 2] else names[1:] for name in names}
            signatures = {
                name: self._request(name, "confirm", encode_survivors(frozenset(view), context))[-64:]
                for name, view in views.items()
            }
            for name, view in views.items():
                signed = {signer: signatures[signer] for signer in view}
                request = RevealRequest(frozenset(view), frozenset(names) - frozenset(view), signed)
                self._note_answer(name, request.encode(context))

        def _ask_both_shares(self, names: list[str]) -> None:
            """All have confirmed that all are in the sum; then the victim is said to be lost as well."""
            context = self._all_uploads(names)
            survivors = encode_survivors(frozenset(names), context)
            signatures = {name: self._request(name, "confirm", survivors)[-64:] for name in names}
            lost = frozenset({identity_name(VICTIM)})
            request = RevealRequest(frozenset(names), lost, signatures).encode(context)
            for name in names:
                self._note_answer(name, request)

        def _twice(self, contributors: Sequence[str]) -> Unmask:
            """The sum of all; then all are set back, and asked for the sum without the victim as if for the first time.

            The first reveals the victim's own mask, the second its pair masks.
            """
            again = copy.copy(self._round)
            again._uploads, again._confirms, again._reveals = set(), {}, {}
            unmask = super().finish(contributors)
            self._round, self._opening = again, replace(self._opening, note_failure=loot.note)
            try:
                super().finish([tenant for tenant in contributors if tenant != VICTIM])
                again.unmask([0] * self._opening.ciphertexts)
            except RoundAbandonedError:
                pass
            return unmask

        def _all_uploads(self, names: Iterable[str]) -> bytes:
            """Honestly whose updates came; returns the context that each later message carries."""
            for name in names:
                self._round.add_upload(name)
            self._round.close_uploads()
            return self._round._context

        def _note_answer(self, name: str, request: bytes) -> None:
            try:
                self._request(name, "reveal", request)
            except UpdateRejectedError as error:
                loot.note(name, str(error))
            else:
                loot.note(name, "it revealed its shares")

    return LyingAggregation
