"""CloudTrail: three simulated tenants train on one attack simulation; does the model find attacks it did not train on?

    python benchmarks/cloudtrail.py --markdown tables.md     # the tables of docs/measured/results.md

Trained on `cloudtrail-invictus` (an hour of one account), with the settings of `config/cloudtrail.yaml`: the attack
tool's own calls are attacks, and what else the tool left is in neither class (`label_ignored`). Tried on
`cloudtrail-stratus`: one file of records for each attack technique, named by tactic and technique.

*Folds.* The hour is cut into `FOLDS` contiguous parts of as many windows. A model trains on all parts but one; of that
one the earlier half validates and the later half tests. So no test window lies between windows that were trained on.

*An account outside training.* The user `OUTSIDE` attacks nobody and is in no training set and no validation set: a
model that only knows who it was trained on takes that user's work for an attack.

*Leave one tactic out.* The attack records in training whose API call occurs in a file of that tactic are taken away, so
that what is found of the tactic is not what was learned by heart.

Validation has a handful of benign windows, and a threshold for 1 % false alarms takes 300: there is none, here as in a
run. Two bars stand in its place: the highest score among the validation part's benign windows, which can be known
beforehand, and that among *all* benign windows that were not trained on, which gives no false alarm by construction. A
technique is *found* if one of its windows (what one principal did in a minute) scores above the bar in most of the
models; a benign window is a *false alarm* likewise. Techniques and windows are counted, not events and not models:
another seed is no further evidence. Bounds are those of Clopper and Pearson (Biometrika, 1934) at 95 %.

*Reference.* One feature by itself, without any training: the share of calls that the principal was not seen to make
before. It is 1 in the first window of any file, so it tells how much of a result is that each technique has a file.

Rounds run in this process without ciphertexts: see `benchmarks/simulation.py`. The folders are looked for in
$THREAT_DATA, else in ../shared/data beside the repository.
"""

import argparse
import json
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from benchmarks.simulation import federated
from shared.config import Config, load_config
from shared.data_sources.dataset import Dataset
from shared.data_sources.labels import IgnoredRecords, LabelRules
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data, stream_features
from shared.metrics import attack_scores, predict_probabilities
from shared.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("THREAT_DATA", ROOT.parent / "shared" / "data"))
SEEDS = (0, 1, 2)
FOLDS = 4
OUTSIDE = "arn:aws:iam::123837392027:user/benjamin"
REFERENCE = "new_api_share"
CONFIDENCE = 0.95

Record = dict[str, Any]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Detector:
    """A trained model with all that scoring needs.

    Attributes:
        config: how to read records.
        model: the network.
        preprocessing: of the windows that it was trained on.
        highest: score among the validation part's benign windows.
    """

    config: Config
    model: torch.nn.Module
    preprocessing: Preprocessing
    highest: float

    def scores(self, rows: Dataset) -> Scores:
        """1 - P(benign) of scaled rows, (rows,)."""
        return attack_scores(predict_probabilities(self.model, rows.features))

    def scores_of_logs(self, path: Path) -> Scores:
        """The score of each window of the logs at `path`, (windows,)."""
        parts = []
        for _, features in stream_features(self.config, path, self.preprocessing.schema):
            unlabelled = Dataset(features, np.zeros(len(features), np.int64), np.full(len(features), ""))
            parts.append(self.scores(self.preprocessing.apply(unlabelled)))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Trial:
    """One detector on the part of the hour that it was not trained on.

    Attributes:
        detector: the model.
        trained: windows that it was trained on.
        validation, test: labels of that part's windows, (windows,).
        known, new: their scores, (windows,).
    """

    detector: Detector
    trained: int
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    known: Scores
    new: Scores

    @property
    def auc(self) -> float:
        """ROC-AUC on both halves of the part together, neither of which any weight was fitted to."""
        labels, scores = (np.concatenate(pair) for pair in ((self.validation, self.test), (self.known, self.new)))
        return float(roc_auc_score(labels, scores))

    @property
    def false_alarms(self) -> NDArray[np.bool_]:
        """Of each benign window of the test half, whether it scores above `detector.highest`."""
        return np.asarray(self.new[self.test == 0] > self.detector.highest)

    @property
    def highest(self) -> float:
        """Score among all benign windows of the part."""
        return float(np.concatenate([self.known[self.validation == 0], self.new[self.test == 0]]).max())


