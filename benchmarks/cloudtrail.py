"""CloudTrail: three simulated tenants train on one attack simulation and are tried on logs of another.

    python benchmarks/cloudtrail.py --markdown tables.md     # the tables of docs/measured/results.md

Trained on `cloudtrail-invictus` (an hour of one account, with attacks by a tool that its user agent gives away; no
feature is made from that field), with the settings of `config/cloudtrail.yaml`. Tried on `cloudtrail-stratus`: one file
of records for each attack technique, named by tactic and technique. It neither trains nor chooses anything.

*Leave one tactic out*: the attack records in training whose API call occurs in a file of that tactic are taken away, so
that what is found of the tactic is not what was learned by heart. A technique counts as found if one of its windows
(what one principal did in a minute) scores above the threshold, which is set on benign validation windows. There are so
few of those that it says little; so also counted is what scores above *every* benign window that was not trained on, a
threshold that knows its own test and gives no false alarm by construction.

Rounds run in this process without ciphertexts: see `benchmarks/simulation.py`. The folders are looked for in
$THREAT_DATA, else in ../shared/data beside the repository.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.simulation import federated
from shared.config import Config, load_config
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data, stream_features
from shared.metrics import attack_thresholds, predict_probabilities, score
from shared.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("THREAT_DATA", ROOT.parent / "shared" / "data"))
SEEDS = (0, 1, 2)
RATE = "0.01"  # of false positives, that the threshold is made for
TOOL = "stratus"  # in the user agent: the training set's label

KINDS = ("found", "above every benign window", "tactic left out: found", "tactic left out: above every benign window")

Found = dict[str, dict[Path, int]]  # by kind: in how many seeds a technique's file was found
Record = dict[str, Any]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Detector:
    """A trained model with all that scoring needs."""

    config: Config
    model: torch.nn.Module
    preprocessing: Preprocessing
    threshold: float

    def scores(self, rows: Dataset) -> Scores:
        """1 - P(benign) of scaled rows, (rows,)."""
        return 1.0 - predict_probabilities(self.model, rows.features)[:, 0]

    def scores_of_logs(self, path: Path) -> Scores:
        """The score of each window of the logs at `path`, (windows,)."""
        parts = []
        for _, features in stream_features(self.config, path, self.preprocessing.schema):
            unlabelled = Dataset(features, np.zeros(len(features), np.int64), np.full(len(features), ""))
            parts.append(self.scores(self.preprocessing.apply(unlabelled)))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Trial:
    """One seed's detector, the benign scores of windows it was not trained on, and how it did on its own account."""

    detector: Detector
    benign: Scores
    figures: dict[str, float]


def train_on(folder: Path, seed: int) -> Trial:
    """Three tenants share the logs in `folder`; the later windows validate and test."""
    torch.set_num_threads(1)
    c = load_config(ROOT / "config/cloudtrail.yaml").replace(data_path=str(folder), seed=seed)
    clients = [load_client_data(c, client_id).train for client_id in range(c.num_clients)]
    preprocessing = Preprocessing.pooled(load_schema(c), clients)
    validation, test = (preprocessing.apply(load(c)) for load in (load_validation_data, load_test_data))
    model, _ = federated(c)
    on_validation = predict_probabilities(model, validation.features)
    thresholds = attack_thresholds(1.0 - on_validation[validation.labels == 0, 0])
    detector = Detector(c, model, preprocessing, thresholds[RATE])
    above = detector.scores(test) > detector.threshold
    metrics = score(predict_probabilities(model, test.features), test)
    figures = {
        "windows to train on": float(sum(map(len, clients))),
        "benign validation windows": float((validation.labels == 0).sum()),
        "ROC-AUC": float(metrics.roc_auc or np.nan),
        "attacks found": float(above[test.labels == 1].sum()),
        "attacks": float(test.labels.sum()),
        "false positives": float(above[test.labels == 0].sum()),
        "benign": float((test.labels == 0).sum()),
    }
    benign = np.concatenate([detector.scores(rows)[rows.labels == 0] for rows in (validation, test)])
    return Trial(detector, benign, figures)


def records_of(path: Path) -> list[Record]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return list(content["Records"] if isinstance(content, dict) else content)


