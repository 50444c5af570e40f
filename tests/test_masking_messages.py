"""The wire forms: one encoding for each message, and nothing but typed errors for whatever else arrives."""

import functools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import OrchestratorError, RoundRefusedError, UpdateRejectedError
from shared.masking.codec import Kind, encode_entries, encode_id, encode_ids, encode_number, parse_signed
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.messages import (
    Advert,
    RevealBody,
    RevealRequest,
    RoundTerms,
    ShareBody,
    encode_boxes,
    encode_roster,
    encode_survivors,
    parse_boxes,
    parse_roster,
    parse_survivors,
)
from shared.masking.shamir import PRIME
from tests.breaking import breaks
from tests.masking_harness import NAMES, TASK, WORK, Simulation, make_terms

TERMS = make_terms(3)
CONTEXT = TERMS.context()
ME = NAMES[0]
EXAMPLES = 300


@functools.cache
def samples() -> dict[str, bytes]:
    """One honest message of each kind."""
    simulation = Simulation(4, TERMS, lost=lambda stage, name: "request" if (stage, name) == ("mask", NAMES[3]) else "")
    found: dict[str, bytes] = {"announcement": TERMS.encode()}
    server, clients = simulation.server, simulation.clients
    adverts = {name: client.advertise(TERMS.encode()) for name, client in clients.items()}
    found["advert"] = adverts[ME]
    for advert in adverts.values():
        server.add_advert(advert)
    found["roster"] = server.close_adverts()
    shares = {name: client.share(found["roster"]) for name, client in clients.items()}
    found["shares"] = shares[ME]
    for share in shares.values():
        server.add_shares(share)
    boxes = server.close_shares()
    found["boxes"] = boxes[ME]
    for name in NAMES[:3]:
        clients[name].mask(boxes[name], [0] * 4, TASK, WORK)
        server.add_upload(name)
    found["survivors"] = server.close_uploads()
    confirms = {name: clients[name].confirm(found["survivors"]) for name in NAMES[:3]}
    found["confirm"] = confirms[ME]
    for confirm in confirms.values():
        server.add_confirm(confirm)
    found["reveal request"] = server.close_confirms()
    found["reveal"] = clients[ME].reveal(found["reveal request"])
    return found


def body_again(kind: Kind, codec: type[ShareBody] | type[RevealBody]) -> Callable[[bytes], bytes]:
    def again(payload: bytes) -> bytes:
        message = parse_signed(payload, kind, CONTEXT)
        assert codec.decode(message.body).encode() == message.body
        return message.payload

    return again


def roster_again(payload: bytes) -> bytes:
    adverts = parse_roster(payload, CONTEXT)
    ordered = {advert.message.sender: advert for advert in adverts}
    # Repeated or unsorted adverts parse, so that the client can name what is wrong with them.
    return encode_roster(ordered, CONTEXT) if sorted(ordered) == [a.message.sender for a in adverts] else payload


# Parse and encode again: for whatever is accepted, this must give the very bytes that came.
AGAIN: dict[str, Callable[[bytes], bytes]] = {
    "announcement": lambda payload: RoundTerms.decode(payload).encode(),
    "advert": lambda payload: Advert.parse(payload, CONTEXT).message.payload,
    "roster": roster_again,
    "shares": body_again(Kind.SHARES, ShareBody),
    "boxes": lambda payload: encode_boxes(parse_boxes(payload, CONTEXT), CONTEXT),
    "survivors": lambda payload: encode_survivors(parse_survivors(payload, CONTEXT), CONTEXT),
    "confirm": lambda payload: parse_signed(payload, Kind.CONFIRM, CONTEXT).payload,
    "reveal request": lambda payload: RevealRequest.parse(payload, CONTEXT).encode(CONTEXT),
    "reveal": body_again(Kind.REVEAL, RevealBody),
}


@st.composite
def mutations(draw: st.DrawFn, original: bytes) -> bytes:
    """The message cut, lengthened, or with some bytes replaced."""
    payload = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(payload) - 1, 0)))
        how = draw(st.sampled_from(["replace", "cut", "insert", "remove", "append"]))
        if how == "replace" and payload:
            payload[place] = draw(st.integers(0, 255))
        elif how == "cut":
            del payload[place:]
        elif how == "insert":
            payload[place:place] = draw(st.binary(min_size=1, max_size=9))
        elif how == "remove":
            del payload[place : place + draw(st.integers(1, 100))]
        else:
            payload += draw(st.binary(min_size=1, max_size=9))
    return bytes(payload)


@pytest.mark.parametrize("name", AGAIN)
def test_honest_messages_come_back_unchanged(name: str) -> None:
    assert AGAIN[name](samples()[name]) == samples()[name]


