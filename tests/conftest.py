"""Fixtures that every test may use."""

import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest

from tests.processes import Running

if TYPE_CHECKING:
    from shared.bundle import ModelBundle

# Before torch and NumPy are loaded: with a thread a core in each of pytest's processes, and in those that tests start,
# more than half of the suite's time is threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test fails because a machine is busy.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

# A shell's background job ignores Ctrl-C, and so would every process that the tests start to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """What a script that ran in a test's process did to the logs is undone: silence, and lines on the screen."""
    root = logging.getLogger()
    logs = [root, *map(logging.getLogger, ("bundle", "data", "labels", "orchestrator", "rules", "score"))]
    before = [log.level for log in logs]
    yield
    for log, level in zip(logs, before, strict=True):
        log.setLevel(level)
    for handler in list(root.handlers):
        if type(handler).__module__ == "shared.console":
            root.removeHandler(handler)


class Start(Protocol):
    """Start a script with arguments, as a process that ends with the test."""

    def __call__(self, script: str, *arguments: str) -> Running: ...


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Running] = []

    def start_one(script: str, *arguments: str) -> Running:
        started.append(Running(script, *arguments))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()


class OwnCode(Protocol):
    """Write a module of a person's own, which is then `own.<name>`; not imported before somebody does."""

    def __call__(self, name: str, source: str) -> Path: ...


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnCode]:
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str) -> Path:
        path = folder / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        return path

    yield write
    for name in [name for name in sys.modules if name == "own" or name.startswith("own.")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """A script's main part sets its process's umask; the next test is of another process."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "ModelBundle"]:
    """A folder with `flows.csv` and the bundle of a model that learned from it, which tests only read."""
    from tests.flow_tables import train_on_flows

    folder = tmp_path_factory.mktemp("run")
    return folder, train_on_flows(folder)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "ModelBundle"]:
    """A folder with `flows.log` and the bundle of a model that learned from its windows, which tests only read."""
    from tests.flow_tables import train_on_scans

    folder = tmp_path_factory.mktemp("run")
    return folder, train_on_scans(folder)


@pytest.fixture(scope="session")
def nsl_kdd_folder() -> Path:
    """The real NSL-KDD files, where this machine has them."""
    return _data_folder("nsl-kdd", "KDDTrain+.txt", "NSL-KDD files")


@pytest.fixture(scope="session")
def invictus_folder() -> Path:
    """Real CloudTrail records with an attack simulation among them, where this machine has them."""
    return _data_folder("cloudtrail-invictus")


@pytest.fixture(scope="session")
def stratus_folder() -> Path:
    """Real CloudTrail records of attack techniques, where this machine has them."""
    return _data_folder("cloudtrail-stratus")


@pytest.fixture(scope="session")
def sigma_folder() -> Path:
    """Public Sigma rules for clouds, where this machine has them."""
    return _data_folder("sigma-cloud", "rules/cloud/aws/cloudtrail/*.yml", "Sigma rules")


def _data_folder(name: str, files: str = "*.json", what: str = "CloudTrail files") -> Path:
    from tests.processes import ROOT

    folder = Path(os.environ.get("THREAT_DATA", ROOT.parent / "shared" / "data")) / name
    if not any(folder.glob(files)):
        pytest.skip(f"no {what} in {folder}; set THREAT_DATA to the folder that holds {name}/")
    return folder
