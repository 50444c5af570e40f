"""Two attacks by the server, and the rule that stops each: the same attack succeeds on a twin without the rule."""

from collections.abc import Mapping
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.masking import ClientRound, client
from shared.masking.agreement import commit, exchange, pair_mask_key, self_mask_key
from shared.masking.client_state import Confirmed, Masked, Shared
from shared.masking.codec import Kind, parse_signed, sign
from shared.masking.errors import Rule
from shared.masking.messages import RevealBody, RevealRequest, encode_survivors, view_digest
from shared.masking.shamir import Rebuilder
from shared.masking.stream import MaskSum
from tests.breaking import breaks
from tests.masking_harness import IDENTITIES, MODULUS, NAMES, TASK, WORK, Simulation, add_up, make_terms

COLLUDERS, TARGETS, OTHERS = NAMES[:3], NAMES[3:5], NAMES[5:10]
ALL = frozenset(NAMES[:10])


class Credulous(ClientRound):
    """The broken twin: it reveals without a look at who has confirmed what."""

    def _check_confirms(self, state: Confirmed, signatures: Mapping[str, bytes]) -> None:
        pass


def split_views() -> dict[str, frozenset[str]]:
    """A U3 for each honest client, of 7 as the rules want: 4 or more are told of each of OTHERS that it dropped out."""
    views = {name: ALL - {OTHERS[(k + d) % 5] for d in (1, 2, 3)} for k, name in enumerate(OTHERS)}
    views[TARGETS[0]] = ALL - {OTHERS[k] for k in (0, 1, 2)}
    views[TARGETS[1]] = ALL - {OTHERS[k] for k in (3, 4, 0)}
    return views


def attack(kind: type[ClientRound]) -> tuple[list[int], list[int]]:
    """The server and 3 of 10 clients against the sum of 2: (what they work out, the truth)."""
    simulation = Simulation(10, make_terms(7), kind=kind)
    context = simulation.terms.context()
    boxes = simulation.share()
    roster = simulation.server._roster
    masks = MaskSum(MODULUS, simulation.terms.ciphertexts)
    seeds: dict[str, dict[int, int]] = {name: {} for name in ALL}
    keys: dict[str, dict[int, int]] = {name: {} for name in ALL}
    for liar in COLLUDERS:  # they hand the server all that they hold
        state = simulation.clients[liar]._state
        assert isinstance(state, Shared)
        for target in TARGETS:
            (masks.subtract if target < liar else masks.add)(state.pair_keys[target])
    for name in ALL:
        simulation.masked[name] = simulation.clients[name].mask(boxes[name], simulation.vectors[name], TASK, WORK)
    for liar in COLLUDERS:
        state = simulation.clients[liar]._state
        assert isinstance(state, Masked)
        for owner, (seed_share, key_share) in state.shares.items():
            seeds[owner][roster.point(liar)], keys[owner][roster.point(liar)] = seed_share, key_share
    for name, view in split_views().items():
        confirms = [simulation.clients[name].confirm(encode_survivors(view, context))]
        digest = view_digest(roster.digest, ALL, view)  # colluders confirm any view, as often as asked
        confirms += [sign(Kind.CONFIRM, context, liar, digest, IDENTITIES[liar]) for liar in COLLUDERS]
        signed = [parse_signed(payload, Kind.CONFIRM, context) for payload in confirms]
        request = RevealRequest(view, ALL - view, {message.sender: message.signature for message in signed})
        answer = simulation.clients[name].reveal(request.encode(context))
        body = RevealBody.decode(parse_signed(answer, Kind.REVEAL, context).body)
        for shares, revealed in ((seeds, body.seeds), (keys, body.keys)):
            for owner, share in revealed.items():
                shares[owner][roster.point(name)] = share
    rebuilder = Rebuilder(7)
    for target in TARGETS:
        commitment = simulation.server._shares[target].commitment
        seed = rebuilder.rebuild(target, seeds[target], partial(_is_seed, context, target, commitment))
        masks.subtract(self_mask_key(seed, context, target))
    for other in OTHERS:
        mask_key = rebuilder.rebuild(other, keys[other], partial(_is_mask_key, roster.adverts[other].mask_key))
        for target in TARGETS:
            common = exchange(X25519PrivateKey.from_private_bytes(mask_key), roster.adverts[target].mask_key)
            (masks.subtract if target < other else masks.add)(pair_mask_key(common, context, other, target))
    stolen = masks.apply(add_up((simulation.masked[target] for target in TARGETS), MODULUS))
    return stolen, add_up((simulation.vectors[target] for target in TARGETS), MODULUS)


def _is_seed(context: bytes, owner: str, commitment: bytes, seed: bytes) -> bool:
    return commit(seed, context, owner) == commitment


def _is_mask_key(public_key: bytes, mask_key: bytes) -> bool:
    return X25519PrivateKey.from_private_bytes(mask_key).public_key().public_bytes_raw() == public_key


def test_split_view_succeeds_without_the_consistency_round() -> None:
    stolen, truth = attack(Credulous)
    assert stolen == truth


def test_split_view_is_refused() -> None:
    with breaks(Rule.CONSISTENCY):
        attack(ClientRound)


class SessionKeys:
    """In place of `X25519PrivateKey` in the client: a broken twin that advertises the same keys in every round."""

    def __init__(self, clients: int) -> None:
        self._keys = [X25519PrivateKey.generate() for _ in range(2 * clients)]
        self._made = 0

    def generate(self) -> X25519PrivateKey:
        self._made += 1
        return self._keys[(self._made - 1) % len(self._keys)]


def open_an_earlier_round() -> bool:
    """4 clients finish round 1; the last one drops out of round 2. Whether the server can then open its round 1."""
    victim = NAMES[3]
    first = Simulation(4, make_terms(3))
    first.reveal()
    seed = first.server._seed(Rebuilder(3), victim)  # the server's by the rules of round 1
    second = Simulation(
        4,
        make_terms(3, round_number=2),
        lost=lambda stage, name: "request" if (stage, name) == ("mask", victim) else "",
    )
    second.reveal()
    mask_key = second.server._mask_key(Rebuilder(3), victim)  # the server's by the rules of round 2
    context, masks = first.terms.context(), MaskSum(MODULUS, first.terms.ciphertexts)
    masks.subtract(self_mask_key(seed, context, victim))
    for peer in NAMES[:3]:
        common = exchange(X25519PrivateKey.from_private_bytes(mask_key), first.server._adverts[peer].mask_key)
        (masks.subtract if victim < peer else masks.add)(pair_mask_key(common, context, victim, peer))
    return masks.apply(first.masked[victim]) == first.vectors[victim]


def test_session_long_keys_would_open_an_earlier_round(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not open_an_earlier_round()
    monkeypatch.setattr(client, "X25519PrivateKey", SessionKeys(4))
    assert open_an_earlier_round()
