"""Texts of others, made fit for a terminal, a log line and a report."""

import json
import logging
from datetime import UTC, datetime
from itertools import groupby

LONGEST = 300  # characters: of one text that came from the other side
LONGEST_ERROR = 2_000  # characters: an error may name several settings or clients
LONGEST_LINE = 8_000  # characters: of a log

_CUT = " … (cut)"


def printable(text: str, longest: int = LONGEST) -> str:
    """The text on one line, of bounded length, with nothing in it that hides, moves or reorders what a person sees.

    Control characters (a line break forges a log line, an escape sequence rewrites the screen), characters of
    direction, invisible ones, lone surrogates and what Unicode has not assigned become U+FFFD, one for each run of
    them; a run of line breaks, tabs or unusual spaces becomes one space. Twice is the same as once.

    Args:
        text: of any length; no more than some multiple of `longest` is looked at.
        longest: characters to keep; a longer text ends with a note that it was cut.
    """
    if len(text) <= longest and text.isprintable():
        return text.strip()
    runs = groupby(text[: 4 * longest], key=lambda letter: " " if letter.isspace() else letter.isprintable())
    clean = "".join(_shown("".join(run)) for run in (letters for _, letters in runs)).strip()
    if len(clean) > longest or len(text) > 4 * longest:
        clean = (clean[: longest - len(_CUT)] + _CUT).strip()
    return clean


def _shown(run: str) -> str:
    if run.isprintable():  # ordinary spaces, too
        return run
    return " " if run.isspace() else "\N{REPLACEMENT CHARACTER}"


class LineFormatter(logging.Formatter):
    """Log lines that stay one line each, whatever texts are in them; of a traceback, each line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The line without what a text of another could do to it."""
        return printable(super().formatMessage(record), LONGEST_LINE)

    def formatException(self, ei: object) -> str:  # noqa: N802 (logging's name)
        """The traceback, indented, so that no line of an error's text can pass for one of the log."""
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]  # logging's own type is private
        return "\n".join("  " + printable(line, LONGEST_LINE) for line in lines)


class JsonFormatter(LineFormatter):
    """Log lines as JSON objects, one a line: `time` (UTC, ISO 8601), `level`, `logger`, `message`, and `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """One object, on one line."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": printable(record.getMessage(), LONGEST_LINE),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)