@pytest.mark.parametrize("name", AGAIN)
def test_every_parser_gives_one_form_or_a_typed_error(name: str) -> None:
    start = samples()[name][: 37 if name != "announcement" else 5]

    @settings(max_examples=EXAMPLES, database=None)
    @given(st.one_of(mutations(samples()[name]), st.binary(max_size=200), st.binary(max_size=200).map(start.__add__)))
    def check(payload: bytes) -> None:
        try:
            again = AGAIN[name](payload)
        except BrokenRuleError as error:
            if error.code not in (Rule.MALFORMED_MESSAGE, Rule.REPLAYED_MESSAGE):
                raise
            return
        assert again == payload

    check()


@pytest.mark.parametrize("name", AGAIN)
def test_every_length_but_the_right_one_is_refused(name: str) -> None:
    original = samples()[name]
    for size in range(len(original)):
        with breaks(Rule.MALFORMED_MESSAGE):
            AGAIN[name](original[:size])
    with breaks(Rule.MALFORMED_MESSAGE):
        AGAIN[name](original + b"\0")


@pytest.mark.parametrize("name", [name for name in AGAIN if name != "announcement"])
def test_every_message_is_of_one_round_only(name: str) -> None:
    for place in (5, 36):
        payload = bytearray(samples()[name])
        payload[place] ^= 1
        with breaks(Rule.REPLAYED_MESSAGE):
            AGAIN[name](bytes(payload))


def test_state_machines_answer_hostile_bytes_with_typed_errors() -> None:
    @settings(max_examples=60, database=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        simulation = Simulation(3, TERMS)
        client, server = simulation.clients[ME], simulation.server
        stage = data.draw(st.integers(0, 4))
        ((lambda: b""), simulation.advertise, simulation.share, simulation.mask, simulation.confirm)[stage]()
        original = list(samples().values())[data.draw(st.integers(0, 8))]
        payload = data.draw(st.one_of(st.just(original), mutations(original)))
        for add in (server.add_advert, server.add_shares, server.add_confirm, server.add_reveal, server.add_upload):
            try:
                add(payload)  # type: ignore[arg-type]
            except UpdateRejectedError:
                continue
        try:
            (
                client.advertise,
                client.share,
                lambda p: client.mask(p, [0] * 4, TASK, WORK),
                client.confirm,
                client.reveal,
            )[stage](payload)
        except RoundRefusedError:
            return

    check()


@pytest.mark.parametrize("payload", [None, "text", 7, bytearray(60), memoryview(b"x")])
def test_only_bytes_are_bytes(payload: object) -> None:
    for parse in AGAIN.values():
        with pytest.raises(OrchestratorError):
            parse(payload)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["", "a" * 65, ".hidden", "no space", "naïve", "a\n", "a/b", "\udc80"])
def test_ids(bad: str) -> None:
    with breaks(Rule.MALFORMED_MESSAGE):
        encode_id(bad)


@pytest.mark.parametrize(
    "entries",
    [
        encode_number(2, 2) + encode_id("b") + encode_id("a"),
        encode_number(2, 2) + encode_id("a") + encode_id("a"),
        encode_number(1, 2) + b"\0",
        encode_number(1, 2) + b"\1\xff",
    ],
)
def test_one_set_has_one_encoding(entries: bytes) -> None:
    good = encode_survivors(frozenset(), CONTEXT)[:-2]
    with breaks(Rule.MALFORMED_MESSAGE):
        parse_survivors(good + entries, CONTEXT)


def test_sets_and_entries_are_sorted() -> None:
    assert encode_ids(["b", "a"]) == encode_ids(["a", "b"]) == b"\0\2\1a\1b"
    assert encode_entries({"b": b"2", "a": b"1"}) == b"\0\2\1a1\1b2"


@pytest.mark.parametrize(
    "change",
    [
        {"session": bytes(15)},
        {"modulus_digest": bytes(31)},
        {"round_number": -1},
        {"round_number": 2**63},
        {"threshold": 0},
        {"threshold": 10_001},
        {"n_min": 0},
        {"ciphertexts": 0},
        {"ciphertexts": 2**24 + 1},
        {"bucket": ""},
    ],
)
def test_terms_out_of_range(change: dict[str, object]) -> None:
    fields = {**TERMS.__dict__, **change}
    with breaks(Rule.MALFORMED_MESSAGE):
        RoundTerms(**fields)


def test_a_share_outside_the_field_is_refused() -> None:
    body = RevealBody({"a": PRIME}, {}).encode()
    with breaks(Rule.MALFORMED_MESSAGE):
        RevealBody.decode(body)
