"""docs/operations.md and SECURITY.md: their commands run, their tables agree with the code."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from client.tenant import Tenant
from orchestrator.keys import new_key
from orchestrator.pki import provision
from shared.config import Config, parse_config
from shared.data_utils import load_client_data
from shared.errors import KeyMaterialError, OrchestratorError, ResumeError
from shared.identity import ClientIdentity
from tests.federations import open_in_memory
from tests.processes import ROOT
from tests.test_readme import code
from tests.test_wheel import COMMANDS, PROJECT

PAGE = ROOT / "docs/operations.md"
TEXT = PAGE.read_text(encoding="utf-8")
LAYERS = ("client", "orchestrator", "shared")
SERVER_ARCHIVE, TENANT_ARCHIVE = "/srv/backup/server.tgz", "/srv/backup/tenant-2.tgz"


def constant(path: str, name: str) -> object:
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def test_each_form_has_the_number_that_the_page_says() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w[\w/]+\.py)` `(\w+)` \| (\w+) \|", TEXT, re.M)
    assert len(rows) == 8
    for path, name, number in rows:
        value = constant(path, name)
        assert (value.decode() if isinstance(value, bytes) else str(value)) == number, f"{path} {name}"


def test_no_numbered_form_is_missing() -> None:
    """A module that numbers what it writes has a constant for it, which the table of upgrades must name."""
    named = set(re.findall(r"^\| [^|]+ \| `(\w[\w/]+\.py)` `(\w+)` \|", TEXT, re.M))
    found = set()
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            for name in re.findall(
                r"^(\w*(?:FORMAT|VERSION))(?:: Final)? = \d+\b", path.read_text(encoding="utf-8"), re.M
            ):
                found.add((path.relative_to(ROOT).as_posix(), name))
    # Part of the header of an update, which has a number of its own.
    assert found - {("shared/he/keys.py", "KEY_VERSION")} == named - {("shared/masking/codec.py", "MAGIC")}


def test_the_time_outs_are_those_of_the_code() -> None:
    defaults = dict(re.findall(r"^\| `(\w+_(?:timeout))` \| (\d+) \|", TEXT, re.M))
    fields = {name: field for name, field in Config.model_fields.items() if name.endswith("timeout")}
    assert {name: float(value) for name, value in defaults.items()} == {n: f.default for n, f in fields.items()}
    for seconds, name, path in re.findall(r"^\| (\d+) \| .+\(`(\w+)` in `([\w/.]+)`\) \|", TEXT, re.M):
        assert constant(path, name) == float(seconds), name


def test_the_commands_are_those_of_the_installation() -> None:
    rows = dict(re.findall(r"^\| `(orchestrator-[a-z-]+)` \| `([\w/]+\.py)` \|", TEXT, re.M))
    assert rows == {name: target.partition(":")[0].replace(".", "/") + ".py" for name, target in COMMANDS.items()}
    units = {path.name for path in (ROOT / "deploy/systemd").iterdir()}
    for line in code(PAGE):
        for name in re.findall(r"(?<![\w/.-])orchestrator-[a-z-]+(?![\w.@*-])", line):
            assert (
                name in COMMANDS
                or f"{name}.service" in units
                or f"{name}@.service" in units
                or name == "orchestrator-node"
            )
    for name in re.findall(r"`(deploy/[\w./-]+)`", TEXT):
        assert (ROOT / name).exists(), name


def test_the_lines_that_point_at_a_fault_are_said_by_the_code() -> None:
    tree = TEXT.partition("## Find the fault\n")[2].partition("\n## ")[0]
    source = "".join(path.read_text(encoding="utf-8") for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
    said = re.findall(r'"([a-z][^"]+)"', tree)
    assert len(said) >= 7
    for words in said:
        assert words in source, words


def test_the_version_that_is_supported_is_there() -> None:
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert re.search(r"^## How to report$", policy, re.M)
    assert re.search(r"^## What is in scope$", policy, re.M)
    assert re.search(r"^## Supported versions$", policy, re.M)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{PROJECT['project']['version']}]" in changes


# --- Back up, and restore in another place


def place(root: Path) -> dict[str, Path]:
    return {
        "server": root / "var/lib/orchestrator/logs",
        "pki": root / "etc/orchestrator/pki",
        "keys": root / "etc/orchestrator-tenant/clients",
        "tenants": root / "var/lib",
    }


def settings(root: Path, rounds: int) -> Config:
    at = place(root)
    return parse_config(
        {
            "num_rounds": rounds, "num_features": 4, "num_hidden_units": 3, "num_samples_per_client": 60,
            "local_epochs": 1, "he_key_length": 512, "allow_insecure_key": True, "log_dir": str(at["server"]),
            "he_key_file": str(at["pki"] / "paillier.json"), "enrolled_clients": str(at["pki"] / "enrolled.json"),
            "client_identity": str(at["keys"] / "client-{client_id}.key"),
        }
    )  # fmt: skip


def tenants(config: Config, root: Path) -> dict[str, Tenant]:
    """Each with a state of its own, as on a machine of its own."""
    made = {}
    for number in range(3):
        log_dir = place(root)["tenants"] / f"orchestrator-tenant-{number}/logs"
        own = config.replace(log_dir=str(log_dir))
        identity = ClientIdentity.load(config.client_identity.replace("{client_id}", str(number)), f"client-{number}")
        made[str(number)] = Tenant(own, number, load_client_data(own, number), identity)
    return made


def serve(root: Path, rounds: int, resume: str | None = None) -> dict[str, bytes]:
    config = settings(root, rounds)
    own = tenants(config, root)
    try:
        run = open_in_memory(config, own, resume=resume)
        try:
            run.coordinator.run()
            return {name: array.tobytes() for name, array in run.coordinator.model.named.items()}
        finally:
            run.close()
    finally:
        for tenant in own.values():
            tenant.close()


def begin(root: Path) -> None:
    at = place(root)
    provision(at["pki"], 3, [])
    at["keys"].parent.mkdir()
    (at["pki"] / "clients").rename(at["keys"])
    new_key(at["pki"] / "paillier.json", 512, None)


def follow(root: Path, backup: Path, action: str) -> None:
    """Run the page's commands that make or unpack archives, with this place for / and this folder for /srv/backup."""
    commands = [line for line in code(PAGE) if line.startswith(f"tar --{action} ")]
    assert [re.findall(r"--file (\S+)", command) for command in commands] == [[SERVER_ARCHIVE], [TENANT_ARCHIVE]]
    for command in commands:
        for number in range(3) if TENANT_ARCHIVE in command else (2,):
            # All tenants' keys are in one folder here, so each archive has them all.
            here = command.replace("tenant-2", f"tenant-{number}").replace("/srv/backup", str(backup))
            here = here.replace("--directory / ", f"--directory {root} ").removesuffix("--directory /")
            here = here if str(root) in here else f"{here} --directory {root}"
            subprocess.run(here, shell=True, check=True, timeout=60)


