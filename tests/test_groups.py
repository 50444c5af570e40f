"""Rounds of several sums, over groups that all tenants draw: the draw, the rules over sums, and who spoils them."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from client import learning
from client.tenant import Tenant
from orchestrator.aggregator import RoundSum
from orchestrator.cornering import CHANCE, left_out
from orchestrator.grouped_round import combine
from orchestrator.run_folder import RoundRecord
from shared.config import Config, load_config
from shared.errors import OrchestratorError, RoundRefusedError
from shared.exchange import Exchange, Kind, Refusal, Reply, Request, drive, together
from shared.groups import Draw, Toss, decode_draws, encode_draws, partition
from shared.masking import WEIGHTS
from shared.masking.codec import Kind as MessageKind
from shared.masking.codec import encode_entries, header
from shared.masking.stream import MaskSum
from shared.wire import load_update
from tests.federations import make_tenants, masked_settings, open_in_memory
from tests.processes import ROOT

SESSION = bytes(range(16))
KEYS = {f"client-{number}": Ed25519PrivateKey.generate() for number in range(12)}
PUBLIC = {name: key.public_key() for name, key in KEYS.items()}


def drawn(names: list[str], groups: int, number: int = 0) -> Draw:
    """As honest tenants draw."""
    toss = Toss(SESSION, number, groups)
    tossed = {name: secrets.token_bytes(32) for name in names}
    commitments = {name: toss.commitment(name, secret) for name, secret in tossed.items()}
    return Draw(
        toss, {name: (secret, toss.sign(name, commitments, secret, KEYS[name])) for name, secret in tossed.items()}
    )


class TestDraw:
    def test_it_travels_and_can_be_checked_by_who_was_away(self) -> None:
        draws = [drawn(list(KEYS), 3), drawn(list(KEYS), 3, 2)]
        assert decode_draws(encode_draws(draws)) == draws
        for draw in draws:
            draw.check(PUBLIC)

    @pytest.mark.parametrize("part", ["secret", "signature", "one left out", "another number", "a stranger"])
    def test_nothing_in_it_can_be_altered(self, part: str) -> None:
        draw = drawn(list(KEYS), 3)
        revealed = dict(draw.revealed)
        secret, signature = revealed["client-4"]
        if part == "secret":
            revealed["client-4"] = (bytes(32), signature)
        elif part == "signature":
            revealed["client-4"] = (secret, revealed["client-5"][1])
        elif part == "one left out":
            del revealed["client-4"]
        elif part == "a stranger":
            revealed["client-99"] = (secret, signature)
        toss = replace(draw.toss, number=1) if part == "another number" else draw.toss
        with pytest.raises(OrchestratorError):
            Draw(toss, revealed).check(PUBLIC)

    def test_one_toss_moves_everybody(self) -> None:
        """So one honest tenant makes it random: a twin whose groups follow from the names alone does not."""
        found = {partition([drawn(list(KEYS), 3)], 3).groups for _ in range(8)}
        assert len(found) > 1

    @given(st.integers(6, 12), st.integers(2, 4), st.integers(3, 4))
    def test_groups_are_even_and_large_enough(self, tenants: int, groups: int, fewest: int) -> None:
        names = list(KEYS)[:tenants]
        if tenants < groups * fewest:
            with pytest.raises(RoundRefusedError, match="expected"):
                partition([drawn(names, groups)], fewest)
            return
        found = partition([drawn(names, groups)], fewest)
        sizes = [len(group) for group in found.groups]
        assert sorted(name for group in found.groups for name in group) == sorted(names)
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= fewest

    def test_who_changes_its_group_is_hidden_in_the_difference(self) -> None:
        """Of two groups that follow each other no one or two tenants may differ; without the rule they do."""
        free = 0
        for _ in range(20):
            draws = [drawn(list(KEYS), 3), drawn(list(KEYS), 3, 1)]
            before, after = partition(draws[:1], 3), partition(draws, 3)
            for old in before.groups:
                for new in after.groups:
                    assert not old & new or not old - new or len(old ^ new) >= 3
            unbound = partition(draws[1:], 3)
            free += any(0 < len(old ^ new) < 3 for old in before.groups for new in unbound.groups)
        assert free, "what the rule is for"

    def test_who_comes_later_has_a_place_too(self) -> None:
        found = partition([drawn(list(KEYS)[:9], 3)], 3)
        assert found.group_of("client-11") in range(3)


def settings(folder: Path, clients: int = 9, **more: Any) -> Config:
    return masked_settings(
        folder, clients, **{
            "groups": 3, "num_rounds": 2, "num_features": 6, "num_hidden_units": 3, "num_samples_per_client": 120,
            "min_available_clients": clients, "min_fit_clients": 3, "min_evaluate_clients": 3, "local_epochs": 1,
            "fraction_evaluate": 0.0, "data_skewness": 0.2, "gate_loss": 0.3, **more,
        },
    )  # fmt: skip


def poison(monkeypatch: pytest.MonkeyPatch, tenant: Tenant, turn: Callable[[Any], Any]) -> None:
    """Have a tenant send something else than what it learned."""
    made = tenant._learning
    contribution = made.contribution

    def turned(*arguments: Any) -> learning.Contribution:
        mine = contribution(*arguments)

        def compute(on_epoch: Any) -> Any:
            return turn(mine.compute(on_epoch))

        return learning.Contribution(mine.title, mine.epochs, mine.bucket, mine.nothing, compute, mine.work)

    monkeypatch.setattr(made, "contribution", turned)


def away(vector: Any) -> Any:
    """The worst that is within the fixed point."""
    return -np.sign(vector) * 1.9


class TestRounds:
    def test_the_mean_over_groups_is_that_of_one_sum(self, tmp_path: Path) -> None:
        """Even groups, no rule at work: the same model but for the order of rounding."""
        models = []
        for groups in (1, 3):
            config = settings(tmp_path / str(groups), groups=groups)
            run = open_in_memory(config, make_tenants(config))
            run.coordinator.run()
            models.append(np.concatenate([array.ravel() for array in run.coordinator.model.parameters]))
            assert [record.contributors for record in run.coordinator.records] == [9, 9]
        assert np.allclose(models[0], models[1], atol=1e-6)

    def test_a_bad_tenant_spoils_its_group_and_is_cornered(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = settings(tmp_path, num_rounds=7)
        tenants = make_tenants(config)
        poison(monkeypatch, tenants["4"], away)
        run = open_in_memory(config, tenants)
        run.coordinator.run()
        records = run.coordinator.records
        assert all(record.skipped is None for record in records)
        assert all("4" not in record.contributor_ids for record in records)
        named = [record.left_out for record in records]
        assert named[0] == []
        assert named[-1] == ["4"], "it was in a bad group of each draw, which chance does not explain"
        assert len({record.draw for record in records}) > 3
        assert records[-1].contributors == 8

    def test_a_group_that_lowers_the_loss_less_than_the_others_is_a_bad_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the model still learns, a group that holds it back is no worse than the model before."""
        config = settings(tmp_path, num_rounds=1, gate_loss=0.05, local_epochs=3, learning_rate=0.2, data_skewness=0.1)
        tenants = make_tenants(config)
        poison(monkeypatch, tenants["4"], lambda vector: -2 * vector)
        run = open_in_memory(config, tenants)
        run.coordinator.run()
        (record,) = run.coordinator.records
        assert [record.groups[number].count("4") for number in record.bad_groups] == [1]
        assert record.contributors == 6

    def test_a_vector_out_of_range_voids_its_group_alone_and_its_sender_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One number that no honest tenant encodes: without groups each round is void, and nobody is named."""
        for groups, skipped in ((1, True), (3, False)):
            config = settings(tmp_path / str(groups), groups=groups, num_rounds=6 if groups > 1 else 2)
            tenants = make_tenants(config)
            lie_beyond_the_range(monkeypatch, tenants["2"])
            run = open_in_memory(config, tenants)
            run.coordinator.run()
            records = run.coordinator.records
            assert [record.skipped is not None for record in records] == [skipped] * len(records)
            assert records[-1].left_out == ([] if groups == 1 else ["2"])

    @pytest.mark.parametrize("masked", [True, False], ids=["masks", "the twin whose masks are nothing"])
    def test_the_private_key_opens_no_update_and_the_sum_of_no_group_over_fewer_than_three(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked: bool
    ) -> None:
        """The orchestrator decrypts each vector as it comes, as `benchmarks/peek.py` does without groups."""
        config = settings(tmp_path, num_rounds=1)
        seen: dict[str, Any] = {}
        true: dict[str, Any] = {}
        if not masked:
            monkeypatch.setattr(MaskSum, "_stream", lambda mask, _key: np.zeros_like(mask._limbs))
        add, tenants = RoundSum.add, make_tenants(config)
        for name, tenant in tenants.items():
            poison(monkeypatch, tenant, partial(true.setdefault, name))

        def peek(vectors: RoundSum, tenant: str, payload: bytes, signature: object = None) -> None:
            add(vectors, tenant, payload, signature)
            keys: Any = vectors._keys
            alone = keys.decrypt_plaintexts(
                keys.public.from_bytes(*load_update(payload, vectors.header, vectors.layout))
            )
            layout = keys.public.encoding
            slots = [
                (int(m) >> k * layout.slot_bits) % (1 << layout.slot_bits) - (1 << layout.fixed_point.value_bits)
                for m in alone
                for k in range(layout.slots_per_plaintext)
            ]
            seen[tenant] = layout.fixed_point.decode(np.array(slots, dtype=np.int64))  # the last one is the update

        monkeypatch.setattr(RoundSum, "add", peek)
        run = open_in_memory(config, tenants)
        run.coordinator.run()
        (record,) = run.coordinator.records
        assert set(seen) == set(tenants)
        assert min(map(len, record.groups)) >= 3
        off = [np.abs(seen[name][: true[name].size] - true[name]).max() for name in tenants]
        assert (min(off) > 0.5) if masked else (max(off) < 1e-4)

    def test_after_a_restart_what_was_found_out_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = settings(tmp_path, num_rounds=6)
        tenants = make_tenants(config)
        poison(monkeypatch, tenants["4"], away)
        first = open_in_memory(config.replace(num_rounds=5), tenants)
        first.coordinator.run()
        first.close()
        second = open_in_memory(config, tenants, resume="latest")
        second.coordinator.run()
        assert second.coordinator.records[-1].left_out == ["4"]
        assert second.coordinator.records[-1].draw not in {record.draw for record in first.coordinator.records}

    def test_without_masks_the_groups_follow_from_the_seed(self, tmp_path: Path) -> None:
        draws = []
        for name in "ab":
            config = Config().replace(
                log_dir=str(tmp_path / name), he_scheme="none", num_clients=6, min_available_clients=6, groups=3,
                num_rounds=1, num_samples_per_client=60, gate_loss=0.5, fraction_evaluate=0.0,
            )  # fmt: skip
            run = open_in_memory(config, make_tenants(config))
            run.coordinator.run()
            draws.append(run.coordinator.records[0].groups)
        assert draws[0] == draws[1]

    def test_a_tenant_that_is_lost_before_its_reveal_makes_the_others_draw_again(self, tmp_path: Path) -> None:
        config = settings(tmp_path, clients=10, num_rounds=1)
        tenants = make_tenants(config)

        def lost(node: str, request: Request) -> bool:
            return node == "7" and request.kind is Kind.DRAW

        run = open_in_memory(config, tenants, lost=lost)
        run.coordinator.run()
        (record,) = run.coordinator.records
        assert record.skipped is None
        assert "7" in record.failed or record.contributors == 10


def lie_beyond_the_range(monkeypatch: pytest.MonkeyPatch, tenant: Tenant) -> None:
    """Encrypt numbers that fill whole slots."""
    encrypt = tenant._part.encrypt

    def lying(scheme: Any, *arguments: Any) -> Any:
        if arguments[-2].bucket != WEIGHTS:
            return encrypt(scheme, *arguments)

        class Lying(type(scheme)):  # type: ignore[misc]
            def encrypt_masked(self, vector: Any, mask: Any, *rest: Any) -> Any:
                return scheme.encrypt_masked(vector, lambda plain: mask([self.modulus // 3 for _ in plain]), *rest)

        wrapped = Lying.__new__(Lying)
        wrapped.__dict__.update(scheme.__dict__)
        return encrypt(wrapped, *arguments)

    monkeypatch.setattr(tenant._part, "encrypt", lying)


class TestAttacks:
    """A server that wants a group of its own choice."""

    def attack(self, tmp_path: Path, alter: Callable[[Exchange], None], **more: Any) -> tuple[Any, dict[str, Tenant]]:
        config = settings(tmp_path, num_rounds=1, **more)
        tenants = make_tenants(config)
        run = open_in_memory(config, tenants)
        ask = run.transport.ask

        def altered(exchange: Exchange) -> None:
            alter(exchange)
            ask(exchange)

        run.transport.ask = altered  # type: ignore[method-assign]
        run.coordinator.run()
        return run, tenants

    def test_it_adds_tosses_of_its_own(self, tmp_path: Path) -> None:
        """Secrets that it chose after it saw the others', under tenants' names: nobody's signature is on them."""

        def alter(exchange: Exchange) -> None:
            for tenant, request in exchange.requests.items():
                if request.kind is Kind.ADVERTISE and "draws" in request.values:
                    (draw,) = decode_draws(request.values["draws"])  # type: ignore[arg-type]
                    secret, signature = draw.revealed["client-0"]
                    forged = Draw(draw.toss, {**draw.revealed, "client-0": (secret[::-1], signature)})
                    values = {**request.values, "draws": encode_draws([forged])}
                    exchange.requests[tenant] = replace(request, values=values)  # type: ignore[index]

        run, _ = self.attack(tmp_path, alter)
        (record,) = run.coordinator.records
        assert record.skipped
        assert all("masking: bad signature" in why for why in record.failed.values())

    def test_it_shows_no_draw(self, tmp_path: Path) -> None:
        def alter(exchange: Exchange) -> None:
            for tenant, request in exchange.requests.items():
                if request.kind is Kind.ADVERTISE:
                    values = {key: value for key, value in request.values.items() if key != "draws"}
                    exchange.requests[tenant] = replace(request, values=values)  # type: ignore[index]

        run, _ = self.attack(tmp_path, alter)
        assert run.coordinator.records[0].skipped
        assert len(run.coordinator.records[0].failed) == 9

    def test_it_tosses_twice_for_one_draw(self, tmp_path: Path) -> None:
        """Until the groups please it: each tenant remembers, on its disk, for which draws it has tossed."""
        run, tenants = self.attack(tmp_path, lambda _exchange: None)
        session = bytes.fromhex(run.transport.seats.session)
        answers = toss_again(tenants, Toss(session, 0, 3))
        assert all(isinstance(answer, Refusal) and "masking: repeated stage" in answer.reason for answer in answers)
        later = toss_again(tenants, Toss(session, 4, 3))
        assert all(isinstance(answer, Reply) for answer in later), "a new number is a new draw"
        beyond = Request(Kind.TOSS, {"payload": Toss(session, 9, 3).encode()})
        assert all(isinstance(tenant.answer(beyond), Refusal) for tenant in tenants.values())

    def test_it_mixes_the_groups(self, tmp_path: Path) -> None:
        """It seats a tenant among others than it drew: each looks up where its peers belong."""
        config = settings(tmp_path, num_rounds=1)
        tenants = make_tenants(config)
        run = open_in_memory(config, tenants)
        groups = run.coordinator._groups
        assert groups is not None
        drawing = groups._drawing
        steps = drawing.steps

        def mixed(*arguments: Any) -> Any:
            yield from steps(*arguments)
            honest = drawing.partition
            assert honest is not None
            first, second, *rest = (sorted(group) for group in honest.groups)
            swapped = (frozenset([*first[:-1], second[0]]), frozenset([*second[1:], first[-1]]), *map(frozenset, rest))
            drawing.partition = replace(honest, groups=swapped)

        drawing.steps = mixed  # type: ignore[method-assign, assignment]
        run.coordinator.run()
        (record,) = run.coordinator.records
        assert record.contributors == 3, "the group that was left as it was drawn"

    def test_it_asks_for_the_same_work_in_another_group(self, tmp_path: Path) -> None:
        """A round again, of the same model, after a new draw: the difference of the sums would show who moved."""
        config = settings(tmp_path, 15, num_rounds=2, gate_loss=0.3)  # of 9, the same groups come again now and then
        tenants = make_tenants(config)
        run = open_in_memory(config, tenants)
        coordinator = run.coordinator
        assert coordinator._groups is not None
        drawing = coordinator._groups._drawing
        train = coordinator.train
        start = coordinator.model.parameters

        def again(number: int) -> Any:
            if number == 2:
                coordinator.model.roll_back(start, {})
                drawing.partition = None  # so that it draws anew
            return train(number)

        coordinator.train = again  # type: ignore[method-assign]
        coordinator.run()
        first, second = coordinator.records
        assert first.draw != second.draw
        assert first.contributors == 15
        moved = [group for group in second.groups if group not in first.groups]
        assert moved
        assert second.contributors == 15 - sum(map(len, moved))
        assert any("masking: repeated work" in why for why in second.failed.values())


