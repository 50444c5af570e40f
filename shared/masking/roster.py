"""Who is in a round: the enrolled identities and the roster U1 of signed adverts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.errors import KeyMaterialError
from shared.masking.agreement import exchange
from shared.masking.codec import Kind, Signed, encode_id, unsigned
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.messages import (
    MAX_COHORT,
    Advert,
    RoundTerms,
    encode_roster,
    minimum_threshold,
    parse_roster,
    view_digest,
)


@dataclass(frozen=True)
class Roster:
    """U1, verified.

    Attributes:
        ids: all clients, ascending; a client's place fixes which share of a secret it holds.
        adverts: their public keys.
        digest: SHA-256 of the roster's bytes, bound into every box and confirm.
    """

    ids: tuple[str, ...]
    adverts: Mapping[str, Advert]
    digest: bytes

    @classmethod
    def of(cls, adverts: Mapping[str, Advert], context: bytes) -> "Roster":
        """The roster of adverts that have been checked."""
        ids = tuple(sorted(adverts))
        return cls(ids, dict(adverts), hashlib.sha256(encode_roster(adverts, context)).digest())

    def point(self, client_id: str) -> int:
        """x of the Shamir share that a client holds, from 1."""
        return self.ids.index(client_id) + 1


def check_enrolment(enrolled: Mapping[str, Ed25519PublicKey]) -> None:
    """One id, one key: a person enrolled twice would count twice.

    Raises:
        KeyMaterialError: two ids have one key.
        BrokenRuleError of MALFORMED_MESSAGE: an id that can't travel.
    """
    for client_id in enrolled:
        encode_id(client_id)
    if len({key.public_bytes_raw() for key in enrolled.values()}) != len(enrolled):
        raise KeyMaterialError("two enrolled clients have one Ed25519 key; expected a key of its own for each")


def check_advert(advert: Advert, others: Mapping[str, Advert], enrolled: Mapping[str, Ed25519PublicKey]) -> None:
    """One more advert beside the others of the round.

    Raises:
        BrokenRuleError of UNKNOWN_PEER, BAD_SIGNATURE: not from an enrolled client.
        BrokenRuleError of REPEATED_ADVERT: its id or one of its keys is in the round already.
        BrokenRuleError of WEAK_KEY: a key of low order.
    """
    sender = advert.message.sender
    advert.message.verify(enrolled)
    if sender in others:
        raise BrokenRuleError(
            Rule.REPEATED_ADVERT, f"client {sender!r} advertises twice; expected one advert per client"
        )
    taken = {key for other in others.values() for key in (other.channel_key, other.mask_key)}
    if advert.channel_key == advert.mask_key or taken & {advert.channel_key, advert.mask_key}:
        raise BrokenRuleError(Rule.REPEATED_ADVERT, f"client {sender!r} advertises a key that is in the round already")
    probe = X25519PrivateKey.generate()  # every private key maps a point of low order to zero, so any will tell
    exchange(probe, advert.channel_key)
    exchange(probe, advert.mask_key)


def read_roster(
    payload: bytes, terms: RoundTerms, enrolled: Mapping[str, Ed25519PublicKey], own_advert: bytes | None = None
) -> Roster:
    """U1 as a client accepts it; for what is raised see `ClientRound.share`. None: of whoever is not in it."""
    adverts: dict[str, Advert] = {}
    for advert in parse_roster(payload, terms.context()):
        check_advert(advert, adverts, enrolled)
        adverts[advert.message.sender] = advert
    if encode_roster(adverts, terms.context()) != payload or len(adverts) > MAX_COHORT:
        raise BrokenRuleError(
            Rule.MALFORMED_MESSAGE, f"roster: expected at most {MAX_COHORT} adverts in ascending order of their ids"
        )
    if own_advert is not None and own_advert not in {advert.message.payload for advert in adverts.values()}:
        raise BrokenRuleError(
            Rule.OWN_ADVERT, "the roster lacks this client's own advert, or shows another one in its place"
        )
    if len(adverts) < terms.required:
        raise BrokenRuleError(
            Rule.SMALL_COHORT, f"{len(adverts)} clients advertise; expected at least {terms.required}"
        )
    if terms.threshold < minimum_threshold(len(adverts)):
        raise BrokenRuleError(
            Rule.LOW_THRESHOLD,
            f"t = {terms.threshold} for {len(adverts)} clients; expected at least {minimum_threshold(len(adverts))}",
        )
    return Roster.of(adverts, terms.context())


def check_confirms(
    terms: RoundTerms,
    roster: Roster,
    senders: frozenset[str],
    survivors: frozenset[str],
    signatures: Mapping[str, bytes],
    enrolled: Mapping[str, Ed25519PublicKey],
) -> None:
    """At least t members of U3 have signed this very view (CCS 2017, figure 4, round 4).

    Two views with t signatures each have 2t - N > N/3 signers in common, and an honest client signs once.

    Args:
        terms: of the round.
        roster: U1.
        senders: U2.
        survivors: U3.
        signatures: 64 bytes of each confirm, by client.
        enrolled: everybody's public key.

    Raises:
        BrokenRuleError of CONSISTENCY: fewer than t confirms, or a confirm from outside U3.
        BrokenRuleError of BAD_SIGNATURE, UNKNOWN_PEER: a confirm of another view, or of nobody who is enrolled.
    """
    if len(signatures) < terms.threshold or not survivors.issuperset(signatures):
        raise BrokenRuleError(
            Rule.CONSISTENCY,
            f"{len(signatures)} confirms; expected at least {terms.threshold}, all from surviving clients",
        )
    body, context = view_digest(roster.digest, senders, survivors), terms.context()
    for signer, signature in signatures.items():
        signed = unsigned(Kind.CONFIRM, context, signer, body) + signature
        Signed(signer, body, signature, signed).verify(enrolled)
