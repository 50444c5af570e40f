"""Local training of the detector: step 4 of the flow."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from shared.config import Config
from shared.data_sources.dataset import Dataset

_MOMENTUM = 0.9
_ALIGNMENT = 16  # float32 numbers: torch's tensors begin at multiples of 64 bytes
_NOISE_ROWS = 4096
_NOISE_STREAM = 1  # so that noise changes no shuffling
# A class this many times rarer than average counts in full; a rarer one no more than this. Without a cap a client with
# one attack among thousands of rows would send a delta that is that one row's gradient, and saturates.
MAX_CLASS_WEIGHT = 10.0


@dataclass(frozen=True)
class TrainingSettings:
    """How a client trains in a round.

    Attributes:
        local_epochs: passes over the client's rows.
        batch_size: rows of one step.
        learning_rate: step size of the optimiser.
        proximal_mu: strength of FedProx's pull towards the global model; 0 is plain FedAvg.
        class_balance: `none`, or `inverse`: rare classes weigh more, see `row_weights`.
        optimizer: `sgd`, with momentum 0.9, or `adam`.
        input_noise: standard deviation of the noise that is added to each scaled feature; 0: none.
    """

    local_epochs: int
    batch_size: int
    learning_rate: float
    proximal_mu: float = 0.0
    class_balance: str = "none"
    optimizer: str = "sgd"
    input_noise: float = 0.0

    @classmethod
    def of(cls, config: Config) -> "TrainingSettings":
        """The client's own."""
        return cls(
            config.local_epochs, config.batch_size, config.learning_rate, config.proximal_mu, config.class_balance,
            config.optimizer, config.input_noise,
        )  # fmt: skip


def row_weights(labels: NDArray[np.int64], class_balance: str) -> NDArray[np.float32]:
    """How much each row counts in the loss, (rows,), with mean 1 so that the step size keeps its meaning.

    `inverse` weighs a class by rows / (classes * rows of the class), as scikit-learn's `balanced` does, after King and
    Zeng, "Logistic Regression in Rare Events Data", Political Analysis 2001, and at most by `MAX_CLASS_WEIGHT`. Only
    this client's own counts are used: nobody learns them, and a class that the client lacks plays no part.
    """
    if class_balance == "none":
        return np.ones(len(labels), dtype=np.float32)
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = np.minimum(len(labels) / (len(counts) * counts), MAX_CLASS_WEIGHT)[index]
    scaled: NDArray[np.float32] = (weights / weights.mean()).astype(np.float32)
    return scaled


def train(
    model: nn.Module,
    rows: Dataset,
    settings: TrainingSettings,
    seed: tuple[int, ...],
    on_epoch: Callable[[int], None] = lambda _: None,
) -> None:
    """Train in place on the weighted cross-entropy plus FedProx's term `mu / 2 * ||w - w_global||^2`.

    The term holds back clients whose rows pull the model to places of their own (Li et al., "Federated Optimization in
    Heterogeneous Networks", MLSys 2020, equation 2).

    The optimizer's state begins anew: momentum, and Adam's averages, are of this round's gradients alone. So a tenant
    keeps nothing between rounds, and one that joins late or was away trains as the others do.

    Args:
        model: starts from the global parameters.
        rows: this client's own, at least one.
        settings: what the orchestrator asks for.
        seed: of the shuffling and of layers that draw, such as Dropout; the same seed, model and rows give the same
            result. Layers that draw share torch's one generator: of tenants in threads each disturbs the others'.
        on_epoch: called with 1 after each epoch.
    """
    features = torch.from_numpy(rows.features)  # (rows, num_features)
    labels = torch.from_numpy(rows.labels)  # (rows,)
    weights = torch.from_numpy(row_weights(rows.labels, settings.class_balance))  # (rows,)
    shuffle = np.random.default_rng(seed)
    flat = _flat_parameters(model)
    gradient, start_at = flat.grad, flat.detach().clone()
    assert gradient is not None  # noqa: S101 - `_flat_parameters` has just made it
    noise = _Noise(settings, rows.features.shape[1], seed) if settings.input_noise else None
    step = _steps(flat, settings)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        for _ in range(settings.local_epochs):
            order = torch.from_numpy(shuffle.permutation(len(rows)))
            shuffled, answers, counts = features[order], labels[order], weights[order]
            for start in range(0, len(rows), settings.batch_size):
                batch = slice(start, start + settings.batch_size)  # B rows
                gradient.zero_()
                # A copy begins where torch puts tensors, too; a slice of odd rows would not.
                inputs = shuffled[batch].clone() if noise is None else noise.added(shuffled[batch])  # (B, num_features)
                losses = F.cross_entropy(model(inputs), answers[batch], reduction="none")  # (B,)
                torch.autograd.backward((losses * counts[batch]).mean())
                if settings.proximal_mu:
                    gradient += settings.proximal_mu * (flat.detach() - start_at)
                step()
            on_epoch(1)


