"""The trained model and the density of benign rows as one detector, and the gate that says whether they should be one.

Each of the two orders records by a score of its own. What makes them comparable is the share of benign validation rows
that are at least as suspicious: the conformal p-value of Laxhammar and Falkman, "Inductive conformal anomaly detection"
(2015), section 2.3,

    p = (1 + benign validation rows with at least this score) / (1 + benign validation rows)

A record is as suspicious as its smaller p-value, which is the maximum of the tail scores -log p.

A density does not help on all data, so it has to earn its place: alone, at the threshold that 1 % of the benign
validation rows exceed, it must find half of the validation rows' attacks. It needs no training, so that is known before
round 1.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.data_sources.dataset import Dataset
from shared.density import Density
from shared.metrics import rows_for_rate, threshold_at

GATE_RATE, GATE_RECALL = 0.01, 0.5
_EXACT = 64  # of the most suspicious benign rows each is a step of its own; below them a step is about 2 % of the rank
_POINTS = 512
_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Gate:
    """Whether a density takes part in alerts.

    Attributes:
        open: it does.
        recall: of the validation rows' attacks, at the threshold that `GATE_RATE` of their benign rows exceed; None
            where the rows are too few to tell.
        benign, attacks: validation rows.
    """

    open: bool
    recall: float | None
    benign: int
    attacks: int

    @classmethod
    def from_json(cls, raw: Any) -> "Gate":
        """From parsed JSON.

        Raises:
            ValueError: not what `dataclasses.asdict` makes of a gate.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(raw, dict) or set(raw) != names or type(raw["open"]) is not bool:
            raise ValueError(f"gate: expected exactly {', '.join(sorted(names))}")
        counts = (raw["benign"], raw["attacks"])
        recall = raw["recall"]
        if not all(type(count) is int and count >= 0 for count in counts) or not (
            recall is None or (type(recall) in (int, float) and 0 <= recall <= 1)
        ):
            raise ValueError("gate: expected counts from 0, and a recall from 0 to 1 or none")
        return cls(**raw)

    def in_words(self) -> str:
        """For a person, in one sentence."""
        if self.recall is None:
            return (
                f"the gate of the density stays shut: {rows_for_rate(GATE_RATE):,} benign validation rows and an "
                f"attack would tell what it is worth, and there are {self.benign:,} and {self.attacks:,}"
            )
        what = "is open" if self.open else "stays shut"
        return (
            f"the gate of the density {what}: alone it finds {100 * self.recall:.1f} % of the validation attacks at "
            f"{100 * GATE_RATE:g} % false alarms, and {100 * GATE_RECALL:g} % are asked for"
        )


def judge(density: Density, validation: Dataset) -> Gate:
    """What the density alone is worth on scaled validation rows."""
    benign = validation.labels == 0
    rows, attacks = int(benign.sum()), int((~benign).sum())
    if rows < rows_for_rate(GATE_RATE) or not attacks:
        return Gate(False, None, rows, attacks)
    scores = _log_odds_of(density, validation.features)
    recall = float((scores[~benign] > threshold_at(scores[benign], GATE_RATE)).mean())
    return Gate(recall >= GATE_RECALL, recall, rows, attacks)


