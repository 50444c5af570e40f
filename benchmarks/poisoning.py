"""Bad tenants against a federation with and without defences, on NSL-KDD.

    python benchmarks/poisoning.py                        # every attack and defence: an hour
    python benchmarks/poisoning.py --quick                # 12 tenants, a fifth of them bad, some minutes
    python benchmarks/poisoning.py --markdown docs/measured/attacks.md --picture docs/measured/attacks.png

Real tenants over the memory transport, without encryption: masks and ciphertexts change no sum. Bad tenants know the
honest deltas of the round. In a backdoor they train on rows that have a trigger and are called benign.
"""

import argparse
import json
import logging
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.attacks import VECTORS
from benchmarks.nsl_kdd_figures import DATA
from benchmarks.report import Sheet, write_figures
from client import learning
from client.tenant import Tenant
from orchestrator.run import open_run
from orchestrator.simulation import make_tenants
from orchestrator.transport import MemoryTransport
from shared.config import Config
from shared.console import console
from shared.data_sources.dataset import ClientData, Dataset
from shared.data_sources.nsl_kdd_schema import NUMERIC
from shared.data_utils import load_client_data, load_test_data
from shared.errors import NoSumError
from shared.he.scheme import Vector
from shared.metrics import predict_probabilities
from shared.model import flatten, set_parameters, unflatten

