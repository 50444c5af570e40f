"""Folders of runs that were never run, for the tests of the report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from orchestrator.report.evaluation import Evaluation, evaluate_final
from orchestrator.report.run_data import Start, add_start, write_json
from orchestrator.run_folder import RoundRecord, RunFolder
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.model import build_model

NAME = "20261124-101112-0a1b2c"
FINGERPRINT = "ab" * 32


def example_rows(rows: int, seed: int, attacks: bool = True) -> Dataset:
    """Rows of two classes that a model of random weights tells apart by chance alone."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows, dtype=np.int64) % 2 if attacks else np.zeros(rows, dtype=np.int64)
    families = np.where(labels == 0, "benign", np.where(np.arange(rows) % 4 == 1, "dos", "probe"))
    return Dataset(random.normal(size=(rows, 20)).astype(np.float32), labels, families)


def example_evaluation(seed: int = 1, attacks: bool = True) -> Evaluation:
    """Of a model of random weights."""
    config = Config(seed=seed)
    return evaluate_final(config, build_model(config), example_rows(2000, 5), example_rows(4000, 6, attacks))


def example_rounds(rounds: int, clients: int = 3, skipped: Sequence[int] = ()) -> list[RoundRecord]:
    """Rounds with all figures, some of which ended without a new model."""
    records = []
    for number in range(1, rounds + 1):
        ids = [str(client) for client in range(clients)]
        record = RoundRecord(
            round=number, contributors=clients, contributor_ids=ids, loss=1 / number, accuracy=0.9, roc_auc=0.95,
            pr_auc=0.9, fpr=0.05, fit_seconds=1.75, train_seconds=1.5, encrypt_seconds=0.25, aggregate_seconds=0.125,
            decrypt_seconds=0.5, round_seconds=4.0, evaluate_seconds=0.25, upload_bytes_per_client=2500,
            client_loss=0.3, client_accuracy=0.9, client_rows=300, validation_loss=0.4 / number,
            recall_at_fpr={"0.01": 0.5}, fpr_at_threshold={"0.01": 0.02},
        )  # fmt: skip
        if number in skipped:
            record.contributors, record.failures, record.contributor_ids = 0, clients, []
            record.skipped, record.train_seconds, record.upload_bytes_per_client = (
                "1 valid update, 2 needed",
                None,
                None,
            )
        records.append(record)
    return records


def write_run(
    parent: Path, config: Config, rounds: Sequence[RoundRecord], evaluation: Evaluation | None = None
) -> Path:
    """A run's folder with these contents."""
    folder = RunFolder(parent / NAME)
    folder.path.mkdir()
    folder.settings.write_text(config.as_yaml(), encoding="utf-8")
    for record in rounds:
        folder.append_record(record)
    add_start(folder, Start.now(FINGERPRINT, ["client-0", "client-1"] if config.enrolled_clients else []))
    if evaluation is not None:
        write_json(folder.evaluation, evaluation)
    return folder.path
