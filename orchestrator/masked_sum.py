"""What surrounds an encrypted sum: nothing where vectors are plain ciphertexts, four stages where they are masked.

Stages 0 and 1 (advertise, share) come before the vectors, stages 3 and 4 (confirm, reveal) after them; stage 2 is the
vectors themselves, whose request brings each tenant the boxes that its peers made for it. What the stages are for is in
`shared/masking/server.py`. A tenant that is lost, refuses or sends nonsense at a stage is out of the sum, and of no
other; too few of them left end it without a result.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.admission import Admission
from shared.config import Config
from shared.errors import UpdateRejectedError
from shared.exchange import Exchange, Kind, Lost, Outcome, Refusal, Request, Steps, Value, Values
from shared.feature_statistics import STATISTICS
from shared.he.scheme import MaskablePublic, Unmask
from shared.identity import identity_name
from shared.masking import EVALUATION, RoundTerms, ServerRound, minimum_threshold, modulus_digest
from shared.refusals import spelt_out

Extras = Mapping[str, Values]  # tenant -> what the request for its vector holds in addition
_DONE = {
    Kind.ADVERTISE: "made fresh keys for this round",
    Kind.SHARE: "gave shares of their masks to their peers",
    Kind.CONFIRM: "confirmed who is in the sum",
    Kind.REVEAL: "revealed their shares of the sum's mask",
}
_log = logging.getLogger("orchestrator")


@dataclass(frozen=True)
class Opening:
    """A sum that is about to begin.

    Attributes:
        round_number: counted from 1; of the feature statistics it counts the attempts.
        cohort: the tenants that were chosen.
        ciphertexts: of each vector.
        encryption: what a tenant has to know to encrypt one, and whose sum it is.
        note_failure: takes a tenant and why it is left out.
        task: what all of them work on, 32 bytes; see `shared/task.py`.
        bucket: which vector is added up: deltas, an evaluation's figures, or one of the features' statistics.
    """

    round_number: int
    cohort: Sequence[str]
    ciphertexts: int
    encryption: Values
    note_failure: Callable[[str, str], None]
    task: bytes
    bucket: str

    @property
    def title(self) -> str:
        """For the log."""
        if self.bucket in STATISTICS:
            return f"feature {self.bucket}"
        return f"round {self.round_number}{', evaluation' if self.bucket == EVALUATION else ''}"


def explained(failure: Refusal | Lost) -> str:
    """Why a tenant gave nothing."""
    return spelt_out(failure.reason)[:500] if isinstance(failure, Refusal) else f"lost: {failure.reason}"


class Masking(Protocol):
    """The stages around the vectors."""

    def open(self, opening: Opening) -> Steps[Extras]:
        """Before the vectors: whom to ask for one, and what each of them needs for it.

        Raises:
            RoundAbandonedError: too few tenants for a sum.
        """

    def close(self, contributors: Sequence[str]) -> Steps[Unmask | None]:
        """After them: how to unmask the decrypted sum of these tenants' vectors; None where nothing is masked.

        Raises:
            RoundAbandonedError: too few tenants for a sum.
        """

    def evidence(self) -> bytes:
        """After the sum: how others can take its masks off; empty where there were none."""


class NoMasks:
    """Each vector is a list of ciphertexts that the private key opens; that it opens the sum alone is up to us."""

    def open(self, opening: Opening) -> Steps[Extras]:
        """Ask the whole cohort; no request needs anything more."""
        yield from ()
        return {tenant: {} for tenant in opening.cohort}

    def close(self, contributors: Sequence[str]) -> Steps[Unmask | None]:
        """There is nothing to take off."""
        yield from ()
        return None

    def evidence(self) -> bytes:
        return b""


class MaskedSum:
    """The stages of one masked sum, by a `ServerRound`: all keys are new, and nothing is kept for the next.

    Args:
        config: the settings.
        public: the scheme and public key that the tenants encrypt with.
        admission: who is enrolled, and the session of this start of the server; a server that is killed inside a
            round comes back with another session, in which no message of that round is of any use.
    """

    def __init__(self, config: Config, public: MaskablePublic[Any], admission: Admission) -> None:
        self._config = config
        self._public = public
        self._admission = admission
        self._opening: Opening
        self._tenants: dict[str, str] = {}  # by the name in the enrolled list
        self._round: ServerRound

    def open(self, opening: Opening) -> Steps[Extras]:
        """Stages 0 and 1: the boxes for each tenant that is to send its vector."""
        self._opening = opening
        self._tenants = {identity_name(tenant): tenant for tenant in opening.cohort}
        terms = RoundTerms(
            session=bytes.fromhex(self._admission.session),
            round_number=opening.round_number,
            bucket=opening.bucket,
            modulus_digest=modulus_digest(self._public.modulus),
            threshold=minimum_threshold(len(opening.cohort)),
            n_min=self._config.fewest_contributors,
            ciphertexts=opening.ciphertexts,
            task=opening.task,
        )
        enrolled = self._admission.public_keys()
        invited = {name: enrolled[name] for name in self._tenants if name in enrolled}
        for name in self._tenants.keys() - invited.keys():
            opening.note_failure(self._tenants[name], "it is not enrolled, or no longer")
        self._round = server = ServerRound(terms, self._public.modulus, invited)
        # The tenants check that the masks will fit the key, so the first message names it.
        yield from self._stage(Kind.ADVERTISE, server.announcement(), server.add_advert, opening.encryption)
        yield from self._stage(Kind.SHARE, server.close_adverts(), server.add_shares)
        return {self._tenants[name]: {"boxes": boxes} for name, boxes in server.close_shares().items()}

    def close(self, contributors: Sequence[str]) -> Steps[Unmask | None]:
        """Stages 3 and 4, for the sum of these tenants' vectors."""
        server = self._round
        for tenant in contributors:
            server.add_upload(identity_name(tenant))
        yield from self._stage(Kind.CONFIRM, server.close_uploads(), server.add_confirm)
        yield from self._stage(Kind.REVEAL, server.close_confirms(), server.add_reveal)
        return server.unmask

    def evidence(self) -> bytes:
        return self._round.opened().encode()

    def _stage(
        self, kind: Kind, payload: bytes, add: Callable[[bytes], str], more: Values | None = None
    ) -> Steps[None]:
        """Put one stage to all tenants that are still in, and hand what they answer to the state machine."""
        good = 0

        def on_reply(tenant: str, outcome: Outcome) -> None:
            nonlocal good
            if isinstance(outcome, Refusal | Lost):
                self._opening.note_failure(tenant, f"at {kind}: {explained(outcome)}")
                return
            try:
                add(outcome.payload)
            except UpdateRejectedError as error:
                self._opening.note_failure(tenant, f"at {kind}: {error}")
            else:
                good += 1

        values: dict[str, Value] = {"payload": payload, **(more or {})}
        requests = {self._tenants[name]: Request(kind, values) for name in self._round.cohort}
        yield Exchange(kind, requests, self._config.stage_timeout, "stage_timeout", on_reply)
        _log.debug("%s: %d of %d clients %s", self._opening.title, good, len(requests), _DONE[kind])
