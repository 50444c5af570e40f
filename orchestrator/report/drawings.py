"""Which charts a report has, and what is in each."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from orchestrator.report.charts import Mark, Series, line_chart, number_ticks, stacked_columns, ticks
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.figures import TIME_PARTS, time_parts
from orchestrator.report.words import rate_text, share
from orchestrator.run_folder import RoundRecord

_MOST_POINTS = 400  # of one line; a chart has no more pixels
_MOST_COLUMNS = 60
_UNIT_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Drawing:
    """A chart with what stands around it.

    Attributes:
        legend: (colour, name, last value) of each line.
        note: a sentence below it, or nothing.
    """

    title: str
    chart: Markup
    legend: Sequence[tuple[int, str, str]] = ()
    note: str = ""


def of_rounds(rounds: Sequence[RoundRecord]) -> list[Drawing]:
    """How the global model changed from round to round."""
    lines = [("test set", "loss"), ("validation rows", "validation_loss"), ("clients' own rows", "client_loss")]
    areas = [("ROC-AUC", "roc_auc"), ("PR-AUC", "pr_auc")]
    return _present(
        _global(rounds, "Loss", "mean cross-entropy", lines),
        _global(rounds, "How well it ranks attacks first", "area under the curve, test set", areas),
        _recalls(rounds),
    )


def of_quality(e: Evaluation) -> list[Drawing]:
    """The ROC and the precision-recall curve, with the alert threshold on them."""
    if not e.roc_fpr or e.recall is None or e.fpr is None:
        return []
    marks = [Mark(e.fpr, e.recall, "alert threshold")]
    points = list(zip(e.roc_fpr, e.roc_tpr, strict=True))
    roc = _unit_square("ROC curve", points, "false-positive rate", "recall", marks, diagonal=True)
    marks = [Mark(e.recall, e.precision, "alert threshold")] if e.precision is not None else []
    points = list(zip(e.pr_recall, e.pr_precision, strict=True))
    pr = _unit_square("precision-recall curve", points, "recall", "precision", marks)
    return [
        Drawing("ROC curve", roc, [(1, "area", f"{e.roc_auc:.3f}")], "The dashed line is what guessing gives."),
        Drawing(
            "Precision and recall", pr, [(1, "area", f"{e.pr_auc:.3f}")],
            f"Calling everything an attack would have a precision of {share(e.attacks / e.test_rows)}.",
        ),
    ]  # fmt: skip


def of_time(rounds: Sequence[RoundRecord]) -> Drawing | None:
    """Where the seconds of each round went; of several rounds together, their mean, if there are many."""
    if not rounds:
        return None
    width = -(-len(rounds) // _MOST_COLUMNS)
    columns = []
    for first in range(0, len(rounds), width):
        group = rounds[first : first + width]
        parts = [fmean(values) for values in zip(*map(time_parts, group), strict=True)]
        columns.append((f"{group[0].round}" if width == 1 else f"{group[0].round}–{group[-1].round}", parts))
    chart = stacked_columns("Seconds of each round", columns, TIME_PARTS, x_label="round", y_label="seconds")
    note = "Colours as in the bars over the whole run."
    if width > 1:
        note = f"Each column is the mean of {width} rounds. {note}"
    return Drawing("Seconds of each round", chart, note=note)


def _unit_square(
    name: str,
    points: Sequence[tuple[float, float]],
    x_label: str,
    y_label: str,
    marks: Sequence[Mark],
    diagonal: bool = False,
) -> Markup:
    return line_chart(
        f"{name} of the final model on the test set",
        [Series(name, points)],
        x_label=x_label,
        y_label=y_label,
        x=(0.0, 1.0),
        x_ticks=_UNIT_TICKS,
        x_format=lambda at: f"{at:.1f}",
        y_ticks=_UNIT_TICKS,
        marks=marks,
        diagonal=diagonal,
    )


def _present(*drawings: Drawing | None) -> list[Drawing]:
    return [drawing for drawing in drawings if drawing is not None]


def _recalls(rounds: Sequence[RoundRecord]) -> Drawing | None:
    """Recall at each false-positive rate that thresholds are set for."""
    rates = sorted({rate for record in rounds for rate in record.recall_at_fpr}, key=float, reverse=True)
    lines = [
        Series(f"at {rate_text(rate)}", [(r.round, r.recall_at_fpr.get(rate)) for r in _thinned(rounds)], colour)
        for colour, rate in enumerate(rates, start=1)
    ]
    if not lines:
        return None
    title = "Attacks caught, by false alarms allowed"
    return Drawing(title, _over_rounds(title, "recall, test set", lines, rounds), _legend(lines))


def _global(
    rounds: Sequence[RoundRecord], title: str, y_label: str, names: Sequence[tuple[str, str]]
) -> Drawing | None:
    lines = [
        Series(name, [(r.round, getattr(r, field)) for r in _thinned(rounds)], colour)
        for colour, (name, field) in enumerate(names, start=1)
    ]
    lines = [line for line in lines if any(y is not None for _, y in line.points)]
    return Drawing(title, _over_rounds(title, y_label, lines, rounds), _legend(lines)) if lines else None


def _over_rounds(
    title: str,
    y_label: str,
    lines: Sequence[Series],
    rounds: Sequence[RoundRecord],
) -> Markup:
    values = [y for line in lines for _, y in line.points if y is not None]
    low, high = min(values), max(values)
    margin = max((high - low) * 0.08, abs(high) * 0.005, 1e-6)
    low = max(low - margin, 0.0)  # no figure here can be below 0
    high = min(high + margin, 1.0) if "loss" not in title.lower() else high + margin
    last = rounds[-1].round
    half = 0.5 if last < 20 else last / 40  # room for the first and the last point
    return line_chart(
        f"{title}, by round",
        lines,
        x_label="round",
        y_label=y_label,
        x=(1 - half, last + half),
        y_ticks=ticks(low, high),
        x_ticks=number_ticks(last),
        x_format=lambda at: f"{at:.0f}",
        shaded=[record.round for record in rounds if record.skipped],
    )


def _legend(lines: Sequence[Series]) -> list[tuple[int, str, str]]:
    last = [next((y for _, y in reversed(line.points) if y is not None), None) for line in lines]
    return [(line.colour, line.name, "" if y is None else f"{y:.3f}") for line, y in zip(lines, last, strict=True)]


def _thinned(rounds: Sequence[RoundRecord]) -> list[RoundRecord]:
    """Evenly spaced rounds, the first and the last among them."""
    step = -(-len(rounds) // _MOST_POINTS)
    return [record for index, record in enumerate(rounds) if index % step == 0 or index == len(rounds) - 1]
