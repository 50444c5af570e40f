"""The folder that each run leaves: the names of its files, who may write there, and the log of its rounds.

`metrics.jsonl` is that log. A round's line is on the disk before the checkpoint that counts it is, so a server that is
killed in between leaves a line too many, or half of one, and never one too few.
"""

import fcntl
import hashlib
import json
import logging
import os
import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from shared.atomic import naming, replace_file
from shared.bounded_files import open_regular
from shared.bundle import MODEL_FILE
from shared.config import Config
from shared.errors import ConfigError, ResumeError
from shared.retention import LOCK, RUN_NAME
from shared.strict_json import parse_strict_json

_LONGEST_LINE_BYTES = 1 << 26  # 10,000 clients with a reason of 300 characters each, at 12 bytes a character
_FIGURES_BY_NAME = ("family_recall", "recall_at_fpr", "fpr_at_threshold", "class_recall")
_LISTS = ("contributor_ids", "left_out", "groups", "bad_groups")

_LATER_SECONDS = 86_400.0  # no change of the time zone names a run as much ahead

_log = logging.getLogger("orchestrator")


@dataclass
class RoundRecord:
    """One line of `metrics.jsonl`. Times are in seconds; `None` where a round has no such figure.

    Attributes:
        round: counted from 1.
        contributors: clients whose updates are in the new global model; 0 if the round was skipped.
        failures: chosen clients whose updates are not.
        loss, accuracy, attack_rows, benign_rows, roc_auc, pr_auc, fpr, family_recall, recall_at_fpr, fpr_at_threshold,
            class_recall: of the new global model on the common test set; `shared/metrics.py` says what they are.
        validation_loss: of the new global model on the validation set, which early stopping goes by.
        fit_seconds: from the request to the last update, as the orchestrator saw it; `aggregate_seconds` are within it.
        train_seconds, encrypt_seconds: of the slowest contributor, as it says; a masked client says nothing of them.
        aggregate_seconds: checking and adding the encrypted updates.
        decrypt_seconds: decrypting their sum.
        round_seconds: the whole round, evaluation included.
        upload_bytes_per_client: bytes of one update.
        contributor_ids: who the contributors are.
        failed: client id -> why its update is not in the model.
        skipped: why the round left the global model as it was.
        saturated: values beyond the fixed-point range, over all contributors; not known where updates are masked.
        client_loss, client_accuracy: mean over all rows that the clients hold out, from an encrypted sum.
        client_rows: how many rows those are.
        evaluate_seconds: scoring the new global model, here and then by the clients.
        epsilon: of the run so far, where it is differentially private.
        signal_to_noise: of the round's sum, the same.
        draw: which draw the groups are of, 64 hex digits; empty where a round is one sum.
        groups: the tenants of each group that were asked.
        bad_groups: which of them, from 0, had a sum that no honest tenants have, or that makes the model worse.
        left_out: tenants that were asked for nothing, as they spoilt the sums of their groups before.
    """

    round: int
    contributors: int = 0
    failures: int = 0
    loss: float | None = None
    accuracy: float | None = None
    attack_rows: int | None = None
    benign_rows: int | None = None
    roc_auc: float | None = None
    pr_auc: float | None = None
    fpr: float | None = None
    fit_seconds: float | None = None
    train_seconds: float | None = None
    encrypt_seconds: float | None = None
    aggregate_seconds: float | None = None
    decrypt_seconds: float | None = None
    round_seconds: float | None = None
    upload_bytes_per_client: int | None = None
    contributor_ids: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: str | None = None
    saturated: int = 0
    client_loss: float | None = None
    client_accuracy: float | None = None
    validation_loss: float | None = None
    family_recall: dict[str, float] = field(default_factory=dict)
    recall_at_fpr: dict[str, float] = field(default_factory=dict)
    fpr_at_threshold: dict[str, float] = field(default_factory=dict)
    class_recall: dict[str, float] = field(default_factory=dict)
    client_rows: int | None = None
    evaluate_seconds: float | None = None
    epsilon: float | None = None
    signal_to_noise: float | None = None
    draw: str = ""
    groups: list[list[str]] = field(default_factory=list)
    bad_groups: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def why_skipped(self) -> str:
        """Why the round left the model as it was, and what became of each client in it."""
        reasons = "; ".join(f"client {tenant}: {why}" for tenant, why in sorted(self.failed.items()))
        return f"{self.skipped}{f' ({reasons})' if reasons else ''}"


