"""The server's side of one masked round: bytes in, bytes out, and a sum or nothing at the end.

Source: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, figure 4 with
the consistency check, over Z_n in place of Z_R.

The law, exactly: `unmask(sum of masked plaintexts of U3 mod n) == sum of plaintexts of U3 mod n`, or a
`RoundAbandonedError`; there is no third outcome and no partial result.
"""

from collections.abc import Collection, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.errors import EncodingError, KeyMaterialError
from shared.masking import agreement
from shared.masking.codec import Kind, Signed, parse_signed
from shared.masking.errors import BrokenRuleError, RoundAbandonedError, Rule
from shared.masking.messages import (
    MAX_COHORT,
    Advert,
    RevealBody,
    RevealRequest,
    RoundTerms,
    ShareBody,
    encode_boxes,
    encode_roster,
    encode_survivors,
    minimum_threshold,
    modulus_digest,
    view_digest,
)
from shared.masking.opened import OpenedMasks, SumMasks, public_mask_key
from shared.masking.roster import Roster, check_advert, check_enrolment
from shared.masking.shamir import Rebuilder

_STAGES = ("advertise", "share", "mask", "confirm", "reveal", "over")


class ServerRound:
    """The server in one round: for each stage any number of `add_...`, then its `close_...` (the last is `unmask`).

    An `add_...` takes one client's message and returns the client's id; on an `UpdateRejectedError` that message does
    not count and its sender is as good as dropped out. A `close_...` ends the stage, returns what goes to the clients
    that are still in (`cohort`), and raises `RoundAbandonedError` where too few are left. Which connection belongs to
    which client is what the signed advert says. Not thread-safe: collect in threads, add in one.
    """

    def __init__(self, terms: RoundTerms, modulus: int, enrolled: Mapping[str, Ed25519PublicKey]) -> None:
        """Open a round.

        Args:
            terms: what the round is about; t must be at least `minimum_threshold` of the clients that may come.
            modulus: the Paillier modulus n.
            enrolled: the Ed25519 public key of every client that may take part.

        Raises:
            KeyMaterialError: the terms are of another modulus, or two clients are enrolled with one key.
        """
        check_enrolment(enrolled)
        if terms.modulus_digest != modulus_digest(modulus):
            raise KeyMaterialError("the terms of the round are for another modulus than the one given")
        self._terms = terms
        self._context = terms.context()
        self._modulus = modulus
        self._enrolled = dict(enrolled)
        self._stage = 0
        self._adverts: dict[str, Advert] = {}
        self._roster = Roster((), {}, b"")
        self._shares: dict[str, ShareBody] = {}  # keys: U2
        self._uploads: set[str] = set()  # U3
        self._confirms: dict[str, Signed] = {}  # keys: U4
        self._reveals: dict[str, RevealBody] = {}  # keys: U5
        self._messages: dict[str, bytes] = {}  # of stage 1, as they came
        self._request = b""  # of stage 4
        self._seeds: dict[str, bytes] = {}  # rebuilt
        self._keys: dict[str, bytes] = {}
        self._cohort: frozenset[str] = frozenset(enrolled)

    @property
    def cohort(self) -> tuple[str, ...]:
        """The ids of the clients that are still in, ascending: whom to ask next."""
        return tuple(sorted(self._cohort))

    def announcement(self) -> bytes:
        """Stage 0: what every client's `advertise` gets."""
        return self._terms.encode()

    def add_advert(self, payload: bytes) -> str:
        """Stage 0: one client's advert.

        Raises:
            BrokenRuleError: the advert is left out.
        """
        self._at("advertise")
        advert = Advert.parse(payload, self._context)
        check_advert(advert, self._adverts, self._enrolled)
        if len(self._adverts) == MAX_COHORT:
            raise BrokenRuleError(Rule.OUTSIDE_COHORT, f"an advert beyond the {MAX_COHORT} that one round can hold")
        self._adverts[advert.message.sender] = advert
        return advert.message.sender

    def close_adverts(self) -> bytes:
        """Stage 0 to 1: the roster U1, the same bytes for every client's `share`.

        Raises:
            RoundAbandonedError: fewer than max(t, n_min) adverts, or t too low for so many.
        """
        self._close("advertise", self._adverts.keys(), self._terms.required)
        if self._terms.threshold < minimum_threshold(len(self._adverts)):
            self._stage = _STAGES.index("over")
            raise RoundAbandonedError(
                f"t = {self._terms.threshold} for {len(self._adverts)} clients, which every client refuses; "
                f"expected at least {minimum_threshold(len(self._adverts))}"
            )
        self._roster = Roster.of(self._adverts, self._context)
        return encode_roster(self._adverts, self._context)

    def add_shares(self, payload: bytes) -> str:
        """Stage 1: one client's commitment and boxes.

        Raises:
            BrokenRuleError: the client is left out.
        """
        message = self._open("share", payload, Kind.SHARES, self._shares)
        shares = ShareBody.decode(message.body)
        if shares.boxes.keys() != set(self._roster.ids) - {message.sender}:
            raise BrokenRuleError(
                Rule.OUTSIDE_COHORT, f"client {message.sender!r}: expected one box for each of its peers"
            )
        self._shares[message.sender], self._messages[message.sender] = shares, payload
        return message.sender

    def close_shares(self) -> dict[str, bytes]:
        """Stage 1 to 2: for each client of U2, the boxes that its `mask` gets.

        Raises:
            RoundAbandonedError: fewer than max(t, n_min) clients sent shares.
        """
        self._close("share", self._shares.keys(), self._terms.required)
        return {
            receiver: encode_boxes(
                {sender: sent.boxes[receiver] for sender, sent in self._shares.items() if sender != receiver},
                self._context,
            )
            for receiver in self.cohort
        }

    def add_upload(self, client_id: str) -> None:
        """Stage 2: this client's ciphertexts have arrived, are valid, and will be in the sum.

        Raises:
            BrokenRuleError of OUTSIDE_COHORT, REPEATED_MESSAGE, OUT_OF_ORDER: they must not be in the sum.
        """
        self._at("mask")
        self._expect(client_id, self._uploads)
        self._uploads.add(client_id)

    def close_uploads(self) -> bytes:
        """Stage 2 to 3: the survivors U3, the same bytes for every survivor's `confirm`.

        Raises:
            RoundAbandonedError: fewer than max(t, n_min) updates.
        """
        self._close("mask", self._uploads, self._terms.required)
        return encode_survivors(self._cohort, self._context)

    def add_confirm(self, payload: bytes) -> str:
        """Stage 3: one client's confirm.

        Raises:
            BrokenRuleError: the confirm does not count; of CONSISTENCY: it is of another view than the server's.
        """
        message = self._open("confirm", payload, Kind.CONFIRM, self._confirms)
        if message.body != view_digest(self._roster.digest, frozenset(self._shares), frozenset(self._uploads)):
            raise BrokenRuleError(
                Rule.CONSISTENCY, f"client {message.sender!r} confirms another roster, U2 or U3 than the server's"
            )
        self._confirms[message.sender] = message
        return message.sender

    def close_confirms(self) -> bytes:
        """Stage 3 to 4: the reveal request, the same bytes for every confirmer's `reveal`.

        Raises:
            RoundAbandonedError: fewer than t confirms.
        """
        self._close("confirm", self._confirms.keys(), self._terms.threshold)
        signatures = {client_id: message.signature for client_id, message in self._confirms.items()}
        request = RevealRequest(frozenset(self._uploads), self._dropped(), signatures)
        self._request = request.encode(self._context)
        return self._request

    def add_reveal(self, payload: bytes) -> str:
        """Stage 4: one client's shares.

        Raises:
            BrokenRuleError: the shares are not used.
        """
        message = self._open("reveal", payload, Kind.REVEAL, self._reveals)
        reveal = RevealBody.decode(message.body)
        if not (reveal.seeds.keys() <= self._uploads and reveal.keys.keys() <= self._dropped()):
            raise BrokenRuleError(
                Rule.OUTSIDE_COHORT, f"client {message.sender!r} reveals shares that it was not asked for"
            )
        self._reveals[message.sender] = reveal
        return message.sender

    def unmask(self, masked_sum: Sequence[int]) -> list[int]:
        """After stage 4: take the masks off the decrypted sum of the updates of U3.

        Args:
            masked_sum: (ciphertexts,) the sum of U3's masked plaintexts mod n.

        Returns:
            (ciphertexts,) the sum of U3's plaintexts mod n.

        Raises:
            RoundAbandonedError: fewer than t reveals, or a secret can't be rebuilt from the shares that came.
            EncodingError: a sum of another length, or a value outside [0, n).
        """
        self._close("reveal", self._reveals.keys(), self._terms.threshold)
        if len(masked_sum) != self._terms.ciphertexts or not all(0 <= x < self._modulus for x in masked_sum):
            raise EncodingError(f"expected a sum of {self._terms.ciphertexts} plaintexts in [0, n)")
        rebuilder = Rebuilder(self._terms.threshold)
        self._seeds = {client: self._seed(rebuilder, client) for client in sorted(self._uploads)}
        self._keys = {client: self._mask_key(rebuilder, client) for client in sorted(self._dropped())}
        self._reveals.clear()
        return SumMasks(self._terms, self._roster, self._modulus, self._seeds, self._keys).take_off(masked_sum)

    def opened(self) -> OpenedMasks:
        """After `unmask`: what lets others take the masks off this sum as well."""
        self._at("over")
        shares = {client: self._messages[client] for client in self._seeds}
        roster = encode_roster(self._roster.adverts, self._context)
        return OpenedMasks(self._terms, roster, self._request, shares, self._seeds, self._keys)

    def _seed(self, rebuilder: Rebuilder, owner: str) -> bytes:
        commitment = self._shares[owner].commitment
        shares = {self._roster.point(i): body.seeds[owner] for i, body in self._reveals.items() if owner in body.seeds}
        return rebuilder.rebuild(owner, shares, lambda seed: agreement.commit(seed, self._context, owner) == commitment)

    def _mask_key(self, rebuilder: Rebuilder, owner: str) -> bytes:
        public_key = self._adverts[owner].mask_key
        shares = {self._roster.point(i): body.keys[owner] for i, body in self._reveals.items() if owner in body.keys}

        def accept(key: bytes) -> bool:
            return public_mask_key(key) == public_key

        return rebuilder.rebuild(owner, shares, accept)

    def _dropped(self) -> frozenset[str]:
        """U2 without U3."""
        return frozenset(self._shares) - self._uploads

    def _open(self, stage: str, payload: bytes, kind: Kind, seen: Collection[str]) -> Signed:
        self._at(stage)
        message = parse_signed(payload, kind, self._context)
        message.verify(self._enrolled)
        self._expect(message.sender, seen)
        return message

    def _expect(self, client_id: str, seen: Collection[str]) -> None:
        if client_id not in self._cohort:
            raise BrokenRuleError(Rule.OUTSIDE_COHORT, f"client {client_id!r} is not, or no longer, in the round")
        if client_id in seen:
            raise BrokenRuleError(
                Rule.REPEATED_MESSAGE, f"client {client_id!r} has sent this message before; the first one stands"
            )

    def _at(self, stage: str) -> None:
        if _STAGES[self._stage] != stage:
            raise BrokenRuleError(Rule.OUT_OF_ORDER, f"stage {stage!r} while the round is at {_STAGES[self._stage]!r}")

    def _close(self, stage: str, present: Collection[str], needed: int) -> None:
        self._at(stage)
        if len(present) < needed:
            self._stage = _STAGES.index("over")
            raise RoundAbandonedError(f"stage {stage!r}: {len(present)} clients answered; expected at least {needed}")
        self._stage += 1
        self._cohort = frozenset(present)
