"""What the README and docs/ say, held against the code, and the two terminals as a person starts them."""

import json
import re
import shlex
import shutil
import socket
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.run_folder import RoundRecord
from shared.addresses import split_address
from shared.config import load_config
from tests.conftest import Start
from tests.processes import ROOT

README = ROOT / "README.md"
SECURITY = ROOT / "SECURITY.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md"))]
CHANGELOG = ROOT / "CHANGELOG.md"
METRICS = ROOT / "docs/metrics.md"
SERVER = "python orchestrator/run_server.py --config config/config.yaml"
CLIENTS = "python client/run_clients.py --config config/config.yaml --num_clients 3 --executor thread"

PARSERS = {  # what several scripts have in common, by what shows that a script uses it
    "from benchmarks.cloudtrail import": "benchmarks/cloudtrail.py",
    "from shared.doctor.command_line import": "shared/doctor/command_line.py",
    "add_settings(": "shared/cli.py",  # the last: the doctors' own uses it, too
    "add_follow_options(": "client/follow_options.py",
    "score_view.add_options(": "client/score_view.py",
}


def code(path: Path) -> list[str]:
    """The lines of fenced blocks, and the code spans of all other lines."""
    fenced, found = False, []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            found.append(line)
        else:
            found += re.findall(r"`([^`]+)`", line)
    assert not fenced, f"{path.name}: a fenced block has no end"
    return found


def to_be_saved(path: Path) -> set[str]:
    """Files that the document has its reader make of a block of it."""
    return set(re.findall(r"Save this as `([^`]+)`", path.read_text(encoding="utf-8")))


def commands(path: Path) -> list[str]:
    return [line for line in code(path) if line.startswith("python ")]


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_the_index_links_every_page() -> None:
    index = ROOT / "docs/README.md"
    names = re.findall(r"\]\(([^)#]+)", index.read_text(encoding="utf-8"))
    linked = {(index.parent / name).resolve() for name in names}
    assert linked == {*DOCUMENTS, SECURITY} - {index}


def test_every_make_target_exists() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make on this machine")
    named = set()
    for document in DOCUMENTS:
        for line in code(document):
            if found := re.search(r"\bmake(?: [A-Z_]+=\S+)* ([a-z_]+)", line):
                named.add(found[1])
    assert named >= {"demo", "test"}
    for target in named:
        dry_run = subprocess.run([make, "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert dry_run.returncode == 0, dry_run.stderr


def test_the_two_terminals_as_written(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # the width of the screen that the tests run on
    assert {SERVER, CLIENTS} <= set(commands(README))
    config = load_config(ROOT / "config/config.yaml")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(split_address(config.server_address))
        except OSError as error:
            pytest.skip(f"{config.server_address}, which the commands use, can't be had here: {error.strerror}")
    server, clients = (start(*shlex.split(command)[1:]) for command in (SERVER, CLIENTS))
    client_end, server_end = clients.finish(), server.finish()
    assert (server_end.code, client_end.code) == (0, 0), server_end.output + client_end.output
    folder = re.search(r"everything of this run is in (\S+); open \1/report.html", server_end.output)
    assert folder, server_end.output
    lines = (ROOT / folder[1] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [json.loads(line) for line in lines]
    assert [r["round"] for r in rounds] == list(range(1, config.num_rounds + 1))
    assert all(r["contributors"] == config.num_clients for r in rounds)
    assert rounds[-1]["roc_auc"] >= 0.95
    assert columns(code(METRICS)) == columns(server_end.output.splitlines())


def columns(lines: list[str]) -> list[str]:
    """The column names of the one table of rounds among these lines."""
    (header,) = [line for line in lines if line.startswith("┃ round")]
    return [cell.strip() for cell in header.strip("┃").split("┃")]


def test_every_python_command_has_its_script_config_and_options() -> None:
    for document in DOCUMENTS:
        for command in commands(document):
            _, script, *arguments = shlex.split(command, comments=True)
            if script == "-m":
                script = arguments.pop(0).replace(".", "/") + ".py"
            source = (ROOT / script).read_text(encoding="utf-8")
            for sign, module in PARSERS.items():
                source += (ROOT / module).read_text(encoding="utf-8") if sign in source else ""
            for argument, value in zip(arguments, [*arguments, ""][1:], strict=True):
                assert not argument.startswith("--") or f'"{argument}"' in source, f"{document.name}: {command}"
                if argument == "--config" and value not in to_be_saved(document):
                    load_config(ROOT / value)


def test_every_field_of_the_metrics_is_explained() -> None:
    section = METRICS.read_text(encoding="utf-8").split("## The fields of metrics.jsonl")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", section, re.M)
    explained = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert explained == {field.name for field in fields(RoundRecord)}


@pytest.mark.parametrize("document", [*DOCUMENTS, SECURITY, CHANGELOG], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (document.parent / name).resolve() if name else document
        assert linked.is_file(), f"{document.name} links {target}"
        if anchor:
            assert anchor in anchors(linked), f"{document.name} links {target}"
    if document == CHANGELOG:  # it may name what is there no more
        return
    places = "benchmarks|client|config|deploy|docs|orchestrator|shared|tests"
    for span in re.findall(rf"`((?:{places})/[\w./-]*)`", text):
        assert (ROOT / span).exists() or span in to_be_saved(document), f"{document.name} names {span}"


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