def read_record(raw: object, number: int) -> RoundRecord:
    """The record of round `number` from parsed JSON.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(raw, dict) or raw.get("round") != number or type(raw["round"]) is not int:
        raise ValueError(f"record {number} is not of round {number}")
    record = RoundRecord(**{f.name: raw[f.name] for f in fields(RoundRecord) if f.name in raw})
    texts: list[object] = []
    for name, value in vars(record).items():
        if name in ("contributor_ids", "left_out") and isinstance(value, list):
            texts += value
        elif name == "groups" and isinstance(value, list) and all(isinstance(group, list) for group in value):
            texts += [tenant for group in value for tenant in group]
        elif (name == "bad_groups" and _are_places(value, record.groups)) or (
            name == "draw" and isinstance(value, str)
        ):
            pass
        elif name == "failed" and isinstance(value, dict):
            texts += value.values()
        elif name == "skipped" and value is not None:
            texts.append(value)
        elif name in _FIGURES_BY_NAME and isinstance(value, dict):
            if not _are_figures(value):
                raise ValueError(f"record {number} says {name} = {value!r:.80}")
        elif name in (*_LISTS, "draw", "failed", *_FIGURES_BY_NAME) or (
            value is not None and type(value) not in (int, float)
        ):
            raise ValueError(f"record {number} says {name} = {value!r:.80}")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"record {number} holds something else where it should name clients and reasons")
    return record


def _are_places(places: object, groups: list[list[str]]) -> bool:
    allowed = range(len(groups))
    return isinstance(places, list) and all(type(place) is int and place in allowed for place in places)


def _are_figures(named: dict[object, object]) -> bool:
    return all(type(figure) in (int, float) for figure in named.values())


@dataclass(frozen=True)
class LoggedRounds:
    """The finished rounds as a checkpoint knows them, in as few bytes after a thousand rounds as after one.

    Attributes:
        count: how many lines of `metrics.jsonl` they are, from its start.
        sha256: of those lines, 32 bytes.
    """

    count: int = 0
    sha256: bytes = hashlib.sha256().digest()


class RunFolder:
    """`<log_dir>/<date>-<time>-<6 hex digits>/`; `<log_dir>/latest` points at the newest with a checkpoint.

    Attributes:
        settings, metrics, checkpoint, model, log, run_log, starts, evaluation, comparison, report, audit, verdicts:
            what is in it, or not; docs/metrics.md says what each is. The model's bundle has its name in
            `shared/bundle.py`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.settings = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.safetensors"
        self.model = path / MODEL_FILE
        self.log = path / "server.log"
        self.run_log = path / "run_log.jsonl"
        self.starts = path / "starts.jsonl"
        self.evaluation = path / "evaluation.json"
        self.comparison = path / "comparison.json"
        self.report = path / "report.html"
        self.audit = path / "audit"  # a folder: the proofs
        self.verdicts = path / "audit.jsonl"
        self._lock = -1
        self._rounds, self._digest = 0, hashlib.sha256()  # of what `metrics` holds

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Make the folder of a new run. `latest` stays where it is until `publish`.

        Raises:
            ConfigError: `log_dir` can't be written.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        folder = cls(Path(config.log_dir) / name)
        try:
            folder.path.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise ConfigError(
                f"log_dir = {config.log_dir!r}: no folder for the run can be made there: {error.strerror}; set another "
                "log_dir, or let this user write in it"
            ) from None
        folder.settings.write_text(config.as_yaml(), encoding="utf-8")
        replace_file(folder.metrics, b"")
        return folder

    @classmethod
    def find(cls, config: Config, name: str) -> "RunFolder":
        """The folder of the run of this name.

        `latest` is the newest run that has a checkpoint: a start that failed before it is none to go on with.

        Raises:
            ResumeError: there is none.
        """
        if name != "latest":
            folder = cls((Path(config.log_dir) / name).resolve())
            if not folder.settings.is_file():
                raise ResumeError(f"{Path(config.log_dir) / name}: no run to resume; start one without --resume")
            return folder
        newest = cls._newest(Path(config.log_dir))
        if newest is None:
            raise ResumeError(
                f"{config.log_dir}: no run to resume; start one without --resume (a run counts from its first "
                "checkpoint on, which is written before it listens)"
            )
        return newest

    @classmethod
    def _newest(cls, log_dir: Path) -> "RunFolder | None":
        runs = [cls(path) for path in log_dir.glob("*") if RUN_NAME.fullmatch(path.name)]
        # By the second in which the run began, and within it by when it last got on: the rest of a name is random.
        ages = {run: (run.name[:15], run.checkpoint.stat().st_mtime_ns) for run in runs if run.checkpoint.is_file()}
        return max(ages, key=ages.__getitem__, default=None)

    def publish(self) -> None:
        """Point `latest` at the newest run, which is this one unless it goes on with an older. Twice is fine."""
        link = self.path.with_name(f".latest-{self.name}")
        link.unlink(missing_ok=True)
        newest = self._newest(self.path.parent) or self
        if newest.name > time.strftime("%Y%m%d-%H%M%S", time.localtime(time.time() + _LATER_SECONDS)):
            _log.warning(
                "%s began at a time that is still to come: `latest` and --resume go by it; set the clock by NTP if it "
                "is behind, else move that folder away", newest.path,
            )  # fmt: skip
        link.symlink_to(newest.name)
        link.replace(self.path.with_name("latest"))  # atomic: `latest` never points nowhere

    def lock(self) -> None:
        """Keep every other server from writing here, until `unlock` or the end of the process, however it ends.

        Raises:
            ResumeError: another one does already.
        """
        path = self.path / LOCK
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f"the process {holder}" if holder.isdecimal() else "another server"
            raise ResumeError(
                f"{self.path}: {who} is at work on this run; wait for its end or stop it, then go on with --resume"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._lock = descriptor

    def unlock(self) -> None:
        """Let others write here. Twice is fine."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def logged(self) -> LoggedRounds:
        """What the next checkpoint has to say of the log."""
        return LoggedRounds(self._rounds, self._digest.digest())

    def append_record(self, record: RoundRecord) -> str:
        """Add a round's line to `metrics`; it is on the disk when this returns.

        The round is finished only with the checkpoint that counts it.

        Returns:
            The SHA-256 of the line, in hex.
        """
        line = json.dumps(asdict(record), allow_nan=False).encode() + b"\n"
        with naming(self.metrics), self.metrics.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._rounds += 1
        self._digest.update(line)
        return hashlib.sha256(line).hexdigest()

    def restore_records(self, finished: LoggedRounds) -> list[RoundRecord]:
        """The records of the finished rounds. What the log holds after them was never finished, and is cut off.

        Args:
            finished: as the checkpoint has them.

        Raises:
            ResumeError: the log is missing or damaged, or holds other or fewer rounds.
        """
        advice = f"restore {self.metrics.name} and {self.checkpoint.name} from one backup, or start a new run"
        records: list[RoundRecord] = []
        digest = hashlib.sha256()
        try:
            with open_regular(self.metrics) as file:
                while len(records) < finished.count:
                    line = file.readline(_LONGEST_LINE_BYTES)
                    if not line.endswith(b"\n"):
                        raise ValueError(f"missing or cut off, and the checkpoint is of round {finished.count}")
                    records.append(read_record(parse_strict_json(line), len(records) + 1))
                    digest.update(line)
                whole, size = file.tell(), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ResumeError(f"{self.metrics}: can't be read: {error.strerror}; {advice}") from None
        except ValueError as error:
            raise ResumeError(f"{self.metrics}, line {len(records) + 1}: {error}; {advice}") from None
        if digest.digest() != finished.sha256:
            raise ResumeError(f"{self.metrics}: not the lines of the checkpoint: their SHA-256 differs; {advice}")
        if whole < size:
            with self.metrics.open("r+b") as log:
                log.truncate(whole)
                os.fsync(log.fileno())
            _log.warning("%s: cut off %d bytes after round %d, of a round that was not finished",
                         self.metrics.name, size - whole, finished.count)  # fmt: skip
        self._rounds, self._digest = finished.count, digest
        return records

    def save_model(self, parameters: dict[str, NDArray[np.float32]]) -> None:
        """Write `model`, whole or not at all."""
        replace_file(self.model, save(parameters))
