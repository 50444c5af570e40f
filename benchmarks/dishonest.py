"""An orchestrator whose owner changed its code: the altered parts of the server, and what it keeps against the rules.

It attacks one tenant, one attack in each round of a run. `benchmarks/peek.py` says what came of each.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from orchestrator.aggregator import Aggregator, RoundSum
from orchestrator.coordinator import Coordinator
from orchestrator.masked_sum import MaskedSum, explained
from orchestrator.run_folder import RoundRecord
from orchestrator.scaling import PrivateScaling
from shared.config import Config
from shared.data_sources.scaling import Scaler
from shared.data_utils import load_client_data
from shared.errors import OrchestratorError, StatisticsError
from shared.exchange import Exchange, Kind, Lost, Model, Outcome, Refusal, Reply, Request, Steps
from shared.feature_statistics import HISTOGRAM, MOMENTS
from shared.he.paillier import PaillierPrivate
from shared.he.scheme import PrivateScheme, Unmask, Vector
from shared.he_utils import make_keys
from shared.identity import identity_name
from shared.masking import WEIGHTS, ServerRound, agreement
from shared.masking.errors import RoundAbandonedError
from shared.masking.messages import RevealRequest, encode_survivors
from shared.masking.shamir import Rebuilder
from shared.masking.stream import MaskSum
from shared.model import set_parameters
from shared.preprocessing import Preprocessing
from shared.wire import load_update

CLIENTS = 4  # of which a sum needs 3
VICTIM = "3"
REVEALED = "it revealed its shares"
_FIRST_ATTEMPT = 2  # at statistics that were honestly added up in attempt 1

Lie = Callable[[Request], Request]


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
        scaling: asks for statistics.
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
    scaling: PrivateScaling | None = None
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
        ("orchestrator.run.make_keys", loot.steal_keys),
        ("orchestrator.run.Aggregator", _aggregator(loot)),
        ("orchestrator.run.Coordinator", _coordinator(loot)),
        ("orchestrator.run.MaskedSum", _masked_sum(loot)),
        ("orchestrator.run.PrivateScaling", _scaling(loot)),
        ("orchestrator.masked_sum.ServerRound", _server_round(loot)),
        ("orchestrator.admission.RoundAdmission.check", lambda *_: None),  # who is lied to signs for what it was given
        ("orchestrator.coordinator.ROUNDS_WITHOUT_SUM", len(Attack) + 1),  # its lies cost it rounds; it goes on
    ]


def _aggregator(loot: Loot) -> type[Aggregator]:
    class CuriousSum(RoundSum):
        """Decrypts each vector beside the sum."""

        bucket = WEIGHTS

        def add(self, tenant: str, payload: bytes, signature: object = None) -> None:
            super().add(tenant, payload, signature)
            (keys,) = loot.keys
            ciphertexts = keys.public.from_bytes(*load_update(payload, self.header, self.layout))
            loot.sent[loot.now, self.bucket, tenant] = keys.decrypt_plaintexts(ciphertexts)

        def decrypt_sum(self, unmask: Unmask | None = None) -> Vector:
            total = super().decrypt_sum(unmask)
            loot.sums[loot.now, self.bucket] = total
            return total

    class CuriousAggregator(Aggregator):
        def open_round(self, round_number: int, size: int, task_sha256: str = "", bucket: str = WEIGHTS) -> RoundSum:
            opened = CuriousSum(self._keys, self, round_number, size, task_sha256, bucket)
            opened.bucket = bucket
            return opened

    return CuriousAggregator


def _coordinator(loot: Loot) -> type[Coordinator]:
    class LyingCoordinator(Coordinator):
        """Tells some tenants what it does not tell the others."""

        def train(self, number: int) -> Steps[None]:
            loot.now = attack = loot.plan[number - 1]
            loot.preprocessing = self.model.preprocessing
            loot.models[attack] = honest = self.model.parameters
            if attack in (Attack.STATISTICS, Attack.SCALER):
                self.record = RoundRecord(round=number)
                self._skip((yield from self._ask_for_statistics()), failures=0)
                return
            if attack is Attack.NAN:
                loot.fails, model = _failing_model(self._config, loot)
                set_parameters(self.model._model, model)
            lies: dict[Attack, Lie] = {Attack.SETTINGS: _other_settings, Attack.MODEL: _other_model}
            yield from _told_others(super().train(number), Kind.TRAIN, lies.get(attack), self._hear)
            if attack is Attack.NAN:
                set_parameters(self.model._model, honest)  # the tenants go on from the model that they know

        def evaluate(self, number: int) -> Steps[None]:
            if loot.now is Attack.EVALUATION:
                loot.models[Attack.EVALUATION] = self.model.parameters
                yield from _told_others(super().evaluate(number), Kind.EVALUATE, _blank_model, self._hear)

        def _ask_for_statistics(self) -> Steps[OrchestratorError]:
            """The tenants' statistics once more: of all by two scalers, or of the cohort less one."""
            scaling, preprocessing = loot.scaling, loot.preprocessing
            if scaling is None or preprocessing is None:
                raise TypeError("expected statistics that are known already")
            others = [tenant for tenant in self._seats.tenants() if tenant != VICTIM]
            try:
                if loot.now is Attack.SCALER:
                    scaler = z_scores(preprocessing)
                    steps = scaling.attempt(HISTOGRAM, scaler, _FIRST_ATTEMPT)
                    yield from _told_others(steps, Kind.STATISTICS, _other_scaler(scaler), self._hear)
                else:
                    with mock.patch.object(self._seats, "gather", return_value=others):
                        yield from scaling.attempt(MOMENTS, None, _FIRST_ATTEMPT)
            except OrchestratorError as error:
                return error
            return StatisticsError("the orchestrator asked for statistics in the place of a round")

        def _hear(self, tenant: str, outcome: Outcome) -> None:
            """All that can be told from outside of an answer."""
            if loot.now is Attack.EVALUATION and isinstance(outcome, Reply):
                loot.losses[tenant] = float(outcome.values.get("loss", 0.0))
            if loot.now is Attack.NAN:
                answered = isinstance(outcome, Reply)
                loot.note(tenant, "answered" if answered else "refused")
                loot.seen[tenant] = (
                    (len(outcome.payload), sorted(outcome.values)) if isinstance(outcome, Reply) else (outcome.reason,)
                )

        def _choose(self, fraction: float, at_least: int, number: int, bucket: str) -> list[str]:
            chosen = super()._choose(fraction, at_least, number, bucket)
            return [tenant for tenant in chosen if loot.now is not Attack.SESSION or tenant != VICTIM]

        def _note_silence(self, tenant: str, reason: str) -> None:
            loot.note(tenant, reason)

    return LyingCoordinator


