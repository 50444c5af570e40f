"""The figures of a round under the names that TensorBoard and MLflow show them by."""

from orchestrator.report.figures import time_parts
from orchestrator.run_folder import RoundRecord

PHASES = ("clients", "masks_and_waiting", "add", "decrypt", "evaluate")  # as `TIME_PARTS` of the report
_NAMED = {
    "test/loss": "loss", "test/accuracy": "accuracy", "test/roc_auc": "roc_auc", "test/pr_auc": "pr_auc",
    "test/fpr": "fpr", "validation/loss": "validation_loss", "clients/loss": "client_loss",
    "clients/accuracy": "client_accuracy", "round/contributors": "contributors", "round/failures": "failures",
    "round/seconds": "round_seconds", "round/upload_bytes_per_client": "upload_bytes_per_client",
    "privacy/epsilon": "epsilon", "privacy/signal_to_noise": "signal_to_noise",
}  # fmt: skip


def scalars(record: RoundRecord) -> dict[str, float]:
    """The figures that a round has; seconds by phase, too. Nothing in them is a tenant's name or text."""
    figures = {name: getattr(record, field) for name, field in _NAMED.items()}
    figures |= {f"seconds/{phase}": part for phase, part in zip(PHASES, time_parts(record), strict=True)}
    for rate, recall in record.recall_at_fpr.items():
        figures[f"recall_at_fpr/{rate}"] = recall
    return {name: float(value) for name, value in figures.items() if value is not None}
