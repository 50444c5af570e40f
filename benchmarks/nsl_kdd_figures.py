"""What the tables on NSL-KDD are made of: splits, the figures of a model on KDDTest+, and mean and spread of seeds.

The files are looked for in $THREAT_DATA/nsl-kdd, else in ../shared/data/nsl-kdd beside the repository.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.simulation import concatenated, scaled
from shared.config import Config
from shared.data_sources import nsl_kdd
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_test_data
from shared.metrics import attack_scores, attack_thresholds, predict_probabilities, score

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("THREAT_DATA", ROOT.parent / "shared" / "data")) / "nsl-kdd"
SEEDS = (0, 1, 2)
ROUNDS = 10  # each of one local epoch; pooled and local training get as many epochs
PLAIN = Config(
    data_source="nsl_kdd", data_path=str(DATA), num_features=122, num_hidden_units=(64, 32), num_rounds=ROUNDS,
    local_epochs=1, batch_size=256, learning_rate=0.05, input_noise=0.3,
)  # fmt: skip
Z_SCORES: dict[str, Any] = {"scaling": "zscore", "input_noise": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "even, 3 clients": {"partition": "even"},
    "Dirichlet(0.5), 3 clients": {"partition": "dirichlet", "dirichlet_alpha": 0.5},
    "Dirichlet(0.1), 3 clients": {"partition": "dirichlet", "dirichlet_alpha": 0.1},
    "one family each, 4 clients": {"partition": "family", "num_clients": 4},
    "by family, 3 clients": {"partition": "family"},
}
POOLED, BOOSTED, COARSE = "pooled MLP", "pooled gradient boosting", "pooled gradient boosting, 32 bins"
BINS = {BOOSTED: 255, COARSE: 32}
FAMILIES = ("dos", "probe", "r2l", "u2r")
AT = "0.01"

Figures = dict[str, float]


@dataclass(frozen=True)
class Result:
    """One model, or the mean over one partition's local models, on KDDTest+."""

    case: str
    method: str
    figures: Figures


def figures(
    probabilities: NDArray[np.float64], validation: NDArray[np.float64], known: Dataset, rows: Dataset
) -> Figures:
    """What the tables show of a model's probabilities, (rows, 2), on `rows`; thresholds from `known` alone."""
    thresholds = attack_thresholds(1.0 - validation[known.labels == 0, 0])
    m = score(probabilities, rows, thresholds)
    if m.roc_auc is None or m.pr_auc is None or m.fpr is None:
        raise SystemExit("the rows hold one class alone; is this NSL-KDD?")
    result = {"accuracy": m.accuracy, "ROC-AUC": m.roc_auc, "PR-AUC": m.pr_auc, "FPR": m.fpr, "loss": m.loss}
    result |= m.family_recall
    result |= {f"recall@{rate}": value for rate, value in m.recall_at_fpr.items()}
    result |= {f"real@{rate}": value for rate, value in m.fpr_at_threshold.items()}
    scores = attack_scores(probabilities)
    of_benign = scores[rows.labels == 0]
    own = scores > np.quantile(of_benign, 0.95)  # of the judged rows themselves: to compare rankings by
    strict = scores > np.quantile(of_benign, 0.99)
    result |= {"r@1 %": float(strict[rows.labels == 1].mean())}
    result |= {"r@5 %": float(own[rows.labels == 1].mean())}
    result |= {f"{family}, r@5 %": float(own[rows.families == family].mean()) for family in FAMILIES}
    if len(rows) == len(unseen_attacks()):
        result |= {"unseen, r@5 %": float(own[unseen_attacks()].mean())}
        result |= {"unseen, r@1 %": float(strict[unseen_attacks()].mean())}
    called = scores > thresholds[AT]
    return result | {f"{family}@{AT}": float(called[rows.families == family].mean()) for family in FAMILIES}


@cache
def unseen_attacks() -> NDArray[np.bool_]:
    """Which rows of KDDTest+, in the file's order, are attacks of types that KDDTrain+ does not have, (rows,)."""
    return nsl_kdd.unseen_attacks(PLAIN)


def model_figures(model: torch.nn.Module, known: Dataset, rows: Dataset) -> Figures:
    on_rows, on_known = (predict_probabilities(model, data.features) for data in (rows, known))
    return figures(on_rows, on_known, known, rows)


def boosting(c: Config) -> list[Result]:
    """A strong reference of all rows in one place: scikit-learn's gradient boosting with its defaults.

    On z-scores, which keep the values that trees split at: the reference depends on no grid.
    """
    standardised = c.replace(**Z_SCORES)
    parts, known, new = scaled(standardised, load_test_data(standardised))
    rows = concatenated(parts)
    results = []
    for name, bins in BINS.items():
        trees = HistGradientBoostingClassifier(random_state=c.seed, max_bins=bins).fit(rows.features, rows.labels)
        on_new, on_known = (np.asarray(trees.predict_proba(data.features), dtype=np.float64) for data in (new, known))
        results.append(Result("all", name, figures(on_new, on_known, known, new)))
    return results


def config_of(seed: int, changes: dict[str, Any]) -> Config:
    return PLAIN.replace(seed=seed, **changes)


def table(results: Sequence[Result], columns: dict[str, str], methods: Sequence[str]) -> list[str]:
    """Markdown: mean, and standard deviation over seeds where there are several."""
    grouped: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    for result in results:
        if result.method in methods:
            grouped[result.case, result.method].append(result.figures)
    lines = ["| clients | model | " + " | ".join(columns) + " |", "|---|---|" + "---:|" * len(columns)]
    for (case, method), rows in grouped.items():
        cells = [_cell([row[key] for row in rows]) for key in columns.values()]
        lines.append(f"| {case} | {method} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(values: list[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"
