"""NSL-KDD, KDDTrain+ to KDDTest+: pooled, federated and local training over ever more uneven clients.

    python benchmarks/nsl_kdd.py --scaling                # quantiles and z-scores: docs/measured/learning.md
    python benchmarks/nsl_kdd.py --forest                 # the network and the forest
    python benchmarks/nsl_kdd.py --density                # the density of benign rows, by itself, fused, without labels
    python benchmarks/nsl_kdd.py --markdown tables.md     # its other tables, with --zscore as they stand there
    python benchmarks/nsl_kdd.py --select                 # how the settings for skew were chosen: validation rows alone

Federated rounds are the real ones, in this process and without ciphertexts: see `benchmarks/simulation.py`.

The files are looked for in $THREAT_DATA/nsl-kdd, else in ../shared/data/nsl-kdd beside the repository.
"""

import argparse
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.simulation import alone, concatenated, federated, scaled
from shared.config import Config
from shared.data_sources import nsl_kdd
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data
from shared.density import BenignSums, Density
from shared.fusion import Fusion
from shared.metrics import attack_scores, attack_thresholds, predict_probabilities, score
from shared.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("THREAT_DATA", ROOT.parent / "shared" / "data")) / "nsl-kdd"
SEEDS = (0, 1, 2)
SELECTION_SEED = 100  # of other clients and other initial weights than any that is reported
ROUNDS = 10  # each of one local epoch; pooled and local training get as many epochs
PLAIN = Config(
    data_source="nsl_kdd", data_path=str(DATA), num_features=122, num_hidden_units=(64, 32), num_rounds=ROUNDS,
    local_epochs=1, batch_size=256, learning_rate=0.05, input_noise=0.3,
)  # fmt: skip
Z_SCORES: dict[str, Any] = {"scaling": "zscore", "input_noise": 0.0}
SCALINGS: dict[str, dict[str, Any]] = {
    "z-scores": Z_SCORES,
    "quantiles": {"input_noise": 0.0},
    "quantiles and noise 0.3": {},
}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "forest": {"model": "forest", "num_rounds": 30, "input_noise": 0.0},
}
SKEW_SETTINGS: dict[str, Any] = {"class_balance": "inverse", "server_momentum": 0.5}  # by `--select`
CASES: dict[str, dict[str, Any]] = {
    "even, 3 clients": {"partition": "even"},
    "Dirichlet(0.5), 3 clients": {"partition": "dirichlet", "dirichlet_alpha": 0.5},
    "Dirichlet(0.1), 3 clients": {"partition": "dirichlet", "dirichlet_alpha": 0.1},
    "one family each, 4 clients": {"partition": "family", "num_clients": 4},
    "by family, 3 clients": {"partition": "family"},
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedProx, mu 0.01": {"proximal_mu": 0.01},
    "FedProx, mu 0.1": {"proximal_mu": 0.1},
    "momentum 0.5": {"server_momentum": 0.5},
    "momentum 0.9": {"server_momentum": 0.9},
    "inverse": {"class_balance": "inverse"},
    "inverse, momentum 0.5": {"class_balance": "inverse", "server_momentum": 0.5},
    "inverse, momentum 0.9": {"class_balance": "inverse", "server_momentum": 0.9},
}
POOLED, BOOSTED, COARSE = "pooled MLP", "pooled gradient boosting", "pooled gradient boosting, 32 bins"
FEDERATED = "federated"
DENSITY, FUSED, UNLABELLED = "density", "fused", "density, no labels"
CONTAMINATED = (0.0, 0.01, 0.05, 0.2, 0.4)  # shares of attacks among rows that nobody labelled
SKEWED, BEST, LOCAL = "federated, for skew", "federated, for skew, best round", "local mean"
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


def boosted(rows: Dataset, seed: int, bins: int) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """A strong reference that can't be federated by averaging: scikit-learn's gradient boosting with its defaults."""
    forest = HistGradientBoostingClassifier(random_state=seed, max_bins=bins).fit(rows.features, rows.labels)
    return lambda features: np.asarray(forest.predict_proba(features), dtype=np.float64)