def without_tactic(source: Path, calls: set[str], folder: Path) -> Path:
    """A copy of the logs without the attack records that make one of these API calls."""
    folder.mkdir()
    for path in sorted(source.glob("*.json")):
        kept = [
            record
            for record in records_of(path)
            if TOOL not in str(record.get("userAgent")) or record["eventName"] not in calls
        ]
        (folder / path.name).write_text(json.dumps({"Records": kept}), encoding="utf-8")
    return folder


def tactic_of(path: Path) -> str:
    """`aws.<tactic>.<technique>.json`."""
    return path.name.split(".")[1]


def run(invictus: Path, stratus: Path, progress: Callable[[str], object] = print) -> str:
    """Train and try all; the tables as markdown."""
    techniques = sorted(stratus.glob("*.json"))
    found: Found = {kind: dict.fromkeys(techniques, 0) for kind in KINDS}

    def try_on(trial: Trial, paths: list[Path], left_out: bool) -> None:
        at_threshold, above_all = KINDS[2:] if left_out else KINDS[:2]
        for path in paths:
            highest = trial.detector.scores_of_logs(path).max()
            found[at_threshold][path] += int(highest > trial.detector.threshold)
            found[above_all][path] += int(highest > trial.benign.max())

    figures: list[dict[str, float]] = []
    for seed in SEEDS:
        whole = train_on(invictus, seed)
        attacks = np.concatenate([whole.detector.scores_of_logs(path) for path in techniques])
        is_attack = np.repeat([0, 1], [len(whole.benign), len(attacks)])
        auc = roc_auc_score(is_attack, np.concatenate([whole.benign, attacks]))
        figures.append(whole.figures | {"ROC-AUC, Stratus windows against benign ones": float(auc)})
        try_on(whole, techniques, left_out=False)
        for tactic in sorted({tactic_of(path) for path in techniques}):
            of_tactic = [path for path in techniques if tactic_of(path) == tactic]
            calls = {record["eventName"] for path in of_tactic for record in records_of(path)}
            with tempfile.TemporaryDirectory() as name:
                rest = train_on(without_tactic(invictus, calls, Path(name) / "logs"), seed)
                try_on(rest, of_tactic, left_out=True)
        progress(f"seed {seed} done")
    return "\n".join([*_held_out(figures), *_by_tactic(found), *_by_technique(found)])


def _held_out(figures: list[dict[str, float]]) -> list[str]:
    lines = ["### The later windows of the account that was trained on", ""]
    lines += ["| figure | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " |", "|---|" + "---:|" * len(SEEDS)]
    for name in figures[0]:
        cells = (f"{f[name]:.3f}" if "ROC-AUC" in name else f"{f[name]:.0f}" for f in figures)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _by_tactic(found: Found) -> list[str]:
    lines = [
        "### Recall by tactic",
        "",
        f"| tactic | techniques | {' | '.join(KINDS)} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    every = list(found[KINDS[0]])
    for tactic in [*sorted({tactic_of(path) for path in every}), "all"]:
        paths = [path for path in every if tactic in (tactic_of(path), "all")]
        cells = [sum(found[kind][path] for path in paths) / (len(paths) * len(SEEDS)) for kind in found]
        lines.append(f"| {tactic} | {len(paths)} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return [*lines, ""]


def _by_technique(found: Found) -> list[str]:
    lines = ["### By technique", "", f"In how many of {len(SEEDS)} seeds the technique was found.", ""]
    lines += [f"| technique | {' | '.join(KINDS)} |", "|---|---:|---:|---:|---:|"]
    for path in found[KINDS[0]]:
        lines.append(f"| `{path.stem}` | {' | '.join(str(counts[path]) for counts in found.values())} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description="CloudTrail: federated training, and other attacks to find.")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file as well")
    args = parser.parse_args()
    folders = DATA / "cloudtrail-invictus", DATA / "cloudtrail-stratus"
    for folder in folders:
        if not any(folder.glob("*.json")):
            raise SystemExit(f"no CloudTrail files in {folder}; set THREAT_DATA to the folder that holds it")
    text = run(*folders)
    print(text)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
