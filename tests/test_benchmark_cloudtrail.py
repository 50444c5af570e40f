"""The CloudTrail trial: who is in which class, that nothing tested was trained on, and what a bound is."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.cloudtrail import (
    FOLDS,
    OUTSIDE,
    ROOT,
    Record,
    clopper_pearson,
    folds_of,
    in_a_class,
    is_attack,
    principal,
    records_of,
    tactic_of,
    train_on,
    without_calls,
)
from shared.config import Config, load_config


def settings(folder: Path) -> Config:
    return load_config(ROOT / "config/cloudtrail.yaml").replace(data_path=str(folder))


@pytest.fixture(scope="module")
def of_class(invictus_folder: Path) -> list[Record]:
    return in_a_class(settings(invictus_folder), records_of(invictus_folder.glob("*.json")))


def test_only_calls_of_the_attack_are_attacks_and_the_tool_s_others_are_in_neither_class(
    invictus_folder: Path, of_class: list[Record]
) -> None:
    every = records_of(invictus_folder.glob("*.json"))
    attack = is_attack(settings(invictus_folder), of_class)
    assert (len(every), len(of_class), int(attack.sum())) == (2900, 624, 156)
    assert not any("HashiCorp" in str(record["userAgent"]) for record in of_class)
    calls = Counter(str(record["eventName"]) for record, its in zip(of_class, attack, strict=True) if its)
    assert calls["GetPasswordData"] == 29
    assert calls["StopLogging"] == 3
    assert not {"StartLogging", "DeleteUser", "DescribeAccountAttributes", "Decrypt"} & set(calls)
    # An ordinary user who makes the call by which the tool checks its credentials is still an ordinary user.
    benign = Counter(str(record["eventName"]) for record, its in zip(of_class, attack, strict=True) if not its)
    assert benign["DescribeAccountAttributes"] == 7


def test_folds_are_contiguous_and_whole(of_class: list[Record]) -> None:
    folds = folds_of(of_class, 1)
    assert [record for part in folds for record in part] == of_class
    assert len(folds) == FOLDS
    for earlier, later in pairwise(folds):
        assert earlier[-1]["eventTime"][:16] < later[0]["eventTime"][:16]


def test_a_left_out_tactic_takes_the_attack_s_calls_away_and_nothing_else(
    invictus_folder: Path, stratus_folder: Path, of_class: list[Record]
) -> None:
    c = settings(invictus_folder)
    files = [path for path in stratus_folder.glob("*.json") if tactic_of(path) == "credential-access"]
    assert len(files) == 5
    calls = {str(record["eventName"]) for record in records_of(files)}
    after = without_calls(c, of_class, calls)
    gone = [record for record in of_class if record not in after]
    assert gone
    assert all(is_attack(c, gone))
    assert {record["eventName"] for record in gone} <= calls
    attacks_left = [record for record, its in zip(after, is_attack(c, after), strict=True) if its]
    assert not {record["eventName"] for record in attacks_left} & calls
    assert any(record["eventName"] in calls for record in after)  # what others did stays


def test_a_trial_is_judged_on_windows_that_it_was_not_trained_on(invictus_folder: Path, of_class: list[Record]) -> None:
    folds = folds_of([record for record in of_class if principal(record) != OUTSIDE], 1)
    rest = [record for part in folds[1:] for record in part]
    trial = train_on(settings(invictus_folder), rest, folds[0])
    assert trial.trained == 37
    assert (len(trial.validation), len(trial.test)) == (9, 10)
    assert trial.detector.highest <= trial.highest
    assert len(trial.false_alarms) == (trial.test == 0).sum() == 3
    assert 0.0 <= trial.auc <= 1.0


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 748, 0.0, 0.0049), (11, 35, 0.169, 0.493), (35, 35, 0.900, 1.0), (0, 14, 0.0, 0.232)],
)
def test_bounds_are_those_of_the_binomial_tails(hits: int, trials: int, low: float, high: float) -> None:
    assert clopper_pearson(hits, trials) == pytest.approx((low, high), abs=5e-4)
