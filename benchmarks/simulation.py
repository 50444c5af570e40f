"""Federated, pooled and local training in one process, for the programs that compare them.

Federated rounds are the client's `train`, the server's `ServerOptimizer`, and the plain mean of float deltas between
them. The encrypted run computes the same mean, exact but for rounding each value of a delta to the fixed-point grid, as
`tests/test_two_terminals.py` checks; leaving the ciphertexts out saves the time alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from client.training import TrainingSettings, train
from orchestrator.early_stopping import EarlyStopping
from orchestrator.server_optimizer import ServerOptimizer
from shared.config import Config
from shared.data_utils import Dataset, load_client_data, load_schema, load_validation_data
from shared.metrics import evaluate
from shared.model import build_model, flatten, get_parameters, set_parameters, unflatten
from shared.preprocessing import Preprocessing


def settings_of(c: Config) -> TrainingSettings:
    return TrainingSettings(c.local_epochs, c.batch_size, c.learning_rate, c.proximal_mu, c.class_balance)


def federated(c: Config, clients: Sequence[Dataset], validation: Dataset) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The model after the last round, and that of the round with the lowest validation loss."""
    model, best = build_model(c), build_model(c)
    optimizer, stopping = ServerOptimizer(c.server_momentum), EarlyStopping(patience=c.num_rounds)
    like = get_parameters(model)
    vector = flatten(like)  # (size,)
    for server_round in range(1, c.num_rounds + 1):
        total = np.zeros_like(vector)
        for client_id, rows in enumerate(clients):
            set_parameters(model, unflatten(vector, like))
            train(model, rows, settings_of(c), (c.seed, client_id, server_round))
            total += flatten(get_parameters(model)) - vector
        vector = optimizer.step(vector, total / len(clients))
        set_parameters(model, unflatten(vector, like))
        named = dict(zip(model.state_dict(), get_parameters(model), strict=True))
        stopping.note(server_round, evaluate(model, validation).loss, named)
    set_parameters(best, list((stopping.best_parameters or named).values()))
    return model, best


def alone(c: Config, rows: Dataset, client_id: int) -> torch.nn.Module:
    """A model of these rows only, which sees them as often as a federated client does."""
    model = build_model(c)
    train(model, rows, replace(settings_of(c), local_epochs=c.num_rounds * c.local_epochs), (c.seed, client_id))
    return model


def scaled(c: Config, test: Dataset) -> tuple[list[Dataset], Dataset, Dataset]:
    """Each client's rows to train on, the validation rows and `test`, by the statistics of all clients' rows."""
    clients = [load_client_data(c, client_id).train for client_id in range(c.num_clients)]
    apply = Preprocessing.pooled(load_schema(c), clients).apply
    return [apply(rows) for rows in clients], apply(load_validation_data(c)), apply(test)


def concatenated(parts: Sequence[Dataset]) -> Dataset:
    columns = ([getattr(part, name) for part in parts] for name in ("features", "labels", "families"))
    return Dataset(*(np.concatenate(column) for column in columns))
