"""The client's side of one masked round: bytes in, bytes out, every rule of privacy enforced here.

Source: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, figure 4 with
the consistency check, over Z_n in place of Z_R.

Guarantee: a server that does what it likes, together with c < 2t - N clients of the cohort (about a third of it),
learns of the others' plaintexts nothing but one sum over at least t - c of them, all of which worked on the same task;
t >= floor(2N/3) + 1. Of several sums of one work see `shared/masking/memory.py`.

One object serves one round and each of its methods works once. Whatever is raised, the client is out of the round for
good: the state that a method works on is taken out of the object first, so its keys can't be used again.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.errors import EncodingError, KeyMaterialError
from shared.masking import agreement
from shared.masking.client_state import (
    ORDER,
    Advertised,
    Confirmed,
    Done,
    Fresh,
    Masked,
    Refused,
    Shared,
    State,
)
from shared.masking.codec import Kind, sign
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.memory import RoundMemory, Stage
from shared.masking.messages import (
    RevealBody,
    RevealRequest,
    RoundTerms,
    least_honest,
    parse_boxes,
    parse_survivors,
    view_digest,
)
from shared.masking.plan import VectorPlan
from shared.masking.roster import check_confirms, check_enrolment, read_roster
from shared.masking.shamir import SECRET_BYTES
from shared.masking.shares import give_shares, open_shares
from shared.masking.stream import MaskSum
from shared.masking.suspended import decode_state, encode_state

_S = TypeVar("_S", Fresh, Advertised, Shared, Masked, Confirmed)


class ClientRound:
    """One client in one round. Call order: `advertise`, `share`, `mask`, `confirm`, `reveal`.

    Attributes:
        plan: the vector to be uploaded.

    Every method raises a `BrokenRuleError` where the server breaks a rule.

    About erasure: the seed b_i is overwritten after its use, and OpenSSL cleanses an X25519 key when it is freed, but
    Python's `int` and `bytes` can't be overwritten. Of those (shares, derived keys, the bytes of the mask key while it
    is split) the object only drops its references, as soon as the stage that needs them is over; a copy may stay in
    the process's memory until that is reused.
    """

    def __init__(
        self,
        client_id: str,
        signing_key: Ed25519PrivateKey,
        enrolled: Mapping[str, Ed25519PublicKey],
        plan: VectorPlan,
        memory: RoundMemory,
    ) -> None:
        """Prepare for a round.

        Args:
            client_id: this client's id in `enrolled`.
            signing_key: this client's Ed25519 key.
            enrolled: the public key of every client that may ever take part, given out of band.
            plan: the vector to be uploaded.
            memory: what this client has answered before.

        Raises:
            KeyMaterialError: two clients are enrolled with one key, or this client's key is not the enrolled one.
        """
        check_enrolment(enrolled)
        if client_id not in enrolled or enrolled[client_id] != signing_key.public_key():
            raise KeyMaterialError(f"client {client_id!r}: the signing key is not the enrolled one; enrol it again")
        self._id = client_id
        self._signing_key = signing_key
        self._enrolled = dict(enrolled)
        self.plan = plan
        self._memory = memory
        self._state: State = Fresh()
        self._lock = threading.Lock()

    def advertise(self, announcement: bytes) -> bytes:
        """Stage 0: enter the round and make fresh keys.

        Args:
            announcement: the round's terms.

        Returns:
            The signed advert of the two public X25519 keys.

        Raises:
            BrokenRuleError of OTHER_TERMS: another public key, bucket or number of ciphertexts than planned.
            BrokenRuleError of SMALL_COHORT: the announced n_min is below the client's own.
            BrokenRuleError of STALE_ROUND, ROUND_MEMORY: the round was entered before, or can't be remembered.
            BrokenRuleError of MALFORMED_MESSAGE: not an announcement.
        """
        self._take(Fresh)
        terms = RoundTerms.decode(announcement)
        self.plan.check(terms)
        self._claim(terms, Stage.ADVERTISE)
        # Fresh in every round: with keys of a session one drop-out would expose the client's earlier rounds too.
        channel_key, mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        body = channel_key.public_key().public_bytes_raw() + mask_key.public_key().public_bytes_raw()
        advert = sign(Kind.ADVERT, terms.context(), self._id, body, self._signing_key)
        self._state = Advertised(terms, terms.context(), channel_key, mask_key, advert)
        return advert

    def share(self, roster: bytes) -> bytes:
        """Stage 1: check the cohort and give every peer its shares of this client's two secrets.

        Args:
            roster: U1, the adverts of all clients.

        Returns:
            The signed commitment H(b_i) and one sealed box per peer.

        Raises:
            BrokenRuleError of LOW_THRESHOLD, SMALL_COHORT: the cohort does not protect this client.
            BrokenRuleError of UNKNOWN_PEER, BAD_SIGNATURE, REPEATED_ADVERT, REPLAYED_MESSAGE, WEAK_KEY: a bad advert.
            BrokenRuleError of OWN_ADVERT: this client's advert is missing or was altered.
            BrokenRuleError of MALFORMED_MESSAGE: not a roster.
        """
        state = self._take(Advertised)
        cohort = read_roster(roster, state.terms, self._enrolled, state.advert)
        self._claim(state.terms, Stage.SHARE)
        self._state, body = give_shares(state, cohort, self._id)
        return sign(Kind.SHARES, state.context, self._id, body, self._signing_key)

    def mask(self, boxes: bytes, plaintexts: Sequence[int], task: bytes, work: bytes) -> list[int]:
        """Stage 2: mask the vector, once. Encrypt what is returned, and nothing else, with `raw_encrypt`.

        A box that does not open is passed over: this client then has no share of that peer to reveal, which can end
        the round but never opens an update.

        Args:
            boxes: the boxes for this client from the other members of U2.
            plaintexts: (ciphertexts,) integers in [0, n).
            task: digest of what this client was really given and asked to do, 32 bytes.
            work: digest of what it computed from which rows, whatever the key and the session, 32 bytes.

        Returns:
            (ciphertexts,) integers, uniform in Z_n to everybody who lacks the masks.

        Raises:
            BrokenRuleError of OTHER_TASK: the round's terms, and so perhaps the peers, are about another task.
            BrokenRuleError of REPEATED_WORK: this work was in a sum over other clients.
            BrokenRuleError of COHORT_SWAP: the cohort was made to be subtracted from the last one.
            BrokenRuleError of REPEATED_STAGE, ROUND_MEMORY: it was answered in another life, or can't be remembered.
            BrokenRuleError of SMALL_COHORT, SUBSET: U2 is too small, or not inside U1.
            BrokenRuleError of MALFORMED_MESSAGE, REPLAYED_MESSAGE: not the boxes of this round.
            EncodingError: a vector of another length, or a value outside [0, n).
        """
        state = self._take(Shared)
        if task != state.terms.task:
            raise BrokenRuleError(
                Rule.OTHER_TASK,
                "this client was given another model, scaler, key or settings than the round is about; expected the "
                "same for all tenants of a sum",
            )
        found = parse_boxes(boxes, state.context)
        senders = frozenset(found) | {self._id}
        if self._id in found or not senders <= set(state.roster.ids):
            raise BrokenRuleError(
                Rule.SUBSET, "boxes from this client itself or from outside the roster; expected those of its peers"
            )
        _require(senders, state.terms, "sent shares")
        cohort = frozenset(state.roster.ids)
        self._memory.check_cohort(state.terms.session, state.terms.bucket, cohort, state.terms.n_min)
        for clients in (cohort, senders):
            self._memory.check_set(work, clients)
        if len(plaintexts) != self.plan.ciphertexts or not all(0 <= x < self.plan.modulus for x in plaintexts):
            raise EncodingError(f"expected {self.plan.ciphertexts} plaintexts in [0, n)")
        self._claim(state.terms, Stage.MASK)
        shares = open_shares(state, found, self._id)
        masks = MaskSum(self.plan.modulus, self.plan.ciphertexts)
        masks.add(agreement.self_mask_key(state.seed, state.context, self._id))
        for peer in found:
            # The sign follows the order of the ids, so that the two clients of a pair cancel (CCS 2017, section 4).
            (masks.add if self._id < peer else masks.subtract)(state.pair_keys[peer])
        masked = masks.apply(plaintexts)
        state.seed[:] = bytes(SECRET_BYTES)
        self._state = Masked(state.terms, state.context, state.roster, senders, shares, work)
        return masked

    def confirm(self, survivors: bytes) -> bytes:
        """Stage 3: sign, once, whose updates the server says have arrived.

        Args:
            survivors: U3.

        Returns:
            The signed digest of (roster, U2, U3).

        Raises:
            BrokenRuleError of SUBSET, SMALL_COHORT: U3 is not inside U2, or too small.
            BrokenRuleError of OWN_UPDATE: U3 is without this client.
            BrokenRuleError of REPEATED_WORK: this work was in a sum over other clients.
            BrokenRuleError of MALFORMED_MESSAGE, REPLAYED_MESSAGE: not the survivors of this round.
        """
        state = self._take(Masked)
        arrived = parse_survivors(survivors, state.context)
        if not arrived <= state.senders:
            raise BrokenRuleError(
                Rule.SUBSET, f"survivors {sorted(arrived - state.senders)} sent no shares; expected only who did"
            )
        if self._id not in arrived:
            raise BrokenRuleError(
                Rule.OWN_UPDATE, f"client {self._id!r} is not among the survivors that it should confirm"
            )
        _require(arrived, state.terms, "updates arrived")
        self._memory.check_set(state.work, arrived)
        self._claim(state.terms, Stage.CONFIRM)
        self._state = Confirmed(state, arrived)
        body = view_digest(state.roster.digest, state.senders, arrived)
        return sign(Kind.CONFIRM, state.context, self._id, body, self._signing_key)

    def reveal(self, request: bytes) -> bytes:
        """Stage 4: give out one share for each member of U2, once at least t clients have confirmed the same view.

        Args:
            request: the shares that the server asks for, and the signatures of the confirms.

        Returns:
            The signed shares: of b_j for j in U3, of j's mask key for j in U2 without U3.

        Raises:
            BrokenRuleError of BOTH_SHARES, SHARE_REQUEST: other shares than these are asked for.
            BrokenRuleError of CONSISTENCY: fewer than t confirms, or a confirm from outside U3 or of another view.
            BrokenRuleError of MALFORMED_MESSAGE, REPLAYED_MESSAGE: not the request of this round.
        """
        state = self._take(Confirmed)
        masked, survivors = state.masked, state.survivors
        asked = RevealRequest.parse(request, masked.context)
        if asked.seeds & asked.keys:
            raise BrokenRuleError(
                Rule.BOTH_SHARES, f"both shares of {sorted(asked.seeds & asked.keys)} are asked for; never given"
            )
        if asked.seeds != survivors or asked.keys != masked.senders - survivors:
            raise BrokenRuleError(
                Rule.SHARE_REQUEST, "the shares asked for don't follow from the survivors that this client confirmed"
            )
        self._check_confirms(state, asked.signatures)
        cohort = frozenset(masked.roster.ids)
        # On the disk before the answer leaves: from now on this work is given to no other set of clients.
        self._claim(masked.terms, Stage.REVEAL)
        self._memory.open_sum(masked.terms.session, masked.terms.bucket, masked.work, cohort, survivors)
        shares = masked.shares
        body = RevealBody(
            seeds={peer: shares[peer][0] for peer in asked.seeds if peer in shares},
            keys={peer: shares[peer][1] for peer in asked.keys if peer in shares},
        ).encode()
        self._state = Done()
        return sign(Kind.REVEAL, masked.context, self._id, body, self._signing_key)

    @property
    def sharers(self) -> int:
        """How many honest clients are sure to be in the sum, if it opens: max(t, n_min) less a third of the cohort.

        Raises:
            BrokenRuleError of OUT_OF_ORDER: the cohort is not known yet, or no longer of use.
        """
        state = self._state
        if not isinstance(state, Shared):
            raise BrokenRuleError(Rule.OUT_OF_ORDER, "this comes between the stages 'share' and 'mask'")
        return least_honest(state.terms.required, len(state.roster.ids))

    def suspend(self) -> bytes:
        """Take the state out of this object, as bytes for `resume`; they hold this round's secrets."""
        with self._lock:
            state, self._state = self._state, Refused()
        return encode_state(state)

    def resume(self, suspended: bytes) -> None:
        """Go on where another object of this client was suspended.

        Set back to an earlier state, a client answers no stage twice: its memory knows (`RoundMemory.claim`).

        Raises:
            BrokenRuleError of MALFORMED_MESSAGE: not what `suspend` returned.
        """
        state = decode_state(suspended)
        with self._lock:
            self._state = state

    def _check_confirms(self, state: Confirmed, signatures: Mapping[str, bytes]) -> None:
        masked = state.masked
        check_confirms(masked.terms, masked.roster, masked.senders, state.survivors, signatures, self._enrolled)

    def _claim(self, terms: RoundTerms, stage: Stage) -> None:
        self._memory.claim(terms.session, terms.bucket, terms.round_number, stage)

    def _take(self, kind: type[_S]) -> _S:
        """The state that a stage needs, taken out of the object, so that no second call can find it."""
        with self._lock:
            state, self._state = self._state, Refused()
        if isinstance(state, kind):
            return state
        if isinstance(state, Refused):
            raise BrokenRuleError(
                Rule.ROUND_OVER, "this client has refused the round; expected a new round with new keys"
            )
        if ORDER.index(type(state)) > ORDER.index(kind):
            raise BrokenRuleError(
                Rule.REPEATED_STAGE, "this stage of the round was done before; expected each stage once"
            )
        raise BrokenRuleError(
            Rule.OUT_OF_ORDER, "this stage of the round comes too early; expected the stage before it first"
        )


def _require(clients: frozenset[str], terms: RoundTerms, did: str) -> None:
    if len(clients) < terms.required:
        raise BrokenRuleError(Rule.SMALL_COHORT, f"{len(clients)} clients {did}; expected at least {terms.required}")
