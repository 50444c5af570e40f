"""Whole rounds: under any drop-outs and lies the sum is exact or the round ends without one; no third outcome."""

import itertools
import os
import random
import secrets
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from phe import paillier

from shared.errors import EncodingError, KeyMaterialError, RoundRefusedError, UpdateRejectedError
from shared.masking import EVALUATION, WEIGHTS, RoundMemory, ServerRound, minimum_threshold
from shared.masking.codec import Kind, parse_signed, sign
from shared.masking.errors import BrokenRuleError, RoundAbandonedError, Rule
from shared.masking.messages import RevealBody, ShareBody
from shared.masking.shamir import PRIME
from tests.breaking import breaks
from tests.masking_harness import (
    ENROLLED,
    IDENTITIES,
    MODULUS,
    NAMES,
    TASK,
    WORK,
    Simulation,
    make_client,
    make_terms,
)

SCHEDULES = int(os.environ.get("MASKING_SCHEDULES", "50"))
STAGES = ("advertise", "share", "mask", "confirm", "reveal")


class Schedule:
    """A random round of one bucket, and what must come of it by the thresholds alone."""

    def __init__(self, seed: int, bucket: str) -> None:
        draw = random.Random(seed if bucket == WEIGHTS else f"{seed} {bucket}")
        self.count = draw.randint(3, 12)
        least = minimum_threshold(self.count)
        self.terms = make_terms(
            draw.choice([least, least, draw.randint(least, self.count)]),
            n_min=draw.choice([3, 3, draw.randint(3, self.count)]),
            ciphertexts=draw.randint(1, 5),
            round_number=seed,
            bucket=bucket,
        )
        names = NAMES[: self.count]
        rate = draw.choice([0.0, 0.02, 0.04, 0.06, 0.15])
        self.losses = {
            (stage, name): draw.choice(["request", "response"])
            for stage in STAGES
            for name in names
            if draw.random() < rate
        }
        # Half of the schedules have liars or spoilt boxes too, in small numbers so that some rounds still succeed.
        self.liars = set(draw.sample(names, draw.choice([0, 0, 0, 1, 2])))
        self.spoilt = {
            (sender, receiver)
            for sender in names
            for receiver in names
            if sender != receiver and draw.random() < draw.choice([0.0, 0.0, 0.02])
        }

    def lost(self, stage: str, name: str) -> str:
        return self.losses.get((stage, name), "")

    def tamper(self) -> Mapping[str, Callable[[str, bytes], bytes]]:
        return {"share": self._spoil, "reveal": self._lie}

    def _spoil(self, sender: str, payload: bytes) -> bytes:
        message = parse_signed(payload, Kind.SHARES, self.terms.context())
        body = ShareBody.decode(message.body)
        boxes = {
            receiver: secrets.token_bytes(len(box)) if (sender, receiver) in self.spoilt else box
            for receiver, box in body.boxes.items()
        }
        body = ShareBody(body.commitment, boxes)
        return sign(Kind.SHARES, self.terms.context(), sender, body.encode(), IDENTITIES[sender])

    def _lie(self, sender: str, payload: bytes) -> bytes:
        if sender not in self.liars:
            return payload
        body = RevealBody.decode(parse_signed(payload, Kind.REVEAL, self.terms.context()).body)
        lies = RevealBody(
            {peer: secrets.randbelow(PRIME) for peer in body.seeds},
            {peer: secrets.randbelow(PRIME) for peer in body.keys},
        )
        return sign(Kind.REVEAL, self.terms.context(), sender, lies.encode(), IDENTITIES[sender])

    def should_succeed(self) -> bool:
        left = set(NAMES[: self.count])
        members = {}
        for stage in STAGES:
            left = {name for name in left if not self.lost(stage, name)}
            members[stage] = left
            if len(left) < (self.terms.required if stage in STAGES[:3] else self.terms.threshold):
                return False
        truthful = members["reveal"] - self.liars
        return all(
            len([holder for holder in truthful if (owner, holder) not in self.spoilt]) >= self.terms.threshold
            for owner in members["share"]
        )


