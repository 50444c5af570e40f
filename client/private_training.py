"""A tenant's part in a round of differentially private training: `privacy: records`.

Each round is one step of DP-SGD over the rows of all tenants (Abadi et al., "Deep Learning with Differential Privacy",
CCS 2016, algorithm 1). A tenant draws each of its rows with probability q, clips each row's gradient, adds them up, and
adds its share of the noise, in whole steps of the fixed point and before the masks. The noise of all together is that
of one central trainer, and nobody ever sees the sum without it.

**Each share is sized for the honest tenants that the sum is sure to have**: t of the cohort are in every sum that
opens, and up to a third may side with the orchestrator. So drop-outs and such tenants leave no less noise than is
accounted.
What a tenant draws, rows and noise, it draws from a generator that the system seeds; `seed` is known to others.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from client.budget import Budget
from client.learning import Contribution, OnEpoch
from client.scaled_rows import ScaledRows
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.dp import skellam
from shared.dp.plan import PrivacyPlan
from shared.errors import ConfigError
from shared.exchange import Model
from shared.he.scheme import PublicScheme, Vector
from shared.masking import WEIGHTS
from shared.model import get_parameters
from shared.plugins import OWN_FAILURES, failure

_NUMBERS = 1 << 21  # of gradients that are in memory at once: fewer rows of a larger model
_SEED_BITS = 256


class NoisyGradients:
    """Steps 4 to 6 of the flow, for `privacy: records`.

    Args:
        config: the settings.
        model: of the tenant; it holds the global parameters when a round begins.
        rows: its own.
        budget: of the tenant.
        sharers: of the sum that is under way, how many honest tenants are sure to be in it.

    Raises:
        ConfigError: the gradients of single rows can't be taken of this model.
    """

    def __init__(
        self, config: Config, model: nn.Module, rows: ScaledRows, budget: Budget, sharers: Callable[[], int]
    ) -> None:
        self._config, self._model, self._rows, self._budget, self._sharers = config, model, rows, budget, sharers
        self._size = sum(p.size for p in get_parameters(model))
        self._plan = PrivacyPlan.of(config, self._size, len(rows.schema))
        if ":" in config.model:  # of a person's own
            self._try()

    def _try(self) -> None:
        """Once, on rows that are nobody's: in a round a tenant whose rows fail sends noise alone, and tells nobody."""
        width = self._config.num_features
        nobodys = Dataset(np.zeros((2, width), np.float32), np.zeros(2, np.int64), np.full(2, "benign"))
        try:
            clipped_sum(self._model, nobodys, self._plan.clip)
        except OWN_FAILURES as error:
            raise ConfigError(
                f"model = {self._config.model!r}: the gradients of single rows can't be taken ({failure(error)}); "
                "expected with privacy: records a forward that torch.func.vmap works on: no sparse layers, no branches "
                "by values, nothing in place"
            ) from error

    @property
    def sizes(self) -> Mapping[str, int]:
        return {WEIGHTS: self._size}

    def contribution(self, round_number: int, given: Model, scaler: bytes, scheme: PublicScheme[Any]) -> Contribution:
        """See `client/learning.py`.

        Raises:
            PrivacyBudgetError: the tenant's budget has not enough left for a round.
        """
        rows, _ = self._rows.scaled(scaler)
        plan, release = self._plan, self._plan.gradients
        # Paid before anything is drawn: a round that comes to nothing, or is asked for again, is paid all the same.
        spent = self._budget.pay(release.rdp())
        noise = skellam.draw(release.variance / self._sharers(), self._size)

        def add_up(on_epoch: OnEpoch) -> Vector:
            total = clipped_sum(self._model, sampled(rows, release.rate), plan.clip)
            on_epoch(1)
            steps = np.rint(np.clip(total, -plan.most, plan.most) * plan.unit).astype(np.int64)
            return self._in_steps(steps + noise)

        title = f"one private step: epsilon {spent:.3f} of {plan.epsilon:g} when it is done"
        # A tenant whose rows fail sends its noise all the same: the others count on it.
        return Contribution(title, 1, WEIGHTS, self._in_steps(noise), add_up)

    def _in_steps(self, integers: NDArray[np.int64]) -> Vector:
        return integers / self._plan.unit


def sampled(rows: Dataset, rate: float) -> Dataset:
    """Each row by itself with this probability (Poisson sampling), by a generator that the system seeds."""
    generator = np.random.Generator(np.random.PCG64DXSM(secrets.randbits(_SEED_BITS)))
    chosen = generator.random(len(rows)) < rate
    return Dataset(rows.features[chosen], rows.labels[chosen], rows.families[chosen])


def clipped_sum(model: nn.Module, rows: Dataset, clip: float) -> Vector:
    """The sum of the rows' gradients of the cross-entropy, each at most `clip` long, (size,) float64.

    In the order of the model's `state_dict`; what is not trained has 0.

    Args:
        model: in which no row's output depends on other rows.
        rows: any number.
        clip: the longest that one may be, in the L2 norm.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = {name: b.detach() for name, b in model.named_buffers()}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}

    def loss(at: dict[str, Tensor], features: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, {**at, **buffers}, (features.unsqueeze(0),))
        return F.cross_entropy(logits, label.unsqueeze(0))

    of_each = vmap(grad(loss), in_dims=(None, 0, 0))
    model.eval()  # a layer that draws, or looks at other rows, would make gradients that are not of one row
    chunk = max(1, _NUMBERS // sum(p.numel() for p in parameters.values()))
    for start in range(0, len(rows), chunk):
        features = torch.from_numpy(rows.features[start : start + chunk])
        labels = torch.from_numpy(rows.labels[start : start + chunk])
        gradients = {name: g.flatten(1) for name, g in of_each(parameters, features, labels).items()}  # (B, size)
        lengths = [torch.linalg.vector_norm(g, dim=1, dtype=torch.float64) for g in gradients.values()]
        norms = torch.stack(lengths).square().sum(0).sqrt()  # (B,)
        # A gradient that is no number shows nothing and moves nothing.
        numbers = torch.isfinite(norms)
        scale = torch.where(numbers, torch.clamp(clip / norms, max=1.0).nan_to_num(), 0.0)
        for name, g in gradients.items():
            known = g if numbers.all() else torch.where(numbers[:, None], g, 0.0)
            total[name] += (scale @ known.double()).view_as(total[name])
    parts = [
        total[name].numpy().ravel() if name in total else np.zeros(tensor.numel())
        for name, tensor in model.state_dict().items()
    ]
    return np.concatenate(parts)