@dataclass
class Votes:
    """Whether something scores above a bar, in how many of so many models."""

    above: int = 0
    models: int = 0

    def add(self, *, above: bool) -> None:
        self.above += int(above)
        self.models += 1

    @property
    def most(self) -> bool:
        return 2 * self.above > self.models


def clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    """The exact bounds of a share at `CONFIDENCE`, by the beta distribution's quantiles."""
    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def records_of(paths: Iterable[Path]) -> list[Record]:
    found: list[Record] = []
    for path in sorted(paths):
        content = json.loads(path.read_text(encoding="utf-8"))
        found += content["Records"] if isinstance(content, dict) else content
    return found


def in_a_class(c: Config, records: list[Record]) -> list[Record]:
    """Attacks and ordinary work, in the order of time."""
    ignored = IgnoredRecords.of(c)
    return sorted((record for record in records if record not in ignored), key=lambda record: str(record["eventTime"]))


def is_attack(c: Config, records: list[Record]) -> NDArray[np.bool_]:
    import pandas as pd

    agents = pd.DataFrame({"label_value": [str(record.get(c.label_field) or "") for record in records]})
    return np.asarray(LabelRules(patterns=c.label_patterns).families(agents) != "benign")


def principal(record: Record) -> str:
    return str(record["userIdentity"].get("arn"))