def run_seed(seed: int, scaling: dict[str, Any]) -> list[Result]:
    """All models of one seed."""
    torch.set_num_threads(1)
    results: list[Result] = []
    for case, changes in CASES.items():
        clients_of = config_of(seed, changes | scaling)
        # Scaled as a federated run scales: by the statistics of all clients' rows. A client alone would have only its
        # own; giving it the common ones leaves training as the one difference.
        clients, validation, test = scaled(clients_of, load_test_data(clients_of))
        if not results:  # whatever the partition, the union is the same but for the rows that clients hold out
            pooled = concatenated(clients)
            results.append(Result("all", POOLED, model_figures(alone(clients_of, pooled, 0), validation, test)))
            # On z-scores, which keep the values that trees split at: the reference depends on no grid.
            standardised = clients_of.replace(**Z_SCORES)
            parts, known, new = scaled(standardised, load_test_data(standardised))
            for name, bins in ((BOOSTED, 255), (COARSE, 32)):
                predict = boosted(concatenated(parts), seed, bins)
                results.append(Result("all", name, figures(predict(new.features), predict(known.features), known, new)))
        last, _ = federated(clients_of)
        results.append(Result(case, FEDERATED, model_figures(last, validation, test)))
        last, best = federated(clients_of.replace(**SKEW_SETTINGS))
        results.append(Result(case, SKEWED, model_figures(last, validation, test)))
        results.append(Result(case, BEST, model_figures(best, validation, test)))
        local = [model_figures(alone(clients_of, rows, i), validation, test) for i, rows in enumerate(clients)]
        results.append(Result(case, LOCAL, {key: float(np.mean([f[key] for f in local])) for key in local[0]}))
        print(f"seed {seed}: {case} done", flush=True)
    return results


def run_models(seed: int) -> list[Result]:
    """The network and the forest of one seed: after the last round, and of the best one by validation loss."""
    torch.set_num_threads(1)
    results = []
    for case, changes in CASES.items():
        for name, model in MODELS.items():
            c = config_of(seed, changes | model)
            _, validation, test = scaled(c, load_test_data(c))
            for kept, module in zip(("", ", best round"), federated(c), strict=True):
                results.append(Result(case, name + kept, model_figures(module, validation, test)))
        print(f"seed {seed}: {case} done", flush=True)
    return results


def run_densities(seed: int) -> list[Result]:
    """The network, the density and both as one detector of one seed; and densities of rows that nobody labelled.

    Sums are made in the open: the encrypted ones are the same to the last bit (`tests/test_density_federation.py`).
    """
    torch.set_num_threads(1)
    results = []
    for case, changes in CASES.items():
        c = config_of(seed, changes)
        parts, validation, test = scaled(c, load_test_data(c))
        rows = concatenated(parts)
        density = density_of(rows.features[rows.labels == 0])
        last, _ = federated(c)
        fusion = Fusion.of(last, density, validation, c.alert_rate)
        models = {"mlp": last, DENSITY: density, FUSED: fusion.detector(last, density)}
        for name, model in models.items():
            found = model_figures(model, validation, test)
            results.append(Result(case, name, found | {"gate": fusion.gate.recall or 0.0}))
        if not results[3:]:
            for share in CONTAMINATED:
                results.append(Result(f"{100 * share:g} % attacks", UNLABELLED, without_labels(c, share)))
        print(f"seed {seed}: {case} done", flush=True)
    return results


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


def run_scalings(seed: int) -> list[Result]:
    """The federated models of one seed, by either scaling."""
    torch.set_num_threads(1)
    results = []
    for case, changes in CASES.items():
        for name, scaling in SCALINGS.items():
            c = config_of(seed, changes | scaling)
            _, validation, test = scaled(c, load_test_data(c))
            last, _ = federated(c)
            results.append(Result(case, name, model_figures(last, validation, test)))
        print(f"seed {seed}: {case} done", flush=True)
    return results