def _told_others(steps: Steps[Any], kind: Kind, lie: Lie | None, hear: Callable[[str, Outcome], None]) -> Steps[None]:
    """The same exchanges, but the victim's peers are lied to, and all answers are overheard."""
    for exchange in steps:
        if exchange.kind is kind:
            requests = {
                tenant: lie(request) if lie and tenant != VICTIM else request
                for tenant, request in exchange.requests.items()
            }
            exchange = replace(exchange, requests=requests, on_reply=_overheard(exchange, hear))
        yield exchange


def _overheard(exchange: Exchange, hear: Callable[[str, Outcome], None]) -> Callable[[str, Outcome], None]:
    def on_reply(tenant: str, outcome: Outcome) -> None:
        hear(tenant, outcome)
        exchange.on_reply(tenant, outcome)

    return on_reply


def _other_settings(request: Request) -> Request:
    """Train, and move by nothing."""
    return replace(request, values={**request.values, "learning_rate": 1e-300})


def _other_model(request: Request) -> Request:
    """No unit of the first layer ever fires, so its gradient is zero."""
    weight, bias, *rest = request.model
    return replace(request, model=[weight, np.full_like(bias, -1e6), *rest])


def _blank_model(request: Request) -> Request:
    """All classes alike: its loss is the logarithm of their number, on whatever rows."""
    return replace(request, model=[np.zeros_like(array) for array in request.model])


def _other_scaler(scaler: Scaler) -> Lie:
    """One that puts all rows into one bin."""
    return lambda request: replace(request, values={**request.values, "scaler": far_scaler(scaler).to_bytes()})


def z_scores(preprocessing: Preprocessing) -> Scaler:
    """The scaler of a run with `scaling: zscore`."""
    if not isinstance(preprocessing.scaler, Scaler):
        raise TypeError("expected scaling: zscore")
    return preprocessing.scaler