def test_a_run_goes_on_in_another_place_from_its_backup(tmp_path: Path) -> None:
    before, after, undisturbed, backup = (tmp_path / name for name in ("before", "after", "undisturbed", "backup"))
    for folder in (before, after, undisturbed, backup):
        folder.mkdir()
    for root in (before, undisturbed):
        begin(root)
    serve(before, 1)
    follow(before, backup, "create")
    ledgers = {path.name: path.read_bytes() for path in before.rglob("state/client-*.jsonl")}
    assert len(ledgers) == 3
    shutil.rmtree(before)
    follow(after, backup, "extract")
    assert {path.name: path.read_bytes() for path in after.rglob("state/client-*.jsonl")} == ledgers
    assert serve(after, 3, resume="latest") == serve(undisturbed, 3)


@pytest.mark.parametrize(
    ("missing", "error", "words"),
    [
        ("var/lib/orchestrator/logs", ResumeError, "no run to resume"),
        ("etc/orchestrator/pki/paillier.json", KeyMaterialError, r"paillier\.json"),
    ],
)
def test_a_backup_that_lacks_something_is_no_silent_new_start(
    tmp_path: Path, missing: str, error: type[OrchestratorError], words: str
) -> None:
    begin(tmp_path)
    serve(tmp_path, 1)
    (tmp_path / missing).rename(tmp_path / "lost")
    with pytest.raises(error, match=words):
        serve(tmp_path, 2, resume="latest")
