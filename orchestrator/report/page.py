"""The page: a run's data through the template, and the file it is written to.

The template escapes whatever it is given that is not markup of this package's own, and the page's content security
policy lets a browser run no script and load nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from orchestrator.report import drawings, figures, privacy, words
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.ranking import Ranking, real_rate
from orchestrator.report.run_data import Run, began, read_run
from orchestrator.run_folder import RunFolder
from shared.atomic import replace_file
from shared.config import Config
from shared.pages import page_style, template_engine
from shared.printable import printable

_HERE = Path(__file__).parent
_MOST_TABLE_ROUNDS = 200
_FEW = 12  # clients whose table is open at once
_MOST_CLASSES = 12  # of a confusion matrix that a screen has room for


@dataclass(frozen=True)
class Setting:
    """One setting of the run."""

    name: str
    value: str
    meaning: str
    changed: bool


@dataclass(frozen=True)
class Contender:
    """One model of the comparison."""

    name: str
    rows: str
    evaluation: Evaluation
    kind: str  # "federated", "pooled" or "alone"


@dataclass(frozen=True)
class Detector:
    """One detector, of whatever kind, for the table that says which to use.

    Attributes:
        name: of it.
        needs: what a federation does not have; empty where it needs nothing of the kind.
        evaluation: at its own thresholds.
        ranking: without any.
        real: share of benign records above the threshold that was made for 1 %.
    """

    name: str
    needs: str
    evaluation: Evaluation
    ranking: Ranking
    real: float | None


def write_report(folder: Path) -> Path:
    """Make the report of a run's folder, anew if there is one.

    Returns:
        Its path.

    Raises:
        DataError: the folder holds no run, or a file of it is damaged.
        ConfigError: its config.yaml can't be used.
        OSError: the file can't be written.
    """
    path = RunFolder(folder).report
    replace_file(path, render(read_run(folder)).encode())
    return path


def templates_of(*folders: Path) -> Environment:
    """The template engine for these folders, with the words of a report."""
    environment = template_engine(*folders)
    for name in ("share", "figure", "seconds", "size", "rate_text"):
        environment.filters[name] = getattr(words, name)
    return environment


def render(run: Run) -> str:
    """The whole page as text."""
    environment = templates_of(_HERE)
    totals = [sum(values) for values in zip(*map(figures.time_parts, run.rounds), strict=True)]
    contenders = _contenders(run)
    return environment.get_template("page.html").render(
        style=page_style(),
        run=run,
        e=run.evaluation,
        date=_date(run),
        headline=figures.headline(run),
        privacy_sentence=privacy.in_one_sentence(run.config, simulated=any(start.simulated for start in run.starts)),
        tiles=figures.tiles(run),
        caveats=figures.caveats(run),
        round_drawings=drawings.of_rounds(run.rounds),
        rounds_table=run.rounds[:: max(1, -(-len(run.rounds) // _MOST_TABLE_ROUNDS))],
        quality_drawings=drawings.of_quality(run.evaluation) if run.evaluation else [],
        contenders=contenders,
        shown_contenders=_picked(contenders),
        detectors=_detectors(run),
        advice=figures.which_to_use(run.evaluation, run.comparison) if run.evaluation and run.comparison else "",
        compared=figures.compared(run.evaluation, run.comparison) if run.evaluation and run.comparison else "",
        time_drawing=drawings.of_time(run.rounds),
        time_totals=list(zip(figures.TIME_PARTS, totals, strict=False)),
        clients=figures.client_rows(run),
        few=_FEW,
        most_classes=_MOST_CLASSES,
        losses=figures.losses(run),
        skipped=figures.skipped(run),
        bad_groups=figures.bad_groups(run),
        left_out=", ".join(run.rounds[-1].left_out) if run.rounds else "",
        seen=privacy.who_could_see_what(run),
        facts=privacy.key_and_channel(run),
        settings=_settings(run.config),
    )


def _date(run: Run) -> str:
    start = began(run)
    return "" if start is None else f"{start.day} {start:%B %Y, %H:%M}" + (" UTC" if start.tzinfo else "")


def _settings(config: Config) -> list[Setting]:
    """All settings; those that differ from the defaults are marked."""
    result = []
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        result.append(Setting(name, text or "–", field.description or "", value != field.default))
    return result


def _contenders(run: Run) -> list[Contender]:
    """The federated model, the pooled one, and each client's own."""
    if run.evaluation is None or run.comparison is None:
        return []
    pooled, alone = run.comparison.pooled, run.comparison.alone
    return [
        Contender("federated", "", run.evaluation, "federated"),
        Contender(pooled.name, f"{pooled.rows:,}", pooled.evaluation, "pooled"),
        *(Contender(printable(rival.name), f"{rival.rows:,}", rival.evaluation, "alone") for rival in alone),
    ]


def _detectors(run: Run) -> list[Detector]:
    """All that the comparison ranked, in the order of what they need."""
    if run.evaluation is None or run.comparison is None or run.comparison.federated is None:
        return []
    c = run.comparison
    ours = ("this run", "", run.evaluation, c.federated)
    listed = [(r.name, need, r.evaluation, r.ranking) for need, rivals in (
        ("", c.others), ("all rows in one place", [c.pooled, *c.references]), ("its own rows", c.alone)
    ) for r in rivals]  # fmt: skip
    return [Detector(printable(n), need, e, r, real_rate(e)) for n, need, e, r in (ours, *listed) if r is not None]


def _picked(contenders: list[Contender]) -> list[Contender]:
    """All of a few; of many clients the best, the one in the middle and the worst."""
    if len(contenders) <= _FEW:
        return contenders
    alone = sorted(contenders[2:], key=lambda c: -(c.evaluation.roc_auc or 0.0))
    named = (("best", alone[0]), ("median", alone[len(alone) // 2]), ("worst", alone[-1]))
    picked = [Contender(f"{c.name} ({what})", c.rows, c.evaluation, c.kind) for what, c in named]
    return [*contenders[:2], *picked]
