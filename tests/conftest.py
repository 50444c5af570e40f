"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.processes import Running


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


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """A script's main part sets its process's umask; the next test is of another process."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def nsl_kdd_folder() -> Path:
    """The real NSL-KDD files, where this machine has them."""
    from tests.processes import ROOT

    folder = Path(os.environ.get("THREAT_DATA", ROOT.parent / "shared" / "data")) / "nsl-kdd"
    if not (folder / "KDDTrain+.txt").is_file():
        pytest.skip(f"no NSL-KDD files in {folder}; set THREAT_DATA to the folder that holds nsl-kdd/")
    return folder


@pytest.fixture(scope="session")
def invictus_folder() -> Path:
    """Real CloudTrail records with an attack simulation among them, where this machine has them."""
    return _data_folder("cloudtrail-invictus")


@pytest.fixture(scope="session")
def stratus_folder() -> Path:
    """Real CloudTrail records of attack techniques, where this machine has them."""
    return _data_folder("cloudtrail-stratus")


def _data_folder(name: str) -> Path:
    from tests.processes import ROOT

    folder = Path(os.environ.get("THREAT_DATA", ROOT.parent / "shared" / "data")) / name
    if not any(folder.glob("*.json")):
        pytest.skip(f"no CloudTrail files in {folder}; set THREAT_DATA to the folder that holds {name}/")
    return folder
