"""What a client holds between two stages of a round. Each state is taken by one stage, once, and then gone."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.masking.messages import RoundTerms
from shared.masking.roster import Roster


@dataclass(frozen=True)
class Fresh:
    """Before the round."""


@dataclass(frozen=True)
class Advertised:
    terms: RoundTerms
    context: bytes
    channel_key: X25519PrivateKey
    mask_key: X25519PrivateKey
    advert: bytes


@dataclass(frozen=True)
class Shared:
    terms: RoundTerms
    context: bytes
    roster: Roster
    seed: bytearray  # b_i, 32 bytes
    seed_share: int  # this client's own share of its own b_i
    pair_keys: dict[str, bytes]  # stream key shared with each peer
    box_keys: dict[str, bytes]  # AEAD key of the box that each peer made for this client


@dataclass(frozen=True)
class Masked:
    terms: RoundTerms
    context: bytes
    roster: Roster
    senders: frozenset[str]  # U2
    shares: dict[str, tuple[int, int]]  # (share of b_j, share of j's mask key) by peer j


@dataclass(frozen=True)
class Confirmed:
    masked: Masked
    survivors: frozenset[str]  # U3


@dataclass(frozen=True)
class Done:
    """After the reveal."""


@dataclass(frozen=True)
class Refused:
    """After any error."""


ORDER = (Fresh, Advertised, Shared, Masked, Confirmed, Done)
State = Fresh | Advertised | Shared | Masked | Confirmed | Done | Refused