@pytest.mark.parametrize("schedules", [SCHEDULES, pytest.param(150, marks=pytest.mark.long)])
def test_exact_sum_or_clean_abort(schedules: int) -> None:
    """Of each schedule the updates and then the evaluation, by clients that remember the one in the other."""
    tally: Counter[str] = Counter()
    by_count: dict[int, Counter[str]] = {}
    for seed, bucket in itertools.product(range(schedules), (WEIGHTS, EVALUATION)):
        if bucket == WEIGHTS:
            memories = {name: RoundMemory() for name in NAMES[:12]}
        schedule = Schedule(seed, bucket)
        simulation = Simulation(
            schedule.count, schedule.terms, lost=schedule.lost, tamper=schedule.tamper(), memories=memories,
            work=bucket.ljust(32).encode(),
        )  # fmt: skip
        try:
            result = simulation.run()
        except RoundAbandonedError as error:
            if schedule.should_succeed():
                pytest.fail(f"schedule {seed}, {bucket}, was abandoned: {error}")
            outcome = "corrupt shares" if "fits what it committed to" in str(error) else "too few"
        else:
            assert schedule.should_succeed(), f"schedule {seed}, {bucket}: a sum in spite of too few honest clients"
            assert result == simulation.expected(), f"schedule {seed}, {bucket}: a wrong sum"
            outcome = "dropped" if len(simulation.masked) < schedule.count else "complete"
        tally[outcome] += 1
        by_count.setdefault(schedule.count, Counter())[outcome] += 1
    print(f"\n{schedules} schedules of two rounds: {dict(tally)}")
    for count, outcomes in sorted(by_count.items()):  # docs/measured/reliability.md has a run
        print(f"N = {count:2}: {outcomes.total():4} rounds, " + str(dict(sorted(outcomes.items()))))
    if schedules >= 150:
        assert all(tally[outcome] > 0 for outcome in ("complete", "dropped", "too few"))
        assert set(by_count) == set(range(3, 13))


@pytest.mark.parametrize(("count", "tolerated"), [(3, 0), (4, 1), (10, 3), (12, 3)])
def test_drop_outs_tolerated(count: int, tolerated: int) -> None:
    for dropped in (tolerated, tolerated + 1):
        gone = set(NAMES[:dropped])
        simulation = Simulation(
            count,
            make_terms(minimum_threshold(count)),
            lost=lambda stage, name, gone=gone: "request" if stage == "mask" and name in gone else "",  # type: ignore[misc]
        )
        if dropped == tolerated:
            assert simulation.run() == simulation.expected()
        else:
            with pytest.raises(RoundAbandonedError):
                simulation.run()


def test_through_real_ciphertexts() -> None:
    public_key, private_key = paillier.generate_paillier_keypair(n_length=512)
    gone = NAMES[4]
    simulation = Simulation(
        7,
        make_terms(5, modulus=public_key.n),
        modulus=public_key.n,
        lost=lambda stage, name: "response" if stage == "mask" and name == gone else "",
    )
    simulation.reveal()
    products = [1] * simulation.terms.ciphertexts
    for masked in simulation.masked.values():
        ciphertexts = [public_key.raw_encrypt(value) for value in masked]
        products = [a * b % public_key.nsquare for a, b in zip(products, ciphertexts, strict=True)]
    decrypted = [private_key.raw_decrypt(product) for product in products]
    assert decrypted != simulation.expected()
    assert simulation.server.unmask(decrypted) == simulation.expected()


def test_masked_plaintexts_alone_tell_nothing_of_the_sum_while_masks_stay() -> None:
    simulation = Simulation(4, make_terms(3))
    simulation.mask()
    masked = [sum(column) % MODULUS for column in zip(*simulation.masked.values(), strict=True)]
    assert all(a != b for a, b in zip(masked, simulation.expected(), strict=True))


def test_abort_leaves_nothing_behind() -> None:
    simulation = Simulation(4, make_terms(3), lost=lambda stage, name: "request" if stage == "confirm" else "")
    with pytest.raises(RoundAbandonedError):
        simulation.confirm()
    for act in (simulation.server.close_confirms, lambda: simulation.server.unmask([0] * 4)):
        with breaks(Rule.OUT_OF_ORDER):
            act()


def test_a_dealer_who_lies_ends_the_round_with_a_typed_error() -> None:
    terms = make_terms(4)

    def bad_commitment(name: str, payload: bytes) -> bytes:
        if name != NAMES[2]:
            return payload
        body = ShareBody.decode(parse_signed(payload, Kind.SHARES, terms.context()).body)
        return sign(Kind.SHARES, terms.context(), name, ShareBody(bytes(32), body.boxes).encode(), IDENTITIES[name])

    with pytest.raises(RoundAbandonedError, match=f"{NAMES[2]}' fits what it committed to"):
        Simulation(5, terms, tamper={"share": bad_commitment}).run()


