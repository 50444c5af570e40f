"""Local training as it is, against PyTorch's usual loop: a tensor for each parameter, rows picked for each batch."""

import statistics
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measuring import Passes, seconds
from client.training import TrainingSettings, row_weights, train
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.model import build_model

ROWS, FEATURES, WIDTHS = 42_000, 122, (64, 32)  # a tenant's share of NSL-KDD, and that run's model
_MOMENTUM = 0.9


@dataclass(frozen=True)
class TrainingCost:
    """Medians over `passes` interleaved pairs of one epoch each, on one thread.

    Attributes:
        rows: of the tenant.
        batch_size: rows of a step.
        seconds: of one epoch as the tenants train.
        usual_seconds: of the same epoch by the usual loop, which ends with the same model to the last bit.
    """

    rows: int
    batch_size: int
    passes: int
    seconds: float
    usual_seconds: float


def training_cost(passes: Passes, rows: int = ROWS) -> TrainingCost:
    """Train by both loops in turn."""
    random = np.random.default_rng(1)
    features = random.normal(size=(rows, FEATURES)).astype(np.float32)
    labels = (features[:, 0] + random.normal(size=rows) > 0).astype(np.int64)
    data = Dataset(features, labels, np.full(rows, ""))
    config = Config(num_features=FEATURES, num_hidden_units=WIDTHS, local_epochs=1)
    settings = TrainingSettings.of(config)
    ours, usual = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        few = Dataset(features[:500], labels[:500], data.families[:500])
        for loop in (train, train_as_usual):  # torch loads what it needs at its first steps
            loop(build_model(config), few, settings, (0,))
        for number in passes:
            model, other = build_model(config), build_model(config)
            ours.append(seconds(partial(train, model, data, settings, (number,))))
            usual.append(seconds(partial(train_as_usual, other, data, settings, (number,))))
    finally:
        torch.set_num_threads(threads)
    return TrainingCost(rows, settings.batch_size, len(ours), statistics.median(ours), statistics.median(usual))


def train_as_usual(model: nn.Module, rows: Dataset, settings: TrainingSettings, seed: tuple[int, ...]) -> None:
    """What `client.training.train` computes, written as PyTorch's tutorials write it."""
    features, labels = torch.from_numpy(rows.features), torch.from_numpy(rows.labels)
    weights = torch.from_numpy(row_weights(rows.labels, settings.class_balance))
    shuffle = np.random.default_rng(seed)
    parameters = list(model.parameters())
    start_at = [parameter.detach().clone() for parameter in parameters]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=_MOMENTUM)
    if settings.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        for _ in range(settings.local_epochs):
            order = torch.from_numpy(shuffle.permutation(len(rows)))
            for start in range(0, len(rows), settings.batch_size):
                batch = order[start : start + settings.batch_size]
                optimizer.zero_grad()
                losses = F.cross_entropy(model(features[batch]), labels[batch], reduction="none")
                loss = (losses * weights[batch]).mean()
                if settings.proximal_mu:
                    distance = sum((p - g).square().sum() for p, g in zip(parameters, start_at, strict=True))
                    loss = loss + settings.proximal_mu / 2 * distance
                torch.autograd.backward(loss)
                optimizer.step()