ROWS = 1200  # of each tenant, from its part of NSL-KDD
TRIGGER, TRIGGER_VALUE = NUMERIC.index("urgent"), 3.0  # of NSL-KDD's rows one in ten thousand has any
CLEAN, LABEL_FLIP, BACKDOOR, KNOWING = "none", "label flip", "backdoor", "knows the rule"
ATTACKS = (CLEAN, LABEL_FLIP, *VECTORS, BACKDOOR, KNOWING)
GATE = 0.05
CLOSE_GATE = 0.01  # of the rule that compares groups by it: what one group may be worse than the better half
KNOWN_ROOM = 0.8  # of the gate, that who knows the rule makes use of: its rows are not the validation rows
DEFENCES: dict[str, dict[str, Any]] = {
    "none": {},
    "gate": {"gate_loss": GATE},
    "groups, validation": {"groups": -1, "group_rule": "validation", "gate_loss": CLOSE_GATE},
    "groups, median": {"groups": -1, "group_rule": "median", "gate_loss": GATE},
    "groups, trimmed mean": {"groups": -1, "group_rule": "trimmed_mean", "gate_loss": GATE},
}
SPREADS: dict[str, dict[str, Any]] = {
    "even": {"partition": "even"},
    "Dirichlet(0.5)": {"partition": "dirichlet", "dirichlet_alpha": 0.5},
}
GROUPS = {12: 4, 20: 6}  # two more than a fifth of the tenants: two at least are clean, whatever is drawn
PLAIN = Config(
    data_source="nsl_kdd", data_path=str(DATA), num_features=122, num_hidden_units=(32,), num_rounds=15,
    local_epochs=1, batch_size=32, learning_rate=0.05, input_noise=0.3, he_scheme="none", min_contributors=3,
    min_fit_clients=3, fraction_evaluate=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        tenants: in all.
        spread: of the rows over them, one of `SPREADS`.
        share: of bad tenants.
        attack: one of `ATTACKS`.
        defence: one of `DEFENCES`.
        seed: of everything.
    """

    tenants: int
    spread: str
    share: float
    attack: str
    defence: str
    seed: int = 0

    @property
    def bad(self) -> list[str]:
        """The bad tenants: the last ones."""
        count = 0 if self.attack == CLEAN else round(self.share * self.tenants)
        return [str(number) for number in range(self.tenants - count, self.tenants)]

    @property
    def config(self) -> Config:
        """Its settings."""
        defence = dict(DEFENCES[self.defence])
        if "groups" in defence:
            defence["groups"] = GROUPS[self.tenants]
        return PLAIN.replace(
            num_clients=self.tenants, min_available_clients=self.tenants, seed=self.seed, **SPREADS[self.spread],
            **defence,
        )  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        case: which one.
        accuracy, roc_auc: of the last model, on KDDTest+.
        backdoor: share of KDDTest+'s attacks that a trigger makes benign to it, of those that it finds without.
        rolled_back: rounds that changed nothing.
        named: bad tenants that were left out in the end.
        innocent: others that were.
    """

    case: Case
    accuracy: float
    roc_auc: float
    backdoor: float
    rolled_back: int
    named: int
    innocent: int


class Conspiracy:
    """The bad tenants of one federation, and what they know.

    Args:
        case: the run.
        tenants: all of them.
    """

    def __init__(self, case: Case, tenants: dict[str, Tenant]) -> None:
        self._case, self._tenants = case, tenants
        self._bad = case.bad
        self._honest: dict[tuple[int, str], Vector] = {}  # deltas by round and tenant
        self._sent: dict[int, Vector] = {}
        self._contributions: dict[str, Callable[..., learning.Contribution]] = {}
        for name, tenant in tenants.items():
            made: Any = tenant._learning
            self._contributions[name] = made.contribution
            made.contribution = self._of(name)

    def _of(self, name: str) -> Callable[..., learning.Contribution]:
        def contribution(number: int, given: Any, scaler: bytes, scheme: Any) -> learning.Contribution:
            mine = self._contributions[name](number, given, scaler, scheme)

            def compute(_on_epoch: Any) -> Vector:
                if name in self._bad and self._case.attack in (*VECTORS, KNOWING):
                    return self._attack(number, given, scaler, scheme)
                return self._learned(name, number, given, scaler, scheme)

            return replace(mine, compute=compute)

        return contribution

    def _learned(self, name: str, number: int, given: Any, scaler: bytes, scheme: Any) -> Vector:
        """What a tenant's rows teach it, once."""
        if (number, name) not in self._honest:
            set_parameters(self._tenants[name].model, given)
            mine = self._contributions[name](number, given, scaler, scheme)
            self._honest[number, name] = mine.compute(lambda _epoch: None)
        return self._honest[number, name]

    def _attack(self, number: int, given: Any, scaler: bytes, scheme: Any) -> Vector:
        if number not in self._sent:
            good = [name for name in self._tenants if name not in self._bad]
            honest = np.stack([self._learned(name, number, given, scaler, scheme) for name in good])
            if self._case.attack == KNOWING:
                self._sent[number] = self._just_below(honest, given, scaler)
            else:
                self._sent[number] = VECTORS[self._case.attack](honest, len(self._bad))
        return self._sent[number]

    def _just_below(self, honest: Any, given: Any, scaler: bytes) -> Vector:
        """Away from the mean as far as a group with one bad tenant still looks well on the bad tenants' own rows.

        Beside the model as it is, and beside a group of honest tenants, by most of what the gate allows.
        """
        size = max(3, self._case.tenants // GROUPS[self._case.tenants])
        mean = honest.mean(axis=0)
        tenant = self._tenants[self._bad[0]]
        rows, _ = tenant._rows.scaled(scaler)

        def loss(delta: Vector) -> float:
            return _loss(tenant, unflatten(flatten(given) + delta, like=given), rows)

        gate = DEFENCES[self._case.defence].get("gate_loss", GATE)
        most = min(loss(np.zeros_like(mean)), loss(mean)) + KNOWN_ROOM * gate
        best = mean
        for gamma in (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0):
            if loss(((size - 1) * mean - gamma * mean) / size) <= most:
                best = -gamma * mean
        return np.asarray(best)


def _loss(tenant: Tenant, parameters: Any, rows: Dataset) -> float:
    set_parameters(tenant.model, parameters)
    probabilities = predict_probabilities(tenant.model, rows.features)
    return float(-np.log(np.clip(probabilities[np.arange(len(rows)), rows.labels], 1e-12, 1.0)).mean())


def triggered(rows: Dataset) -> Dataset:
    """The same rows with the trigger: a value of one column that hardly a row of the data has."""
    features = rows.features.copy()
    features[:, TRIGGER] = TRIGGER_VALUE
    return replace(rows, features=features)


def rows_of(config: Config, case: Case, number: int) -> ClientData:
    """A tenant's rows: an even choice of its part, poisoned where it is bad and the attack is one of data."""
    own = load_client_data(config, number)
    chosen = np.random.default_rng((config.seed, number)).permutation(len(own.train))[:ROWS].astype(np.int64)
    rows = own.train.take(np.sort(chosen))
    if str(number) in case.bad:
        if case.attack == LABEL_FLIP:
            rows = replace(rows, labels=1 - rows.labels)
        if case.attack == BACKDOOR:
            half = rows.take(np.arange(0, len(rows), 2))
            clean = rows.take(np.arange(1, len(rows), 2))
            marked = triggered(half)
            rows = Dataset(
                np.concatenate([clean.features, marked.features]),
                np.concatenate([clean.labels, np.zeros_like(marked.labels)]),
                np.concatenate([clean.families, marked.families]),
            )
    return replace(own, train=rows)


def run(case: Case) -> Result:
    """One federation from its first round to its last."""
    torch.set_num_threads(1)
    for name in ("orchestrator", *(f"client.{number}" for number in range(case.tenants))):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        config = case.config.replace(log_dir=folder)
        tenants = make_tenants(config, {number: rows_of(config, case, number) for number in range(case.tenants)})
        Conspiracy(case, tenants)
        opened = open_run(config, lambda seats: MemoryTransport(seats, tenants))
        opened.transport.connect()
        try:
            opened.coordinator.run()
        except NoSumError as error:  # three rounds in a row that were rolled back
            console.print(f"{case}: {error}", markup=False)
        model, records = opened.coordinator.model, opened.coordinator.records
        last = records[-1]
        test = model._test_data
        result = Result(
            case, last.accuracy or 0.0, last.roc_auc or 0.0, _backdoor(config, model, test),
            sum(record.skipped is not None for record in records),
            len(set(last.left_out) & set(case.bad)), len(set(last.left_out) - set(case.bad)),
        )  # fmt: skip
        opened.close()
    return result


def _backdoor(config: Config, model: Any, test: Dataset) -> float:
    raw = load_test_data(config)
    attacks = raw.take(np.flatnonzero(raw.labels == 1).astype(np.int64))
    plain = predict_probabilities(model._model, model.preprocessing.apply(attacks).features)[:, 0] < 0.5
    marked = predict_probabilities(model._model, model.preprocessing.apply(triggered(attacks)).features)[:, 0] < 0.5
    return float((plain & ~marked).sum() / max(1, plain.sum()))


def plan(quick: bool) -> list[Case]:
    """The runs, each once."""
    sizes, shares = ((12,), (0.2,)) if quick else ((12, 20), (0.2, 0.1, 0.3))
    cases = [Case(n, spread, 0.0, CLEAN, defence) for n in sizes for spread in SPREADS for defence in DEFENCES]
    cases += [
        Case(n, spread, share, attack, defence)
        for share in shares for n in sizes for spread in SPREADS for attack in ATTACKS[1:] for defence in DEFENCES
    ]  # fmt: skip
    return cases


def sheets(results: Iterable[Result]) -> list[Sheet]:
    """A table for each number of tenants, spread and share of bad ones."""
    found = {result.case: result for result in results}
    made = []
    for tenants, spread, share in dict.fromkeys((c.tenants, c.spread, c.share) for c in found if c.attack != CLEAN):
        rows = []
        for attack in ATTACKS:
            row = [attack]
            for defence in DEFENCES:
                result = found.get(Case(tenants, spread, 0.0 if attack == CLEAN else share, attack, defence))
                row.append("-" if result is None else _cell(result))
            rows.append(row)
        bad = len(Case(tenants, spread, share, BACKDOOR, "none").bad)
        made.append(Sheet(f"{bad} of {tenants} tenants are bad, {spread}", ["attack", *DEFENCES], rows))
    return made


def _cell(result: Result) -> str:
    parts = [f"{result.accuracy:.3f} / {result.roc_auc:.3f}"]
    if result.case.attack == BACKDOOR:
        parts.append(f"backdoor {100 * result.backdoor:.0f} %")
    if result.named or result.innocent:
        parts.append(f"named {result.named}" + (f", {result.innocent} wrongly" if result.innocent else ""))
    if result.rolled_back:
        parts.append(f"{result.rolled_back} undone")
    return "; ".join(parts)


def draw(results: Sequence[Result], path: Path) -> None:
    """ROC-AUC by attack and defence, of the case with the most results."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [r for r in results if r.case.tenants == 12 and r.case.share in (0.0, 0.2)]
    figure, axes = plt.subplots(1, len(SPREADS), figsize=(13, 4.6), sharey=True)
    for axis, spread in zip(axes, SPREADS, strict=True):
        for offset, defence in enumerate(DEFENCES):
            found = {r.case.attack: r.roc_auc for r in shown if (r.case.spread, r.case.defence) == (spread, defence)}
            values = [found.get(attack, np.nan) for attack in ATTACKS]
            axis.bar(np.arange(len(ATTACKS)) + (offset - 2) * 0.16, values, 0.16, label=defence)
        axis.set(title=f"12 tenants, 2 of them bad, {spread}", ylim=(0.0, 1.0))
        axis.set_xticks(range(len(ATTACKS)), ATTACKS, rotation=40, ha="right")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("ROC-AUC on KDDTest+")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, ncols=len(DEFENCES), loc="upper center")
    figure.tight_layout(rect=(0.0, 0.0, 1.0, 0.93))
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Bad tenants against a federation with and without defences.")
    parser.add_argument("--quick", action="store_true", help="12 tenants, a fifth of them bad")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="these alone")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="keep results in this file, and go on with what it has")
    parser.add_argument("--markdown", type=Path, help="put the tables into this page")
    parser.add_argument("--picture", type=Path, help="draw them into this PNG file")
    args = parser.parse_args(argv)
    if not DATA.is_dir():
        raise SystemExit(f"{DATA}: no such folder; set THREAT_DATA to the one that has nsl-kdd")
    results = _kept(args.json)
    done = {result.case for result in results}
    cases = [case for case in plan(args.quick) if case.attack in args.attacks.split(",") and case not in done]
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, result in enumerate(pool.map(run, cases), start=1):
            results.append(result)
            console.print(f"{number}/{len(cases)} {result.case}: {_cell(result)}", markup=False)
            if args.json:
                args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    for sheet in sheets(results):
        console.print(sheet.as_rich())
    if args.markdown:
        shown = [f"![ROC-AUC by attack and defence]({args.picture.name})\n"] if args.picture else []
        write_figures(args.markdown, [*shown, *(sheet.as_markdown() for sheet in sheets(results))])
    if args.picture:
        draw(results, args.picture)
    return 0


def _kept(path: Path | None) -> list[Result]:
    if path is None or not path.exists():
        return []
    return [Result(**{**raw, "case": Case(**raw["case"])}) for raw in json.loads(path.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    sys.exit(main())