def folds_of(records: Sequence[Record], window_minutes: int) -> list[list[Record]]:
    """`FOLDS` contiguous parts of about as many windows; a minute is in one part."""
    windows: dict[float, set[str]] = defaultdict(set)
    starts = []
    for record in records:
        seconds = datetime.fromisoformat(record["eventTime"]).timestamp()
        starts.append(seconds // (60 * window_minutes))
        windows[starts[-1]].add(principal(record))
    order = sorted(windows)
    before = np.cumsum([len(windows[start]) for start in order]) - [len(windows[start]) for start in order]
    part_of = dict(zip(order, np.minimum(before * FOLDS // sum(map(len, windows.values())), FOLDS - 1), strict=True))
    parts: list[list[Record]] = [[] for _ in range(FOLDS)]
    for record, start in zip(records, starts, strict=True):
        parts[part_of[start]].append(record)
    return parts


def without_calls(c: Config, records: list[Record], calls: set[str]) -> list[Record]:
    """All but the attack records that make one of these API calls."""
    attack = is_attack(c, records)
    return [record for record, its in zip(records, attack, strict=True) if not its or record["eventName"] not in calls]


def write(path: Path, records: list[Record]) -> Path:
    path.mkdir()
    (path / "records.json").write_text(json.dumps({"Records": records}), encoding="utf-8")
    return path


def train_on(c: Config, train: list[Record], held_out: list[Record]) -> Trial:
    """Three tenants share the records to train on; the held-out ones validate and test."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        paths = [str(write(Path(name) / part, records)) for part, records in (("train", train), ("held", held_out))]
        c = c.replace(data_path=paths[0], test_path=paths[1])
        clients = [load_client_data(c, client_id).train for client_id in range(c.num_clients)]
        preprocessing = Preprocessing.pooled(load_schema(c), clients, c.scaling)
        validation, test = (preprocessing.apply(load(c)) for load in (load_validation_data, load_test_data))
        model, _ = federated(c)
    unchosen = Detector(c, model, preprocessing, np.nan)
    known, new = unchosen.scores(validation), unchosen.scores(test)
    detector = Detector(c, model, preprocessing, float(known[validation.labels == 0].max()))
    return Trial(detector, sum(map(len, clients)), validation.labels, test.labels, known, new)


def tactic_of(path: Path) -> str:
    """`aws.<tactic>.<technique>.json`."""
    return path.name.split(".")[1]


@dataclass
class Results:
    """What all models together say of each technique and window."""

    trials: list[list[Trial]]  # by fold, by seed
    found: dict[Path, Votes]
    without_tactic: dict[Path, Votes]
    above_all: dict[Path, Votes]  # benign windows that were not trained on, with those of the account outside
    above_all_without: dict[Path, Votes]  # the same, the technique's tactic left out of training
    outside_alarms: list[Votes]
    of_outside: list[float]  # ROC-AUC of Stratus windows against those of the account outside, by model
    of_reference: float  # the same of the feature `REFERENCE`


def run(invictus: Path, stratus: Path, progress: Callable[[str], object] = print) -> Results:
    """Train and try all."""
    logging.getLogger("bundle").setLevel(logging.ERROR)  # that no threshold can be had is said above, once
    techniques = sorted(stratus.glob("*.json"))
    base = load_config(ROOT / "config/cloudtrail.yaml").replace(data_path=str(invictus))
    records = in_a_class(base, records_of(invictus.glob("*.json")))
    outside = [record for record in records if principal(record) == OUTSIDE]
    folds = folds_of([record for record in records if principal(record) != OUTSIDE], base.window_minutes)
    found, without_tactic, above_all, above_all_without = ({path: Votes() for path in techniques} for _ in range(4))
    outside_alarms: list[Votes] = []
    of_outside: list[float] = []
    trials: list[list[Trial]] = []
    with tempfile.TemporaryDirectory() as name:
        outside_logs = write(Path(name) / "outside", outside)
        for number, held_out in enumerate(folds):
            rest = [record for part in folds if part is not held_out for record in part]
            trials.append([])
            for seed in SEEDS:
                c = base.replace(seed=seed)
                trial = train_on(c, rest, held_out)
                trials[-1].append(trial)
                benign = trial.detector.scores_of_logs(outside_logs)
                outside_alarms = outside_alarms or [Votes() for _ in benign]
                for votes, score in zip(outside_alarms, benign, strict=True):
                    votes.add(above=score > trial.detector.highest)
                attacks = [trial.detector.scores_of_logs(path) for path in techniques]
                for path, scores in zip(techniques, attacks, strict=True):
                    found[path].add(above=scores.max() > trial.detector.highest)
                    above_all[path].add(above=scores.max() > max(trial.highest, benign.max()))
                labels = np.repeat([0, 1], [len(benign), sum(map(len, attacks))])
                of_outside.append(float(roc_auc_score(labels, np.concatenate([benign, *attacks]))))
                for tactic in sorted({tactic_of(path) for path in techniques}):
                    of_tactic = [path for path in techniques if tactic_of(path) == tactic]
                    calls = {str(record["eventName"]) for record in records_of(of_tactic)}
                    trial = train_on(c, without_calls(c, rest, calls), held_out)
                    highest = max(trial.highest, trial.detector.scores_of_logs(outside_logs).max())
                    for path in of_tactic:
                        score = trial.detector.scores_of_logs(path).max()
                        without_tactic[path].add(above=score > trial.detector.highest)
                        above_all_without[path].add(above=score > highest)
            progress(f"fold {number + 1} of {FOLDS} done")
        of_reference = reference(base, outside_logs, techniques)
    return Results(
        trials, found, without_tactic, above_all, above_all_without, outside_alarms, of_outside, of_reference
    )


def reference(c: Config, outside_logs: Path, techniques: list[Path]) -> float:
    """ROC-AUC of Stratus windows against those of the account outside, by the feature `REFERENCE` alone."""
    schema = load_schema(c)
    column = schema.names.index(REFERENCE)
    benign, *attacks = (
        np.concatenate([features[:, column] for _, features in stream_features(c, path, schema)])
        for path in (outside_logs, *techniques)
    )
    labels = np.repeat([0, 1], [len(benign), sum(map(len, attacks))])
    return float(roc_auc_score(labels, np.concatenate([benign, *attacks])))


def share(hits: int, trials: int) -> str:
    low, high = clopper_pearson(hits, trials)
    return f"{hits} of {trials} ({low:.0%} to {high:.0%})"


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def tables(results: Results) -> str:
    """All tables as markdown."""
    lines = ["### Parts of the hour, each left out of training in turn", ""]
    lines += ["| part | windows to train on | validation: benign, attacks | test: benign, attacks | ROC-AUC |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for number, trials in enumerate(results.trials, start=1):
        first = trials[0]
        halves = (f"{(labels == 0).sum()}, {(labels == 1).sum()}" for labels in (first.validation, first.test))
        lines.append(f"| {number} | {first.trained} | {' | '.join(halves)} | {spread([t.auc for t in trials])} |")
    alarms = [np.mean([t.false_alarms for t in trials], axis=0) > 0.5 for trials in results.trials]
    within, windows = sum(int(part.sum()) for part in alarms), sum(map(len, alarms))
    outside = [votes.most for votes in results.outside_alarms]
    lines += ["", "### False alarms and techniques found", ""]
    lines += ["| what | in most of the models |", "|---|---:|"]
    lines.append(
        f"| benign test windows of the accounts that were trained on, false alarms | {share(within, windows)} |"
    )
    lines.append(f"| windows of an account outside training, false alarms | {share(sum(outside), len(outside))} |")
    for text, votes in (
        ("techniques found", results.found),
        ("techniques found, their tactic left out of training", results.without_tactic),
        ("techniques above *every* benign window that was not trained on", results.above_all),
        ("the same, their tactic left out of training", results.above_all_without),
    ):
        lines.append(f"| {text} | {share(sum(v.most for v in votes.values()), len(votes))} |")
    lines += ["", "ROC-AUC of Stratus windows against those of the account outside training: "]
    lines[-1] += f"{spread(results.of_outside)} over {len(results.of_outside)} models; "
    lines[-1] += f"by the feature `{REFERENCE}` alone, without training: {results.of_reference:.2f}."
    return "\n".join([*lines, "", *_by_tactic(results)])


def _by_tactic(results: Results) -> list[str]:
    lines = ["### By tactic", "", "| tactic | techniques | found | found, tactic left out |", "|---|---:|---:|---:|"]
    for tactic in sorted({tactic_of(path) for path in results.found}):
        paths = [path for path in results.found if tactic_of(path) == tactic]
        cells = (sum(votes[path].most for path in paths) for votes in (results.found, results.without_tactic))
        lines.append(f"| {tactic} | {len(paths)} | {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def tell(description: str, needed: Mapping[str, str], measure: Callable[..., str]) -> None:
    """The command line of a benchmark on the CloudTrail data.

    Args:
        description: what it measures, for `--help`.
        needed: {folder in the data: the pattern of the files that it must hold}.
        measure: is given these folders in order, and returns the tables.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--markdown", type=Path, help="write the tables to this file as well")
    args = parser.parse_args()
    for name, files in needed.items():
        if not any((DATA / name).glob(files)):
            raise SystemExit(f"no {files} in {DATA / name}; set THREAT_DATA to the folder that holds it")
    text = measure(*(DATA / name for name in needed))
    print(text)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")


def main() -> None:
    tell(
        "CloudTrail: federated training, and other attacks to find.",
        {"cloudtrail-invictus": "*.json", "cloudtrail-stratus": "*.json"},
        lambda *folders: tables(run(*folders)),
    )


if __name__ == "__main__":
    main()
