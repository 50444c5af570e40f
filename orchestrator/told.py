"""Log lines that anybody on the network can cause: told at once, and no more than so many a minute."""

import logging
import threading
import time
from typing import Final

PER_MINUTE: Final = 20
_SECONDS: Final = 60.0


class Told:
    """Warnings about others.

    One text is told once a minute, and no more than `PER_MINUTE` different ones: a stranger's thousand
    connections must not fill the disk, and must not hide what else happens. What is held back is counted, and told with
    the first line of the next minute.

    Args:
        log: takes them.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._lock = log, threading.Lock()
        self._since, self._texts, self._held_back = 0.0, set[str](), 0

    def warn(self, words: str, *values: object) -> None:
        """A warning, as `logging` takes it."""
        text = words % values
        with self._lock:
            held_back = self._turn_over()
            telling = text not in self._texts and len(self._texts) < PER_MINUTE
            if telling:
                self._texts.add(text)
            else:
                self._held_back += 1
        if held_back:
            self._log.warning("%d more like the last ones in the minute before", held_back)
        if telling:
            self._log.warning("%s", text)

    def _turn_over(self) -> int:
        """At the end of a minute: how many lines were held back in it."""
        now = time.monotonic()
        if now - self._since < _SECONDS:
            return 0
        held_back, self._held_back = self._held_back, 0
        self._since, self._texts = now, set()
        return held_back
