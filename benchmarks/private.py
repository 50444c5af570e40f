"""What the noise of `privacy: records` costs on NSL-KDD, and what it is worth that it is shared.

    python benchmarks/private.py --workers 2              # 3 and 10 tenants, epsilon 1 to 8, 3 seeds; most of an hour
    python benchmarks/private.py --quick                  # 3 tenants, epsilon 1 and 4, one seed
    python benchmarks/private.py --select                 # how the settings were chosen: validation rows alone

The tenants' own code makes each vector (`client/private_training.py`), and the orchestrator's own each step; in between
they are added as they are, as masks and ciphertexts change no sum. Beside the federation stand

- the federation whose sums need **all of them** (`min_contributors`): shares may be smaller, as none can be missing;
- **each for itself**: every tenant adds the whole noise to its own vector, as it must where nobody masks;
- **one trainer** who has all rows, and adds the noise once;
- the same steps **without noise**, and without cutting gradients.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.nsl_kdd_figures import DATA
from benchmarks.report import Sheet, write_figures
from client.private_training import NoisyGradients, clipped_sum, sampled
from client.scaled_rows import ScaledRows
from shared.config import Config
from shared.console import console
from shared.data_sources.dataset import ClientData, Dataset
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data
from shared.dp import skellam
from shared.dp.learner import NoisySteps
from shared.dp.plan import release_of_counts
from shared.feature_statistics import QUANTILES, StatisticsCode
from shared.he.scheme import Vector
from shared.learner import AveragedDeltas
from shared.masking import least_honest, minimum_threshold
from shared.metrics import predict_probabilities, score
from shared.model import build_model, get_parameters
from shared.preprocessing import Preprocessing

FEDERATED, ALL, LOCAL, CENTRAL, NOISELESS = (
    "federated", "federated, all of them", "each for itself", "one trainer", "without noise",
)  # fmt: skip
NOISY = (FEDERATED, ALL, CENTRAL, LOCAL)
EPSILONS, TENANTS, SEEDS = (1.0, 2.0, 4.0, 8.0), (3, 10), (0, 1, 2)
SELECTION_SEED = 100
TRAINED_ROWS = 113_000  # of KDDTrain+, less what tenants hold out, about
SETTINGS: dict[str, Any] = {
    "num_rounds": 600, "dp_sampling_rate": 0.05, "dp_clip": 8.0, "learning_rate": 0.25, "server_momentum": 0.9,
    "num_hidden_units": (32,), "he_integer_bits": 15,
}  # fmt: skip
CANDIDATES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "300 rounds": {"num_rounds": 300},
    "300 rounds, learning rate 0.5": {"num_rounds": 300, "learning_rate": 0.5},
    "300 rounds, clip 12": {"num_rounds": 300, "dp_clip": 12.0},
    "300 rounds, clip 4, learning rate 0.5": {"num_rounds": 300, "dp_clip": 4.0, "learning_rate": 0.5},
    "300 rounds, clip 1, learning rate 1": {"num_rounds": 300, "dp_clip": 1.0, "learning_rate": 1.0},
    "300 rounds, width 16": {"num_rounds": 300, "num_hidden_units": (16,)},
    "300 rounds, width 64": {"num_rounds": 300, "num_hidden_units": (64,)},
}


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        tenants, epsilon, way, seed: which one.
        roc_auc, pr_auc: of its last model on KDDTest+.
        loss: on the validation rows.
        signal: of its sums to their noise, in the median.
    """

    tenants: int
    epsilon: float
    way: str
    seed: int
    roc_auc: float
    pr_auc: float
    loss: float
    signal: float


def settings(tenants: int, epsilon: float, seed: int, **more: Any) -> Config:
    """The tenants' and the orchestrator's, but for identities, which nothing here signs with."""
    config = Config(
        data_source="nsl_kdd", data_path=str(DATA), num_features=122, partition="dirichlet", dirichlet_alpha=0.5,
        num_clients=tenants, min_available_clients=tenants, min_fit_clients=3, fraction_evaluate=0.0, seed=seed,
        dp_rows=TRAINED_ROWS, dp_target_epsilon=epsilon, enrolled_clients="-", client_identity="-", privacy="records",
        **{**SETTINGS, **more},
    )  # fmt: skip
    return config


