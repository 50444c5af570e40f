"""A tenant's audits (`audit: true`): it takes in each round's proof, checks it, and trains on from nothing else.

The proof arrives in pieces, each a request of its own, so that neither side ever holds it whole. It stays in
`<client id>-audit/<run>/` of its memory, where `client/audit.py` finds it again. Beside it is what the tenant knows
of the run: the model that the last proven sum led to. It refuses to train any other, and any proof that begins with
another, so the orchestrator can't leave a proof out, or show one model and go on with another. A tenant that was away
asks for the proofs that it missed.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from client.auditing import Accepted, AuditError, Fault, Place, Verified, verify
from client.request_values import data, integer
from client.state import state_folder
from shared.atomic import naming, replace_file
from shared.bounded_files import read_bounded
from shared.config import Config
from shared.enrolment import Enrolment
from shared.exchange import MORE, VERIFIED, WANTED, Model, Value, Values
from shared.identity import client_number, digest_arrays
from shared.learner import digest_state
from shared.private_files import make_private_folder
from shared.roster import Roster
from shared.strict_json import parse_strict_json
from shared.sum_proof import proof_name

_STATE = "known.json"
_ENTERED = "entered.roster.json"
_MOST_STATE_BYTES = 1 << 16
_FIXED_BYTES = 1 << 16  # of a vector and of the head, beside their values
_SIGNED_BYTES = 256  # a tenant's box for another, its advert, its confirm


@dataclass(frozen=True)
class Known:
    """What a tenant knows of a run.

    Attributes:
        places: where the run may be: where the last proven sum led, or with what the first round began; and where
            rounds without a sum lead from there. Empty: nothing was given yet. An empty state is one that is not known.
        seen: the round of the last proof; 0: none so far.
        fault: what was wrong with a sum; empty: nothing.
    """

    places: tuple[Place, ...] = ()
    seen: int = 0
    fault: str = ""


class Audits:
    """All audits of one tenant.

    Args:
        config: its settings.
        client_id: its name in the enrolled list.
        log: where it says what came of them.
    """

    def __init__(self, config: Config, client_id: str, log: logging.Logger) -> None:
        self._config, self._client_id, self._log = config, client_id, log
        self._folder = audit_folder(config, client_id)
        self._roster = Roster.of(config, state=self._folder.parent)

    def check_start(self, run: str, model: Model, round_number: int) -> None:
        """Before it trains a model: it is the one that the last sum led to.

        Raises:
            AuditError: a sum of this run was false, or the model is another.
        """
        known, given = self._known(run), digest_arrays(model)
        if known.fault:
            raise AuditError(Fault(known.fault), "of an earlier sum of this run; I take no further part in it")
        if known.places and given not in {place.model for place in known.places}:
            raise AuditError(
                Fault.MODEL,
                "the model differs from the one that the last proven sum led to; expected a proof of each round "
                "(audit: true on the server)",
            )
        entered = self._folder / run / _ENTERED
        if entered.exists():
            entered.replace(entered.with_name(roster_name(round_number)))
        if not known.places:
            if round_number > 1:
                self._log.warning("I begin with the model of round %d, and have no proof of it", round_number - 1)
            self._remember(run, replace(known, places=(Place(given, ""),)))

    def enter(self, run: str) -> None:
        """Before it enters a masked sum: by which roster. Who is revoked or exchanged after that was in it by right.

        Raises:
            EnrolmentError: there is no roster to go by.
        """
        make_private_folder(self._folder / run)
        replace_file(self._folder / run / _ENTERED, self._roster.read().to_json())

    def take(self, run: str, asked: Values, most_bytes: int, accepted: Accepted) -> dict[str, Value]:
        """One piece of a proof; with the last the sum is checked.

        Args:
            run: the run's name.
            asked: the round, the one before it that has a proof, the piece, where it begins, and how long the proof is,
                in bytes.
            most_bytes: that a proof may have.
            accepted: see `verify`.

        Returns:
            What came of it: MORE, VERIFIED, or WANTED: first the proof of the round after the one that is named.

        Raises:
            AuditError: the sum is false, which is remembered, or the piece does not follow the one before it.
            RoundRefusedError: no such request.
        """
        number, content, known = integer(asked, "round"), data(asked, "content"), self._known(run)
        total, offset, previous = (asked.get(name) for name in ("total", "offset", "previous"))
        if known.fault:
            raise AuditError(Fault(known.fault), "of an earlier sum of this run")
        if type(total) is not int or type(offset) is not int or not 0 <= offset < total <= most_bytes:
            raise AuditError(Fault.FORM, f"a proof of {total!r:.40} bytes; expected at most {most_bytes:,}")
        if type(previous) is int and 0 < known.seen < previous:
            return {"verdict": WANTED, "after": known.seen}
        make_private_folder(self._folder / run)
        path = self._folder / run / proof_name(number)
        part = path.with_name(path.name + ".arriving")
        with naming(part), part.open("wb" if offset == 0 else "ab") as file:
            if file.tell() != offset or not 0 < len(content) <= total - offset:
                raise AuditError(Fault.FORM, f"a piece for byte {offset}; expected the one for byte {file.tell()}")
            file.write(content)
        if offset + len(content) < total:
            return {"verdict": MORE}
        part.replace(path)
        try:
            verified = self._check(run, number, path, accepted)
        except AuditError as error:
            self._remember(run, replace(known, fault=error.fault.value))
            raise
        self._remember(run, Known((verified.after, verified.skipped), number))
        self._log.info(
            "round %d: verified: the sum of %d signed contributions, decrypted truly, gives the next model (%s bytes)",
            number, len(verified.contributors), f"{total:,}",
        )  # fmt: skip
        if self._client_id not in verified.contributors:
            self._log.warning("round %d: I am not in the sum", number)
        return {"verdict": VERIFIED}

    def _check(self, run: str, number: int, path: Path, accepted: Accepted) -> Verified:
        known = self._known(run)
        verified = verify(path, self._config, roster_of_round(path) or self._roster.read().ever(), accepted)
        proof = verified.proof
        if (proof.run, proof.round_number) != (run, number):
            raise AuditError(Fault.FORM, f"it is of round {proof.round_number} of run {proof.run!r:.40}")
        if known.seen == number and verified.after in known.places:
            return verified  # shown once more, after a new start of the server
        began = Place(digest_arrays(proof.before), digest_state(proof.state))
        if known.places and not {began, Place(began.model, "")}.intersection(known.places):
            raise AuditError(Fault.MODEL, f"round {number} did not begin where the last proven sum led")
        return verified

    def _known(self, run: str) -> Known:
        path = self._folder / run / _STATE
        try:
            match parse_strict_json(read_bounded(path, _MOST_STATE_BYTES)):
                case {"places": [*places], "seen": int(seen), "fault": str(fault)} if fault in {"", *Fault}:
                    return Known(tuple(Place(str(model), str(state)) for model, state in places), seen, fault)
            raise ValueError("not what a tenant writes")
        except FileNotFoundError:
            return Known()
        except (OSError, ValueError) as error:
            raise AuditError(
                Fault.FORM, f"{path}: {error}; restore it, or delete it, and the next model is taken as it comes"
            ) from None

    def _remember(self, run: str, known: Known) -> None:
        make_private_folder(self._folder / run)
        replace_file(self._folder / run / _STATE, json.dumps(asdict(known)).encode())


def roster_name(round_number: int) -> str:
    """The file's name of the roster that a tenant went by in a round, beside the round's proof."""
    return Path(proof_name(round_number)).with_suffix(".roster.json").name


def roster_of_round(proof: Path) -> Enrolment | None:
    """The roster that this tenant went by when it entered the round of a proof; None: it was not in that round.

    Raises:
        EnrolmentError: the file beside the proof is damaged.
    """
    path = proof.with_suffix(".roster.json")
    if not path.exists():
        return None
    # On that day, or the one before: tenants may have entered on their last day, just before it ended.
    entered = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    return Enrolment.load(path).as_of(entered - timedelta(days=1))


def audit_folder(config: Config, client_id: str) -> Path:
    """Where a tenant keeps its proofs, a folder for each run."""
    return state_folder(config, client_number(client_id)) / f"{client_id}-audit"


def most_bytes(config: Config, size: int, model: Model) -> int:
    """The most bytes that a proof may have, of a sum of vectors of `size` values that moves this model.

    A value takes less than 16 bytes in a packed or ring ciphertext, or a whole ciphertext of its own. There are all
    tenants' vectors, as much as another of the opened product, the model, and the learner's state: a velocity of 8
    bytes a parameter, or a forest's counts and sums of 8 bytes a value.
    """
    per_value = 16 if config.he_packing else config.he_key_length // 4
    signed = _SIGNED_BYTES * config.num_clients * config.num_clients
    moved = 16 * sum(array.size for array in model) + 16 * size
    return (config.num_clients + 2) * (size * per_value + _FIXED_BYTES) + moved + signed
