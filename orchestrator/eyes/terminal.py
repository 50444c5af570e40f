"""The server on a terminal: a table of the rounds that grows, with what is going on and the time left."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.eyes.now import Now, roughly
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.console import close_display, console, open_display
from shared.printable import printable

# Columns of the table of the rounds that a terminal has no room for, the first to go first.
_FIRST_TO_GO = ("clients s", "add s", "decrypt s", "KB/client", "FPR", "PR-AUC", "round s", "clients", "accuracy")
_BAR_COLUMNS = 12
_OTHER_LINES = (
    12  # of a terminal that are not rounds: the table's head, what goes on, bars, and some of what was before
)


class LiveTable(Now):
    """Stands in the place of the log's lines, which are in the run's `server.log` all the same."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._said = ""

    def began(self, records: Sequence[RoundRecord]) -> None:
        super().began(records)
        open_display(self)

    def ended(self) -> None:
        super().ended()
        close_display()

    def close(self) -> None:
        close_display()

    def say(self, line: str) -> None:
        """The last line of the log stands below all else."""
        self._said = printable(line)

    def draw(self) -> RenderableType:
        """The last rounds, what goes on, how long it has taken and will take, and the log's last line."""
        moment = self.moment()
        parts: list[RenderableType] = []
        if moment.records:
            parts.append(round_table(list(moment.records[-max(1, console.height - _OTHER_LINES) :])))
        left = moment.seconds_left()
        times = roughly(moment.seconds) + ("" if left is None else f", about {roughly(left)} left")
        going_on = Table.grid(padding=(0, 2))
        cells: list[RenderableType] = [Text(moment.doing(), style="bold"), Text(times)]
        if moment.asked is not None and moment.answered < moment.asked.tenants:
            bar = ProgressBar(total=moment.asked.tenants, completed=moment.answered, width=_BAR_COLUMNS)
            cells[1:1] = [bar, Text(f"{moment.answered}/{moment.asked.tenants}")]
        going_on.add_row(*cells)
        return Group(*parts, going_on, Text(self._said, style="dim", overflow="ellipsis", no_wrap=True))


def round_table(records: list[RoundRecord]) -> Table:
    """What a person wants to know of each round."""
    table = Table(title="rounds of the global model, on the common test set")
    columns = ("round", "clients", "loss", "accuracy", "ROC-AUC", "PR-AUC", "FPR")
    times = ("clients s", "add s", "decrypt s", "round s", "KB/client")
    for column in columns + times:
        table.add_column(column, justify="right", no_wrap=True)
    for r in records:
        chosen = r.contributors + r.failures if not r.skipped else r.failures
        table.add_row(
            str(r.round), f"{r.contributors} of {chosen}",
            *(_cell(v) for v in (r.loss, r.accuracy, r.roc_auc, r.pr_auc, r.fpr)),
            *(_cell(v) for v in (r.fit_seconds, r.aggregate_seconds, r.decrypt_seconds)),
            _cell(r.round_seconds, 2),
            "-" if r.upload_bytes_per_client is None else f"{r.upload_bytes_per_client / 1000:,.1f}",
        )  # fmt: skip
    for name in _FIRST_TO_GO:  # what a narrow terminal has no room for is in metrics.jsonl
        if _width(table) <= console.width:
            break
        table.columns[:] = [column for column in table.columns if column.header != name]
    return table


def _width(table: Table) -> int:
    """Of the table with every cell whole: two blanks beside each, and lines between them."""
    return 1 + sum(3 + max(len(str(cell)) for cell in (column.header, *column.cells)) for column in table.columns)


def _cell(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