class _Unpaid:
    """The budget of a benchmark: what a run costs follows from its settings."""

    def pay(self, _rdp: object) -> float:
        return 0.0


def run(tenants: int, epsilon: float, way: str, seed: int, **more: Any) -> Result:
    """One training, from the noisy counts of the features to the last step."""
    torch.set_num_threads(1)
    config = settings(tenants, epsilon, seed, **more)
    parts = [load_client_data(config, number) for number in range(tenants)]
    if way == CENTRAL:
        parts = [_together(parts)]
    sharers = sharers_of(tenants, way)
    raw = [ScaledRows(config, part) for part in parts]
    schema = load_schema(config)
    code = StatisticsCode(config, schema)
    counts = np.sum([rows.vector(QUANTILES, b"") for rows in raw], axis=0)
    if way != NOISELESS:
        variance = release_of_counts(config, len(schema)).variance / sharers
        counts = counts + sum(code.in_steps(skellam.draw(variance, counts.size)) for _ in raw)
    preprocessing = Preprocessing.from_counts(code.decode_quantiles(counts), schema)
    scaler = preprocessing.scaler.to_bytes()
    model = build_model(config)
    learner: AveragedDeltas = NoisySteps(config, model)
    budget: Any = _Unpaid()
    noisy = [NoisyGradients(config, model, rows, budget, lambda: sharers) for rows in raw]
    plan = noisy[0]._plan
    signals = []
    for number in range(1, config.num_rounds + 1):
        if way == NOISELESS:
            total = _noiseless(model, [rows.scaled(scaler)[0] for rows in raw], config)
        else:
            scheme: Any = None
            made = [part.contribution(number, get_parameters(model), scaler, scheme) for part in noisy]
            total = np.sum([one.compute(lambda _epoch: None) for one in made], axis=0)
            signals.append(plan.signal_to_noise(total, len(noisy), sharers))
        learner.step(total, [str(n) for n in range(len(raw))])
    known, test = (preprocessing.apply(load(config)) for load in (load_validation_data, load_test_data))
    found = score(predict_probabilities(model, test.features), test)
    loss = score(predict_probabilities(model, known.features), known).loss
    return Result(
        tenants, epsilon, way, seed, found.roc_auc or 0.0, found.pr_auc or 0.0, loss,
        float(np.median(signals)) if signals else float("inf"),
    )  # fmt: skip


def sharers_of(tenants: int, way: str) -> int:
    """Of how many vectors the noise has to be enough."""
    required = {FEDERATED: minimum_threshold(tenants), ALL: tenants}.get(way)
    return 1 if required is None else least_honest(required, tenants)


def noisy_ways(tenants: int) -> list[str]:
    """Those that differ: of 3 tenants each sum is over all anyway."""
    same = sharers_of(tenants, ALL) == sharers_of(tenants, FEDERATED)
    return [way for way in NOISY if way != ALL or not same]


def _noiseless(model: torch.nn.Module, parts: Sequence[Dataset], config: Config) -> Vector:
    return np.asarray(sum(clipped_sum(model, sampled(rows, config.dp_sampling_rate), 1e6) for rows in parts))


def _together(parts: Sequence[ClientData]) -> ClientData:
    def joined(pick: Callable[[ClientData], Dataset]) -> Dataset:
        chosen = [pick(part) for part in parts]
        return Dataset(
            np.concatenate([rows.features for rows in chosen]), np.concatenate([rows.labels for rows in chosen]),
            np.concatenate([rows.families for rows in chosen]),
        )  # fmt: skip

    return ClientData(parts[0].schema, joined(lambda part: part.train), joined(lambda part: part.holdout))


FIGURES: dict[str, Callable[[Result], float]] = {
    "ROC-AUC on KDDTest+": lambda result: result.roc_auc,
    "loss on the validation rows": lambda result: result.loss,
}


def sheets(results: Sequence[Result]) -> list[Sheet]:
    """Each figure by epsilon and way, mean and range over the seeds."""
    made = []
    for tenants in sorted({result.tenants for result in results}):
        epsilons, ways = sorted({result.epsilon for result in results}), [*noisy_ways(tenants), NOISELESS]
        for title, figure in FIGURES.items():
            cells = [[_cell(_values(results, tenants, epsilon, way, figure)) for way in ways] for epsilon in epsilons]
            rows = [[f"{epsilon:g}", *row] for epsilon, row in zip(epsilons, cells, strict=True)]
            columns = ["epsilon", *ways]
            made.append(Sheet(f"{tenants} tenants: {title}", columns, rows))
    return made


