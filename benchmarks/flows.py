"""Any labelled rows by their YAML file alone: network, forest, density and fused, and gradient boosting of all rows.

    python benchmarks/flows.py --config config/csv_flows.yaml --markdown tables.md
    python benchmarks/flows.py --config benchmarks/nsl_kdd_as_csv.yaml

For settings and data that this code does not know. The network is that of the settings, trained in real rounds without
ciphertexts (`benchmarks/simulation.py`), and the model of its best round by validation loss, as early stopping keeps
it. The others are those of `benchmarks/methods.py`. Nothing is chosen by the test rows. Seeds 0, 1 and 2 decide which
tenant has which rows, which rows validate and which test, initial weights and shuffling.
"""

import argparse
import logging
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.local_vs_federated import unseen_attacks
from benchmarks.methods import Methods
from benchmarks.simulation import federated, scaled
from orchestrator.report.evaluation import evaluate_final
from orchestrator.report.ranking import LOOSE, STRICT, rank, real_rate
from orchestrator.report.run_data import Rival
from shared import cli
from shared.config import MLP, Config, load_config
from shared.data_utils import load_test_data
from shared.errors import ConfigError, DataError

SEEDS = (0, 1, 2)
NETWORK = "network"
Row = dict[str, float]


def run_seed(c: Config) -> dict[str, Row]:
    """The figures of each detector of one seed, by its name.

    Args:
        c: of a federation of networks.

    Raises:
        ConfigError: of another kind of model.
        DataError: the files are missing or malformed, or the test rows are too few to rank.
    """
    if c.model != MLP or c.density or c.labels == "none":
        raise ConfigError(
            f"model = {c.model!r}, density = {c.density}, labels = {c.labels!r}: expected a network with labels and "
            "without a density; the other detectors are added here"
        )
    _, model = federated(c)
    parts, known, new = scaled(c, load_test_data(c))
    unseen = unseen_attacks(c, new, parts)
    network = Rival(NETWORK, sum(map(len, parts)), evaluate_final(c, model, known, new), rank(model, new, unseen))
    methods = Methods(c, model, unseen)
    return {rival.name: _figures(rival) for rival in (network, *methods.federated(), *methods.pooled())}


def _figures(rival: Rival) -> Row:
    if rival.ranking is None:
        raise DataError(f"nothing to rank: {rival.evaluation.too_few}; use more rows")
    e, attacks, unseen = rival.evaluation, rival.ranking.attacks, rival.ranking.unseen
    row = {"ROC-AUC": e.roc_auc, "PR-AUC": e.pr_auc, "real FPR": real_rate(e)}
    row |= {"r@1 %": attacks.shares[STRICT], "r@5 %": attacks.shares[LOOSE]}
    if unseen:
        row |= {"unseen, r@1 %": unseen.shares[STRICT], "unseen, r@5 %": unseen.shares[LOOSE]}
    return {name: value for name, value in row.items() if value is not None}


def table(seeds: Sequence[Mapping[str, Row]]) -> str:
    """Markdown: mean ± standard deviation over the seeds, a detector a line."""
    columns = list(seeds[0][NETWORK])
    collected: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for rows in seeds:
        for name, row in rows.items():
            for column, value in row.items():
                collected[name][column].append(value)
    lines = ["| detector | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, values in collected.items():
        lines.append(f"| {name} | " + " | ".join(_cell(values[column]) for column in columns) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def main(argv: list[str] | None = None) -> int:
    """All seeds, one after the other, and the table."""
    parser = argparse.ArgumentParser(description="All detectors on the data of any YAML file.")
    cli.add_settings(parser)
    parser.add_argument("--markdown", type=Path, help="write the table to this file as well")
    args = parser.parse_args(argv)
    for name in ("data", "labels"):  # a run tells of the rows; here it would be for each reading
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)

    def work() -> None:
        c, seeds = load_config(args.config, args.set), []
        for seed in SEEDS:
            seeds.append(run_seed(c.replace(seed=seed)))
            print(f"seed {seed} done", flush=True)
            if args.markdown:  # as far as it is, should the rest be cut off
                args.markdown.write_text(table(seeds), encoding="utf-8")
        print(table(seeds))

    return cli.run(work)


if __name__ == "__main__":
    sys.exit(main())
