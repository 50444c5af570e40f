"""Run the app on Flower's simulation engine, and end what it starts: the SuperLink of `flwr run . local` stays behind.

python benchmarks/simulate.py --tenants 100 --pki logs/simulation-pki
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import free_port
from shared import cli
from shared.errors import OrchestratorError

ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 120.0
_END_SECONDS = 30.0
_LINK = "simulation"
# For each of Flower's and Ray's processes.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class SimulationError(OrchestratorError):
    """Flower's engine did not start, or the run on it came to no end."""


@contextmanager
def superlink(home: Path) -> Iterator[dict[str, str]]:
    """A SuperLink in simulation mode for as long as the context lasts; yields the environment for `flwr`.

    Raises:
        SimulationError: it does not start.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    port = free_port()
    connection = f'[superlink.{_LINK}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "{_LINK}"\n\n{connection}', encoding="utf-8")
    programs = str(Path(sys.executable).parent)
    environment = {
        **os.environ, **QUIET, "FLWR_HOME": str(home.resolve()), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "superlink.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await_health(process, port, home / "superlink.log")
        yield environment
    finally:
        process.terminate()
        try:
            process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_health(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SimulationError(f"Flower's SuperLink did not start within {_START_SECONDS:g} s; {log} says why")


def run_app(environment: dict[str, str], config: Path, tenants: int, changes: Sequence[str], workers: int) -> Path:
    """One run of the app, its lines on the screen as they come. Returns the run's folder.

    Args:
        environment: from `superlink`.
        config: the YAML file.
        tenants: simulated nodes.
        changes: of settings, `key=value`.
        workers: processes that play them.

    Raises:
        SimulationError: the run did not get to its end.
    """
    settings = f'config="{config.resolve()}" set="{",".join(changes)}" engine="simulation"'
    federation = f"num-supernodes={tenants} client-resources-num-cpus=1 init-args-num-cpus={workers}"
    command = ["flwr", "run", str(ROOT), _LINK, "--run-config", settings, "--federation-config", federation, "--stream"]
    folder = None
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "ClientAppActor" not in line:
                print(line, end="", flush=True)
            if line.startswith("everything of this run is in "):
                folder = Path(line.removeprefix("everything of this run is in ").split(";")[0].strip())
    if folder is None:
        raise SimulationError("the run did not get to its end; the lines above say why")
    return folder


def _simulate(args: argparse.Namespace) -> None:
    keys = f"client_identity={args.pki}/clients/client-{{client_id}}.key"
    changes = [f"enrolled_clients={args.pki}/enrolled.json", keys]
    start = time.perf_counter()
    with superlink(args.home) as environment:
        folder = run_app(environment, args.config, args.tenants, [*changes, *args.set], args.workers)
    seconds = time.perf_counter() - start
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [json.loads(line)["round_seconds"] for line in lines if "round_seconds" in line]
    shown = ", ".join(f"{value:.1f}" for value in rounds)
    print(f"{args.tenants} tenants on {args.workers} workers: {shown} s a round, {seconds:.0f} s in all")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Many tenants on Flower's simulation engine.")
    parser.add_argument("--config", type=Path, default=ROOT / "config/simulation.yaml")
    parser.add_argument("--tenants", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--pki", type=Path, default=Path("logs/simulation-pki"), help="folder of provision.py")
    parser.add_argument("--home", type=Path, default=Path("logs/flower"), help="Flower's files (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting in the file's place")
    args = parser.parse_args(argv)
    return cli.run(lambda: _simulate(args))


if __name__ == "__main__":
    sys.exit(main())
