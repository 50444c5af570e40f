"""What a person is told once in a process, however often the files that it is about are read."""

import logging
from functools import lru_cache

_log = logging.getLogger("data")


@lru_cache(maxsize=1024)  # of a folder of many odd files something is told again, and memory stays small
def tell_once(text: str, level: int = logging.WARNING) -> None:
    """A line of the log, once for each text.

    Args:
        text: the line.
        level: of `logging`.
    """
    _log.log(level, "%s", text)
