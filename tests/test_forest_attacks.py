"""An orchestrator that reads single rows out of a tenant's trees, as TimberStrike does: it fails, and its twins work.

After Di Gennaro et al., "TimberStrike: Dataset Reconstruction Attack Revealing Privacy Leakage in Federated Tree-Based
Systems" (2025, arXiv 2506.07605): what a split or a node says of few rows is put together to the rows themselves. Here
it is the strongest that a node can say: where a node has one row, each column has it in one bin, and the sign of its
gradient is its label.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.learning import Contribution, LevelSums
from orchestrator.aggregator import RoundSum
from orchestrator.coordinator import Coordinator
from orchestrator.run import OpenRun
from shared import config_checks
from shared.data_sources.scaling import Quantiles
from shared.data_utils import load_client_data
from shared.errors import OrchestratorError
from shared.exchange import Kind, Refusal
from shared.forest.bins import Columns, binned, edges_of
from shared.forest.learner import GrownForest
from shared.forest.model import LEAF
from shared.forest.plan import ForestPlan
from shared.forest.sums import GRADIENTS, ROWS, Counts, LevelCode, of_nodes
from shared.he.scheme import Vector
from shared.identity import digest_model
from shared.learner import Wanted
from shared.task import Task, training_settings
from shared.wire import load_update
from tests.federations import Tapped, make_tenants, masked_settings, open_in_memory

VICTIM = "1"
SETTINGS: dict[str, Any] = {
    "model": "forest", "forest_trees": 2, "forest_parallel": 2, "forest_depth": 8, "forest_bins": 8, "num_rounds": 8,
    "forest_columns": 1.0, "num_features": 6, "num_samples_per_client": 400, "data_skewness": 0.9, "min_fit_clients": 3,
    "fraction_evaluate": 0.0, "forest_min_rows": config_checks.MIN_NODE_ROWS,
    "forest_min_hessian": config_checks.MIN_NODE_HESSIAN,
}  # fmt: skip
NO_MINIMUM: dict[str, Any] = {"forest_min_rows": 1, "forest_min_hessian": 0.0}
Row = tuple[int, tuple[int, ...], bool]  # a tree, the row's bin in each of its columns, and whether it is an attack


class Loot:
    """What an orchestrator that keeps everything has after a run.

    Attributes:
        sums: the counts that it is meant to learn, level by level.
        victim: what it makes of the victim's own vectors with its private key; without those that open to nonsense.
    """

    def __init__(self, folder: Path, changes: dict[str, Any]) -> None:
        self.config = masked_settings(folder, 3, **SETTINGS | changes)
        self.lines = {tenant: Tapped(client) for tenant, client in make_tenants(self.config).items()}
        self.plan, self.code = ForestPlan.of(self.config), LevelCode(self.config)
        self.sums: list[Counts] = []
        self.victim: list[Counts] = []
        with contextlib.closing(open_in_memory(self.config, self.lines)) as run:
            self._watch(run.coordinator)
            run.coordinator.run()
            preprocessing = run.coordinator.model.preprocessing
            self.forest = run.coordinator.model.named
            assert preprocessing is not None
            assert isinstance(preprocessing.scaler, Quantiles)
            self.scaler, self.columns = preprocessing.scaler, Columns.of(self.plan, preprocessing.schema)
            self._open_the_victim(run)

    def _watch(self, coordinator: Coordinator) -> None:
        learner = coordinator.model.learner
        assert isinstance(learner, GrownForest)
        step = learner.step

        def watched(total: Vector, contributors: Sequence[str]) -> None:
            self.sums.append(self.code.decode(total, self.plan.turn(len(self.sums)), learner._columns))
            step(total, contributors)

        learner.step = watched  # type: ignore[method-assign]

    def _open_the_victim(self, run: OpenRun[Any]) -> None:
        rounds = run.coordinator._rounds
        keys, public = rounds._aggregator._keys, rounds._aggregator.public
        for request, answer in self.lines[VICTIM].said:
            if request.kind is not Kind.TRAIN or isinstance(answer, Refusal):
                continue
            turn = self.plan.turn(int(request.values["round"]) - 1)
            about = digest_model(request.model, self.scaler.to_bytes())
            task = Task(turn.bucket, about, public.fingerprint(), 3, training_settings(self.config)).digest()
            size = self.code.size(turn, self.columns)
            sum_of_one: RoundSum = rounds._aggregator.open_round(turn.level + 1, size, task.hex(), turn.bucket)
            parts = load_update(answer.payload, sum_of_one.header, sum_of_one.layout)
            with contextlib.suppress(OrchestratorError):
                vector = keys.decrypt_sum(public.from_bytes(*parts), size, 1, task)
                self.victim.append(self.code.decode(vector, turn, self.columns))

    def single_rows(self, levels: list[Counts]) -> set[Row]:
        """The rows that are alone in a node, by the counts of left children from the root on."""
        found: set[Row] = set()
        above: Counts | None = None
        for level, asked in enumerate(levels):
            counts = asked
            if above is not None:
                first = (1 << level - 1) - 1
                split = self.forest["column"][:, first : first + above.shape[1]] != LEAF
                right = np.where(split[..., None, None], above - asked, 0)
                counts = np.stack([asked, right], axis=2).reshape(len(asked), -1, *asked.shape[2:])
            for tree, node in np.argwhere(of_nodes(counts, self.columns)[..., ROWS] == 1):
                alone = counts[tree, node]
                slots = np.flatnonzero(alone[:, ROWS])
                bins = tuple((slots - self.columns.starts).tolist())
                found.add((int(tree), bins, bool(alone[slots[0], GRADIENTS] < 0)))
            above = counts
        return found

    def rows_of(self, tenants: Sequence[str]) -> set[Row]:
        """The truth about these tenants' rows."""
        rows: set[Row] = set()
        for tenant in tenants:
            train = load_client_data(self.config, int(tenant)).train
            bins = binned(self.scaler.transform(train.features), edges_of(self.scaler, self.plan.bins))
            for tree, drawn in enumerate(self.columns.drawn):
                rows |= {
                    (tree, tuple(own.tolist()), bool(label))
                    for own, label in zip(bins[drawn].T, train.labels != 0, strict=True)
                }
        return rows


