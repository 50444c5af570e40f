"""The folder that each run leaves: config, logs, metrics and model."""

import fcntl
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from shared.atomic import replace_file
from shared.config import Config
from shared.errors import ResumeError, RunInUseError

_RUN_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


@dataclass
class RoundRecord:
    """One line of `metrics.jsonl`. Times are in seconds; `None` where a round has no such figure.

    Attributes:
        round: counted from 1.
        contributors: clients whose updates are in the new global model; 0 if the round was skipped.
        failures: chosen clients whose updates are not.
        loss, accuracy, roc_auc, pr_auc, fpr, family_recall, recall_at_fpr, fpr_at_threshold, class_recall: of the new
            global model on the common test set; `shared/metrics.py` says what they are.
        validation_loss: of the new global model on the validation set, which early stopping goes by.
        fit_seconds: from the request to the last update, as the orchestrator saw it.
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
    """

    round: int
    contributors: int = 0
    failures: int = 0
    loss: float | None = None
    accuracy: float | None = None
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


class RunFolder:
    """`<log_dir>/<date>-<time>-<6 hex digits>/`; `<log_dir>/latest` points at the newest with a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.checkpoint = path / "checkpoint.safetensors"
        self._lock = -1

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Make the folder of a new run. `latest` stays where it is until `publish`."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        folder = cls(Path(config.log_dir) / name)
        folder.path.mkdir(mode=0o700, parents=True)
        (folder.path / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
        return folder

    @classmethod
    def find(cls, config: Config, name: str) -> "RunFolder":
        """The folder of the run of this name.

        `latest` is the newest run that has a checkpoint: a start that failed before it is none to go on with.

        Raises:
            ResumeError: there is none.
        """
        if name != "latest":
            path = Path(config.log_dir) / name
            if not (path / "config.yaml").is_file():
                raise ResumeError(f"{path}: no run to resume; start one without --resume")
            return cls(path.resolve())
        newest = cls._newest(Path(config.log_dir))
        if newest is None:
            raise ResumeError(
                f"{config.log_dir}: no run to resume; start one without --resume (a run counts from its first "
                "checkpoint on, which is written before it listens)"
            )
        return newest

    @classmethod
    def _newest(cls, log_dir: Path) -> "RunFolder | None":
        runs = [cls(path) for path in log_dir.glob("*") if _RUN_NAME.fullmatch(path.name)]
        # By the second in which the run began, and within it by when it last got on: the rest of a name is random.
        ages = {run: (run.name[:15], run.checkpoint.stat().st_mtime_ns) for run in runs if run.checkpoint.is_file()}
        return max(ages, key=ages.__getitem__, default=None)

    def publish(self) -> None:
        """Point `latest` at the newest run, which is this one unless it goes on with an older. Twice is fine."""
        link = self.path.with_name(f".latest-{self.name}")
        link.unlink(missing_ok=True)
        link.symlink_to((self._newest(self.path.parent) or self).name)
        link.replace(self.path.with_name("latest"))  # atomic: `latest` never points nowhere

    def lock(self) -> None:
        """Keep every other server from writing here, until `unlock` or the end of the process, however it ends.

        Raises:
            RunInUseError: another one does already.
        """
        path = self.path / "server.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f"the process {holder}" if holder.isdecimal() else "another server"
            raise RunInUseError(
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

    def write_metrics(self, records: list[RoundRecord]) -> None:
        """Write `metrics.jsonl`, one line a round, whole or not at all."""
        lines = [json.dumps(asdict(record), allow_nan=False) + "\n" for record in records]
        replace_file(self.path / "metrics.jsonl", "".join(lines).encode())

    def save_model(self, parameters: dict[str, NDArray[np.float32]]) -> None:
        """Write `model.safetensors`, whole or not at all."""
        replace_file(self.path / "model.safetensors", save(parameters))