def toss_again(tenants: Mapping[str, Tenant], toss: Toss) -> list[Any]:
    """What each tenant answers to a second draw of this number."""
    asked = Request(Kind.TOSS, {"payload": toss.encode()})
    commitments = {f"client-{name}": tenant.answer(asked) for name, tenant in tenants.items()}
    entries = {name: reply.payload for name, reply in commitments.items() if isinstance(reply, Reply)}
    message = header(MessageKind.COMMITMENTS, toss.context()) + encode_entries(entries)
    return [tenant.answer(Request(Kind.DRAW, {"payload": message})) for tenant in tenants.values()]


def record(
    number: int, draw: str, groups: list[list[str]], bad: list[int], out: list[str] | None = None
) -> RoundRecord:
    return RoundRecord(round=number, draw=draw, groups=groups, bad_groups=bad, left_out=out or [])


FIRST = [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"]]
SECOND = [["0", "3", "6"], ["1", "4", "7"], ["2", "5", "8"]]
THIRD = [["0", "4", "8"], ["1", "5", "6"], ["2", "3", "7"]]
FOURTH = [["0", "5", "7"], ["1", "3", "8"], ["2", "4", "6"]]
FIFTH = [["4", "1", "8"], ["0", "3", "7"], ["2", "5", "6"]]


class TestCornering:
    def test_few_draws_name_nobody(self) -> None:
        """After three a third of nine honest tenants would be there by chance."""
        rounds = [record(1, "a", FIRST, [1]), record(2, "b", SECOND, [1]), record(3, "c", THIRD, [0])]
        assert left_out(rounds) == []

    def test_who_was_in_each_bad_group_is_named(self) -> None:
        rounds = [
            record(1, "a", FIRST, [1]), record(2, "b", SECOND, [1]), record(3, "c", THIRD, [0]),
            record(4, "d", FOURTH, [2]), record(5, "e", FIFTH, [0]),
        ]  # fmt: skip
        assert left_out(rounds) == ["4"]
        assert left_out([*rounds, record(6, "f", FIRST, [], ["4"])]) == ["4"], "and stays out"

    def test_bad_rounds_of_one_draw_count_once(self) -> None:
        assert left_out([record(number, "a", FIRST, [1]) for number in range(1, 9)]) == []

    def test_two_at_once_are_named_together(self) -> None:
        rounds = [
            record(number, str(number), [[str(n) for n in order[i : i + 3]] for i in range(0, 12, 3)], bad)
            for number, (order, bad) in enumerate(
                [
                    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [0, 1]), ([0, 3, 6, 1, 4, 7, 2, 5, 8, 9, 10, 11], [0, 1]),
                    ([0, 4, 9, 2, 6, 11, 1, 5, 10, 3, 7, 8], [0]), ([0, 4, 10, 1, 2, 3, 5, 6, 7, 8, 9, 11], [0]),
                    ([0, 4, 11, 1, 2, 3, 5, 6, 7, 8, 9, 10], [0]),
                ],
                start=1,
            )
        ]  # fmt: skip
        assert left_out(rounds) == ["0", "4"]