class Tail(nn.Module):
    """-log p of scores by one sample of benign rows' scores, which it keeps at `_POINTS` ranks.

    Beyond the highest of the sample it goes on growing, so that records keep their order there; p then means nothing.

    Attributes:
        points: some of the sample's scores, ascending, float32, (points,).
        tails: -log p of a score above the first 0, 1, ... of them, float32, (points + 1,).
        spread: from the middle of the sample to its highest score, above 0, float32, (1,).
    """

    points: Tensor
    tails: Tensor
    spread: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        self.register_buffer("points", torch.zeros(points))
        self.register_buffer("tails", torch.zeros(points + 1))
        self.register_buffer("spread", torch.ones(1))

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> "Tail":
        """Of a sample, (rows,), at least one."""
        falling = np.sort(scores)[::-1].astype(np.float32)
        count = len(falling)
        ranks = np.unique(np.append(np.arange(_EXACT), np.geomspace(1, count, _POINTS).round() - 1).clip(max=count - 1))
        ranks = ranks.astype(np.int64)  # from the highest, 0
        above = np.append(ranks[::-1] + 1, 0)  # of the sample, at least as high as each point, and beyond all
        spread = max(float(falling[0] - falling[count // 2]), 1e-6)
        return cls.of_points(falling[ranks][::-1].astype(np.float64), -np.log((1 + above) / (1 + count)), spread)

    @classmethod
    def of_points(cls, points: NDArray[np.float64], tails: NDArray[np.float64], spread: float) -> "Tail":
        """From the numbers of one that somebody else made."""
        tail = cls(len(points))
        tail.points.copy_(torch.from_numpy(points))
        tail.tails.copy_(torch.from_numpy(tails))
        tail.spread.fill_(spread)
        return tail

    def forward(self, scores: Tensor) -> Tensor:
        """Scores, (B,), to tail scores, (B,)."""
        below = (scores[:, None] > self.points).sum(dim=1)  # (B,)
        beyond = ((scores - self.points[-1]) / self.spread).clamp(min=0)
        return self.tails[below] + torch.log1p(beyond)


class FusedDetector(nn.Module):
    """Scaled features to logits, as any detector does it: the log odds of an attack are log(rate / p).

    So its attack score, rate / (rate + p), is above 0.5 where fewer benign rows than `rate` are as suspicious.

    Attributes:
        model: the trained one, of two classes.
        density: of benign rows.
        model_tail, density_tail: of their log odds, by the benign validation rows.
        rate: the share of benign records that may alert, float32, (1,).
    """

    rate: Tensor

    def __init__(self, model: nn.Module, density: Density, model_tail: Tail, density_tail: Tail, rate: float) -> None:
        super().__init__()
        self.model, self.density = model, density
        self.model_tail, self.density_tail = model_tail, density_tail
        self.register_buffer("rate", torch.tensor([rate]))

    def forward(self, features: Tensor) -> Tensor:
        """Scaled features, (B, F), to logits, (B, 2)."""
        log_odds = self.tail_scores(features).amax(dim=1) + torch.log(self.rate)
        return torch.stack([torch.zeros_like(log_odds), log_odds], dim=1)

    def tail_scores(self, features: Tensor) -> Tensor:
        """Of the model and of the density, (B, 2)."""
        logits = self.model(features)  # (B, 2)
        tails = self.model_tail(logits[:, 1] - logits[:, 0]), self.density_tail(self.density.log_odds(features))
        return torch.stack(tails, dim=1)


@dataclass(frozen=True, eq=False)
class Fusion:
    """What a run's density is worth, and what makes one detector of it and the trained model.

    Attributes:
        gate: see there.
        rate: the share of benign records that may alert.
        tails: of the model's log odds and of the density's; None while the gate is shut.
    """

    gate: Gate
    rate: float
    tails: tuple[Tail, Tail] | None

    @classmethod
    def of(cls, model: nn.Module, density: Density, validation: Dataset, rate: float) -> "Fusion":
        """By scaled validation rows."""
        gate = judge(density, validation)
        if not gate.open:
            return cls(gate, rate, None)
        benign = validation.features[validation.labels == 0]
        return cls(gate, rate, (Tail.of(_log_odds_of(model, benign)), Tail.of(_log_odds_of(density, benign))))

    def detector(self, model: nn.Module, density: Density) -> nn.Module:
        """The two as one; the model alone while the gate is shut."""
        return model if self.tails is None else FusedDetector(model, density, *self.tails, self.rate).eval()


def _log_odds_of(model: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of an attack, by a model of two classes, (rows,)."""
    model.eval()
    with torch.no_grad():
        logits = [
            model(torch.from_numpy(features[start : start + _BATCH_ROWS])).double()
            for start in range(0, len(features), _BATCH_ROWS)
        ]
    both = torch.cat(logits)  # (rows, 2)
    return np.asarray((both[:, 1] - both[:, 0]).numpy())
