"""A client's state between two stages as bytes, for an engine that starts each stage in another process.

The bytes hold secrets of one round: they go to no other party, and whoever keeps them for the tenant, as the simulation
on Flower's engine does, can open that tenant's update. No pickle: exact lengths, read as every message of masking is.
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.masking.client_state import Advertised, Confirmed, Done, Fresh, Masked, Refused, Shared, State
from shared.masking.codec import Kind, Reader, encode_entries, encode_ids, encode_number, header
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.messages import RoundTerms
from shared.masking.roster import Roster
from shared.masking.shamir import SECRET_BYTES, SHARE_BYTES

_STAGES: tuple[type[State], ...] = (Fresh, Advertised, Shared, Masked, Confirmed, Done, Refused)
_KEY = 32  # bytes of an X25519 key, of a stream's key and of a box's
_DIGEST = 32


def encode_state(state: State) -> bytes:
    """A state as bytes."""
    return header(Kind.STATE) + encode_number(_STAGES.index(type(state)), 1) + _body(state)


def decode_state(data: bytes) -> State:
    """The inverse of `encode_state`, but that a roster comes back without its adverts: no stage needs them twice.

    Raises:
        BrokenRuleError of MALFORMED_MESSAGE: not such bytes.
    """
    reader = Reader(data, Kind.STATE)
    reader.header(Kind.STATE)
    stage = reader.number(1)
    if stage >= len(_STAGES):
        raise BrokenRuleError(Rule.MALFORMED_MESSAGE, f"state: stage {stage}; expected 0 to {len(_STAGES) - 1}")
    state = _read(reader, _STAGES[stage])
    reader.end()
    return state


def _body(state: State) -> bytes:
    match state:
        case Advertised():
            keys = state.channel_key.private_bytes_raw() + state.mask_key.private_bytes_raw()
            return _long(state.terms.encode()) + keys + _long(state.advert)
        case Shared():
            keys = bytes(state.seed) + encode_number(state.seed_share, SHARE_BYTES)
            peers = encode_entries(state.pair_keys) + encode_entries(state.box_keys)
            return _long(state.terms.encode()) + _roster(state.roster) + keys + peers
        case Masked():
            senders = encode_ids(state.senders)
            return _long(state.terms.encode()) + _roster(state.roster) + senders + _shares(state.shares) + state.work
        case Confirmed():
            return _body(state.masked) + encode_ids(state.survivors)
    return b""


def _read(reader: Reader, stage: type[State]) -> State:
    if stage in (Fresh, Done, Refused):
        return stage()
    if stage is Confirmed:
        masked = _read(reader, Masked)
        assert isinstance(masked, Masked)  # noqa: S101 - the line above says so
        return Confirmed(masked, frozenset(reader.ids()))
    terms = RoundTerms.decode(reader.take(reader.number(4)))
    context = terms.context()
    if stage is Advertised:
        channel_key, mask_key = (X25519PrivateKey.from_private_bytes(reader.take(_KEY)) for _ in range(2))
        return Advertised(terms, context, channel_key, mask_key, reader.take(reader.number(4)))
    roster = Roster(reader.ids(), {}, reader.take(_DIGEST))
    if stage is Shared:
        seed, seed_share = bytearray(reader.take(SECRET_BYTES)), reader.number(SHARE_BYTES)
        return Shared(terms, context, roster, seed, seed_share, reader.entries(_KEY), reader.entries(_KEY))
    senders = frozenset(reader.ids())
    shares = {
        peer: (int.from_bytes(both[:SHARE_BYTES]), int.from_bytes(both[SHARE_BYTES:]))
        for peer, both in reader.entries(2 * SHARE_BYTES).items()
    }
    return Masked(terms, context, roster, senders, shares, reader.take(_DIGEST))


def _long(data: bytes) -> bytes:
    return encode_number(len(data), 4) + data


def _roster(roster: Roster) -> bytes:
    return encode_ids(roster.ids) + roster.digest


def _shares(shares: Mapping[str, tuple[int, int]]) -> bytes:
    encoded = {peer: b"".join(encode_number(share, SHARE_BYTES) for share in both) for peer, both in shares.items()}
    return encode_entries(encoded)