def test_rules_over_groups() -> None:
    means = [np.array([1.0, 0.0]), np.array([2.0, 1.0]), np.array([3.0, 2.0]), np.array([1000.0, -1000.0])]
    even = [3, 3, 3, 3]
    assert combine("median", means, even).tolist() == [2.5, 0.5]
    assert combine("trimmed_mean", means, even).tolist() == [2.5, 0.5]
    assert combine("validation", means[:3], even[:3]).tolist() == [2.0, 1.0]
    assert combine("validation", means[:2], [1, 3]).tolist() == [1.75, 0.75]
    assert combine("trimmed_mean", means[:2], even[:2]).tolist() == [1.5, 0.5]


def test_protocols_side_by_side_share_their_exchanges() -> None:
    """What each asks goes out together; one that fails ends alone, one that is shorter ends earlier."""
    log: list[tuple[Kind, list[str]]] = []

    def protocol(tenants: list[str], stages: list[Kind], fails: bool = False) -> Any:
        heard: list[str] = []
        for kind in stages:
            yield Exchange(kind, {t: Request(kind, {}) for t in tenants}, 1.0, "x", lambda t, _o: heard.append(t))
        if fails:
            raise RoundRefusedError("no")
        return heard

    def ask(exchange: Exchange) -> None:
        log.append((exchange.kind, sorted(exchange.requests)))
        for tenant in exchange.requests:
            exchange.on_reply(tenant, Reply(b""))

    ends = drive(
        together(
            {
                "a": protocol(["1", "2"], [Kind.ADVERTISE, Kind.SHARE]), "b": protocol(["3"], [Kind.ADVERTISE], True),
                "c": protocol(["4"], [Kind.ADVERTISE, Kind.SHARE, Kind.TRAIN]),
            },
            (RoundRefusedError,),
        ),
        ask,
    )  # fmt: skip
    assert log == [
        (Kind.ADVERTISE, ["1", "2", "3", "4"]), (Kind.SHARE, ["1", "2", "4"]), (Kind.TRAIN, ["4"]),
    ]  # fmt: skip
    assert (ends["a"], ends["c"]) == (["1", "2", "1", "2"], ["4", "4", "4"])
    assert isinstance(ends["b"], RoundRefusedError)


def test_the_robust_settings_can_name_one_bad_tenant() -> None:
    """With 3 new draws 12 tenants in 3 groups never came below the chance that is asked for."""
    config = load_config(ROOT / "config/robust.yaml")
    assert config.num_clients * (1 / config.groups) ** (config.regroupings + 1) < CHANCE
    assert (config.regroupings + 1) * (config.groups - 1) < config.num_clients, "docs/privacy.md#groups"
