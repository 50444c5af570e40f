"""What all tenants of one sum work on, as one digest: the task that masked aggregation binds into every key.

A digest that both sides can compute says that they mean the same. A tenant computes it from what it was really given
and from its **own** training settings; the orchestrator from what it meant to send to all.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.config import FOREST, Config

Settings = Mapping[str, int | float | str]

# The settings of a round of training, which the orchestrator names in its request and every tenant has by itself.
# A class of their own travels as a name that is compared with the tenant's, and imports nothing.
TRAINING = (
    "model", "local_epochs", "batch_size", "optimizer", "learning_rate", "proximal_mu", "class_balance", "input_noise",
    "weighting", "max_examples",
)  # fmt: skip
FOREST_TRAINING = (
    "model", "forest_trees", "forest_parallel", "forest_depth", "forest_bins", "forest_columns",
    "forest_learning_rate", "forest_min_rows", "forest_min_hessian", "seed",
)  # fmt: skip
PRIVATE_TRAINING = (
    "model", "privacy", "num_rounds", "dp_target_epsilon", "dp_delta", "dp_sampling_rate", "dp_clip",
    "dp_statistics_share", "he_precision_bits", "he_integer_bits",
)  # fmt: skip


def training_settings(config: Config) -> dict[str, int | float | str]:
    """The settings that decide what a tenant computes from a model and its rows."""
    names: tuple[str, ...] = FOREST_TRAINING if config.model == FOREST else TRAINING
    if config.groups > 1:
        names = (*names, "groups", "regroupings")
    if config.privacy != "none":  # each tenant's share of the noise follows from all of these
        names = PRIVATE_TRAINING
    return {name: getattr(config, name) for name in names}


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        bucket: which vector is added up.
        about: SHA-256 in hex of the global model and the scaler (`shared.identity.digest_model`), or of the statistic.
        key: fingerprint of the public key that the vector is encrypted under.
        max_contributors: the most vectors that one sum may hold, which sizes the slots.
        settings: of the training; empty for other vectors.
        group: the group that it is added up over (`shared.groups.Partition.label`); empty: all tenants.
    """

    bucket: str
    about: str
    key: str
    max_contributors: int
    settings: Settings = field(default_factory=dict)
    group: str = ""

    def digest(self) -> bytes:
        """SHA-256 of all of it, 32 bytes."""
        settings, group = dict(sorted(self.settings.items())), [self.group] if self.group else []
        return _digest("task", self.bucket, self.about, self.key, self.max_contributors, settings, *group)

    def work(self, rows: str, *, fixed_about: bool = False) -> bytes:
        """What a tenant computes from which rows, whatever key and session it is asked under, 32 bytes.

        Args:
            rows: SHA-256 in hex of the tenant's own rows; it never leaves the tenant.
            fixed_about: leave out what the server says it is about: statistics of the same rows under another scaler
                are the same work.
        """
        about = "" if fixed_about else self.about
        return _digest("work", self.bucket, about, rows, dict(sorted(self.settings.items())))


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(json.dumps(parts, allow_nan=False).encode()).digest()
