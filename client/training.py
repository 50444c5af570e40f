"""Local training of the detector: step 4 of the flow."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from shared.data_utils import Dataset

_MOMENTUM = 0.9


@dataclass(frozen=True)
class TrainingSettings:
    """What the orchestrator asks for in a round.

    Attributes:
        local_epochs: passes over the client's rows.
        batch_size: rows of one step.
        learning_rate: step size of SGD with momentum.
    """

    local_epochs: int
    batch_size: int
    learning_rate: float


def warm_up() -> None:
    """Make torch load what it loads at the first step of an optimizer, which takes seconds, before a round is timed."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.SGD([weight]).step()


def train(
    model: nn.Module,
    rows: Dataset,
    settings: TrainingSettings,
    seed: tuple[int, ...],
    on_epoch: Callable[[int], None] = lambda _: None,
) -> None:
    """Train in place by SGD on the cross-entropy.

    Args:
        model: starts from the global parameters.
        rows: this client's own, at least one.
        settings: epochs, batch size and learning rate.
        seed: of the shuffling; the same seed, model and rows give the same result.
        on_epoch: called with 1 after each epoch.
    """
    features = torch.from_numpy(rows.features)  # (rows, num_features)
    labels = torch.from_numpy(rows.labels)  # (rows,)
    shuffle = np.random.default_rng(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=_MOMENTUM)
    model.train()
    for _ in range(settings.local_epochs):
        order = torch.from_numpy(shuffle.permutation(len(rows)))
        for start in range(0, len(rows), settings.batch_size):
            batch = order[start : start + settings.batch_size]  # (B,)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(features[batch]), labels[batch]))
            optimizer.step()
        on_epoch(1)
