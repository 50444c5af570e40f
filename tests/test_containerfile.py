"""deploy/Containerfile, read as a builder reads it: no builder runs where these tests do."""

import json
import re

from tests.processes import ROOT
from tests.test_wheel import COMMANDS

TEXT = (ROOT / "deploy/Containerfile").read_text(encoding="utf-8")
KNOWN = {"FROM", "WORKDIR", "RUN", "ENV", "COPY", "USER", "STOPSIGNAL", "CMD"}
PROGRAMS = {"python", "pip", "awk"}  # that the base image has


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(name: str) -> list[str]:
    return [rest for known, rest in instructions() if known == name]


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in instructions()} == KNOWN


def test_the_base_is_one_version() -> None:
    bases = {rest.partition(" AS ")[0] for rest in of("FROM")}
    assert len(bases) == 1, "what is built on one Python runs on the same"
    (base,) = bases
    assert re.fullmatch(r"docker\.io/library/python:3\.1[123]\.\d+-slim-[a-z]+", base), "a whole version, no moving tag"
    assert "cp" + "".join(base.partition("python:")[2].split(".")[:2]) == "cp311", "deploy/torch-cpu.txt is for 3.11"


def test_it_does_not_run_as_root() -> None:
    last = TEXT.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (.+)$", last, re.M)
    assert [re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user) is not None for user in users] == [True]
    assert last.index("\nUSER ") < last.index("\nCMD ")


def test_its_commands_exist() -> None:
    (command,) = of("CMD")
    program, *options = json.loads(command)
    assert program in COMMANDS
    assert options == ["--help"]
    for name in re.findall(r"\borchestrator-[a-z-]+", TEXT):
        assert name in COMMANDS, name
    for run in of("RUN"):
        for step in re.sub(r"'[^']*'", "", run).split("&&"):
            assert step.split()[0] in PROGRAMS, step


def test_it_copies_what_there_is_and_no_secret() -> None:
    ignored = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    for rest in of("COPY"):
        *sources, _ = [part for part in rest.split() if not part.startswith("--from")]
        for source in sources:
            assert source.startswith("/opt/orchestrator") or (ROOT / source).exists(), source
    # Whatever git ignores for being a key, a run or a person's data must not get into an image either.
    assert {"config/pki*", "data", "logs", ".venv", ".git", "build"} <= set(ignored)


def test_every_package_comes_by_its_hash() -> None:
    installs = [step for run in of("RUN") for step in run.split("&&") if "pip install" in step]
    assert len(installs) == 3
    assert all("--no-deps" in step for step in installs)
    assert [("--require-hashes" in step, " ." in step) for step in installs] == [
        (True, False),
        (True, False),
        (False, True),
    ]
