"""The unit files in deploy/systemd: systemd finds no fault, they leave their processes little, and that is enough."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from shared.identity_files import IDENTITY_PASSPHRASE
from shared.key_files import PASSPHRASE_VARIABLE
from tests import sandbox
from tests.conftest import Start
from tests.federations import SHORT, masked_settings, open_in_memory
from tests.processes import ROOT, SMALL, free_port
from tests.sandbox import FOLDER
from tests.test_agent import ByAgent
from tests.test_wheel import COMMANDS

UNITS = sorted(FOLDER.glob("*.service"))
PROGRAMS = "/opt/orchestrator/bin/"
# The least exposure that what a process does allows: 0 is none, 10 all. docs/operations.md has the table.
EXPOSURE = re.compile(r"Overall exposure level for \S+: ([\d.]+)")
OPERATIONS = ROOT / "docs/operations.md"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
needs_sandbox = pytest.mark.skipif(
    not sandbox.available(), reason="not root, or no libseccomp, systemd or newer kernel"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit files as on a machine that has the commands."""
    shutil.copytree(FOLDER, tmp_path / "units")
    programs = tmp_path / "bin"
    programs.mkdir()
    for unit in (tmp_path / "units").rglob("*.*"):
        if unit.is_file():
            text = unit.read_text(encoding="utf-8")
            for name in re.findall(rf"ExecStart={PROGRAMS}(\S+)", text):
                (programs / name).write_text("#!/bin/sh\n", encoding="utf-8")
                (programs / name).chmod(0o755)
            unit.write_text(text.replace(PROGRAMS, f"{programs}/"), encoding="utf-8")
    return tmp_path / "units"


