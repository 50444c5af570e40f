"""The newer Pythons that `requires-python` allows: the same model to the last bit, and nothing that they took away."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

NEWER = ("3.12", "3.13")
# What 3.12 and 3.13 have no more (docs.python.org/3/whatsnew): asyncore to smtpd, then PEP 594.
REMOVED = {
    "asynchat", "asyncore", "distutils", "imp", "smtpd", "aifc", "audioop", "cgi", "cgitb", "chunk", "crypt",
    "imghdr", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau",
    "telnetlib", "uu", "xdrlib", "lib2to3",
}  # fmt: skip
FEDERATION = """
import hashlib, sys
from pathlib import Path
from orchestrator.pki import provision
from orchestrator.simulation import simulate
from shared.config import load_config

folder = Path(sys.argv[1])
provision(folder / "pki", 3, [])
config = load_config("config/config.yaml").replace(
    log_dir=str(folder / "logs"), num_rounds=2, he_key_length=2048,
    enrolled_clients=str(folder / "pki/enrolled.json"),
    client_identity=str(folder / "pki/clients/client-{client_id}.key"),
)
run = simulate(config)
assert config.masked and run.report
print(hashlib.sha256((run.folder / "model.safetensors").read_bytes()).hexdigest())
"""


def interpreter(version: str) -> str:
    """A Python of this version that has the packages: named in the environment as PYTHON_3_13, or on the path."""
    name = f"PYTHON_{version.replace('.', '_')}"
    found = os.environ.get(name) or shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"no Python {version} here; name one that has the packages with {name}")
    probe = [found, "-c", "import sys, torch, flwr, gmpy2; print('%d.%d' % sys.version_info[:2])"]
    end = subprocess.run(probe, capture_output=True, text=True, timeout=120)
    if end.stdout.strip() != version:
        pytest.skip(f"{found} lacks the packages of this project, or is no Python {version}")
    return found


def model_made_by(python: str, folder: Path) -> str:
    """SHA-256 of the model of a masked federation."""
    end = subprocess.run(
        [python, "-c", FEDERATION, str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert end.returncode == 0, end.stderr
    return end.stdout.split()[-1]


@pytest.mark.parametrize("version", NEWER)
def test_a_newer_python_makes_the_same_model(version: str, tmp_path: Path) -> None:
    newer = interpreter(version)
    assert model_made_by(newer, tmp_path / "newer") == model_made_by(sys.executable, tmp_path / "this")


@pytest.mark.parametrize("folder", ["benchmarks", "client", "orchestrator", "shared", "tests"])
def test_nothing_is_imported_that_a_newer_python_lacks(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.partition(".")[0] for name in names} & REMOVED, f"{path}:{node}"