def test_server_rejects_adverts() -> None:
    terms = make_terms(3)
    server = ServerRound(terms, MODULUS, {name: ENROLLED[name] for name in NAMES[:4]})
    adverts = [make_client(name, terms).advertise(server.announcement()) for name in NAMES[:6]]
    assert server.add_advert(adverts[0]) == NAMES[0]
    with breaks(Rule.REPEATED_ADVERT):
        server.add_advert(adverts[0])
    with breaks(Rule.UNKNOWN_PEER):
        server.add_advert(adverts[5])
    other = make_terms(3, round_number=2)
    with breaks(Rule.REPLAYED_MESSAGE):
        server.add_advert(make_client(NAMES[1], other).advertise(other.encode()))
    with breaks(Rule.BAD_SIGNATURE):
        server.add_advert(adverts[1][:-1] + bytes([adverts[1][-1] ^ 1]))
    body = parse_signed(adverts[0], Kind.ADVERT, terms.context()).body
    with breaks(Rule.REPEATED_ADVERT):  # another client with the first one's keys
        server.add_advert(sign(Kind.ADVERT, terms.context(), NAMES[1], body, IDENTITIES[NAMES[1]]))
    for low_order in (bytes(32), b"\1" + bytes(31)):
        with breaks(Rule.WEAK_KEY):
            server.add_advert(
                sign(Kind.ADVERT, terms.context(), NAMES[1], body[:16] + b"x" * 16 + low_order, IDENTITIES[NAMES[1]])
            )
    with breaks(Rule.OUT_OF_ORDER):
        server.add_upload(NAMES[0])


def test_server_rejects_later_messages() -> None:
    terms = make_terms(3)
    simulation = Simulation(
        4, terms, lost=lambda stage, name: "request" if name == NAMES[3] and stage == "mask" else ""
    )
    server, context = simulation.server, terms.context()
    roster = simulation.advertise()
    shares = {name: simulation.clients[name].share(roster) for name in server.cohort}
    body = ShareBody.decode(parse_signed(shares[NAMES[0]], Kind.SHARES, context).body)
    for wrong in ({}, {**body.boxes, "client-99": bytes(82)}, {**body.boxes, NAMES[0]: bytes(82)}):
        payload = ShareBody(body.commitment, wrong).encode()
        payload = sign(Kind.SHARES, context, NAMES[0], payload, IDENTITIES[NAMES[0]])
        with breaks(Rule.OUTSIDE_COHORT):
            server.add_shares(payload)
    with breaks(Rule.BAD_SIGNATURE):  # one client in the name of another
        server.add_shares(sign(Kind.SHARES, context, NAMES[1], body.encode(), IDENTITIES[NAMES[0]]))
    for payload in shares.values():
        server.add_shares(payload)
    with breaks(Rule.REPEATED_MESSAGE):
        server.add_shares(shares[NAMES[0]])
    boxes = server.close_shares()
    with breaks(Rule.OUT_OF_ORDER):
        server.add_shares(shares[NAMES[0]])
    for name in NAMES[:3]:
        simulation.clients[name].mask(boxes[name], simulation.vectors[name], TASK, WORK)
        server.add_upload(name)
    with breaks(Rule.REPEATED_MESSAGE):
        server.add_upload(NAMES[0])
    with breaks(Rule.OUTSIDE_COHORT):
        server.add_upload("client-50")
    survivors = server.close_uploads()
    with breaks(Rule.CONSISTENCY):
        server.add_confirm(sign(Kind.CONFIRM, context, NAMES[0], bytes(32), IDENTITIES[NAMES[0]]))
    with breaks(Rule.OUTSIDE_COHORT):
        server.add_confirm(sign(Kind.CONFIRM, context, NAMES[3], bytes(32), IDENTITIES[NAMES[3]]))
    for name in NAMES[:3]:
        server.add_confirm(simulation.clients[name].confirm(survivors))
    request = server.close_confirms()
    forbidden = RevealBody({}, {NAMES[1]: 1}).encode()  # a share of a survivor's mask key, which nobody may have
    forbidden = sign(Kind.REVEAL, context, NAMES[0], forbidden, IDENTITIES[NAMES[0]])
    with breaks(Rule.OUTSIDE_COHORT):
        server.add_reveal(forbidden)
    for name in NAMES[:3]:
        server.add_reveal(simulation.clients[name].reveal(request))
    with pytest.raises(EncodingError):
        server.unmask([MODULUS] * 4)


def test_server_refuses_a_threshold_that_every_client_would_refuse() -> None:
    simulation = Simulation(6, make_terms(4))
    with pytest.raises(RoundAbandonedError, match="at least 5"):
        simulation.advertise()


def test_server_refuses_key_material() -> None:
    with pytest.raises(KeyMaterialError):
        ServerRound(make_terms(3), MODULUS + 2, {})
    with pytest.raises(KeyMaterialError):
        ServerRound(make_terms(3), MODULUS, {"a": ENROLLED[NAMES[0]], "b": ENROLLED[NAMES[0]]})


def test_a_broken_rule_is_for_both_sides_and_an_abandoned_round_for_neither() -> None:
    assert issubclass(BrokenRuleError, UpdateRejectedError)
    assert issubclass(BrokenRuleError, RoundRefusedError)
    assert not issubclass(RoundAbandonedError, (UpdateRejectedError, RoundRefusedError))
