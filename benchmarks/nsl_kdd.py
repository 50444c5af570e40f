"""NSL-KDD, KDDTrain+ to KDDTest+: pooled, federated and local training over ever more uneven clients.

    python benchmarks/nsl_kdd.py --scaling                # quantiles and z-scores: docs/measured/learning.md
    python benchmarks/nsl_kdd.py --detectors              # network, forest, density, fused, boosting, without labels
    python benchmarks/nsl_kdd.py --markdown tables.md     # its other tables, with --zscore as they stand there
    python benchmarks/nsl_kdd.py --select                 # how the settings for skew were chosen: validation rows alone
    python benchmarks/nsl_kdd.py --settings               # what they are worth on KDDTest+

Federated rounds are the real ones, in this process and without ciphertexts: see `benchmarks/simulation.py`.

The files are looked for in $THREAT_DATA/nsl-kdd, else in ../shared/data/nsl-kdd beside the repository.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.nsl_kdd_detectors import detectors_report, run_detectors
from benchmarks.nsl_kdd_figures import (
    AT,
    BOOSTED,
    CASES,
    COARSE,
    FAMILIES,
    POOLED,
    SEEDS,
    Z_SCORES,
    Result,
    boosting,
    config_of,
    model_figures,
    table,
)
from benchmarks.simulation import alone, concatenated, federated, scaled
from shared.data_utils import load_test_data, load_validation_data

SELECTION_SEED = 100  # of other clients and other initial weights than any that is reported
SCALINGS: dict[str, dict[str, Any]] = {
    "z-scores": Z_SCORES,
    "quantiles": {"input_noise": 0.0},
    "quantiles and noise 0.3": {},
}
SKEW_SETTINGS: dict[str, Any] = {"class_balance": "inverse", "server_momentum": 0.5}  # by `--zscore --select`
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
UNEVEN = ("Dirichlet(0.1), 3 clients", "one family each, 4 clients")
JUDGED = ("FedAvg", "FedProx, mu 0.01", "inverse, momentum 0.9")  # of the candidates; the last by `--select`
FEDERATED = "federated"
SKEWED, BEST, LOCAL = "federated, for skew", "federated, for skew, best round", "local mean"


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
            results += boosting(clients_of)
        last, _ = federated(clients_of)
        results.append(Result(case, FEDERATED, model_figures(last, validation, test)))
        last, best = federated(clients_of.replace(**SKEW_SETTINGS))
        results.append(Result(case, SKEWED, model_figures(last, validation, test)))
        results.append(Result(case, BEST, model_figures(best, validation, test)))
        local = [model_figures(alone(clients_of, rows, i), validation, test) for i, rows in enumerate(clients)]
        results.append(Result(case, LOCAL, {key: float(np.mean([f[key] for f in local])) for key in local[0]}))
        print(f"seed {seed}: {case} done", flush=True)
    return results


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


def run_settings(seed: int, scaling: dict[str, Any]) -> list[Result]:
    """The settings for uneven clients, of one seed, on KDDTest+."""
    torch.set_num_threads(1)
    results = []
    for case in UNEVEN:
        for name in JUDGED:
            c = config_of(seed, CASES[case] | CANDIDATES[name] | scaling)
            _, validation, test = scaled(c, load_test_data(c))
            last, _ = federated(c)
            results.append(Result(case, name, model_figures(last, validation, test)))
        print(f"seed {seed}: {case} done", flush=True)
    return results


def select(candidate: str, scaling: dict[str, Any]) -> list[Result]:
    """One candidate on the two most uneven partitions, judged by validation rows; KDDTest+ is not even read."""
    torch.set_num_threads(1)
    results = []
    for case in UNEVEN:
        c = config_of(SELECTION_SEED, CASES[case] | CANDIDATES[candidate] | scaling)
        _, validation, _ = scaled(c, load_validation_data(c))
        last, _ = federated(c)
        results.append(Result(case, candidate, model_figures(last, validation, validation)))
    return results


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


def settings_report(results: Sequence[Result]) -> str:
    columns = {"ROC-AUC": "ROC-AUC", "accuracy": "accuracy", "FPR": "FPR"} | {name: name for name in FAMILIES}
    columns |= {"real FPR": f"real@{AT}", "recall, 1 %": f"recall@{AT}", "r@5 %": "r@5 %"}
    columns |= {f"{name}, r@5 %": f"{name}, r@5 %" for name in ("r2l", "u2r")}
    ordered = sorted(results, key=lambda r: (UNEVEN.index(r.case), JUDGED.index(r.method)))
    return "\n".join(["### Settings for uneven clients on KDDTest+", "", *table(ordered, columns, JUDGED)])


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
    what.add_argument("--settings", action="store_true", help="compare settings for uneven clients on KDDTest+ instead")
    what.add_argument("--detectors", action="store_true", help="compare network, forest, density and fused instead")
    args = parser.parse_args()
    start = time.perf_counter()
    scaling = Z_SCORES if args.zscore else {}
    parts: Iterator[list[Result]]
    # spawn: torch's threads don't survive a fork. As many at once as there are cores: `taskset -c 0` for one.
    workers = min(len(SEEDS), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        if args.select:
            parts, as_text = pool.map(partial(select, scaling=scaling), CANDIDATES), selection_report
        elif args.settings:
            parts, as_text = pool.map(partial(run_settings, scaling=scaling), SEEDS), settings_report
        elif args.detectors:
            parts, as_text = pool.map(run_detectors, SEEDS), detectors_report
        elif args.scaling:
            parts, as_text = pool.map(run_scalings, SEEDS), scaling_report
        else:
            parts, as_text = pool.map(partial(run_seed, scaling=scaling), SEEDS), report
        results: list[Result] = []
        for part in parts:
            results += part
            if args.markdown:  # as far as it is, should the rest be cut off
                args.markdown.write_text(as_text(results), encoding="utf-8")
    print(as_text(results))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
