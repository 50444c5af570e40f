"""Who is in which group: drawn by all tenants together, so that nobody chooses whose vectors are added to whose.

Each tenant commits to 32 random bytes, and reveals them once it has seen what the others committed to (Blum, "Coin
Flipping by Telephone", 1981). All of them together are the seed. One honest toss makes it random, and each reveal is
signed, so that whoever was away can check a draw as well.

What is left to the orchestrator is to end a draw before its last reveal and ask for another one. A tenant tosses once
for each number, and no more than `most_draws` times in a session, so it has that many tries and no more.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import RoundRefusedError
from shared.masking.codec import (
    SIGNATURE_BYTES,
    Kind,
    Reader,
    encode_entries,
    encode_id,
    encode_number,
    header,
    unsigned,
)
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.memory import hides_swap
from shared.masking.messages import SESSION_BYTES

TOSS_BYTES = COMMITMENT_BYTES = 32
VOID_DRAWS = 3  # draws of a session that may come to nothing, because a tenant was lost before its reveal
_TRIES = 1000  # orders of the tenants that are looked at for one that follows the partition before


def most_draws(regroupings: int) -> int:
    """How many draws a tenant takes part in, in one session."""
    return 1 + regroupings + VOID_DRAWS


@dataclass(frozen=True)
class Toss:
    """What a draw is about, as the orchestrator announces it.

    Attributes:
        session: of this start of the server, `SESSION_BYTES`.
        number: of the draw in the session, from 0.
        groups: how many to draw.
    """

    session: bytes
    number: int
    groups: int

    def encode(self) -> bytes:
        """As it travels."""
        return header(Kind.TOSS) + self.session + encode_number(self.number, 4) + encode_number(self.groups, 2)

    @classmethod
    def decode(cls, payload: bytes) -> "Toss":
        """The inverse of `encode`.

        Raises:
            BrokenRuleError of MALFORMED_MESSAGE: not such bytes.
        """
        reader = Reader(payload, Kind.TOSS)
        toss = cls.read(reader)
        reader.end()
        return toss

    @classmethod
    def read(cls, reader: Reader) -> "Toss":
        reader.header(Kind.TOSS)
        return cls(reader.take(SESSION_BYTES), reader.number(4), reader.number(2))

    def context(self) -> bytes:
        """What every message of the draw is bound to, 32 bytes."""
        return hashlib.sha256(b"draw of groups\0" + self.encode()).digest()

    def commitment(self, name: str, secret: bytes) -> bytes:
        """To this tenant's secret bytes, 32 bytes."""
        return hashlib.sha256(b"toss\0" + self.context() + encode_id(name) + secret).digest()

    def sign(self, name: str, commitments: Mapping[str, bytes], secret: bytes, key: Ed25519PrivateKey) -> bytes:
        """The 64 bytes that a tenant reveals its secret with, once it knows all commitments."""
        return key.sign(self._statement(name, commitments, secret))

    def check(
        self,
        name: str,
        commitments: Mapping[str, bytes],
        secret: bytes,
        signature: bytes,
        keys: Mapping[str, Ed25519PublicKey],
    ) -> None:
        """Whether a tenant has revealed this secret in answer to these commitments.

        Raises:
            BrokenRuleError of UNKNOWN_PEER: nobody of that name is known.
            BrokenRuleError of BAD_SIGNATURE: it did not sign that.
        """
        if name not in keys:
            raise BrokenRuleError(Rule.UNKNOWN_PEER, f"draw {self.number}: {name!r} tossed, who is not enrolled")
        try:
            keys[name].verify(signature, self._statement(name, commitments, secret))
        except InvalidSignature:
            raise BrokenRuleError(Rule.BAD_SIGNATURE, f"draw {self.number}: {name!r} did not sign this toss") from None

    def _statement(self, name: str, commitments: Mapping[str, bytes], secret: bytes) -> bytes:
        settled = hashlib.sha256(encode_entries(commitments)).digest()
        return unsigned(Kind.REVEALED_TOSS, self.context(), name, settled + secret)


