"""CloudTrail: what Sigma rules find alone, what a model finds alone, and what both find together.

    python benchmarks/cloudtrail_rules.py --markdown tables.md     # the tables of docs/measured/results.md

Data, folds, the user outside training and the two bars are those of `benchmarks/cloudtrail.py`, and so is what is
counted: a technique is *found* if one of its windows alerts, a benign window that alerts is a *false alarm*; of models
in most of them. The benign windows are the test halves of all parts, and those of the user outside training. Rules
need no training and are the same in every fold; a window alerts if one of its records meets a rule of the level or
above it. *Both* is an alert by either.

A second set of models has no other labels than the rules' own (`labels: rules`): a window is an attack in training if a
rule of level medium or above hits it. Its bar is the highest score among the validation windows that no rule hits, for
nobody who has no labels knows more. It is judged by the true labels, like the others.

Rules are the public ones of SigmaHQ, `sigma-cloud`. The folders are looked for in $THREAT_DATA, else in
../shared/data beside the repository.
"""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cloudtrail import (
    OUTSIDE,
    ROOT,
    SEEDS,
    Record,
    Trial,
    Votes,
    clopper_pearson,
    folds_of,
    in_a_class,
    is_attack,
    principal,
    records_of,
    share,
    tactic_of,
    tell,
    train_on,
    write,
)
from shared.config import Config, load_config
from shared.data_utils import load_schema, stream_features
from shared.rules.folder import load_rules
from shared.rules.rule import LEVELS, RuleSet

Windows = NDArray[np.bool_]
HIGH, MEDIUM = LEVELS.index("high"), LEVELS.index("medium")


def highest_levels(c: Config, logs: Path, rules: RuleSet) -> NDArray[np.int64]:
    """Of each window of the logs the rank of the highest level among the rules that hit it, -1 for none, (windows,)."""
    schema = load_schema(c)
    return np.array(
        [
            max((hit.rule.rank for hit in hits), default=-1)
            for meta, _ in stream_features(c, logs, schema, rules=rules)
            for hits in meta["rules"]
        ],
        dtype=np.int64,
    )


@dataclass
class Contender:
    """What one kind of model says of each technique and of each benign window, in how many of its models.

    Attributes:
        found: by technique, above the highest benign validation window.
        above_all: by technique, above every benign window that was not trained on.
        alarms: by benign window.
    """

    found: dict[Path, Votes] = field(default_factory=dict)
    above_all: dict[Path, Votes] = field(default_factory=dict)
    alarms: dict[tuple[str, int], Votes] = field(default_factory=dict)

    def add(self, trial: Trial, truth: Trial, part: str, outside: Path, techniques: list[Path]) -> None:
        """One model's verdicts.

        Args:
            trial: the model's.
            truth: a trial on the same windows with the true labels.
            part: name of the part of the hour that it was not trained on.
            outside: logs of the user outside training.
            techniques: logs of the techniques.
        """
        bar = trial.detector.highest
        benign = {part: trial.new[truth.test == 0], "outside": trial.detector.scores_of_logs(outside)}
        for where, scores in benign.items():
            for window, score in enumerate(scores):
                self.alarms.setdefault((where, window), Votes()).add(above=score > bar)
        highest = max(trial.known[truth.validation == 0].max(), *(scores.max() for scores in benign.values()))
        for path in techniques:
            score = trial.detector.scores_of_logs(path).max()
            self.found.setdefault(path, Votes()).add(above=score > bar)
            self.above_all.setdefault(path, Votes()).add(above=score > highest)


@dataclass
class Results:
    """What rules and models say.

    Attributes:
        techniques: rank of the highest level of rules that hit each, -1 for none.
        windows: the same of each benign window.
        records: the same of each benign record.
        neither: the same of each record of neither class.
        labelled: the models that were trained with the true labels.
        by_rules: those that were trained with the rules' hits as labels.
    """

    techniques: dict[Path, int]
    windows: dict[tuple[str, int], int]
    records: NDArray[np.int64]
    neither: NDArray[np.int64]
    labelled: Contender
    by_rules: Contender


