"""The project as a wheel: installed without make and without a copy of its folder, by the commands it brings."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.processes import ROOT, free_port

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS: dict[str, str] = PROJECT["project"]["scripts"]
PACKAGES = [name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
OF_THE_FOLDER = {  # for the benchmarks there
    "benchmarks/requirements.txt", "benchmarks/nsl_kdd_unpacked.yaml", "benchmarks/nsl_kdd_as_csv.yaml",
}  # fmt: skip
SHARE = "share/cloud-security-orchestrator"


def clean() -> dict[str, str]:
    """The environment without the way to this folder's sources."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left here."""
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("no git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
         "--wheel-dir", str(folder), str(folder / "source")],
        env=clean(), check=True, timeout=150,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment's commands. It has the wheel, and of everything else what runs these tests."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=150)
    python = environment / "bin/python"
    own = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    # A plain folder on the path: its .pth files, and so an editable install of this project, don't count.
    (Path(own.strip()) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index",
         str(wheel)],
        env=clean(), check=True, timeout=150,
    )  # fmt: skip
    return environment / "bin"


@pytest.mark.long
def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and "__pycache__" not in name and name not in OF_THE_FOLDER:
                assert name in held, f"{name} is not in the wheel"
    data = {name.partition(f"/data/{SHARE}/")[2] for name in held if ".data/data/" in name}
    assert data == {f"config/{path.name}" for path in (ROOT / "config").glob("*.*")} | {
        path.relative_to(ROOT / "deploy").as_posix()
        for path in (ROOT / "deploy/systemd").rglob("*.*")
        if path.is_file()
    }
    assert not {name for name in held if name.startswith("tests/")}


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_tells_its_options(programs: Path, tmp_path: Path, command: str) -> None:
    end = subprocess.run(
        [programs / command, "--help"], cwd=tmp_path, env=clean(), capture_output=True, text=True, timeout=150
    )
    assert (end.returncode, end.stderr) == (0, "")
    assert end.stdout.startswith(f"usage: {command} ")


@pytest.mark.long
def test_two_terminals_in_an_empty_folder(programs: Path, tmp_path: Path) -> None:
    settings = programs.parent / SHARE / "config/config.yaml"
    common = [
        "--config", str(settings), "--set", f"server_address=127.0.0.1:{free_port()}", "--set", "num_rounds=1",
        "--set", "client_wait_timeout=120", "--set", "server_wait_timeout=120",
    ]  # fmt: skip
    started = [
        subprocess.Popen(
            [programs / command, *common, *others], cwd=tmp_path, env=clean(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for command, *others in (["orchestrator-server"], ["orchestrator-tenant", "--executor", "process"])
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=170)[0] for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    run = tmp_path / "logs/latest"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    again = subprocess.run(
        [programs / "orchestrator-server", *common, "--resume"],
        cwd=tmp_path, env=clean(), capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    where = "import orchestrator.server, client.launch; print(orchestrator.__file__, client.__file__)"
    found = subprocess.check_output([programs / "python", "-c", where], cwd=tmp_path, env=clean(), text=True)
    assert found.count(str(programs.parent)) == 2, "the sources of this folder ran, and not the wheel's"


def test_every_script_has_its_command() -> None:
    """A script that is run by hand and has no command would be missing from an installation."""
    scripts = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for layer in ("client", "orchestrator")
        for path in (ROOT / layer).glob("*.py")
        if re.search('^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.M)
    }
    assert scripts == {target.partition(":")[0] for target in COMMANDS.values()}