@needs_systemd
def test_systemd_finds_no_fault(installed: Path) -> None:
    units = [str(path) for path in installed.glob("*.service")]
    assert len(units) == len(UNITS) == 6
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:"}
    end = subprocess.run(
        ["systemd-analyze", "verify", *units], env=environment, capture_output=True, text=True, timeout=120
    )
    ours = [line for line in end.stderr.splitlines() if "orchestrator" in line]
    assert ours == []
    broken = installed / "orchestrator-server.service"
    broken.write_text(broken.read_text(encoding="utf-8") + "NoSuchSetting=yes\n", encoding="utf-8")
    again = subprocess.run(
        ["systemd-analyze", "verify", *units], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "NoSuchSetting" in again.stderr


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_exposure_is_what_the_page_says(unit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "etc/systemd/system"
    shutil.copytree(FOLDER, folder)
    end = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={tmp_path}", "--no-pager", unit.name],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = EXPOSURE.search(end.stdout)
    assert found, end.stdout + end.stderr
    (documented,) = re.findall(rf"^\| `{re.escape(unit.name)}` \| [^|]+ \| ([\d.]+) \|", OPERATIONS.read_text(), re.M)
    # Each systemd counts a little differently; the page's is that of 252.
    assert float(found[1]) <= float(documented) + 0.3


def test_each_unit_starts_a_command_that_there_is() -> None:
    for unit in UNITS:
        (line,) = sandbox.settings(unit)["ExecStart"]
        program, *arguments = line.split()
        name = program.removeprefix(PROGRAMS)
        if name in COMMANDS:
            script = ROOT / (COMMANDS[name].partition(":")[0].replace(".", "/") + ".py")
            source = script.read_text(encoding="utf-8") + (ROOT / "shared/cli.py").read_text(encoding="utf-8")
        else:
            source = subprocess.run(
                [Path(sys.executable).with_name(name), "--help"], capture_output=True, text=True
            ).stdout
        for option in [argument for argument in arguments if argument.startswith("--")]:
            assert option in source, f"{unit.name}: {name} has no {option}"


def test_no_two_sides_share_a_user() -> None:
    """The node runs the operator's code: as the agent's user it could read the rows."""
    users = {unit.name.removesuffix(".service"): sandbox.settings(unit)["User"][0] for unit in UNITS}
    assert len({users[f"orchestrator-{name}"] for name in ("server", "tenant@", "supernode@")}) == 3
    assert "root" not in users.values()
    agent = sandbox.settings(FOLDER / "orchestrator-tenant@.service")
    assert agent["RestrictAddressFamilies"] == ["AF_UNIX"], "whoever has the rows has no network"
    assert agent["PrivateNetwork"] == ["yes"]
    staying = sandbox.settings(FOLDER / "orchestrator-stay@.service")
    assert staying["User"] == agent["User"], "whose ledger and keys they are"
    assert staying["StateDirectory"] == agent["StateDirectory"]
    assert staying["SocketBindDeny"] == ["any"]


@pytest.fixture
def running() -> Iterator[list["subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def under(unit: str, folders: list[Path], *command: object, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*sandbox.inside(FOLDER / unit, folders), sys.executable, *map(str, command)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


NOTE = "run.env"


def of_unit(name: str, setting: str, own: Path, settings: Path) -> list[str]:
    """What a unit would run, with this folder for its state, and these settings."""
    (line,) = sandbox.settings(FOLDER / name)[setting]
    line = line.replace("/var/lib/orchestrator", str(own)).replace("/etc/orchestrator/secure.yaml", str(settings))
    return line.replace(f"{PROGRAMS}orchestrator-server", "orchestrator/run_server.py").split()


def served(own: Path, settings: Path) -> list[str]:
    """How a run is begun, after what is done before."""
    subprocess.run(of_unit("orchestrator-server.service", "ExecStartPre", own, settings), check=True)
    return of_unit("orchestrator-server.service", "ExecStart", own, settings)


def resumed_by(own: Path, settings: Path) -> list[str]:
    """How it is gone on with; empty: it is not, as the unit's condition does not hold."""
    unit = FOLDER / "orchestrator-resume.service"
    (condition,) = re.findall(r"^ConditionPathExists=(.+)$", unit.read_text(encoding="utf-8"), re.M)
    (environment,) = [path for path in sandbox.settings(unit)["EnvironmentFile"] if not path.startswith("-")]
    assert condition == environment == f"/var/lib/orchestrator/{NOTE}"
    if not (own / NOTE).exists():
        return []
    name, _, run = (own / NOTE).read_text(encoding="utf-8").strip().partition("=")
    return [part.replace(f"${{{name}}}", run) for part in of_unit(unit.name, "ExecStart", own, settings)]


@pytest.mark.long
def test_the_run_that_died_is_gone_on_with_and_no_older_one(start: Start, tmp_path: Path) -> None:
    """A mistyped start failed, and the newest run of before was resumed in its place."""
    settings = tmp_path / "settings.yaml"
    values = {**SMALL, "num_rounds": 1, "server_address": f"127.0.0.1:{free_port()}", "log_dir": str(tmp_path / "logs")}

    def begin_and_die() -> Path:
        settings.write_text(yaml.safe_dump(values), encoding="utf-8")
        server = start(*served(tmp_path, settings))
        server.wait_for_line("listening on")
        server.kill()
        server.finish()
        return (tmp_path / "logs/latest").resolve()

    older = begin_and_die()
    assert resumed_by(tmp_path, settings)[-3:] == ["--resume", "--run", older.name]
    settings.write_text(yaml.safe_dump({**values, "num_ronuds": 1}), encoding="utf-8")
    end = start(*served(tmp_path, settings)).finish()
    assert (end.code, resumed_by(tmp_path, settings)) == (2, []), end.output
    with socket.create_server(("127.0.0.1", int(values["server_address"].rpartition(":")[2]))):
        settings.write_text(yaml.safe_dump(values), encoding="utf-8")
        end = start(*served(tmp_path, settings)).finish()
        assert (end.code, resumed_by(tmp_path, settings)) == (1, []), "settings are right, and there is no run"
    newer = begin_and_die()
    resumed = start(*resumed_by(tmp_path, settings))
    tenants = start("client/run_clients.py", "--config", str(settings))
    ends = tenants.finish(), resumed.finish()
    assert [end.code for end in ends] == [0, 0], "\n".join(end.output for end in ends)
    assert [len((run / "metrics.jsonl").read_text().splitlines()) for run in (older, newer)] == [0, 1]


def test_a_start_beside_a_run_that_is_gone_on_with_is_passed_over() -> None:
    """It would take away the name by which that run is gone on with after its next end."""
    (condition,) = sandbox.settings(FOLDER / "orchestrator-server.service")["ExecCondition"]
    assert condition.endswith("is-active orchestrator-resume.service'")
    for status, passes in ((0, False), (3, True)):  # of systemctl: it is active; it is not
        script = shlex.split(condition)[-1].replace("systemctl", f"(exit {status}) #")
        assert (subprocess.run(["/bin/sh", "-c", script]).returncode == 0) is passes


@pytest.mark.long
@needs_sandbox
def test_agents_train_and_mask_under_their_unit(running: list["subprocess.Popen[str]"], tmp_path: Path) -> None:
    config = masked_settings(tmp_path, 3, **SHORT)
    sockets = {}
    for number in range(3):
        own = tmp_path / f"tenant-{number}"
        own.mkdir()
        path = own / "settings.yaml"
        path.write_text(config.replace(log_dir=str(own / "logs")).as_yaml(), encoding="utf-8")
        sockets[str(number)] = ByAgent(own / "agent.sock")
        running.append(
            under(
                "orchestrator-tenant@.service", [own], "client/run_clients.py", "--config", path,
                "--client_ids", number, "--agent", "--socket", own / "agent.sock", "--socket_group", "root",
            )
        )  # fmt: skip
    end = time.monotonic() + 120
    while not all(by.path.exists() for by in sockets.values()):
        assert time.monotonic() < end
        assert all(process.poll() is None for process in running), [p.communicate() for p in running]
        time.sleep(0.1)
    run = open_in_memory(config, sockets)
    run.coordinator.run()
    run.close()
    assert [record.contributors for record in run.coordinator.records] == [3, 3]
    for process in running:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130, "SuccessExitStatus of the unit"


@pytest.mark.long
@needs_sandbox
def test_a_server_serves_and_is_resumed_under_its_unit(running: list["subprocess.Popen[str]"], tmp_path: Path) -> None:
    own = tmp_path / "server"
    own.mkdir()
    settings = tmp_path / "settings.yaml"
    values = {**SMALL, "server_address": f"127.0.0.1:{free_port()}", "log_dir": str(own / "logs")}
    settings.write_text(yaml.safe_dump(values), encoding="utf-8")
    server = under("orchestrator-server.service", [own], *served(own, settings))
    elsewhere = tmp_path / "tenants"
    elsewhere.mkdir()
    tenants = under(
        "orchestrator-stay@.service", [elsewhere], "client/run_clients.py", "--config", settings, "--stay",
        "--set", f"log_dir={elsewhere / 'logs'}",
    )  # fmt: skip
    running += [server, tenants]
    said, _ = server.communicate(timeout=170)
    assert server.returncode == 0, said
    assert (own / "logs/latest/report.html").is_file()
    resumed = under("orchestrator-resume.service", [own], *resumed_by(own, settings))
    running.append(resumed)
    assert resumed.communicate(timeout=170)[0].count("error") == 0
    assert resumed.returncode == 0
    assert tenants.poll() is None, "they wait for the next run"
    tenants.send_signal(signal.SIGINT)
    tenants.communicate(timeout=60)
    assert tenants.returncode == 130, "SuccessExitStatus of the unit"


@pytest.mark.long
@needs_sandbox
@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("orchestrator-tenant@.service", "import socket; socket.create_connection(('127.0.0.1', 80))"),
        ("orchestrator-tenant@.service", "import socket; socket.socket(socket.AF_INET)"),
        ("orchestrator-supernode@.service", "import socket; socket.socket(socket.AF_NETLINK)"),
        ("orchestrator-supernode@.service", "open('/etc/planted', 'w')"),
        ("orchestrator-server.service", "import os; os.chroot('/')"),
        ("orchestrator-server.service", "import mmap; mmap.mmap(-1, 4096, prot=7)"),
    ],
)
def test_what_a_unit_takes_is_gone(unit: str, source: str, tmp_path: Path) -> None:
    taken = under(unit, [tmp_path], "-c", f"{source}\nprint('had it')")
    said, _ = taken.communicate(timeout=60)
    assert taken.returncode == 1, said
    assert re.search(r"PermissionError|Read-only file system|Operation not permitted", said), said


def test_each_way_to_run_names_its_own_units_and_no_other() -> None:
    """A tenant that stays speaks with the server, and a SuperNode with the SuperLink alone."""
    rows = re.findall(r"^\| ([^|]+) \| (`[^|]+`) \| (`[^|]+`) \|$", OPERATIONS.read_text(encoding="utf-8"), re.M)
    ways = {way: re.findall(r"`(orchestrator-[a-z]+@?)`", f"{server} {tenant}") for way, server, tenant in rows}
    named = [name for names in ways.values() for name in names]
    assert sorted(named) == sorted(unit.name.removesuffix(".service") for unit in UNITS), "each once"
    for names in ways.values():
        run = "".join(sandbox.settings(FOLDER / f"{name}.service")["ExecStart"][0] for name in names)
        assert ("orchestrator-server" in run) == ("--stay" in run) != ("flower-superlink" in run)
        assert ("flower-superlink" in run) == ("--agent" in run) == ("flower-supernode" in run)


def test_the_environment_files_of_the_units_are_explained() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    for unit in UNITS:
        for path in sandbox.settings(unit).get("EnvironmentFile", []):
            assert path.lstrip("-") in text
    assert {PASSPHRASE_VARIABLE, IDENTITY_PASSPHRASE, "SUPERLINK"} <= set(re.findall(r"[A-Z_]{6,}", text))