def config_of(seed: int, changes: dict[str, Any]) -> Config:
    return PLAIN.replace(seed=seed, **changes)


def select(candidate: str, scaling: dict[str, Any]) -> list[Result]:
    """One candidate on the two most uneven partitions, judged by validation rows; KDDTest+ is not even read."""
    torch.set_num_threads(1)
    results = []
    for case in ("Dirichlet(0.1), 3 clients", "one family each, 4 clients"):
        c = config_of(SELECTION_SEED, CASES[case] | CANDIDATES[candidate] | scaling)
        _, validation, _ = scaled(c, load_validation_data(c))
        last, _ = federated(c)
        results.append(Result(case, candidate, model_figures(last, validation, validation)))
    return results


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


def targets(results: Sequence[Result]) -> list[str]:
    """The gains that the project set itself as a goal, met or not."""

    def gain(case: str, method: str, against: str, key: str) -> float:
        mine, theirs = (
            np.mean([r.figures[key] for r in results if r.method == m and r.case in (case, "all")])
            for m in (method, against)
        )
        return float(mine - theirs)

    even_less, uneven, family = (list(CASES)[index] for index in (1, 2, 3))
    lines = ["| goal | " + " | ".join((FEDERATED, SKEWED)) + " |", "|---|---:|---:|"]
    for text, case, against, key in (
        (f"ROC-AUC less that of the {POOLED}, {even_less}: at least -0.010", even_less, POOLED, "ROC-AUC"),
        (f"accuracy less the local mean, {uneven}: at least 0.050", uneven, LOCAL, "accuracy"),
        (f"accuracy less the local mean, {family}: at least 0.100", family, LOCAL, "accuracy"),
    ):
        lines.append(
            f"| {text} | " + " | ".join(f"{gain(case, m, against, key):+.3f}" for m in (FEDERATED, SKEWED)) + " |"
        )
    return [*lines, ""]


def report(results: Sequence[Result]) -> str:
    everything = (POOLED, BOOSTED, COARSE, FEDERATED, SKEWED, BEST, LOCAL)
    quality = {name: name for name in ("accuracy", "ROC-AUC", "PR-AUC", "FPR")}
    quality |= {"real FPR": f"real@{AT}"}
    lines = ["### Quality on KDDTest+", "", *table(results, quality, everything)]
    lines += ["### Recall at 5 % of the test set's own benign rows", ""]
    ranked = {"all": "r@5 %", "unseen types": "unseen, r@5 %"} | {name: f"{name}, r@5 %" for name in FAMILIES}
    lines += table(results, ranked, everything)
    lines += ["### Recall by family, at the most probable class", ""]
    lines += table(results, {"FPR": "FPR"} | {name: name for name in FAMILIES}, everything)
    lines += ["### Recall by family, at the threshold for 1 % false positives on validation rows", ""]
    lines += table(results, {"real FPR": f"real@{AT}"} | {name: f"{name}@{AT}" for name in FAMILIES}, everything)
    lines += ["### Recall of all attacks at thresholds from validation rows", ""]
    rates = {"recall, 0.1 %": "recall@0.001", "real FPR, 0.1 %": "real@0.001", "recall, 1 %": "recall@0.01"}
    lines += table(results, rates | {"real FPR, 1 %": "real@0.01"}, everything)
    lines += ["### Goals", "", *targets(results)]
    return "\n".join(lines)


def scaling_report(results: Sequence[Result]) -> str:
    columns = {"ROC-AUC": "ROC-AUC", "PR-AUC": "PR-AUC", "accuracy": "accuracy", "real FPR": f"real@{AT}"}
    columns |= {"recall, 1 %": f"recall@{AT}", "r@5 %": "r@5 %", "unseen, r@5 %": "unseen, r@5 %"}
    columns |= {f"{name}, r@5 %": f"{name}, r@5 %" for name in ("r2l", "u2r")}
    return "\n".join(["### Federated training by either scaling", "", *table(results, columns, list(SCALINGS))])


