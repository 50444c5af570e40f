"""NSL-KDD: network, forest and density, each by itself, both of the former with the density, and boosting of all rows.

The forest is grown of all clients' rows in one place, and the density's sums are made in the open: the encrypted ones
are the same to the last bit (`tests/test_forest_federation.py`, `tests/test_density_federation.py`). The network is
trained in real rounds, as everywhere here.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.nsl_kdd_figures import (
    AT,
    BOOSTED,
    CASES,
    COARSE,
    FAMILIES,
    Figures,
    Result,
    boosting,
    config_of,
    model_figures,
    table,
)
from benchmarks.simulation import concatenated, federated
from shared.config import Config
from shared.data_sources.scaling import Quantiles
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data
from shared.density import BenignSums, Density
from shared.forest.plan import ForestPlan
from shared.forest.pooled import grow_pooled
from shared.fusion import Fusion
from shared.preprocessing import Preprocessing

NETWORK, FOREST, DENSITY = "network", "forest", "density"
WITH_DENSITY = {NETWORK: "network and density fused", FOREST: "forest and density fused"}
UNLABELLED = "density, no labels"
CONTAMINATED = (0.0, 0.01, 0.05, 0.2, 0.4)  # shares of attacks among rows that nobody labelled


def run_detectors(seed: int) -> list[Result]:
    """All detectors of one seed, under each partition; and densities of rows that nobody labelled."""
    torch.set_num_threads(1)
    results = boosting(config_of(seed, {}))
    for case, changes in CASES.items():
        c = config_of(seed, changes)
        parts = [load_client_data(c, client).train for client in range(c.num_clients)]
        preprocessing = Preprocessing.pooled(load_schema(c), parts, c.scaling)
        rows, known, new = map(preprocessing.apply, (concatenated(parts), load_validation_data(c), load_test_data(c)))
        assert isinstance(preprocessing.scaler, Quantiles)
        network, _ = federated(c)
        forest = grow_pooled(ForestPlan.of(c), rows, preprocessing.scaler)
        density = density_of(rows.features[rows.labels == 0])
        for name, model in {NETWORK: network, FOREST: forest, DENSITY: density}.items():
            results.append(Result(case, name, model_figures(model, known, new)))
        for name, model in {NETWORK: network, FOREST: forest}.items():
            fusion = Fusion.of(model, density, known, c.alert_rate)
            found = model_figures(fusion.detector(model, density), known, new)
            results.append(Result(case, WITH_DENSITY[name], found | {"gate": fusion.gate.recall or 0.0}))
        print(f"seed {seed}: {case} done", flush=True)
    c = config_of(seed, {})
    return results + [
        Result(f"{100 * share:g} % attacks", UNLABELLED, without_labels(c, share)) for share in CONTAMINATED
    ]


def density_of(features: NDArray[np.float32]) -> Density:
    return Density.of(BenignSums.of(features))


def without_labels(c: Config, share: float) -> Figures:
    """A density of all clients' benign rows with so many attacks among them, drawn at random, that they are this share.

    Scaling and density know no label; the figures do.
    """
    rows = concatenated([load_client_data(c, client).train for client in range(c.num_clients)])
    benign, attacks = np.flatnonzero(rows.labels == 0), np.flatnonzero(rows.labels)
    count = round(len(benign) * share / (1 - share))
    drawn = np.random.default_rng(c.seed).permutation(attacks)[:count]
    mixed = rows.take(np.concatenate([benign, drawn]))
    preprocessing = Preprocessing.pooled(load_schema(c), [mixed], c.scaling)
    density = density_of(preprocessing.apply(mixed).features)
    known, new = (preprocessing.apply(own) for own in (load_validation_data(c), load_test_data(c)))
    return model_figures(density, known, new)


def detectors_report(results: Sequence[Result]) -> str:
    """All tables."""
    every = (BOOSTED, COARSE, NETWORK, FOREST, DENSITY, *WITH_DENSITY.values())
    ranked = {name: name for name in ("r@1 %", "r@5 %", "unseen, r@1 %", "unseen, r@5 %")}
    quality = {"ROC-AUC": "ROC-AUC", "PR-AUC": "PR-AUC", "recall, 1 %": f"recall@{AT}", "real FPR": f"real@{AT}"}
    lines = ["### Detectors", "", *table(results, quality | ranked, every)]
    lines += ["### Recall by family, at 5 % of the test set's own benign rows", ""]
    lines += table(results, {name: f"{name}, r@5 %" for name in FAMILIES}, every)
    lines += ["### Recall by family, at the threshold for 1 % false positives on validation rows", ""]
    lines += table(results, {"real FPR": f"real@{AT}"} | {name: f"{name}@{AT}" for name in FAMILIES}, every)
    lines += ["### What the density alone finds of the validation attacks at 1 % false alarms, for its gate", ""]
    lines += table(results, {"gate": "gate"}, (WITH_DENSITY[FOREST],))
    lines += ["### Without labels, by the share of attacks among the rows that are learned from", ""]
    areas = {name: name for name in ("ROC-AUC", "PR-AUC")} | ranked
    lines += table(results, areas | {f"{name}, r@5 %": f"{name}, r@5 %" for name in FAMILIES}, (UNLABELLED,))
    return "\n".join(lines)
