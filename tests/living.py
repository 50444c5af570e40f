"""Clients at work in threads of the test's own process, which end with the test."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from client.connection import Backoff, run_client
from client.flower_client import FlowerClient
from client.launch import load_identity
from client.tenant import Tenant
from shared.config import Config
from shared.data_utils import load_client_data
from shared.errors import OrchestratorError


class Stopped(BaseException):
    """The process is stopped from outside."""


class Living:
    """A tenant's client, at work in a thread.

    Attributes:
        error: why it ended; empty while it has not.
    """

    def __init__(
        self, config: Config, number: int, *, stay: bool = False, settings: Callable[[], Config] | None = None
    ) -> None:
        tenant = Tenant(config, number, load_client_data(config, number), load_identity(config, number))
        self.error = ""
        self.client = FlowerClient(tenant)
        self._stay, self._settings = stay, settings
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.thread.start()

    def _live(self) -> None:
        try:
            run_client(self.client, self._stay, self._settings)
        except Stopped:
            pass
        except OrchestratorError as error:
            self.error = str(error)


@contextlib.contextmanager
def those_who_live(monkeypatch: pytest.MonkeyPatch, pause: float) -> Iterator[Callable[..., Living]]:
    """Begins to run clients, as `Living` does, and ends them all: one that went on would meddle in the next test.

    Args:
        monkeypatch: of the test.
        pause: the longest between two of their tries, in seconds.
    """
    over, wait = threading.Event(), Backoff.seconds
    begun: list[Living] = []

    def seconds(self: Backoff, longest: float) -> float:
        if threading.current_thread() not in [living.thread for living in begun]:
            return wait(self, longest)
        if over.is_set():
            raise Stopped
        return min(wait(self, longest), pause)

    monkeypatch.setattr(Backoff, "seconds", seconds)

    def begin(
        config: Config, number: int, *, stay: bool = False, settings: Callable[[], Config] | None = None
    ) -> Living:
        begun.append(Living(config, number, stay=stay, settings=settings))
        return begun[-1]

    yield begin
    over.set()
    for living in begun:
        living.thread.join(20)
        assert not living.thread.is_alive()