def run(
    invictus: Path,
    stratus: Path,
    folder: Path,
    seeds: tuple[int, ...] = SEEDS,
    progress: Callable[[str], object] = print,
) -> Results:
    """Evaluate the rules, and train and try the models."""
    for name in ("bundle", "data", "labels"):  # no threshold, and no hit in a part of the hour: the docs say so, once
        logging.getLogger(name).setLevel(logging.ERROR)
    base = load_config(ROOT / "config/cloudtrail.yaml").replace(data_path=str(invictus))
    rules = load_rules(folder, "cloudtrail")
    every = records_of(invictus.glob("*.json"))
    records = in_a_class(base, every)
    outside = [record for record in records if principal(record) == OUTSIDE]
    folds = folds_of([record for record in records if principal(record) != OUTSIDE], base.window_minutes)
    techniques = sorted(stratus.glob("*.json"))
    benign = [record for record, its in zip(records, is_attack(base, records), strict=True) if not its]
    in_class = set(map(id, records))
    results = Results(
        {path: int(highest_levels(base, path, rules).max()) for path in techniques},
        {},
        ranks(rules, benign),
        ranks(rules, [record for record in every if id(record) not in in_class]),
        Contender(),
        Contender(),
    )
    with tempfile.TemporaryDirectory() as name:
        logs = write(Path(name) / "outside", outside)
        results.windows |= {("outside", i): int(rank) for i, rank in enumerate(highest_levels(base, logs, rules))}
        for number, held_out in enumerate(folds, start=1):
            rest = [record for part in folds if part is not held_out for record in part]
            part = f"part {number}"
            of_part = highest_levels(base, write(Path(name) / part, held_out), rules)
            for seed in seeds:
                c = base.replace(seed=seed)
                trial = train_on(c, rest, held_out)
                results.labelled.add(trial, trial, part, logs, techniques)
                own = c.replace(labels="rules", rules_path=str(folder), label_field="", label_patterns=())
                results.by_rules.add(train_on(own, rest, held_out), trial, part, logs, techniques)
            of_test = of_part[len(of_part) // 2 :][trial.test == 0]  # as the test half is cut
            results.windows |= {(part, i): int(rank) for i, rank in enumerate(of_test)}
            progress(f"{part} of {len(folds)} done")
    return results


def ranks(rules: RuleSet, records: list[Record]) -> NDArray[np.int64]:
    """Of each record the rank of the highest level among the rules that it meets, -1 for none, (records,)."""
    return np.array([max((rule.rank for rule in rules.hits(record)), default=-1) for record in records], dtype=np.int64)


def tables(results: Results) -> str:
    """All tables as markdown."""
    lines = ["### Rules, model, and both", "", "| what alerts | techniques found | false alarms, benign windows |"]
    lines.append("|---|---:|---:|")
    of_rules = {
        f"rules of level {LEVELS[rank]} and above": (
            _at_least(results.techniques, rank),
            _at_least(results.windows, rank),
        )
        for rank in (HIGH, MEDIUM)
    }
    labelled, by_rules = results.labelled, results.by_rules
    none: dict[object, bool] = dict.fromkeys(results.windows, False)
    of_models: dict[str, tuple[dict[object, bool], dict[object, bool]]] = {
        "model, above its benign validation windows": (_most(labelled.found), _most(labelled.alarms)),
        "model, above *every* benign window": (_most(labelled.above_all), none),
        "model with the rules' hits as its labels, above its validation windows without a hit": (
            _most(by_rules.found),
            _most(by_rules.alarms),
        ),
        "the same, above *every* benign window": (_most(by_rules.above_all), none),
    }
    for text, (found, alarms) in of_rules.items():
        lines.append(_line(text, found, alarms))
    for text, (found, alarms) in of_models.items():
        lines.append(_line(text, found, alarms, bar_of_all=alarms is none))
        for rank in (HIGH, MEDIUM):
            its, its_alarms = _at_least(results.techniques, rank), _at_least(results.windows, rank)
            both = {path: found[path] or its[path] for path in found}
            alerts = {window: alarms[window] or its_alarms[window] for window in alarms}
            lines.append(
                _line(f"… or rules of level {LEVELS[rank]} and above", both, alerts, bar_of_all=alarms is none)
            )
    lines += ["", "| records that a rule hits | high and above | medium and above | any |", "|---|---:|---:|---:|"]
    for text, of_records in (("benign", results.records), ("of neither class", results.neither)):
        cells = (_share_of_many(int((of_records >= rank).sum()), len(of_records)) for rank in (HIGH, MEDIUM, 0))
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_by_tactic(results)])


def _share_of_many(hits: int, trials: int) -> str:
    low, high = clopper_pearson(hits, trials)
    return f"{hits} of {trials:,} ({low:.1%} to {high:.1%})"


def _most(votes: dict[Path, Votes] | dict[tuple[str, int], Votes]) -> dict[object, bool]:
    return {key: its.most for key, its in votes.items()}


def _at_least(ranks_of: dict[Path, int] | dict[tuple[str, int], int], rank: int) -> dict[object, bool]:
    return {key: its >= rank for key, its in ranks_of.items()}


def _line(text: str, found: dict[object, bool], alarms: dict[object, bool], *, bar_of_all: bool = False) -> str:
    told = share(sum(alarms.values()), len(alarms))
    if bar_of_all and not any(alarms.values()):
        told = "none, by construction"
    return f"| {text} | {share(sum(found.values()), len(found))} | {told} |"


def _by_tactic(results: Results) -> list[str]:
    lines = ["### By tactic", ""]
    lines += ["| tactic | techniques | rules, medium | model, above every benign window | both |"]
    lines.append("|---|---:|---:|---:|---:|")
    of_rules, of_model = _at_least(results.techniques, MEDIUM), _most(results.labelled.above_all)
    for tactic in sorted({tactic_of(path) for path in results.techniques}):
        paths = [path for path in results.techniques if tactic_of(path) == tactic]
        cells = [sum(of_rules[path] for path in paths), sum(of_model[path] for path in paths)]
        cells.append(sum(of_rules[path] or of_model[path] for path in paths))
        lines.append(f"| {tactic} | {len(paths)} | {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def main() -> None:
    tell(
        "CloudTrail: rules alone, a model alone, and both.",
        {"cloudtrail-invictus": "*.json", "cloudtrail-stratus": "*.json", "sigma-cloud": "**/*.yml"},
        lambda *folders: tables(run(*folders)),
    )


if __name__ == "__main__":
    main()
