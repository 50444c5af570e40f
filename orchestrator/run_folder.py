"""The folder that each run leaves: config, logs, metrics and model."""

import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from shared.config import Config
from shared.errors import ResumeError


@dataclass
class RoundRecord:
    """One line of `metrics.jsonl`. Times are in seconds; `None` where a round has no such figure.

    Attributes:
        round: counted from 1.
        contributors: clients whose updates are in the new global model; 0 if the round was skipped.
        failures: chosen clients whose updates are not.
        loss, accuracy, roc_auc, pr_auc, fpr, family_recall, recall_at_fpr, fpr_at_threshold: of the new global model
            on the common test set; `shared/metrics.py` says what they are.
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
    client_rows: int | None = None
    evaluate_seconds: float | None = None


class RunFolder:
    """`<log_dir>/<date>-<time>-<6 hex digits>/`, with `<log_dir>/latest` pointing at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.checkpoint = path / "checkpoint.safetensors"

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Make the folder of a new run and point `latest` at it."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        folder = cls(Path(config.log_dir) / name)
        folder.path.mkdir(parents=True)
        (folder.path / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
        link = folder.path.with_name(f".latest-{name}")
        link.symlink_to(name)
        link.replace(folder.path.with_name("latest"))  # atomic: `latest` never points nowhere
        return folder

    @classmethod
    def find(cls, config: Config, name: str) -> "RunFolder":
        """The folder of the run of this name; `latest` is the newest.

        Raises:
            ResumeError: there is none.
        """
        path = Path(config.log_dir) / name
        if not (path / "config.yaml").is_file():
            raise ResumeError(f"{path}: no run to resume; start one without --resume")
        return cls(path.resolve())

    def write_metrics(self, records: list[RoundRecord]) -> None:
        """Write `metrics.jsonl`, one line a round, whole or not at all."""
        lines = [json.dumps(asdict(record), allow_nan=False) + "\n" for record in records]
        self._replace("metrics.jsonl", "".join(lines).encode())

    def save_model(self, parameters: dict[str, NDArray[np.float32]]) -> None:
        """Write `model.safetensors`, whole or not at all."""
        self._replace("model.safetensors", save(parameters))

    def _replace(self, name: str, data: bytes) -> None:
        part = self.path / f"{name}.part"
        part.write_bytes(data)
        part.replace(self.path / name)
