"""What the end of a masked sum makes known, as evidence: from it anybody enrolled can take the masks off the sum.

It holds the round's terms, the roster of signed adverts, the confirms of who is in the sum (U3), the signed commitments
and the rebuilt secrets: the seed b_i of everybody in the sum, the mask key of everybody who dropped out of it. Nothing
of it opens an update: between two members of U3 there are pair masks, whose keys were never rebuilt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.masking import agreement
from shared.masking.codec import Kind, Reader, encode_entries, encode_number, header, parse_signed, read_signed
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.messages import RevealRequest, RoundTerms, ShareBody, modulus_digest
from shared.masking.roster import Roster, check_confirms, read_roster
from shared.masking.shamir import SECRET_BYTES
from shared.masking.stream import MaskSum


@dataclass(frozen=True)
class OpenedMasks:
    """The evidence.

    Attributes:
        terms: of the round.
        roster: U1, as it went to the clients.
        request: who is in the sum, who dropped out, and the confirms, as it went to the clients.
        shares: the signed message of stage 1 of each member of U3, which has its commitment.
        seeds: b_i of each member of U3, 32 bytes.
        keys: the X25519 mask key of each member of U2 without U3, 32 bytes.
    """

    terms: RoundTerms
    roster: bytes
    request: bytes
    shares: Mapping[str, bytes]
    seeds: Mapping[str, bytes]
    keys: Mapping[str, bytes]

    def encode(self) -> bytes:
        """The whole of it as bytes."""
        parts = [self.terms.encode(), self.roster, self.request]
        lengths = b"".join(encode_number(len(part), 4) for part in parts)
        shares = b"".join(self.shares[client] for client in sorted(self.shares))
        return b"".join(
            (
                header(Kind.OPENED),
                lengths,
                *parts,
                encode_number(len(self.shares), 2),
                shares,
                encode_entries(self.seeds),
                encode_entries(self.keys),
            )
        )

    @classmethod
    def decode(cls, payload: bytes) -> "OpenedMasks":
        """The inverse of `encode`, for bytes of unknown origin.

        Raises:
            BrokenRuleError of MALFORMED_MESSAGE, REPLAYED_MESSAGE: not such bytes.
        """
        reader = Reader(payload, Kind.OPENED)
        reader.header(Kind.OPENED)
        lengths = [reader.number(4) for _ in range(3)]
        announcement, roster, request = (reader.take(length) for length in lengths)
        terms = RoundTerms.decode(announcement)
        signed = [read_signed(reader, Kind.SHARES, terms.context()) for _ in range(reader.number(2))]
        senders = [message.sender for message in signed]
        if senders != sorted(set(senders)):
            raise BrokenRuleError(
                Rule.MALFORMED_MESSAGE, "opened masks: expected one message of stage 1 a client, in ascending order"
            )
        opened = cls(
            terms, roster, request, {message.sender: message.payload for message in signed},
            reader.entries(SECRET_BYTES), reader.entries(agreement.KEY_BYTES),
        )  # fmt: skip
        reader.end()
        return opened

    def check(self, enrolled: Mapping[str, Ed25519PublicKey], modulus: int) -> "SumMasks":
        """The masks of the sum, once all that they follow from is checked.

        Args:
            enrolled: the clients that may take part, by the verifier's own list.
            modulus: the Paillier modulus n.

        Raises:
            BrokenRuleError: of one rule or another; the sum can't be what it is said to be.
        """
        terms, context = self.terms, self.terms.context()
        if terms.modulus_digest != modulus_digest(modulus):
            raise BrokenRuleError(Rule.OTHER_TERMS, "the masks are for another public key than the sum")
        roster = read_roster(self.roster, terms, enrolled)
        request = RevealRequest.parse(self.request, context)
        survivors, dropped = request.seeds, request.keys
        if survivors & dropped or not survivors | dropped <= set(roster.ids):
            raise BrokenRuleError(
                Rule.SUBSET, "who is in the sum, who dropped out of it and the roster don't go together"
            )
        check_confirms(terms, roster, survivors | dropped, survivors, request.signatures, enrolled)
        if not (self.seeds.keys() == self.shares.keys() == survivors and self.keys.keys() == dropped):
            raise BrokenRuleError(
                Rule.FALSE_SECRET, "expected a seed of everybody in the sum, and a key of everybody who dropped out"
            )
        for client, seed in self.seeds.items():
            message = parse_signed(self.shares[client], Kind.SHARES, context)
            message.verify(enrolled)
            if ShareBody.decode(message.body).commitment != agreement.commit(seed, context, client):
                raise BrokenRuleError(
                    Rule.FALSE_SECRET, f"the seed shown for client {client!r} is not the one that it committed to"
                )
        for client, key in self.keys.items():
            if public_mask_key(key) != roster.adverts[client].mask_key:
                raise BrokenRuleError(
                    Rule.FALSE_SECRET, f"the mask key shown for client {client!r} is not the one that it advertised"
                )
        return SumMasks(terms, roster, modulus, self.seeds, self.keys)


@dataclass(frozen=True)
class SumMasks:
    """All that is left of the masks in a sum over `seeds.keys()`.

    Attributes:
        terms: of the round.
        roster: U1.
        modulus: the Paillier modulus n.
        seeds: b_i of each member of the sum.
        keys: the mask key of each client that sent shares and is not in the sum.
    """

    terms: RoundTerms
    roster: Roster
    modulus: int
    seeds: Mapping[str, bytes]
    keys: Mapping[str, bytes]

    def take_off(self, masked_sum: Sequence[int]) -> list[int]:
        """The sum of plaintexts mod n of a sum of masked plaintexts, (ciphertexts,)."""
        context = self.terms.context()
        masks = MaskSum(self.modulus, self.terms.ciphertexts)
        for client in sorted(self.seeds):
            masks.subtract(agreement.self_mask_key(self.seeds[client], context, client))
        for dropped in sorted(self.keys):
            mask_key = X25519PrivateKey.from_private_bytes(self.keys[dropped])
            for client in sorted(self.seeds):
                common = agreement.exchange(mask_key, self.roster.adverts[client].mask_key)
                key = agreement.pair_mask_key(common, context, client, dropped)
                (masks.subtract if client < dropped else masks.add)(key)
        return masks.apply(masked_sum)


def public_mask_key(key: bytes) -> bytes:
    """The 32 bytes of the X25519 public key of a private one."""
    return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
