"""Whole federations of `model: forest`, without a network: each equals the forest of all rows in one place."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.tenant import Tenant
from orchestrator.run_folder import RoundRecord, RunFolder
from shared.config import Config
from shared.data_sources.scaling import Quantiles
from shared.data_utils import load_client_data
from shared.forest.plan import ForestPlan
from shared.forest.pooled import grow_pooled
from shared.preprocessing import Preprocessing
from tests.federations import make_tenants, never, open_in_memory
from tests.trained import joined

SMALL: dict[str, Any] = {
    "model": "forest", "forest_trees": 4, "forest_parallel": 2, "forest_depth": 3, "forest_bins": 8,
    "forest_columns": 0.5, "num_features": 6, "num_samples_per_client": 300, "num_rounds": 6, "data_skewness": 0.9,
}  # fmt: skip
KEYS: dict[str, Any] = {"he_key_length": 512, "allow_insecure_key": True}
Arrays = dict[str, NDArray[np.float32]]


def federated(
    config: Config, tenants: dict[str, Tenant] | None = None, resume: str | None = None, lost: Any = never
) -> tuple[Arrays, RunFolder, list[RoundRecord]]:
    """The forest after a run up to `num_rounds`, or the rest of one."""
    with contextlib.closing(open_in_memory(config, tenants or make_tenants(config), resume=resume, lost=lost)) as run:
        run.coordinator.run()
        return dict(run.coordinator.model.named), run.folder, run.coordinator.records


def pooled(config: Config) -> Arrays:
    """The forest of all clients' rows, of which each holds out some, in one place."""
    clients = [load_client_data(config, client) for client in range(config.num_clients)]
    parts = [client.train for client in clients]
    preprocessing = Preprocessing.pooled(clients[0].schema, parts, config.scaling)
    assert isinstance(preprocessing.scaler, Quantiles)
    forest = grow_pooled(ForestPlan.of(config), preprocessing.apply(joined(parts)), preprocessing.scaler)
    return {name: tensor.numpy() for name, tensor in forest.state_dict().items()}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


@pytest.mark.parametrize("scheme", ["none", "paillier", "kahe"])
def test_a_federation_grows_the_forest_of_all_rows_in_one_place(tmp_path: Path, scheme: Any) -> None:
    config = Config(**SMALL, **KEYS, he_scheme=scheme, log_dir=str(tmp_path))
    forest, _, records = federated(config)
    assert_same(forest, pooled(config))
    assert (forest["column"] >= 0).sum() > 10
    assert [record.contributors for record in records] == [3] * 6
    assert all(record.client_rows for record in records), "each round was evaluated"
    area = records[-1].roc_auc
    assert area is not None
    assert area > 0.85