def test_masked_sums_with_a_minimum_show_no_row(tmp_path: Path) -> None:
    loot = Loot(tmp_path, {})
    assert len(loot.sums) == 8
    assert loot.victim == [], "each of the victim's vectors opens to nonsense"
    assert loot.single_rows(loot.sums) == set()


def test_without_masks_and_a_minimum_the_victim_s_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_checks, "_check_forest", lambda _: None)
    loot = Loot(tmp_path, {**NO_MINIMUM, "secure_aggregation": "none"})
    found, truth = loot.single_rows(loot.victim), loot.rows_of([VICTIM])
    assert found <= truth
    assert len(found) >= 10


def test_a_minimum_on_the_sum_alone_does_not_keep_a_tenant_s_rows(tmp_path: Path) -> None:
    """A node of many rows may hold one of the victim's: without masks it is read."""
    loot = Loot(tmp_path, {"secure_aggregation": "none"})
    found = loot.single_rows(loot.victim)
    assert found <= loot.rows_of([VICTIM])
    assert len(found) >= 1
    assert loot.single_rows(loot.sums) == set()


def test_masks_alone_do_not_keep_somebody_s_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a minimum the sum itself has nodes of one row; it does not say whose."""
    monkeypatch.setattr(config_checks, "_check_forest", lambda _: None)
    loot = Loot(tmp_path, NO_MINIMUM)
    assert loot.victim == []
    found = loot.single_rows(loot.sums)
    assert found <= loot.rows_of(["0", "1", "2"])
    assert len(found) >= 10


def differences(folder: Path) -> tuple[list[tuple[int, int]], set[str]]:
    """An orchestrator asks four tenants for the roots and three of them for the level below.

    Returns:
        Of each sum below a root and each tree how many rows went left in the root's sum and did not in this one, and
        how many of the victim's own rows did; and the tenants' refusals.
    """
    config = masked_settings(folder, 4, **SETTINGS | {"num_rounds": 2})
    lines = {tenant: Tapped(client) for tenant, client in make_tenants(config).items()}
    plan, code = ForestPlan.of(config), LevelCode(config)
    found: list[tuple[int, int]] = []
    with contextlib.closing(open_in_memory(config, lines)) as run:
        model, learner = run.coordinator.model, run.coordinator.model.learner
        assert isinstance(learner, GrownForest)
        wanted, step = learner.wanted, learner.step

        def without_the_victim() -> Wanted:
            sum_of = wanted()
            return replace(sum_of, whom=sum_of.whom and sum_of.whom - {VICTIM})

        def watched(total: Vector, contributors: Sequence[str]) -> None:
            above = learner._above
            if above is not None:
                counts = code.decode(total, plan.turn(1), learner._columns)
                missing = (above.left - of_nodes(counts, learner._columns))[:, 0, ROWS]
                rows = learner._scaler.transform(load_client_data(config, int(VICTIM)).train.features)
                for tree, rows_missing in enumerate(missing):
                    column = int(model.named["column"][tree, 0])
                    truth = int((rows[:, column] < model.named["threshold"][tree, 0]).sum())
                    found.append((int(rows_missing), truth))
            step(total, contributors)

        learner.wanted, learner.step = without_the_victim, watched  # type: ignore[method-assign]
        run.coordinator.run()
    said = [answer for line in lines.values() for _, answer in line.said]
    return found, {answer.reason for answer in said if isinstance(answer, Refusal)}


def test_the_levels_of_a_batch_are_given_to_one_set_of_tenants(tmp_path: Path) -> None:
    found, refusals = differences(tmp_path)
    assert found == []
    assert refusals == {"masking: repeated work"}


def test_with_a_work_for_each_level_the_difference_is_the_victim_s_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin."""
    contribution = LevelSums.contribution

    def careless(self: LevelSums, *asked: Any) -> Contribution:
        return replace(contribution(self, *asked), work=None)

    monkeypatch.setattr(LevelSums, "contribution", careless)
    found, refusals = differences(tmp_path)
    assert len(found) == 2
    assert all(missing == truth > 0 for missing, truth in found)
    assert refusals == set()
