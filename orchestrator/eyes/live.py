"""A page that shows a run while it goes on, at `http://<live_address>/`, in the style of the report.

The page is made here, escaped by its templates, and kept up to date by server-sent events (WHATWG HTML, section 9.2):
each reader has a thread, which waits for something new and sends the newest. The thread that runs the round only says
that there is something new, so a reader that is slow, or hangs, misses some of it and holds up nobody.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from markupsafe import Markup

from orchestrator.eyes.now import Moment, Now, roughly
from orchestrator.eyes.pages import Pages, Reader
from orchestrator.report import drawings, figures
from orchestrator.report.drawings import Drawing
from orchestrator.report.figures import Tile
from orchestrator.report.page import templates_of
from orchestrator.report.run_data import Run
from orchestrator.report.words import client_order, count, figure, seconds, size
from orchestrator.run_folder import RoundRecord, RunFolder
from orchestrator.seats import Seats
from shared.config import Config
from shared.exchange import Kind
from shared.metrics import too_few_rows
from shared.pages import STYLE_SHEET
from shared.printable import printable

_HERE = Path(__file__).parent
_REPORT = _HERE.parent / "report"
_FILES: Final = {  # by the path that a browser asks for
    "/live.css": (_HERE / "live.css", "text/css; charset=utf-8"),
    "/live.js": (_HERE / "live.js", "text/javascript; charset=utf-8"),
    "/style.css": (STYLE_SHEET, "text/css; charset=utf-8"),
}
_BETWEEN_SECONDS = 0.5  # two events to one reader, at least
_SILENT_SECONDS = 10.0  # after which a line that says nothing shows whether the reader is still there
_LAST_ROUNDS, _MOST_LEFT_OUT = 12, 20

_log = logging.getLogger("orchestrator")


class LivePage(Now):
    """Serves the page until `close`.

    Args:
        config: the settings.
        folder: of the run.
        seats: the tenants that are here.
        simulated: whether one machine plays all of them.

    Raises:
        NetworkError: something else listens at `live_address`.
    """

    def __init__(self, config: Config, folder: RunFolder, seats: Seats, *, simulated: bool = False) -> None:
        super().__init__(config)
        self._folder, self._seats = folder, seats
        self._templates = templates_of(_HERE, _REPORT)
        self._templates.filters["roughly"] = roughly
        self._facts = _facts(config, simulated=simulated)
        self._news = threading.Condition()
        self._version, self._closed = 0, False
        self._left_out: dict[str, str] = {}  # since the last round was finished
        self._drawing = threading.Lock()
        self._drawn: tuple[int, str] = (-1, "")  # how many rounds `rounds.html` was last made of, and it
        pages: dict[str, Callable[[Reader], None]] = {"/": self._page, "/events": self._events}
        for path, (file, content_type) in _FILES.items():
            pages[path] = partial(Reader.answer, body=file.read_bytes(), content_type=content_type)
        self._pages = Pages(config.live_address, "live_address", pages, any_name=config.allow_open_monitoring)
        _log.info("the run is shown at http://%s/", config.live_address)

    def changed(self) -> None:
        with self._news:
            self._version += 1
            self._news.notify_all()

    def left_out(self, sum_of: Kind, tenant: str, reason: str) -> None:
        self._left_out = {**self._left_out, tenant: printable(reason)}
        self.changed()

    def committed(self, record: RoundRecord) -> None:
        self._left_out = {}
        super().committed(record)

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._pages.close()

    def _page(self, reader: Reader) -> None:
        moment = self.moment()
        page = self._templates.get_template("live.html").render(
            name=self._folder.name,
            moment=Markup(self._moment(moment)),  # noqa: S704 (templates of this package made them)
            rounds=Markup(self._rounds(moment.records)),  # noqa: S704
        )
        reader.answer(page, "text/html; charset=utf-8")

    def _events(self, reader: Reader) -> None:
        """Send what is new until the reader has gone or the run is over."""
        reader.begin("text/event-stream; charset=utf-8")
        seen, rounds = -1, -1
        while True:
            version, closed = self._wait(seen)
            if version == seen and not closed:
                reader.wfile.write(b": still here\n\n")
                continue
            moment = self.moment()
            parts = {"moment": self._moment(moment)}
            if len(moment.records) != rounds:
                parts["rounds"], rounds = self._rounds(moment.records), len(moment.records)
            reader.wfile.write(b"data: " + json.dumps(parts).encode() + b"\n\n")
            if closed:
                reader.wfile.write(b"event: done\ndata: \n\n")
                return
            seen = version
            time.sleep(_BETWEEN_SECONDS)

    def _wait(self, seen: int) -> tuple[int, bool]:
        """For a version after `seen`, the end, or long enough: the version that there is, and whether it is the end."""
        with self._news:
            self._news.wait_for(lambda: self._version != seen or self._closed, timeout=_SILENT_SECONDS)
            return self._version, self._closed

    def _moment(self, moment: Moment) -> str:
        doing = moment.doing()
        left_out = sorted(self._left_out.items(), key=lambda item: client_order(item[0]))[:_MOST_LEFT_OUT]
        return self._templates.get_template("moment.html").render(
            name=self._folder.name,
            doing=doing[0].upper() + doing[1:],
            facts=self._facts,
            m=moment,
            left=moment.seconds_left(),
            stops_early=bool(self._config.early_stopping_rounds),
            tiles=self._tiles(moment),
            report=self._folder.report,
            left_out=[(printable(tenant), reason) for tenant, reason in left_out],
        )

    def _rounds(self, records: Sequence[RoundRecord]) -> str:
        """Made once for all readers; the one that comes first makes it."""
        with self._drawing:
            if self._drawn[0] != len(records):
                run = Run(self._folder.name, self._config, list(records), [], None, None, None)
                html = self._templates.get_template("rounds.html").render(
                    drawings=[*drawings.of_rounds(run.rounds), *_time(run.rounds)],
                    last=run.rounds[: -_LAST_ROUNDS - 1 : -1],
                    clients=figures.client_rows(run),
                    losses=figures.losses(run),
                    skipped=figures.skipped(run),
                )
                self._drawn = (len(records), html)
            return self._drawn[1]

    def _tiles(self, moment: Moment) -> list[Tile]:
        tiles = [Tile(str(len(self._seats.tenants())), "clients are connected")]
        if not moment.records:
            return tiles
        last = moment.records[-1]
        of = count(last.contributors + last.failures if not last.skipped else last.failures, "client")
        tiles.append(Tile(str(last.contributors), f"of {of} are in the last sum"))
        few = too_few_rows(last.attack_rows, last.benign_rows or 0) if last.attack_rows is not None else ""
        if last.roc_auc is not None and not few:
            tiles.append(Tile(figure(last.roc_auc), f"ROC-AUC on the test set after round {last.round}"))
        elif last.validation_loss is not None:
            tiles.append(Tile(figure(last.validation_loss), f"validation loss after round {last.round}"))
        if last.accuracy is not None and not few:
            tiles.append(Tile(figure(last.accuracy), "accuracy on the test set"))
        if last.epsilon is not None:
            tiles.append(Tile(figure(last.epsilon), f"epsilon spent, of {self._config.dp_target_epsilon:g}"))
        if last.upload_bytes_per_client is not None:
            tiles.append(Tile(size(last.upload_bytes_per_client), "sent by each client in a round"))
        tiles.append(Tile(seconds(last.round_seconds), "for the last round"))
        return tiles


def _time(records: Sequence[RoundRecord]) -> list[Drawing]:
    """Where the seconds went, with a legend: the report has bars beside this chart that are one."""
    drawn = drawings.of_time(records)
    if drawn is None:
        return []
    parts = zip(figures.TIME_PARTS, figures.time_parts(records[-1]), strict=True)
    legend = [(colour, name, seconds(part)) for colour, (name, part) in enumerate(parts, start=1)]
    return [replace(drawn, legend=legend, note="The figures are those of the last round.")]


def _facts(config: Config, *, simulated: bool) -> list[str]:
    """What protects the run, in a few words each."""
    facts = [f"data: {config.data_source}"]
    if simulated:
        facts.append("a simulation: this machine has all rows")
    if config.he_scheme == "none":
        return [*facts, "NO ENCRYPTION"]
    return [
        *facts,
        f"{config.he_scheme}, {config.he_key_length:,} bits",
        f"masked: sums of at least {config.fewest_contributors} are opened" if config.masked else "not masked",
        "TLS" if config.tls_ca else "no TLS",
        *(["audited by the tenants"] if config.audit else []),
    ]
