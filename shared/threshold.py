"""Above which score to alert: chosen for a false-positive rate, on rows that neither train nor test."""

import math
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.metrics import attack_scores, predict_probabilities, threshold_at

UNCHOSEN = 0.5  # without a benign row to choose by: as likely an attack as not


@dataclass(frozen=True)
class AlertThreshold:
    """A record alerts if its attack score, 1 - P(benign), is above `score`.

    Attributes:
        score: 0 to 1.
        target_rate: the share of benign records that may alert, from `alert_fpr`, or `alerts_per_day` and
            `records_per_day`.
        measured_rate: the share of the validation set's benign rows above `score`; None without such rows.
        benign_rows: how many of them the choice rests on.
        highest_benign: the highest score among them; None without such rows.
    """

    score: float
    target_rate: float
    measured_rate: float | None
    benign_rows: int
    highest_benign: float | None

    @property
    def resolved(self) -> bool:
        """Whether there were enough benign rows to tell the target rate from 0."""
        return self.benign_rows * self.target_rate >= 1

    def doubt(self) -> str:
        """What a person must know before relying on the rate; empty where there are enough rows."""
        if not self.benign_rows:
            return (
                f"no benign validation row to choose a threshold by: alerts are for scores above {UNCHOSEN}, "
                "whatever their rate; validate on benign rows too, or score with --threshold"
            )
        if not self.resolved:
            return (
                f"the alert threshold rests on {self.benign_rows} benign validation rows, and a rate of "
                f"{self.target_rate:g} takes at least {math.ceil(1 / self.target_rate)} to be seen at all: expect a "
                "different rate of false alerts"
            )
        return ""

    @classmethod
    def from_json(cls, raw: Any) -> "AlertThreshold":
        """From parsed JSON.

        Raises:
            ValueError: not what `dataclasses.asdict` makes of a threshold, or numbers that none has.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(raw, dict) or set(raw) != names or type(raw["benign_rows"]) is not int:
            raise ValueError(f"threshold: expected exactly {', '.join(sorted(names))}, with a whole number of rows")
        for name in names - {"benign_rows"}:
            missing = raw[name] is None and name in ("measured_rate", "highest_benign") and not raw["benign_rows"]
            # Written so that NaN, which compares False with everything, is refused too.
            if not missing and not (type(raw[name]) in (int, float) and 0 <= raw[name] <= 1):
                raise ValueError(f"threshold: {name} = {raw[name]!r:.80}, expected 0 to 1")
        if raw["benign_rows"] < 0 or not raw["target_rate"]:
            raise ValueError("threshold: expected a rate above 0, on 0 rows or more")
        return cls(**raw)


def choose_threshold(config: Config, model: nn.Module, validation: Dataset) -> AlertThreshold:
    """The lowest threshold that at most `config.alert_rate` of the benign validation rows exceed.

    Args:
        config: with the rate.
        model: the trained model.
        validation: scaled rows that no client trains on and that are not of the test set.
    """
    benign = validation.features[validation.labels == 0]
    if not len(benign):
        return AlertThreshold(UNCHOSEN, config.alert_rate, None, 0, None)
    scores = attack_scores(predict_probabilities(model, benign))
    chosen = threshold_at(scores, config.alert_rate)
    return AlertThreshold(chosen, config.alert_rate, float((scores > chosen).mean()), len(benign), float(scores.max()))
