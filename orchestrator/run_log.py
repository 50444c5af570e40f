"""The log chain of a run: a file of entries that can't be edited without that being found.

`run_log.jsonl` in the run's folder has one line of JSON for each start of the server and each round. Each entry holds
the SHA-256 of the line before it and an Ed25519 signature of the orchestrator's log key over the rest of itself, so a
changed, removed, swapped or added byte is found (`orchestrator/run_log_check.py`). Whoever has the key, the operator
above all, could still write the whole file anew, or leave out its end. So the tenants get the head after each round
(`shared/log_head.py`), and a rewritten history does not contain the heads that they hold.

This chain says what the server did. That a sum was made truly is shown by another thing, the audit of sums
(`orchestrator/publishing.py`).
"""

import hashlib
import logging
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.run_folder import RoundRecord, RunFolder
from orchestrator.run_log_check import ENTRY_PREFIX, NOTHING, ROUND, START, CheckedLog, canonical, check_log
from shared.atomic import naming, sync_folder
from shared.errors import ResumeError, RunLogError
from shared.exchange import Exchange, Kind, Outcome, Reply, Request, Steps
from shared.he.scheme import Vector
from shared.identity import digest_arrays
from shared.identity_files import encode_identity, load_identity_key
from shared.key_files import PASSPHRASE_VARIABLE, passphrase_from_environment
from shared.log_head import Head
from shared.private_files import PRIVATE_MODE, create_file, make_private_folder

PACKAGES: Final = ("cloud-security-orchestrator", "cryptography", "flwr", "gmpy2", "numpy", "phe", "torch")
KEY_NAME: Final = "run-log"
_FAREWELL_SECONDS = 5.0  # for each tenant, all at once; one that hangs must not hold back the end of the run

_log = logging.getLogger("orchestrator")


