"""A run's federated model beside one of each client's own rows, and one of all rows in one place.

    python benchmarks/local_vs_federated.py --run logs/latest

For simulations, where all clients' rows are on this machine: in a real federation nobody could do it. Each model has
the run's settings, starts from the same weights, takes rows scaled as the federation scales them, and sees its rows as
often as a client of the run did: `local_epochs` for each round that was run; a forest is grown whole. It is judged on
the run's test rows, at a threshold from the run's validation rows. Beside them stand detectors of other kinds
(`benchmarks/methods.py`): forest, density, and gradient boosting of all rows; of CloudTrail also Sigma rules, with
`--rules_path FOLDER`. The result goes into the run's folder and its report, which says in words which one to use.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from torch import nn

from benchmarks.methods import Methods
from benchmarks.simulation import concatenated
from client.training import TrainingSettings, train
from orchestrator.report.evaluation import Evaluation, evaluate_final
from orchestrator.report.figures import which_to_use
from orchestrator.report.page import write_report
from orchestrator.report.ranking import rank
from orchestrator.report.run_data import Comparison, Rival, read_run, write_json
from orchestrator.run_folder import RunFolder
from shared.bundle import ModelBundle
from shared.config import FOREST, Config
from shared.console import console, setup_logging, track
from shared.data_sources import nsl_kdd
from shared.data_sources.dataset import Dataset
from shared.data_sources.scaling import Quantiles
from shared.data_utils import load_client_data, load_test_data, load_validation_data
from shared.density import BenignSums, Density
from shared.errors import DataError, OrchestratorError
from shared.forest.plan import ForestPlan
from shared.forest.pooled import grow_pooled
from shared.model import build_model
from shared.plugins import check_named
from shared.preprocessing import Preprocessing

_log = logging.getLogger("orchestrator")


def compare(config: Config, epochs: int) -> Comparison:
    """Train and judge the models that need no federation.

    Args:
        config: of the run.
        epochs: passes of each model over its rows.

    Raises:
        DataError: not all clients' rows are on this machine.
    """
    try:
        clients = [load_client_data(config, client_id) for client_id in range(config.num_clients)]
    except DataError as error:
        raise DataError(f"{error}; a comparison needs the rows of all clients on this machine") from None
    preprocessing = Preprocessing.pooled(clients[0].schema, [client.train for client in clients], config.scaling)
    parts = [preprocessing.apply(client.train) for client in clients]
    validation, test = (preprocessing.apply(rows) for rows in (load_validation_data(config), load_test_data(config)))
    unseen = unseen_attacks(config, test, parts)

    def judged(name: str, rows: Dataset, model: nn.Module) -> Rival:
        return Rival(name, len(rows), evaluate_final(config, model, validation, test), rank(model, test, unseen))

    def rival(name: str, rows: Dataset, stream: int) -> Rival:
        if config.density_alone:
            return judged(name, rows, Density.of(BenignSums.of(rows.features[rows.labels == 0])))
        if isinstance(preprocessing.scaler, Quantiles) and config.model == FOREST:
            forest = grow_pooled(ForestPlan.of(config), rows, preprocessing.scaler)
            return judged(name, rows, forest)
        model = build_model(config)
        settings = replace(TrainingSettings.of(config), local_epochs=epochs, proximal_mu=0.0)
        # FedProx pulls towards the global model of a round; a model that is trained alone has none
        with track(_log, f"training {name}", epochs) as on_epoch:
            train(model, rows, settings, (config.seed, stream), on_epoch)
        return judged(name, rows, model)

    alone = [rival(f"client {client_id} alone", rows, client_id) for client_id, rows in enumerate(parts)]
    return Comparison(epochs, rival("pooled", concatenated(parts), config.num_clients), alone)


def with_other_kinds(
    comparison: Comparison, config: Config, bundle: ModelBundle, rules: Path | None = None
) -> Comparison:
    """The same with the run's own detector ranked, and detectors of other kinds where the settings allow them.

    Args:
        comparison: as `compare` makes it.
        config: of the run.
        bundle: that the run left.
        rules: a folder of Sigma rules to stand beside them.

    Raises:
        DataError: not all clients' rows are on this machine.
        ConfigError: rules are of no use beside this run.
        OrchestratorError: the folder of rules can't be used.
    """
    trains = [load_client_data(config, client_id).train for client_id in range(config.num_clients)]
    test = bundle.preprocessing.apply(load_test_data(config))
    unseen = unseen_attacks(config, test, trains)
    comparison = replace(comparison, federated=rank(bundle.build_detector(), test, unseen))
    if config.labels == "none" or config.num_classes != 2:
        return comparison
    methods = Methods(config, bundle.build_model(), unseen)
    given = [methods.rules(rules)] if rules else []
    return replace(comparison, others=[*methods.federated(), *given], references=list(methods.pooled()))


def unseen_attacks(config: Config, test: Dataset, trains: Sequence[Dataset]) -> NDArray[np.bool_]:
    """Which test rows are attacks of kinds that no client trains on, (rows,).

    By family; of NSL-KDD, whose families all have been trained on, by the attacks' own names.
    """
    if config.data_source == "nsl_kdd":
        return nsl_kdd.unseen_attacks(config)
    known = np.unique(np.concatenate([train.families for train in trains]))
    return np.asarray((test.labels != 0) & ~np.isin(test.families, known) & (config.labels != "none"))


def _table(federated: Evaluation, comparison: Comparison) -> Table:
    """From alone to together, within 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("model", "rows", "accuracy", "ROC-AUC", "PR-AUC", "recall", "false alarms"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for rival in comparison.alone:
        table.add_row(rival.name, f"{rival.rows:,}", *map(_cell, _figures(rival.evaluation)))
    columns = zip(*(_figures(rival.evaluation) for rival in comparison.alone), strict=True)
    table.add_row("mean alone", "", *(_cell(_mean(column)) for column in columns))
    pooled = comparison.pooled
    table.add_row(pooled.name, f"{pooled.rows:,}", *map(_cell, _figures(pooled.evaluation)))
    table.add_row("federated", "", *map(_cell, _figures(federated)), style="bold")
    return table


def _story(federated: Evaluation, comparison: Comparison) -> str:
    if federated.too_few:
        return f"nothing to compare: {federated.too_few}"
    alone = _mean([rival.evaluation.roc_auc for rival in comparison.alone])
    areas = (alone, federated.roc_auc, comparison.pooled.evaluation.roc_auc)
    by_itself, together, pooled = ("-" if area is None else f"{area:.2f}" for area in areas)
    return f"ROC-AUC: alone {by_itself}, together {together}; with all rows in one place it would be {pooled}"


def _figures(e: Evaluation) -> tuple[float | None, ...]:
    return e.accuracy, e.roc_auc, e.pr_auc, e.recall, e.fpr


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@contextlib.contextmanager
def _nothing_of_the_rows() -> Iterator[None]:
    """Without the lines about the clients' rows, which the run has said, and each reading would say again."""
    levels = {log: log.level for log in map(logging.getLogger, ("data", "labels"))}
    for log in levels:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)