def _values(
    results: Sequence[Result], tenants: int, epsilon: float, way: str, figure: Callable[[Result], float]
) -> list[float]:
    at = EPSILONS[0] if way == NOISELESS else epsilon
    return [figure(r) for r in results if (r.tenants, r.epsilon, r.way) == (tenants, at, way)]


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values) or "-"
    return f"{np.mean(values):.3f} ({min(values):.3f} - {max(values):.3f})"


def draw(results: Sequence[Result], path: Path) -> None:
    """The same as a picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = sorted({result.tenants for result in results})
    figure, axes = plt.subplots(len(FIGURES), len(sizes), figsize=(5.5 * len(sizes), 6.5), sharey="row", squeeze=False)
    for row, (title, of) in zip(axes, FIGURES.items(), strict=True):
        for axis, tenants in zip(row, sizes, strict=True):
            for way in noisy_ways(tenants):
                found = [(epsilon, _values(results, tenants, epsilon, way, of)) for epsilon in EPSILONS]
                known = [(epsilon, values) for epsilon, values in found if values]
                at = [epsilon for epsilon, _ in known]
                colour = f"C{NOISY.index(way)}"
                axis.plot(at, [np.mean(v) for _, v in known], marker="o", color=colour, label=way)
                lowest, highest = [min(v) for _, v in known], [max(v) for _, v in known]
                axis.fill_between(at, lowest, highest, color=colour, alpha=0.12)
            plain = _values(results, tenants, EPSILONS[0], NOISELESS, of)
            if plain:
                axis.axhline(float(np.mean(plain)), color="grey", linestyle=":", label=NOISELESS)
            axis.set(title=f"{tenants} tenants", xlabel="epsilon, at delta 1e-6", xscale="log")
            axis.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS])
            axis.minorticks_off()
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(title)
    axes[1][-1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def plan_of(quick: bool) -> list[tuple[int, float, str, int]]:
    """The runs: tenants, epsilon, way, seed."""
    sizes, epsilons, seeds = ((3,), (1.0, 4.0), (0,)) if quick else (TENANTS, EPSILONS, SEEDS)
    runs = []
    for seed in seeds:
        for n in sizes:
            runs.append((n, EPSILONS[0], NOISELESS, seed))
            runs += [(n, epsilon, way, seed) for epsilon in epsilons for way in noisy_ways(n)]
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="What the noise of `privacy: records` costs on NSL-KDD.")
    parser.add_argument("--quick", action="store_true", help="3 tenants, epsilon 1 and 4, one seed")
    parser.add_argument("--select", action="store_true", help="the settings' own choice, by validation loss")
    parser.add_argument("--json", type=Path, help="keep results in this file, and go on with what it has")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, help="put the tables into this page")
    parser.add_argument("--picture", type=Path, help="draw them into this PNG file")
    args = parser.parse_args(argv)
    if not DATA.is_dir():
        raise SystemExit(f"{DATA}: no such folder; set THREAT_DATA to the one that has nsl-kdd")
    if args.select:
        for name, changes in CANDIDATES.items():
            found = run(3, 4.0, FEDERATED, SELECTION_SEED, **changes)
            console.print(f"{name}: validation loss {found.loss:.4f}, signal to noise {found.signal:.2f}")
        return 0
    kept = args.json is not None and args.json.exists()
    results = [Result(**raw) for raw in json.loads(args.json.read_text(encoding="utf-8"))] if kept else []
    done = {(r.tenants, r.epsilon, r.way, r.seed) for r in results}
    wanted = [one for one in plan_of(args.quick) if one not in done]
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for result in pool.map(run, *zip(*wanted, strict=True)) if wanted else ():
            results.append(result)
            console.print(str(result), markup=False)
            if args.json:
                args.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n", encoding="utf-8")
    for sheet in sheets(results):
        console.print(sheet.as_rich())
    if args.markdown:
        shown = [f"![ROC-AUC and loss by epsilon]({args.picture.name})\n"] if args.picture else []
        write_figures(args.markdown, [*shown, *(sheet.as_markdown() for sheet in sheets(results))])
    if args.picture:
        draw(results, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
