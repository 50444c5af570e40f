"""How a client gives its peers the shares of its two secrets, and reads theirs (CCS 2017, figure 4, rounds 1 and 2)."""

import secrets
from collections.abc import Mapping

from shared.masking import agreement
from shared.masking.client_state import Advertised, Shared
from shared.masking.messages import ShareBody
from shared.masking.roster import Roster
from shared.masking.shamir import SECRET_BYTES, split


def give_shares(state: Advertised, cohort: Roster, client_id: str) -> tuple[Shared, bytes]:
    """Draw the seed b_i, split it and the mask key t-of-N, and seal each peer's shares in a box for it alone.

    Args:
        state: the client's state after stage 0.
        cohort: U1, checked.
        client_id: this client's id in the cohort.

    Returns:
        The client's state after stage 1, and the body of its answer: the commitment H(b_i) and one box per peer.
    """
    context, peers = state.context, [peer for peer in cohort.ids if peer != client_id]
    seed = bytearray(secrets.token_bytes(SECRET_BYTES))
    seed_shares = split(seed, state.terms.threshold, len(cohort.ids))
    key_shares = split(state.mask_key.private_bytes_raw(), state.terms.threshold, len(cohort.ids))
    boxes, box_keys, pair_keys = {}, {}, {}
    for peer in peers:
        channel = agreement.exchange(state.channel_key, cohort.adverts[peer].channel_key)
        place = cohort.point(peer) - 1
        boxes[peer] = agreement.seal_box(
            agreement.box_key(channel, context, client_id, peer),
            cohort.digest,
            seed_shares[place],
            key_shares[place],
        )
        box_keys[peer] = agreement.box_key(channel, context, peer, client_id)
        common = agreement.exchange(state.mask_key, cohort.adverts[peer].mask_key)
        pair_keys[peer] = agreement.pair_mask_key(common, context, client_id, peer)
    body = ShareBody(agreement.commit(seed, context, client_id), boxes).encode()
    own_share = seed_shares[cohort.point(client_id) - 1]
    return Shared(state.terms, context, cohort, seed, own_share, pair_keys, box_keys), body


def open_shares(state: Shared, boxes: Mapping[str, bytes], client_id: str) -> dict[str, tuple[int, int]]:
    """The shares that this client holds, by owner: (share of b_j, share of j's mask key).

    A box that does not open is passed over. Of its own secrets the client holds a share of b_i alone: its mask key it
    never reveals, since it confirms only sets that it is in.
    """
    shares = {client_id: (state.seed_share, 0)}
    for peer, box in boxes.items():
        opened = agreement.open_box(state.box_keys[peer], state.roster.digest, box)
        if opened is not None:
            shares[peer] = opened
    return shares