def main(argv: list[str] | None = None) -> int:
    """Compare, write it down, and make the report anew."""
    parser = argparse.ArgumentParser(description="A run's federated model against local and pooled training.")
    parser.add_argument("--run", type=Path, default=Path("logs/latest"), help="its folder (default: %(default)s)")
    parser.add_argument("--model_class", default="", help="package.module:Class, if the run's model is your own")
    parser.add_argument("--data_source", default="", help="package.module, if the run's data source is your own")
    parser.add_argument(
        "--rules_path", type=Path, metavar="FOLDER", help="Sigma rules to compare with; CloudTrail alone"
    )
    args = parser.parse_args(argv)
    setup_logging()
    torch.set_num_threads(1)  # for models this small, more threads only contend
    try:
        run = read_run(args.run)
        if run.evaluation is None:
            raise DataError(f"{args.run}: the run has no evaluation.json; let it come to its end (--resume)")
        check_named("model", run.config.model, "--model_class", args.model_class)
        check_named("data_source", run.config.data_source, "--data_source", args.data_source)
        if args.rules_path:  # before anything is trained
            from shared.rules.folder import load_rules  # takes pySigma

            load_rules(args.rules_path, run.config.data_source)
        with _nothing_of_the_rows():
            comparison = compare(run.config, len(run.rounds) * run.config.local_epochs)
            bundle = ModelBundle.load(args.run, args.model_class)
            comparison = with_other_kinds(comparison, run.config, bundle, args.rules_path)
        write_json(RunFolder(args.run).comparison, comparison)
        console.print(_table(run.evaluation, comparison))
        console.print(_story(run.evaluation, comparison))
        if advice := which_to_use(run.evaluation, comparison):
            console.print(advice)
        console.print(f"open {write_report(args.run)}", soft_wrap=True)
    except (OrchestratorError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
