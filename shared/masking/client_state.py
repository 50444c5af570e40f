"""What a client holds between two stages of a round. Each state is taken by one stage, once, and then gone.

None of them has a `repr`: they hold secrets, and a traceback or a log line is no place for those.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.masking.messages import RoundTerms
from shared.masking.roster import Roster


@dataclass(frozen=True, repr=False)
class Fresh:
    """Before the round."""


@dataclass(frozen=True, repr=False)
class Advertised:
    """After stage 0."""

    terms: RoundTerms
    context: bytes
    channel_key: X25519PrivateKey
    mask_key: X25519PrivateKey
    advert: bytes


@dataclass(frozen=True, repr=False)
class Shared:
    """After stage 1."""

    terms: RoundTerms
    context: bytes
    roster: Roster
    seed: bytearray  # b_i, 32 bytes
    seed_share: int  # this client's own share of its own b_i
    pair_keys: dict[str, bytes]  # stream key shared with each peer
    box_keys: dict[str, bytes]  # AEAD key of the box that each peer made for this client


@dataclass(frozen=True, repr=False)
class Masked:
    """After stage 2; the upload is made."""

    terms: RoundTerms
    context: bytes
    roster: Roster
    senders: frozenset[str]  # U2
    shares: dict[str, tuple[int, int]]  # (share of b_j, share of j's mask key) by peer j
    work: bytes  # what the vector was computed from


@dataclass(frozen=True, repr=False)
class Confirmed:
    """After stage 3."""

    masked: Masked
    survivors: frozenset[str]  # U3


@dataclass(frozen=True, repr=False)
class Done:
    """After the reveal."""


@dataclass(frozen=True, repr=False)
class Refused:
    """After any error."""


ORDER = (Fresh, Advertised, Shared, Masked, Confirmed, Done)
State = Fresh | Advertised | Shared | Masked | Confirmed | Done | Refused
