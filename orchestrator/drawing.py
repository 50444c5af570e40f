"""The draws of groups, as the orchestrator asks for them; what they rest on is in `shared/groups.py`."""

import hashlib
import logging
from collections.abc import Callable, Sequence

from orchestrator.admission import Admission
from shared.config import Config
from shared.errors import RoundRefusedError, TooFewContributorsError, UpdateRejectedError
from shared.exchange import Exchange, Kind, Lost, Outcome, Refusal, Request, Steps, Values
from shared.groups import COMMITMENT_BYTES, TOSS_BYTES, Draw, Partition, Toss, encode_draws, most_draws, partition
from shared.identity import identity_name
from shared.masking.codec import SIGNATURE_BYTES, encode_entries, header
from shared.masking.codec import Kind as MessageKind
from shared.masking.errors import BrokenRuleError, Rule
from shared.refusals import spelt_out

_log = logging.getLogger("orchestrator")


class Drawing:
    """The groups of one session.

    Args:
        config: the settings.
        admission: who may toss; None where nothing is masked: the groups then follow from `seed`, as they hide nothing.

    Attributes:
        partition: the groups as they are; None before the first draw.
    """

    def __init__(self, config: Config, admission: Admission | None) -> None:
        self._config = config
        self._admission = admission if config.masked else None
        self._session = bytes.fromhex(admission.session) if admission else bytes(16)
        self._draws: list[Draw] = []
        self._number = 0  # of the next draw
        self.partition: Partition | None = None

    @property
    def left(self) -> int:
        """How often the groups may still be drawn anew."""
        return 1 + self._config.regroupings - len(self._draws)

    @property
    def shown(self) -> Values:
        """What a tenant needs to find its own group."""
        return {"draws": encode_draws(self._draws)} if self._admission else {}

    def steps(self, tenants: Sequence[str], note_failure: Callable[[str, str], None]) -> Steps[None]:
        """Draw the groups, among these tenants; whoever is lost on the way is left out of the draw.

        Args:
            tenants: who tosses.
            note_failure: takes a tenant, and why its toss does not count.

        Raises:
            TooFewContributorsError: too few tossed, or there are no such groups; those before it stay.
        """
        present = list(tenants)
        while True:
            if self._number >= most_draws(self._config.regroupings):
                raise TooFewContributorsError("the tenants toss no more in this session (regroupings)")
            fitting = len(present) // self._config.fewest_contributors
            toss = Toss(self._session, self._number, max(1, min(self._config.groups, fitting)))
            self._number += 1
            draw, lost = yield from self._toss(toss, present, note_failure)
            if not lost:
                break
            present = [tenant for tenant in present if tenant not in lost]
        try:
            self.partition = partition([*self._draws, draw], self._config.fewest_contributors)
        except RoundRefusedError as error:
            raise TooFewContributorsError(str(error)) from None
        self._draws.append(draw)
        _log.info("%d groups of %d tenants were drawn, by all of them", toss.groups, len(present))

    def _toss(
        self, toss: Toss, tenants: Sequence[str], note_failure: Callable[[str, str], None]
    ) -> Steps[tuple[Draw, set[str]]]:
        """One draw, and who was lost between its two stages: it is void if there are any."""
        if self._admission is None:
            seed = f"{self._config.seed} {toss.number}".encode()
            secret = hashlib.sha256(seed).digest()
            return Draw(toss, {identity_name(tenant): (secret, bytes(SIGNATURE_BYTES)) for tenant in tenants}), set()
        commitments: dict[str, bytes] = {}
        revealed: dict[str, tuple[bytes, bytes]] = {}
        keys = self._admission.public_keys()

        def commit(name: str, payload: bytes) -> None:
            if len(payload) != COMMITMENT_BYTES:
                raise BrokenRuleError(
                    Rule.MALFORMED_MESSAGE, f"a commitment of {len(payload)} bytes; expected {COMMITMENT_BYTES}"
                )
            commitments[name] = payload

        def reveal(name: str, payload: bytes) -> None:
            secret, signature = payload[:TOSS_BYTES], payload[TOSS_BYTES:]
            if toss.commitment(name, secret) != commitments[name]:
                raise BrokenRuleError(Rule.FALSE_SECRET, "its toss is not what it committed to")
            toss.check(name, commitments, secret, signature, keys)
            revealed[name] = (secret, signature)

        yield self._exchange(Kind.TOSS, toss.encode(), tenants, commit, note_failure)
        committed = [tenant for tenant in tenants if identity_name(tenant) in commitments]
        message = header(MessageKind.COMMITMENTS, toss.context()) + encode_entries(commitments)
        yield self._exchange(Kind.DRAW, message, committed, reveal, note_failure)
        return Draw(toss, revealed), {tenant for tenant in committed if identity_name(tenant) not in revealed}

    def _exchange(
        self,
        kind: Kind,
        payload: bytes,
        tenants: Sequence[str],
        add: Callable[[str, bytes], None],
        note_failure: Callable[[str, str], None],
    ) -> Exchange:
        def on_reply(tenant: str, outcome: Outcome) -> None:
            if isinstance(outcome, Refusal | Lost):
                note_failure(tenant, f"at {kind}: {spelt_out(outcome.reason)}")
                return
            try:
                add(identity_name(tenant), outcome.payload)
            except UpdateRejectedError as error:
                note_failure(tenant, f"at {kind}: {error}")

        requests = {tenant: Request(kind, {"payload": payload}) for tenant in tenants}
        return Exchange(kind, requests, self._config.stage_timeout, "stage_timeout", on_reply)
