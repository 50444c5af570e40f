"""A tenant's part in the draws of groups, and what it believes of them."""

import logging
import secrets
from dataclasses import dataclass

from client.request_values import data
from shared.config import Config
from shared.errors import RoundRefusedError
from shared.exchange import Values
from shared.groups import COMMITMENT_BYTES, TOSS_BYTES, Partition, Toss, decode_draws, most_draws, partition
from shared.identity import ClientIdentity
from shared.masking import RoundTerms
from shared.masking.codec import Kind, Reader
from shared.masking.memory import RoundMemory
from shared.roster import Roster

_log = logging.getLogger("client")


@dataclass(frozen=True)
class Group:
    """The tenants that one sum of training is over.

    Attributes:
        label: names it, in the terms of its sums; see `shared.groups.Partition.label`.
        partition: who else is in it.
        number: which of the partition's groups it is.
    """

    label: str
    partition: Partition
    number: int

    def has(self, name: str) -> bool:
        """Whether this tenant is one of them."""
        return self.partition.group_of(name) == self.number


class Grouping:
    """One tenant's tosses.

    Args:
        config: the settings.
        identity: who it is.
        roster: who may take part.

    Attributes:
        tossed: the toss that is under way and this tenant's secret bytes; empty between draws.
    """

    def __init__(self, config: Config, identity: ClientIdentity, roster: Roster) -> None:
        self._config, self._identity, self._roster = config, identity, roster
        self.tossed = b""

    def toss(self, payload: bytes) -> bytes:
        """Commit to new secret bytes.

        Args:
            payload: what the draw is about.

        Raises:
            RoundRefusedError: not a draw that this tenant's settings are for.
            BrokenRuleError of MALFORMED_MESSAGE: not a toss.
        """
        toss = Toss.decode(payload)
        self._check(toss)
        secret = secrets.token_bytes(TOSS_BYTES)
        self.tossed = payload + secret
        return toss.commitment(self._identity.client_id, secret)

    def reveal(self, payload: bytes, memory: RoundMemory) -> bytes:
        """Reveal them, signed, once it is settled what the others have committed to.

        Args:
            payload: all commitments, by tenant.
            memory: of what was answered before.

        Raises:
            RoundRefusedError: no toss is under way, or the commitments are too few, or without this tenant's own.
            BrokenRuleError of REPEATED_STAGE: it tossed for this draw before.
            BrokenRuleError of MALFORMED_MESSAGE: no commitments.
        """
        tossed, self.tossed = self.tossed, b""
        if not tossed:
            raise RoundRefusedError("the server asks for a toss that this client has not made; expected 'toss' first")
        announced, secret = tossed[:-TOSS_BYTES], tossed[-TOSS_BYTES:]
        toss, name = Toss.decode(announced), self._identity.client_id
        reader = Reader(payload, Kind.COMMITMENTS)
        reader.header(Kind.COMMITMENTS, toss.context())
        found = reader.entries(COMMITMENT_BYTES)
        reader.end()
        if found.get(name) != toss.commitment(name, secret):
            raise RoundRefusedError("the commitments to a draw of groups are without this client's own")
        if len(found) < toss.groups * self._config.fewest_contributors:
            raise RoundRefusedError(f"{len(found)} tenants toss for {toss.groups} groups: too few for sums of any size")
        memory.claim_draw(toss.session, toss.number)  # on the disk before the secret leaves
        _log.info("tossed for draw %d of %d groups, with %d others", toss.number, toss.groups, len(found) - 1)
        return secret + toss.sign(name, found, secret, self._identity.signing_key)

    def find(self, values: Values, terms: RoundTerms) -> Group:
        """This tenant's group in a sum of training, from the draws that the server shows.

        Raises:
            RoundRefusedError: it shows none, or some that are not of this session.
            BrokenRuleError of UNKNOWN_PEER, BAD_SIGNATURE: they were not drawn by its tenants.
            BrokenRuleError of MALFORMED_MESSAGE: not draws.
        """
        draws = decode_draws(data(values, "draws"))
        if not draws or len(draws) > most_draws(self._config.regroupings):
            raise RoundRefusedError(f"the server shows {len(draws)} draws of groups; see regroupings")
        keys = self._roster.read().ever().public_keys()
        last = -1
        for draw in draws:
            if draw.toss.session != terms.session or draw.toss.number <= last:
                raise RoundRefusedError("the server shows a draw of groups of another session, or one twice")
            self._check(draw.toss)
            draw.check(keys)
            last = draw.toss.number
        found = partition(draws, self._config.fewest_contributors)
        number = found.group_of(self._identity.client_id)
        return Group(found.label(number), found, number)

    def _check(self, toss: Toss) -> None:
        c = self._config
        if not 1 <= toss.groups <= c.groups:  # fewer are larger ones, where tenants have left
            raise RoundRefusedError(f"the server draws {toss.groups} groups; this client's settings say {c.groups}")
        if toss.number >= most_draws(c.regroupings):
            raise RoundRefusedError(f"draw {toss.number} of groups; at most {most_draws(c.regroupings)} (regroupings)")
