"""The last words of a run on the server's screen: what came of it, who could see what, where it is, what to do next."""

import shlex
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from orchestrator.eyes.terminal import round_table
from orchestrator.report.privacy import in_one_sentence, of_audits
from orchestrator.report.run_data import read_verdicts
from orchestrator.report.words import count
from orchestrator.run import OpenRun
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.console import console
from shared.errors import NoSumError
from shared.metrics import too_few_rows

_CHANCE = 0.55  # ROC-AUC: half is chance, and figures of some hundred rows are not more exact
_JOINT = " \\\n  "  # a command on two lines, as a shell takes it


def conclude(config: Config, run: OpenRun[Any], failure: NoSumError | None = None) -> None:
    """Print the table of the rounds, write the report, and print the last words.

    Raises:
        NoSumError: the run's failure, where it has one, or no round changed the model; there is no report then.
    """
    records, model = run.coordinator.records, run.coordinator.model
    run.observers.close()
    console.print(round_table(records))
    if failure is not None:
        raise failure
    run.coordinator.check_trained()
    report = run.write_report()
    boxed, folder = console.is_terminal, run.folder.path
    verdicts = read_verdicts(run.folder)
    audits = of_audits(verdicts) if verdicts else ""
    console.print(
        closing(config, records, folder, report, model.best_round, boxed=boxed, simulated=run.simulated, audits=audits)
    )


def closing(
    config: Config,
    records: list[RoundRecord],
    folder: Path,
    report: Path | None,
    kept: int = 0,
    *,
    boxed: bool,
    simulated: bool = False,
    audits: str = "",
) -> RenderableType:
    """What a person should take away from a run.

    Args:
        config: of the run.
        records: one a round, at least one.
        folder: the run's files.
        report: the page; None where it could not be made.
        kept: the round whose model is kept under early stopping; 0: the last.
        boxed: for a terminal. Otherwise each statement is one line, and no line is folded.
        simulated: whether this machine played all clients.
        audits: who verified the sums; empty where nobody was shown a proof.
    """
    statements = [
        ("result", _result(records, kept)),
        ("privacy", in_one_sentence(config, simulated=simulated)),
        ("next", _next(config, folder)),
    ]
    if audits:
        statements.insert(2, ("audit", audits))
    if not boxed:
        lines = [f"{name}: {text.replace(_JOINT, ' ')}" for name, text in statements]
        lines.append(f"everything of this run is in {folder}{f'; open {report}' if report else ''}")
        return Group(*map(Text, lines))
    statements.insert(2, ("report", str(report)) if report else ("files", str(folder)))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in statements:
        grid.add_row(name, Text(text))
    # No sides: a path or a command is to be copied without them.
    return Panel(grid, title=f"run {folder.name} is done", title_align="left", box=box.HORIZONTALS)


def _result(records: list[RoundRecord], kept: int) -> str:
    after = f"after {count(len(records), 'round')}" + (f", of which the best, {kept}, is kept" if kept else "")
    skipped = sum(record.skipped is not None for record in records)
    record = records[(kept or len(records)) - 1]
    after += f" ({skipped} without a sum)" if skipped else ""
    if record.attack_rows is not None and (few := too_few_rows(record.attack_rows, record.benign_rows or 0)):
        return f"a model {after}; {few}"
    named = (("ROC-AUC", record.roc_auc), ("accuracy", record.accuracy))
    figures = ", ".join(f"{name} {value:.3f}" for name, value in named if value is not None)
    return f"{figures} on the test set, {after}{_by_chance(record)}"


def _by_chance(record: RoundRecord) -> str:
    """That a model tells no attack from a benign record, which a high accuracy hides where attacks are few."""
    if record.roc_auc is None or record.roc_auc >= _CHANCE:
        return ""
    attacks, benign = record.attack_rows or 0, record.benign_rows or 0
    return (
        f"; NO BETTER THAN CHANCE: calling all records {'benign' if benign >= attacks else 'attacks'} is right for "
        f"{max(benign, attacks) / max(benign + attacks, 1):.3f} of them; look at features, labels and the lines in "
        "capitals"
    )


def _next(config: Config, folder: Path) -> str:
    of, own = shlex.quote(str(folder)), f" --model_class {config.model}" if ":" in config.model else ""
    if config.data_source == "synthetic":  # these rows come in no files that could be scored
        return f"python benchmarks/local_vs_federated.py{_JOINT}--run {of}{own}"
    if "." in config.data_source:  # the operator's own source reads no new records
        return f"python client/export.py --model {of}{_JOINT}--out model.onnx{own}"
    return f"python client/score.py --model {of}{_JOINT}--input FILE --output alerts.jsonl{own}"