@dataclass(frozen=True)
class Draw:
    """A finished draw, as all tenants are shown it.

    Attributes:
        toss: what it is about.
        revealed: the bytes and the signature of each tenant that tossed, by name.
    """

    toss: Toss
    revealed: Mapping[str, tuple[bytes, bytes]]

    def encode(self) -> bytes:
        """As it travels."""
        entries = {name: secret + signature for name, (secret, signature) in self.revealed.items()}
        return self.toss.encode() + encode_entries(entries)

    def check(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        """Whether each of its tenants has tossed so.

        Args:
            keys: of the tenants that are, or were, enrolled.

        Raises:
            BrokenRuleError of UNKNOWN_PEER, BAD_SIGNATURE: a toss is of nobody who is known, or not its tenant's own.
        """
        commitments = {name: self.toss.commitment(name, secret) for name, (secret, _) in self.revealed.items()}
        for name, (secret, signature) in self.revealed.items():
            self.toss.check(name, commitments, secret, signature, keys)

    @cached_property
    def seed(self) -> bytes:
        """What the groups follow from, 32 bytes."""
        return hashlib.sha256(b"groups\0" + self.encode()).digest()


@dataclass(frozen=True)
class Partition:
    """The groups of a draw.

    Attributes:
        seed: of the draw.
        groups: who is in each.
    """

    seed: bytes
    groups: tuple[frozenset[str], ...]

    def group_of(self, name: str) -> int:
        """Which group this tenant is in; who came after the draw has a place that it can't choose either."""
        for number, group in enumerate(self.groups):
            if name in group:
                return number
        return int.from_bytes(_hashed(self.seed, 0, name)) % len(self.groups)

    def label(self, group: int) -> str:
        """Names one group of one draw to all, 64 hex digits: part of the terms of its sums."""
        return hashlib.sha256(b"group\0" + self.seed + encode_number(group, 2)).hexdigest()


def encode_draws(draws: Sequence[Draw]) -> bytes:
    """The draws of a session so far, as they travel."""
    return header(Kind.DRAWS) + encode_number(len(draws), 2) + b"".join(draw.encode() for draw in draws)


def decode_draws(payload: bytes) -> list[Draw]:
    """The inverse of `encode_draws`.

    Raises:
        BrokenRuleError of MALFORMED_MESSAGE: not such bytes.
    """
    reader = Reader(payload, Kind.DRAWS)
    reader.header(Kind.DRAWS)
    draws = []
    for _ in range(reader.number(2)):
        toss = Toss.read(reader)
        entries = reader.entries(TOSS_BYTES + SIGNATURE_BYTES)
        draws.append(Draw(toss, {name: (both[:TOSS_BYTES], both[TOSS_BYTES:]) for name, both in entries.items()}))
    reader.end()
    return draws


def partition(draws: Sequence[Draw], fewest: int) -> Partition:
    """The groups that the last of these draws makes: as even as can be.

    Of two groups of two draws that follow each other, the members that differ are none or at least `fewest`, so that
    the difference of their sums hides each of them.

    Args:
        draws: of a session, in their order.
        fewest: tenants that a sum has to be over.

    Raises:
        RoundRefusedError: there are too few tenants for so many groups, or no groups follow those before.
    """
    found: Partition | None = None
    for draw in draws:
        found = _follow(draw, fewest, found)
    if found is None:
        raise RoundRefusedError("no groups were drawn; expected at least one draw")
    return found


def _follow(draw: Draw, fewest: int, before: Partition | None) -> Partition:
    names, groups = sorted(draw.revealed), draw.toss.groups
    if not groups or len(names) < groups * fewest:
        raise RoundRefusedError(f"{len(names)} tenants tossed for {groups} groups; expected {fewest} for each")
    for attempt in range(_TRIES):
        order = sorted(names, key=partial(_hashed, draw.seed, attempt))
        parts = tuple(frozenset(order[number::groups]) for number in range(groups))
        if before is None or all(hides_swap(old, new, fewest) for old in before.groups for new in parts if old & new):
            return Partition(draw.seed, parts)
    raise RoundRefusedError(
        f"no partition of {len(names)} tenants into {groups} groups hides who changes its group; expected more tenants"
    )


def _hashed(seed: bytes, attempt: int, name: str) -> bytes:
    return hashlib.sha256(seed + encode_number(attempt, 2) + encode_id(name)).digest()
