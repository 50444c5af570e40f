"""Every rule that a client enforces against the server, each with its own refusal, and what a refusal leaves."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import ConfigError, EncodingError, KeyMaterialError
from shared.masking import ClientRound, RoundMemory, VectorPlan, minimum_threshold
from shared.masking.client_state import Masked, Refused, Shared
from shared.masking.codec import Kind, encode_number, header, parse_signed, sign
from shared.masking.errors import Rule
from shared.masking.messages import (
    RevealBody,
    RevealRequest,
    RoundTerms,
    encode_boxes,
    encode_survivors,
    parse_boxes,
    view_digest,
)
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

ME = NAMES[0]
TERMS = make_terms(5)
CONTEXT = TERMS.context()


def roster_of(adverts: Iterable[bytes], terms: RoundTerms = TERMS) -> bytes:
    """A roster as a hostile server may put it together."""
    adverts = list(adverts)
    return header(Kind.ROSTER, terms.context()) + encode_number(len(adverts), 2) + b"".join(adverts)


def advertised(
    terms: RoundTerms = TERMS, count: int = 6, edit: Callable[[list[bytes]], list[bytes]] = lambda adverts: adverts
) -> tuple[ClientRound, bytes]:
    """A client after stage 0, and the roster, edited."""
    clients = [make_client(name, terms) for name in NAMES[:count]]
    adverts = [client.advertise(terms.encode()) for client in clients]
    return clients[0], roster_of(edit(adverts), terms)


def at_mask(count: int = 6, terms: RoundTerms = TERMS) -> tuple[ClientRound, dict[str, bytes], Simulation]:
    """A client after stage 1, the boxes for it, and the round that it is in."""
    simulation = Simulation(count, terms)
    return simulation.clients[ME], parse_boxes(simulation.share()[ME], terms.context()), simulation


def at_confirm() -> ClientRound:
    """A client after stage 2, in a round of 6 where the last one never sent its shares: U2 is the first 5."""
    simulation = Simulation(
        6, TERMS, lost=lambda stage, name: "request" if (stage, name) == ("share", NAMES[5]) else ""
    )
    simulation.mask()
    return simulation.clients[ME]


def at_reveal(count: int = 10, threshold: int = 7) -> tuple[ClientRound, RevealRequest, Simulation]:
    """A client after stage 3 in a round of 10 whose last one dropped out, and the honest request."""
    simulation = Simulation(
        count,
        make_terms(threshold),
        lost=lambda stage, name: "request" if (stage, name) == ("mask", NAMES[count - 1]) else "",
    )
    request = RevealRequest.parse(simulation.confirm(), simulation.terms.context())
    return simulation.clients[ME], request, simulation


# Stage 0: the terms and the round's number


@pytest.mark.parametrize(
    ("terms", "rule"),
    [
        (make_terms(3, modulus=MODULUS + 2), Rule.OTHER_TERMS),
        (make_terms(3, bucket="scaler"), Rule.OTHER_TERMS),
        (make_terms(3, ciphertexts=5), Rule.OTHER_TERMS),
        (make_terms(3, n_min=2), Rule.SMALL_COHORT),
        (make_terms(3, n_min=3), Rule.SMALL_COHORT),
    ],
)
def test_terms(terms: RoundTerms, rule: Rule) -> None:
    client = ClientRound(ME, IDENTITIES[ME], ENROLLED, VectorPlan("weights", MODULUS, 4, n_min=4), RoundMemory())
    with breaks(rule):
        client.advertise(terms.encode())


def test_a_floor_below_three_can_not_be_configured() -> None:
    with pytest.raises(ConfigError):
        VectorPlan("weights", MODULUS, 4, n_min=2)


def test_identity_must_be_the_enrolled_one() -> None:
    plan = VectorPlan("weights", MODULUS, 4)
    for name, key in ((ME, Ed25519PrivateKey.generate()), ("stranger", IDENTITIES[ME])):
        with pytest.raises(KeyMaterialError):
            ClientRound(name, key, ENROLLED, plan, RoundMemory())
    twice = {ME: ENROLLED[ME], "sybil": ENROLLED[ME]}
    with pytest.raises(KeyMaterialError):
        ClientRound(ME, IDENTITIES[ME], twice, plan, RoundMemory())
    with breaks(Rule.MALFORMED_MESSAGE):
        ClientRound(ME, IDENTITIES[ME], {**ENROLLED, "no spaces": ENROLLED[ME]}, plan, RoundMemory())


# Stage 1: the roster


def test_threshold_follows_from_the_roster() -> None:
    assert [minimum_threshold(n) for n in (3, 4, 5, 6, 9, 10, 12, 100)] == [3, 3, 4, 5, 7, 7, 9, 67]
    for count in range(3, 13):
        least = minimum_threshold(count)
        client, roster = advertised(make_terms(least), count)
        client.share(roster)
        client, roster = advertised(make_terms(least - 1), count)
        with breaks(Rule.LOW_THRESHOLD, Rule.SMALL_COHORT):
            client.share(roster)
    client, roster = advertised(make_terms(4))
    with breaks(Rule.LOW_THRESHOLD):
        client.share(roster)


@pytest.mark.parametrize("terms", [make_terms(5), make_terms(3, n_min=5)])
def test_too_few_adverts(terms: RoundTerms) -> None:
    client, roster = advertised(terms, 4)
    with breaks(Rule.SMALL_COHORT):
        client.share(roster)


def altered(
    name: str, body: Callable[[bytes], bytes], signer: str | None = None
) -> Callable[[list[bytes]], list[bytes]]:
    """Replaces the advert of `name` by one with another body, signed by `signer`."""

    def edit(adverts: list[bytes]) -> list[bytes]:
        parsed = [parse_signed(advert, Kind.ADVERT, CONTEXT) for advert in adverts]
        return [
            sign(Kind.ADVERT, CONTEXT, name, body(message.body), IDENTITIES[signer or name])
            if message.sender == name
            else message.payload
            for message in parsed
        ]

    return edit


def other_advert(name: str, terms: RoundTerms) -> bytes:
    return make_client(name, terms).advertise(terms.encode())


STRANGER = sign(Kind.ADVERT, CONTEXT, "x-stranger", bytes(range(64)), Ed25519PrivateKey.generate())


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (lambda a: [*a, STRANGER], Rule.UNKNOWN_PEER),
        (lambda a: [*a[:2], a[1], *a[2:]], Rule.REPEATED_ADVERT),
        (lambda a: [*a[:2], other_advert(NAMES[1], TERMS), *a[2:]], Rule.REPEATED_ADVERT),
        (lambda a: altered(NAMES[2], lambda _: parse_signed(a[1], Kind.ADVERT, CONTEXT).body)(a), Rule.REPEATED_ADVERT),
        (altered(NAMES[2], lambda body: body[32:] + body[32:]), Rule.REPEATED_ADVERT),
        (altered(NAMES[2], lambda body: body, signer=NAMES[3]), Rule.BAD_SIGNATURE),
        (altered(NAMES[2], lambda body: bytes(32) + body[32:]), Rule.WEAK_KEY),
        (altered(NAMES[2], lambda body: body[:32] + b"\1" + bytes(31)), Rule.WEAK_KEY),
        (altered(NAMES[2], lambda body: body[:63]), Rule.MALFORMED_MESSAGE),
        (lambda a: [a[0], other_advert(NAMES[1], make_terms(5, round_number=0)), *a[2:]], Rule.REPLAYED_MESSAGE),
        (lambda a: [a[0], other_advert(NAMES[1], make_terms(5, session=bytes(16))), *a[2:]], Rule.REPLAYED_MESSAGE),
        (lambda a: [a[0], other_advert(NAMES[1], make_terms(5, bucket="scaler")), *a[2:]], Rule.REPLAYED_MESSAGE),
        (lambda a: a[1:], Rule.OWN_ADVERT),
        (lambda a: [other_advert(ME, TERMS), *a[1:]], Rule.OWN_ADVERT),
        (lambda a: [a[1], a[0], *a[2:]], Rule.MALFORMED_MESSAGE),
    ],
)
def test_roster(edit: Callable[[list[bytes]], list[bytes]], rule: Rule) -> None:
    client, roster = advertised(edit=edit)
    with breaks(rule):
        client.share(roster)


# Stage 2: the boxes


def test_boxes_from_outside_or_from_oneself() -> None:
    for extra in (NAMES[20], ME):
        client, boxes, _ = at_mask()
        with breaks(Rule.SUBSET):
            client.mask(encode_boxes({**boxes, extra: bytes(82)}, CONTEXT), [0] * 4, TASK, WORK)


@pytest.mark.parametrize(("terms", "kept"), [(TERMS, 3), (make_terms(5, n_min=6), 4)])
def test_too_few_boxes(terms: RoundTerms, kept: int) -> None:
    client, boxes, _ = at_mask(terms=terms)
    few = {name: boxes[name] for name in list(boxes)[:kept]}
    with breaks(Rule.SMALL_COHORT):
        client.mask(encode_boxes(few, terms.context()), [0] * 4, TASK, WORK)


@pytest.mark.parametrize("vector", [[0] * 3, [0] * 5, [0, 0, 0, MODULUS], [0, 0, 0, -1]])
def test_a_vector_that_does_not_fit(vector: list[int]) -> None:
    client, boxes, _ = at_mask()
    with pytest.raises(EncodingError):
        client.mask(encode_boxes(boxes, CONTEXT), vector, TASK, WORK)


def test_a_box_that_does_not_open_gives_no_share_and_no_refusal() -> None:
    client, boxes, _ = at_mask()
    spoilt = {**boxes, NAMES[2]: boxes[NAMES[3]], NAMES[4]: bytes(82)}
    client.mask(encode_boxes(spoilt, CONTEXT), [0] * 4, TASK, WORK)
    state = client._state
    assert isinstance(state, Masked)
    assert set(state.shares) == {ME, NAMES[1], NAMES[3], NAMES[5]}


def test_a_box_is_for_one_roster() -> None:
    # A server that shows one client another roster (here without the last client) gets no shares across.
    clients = [make_client(name, TERMS) for name in NAMES[:6]]
    adverts = [client.advertise(TERMS.encode()) for client in clients]
    clients[0].share(roster_of(adverts))
    sent = parse_signed(clients[1].share(roster_of(adverts[:5])), Kind.SHARES, CONTEXT)
    box = sent.body[32 + 2 + 1 + len(ME) :][:82]
    boxes = {name: bytes(82) for name in NAMES[1:5]} | {NAMES[1]: box}
    clients[0].mask(encode_boxes(boxes, CONTEXT), [0] * 4, TASK, WORK)
    state = clients[0]._state
    assert isinstance(state, Masked)
    assert set(state.shares) == {ME}


# Stage 3: the survivors


@pytest.mark.parametrize(
    ("survivors", "rule"),
    [
        (NAMES[:4], Rule.SMALL_COHORT),
        (NAMES[:6], Rule.SUBSET),
        ([*NAMES[:4], NAMES[30]], Rule.SUBSET),
        (NAMES[1:5], Rule.OWN_UPDATE),
    ],
)
def test_survivors(survivors: list[str], rule: Rule) -> None:
    with breaks(rule):
        at_confirm().confirm(encode_survivors(frozenset(survivors), CONTEXT))


def test_floor_of_survivors_is_n_min_too() -> None:
    terms = make_terms(3, n_min=4)
    simulation = Simulation(4, terms)
    simulation.mask()
    with breaks(Rule.SMALL_COHORT):
        simulation.clients[ME].confirm(encode_survivors(frozenset(NAMES[:3]), terms.context()))


def test_a_second_view_is_never_signed() -> None:
    client = at_confirm()
    client.confirm(encode_survivors(frozenset(NAMES[:5]), CONTEXT))
    with breaks(Rule.REPEATED_STAGE):
        client.confirm(encode_survivors(frozenset(NAMES[:5]), CONTEXT))


# Stage 4: the reveal


def test_reveal_gives_one_share_of_each() -> None:
    client, request, simulation = at_reveal()
    answer = parse_signed(
        client.reveal(request.encode(simulation.terms.context())), Kind.REVEAL, simulation.terms.context()
    )
    body = RevealBody.decode(answer.body)
    assert set(body.seeds) == set(NAMES[:9])
    assert set(body.keys) == {NAMES[9]}


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (lambda r: replace(r, keys=r.keys | {NAMES[3]}), Rule.BOTH_SHARES),
        (lambda r: replace(r, seeds=r.seeds | r.keys), Rule.BOTH_SHARES),
        (lambda r: replace(r, seeds=r.seeds | r.keys, keys=frozenset()), Rule.SHARE_REQUEST),
        (lambda r: replace(r, seeds=r.seeds - {NAMES[3]}, keys=r.keys | {NAMES[3]}), Rule.SHARE_REQUEST),
        (lambda r: replace(r, keys=frozenset()), Rule.SHARE_REQUEST),
        (lambda r: replace(r, seeds=r.seeds | {NAMES[40]}), Rule.SHARE_REQUEST),
        (lambda r: replace(r, signatures=dict(list(r.signatures.items())[:6])), Rule.CONSISTENCY),
        (lambda r: replace(r, signatures={}), Rule.CONSISTENCY),
        (lambda r: replace(r, signatures={**r.signatures, NAMES[9]: bytes(64)}), Rule.CONSISTENCY),
        (lambda r: replace(r, signatures={**r.signatures, NAMES[1]: r.signatures[NAMES[2]]}), Rule.BAD_SIGNATURE),
        (lambda r: replace(r, signatures={**r.signatures, NAMES[1]: bytes(64)}), Rule.BAD_SIGNATURE),
    ],
)
def test_request(edit: Callable[[RevealRequest], RevealRequest], rule: Rule) -> None:
    client, request, simulation = at_reveal()
    with breaks(rule):
        client.reveal(edit(request).encode(simulation.terms.context()))


@pytest.mark.parametrize("differs", ["nothing", "U3", "U2", "roster"])
def test_confirms_of_another_view_do_not_count(differs: str) -> None:
    client, request, simulation = at_reveal()
    context = simulation.terms.context()
    view = view_digest(
        bytes(32) if differs == "roster" else simulation.server._roster.digest,
        frozenset(NAMES[: 9 if differs == "U2" else 10]),
        frozenset(NAMES[: 8 if differs == "U3" else 9]),
    )
    signature = sign(Kind.CONFIRM, context, NAMES[1], view, IDENTITIES[NAMES[1]])[-64:]
    payload = replace(request, signatures={**request.signatures, NAMES[1]: signature}).encode(context)
    if differs == "nothing":
        client.reveal(payload)
    else:
        with breaks(Rule.BAD_SIGNATURE):
            client.reveal(payload)


# Order, repetition, and what is left


def test_each_stage_once_and_in_order() -> None:
    simulation = Simulation(4, make_terms(3))
    request = simulation.confirm()
    client = simulation.clients[ME]
    client.reveal(request)
    with breaks(Rule.REPEATED_STAGE):
        client.reveal(request)
    with breaks(Rule.ROUND_OVER):
        client.reveal(request)


@pytest.mark.parametrize("done", range(4))
def test_a_stage_again_or_too_early_ends_the_round(done: int) -> None:
    terms = make_terms(3)
    for calls in (done, done + 2):
        simulation = Simulation(4, terms)
        (simulation.advertise, simulation.share, simulation.mask, simulation.confirm)[done]()
        client = simulation.clients[ME]
        stages: list[Callable[[], object]] = [
            lambda c=client: c.advertise(terms.encode()),  # type: ignore[misc]
            lambda c=client: c.share(b""),  # type: ignore[misc]
            lambda c=client: c.mask(b"", [0] * 4, TASK, WORK),  # type: ignore[misc]
            lambda c=client: c.confirm(b""),  # type: ignore[misc]
            lambda c=client: c.reveal(b""),  # type: ignore[misc]
        ]
        if calls >= len(stages):
            continue
        with breaks(Rule.REPEATED_STAGE if calls == done else Rule.OUT_OF_ORDER):
            stages[calls]()
        for stage in stages:
            with breaks(Rule.ROUND_OVER):
                stage()


def test_a_second_upload_is_refused() -> None:
    client, boxes, _ = at_mask()
    client.mask(encode_boxes(boxes, CONTEXT), [0] * 4, TASK, WORK)
    with breaks(Rule.REPEATED_STAGE):
        client.mask(encode_boxes(boxes, CONTEXT), [0] * 4, TASK, WORK)


def test_a_refusal_erases_the_state() -> None:
    client, _, _ = at_mask()
    with breaks(Rule.MALFORMED_MESSAGE):
        client.mask(b"", [0] * 4, TASK, WORK)
    assert isinstance(client._state, Refused)
    with breaks(Rule.ROUND_OVER):
        client.mask(b"", [0] * 4, TASK, WORK)


def test_a_client_that_was_given_another_task_than_the_round_s_gives_nothing() -> None:
    client, boxes, _ = at_mask()
    with breaks(Rule.OTHER_TASK):
        client.mask(encode_boxes(boxes, CONTEXT), [0] * 4, bytes(32), WORK)
    with breaks(Rule.ROUND_OVER):
        client.mask(encode_boxes(boxes, CONTEXT), [0] * 4, TASK, WORK)


def test_the_seed_is_overwritten_and_no_state_prints_its_secrets() -> None:
    client, boxes, _ = at_mask()
    state = client._state
    assert isinstance(state, Shared)
    assert any(state.seed)
    assert repr(bytes(state.seed)) not in repr(state)
    assert "pair_keys" not in repr(state)
    client.mask(encode_boxes(boxes, CONTEXT), [0] * 4, TASK, WORK)
    assert not any(state.seed)


def test_keys_and_seeds_are_fresh_in_every_round() -> None:
    seen: set[bytes] = set()
    for round_number in range(3):
        terms = make_terms(3, round_number=round_number)
        client, roster = advertised(terms, 4)
        seen.add(parse_signed(client.share(roster), Kind.SHARES, terms.context()).body[:32])
        adverts = [other_advert(ME, terms) for _ in range(2)]
        seen.update(
            parse_signed(advert, Kind.ADVERT, terms.context()).body[place : place + 32]
            for advert in adverts
            for place in (0, 32)
        )
    assert len(seen) == 3 * 5
