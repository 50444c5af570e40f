"""Detectors beside the one that a run trained, for `benchmarks/local_vs_federated.py`: what else the rows would give.

What a federation can have is made in the open here, and is what it would be encrypted: its forest and its density are
those of all rows in one place, tree for tree and bit for bit. Boosting is the reference that needs them there. Sigma
rules, for CloudTrail, learn nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn

from benchmarks.simulation import concatenated, federated
from orchestrator.report.evaluation import evaluate_final
from orchestrator.report.ranking import rank
from orchestrator.report.run_data import Rival
from shared.config import DENSITY, FOREST, MLP, Config
from shared.data_sources.dataset import Dataset
from shared.data_sources.scaling import Quantiles
from shared.data_utils import feature_count, load_client_data, load_test_data, load_validation_data
from shared.density import BenignSums, Density
from shared.errors import ConfigError, DataError
from shared.forest.plan import ForestPlan
from shared.forest.pooled import grow_pooled
from shared.fusion import Fusion
from shared.preprocessing import Preprocessing
from shared.rules.rule import LABEL_LEVEL

RULES = f"Sigma rules of level {LABEL_LEVEL} and above"
_BINS = (255, 32)
# What a forest has no use for, and refuses.
_NO_DELTAS = {"weighting": "uniform", "class_balance": "none", "server_momentum": 0.0, "fraction_fit": 1.0}


class Boosted(nn.Module):
    """scikit-learn's gradient boosting with its defaults, as a module: features (B, F) to logits (B, 2)."""

    def __init__(self, rows: Dataset, bins: int, seed: int) -> None:
        super().__init__()
        self._trees = HistGradientBoostingClassifier(random_state=seed, max_bins=bins)
        self._trees.fit(rows.features, rows.labels != 0)

    def forward(self, features: Tensor) -> Tensor:
        odds = torch.from_numpy(self._trees.decision_function(features.numpy()))
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


class Hits(nn.Module):
    """Rules as a module: whether one hits a record, 0 or 1, (B, 1), to logits (B, 2)."""

    def forward(self, hits: Tensor) -> Tensor:
        odds = hits[:, 0] - 0.5
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


class Methods:
    """The rows of all clients, and the detectors that they give.

    Args:
        config: of the run; two classes, and labels.
        model: that the run trained.
        unseen: which test rows are attacks of kinds that no client trained on, (rows,).

    Raises:
        DataError: not all clients' rows are on this machine.
    """

    def __init__(self, config: Config, model: nn.Module, unseen: NDArray[np.bool_]) -> None:
        self._config, self._model, self._unseen = config, model, unseen
        clients = [load_client_data(config, client) for client in range(config.num_clients)]
        self._raw = [client.train for client in clients]
        self._schema = clients[0].schema
        self._validation, self._test = load_validation_data(config), load_test_data(config)

    def federated(self) -> Iterator[Rival]:
        """Those that a federation can have."""
        c = self._config
        preprocessing = Preprocessing.pooled(self._schema, self._raw, "quantile")
        scaler = preprocessing.scaler
        parts = [preprocessing.apply(part) for part in self._raw]
        rows, known, new = concatenated(parts), preprocessing.apply(self._validation), preprocessing.apply(self._test)
        if c.model in (FOREST, DENSITY):
            mlp, _ = federated(c.replace(model=MLP, density=False))
            yield self._rival("network", len(rows), mlp, known, new)
        if c.model != FOREST and isinstance(scaler, Quantiles):
            try:
                plan = ForestPlan.of(c.replace(model=FOREST, density=False, scaling="quantile", **_NO_DELTAS))
                yield self._rival("forest", len(rows), grow_pooled(plan, rows, scaler), known, new)
            except ConfigError:  # settings of which no forest can be made
                pass
        if c.density_alone:
            return
        try:
            sums = BenignSums.of(rows.features[rows.labels == 0])
            sums.check()
        except DataError:  # too few benign rows, or columns that are not bounded
            return
        density = Density.of(sums)
        yield self._rival("density", sums.rows, density, known, new)
        if c.scaling == "quantile":
            fusion = Fusion.of(self._model, density, known, c.alert_rate)
            if c.density and fusion.tails is not None:  # the run's own detector is the fused one
                yield self._rival("the model without the density", len(rows), self._model, known, new)
            elif fusion.tails is not None:
                yield self._rival(
                    "model and density fused", len(rows), fusion.detector(self._model, density), known, new
                )

    def pooled(self) -> Iterator[Rival]:
        """Those that need all rows in one place. On z-scores, which keep the values that trees split at."""
        apply = Preprocessing.pooled(self._schema, self._raw, "zscore").apply
        rows, known, new = (
            concatenated([apply(part) for part in self._raw]),
            *map(apply, (self._validation, self._test)),
        )
        for bins in _BINS:
            name = f"gradient boosting, {bins} bins"
            yield self._rival(name, len(rows), Boosted(rows, bins, self._config.seed), known, new)

    def rules(self, folder: Path) -> Rival:
        """A folder of Sigma rules: a window is an alert if one of level `LABEL_LEVEL` or above hits a record of it.

        Raises:
            ConfigError: the run's labels are rules' hits, with which rules would agree whatever they find.
            OrchestratorError: the folder has no rules, or a file of it is none.
        """
        c = self._config
        if c.labels == "rules":
            raise ConfigError(
                "--rules_path beside a run with labels: rules: expected labels of another origin, as rules find what "
                "rules call an attack; leave --rules_path out"
            )
        # As labels, hits come window by window, for the very windows that the run is judged on.
        hits = c.replace(labels="rules", rules_path=str(folder), label_field="", label_patterns=(), label_path="")
        hits = hits.replace(num_features=feature_count(hits))
        known, new = (
            Dataset(found.labels[:, None].astype(np.float32), rows.labels, rows.families)
            for found, rows in (
                (load_validation_data(hits), self._validation),
                (load_test_data(hits), self._test),
            )
        )
        return self._rival(RULES, 0, Hits(), known, new)

    def _rival(self, name: str, count: int, detector: nn.Module, known: Dataset, new: Dataset) -> Rival:
        evaluation = evaluate_final(self._config, detector, known, new)
        return Rival(name, count, replace(evaluation, roc_fpr=[], roc_tpr=[], pr_recall=[], pr_precision=[]),
                     rank(detector, new, self._unseen))  # fmt: skip