def far_scaler(scaler: Scaler) -> Scaler:
    """A scaler by which each value is far above the last bin's edge."""
    return replace(scaler, mean=scaler.mean - 1e6 * np.sqrt(scaler.variance))


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


def _scaling(loot: Loot) -> type[PrivateScaling]:
    class CuriousScaling(PrivateScaling):
        """Is at hand after the statistics are known, too."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            loot.scaling = self

        def note_failure(self, tenant: str, reason: str) -> None:
            loot.note(tenant, reason)

    return CuriousScaling


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


def _masked_sum(loot: Loot) -> type[MaskedSum]:
    class LyingSum(MaskedSum):
        """Lies about who is in the sum."""

        def close(self, contributors: Sequence[str]) -> Steps[Unmask | None]:
            names = [identity_name(tenant) for tenant in contributors]
            if self._opening.bucket != WEIGHTS:
                return (yield from super().close(contributors))
            if loot.now is Attack.SPLIT_VIEW:
                yield from self._split_view(names)
                raise RoundAbandonedError("the orchestrator lied and got nothing")
            if loot.now is Attack.BOTH_SHARES:
                yield from self._ask_both_shares(names)
                raise RoundAbandonedError("the orchestrator lied and got nothing")
            if loot.now is Attack.SET_BACK:
                return (yield from self._twice(contributors))
            if loot.now is Attack.FALSE_LOSS:  # "its update never came": its masks are rebuilt, in front of its update
                contributors = [tenant for tenant in contributors if tenant != VICTIM]
            return (yield from super().close(contributors))

        def _split_view(self, names: list[str]) -> Steps[None]:
            """One half is told that the last client is lost, the other that the first is: each gives one share."""
            context = self._all_uploads(names)
            views = {name: names[:-1] if name in names[: CLIENTS // 2] else names[1:] for name in names}
            told = {name: encode_survivors(frozenset(view), context) for name, view in views.items()}
            signatures = yield from self._put(Kind.CONFIRM, told)
            requests = {
                name: RevealRequest(
                    frozenset(view), frozenset(names) - frozenset(view), {peer: signatures[peer][-64:] for peer in view}
                ).encode(context)
                for name, view in views.items()
            }
            yield from self._put(Kind.REVEAL, requests)

        def _ask_both_shares(self, names: list[str]) -> Steps[None]:
            """All have confirmed that all are in the sum; then the victim is said to be lost as well."""
            context = self._all_uploads(names)
            survivors = dict.fromkeys(names, encode_survivors(frozenset(names), context))
            confirms = yield from self._put(Kind.CONFIRM, survivors)
            signatures = {name: message[-64:] for name, message in confirms.items()}
            request = RevealRequest(frozenset(names), frozenset({identity_name(VICTIM)}), signatures).encode(context)
            yield from self._put(Kind.REVEAL, dict.fromkeys(names, request))

        def _twice(self, contributors: Sequence[str]) -> Steps[Unmask | None]:
            """The sum of all; then all are set back, and asked for the sum without the victim as if for the first time.

            The first reveals the victim's own mask, the second its pair masks.
            """
            again = copy.copy(self._round)
            again._uploads, again._confirms, again._reveals = set(), {}, {}
            unmask = yield from super().close(contributors)
            self._round, self._opening = again, replace(self._opening, note_failure=loot.note)
            try:
                yield from super().close([tenant for tenant in contributors if tenant != VICTIM])
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

        def _put(self, kind: Kind, payloads: dict[str, bytes]) -> Steps[dict[str, bytes]]:
            """One stage, a message for each name of its own; who reveals its shares has broken a rule."""
            answers: dict[str, bytes] = {}

            def on_reply(tenant: str, outcome: Outcome) -> None:
                if isinstance(outcome, Refusal | Lost):
                    loot.note(tenant, explained(outcome))
                    return
                answers[identity_name(tenant)] = outcome.payload
                if kind is Kind.REVEAL:
                    loot.note(tenant, REVEALED)

            requests = {self._tenants[name]: Request(kind, {"payload": message}) for name, message in payloads.items()}
            yield Exchange(kind, requests, self._config.stage_timeout, "stage_timeout", on_reply)
            return answers

    return LyingSum
