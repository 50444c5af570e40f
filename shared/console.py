"""What a person sees: log lines, and progress of what takes time. Bars on a terminal, plain lines when redirected."""

import codecs
import io
import locale
import logging
import logging.handlers
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.config import Config
from shared.errors import RoundRefusedError
from shared.printable import JsonFormatter, LineFormatter
from shared.retention import RUN_NAME

LOG_FILE_BYTES = 1 << 24  # of one log file, before the next one is begun
LOG_FILES = 4  # of before that stay beside it: server.log.1 and so on

_PLAIN_SECONDS = 5.0  # without a terminal, one progress line at most this often

_WIDE = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 150  # None: rich finds out
_SCREEN_LINE = "%(asctime)s %(name)-12s %(message)s"
_json = False
_PLAIN = str.maketrans({"…": "...", "–": "-", "±": "+-", "·": "*", "²": "^2"})

console = Console(width=_WIDE, highlight=False, soft_wrap=not sys.stdout.isatty())


class _ConsoleHandler(logging.Handler):
    """Prints through rich, so that lines appear above a live progress bar instead of through it."""

    _STYLES = ((logging.ERROR, "bold red"), (logging.WARNING, "yellow"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and _display.say(record.getMessage()):
            return
        style = next((style for level, style in self._STYLES if record.levelno >= level), "")
        in_json = isinstance(self.formatter, JsonFormatter)  # which a program reads: neither folded nor coloured
        console.print(self.format(record), style="" if in_json else style, markup=False, soft_wrap=in_json or None)


class _LogFile(logging.handlers.RotatingFileHandler):
    """A log file, and the next one when it is full; each is its owner's alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        self._told = False

    def _open(self) -> io.TextIOWrapper:
        Path(self.baseFilename).touch(mode=0o600)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (of `logging`)
        """A full disk costs lines of the file, which is said once: `logging` would print a traceback for each line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True  # before the line is printed, and not through the logger, which would come back here
            why = f"{self.baseFilename}: can't be written: {error.strerror}; make room: lines may be missing in it"
            console.print(why, style="yellow", markup=False)

    def close(self) -> None:
        """What can't be written any more is lost; whoever closes the file goes on."""
        with suppress(OSError):
            super().close()


def fit_characters(stream: object) -> None:
    """Have a stream write only what its reader can show: `...` for an ellipsis, `\\xe9` for other letters.

    Rich draws its boxes in ASCII where the stream's encoding is not Unicode. With `LC_ALL=C` Python writes UTF-8 by
    itself, whatever the reader can show.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return  # a notebook's, or a test's
    codecs.register_error("plain", _in_plain_characters)
    guessed = sys.flags.utf8_mode and "PYTHONUTF8" not in os.environ and "PYTHONIOENCODING" not in os.environ
    stream.reconfigure(encoding=locale.getencoding() if guessed else None, errors="plain")


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = error.object[error.start : error.end].translate(_PLAIN)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _is_critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


def setup_logging(bars: bool = True) -> None:
    """Send this project's loggers to the screen, and none of Flower's and gRPC's: we tell their errors.

    Args:
        bars: draw progress bars if this is a terminal; False where several processes share it.
    """
    fit_characters(sys.stdout)
    _bars.enabled = bars and console.is_terminal
    handler = _ConsoleHandler(logging.INFO)  # a logger with a file (`add_log_file`) has finer lines for it
    handler.setFormatter(_formatter(_SCREEN_LINE, "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # A filter: Flower, which is imported later, sets its logger's level and adds a handler, and leaves filters alone.
    logging.getLogger("flwr").addFilter(_is_critical)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each of Flower's calls
    logging.getLogger("alembic").setLevel(logging.WARNING)  # lists its plugins when Flower is imported
    # gRPC's server prints a traceback out of Flower for each idle client that is lost; the server says it in one line.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)


def set_log_format(name: str) -> None:
    """Log lines of this process, and of the log files that it opens from now on, in `log_format` of the settings."""
    global _json
    _json = name == "json"
    if _json:
        _bars.enabled = False
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _ConsoleHandler):
            handler.setFormatter(_formatter(_SCREEN_LINE, "%H:%M:%S"))


def _formatter(line: str, times: str | None = None) -> logging.Formatter:
    return JsonFormatter() if _json else LineFormatter(line, times)


def show_cursor() -> None:
    """Undo what a progress bar or a display did to the terminal, for a process that ends at once."""
    _display.close()
    console.show_cursor(True)


class Drawing(Protocol):
    """What a display shows."""

    def draw(self) -> RenderableType:
        """As it is now; called several times a second, from a thread of its own."""

    def say(self, line: str) -> None:
        """A line of the log that is not printed, as the display stands in its place."""


class _Display:
    """At most one drawing on the terminal, which is drawn anew all the time."""

    def __init__(self) -> None:
        self._drawing: Drawing | None = None
        self._live: Live | None = None

    @property
    def is_open(self) -> bool:
        return self._live is not None

    def open(self, drawing: Drawing) -> None:
        self.close()
        self._drawing = drawing
        self._live = Live(get_renderable=drawing.draw, console=console, transient=True, refresh_per_second=4)
        self._live.start()

    def close(self) -> None:
        live, self._live, self._drawing = self._live, None, None
        if live is not None:
            live.stop()

    def say(self, line: str) -> bool:
        """Whether there is a display to say it on."""
        drawing = self._drawing
        if drawing is not None:
            drawing.say(line)
        return drawing is not None


_display = _Display()


def open_display(drawing: Drawing) -> bool:
    """Show a drawing in the place of the log's lines, from now to `close_display`; warnings are printed above it.

    Returns:
        Whether it is shown: on a terminal alone, and where bars are drawn.
    """
    if not _bars.enabled:
        return False
    _display.open(drawing)
    return True


def close_display() -> None:
    """Take it away; the log's lines are printed again. Twice is fine."""
    _display.close()


def add_log_file(logger: logging.Logger, path: Path) -> None:
    """Keep a copy of a logger's lines in a file, with the date and the level; its folder and it are its owner's alone.

    A file that is full (`LOG_FILE_BYTES`) is put aside, and the oldest of those goes (`LOG_FILES`).

    The file also has the lines of level DEBUG, which the screen does not show: the stages of a masked round, for one.

    The file that the logger wrote to before is closed: a server that greets under ever new names of runs must not use
    up the descriptors.
    """
    for earlier in [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]:
        logger.removeHandler(earlier)
        earlier.close()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = _LogFile(path)
    handler.setFormatter(_formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def has_log_file(logger: logging.Logger) -> bool:
    """Whether a logger's lines go to a file, too."""
    return any(isinstance(handler, logging.FileHandler) for handler in logger.handlers)


def announce_protection(logger: logging.Logger, config: Config) -> None:
    """Say in one line, at the start of server and clients, who can see one client's update."""
    if config.masked:
        logger.info(
            "updates are masked: the orchestrator can open sums of at least %d over one task, and no update by itself",
            config.fewest_contributors,
        )
    elif config.he_scheme == "none":
        logger.warning("ENCRYPTION IS OFF (he_scheme: none): the orchestrator sees every client's update")
    else:
        logger.warning(
            "UPDATES ARE NOT MASKED (secure_aggregation: none): the orchestrator holds the private key and could open "
            "each single update; its code opens the sum alone"
        )


def check_run_name(name: object) -> str:
    """The name of a run as it arrives over the network, fit to be a folder's name.

    Raises:
        RoundRefusedError: anything else, such as a path that leads out of `log_dir`.
    """
    if not isinstance(name, str) or not RUN_NAME.fullmatch(name):
        raise RoundRefusedError(f"the server calls its run {name!r:.80}; expected <date>-<time>-<6 hex digits>")
    return name


class _Bars:
    """One live display for the process, shown while at least one task is under way. Safe from any thread."""

    def __init__(self) -> None:
        self.enabled = False
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._tasks = 0

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        with self._lock:
            if self._progress is None:
                columns = (TextColumn("{task.description:36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                self._progress = Progress(*columns, console=console, transient=True)
                self._progress.start()
            progress = self._progress
            self._tasks += 1
        task = progress.add_task(label, total=total)
        try:
            yield lambda done: progress.advance(task, done)
        finally:
            progress.remove_task(task)
            with self._lock:
                self._tasks -= 1
                if self._tasks == 0:
                    progress.stop()
                    self._progress = None


_bars = _Bars()


@contextmanager
def track(logger: logging.Logger, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` steps; call the yielded function with the number of steps just done."""
    if _bars.enabled:
        with _bars.task(f"{logger.name}: {label}", total) as advance:
            yield advance
        return
    done, last = 0, time.monotonic()

    def advance_plain(steps: int) -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last >= _PLAIN_SECONDS:
            last = time.monotonic()
            logger.info("%s: %d of %d", label, done, total)

    yield advance_plain


@contextmanager
def wait_for(logger: logging.Logger, text: str, total: int) -> Iterator[Callable[[int], None]]:
    """As `track`, for what others do: without a bar there is one line at the beginning, and silence until the end."""
    if not _bars.enabled:
        logger.info("%s", text)
        yield lambda _: None
        return
    logger.debug("%s", text)
    if _display.is_open:  # which shows it by itself
        yield lambda _: None
        return
    with _bars.task(text, total) as advance:
        yield advance