def models_report(results: Sequence[Result]) -> str:
    columns = {"ROC-AUC": "ROC-AUC", "PR-AUC": "PR-AUC", "accuracy": "accuracy", "real FPR": f"real@{AT}"}
    columns |= {"recall, 1 %": f"recall@{AT}", "r@5 %": "r@5 %", "unseen, r@5 %": "unseen, r@5 %"}
    names = [name + kept for name in MODELS for kept in ("", ", best round")]
    return "\n".join(["### The network and the forest", "", *table(results, columns, names)])


def densities_report(results: Sequence[Result]) -> str:
    columns = {"ROC-AUC": "ROC-AUC", "PR-AUC": "PR-AUC", "recall, 1 %": f"recall@{AT}", "real FPR": f"real@{AT}"}
    columns |= {name: name for name in ("r@1 %", "r@5 %", "unseen, r@1 %", "unseen, r@5 %")}
    families = {"real FPR": f"real@{AT}"} | {name: f"{name}@{AT}" for name in FAMILIES}
    beside = ("mlp", DENSITY, FUSED)
    lines = ["### The density beside the network", "", *table(results, columns | {"gate": "gate"}, beside)]
    lines += ["### Recall by family, at the threshold for 1 % false positives on validation rows", ""]
    lines += table(results, families, beside)
    lines += ["### Without labels, by the share of attacks among the rows that are learned from", ""]
    ranked = {name: name for name in ("ROC-AUC", "PR-AUC", "r@1 %", "r@5 %", "unseen, r@1 %", "unseen, r@5 %")}
    ranked |= {f"{name}, r@5 %": f"{name}, r@5 %" for name in FAMILIES}
    lines += table(results, ranked, (UNLABELLED,))
    return "\n".join(lines)


def selection_report(results: Sequence[Result]) -> str:
    results = sorted(results, key=lambda r: r.case)
    columns = {"loss": "loss", "accuracy": "accuracy", "FPR": "FPR"} | {name: name for name in FAMILIES}
    columns |= {f"{name}, 1 % FPR": f"{name}@{AT}" for name in ("r2l", "u2r")}
    return "\n".join(["### Candidates on the validation rows", "", *table(results, columns, list(CANDIDATES))])


def main() -> None:
    parser = argparse.ArgumentParser(description="Pooled, federated and local training on NSL-KDD.")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file as well")
    parser.add_argument("--zscore", action="store_true", help="scale by mean and variance, and add no noise")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--select", action="store_true", help="compare settings on the validation rows instead")
    what.add_argument("--scaling", action="store_true", help="compare the scalings, of federated models alone, instead")
    what.add_argument("--density", action="store_true", help="compare the network, the density and both instead")
    what.add_argument("--forest", action="store_true", help="compare the network and the forest, federated, instead")
    args = parser.parse_args()
    start = time.perf_counter()
    scaling = Z_SCORES if args.zscore else {}
    # spawn: torch's threads don't survive a fork
    with ProcessPoolExecutor(len(SEEDS), mp_context=multiprocessing.get_context("spawn")) as pool:
        if args.select:
            parts, as_text = pool.map(partial(select, scaling=scaling), CANDIDATES), selection_report
        elif args.forest:
            parts, as_text = pool.map(run_models, SEEDS), models_report
        elif args.density:
            parts, as_text = pool.map(run_densities, SEEDS), densities_report
        elif args.scaling:
            parts, as_text = pool.map(run_scalings, SEEDS), scaling_report
        else:
            parts, as_text = pool.map(partial(run_seed, scaling=scaling), SEEDS), report
        text = as_text([result for part in parts for result in part])
    print(text)
    print(f"{time.perf_counter() - start:.0f} s")
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
