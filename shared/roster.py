"""The roster as one side goes by it: read anew each time, signed by the one it believes, and never an older one.

What was seen is remembered in `rosters.jsonl`, a line for each roster that was new. The file holds no secret. Whoever
deletes it forgets which rosters were there, and believes the next one if `roster_signer` is empty.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from shared.config import Config
from shared.enrolment import Enrolment
from shared.errors import EnrolmentError, Reason
from shared.line_memory import locked_lines

SOON_DAYS = 30  # before an end, when both sides begin to say so
_log = logging.getLogger("roster")


@dataclass(frozen=True)
class _Seen:
    path: str
    signer: str
    number: int
    fingerprint: str


class Roster:
    """The enrolled list of one side.

    Args:
        path: of `enrolled.json`.
        signer: the public key that must have signed it, in hex; empty: that of the first one that was seen.
        memory: of what was seen; None: only this object remembers.
        log: where each new roster is told with its fingerprint, which the two sides compare; None: nowhere.
    """

    def __init__(
        self, path: str | Path, signer: str = "", memory: Path | None = None, log: logging.Logger | None = None
    ) -> None:
        self._path, self._signer, self._memory, self._log = Path(path), signer, memory, log
        self._seen: _Seen | None = None

    @classmethod
    def of(cls, config: Config, log: logging.Logger | None = None, state: Path | None = None) -> "Roster":
        """The one that the settings name; `state` is the folder of this side's memory, None that in `log_dir`."""
        memory = (state or Path(config.log_dir) / "state") / "rosters.jsonl"
        return cls(config.enrolled_clients, config.roster_signer, memory, log)

    def read(self) -> Enrolment:
        """The present roster. A revocation takes effect with the next call.

        Raises:
            EnrolmentError: the list can't be read or is malformed, or the memory can't be used.
            EnrolmentError of ROSTER_SIGNATURE: signed by nobody, or by another.
            EnrolmentError of ROSTER_ROLLED_BACK: older than one that was seen before, or another one of the same
                number.
        """
        enrolment = Enrolment.load(self._path)
        now = _Seen(str(self._path.resolve()), enrolment.signer, enrolment.number, enrolment.fingerprint)
        if self._signer and now.signer != self._signer:
            raise EnrolmentError(
                f"{self._path}: signed by {now.signer}, this side goes by {self._signer} (roster_signer); get "
                "enrolled.json from whoever runs the federation, and ask them on another way if the key is new",
                Reason.ROSTER_SIGNATURE,
            )
        if now != self._seen:
            self._check(now)
            if self._log is not None:
                self._tell(enrolment)
            self._seen = now
        return enrolment

    def _check(self, now: _Seen) -> None:
        if self._memory is None:
            _check_follows(self._path, self._seen, now, "start anew to go by another")
            return
        try:
            with locked_lines(self._memory) as lines:  # server and tenants of one machine may share the file
                seen = [_Seen(**record) for record in lines.records]
                before = next((one for one in reversed(seen) if one.path == now.path), None)
                _check_follows(self._path, before, now, f"if the federation was made anew, delete {self._memory}")
                if now != before:
                    lines.add(vars(now))
        except OSError as error:
            raise EnrolmentError(f"{self._memory}: {error.strerror or error}; check the disk and its owner") from None
        except (ValueError, TypeError) as error:
            raise EnrolmentError(f"{self._memory}: {error}; restore it from a backup") from None

    def _tell(self, enrolment: Enrolment) -> None:
        log = self._log or _log
        log.info(
            "roster %d, signed by %s…, %d tenants may take part; fingerprint %s",
            enrolment.number, enrolment.signer[:16], len(enrolment.public_keys()), enrolment.fingerprint,
        )  # fmt: skip
        for name, left in days_left(enrolment).items():
            if left < SOON_DAYS:
                log.warning("%s: its enrolment ends in %d days; client/enrol.py renew asks for more", name, left)


def days_left(enrolment: Enrolment) -> dict[str, int]:
    """Days until each client's last one, 0 on that day; of those that may take part."""
    return {name: (enrolment.clients[name].expires - enrolment.today).days for name in enrolment.public_keys()}


def _check_follows(path: Path, before: _Seen | None, now: _Seen, advice: str) -> None:
    if before is None or before == now:
        return
    if before.signer != now.signer:
        raise EnrolmentError(
            f"{path}: signed by {now.signer[:16]}…, those before it by {before.signer[:16]}…; get enrolled.json from "
            f"whoever runs the federation; {advice}",
            Reason.ROSTER_SIGNATURE,
        )
    if now.number <= before.number:
        what = "another one" if now.number == before.number else "an older one, which may list who was revoked since"
        raise EnrolmentError(
            f"{path}: roster {now.number}, after roster {before.number} was seen: {what}; get the newest enrolled.json "
            f"from whoever runs the federation; {advice}",
            Reason.ROSTER_ROLLED_BACK,
        )
