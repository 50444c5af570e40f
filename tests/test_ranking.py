"""Which detector to use: shares that thresholds have no part in, the advice in words, and the table of a whole run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.local_vs_federated import main as compare
from benchmarks.local_vs_federated import unseen_attacks
from benchmarks.methods import RULES, Methods
from orchestrator.report.evaluation import AtRate, Evaluation
from orchestrator.report.ranking import Caught, Ranking, advice, rank
from orchestrator.report.run_data import read_run
from orchestrator.simulation import simulate
from shared.config import parse_config
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data, load_test_data
from shared.errors import ConfigError
from tests.run_folders import example_evaluation
from tests.test_rules import rule
from tests.test_rules import write as write_rules
from tests.test_source_cloudtrail import record

RUN: dict[str, Any] = {
    "he_key_length": 512, "allow_insecure_key": True, "num_features": 6, "num_rounds": 2, "forest_trees": 4,
    "forest_parallel": 2, "forest_depth": 3, "data_skewness": 0.8,
}  # fmt: skip


class Says(torch.nn.Module):
    """The log odds of an attack are the first column."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(features[:, 0]), features[:, 0]], dim=1)


def scored(benign: int, attacks: list[float]) -> Dataset:
    """Benign rows that score 1, 2, … and attacks that score as given, the second half of them of kind b."""
    scores = np.concatenate([np.arange(1, benign + 1), attacks]) / 100
    families = ["benign"] * benign + ["a"] * (len(attacks) // 2) + ["b"] * (len(attacks) - len(attacks) // 2)
    labels = np.array([name != "benign" for name in families], dtype=np.int64)
    return Dataset(scores.astype(np.float32)[:, None], labels, np.array(families))


def test_an_attack_is_caught_above_all_but_the_share_of_benign_rows() -> None:
    rows = scored(200, [199.5] * 50 + [195.5] * 50 + [1.0] * 50 + [500.0] * 50)
    found = rank(Says(), rows, rows.families == "b")
    assert found is not None
    # Above 2 of 200 benign rows' cut lie those at 199.5 and 500; above 10 also those at 195.5.
    assert found.attacks == Caught(200, {"0.01": 0.5, "0.05": 0.75})
    assert found.families == {
        "a": Caught(100, {"0.01": 0.5, "0.05": 1.0}),
        "b": Caught(100, {"0.01": 0.5, "0.05": 0.5}),
    }
    assert found.unseen == found.families["b"]
    assert rank(Says(), scored(200, [1.0] * 99), np.zeros(299, dtype=np.bool_)) is None


def one(strict: float, real: float, unseen: float | None = None) -> tuple[Evaluation, Ranking]:
    e = example_evaluation()
    e.at_rates["0.01"] = AtRate(0.5, strict, real)
    caught = Caught(100, {"0.01": strict, "0.05": strict})
    new = None if unseen is None else Caught(10, {"0.01": unseen, "0.05": unseen})
    return e, Ranking(caught, new, {})


def test_the_advice_names_the_best_what_is_level_with_it_and_what_pooling_would_give() -> None:
    ours = {"network": one(0.46, 0.031, 0.07), "density": one(0.62, 0.005, 0.56), "forest": one(0.615, 0.031, 0.1)}
    text = advice(ours, {"boosting": one(0.7, 0.0)[1]})
    assert "density ranks attacks best here" in text
    assert "it finds 62.0 % of them, level with forest." in text
    assert "The fewest false alarms at a threshold made for 1 % has density, 0.5 %." in text
    assert "nobody trained on are found best by density, 56.0 %" in text
    assert "With all rows in one place boosting would find 70.0 %" in text
    assert "So use density; this was judged by the test set itself" in text
    assert advice({"network": ours["network"]}, {}) == ""
    other = advice({"network": one(0.8, 0.031), "density": one(0.5, 0.005)}, {})
    assert "has density, 0.5 % (against 3.1 %)." in other
    assert "So use network" in other


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run leaves files."""
    monkeypatch.chdir(tmp_path)


def test_one_run_beside_forest_density_and_boosting() -> None:
    folder = simulate(parse_config(RUN | {"density": True})).folder
    assert compare(["--run", str(folder)]) == 0
    run = read_run(folder)
    assert run.comparison is not None
    assert run.comparison.federated is not None
    others = {rival.name: rival for rival in run.comparison.others}
    assert {"forest", "density"} <= set(others)
    names = [rival.name for rival in run.comparison.references]
    assert names == ["gradient boosting, 255 bins", "gradient boosting, 32 bins"]
    assert all(r.ranking for r in (*run.comparison.alone, run.comparison.pooled, *run.comparison.references))
    # Made in the open, and the one of the encrypted sum all the same.
    assert run.evaluation is not None
    assert run.evaluation.density is not None
    assert others["density"].evaluation.roc_auc == run.evaluation.density.density_roc_auc
    page = (folder / "report.html").read_text()
    assert "Which detector to use" in page
    for name in (*others, *names, "client 0 alone"):
        assert f"<td>{name}</td>" in page


@pytest.mark.long
def test_a_forest_is_compared_with_a_network_of_the_same_federation() -> None:
    folder = simulate(parse_config(RUN | {"model": "forest", "num_rounds": 6})).folder
    assert compare(["--run", str(folder)]) == 0
    comparison = read_run(folder).comparison
    assert comparison is not None
    assert "network" in {rival.name for rival in comparison.others}


def test_a_density_is_compared_with_what_could_be_trained() -> None:
    folder = simulate(parse_config(RUN | {"model": "density"})).folder
    assert compare(["--run", str(folder)]) == 0
    comparison = read_run(folder).comparison
    assert comparison is not None
    assert [rival.name for rival in comparison.others] == ["network", "forest"]


def windows_of_calls(path: Path, user: str) -> Path:
    """A window a minute for ten hours: of six of them three are attacks, one of which a rule hits, and three not."""
    records = []
    for minute in range(600):
        kind = minute % 6
        agent = "stratus-red-team" if kind < 3 else "console"
        name = "StopLogging" if kind == 0 else "ListUsers"
        records.append(record(60 * minute, name, user=user, userAgent=agent))
    path.write_text(json.dumps({"Records": records}))
    return path


def test_rules_stand_beside_what_was_learned(tmp_path: Path) -> None:
    own = windows_of_calls(tmp_path / "own.json", "AIDAALICE")
    test = windows_of_calls(tmp_path / "test.json", "AIDABOB")
    run = {"num_features": 42, "data_source": "cloudtrail", "data_path": str(own), "test_path": str(test)}
    labels = {"label_field": "userAgent", "label_patterns": "*stratus*", "window_minutes": 1, "partition": "even"}
    folder = simulate(parse_config(RUN | run | labels)).folder
    rules = write_rules(
        tmp_path / "rules",
        rule({"selection": {"eventName": "StopLogging"}}, title="stops", level="medium"),
        rule({"selection": {"eventName": "ListUsers"}}, title="lists", level="low"),
    )
    assert compare(["--run", str(folder), "--rules_path", str(rules)]) == 0
    comparison = read_run(folder).comparison
    assert comparison is not None
    found = {rival.name: rival for rival in comparison.others}[RULES]
    assert found.ranking is not None
    assert (found.rows, found.evaluation.fpr) == (0, 0.0)
    assert found.evaluation.recall == pytest.approx(1 / 3, abs=0.01)
    assert found.ranking.attacks.shares == {"0.01": found.evaluation.recall, "0.05": found.evaluation.recall}
    page = (folder / "report.html").read_text()
    assert f"<td>{RULES}</td>" in page
    assert compare(["--run", str(folder), "--rules_path", str(tmp_path / "nothing")]) == 1


def test_rules_beside_flows_or_beside_labels_of_rules_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = write_rules(tmp_path / "rules", rule({"selection": {"eventName": "StopLogging"}}, level="medium"))
    folder = simulate(parse_config(RUN)).folder
    assert compare(["--run", str(folder), "--rules_path", str(rules)]) == 1
    assert "records of cloudtrail alone" in " ".join(capsys.readouterr().out.split())
    own = windows_of_calls(tmp_path / "own.json", "AIDAALICE")
    labels = {"labels": "rules", "rules_path": str(rules), "window_minutes": 1, "partition": "even"}
    config = parse_config(RUN | {"num_features": 42, "data_source": "cloudtrail", "data_path": str(own)} | labels)
    with pytest.raises(ConfigError, match="expected labels of another origin"):
        Methods(config, Says(), np.zeros(0, dtype=np.bool_)).rules(rules)


def test_without_labels_there_is_the_density_of_each_client_and_nothing_else() -> None:
    folder = simulate(parse_config(RUN | {"labels": "none"})).folder
    assert compare(["--run", str(folder)]) == 0
    run = read_run(folder)
    assert run.comparison is not None
    assert run.evaluation is not None
    assert (run.comparison.others, run.comparison.references) == ([], [])
    assert run.comparison.pooled.evaluation == run.evaluation


def test_unseen_are_attacks_of_kinds_that_no_client_has(nsl_kdd_folder: Path) -> None:
    config = parse_config({"data_source": "nsl_kdd", "data_path": str(nsl_kdd_folder), "num_features": 122})
    assert unseen_attacks(config, load_test_data(config), []).sum() == 3750
    synthetic = parse_config(RUN)
    trains = [load_client_data(synthetic, client).train for client in range(3)]
    test = load_test_data(synthetic)
    assert not unseen_attacks(synthetic, test, trains).any()
    benign = [train.take(np.flatnonzero(train.labels == 0)) for train in trains]
    assert np.array_equal(unseen_attacks(synthetic, test, benign), test.labels != 0)
