"""Federated, pooled and local training in one process, for the programs that compare them.

Federated rounds are the real ones: the coordinator and the tenants of the two terminals over the transport in memory,
with `he_scheme: none`. The encrypted run computes the same mean, exact but for rounding each value of a delta to the
fixed-point grid, as `tests/test_two_terminals.py` checks; leaving the ciphertexts out saves the time alone.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from client.training import TrainingSettings, train
from orchestrator.simulation import simulate
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data, load_schema, load_validation_data
from shared.model import build_model, set_parameters
from shared.preprocessing import Preprocessing

WITHOUT_CRYPTOGRAPHY = {
    "he_scheme": "none", "secure_aggregation": "none", "enrolled_clients": "", "client_identity": "",
    "fraction_evaluate": 0.0,
}  # fmt: skip


def federated(c: Config) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The model after the last round, and that of the round with the lowest validation loss."""
    log = logging.getLogger("orchestrator")
    disabled = log.disabled
    log.disabled = True  # that nothing is encrypted here is said above, once
    try:
        with tempfile.TemporaryDirectory() as folder:
            patience = c.early_stopping_rounds or c.num_rounds  # it is what remembers the best round
            changes = {**WITHOUT_CRYPTOGRAPHY, "log_dir": folder, "early_stopping_rounds": patience}
            model = simulate(c.replace(**changes), report=False).model
    finally:
        log.disabled = disabled
    return of_parameters(c, model.named), of_parameters(c, model.final)


def of_parameters(c: Config, named: Mapping[str, NDArray[np.float32]]) -> torch.nn.Module:
    model = build_model(c)
    set_parameters(model, list(named.values()))
    return model


def alone(c: Config, rows: Dataset, client_id: int) -> torch.nn.Module:
    """A model of these rows only, which sees them as often as a federated client does."""
    model = build_model(c)
    train(model, rows, replace(TrainingSettings.of(c), local_epochs=c.num_rounds * c.local_epochs), (c.seed, client_id))
    return model


def scaled(c: Config, test: Dataset) -> tuple[list[Dataset], Dataset, Dataset]:
    """Each client's rows to train on, the validation rows and `test`, by the statistics of all clients' rows."""
    clients = [load_client_data(c, client_id).train for client_id in range(c.num_clients)]
    apply = Preprocessing.pooled(load_schema(c), clients, c.scaling).apply
    return [apply(rows) for rows in clients], apply(load_validation_data(c)), apply(test)


def concatenated(parts: Sequence[Dataset]) -> Dataset:
    columns = ([getattr(part, name) for part in parts] for name in ("features", "labels", "families"))
    return Dataset(*(np.concatenate(column) for column in columns))
