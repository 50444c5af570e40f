"""The proof of each round's sum (`audit: true`): written while the round runs, and then shown to every tenant.

`client/auditing.py` says what a tenant finds out from it. The orchestrator keeps each proof in `<run>/audit/`, so that
a tenant that was away, and anybody with `client/audit.py`, can be shown it later, and what the tenants say to it in
`<run>/audit.jsonl`.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orchestrator.run_folder import RunFolder
from orchestrator.seats import Seats
from shared.atomic import naming
from shared.exchange import OFF, VERIFIED, Exchange, Kind, Lost, Outcome, Refusal, Request, Steps, Value
from shared.identity import identity_name
from shared.refusals import spelt_out
from shared.sum_proof import Contribution, SumProof, append_contribution, proof_name, write_proof

_log = logging.getLogger("orchestrator")
_LEAST_PIECE, _MOST_PIECE = 1 << 19, 1 << 23  # bytes of one request


@dataclass(frozen=True)
class Verdicts:
    """What tenants said to the proof of one round; a line of `audit.jsonl`.

    Attributes:
        round: which.
        verified: tenants that found the sum true.
        failed: tenant -> why it did not.
        off: tenants that do not audit.
        proof_bytes: of the proof.
        seconds: from the first piece to the last answer.
    """

    round: int
    verified: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    off: list[str] = field(default_factory=list)
    proof_bytes: int = 0
    seconds: float = 0.0


class Publisher:
    """Writes proofs, and shows them to the tenants.

    Args:
        folder: of the run.
        seats: the tenants that are here.
        timeout: seconds that a tenant may take to answer a piece.
        longest_message: bytes that a message may have without being the longest.
    """

    def __init__(self, folder: RunFolder, seats: Seats, timeout: float, longest_message: int) -> None:
        self._folder, self._seats, self._timeout = folder, seats, timeout
        self._piece = min(max(longest_message, _LEAST_PIECE), _MOST_PIECE)
        folder.audit.mkdir(mode=0o700, exist_ok=True)
        self._settled: dict[str, int] = {}  # tenant -> the last round whose proof it has answered

    @property
    def _part(self) -> Path:
        return self._folder.audit / "contributions.part"

    def begin(self) -> None:
        """A round's vectors are about to come."""
        self._part.write_bytes(b"")

    def note(self, tenant: str, payload: bytes, nonce: bytes, signature: object) -> None:
        """Keep a vector that was added."""
        if isinstance(signature, bytes):
            with naming(self._part), self._part.open("ab") as file:
                append_contribution(file, Contribution(identity_name(tenant), payload, nonce, signature))

    def finish(self, proof: SumProof) -> None:
        """The sum is made: write its proof."""
        write_proof(self._folder.audit / proof_name(proof.round_number), proof, self._part)
        self._part.unlink()

    def steps(self, finished: int) -> Steps[None]:
        """Show the last proof to every tenant that has not answered it yet, and the earlier ones to who asks.

        Args:
            finished: the last round that is finished; a later one may still be made again.
        """
        names = {proof_name(number): number for number in range(1, finished + 1)}
        rounds = sorted(names[path.name] for path in self._folder.audit.iterdir() if path.name in names)
        if not rounds:
            return
        wanted = {t: rounds[-1] for t in self._seats.tenants() if self._settled.get(t, 0) < rounds[-1]}
        asked_for_earlier: set[str] = set()
        while wanted:
            number = min(wanted.values())
            whom = [tenant for tenant, of in wanted.items() if of == number]
            answers = yield from self._show(number, max((r for r in rounds if r < number), default=0), whom)
            for tenant in whom:
                earlier = self._earlier(answers.get(tenant), rounds, number)
                if earlier and tenant not in asked_for_earlier:
                    asked_for_earlier.add(tenant)
                    wanted[tenant] = earlier
                elif number < rounds[-1] and answers.get(tenant) == VERIFIED:
                    wanted[tenant] = rounds[rounds.index(number) + 1]
                else:
                    del wanted[tenant]
                    self._settled[tenant] = rounds[-1]

    def _earlier(self, answer: "str | int | None", rounds: list[int], number: int) -> int:
        """The first proof after the round that a tenant names; 0: it names none."""
        return min((r for r in rounds if isinstance(answer, int) and answer < r < number), default=0)

    def _show(self, number: int, previous: int, whom: list[str]) -> Steps["dict[str, str | int]"]:
        """Send one proof, piece by piece; what each tenant said at the end: a word, or the round that it stopped at."""
        start = time.perf_counter()
        path = self._folder.audit / proof_name(number)
        verdicts = Verdicts(number, proof_bytes=path.stat().st_size)
        said: dict[str, str | int] = {}
        left = list(whom)

        def note(tenant: str, outcome: Outcome) -> None:
            if isinstance(outcome, Refusal | Lost):
                reason = spelt_out(outcome.reason) if isinstance(outcome, Refusal) else outcome.reason
                verdicts.failed[tenant] = reason[:500]
                left.remove(tenant)
                return
            match dict(outcome.values):
                case {"verdict": "wanted", "after": int(after)}:
                    said[tenant] = after
                    left.remove(tenant)
                case {"verdict": str(word)} if word in (VERIFIED, OFF):
                    said[tenant] = word
                    (verdicts.verified if word == VERIFIED else verdicts.off).append(tenant)
                    left.remove(tenant)

        for values in self._pieces(path, number, previous, verdicts.proof_bytes):
            if not left:
                break
            yield Exchange(
                Kind.AUDIT, {t: Request(Kind.AUDIT, values) for t in left}, self._timeout, "round_timeout", note
            )
        for tenant in list(left):
            verdicts.failed[tenant] = "it has the whole proof and says nothing of it"
        self._tell(Verdicts(**{**asdict(verdicts), "seconds": time.perf_counter() - start}))
        return said

    def _pieces(self, path: Path, number: int, previous: int, total: int) -> Iterator[dict[str, Value]]:
        with path.open("rb") as file:
            for offset in range(0, total, self._piece):
                yield {
                    "round": number, "previous": previous, "offset": offset, "total": total,
                    "content": file.read(self._piece),
                }  # fmt: skip

    def _tell(self, verdicts: Verdicts) -> None:
        auditors = len(verdicts.verified) + len(verdicts.failed)
        with naming(self._folder.verdicts), self._folder.verdicts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(verdicts)) + "\n")
        for tenant, why in sorted(verdicts.failed.items()):
            _log.error("round %d: client %s does not verify the sum: %s", verdicts.round, tenant, why)
        if auditors:  # where all is well, the last words of the run say so
            _log.log(
                logging.INFO if verdicts.failed else logging.DEBUG,
                "round %d: verified by %d of %d clients",
                verdicts.round,
                len(verdicts.verified),
                auditors,
            )
