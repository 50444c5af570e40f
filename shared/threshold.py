"""Above which score to alert: chosen for a false-positive rate, on rows that neither train nor test."""

from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.errors import AlertRateError
from shared.metrics import attack_scores, predict_probabilities, rows_for_rate, threshold_at


@dataclass(frozen=True)
class AlertThreshold:
    """A record alerts if its attack score, 1 - P(benign), is above `score`.

    Attributes:
        score: 0 to 1; None where the benign rows are too few to mean the target rate. Records are then ranked.
        target_rate: the share of benign records that may alert, from `alert_fpr`, or `alerts_per_day` and
            `records_per_day`.
        measured_rate: the share of the validation set's benign rows above `score`; None without a score.
        benign_rows: how many of them the choice rests on.
        highest_benign: the highest score among them; None without a score.
    """

    score: float | None
    target_rate: float
    measured_rate: float | None
    benign_rows: int
    highest_benign: float | None

    def required(self) -> float:
        """The score to alert above.

        Raises:
            AlertRateError: there is none; it says how many benign rows it takes.
        """
        if self.score is None:
            raise AlertRateError(
                f"a rate of {self.target_rate:g} false alerts takes {rows_for_rate(self.target_rate):,} benign "
                f"validation rows to mean anything, and there are {self.benign_rows:,}: no alert threshold, so records "
                "are ranked; validate on more benign rows, or allow a higher rate (alert_fpr)"
            )
        return self.score

    @classmethod
    def from_json(cls, raw: Any) -> "AlertThreshold":
        """From parsed JSON.

        Raises:
            ValueError: not what `dataclasses.asdict` makes of a threshold, or numbers that none has.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(raw, dict) or set(raw) != names or type(raw["benign_rows"]) is not int:
            raise ValueError(f"threshold: expected exactly {', '.join(sorted(names))}, with a whole number of rows")
        chosen = names - {"benign_rows", "target_rate"}
        none = all(raw[name] is None for name in chosen)
        for name in {"target_rate"} if none else {"target_rate", *chosen}:
            # Written so that NaN, which compares False with everything, is refused too.
            if not (type(raw[name]) in (int, float) and 0 <= raw[name] <= 1):
                raise ValueError(f"threshold: {name} = {raw[name]!r:.80}, expected 0 to 1")
        if raw["benign_rows"] < 0 or not raw["target_rate"]:
            raise ValueError("threshold: expected a rate above 0, on 0 rows or more")
        if none != (raw["benign_rows"] < rows_for_rate(raw["target_rate"])):
            raise ValueError("threshold: expected a score where the rows are enough for the rate, and none elsewhere")
        return cls(**raw)


def choose_threshold(config: Config, model: nn.Module, validation: Dataset) -> AlertThreshold:
    """The lowest threshold that at most `config.alert_rate` of the benign validation rows exceed.

    It is no lower than `config.alert_min_score`: a rate alone would call records attacks that are most likely none.

    Args:
        config: with the rate, and the least score of an alert.
        model: the detector.
        validation: scaled rows that no client trains on and that are not of the test set.
    """
    # Without labels no validation row is known to be benign.
    benign = validation.features[validation.labels == 0] if config.labels != "none" else validation.features[:0]
    if len(benign) < rows_for_rate(config.alert_rate):
        return AlertThreshold(None, config.alert_rate, None, len(benign), None)
    scores = attack_scores(predict_probabilities(model, benign))
    chosen = max(threshold_at(scores, config.alert_rate), config.alert_min_score)
    return AlertThreshold(chosen, config.alert_rate, float((scores > chosen).mean()), len(benign), float(scores.max()))
