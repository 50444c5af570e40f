"""requirements.lock: every package that comes with this project, by one version and its hashes."""

import re
import subprocess
import tomllib
from collections import defaultdict
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.processes import ROOT

TEXT = (ROOT / "requirements.lock").read_text(encoding="utf-8")
ENTRIES = re.split(r"\n(?=\S)", TEXT.replace(" \\\n    --hash", " --hash").strip())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ON_GPUS = re.compile(r"(torch|triton|nvidia-|cuda-)")  # what the CPU build of PyTorch does without
WITHOUT_GPUS = """awk '/^[a-z]/ {keep = !/^(torch|triton|nvidia-|cuda-)/} keep' requirements.lock"""


def locked(entries: list[str]) -> dict[str, list[Requirement]]:
    """The packages by name; a package may have another version for another Python."""
    found: dict[str, list[Requirement]] = defaultdict(list)
    for entry in entries:
        if not entry.startswith("#"):
            requirement = Requirement(entry.partition(" --hash")[0])
            found[canonicalize_name(requirement.name)].append(requirement)
    return dict(found)


LOCKED = locked(ENTRIES)


def version_of(requirement: Requirement) -> str:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return pin.version


def test_each_entry_is_one_version_with_hashes() -> None:
    for entry in [entry for entry in ENTRIES if not entry.startswith("#")]:
        name, *hashes = entry.split(" --hash=")
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*( ; .+)?", name), name
        assert hashes, name
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in hashes), name
    assert not re.search(r"^\s*-(?!-hash)|://|@", TEXT, re.M), (
        "an index, a path or an address decides what is installed"
    )


def test_every_requirement_is_in_it() -> None:
    wanted = [line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if "==" in line]
    assert len(wanted) > 15
    for line in wanted:
        requirement = Requirement(line)
        assert [version_of(r) for r in LOCKED[canonicalize_name(requirement.name)]] == [version_of(requirement)], line
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        for pinned in LOCKED[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version_of(pinned)), f"pyproject.toml wants {text}"


def test_what_the_packages_need_is_in_it_too() -> None:
    """With --require-hashes pip refuses whatever is not: a lock that lacks one can't be installed."""
    here = [name for name in LOCKED if not ON_GPUS.match(name) and not name.startswith("colorama")]
    for name in here:
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in LOCKED, f"{name} needs {text}: make lock"
                for pinned in LOCKED[canonicalize_name(needed.name)]:
                    if pinned.marker is None or pinned.marker.evaluate():
                        assert needed.specifier.contains(version_of(pinned), prereleases=True), f"{name} needs {text}"


def test_it_is_what_these_tests_run_on() -> None:
    differ = []
    for name, entries in LOCKED.items():
        for pinned in [entry for entry in entries if entry.marker is None or entry.marker.evaluate()]:
            try:
                found = metadata.version(name)
            except metadata.PackageNotFoundError:
                assert ON_GPUS.match(name), f"{name} is in requirements.lock, and not installed"
                continue
            if Version(found).public != version_of(pinned):
                differ.append(f"{name} {found}, locked {version_of(pinned)}")
    if differ:
        pytest.skip(
            f"another environment than that of requirements.txt: {', '.join(differ)}; pip install -r it, or make lock"
        )


def test_the_way_without_gpus_leaves_the_rest_whole() -> None:
    assert WITHOUT_GPUS in (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert WITHOUT_GPUS in (ROOT / "deploy/Containerfile").read_text(encoding="utf-8")
    text = subprocess.run(WITHOUT_GPUS, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept = re.split(r"\n(?=\S)", text.replace(" \\\n    --hash", " --hash").strip())
    assert kept == [entry for entry in ENTRIES if not entry.startswith("#") and not ON_GPUS.match(entry)]
    (line,) = [
        line for line in (ROOT / "deploy/torch-cpu.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"
    ]
    build = re.fullmatch(r"torch==(\S+)\+cpu --hash=sha256:[0-9a-f]{64}", line)
    assert build
    assert build[1] == version_of(LOCKED["torch"][0])