class RunLog:
    """The chain while a server writes it.

    Args:
        folder: of the run; the file is made with the first entry.
        key: signs the entries.
        so_far: what is in the file; None: there is none.
    """

    def __init__(self, folder: RunFolder, key: Ed25519PrivateKey, so_far: CheckedLog | None = None) -> None:
        self._folder, self._key = folder, key
        self._entries = len(so_far.entries) if so_far else 0
        self._starts = sum(entry["kind"] == START for entry in so_far.entries) if so_far else 0
        self._last = so_far.sha256[-1] if so_far else NOTHING
        self._sum_sha256: str | None = None  # of the round that is under way

    @classmethod
    def open(cls, folder: RunFolder, log_dir: str, finished: int | None) -> "RunLog":
        """The chain of a run that begins, or goes on.

        Args:
            folder: of the run.
            log_dir: where the log key is, in `state/`; it is made where there is none.
            finished: rounds that the checkpoint knows; None: the run begins.

        Raises:
            ResumeError: the chain is missing, damaged, shorter than the checkpoint says, or of another key.
            KeyMaterialError, PassphraseError: the log key can't be used.
        """
        key = log_key(Path(log_dir) / "state" / "run_log.key")
        if finished is None:
            return cls(folder, key)
        advice = f"restore {folder.path} and {Path(log_dir) / 'state'} from one backup, or start a new run"
        try:
            _cut_half_a_line(folder.run_log)
            so_far = check_log(folder.run_log, key.public_key().public_bytes_raw())
        except RunLogError as error:
            raise ResumeError(f"{error}; {advice}") from None
        if len(so_far.rounds) < finished:
            raise ResumeError(
                f"{folder.run_log}: ends with round {len(so_far.rounds)}, and the checkpoint is of round {finished}; "
                f"{advice}"
            )
        return cls(folder, key, so_far)

    @property
    def head(self) -> Head:
        """Of the chain as it is now."""
        return Head.sign(self._folder.name, self._entries, self._last, self._key)

    @property
    def resumed(self) -> int:
        """Starts of the server after the first; each may have asked once more for a round that was under way."""
        return max(0, self._starts - 1)

    def append_start(self, facts: Mapping[str, object], finished: int) -> None:
        """A start of the server.

        Args:
            facts: of this start, such as its time and the public key's fingerprint.
            finished: rounds that are finished; entries of later ones do not count any more.
        """
        signer = self._key.public_key().public_bytes_raw().hex()
        settings = hashlib.sha256(self._folder.settings.read_bytes()).hexdigest()
        more = {"signer": signer, "settings_sha256": settings, "versions": versions(), "finished": finished}
        self._append(START, {**facts, **more})
        self._starts += 1

    def note_sum(self, total: Vector) -> None:
        """The decrypted sum of the round that is under way, float64 (size,); of groups, what their rule gave."""
        self._sum_sha256 = digest_arrays([total])

    def append_round(self, record: RoundRecord, record_sha256: str, model_sha256: str) -> None:
        """A round; to be called before its checkpoint, which is what finishes it.

        Args:
            record: what happened in it.
            record_sha256: of its line in `metrics.jsonl`, so that the figures can't be changed later either.
            model_sha256: of the global model after it (`digest_arrays`), as the audit of sums has it.
        """
        facts = {
            "round": record.round, "contributors": record.contributor_ids, "failed": record.failed,
            "skipped": record.skipped, "groups": record.groups, "bad_groups": record.bad_groups,
            "left_out": record.left_out, "sum_sha256": self._sum_sha256, "model_sha256": model_sha256,
            "record_sha256": record_sha256, "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        self._append(ROUND, facts)
        self._sum_sha256 = None

    def _append(self, kind: str, facts: Mapping[str, object]) -> None:
        entry = {
            **facts, "run": self._folder.name, "entry": self._entries + 1, "kind": kind, "previous": self._last.hex(),
        }  # fmt: skip
        signature = self._key.sign(ENTRY_PREFIX + canonical(entry))
        line = canonical({**entry, "signature": signature.hex()}) + b"\n"
        with naming(self._folder.run_log), self._folder.run_log.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if not self._entries:
            sync_folder(self._folder.path)
        self._entries, self._last = self._entries + 1, hashlib.sha256(line).digest()


def farewell(run_log: RunLog, tenants: Iterable[str]) -> Steps[None]:
    """Give the last head to the tenants that are here: no request for another round brings it."""
    values, given = run_log.head.values(), 0

    def note(_tenant: str, outcome: Outcome) -> None:
        nonlocal given
        given += isinstance(outcome, Reply)

    requests = {tenant: Request(Kind.LOG_HEAD, values) for tenant in tenants}
    if requests:
        yield Exchange(Kind.LOG_HEAD, requests, _FAREWELL_SECONDS, "the end of a run", note)
    _log.debug(
        "%d of %d clients have the last head of the run log: %s", given, len(requests), run_log.head.sha256.hex()
    )


def log_key(path: Path) -> Ed25519PrivateKey:
    """The orchestrator's key for log chains, one for all runs of a `log_dir`; made where there is none.

    Encrypted where ORCHESTRATOR_KEY_PASSPHRASE is set when it is made.

    Raises:
        KeyMaterialError, PassphraseError: it can't be made or read.
    """
    if not os.path.lexists(path):
        make_private_folder(path.parent)
        made = encode_identity(KEY_NAME, Ed25519PrivateKey.generate(), passphrase_from_environment())
        try:
            create_file(path, made, mode=PRIVATE_MODE, advice="another server makes it at this moment")
        except Exception:
            if not os.path.lexists(path):  # or else another server was first, and its key is the one
                raise
    return load_identity_key(path, KEY_NAME, "restore it from a backup", PASSPHRASE_VARIABLE)


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a round computes; empty for one that is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # as from a source tree
            found[package] = ""
    return found


def _cut_half_a_line(path: Path) -> None:
    """A server that is killed while it writes leaves half a line, which nobody was given the head of."""
    try:
        with path.open("r+b") as file:
            data = file.read()
            whole = data.rfind(b"\n") + 1
            if 0 < whole < len(data):
                file.truncate(whole)
                os.fsync(file.fileno())
                _log.warning("%s: cut off %d bytes of an entry that was half written", path.name, len(data) - whole)
    except OSError as error:
        raise RunLogError(f"{path}: can't be read: {error.strerror}; expected the log chain of the run") from None
