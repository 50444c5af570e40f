"""How many masked rounds a second: tiny ones, in which next to nothing is trained, as private SGD and trees need."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.machine import free_port
from benchmarks.rounds import ROOT
from orchestrator.pki import identity_settings, provision
from orchestrator.run import open_run
from orchestrator.simulation import make_tenants
from orchestrator.transport import MemoryTransport
from shared.config import Config, parse_config

CLIENTS = 3
PARTS = ("fit", "aggregate", "decrypt", "evaluate", "rest")
_SKIPPED = 3  # rounds at the start, in which libraries are loaded and tables made
_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Pace:
    """Medians over rounds of 3 masked tenants with 20 rows each; 3072 bits, a model of 23 parameters.

    Attributes:
        transport: `memory`: function calls, in one process; `legacy`: the two terminals.
        scheme: `he_scheme`.
        rounds: that were timed.
        round_seconds: of a whole round, its scoring and its checkpoint included.
        parts: seconds of `fit` (from the request for the vectors to the last), `aggregate`, `decrypt`, `evaluate`
            (the orchestrator's scoring), and the `rest`, which is the four stages of masking and the checkpoint.
    """

    transport: str
    scheme: str
    rounds: int
    round_seconds: float
    parts: dict[str, float]


def pace(transport: str, scheme: str, rounds: int = 30, key_bits: int = 3072) -> Pace:
    """Run so many rounds, the first few of which don't count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provision(folder / "pki", CLIENTS, [])
        config = parse_config(
            {
                "num_clients": CLIENTS, "min_fit_clients": CLIENTS, "num_features": 4, "num_hidden_units": 3,
                "num_samples_per_client": 20, "local_epochs": 1, "num_rounds": rounds + _SKIPPED,
                "fraction_evaluate": 0.0, "he_scheme": scheme, "he_key_length": key_bits, "allow_insecure_key": True,
                "log_dir": name, **identity_settings(folder / "pki"),
                "server_address": f"127.0.0.1:{free_port()}", "client_wait_timeout": 300.0,
            }
        )  # fmt: skip
        (folder / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
        _RUNS[transport](config, folder)
        lines = (folder / "latest" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[_SKIPPED:]
        records = [json.loads(line) for line in lines]
        parts = {part: statistics.median(r[f"{part}_seconds"] for r in records) for part in PARTS[:-1]}
        whole = statistics.median(r["round_seconds"] for r in records)
        return Pace(transport, scheme, len(records), whole, {**parts, "rest": whole - sum(parts.values())})


def in_memory(config: Config, _folder: Path) -> None:
    """Run it by function calls, in this process."""
    tenants = make_tenants(config)
    run = open_run(config, lambda seats: MemoryTransport(seats, tenants))
    run.transport.connect()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the launcher of the tenants does
    try:
        run.coordinator.run()
    finally:
        torch.set_num_threads(threads)
    run.close()
    for tenant in tenants.values():
        tenant.close()


def in_two_terminals(_config: Config, folder: Path) -> None:
    """Run the two scripts with `config.yaml` of the folder."""
    scripts = ("orchestrator/run_server.py", "client/run_clients.py")
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        commands = [[sys.executable, script, "--config", str(folder / "config.yaml")] for script in scripts]
        started = [subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) for command in commands]
        try:
            codes: Sequence[int] = [process.wait(_TIMEOUT_SECONDS) for process in started]
        finally:
            for process in started:
                process.kill()
    if any(codes):
        raise RuntimeError((folder / "output.txt").read_text(encoding="utf-8"))


_RUNS: dict[str, Callable[[Config, Path], None]] = {"memory": in_memory, "legacy": in_two_terminals}