def _flat_parameters(model: nn.Module) -> nn.Parameter:
    """All that is trained as one vector, of which the model's parameters and their gradients become views.

    A step on a small batch is mostly the overhead of its calls: one vector has a fraction of them, and the same sums.
    Each view begins where torch would put a tensor of its own, so that products are computed in the same order; the
    numbers in between are zero and stay so.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    starts = np.cumsum([0, *(-(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT for parameter in trained)])
    flat = nn.Parameter(torch.zeros(int(starts[-1])))
    flat.grad = torch.zeros_like(flat)
    for parameter, start in zip(trained, starts, strict=False):
        place = slice(int(start), int(start) + parameter.numel())
        values = flat.detach()[place].view_as(parameter)
        values.copy_(parameter.detach())
        parameter.data, parameter.grad = values, flat.grad[place].view_as(parameter)
    return flat


class _Noise:
    """Gaussian noise on the model's input, which keeps it from resting on one value of one feature.

    Training with it is, for small noise, a penalty on the model's slope (Bishop, "Training with noise is equivalent to
    Tikhonov regularization", Neural Computation 1995). To draw it anew for each step would take longer than the step: a
    bank of rows is drawn once, and each step adds a random slice of it.
    """

    def __init__(self, settings: TrainingSettings, num_features: int, seed: tuple[int, ...]) -> None:
        rng = np.random.default_rng((*seed, _NOISE_STREAM))
        rows = max(_NOISE_ROWS, settings.batch_size)
        bank = rng.standard_normal((rows, num_features), dtype=np.float32) * np.float32(settings.input_noise)
        self._bank = torch.from_numpy(bank)  # (rows, num_features)
        self._rng = rng

    def added(self, inputs: Tensor) -> Tensor:
        """The inputs with the next slice on them, (B, num_features)."""
        start = int(self._rng.integers(len(self._bank) - len(inputs) + 1))
        return inputs + self._bank[start : start + len(inputs)]


def _steps(parameters: nn.Parameter, settings: TrainingSettings) -> Callable[[], None]:
    """What moves the parameters by their gradient, once a call.

    These are the functions beneath torch's optimizers, with their defaults. An `Optimizer` has torch load its compiler
    at its first step: a second, and 800 modules, in each tenant's process.
    """
    gradient = parameters.grad
    assert gradient is not None  # noqa: S101 - `_flat_parameters` has made it
    if settings.optimizer == "adam":  # Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015
        means, squares = [torch.zeros_like(parameters)], [torch.zeros_like(parameters)]
        taken = [torch.tensor(0.0)]

        @torch.no_grad()
        def step() -> None:
            adam(
                [parameters], [gradient], means, squares, [], taken, foreach=False, fused=False, amsgrad=False,
                beta1=0.9, beta2=0.999, lr=settings.learning_rate, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip
    else:
        velocity: list[Tensor | None] = [None]

        @torch.no_grad()
        def step() -> None:
            sgd(
                [parameters], [gradient], velocity, foreach=False, fused=False, weight_decay=0.0, momentum=_MOMENTUM,
                lr=settings.learning_rate, dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip

    return step
