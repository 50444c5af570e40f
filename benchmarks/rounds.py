"""The whole round, encrypted and in the clear: the real server and client launcher, as a person starts them."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import free_port
from benchmarks.measuring import Passes

ROOT = Path(__file__).resolve().parent.parent
HIDDEN_UNITS = [64, 32]
PARAMETERS = sum(w * v + v for w, v in itertools.pairwise([122, *HIDDEN_UNITS, 2]))
NSL_KDD_ROWS = 125_973  # of KDDTrain+, shared out among the clients
TIMES = ("round_seconds", "train_seconds", "encrypt_seconds", "aggregate_seconds", "decrypt_seconds")
_TIMEOUT_SECONDS = 600.0
_POLL_SECONDS = 0.2

Record = dict[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class RoundCost:
    """Medians over all rounds but each run's first, of as many encrypted as plain runs, in turn.

    Attributes:
        data: where the rows came from.
        parameters: of the model, an MLP 122-64-32-2.
        rounds: timed, of each kind.
        encrypted, plain: median seconds of the round and of its parts; train and encrypt are the slowest client's.
        over_plain: encrypted round seconds / plain round seconds.
    """

    clients: int
    local_epochs: int
    data: str
    parameters: int
    rounds: int
    encrypted: dict[str, float]
    plain: dict[str, float]
    over_plain: float


def round_cost(
    clients: int, local_epochs: int, passes: Passes, rounds: int, run_seconds: float = _TIMEOUT_SECONDS
) -> RoundCost:
    """Run the same training encrypted (3072 bits) and in the clear, in turn.

    Args:
        clients: how many share NSL-KDD's rows.
        local_epochs: of each round.
        passes: how many runs of each kind.
        rounds: timed rounds of a run, after its first, which does not count.
        run_seconds: a run that takes longer is ended as soon as it has one timed round.
    """
    records: dict[str, list[Record]] = {"none": [], "paillier": []}
    for _ in passes:
        for scheme, collected in records.items():
            collected += _run(clients, local_epochs, scheme, rounds + 1, run_seconds)[1:]
    encrypted, plain = summary(records["paillier"]), summary(records["none"])
    return RoundCost(
        clients, local_epochs, data_settings(clients)["data_source"], PARAMETERS, min(map(len, records.values())),
        encrypted, plain, encrypted["round_seconds"] / plain["round_seconds"],
    )  # fmt: skip


def summary(records: Sequence[Record]) -> dict[str, float]:
    """The median of each time over the rounds."""
    return {name: statistics.median(record[name] for record in records) for name in TIMES}


def data_settings(clients: int) -> Record:
    """NSL-KDD where its files are, else as many generated rows."""
    folder = Path(os.environ.get("THREAT_DATA", ROOT.parent / "shared" / "data")) / "nsl-kdd"
    if (folder / "KDDTrain+.txt").is_file():
        return {"data_source": "nsl_kdd", "data_path": str(folder.resolve()), "partition": "even"}
    return {"data_source": "synthetic", "num_samples_per_client": NSL_KDD_ROWS // clients}


def round_settings(clients: int, local_epochs: int) -> Record:
    """The settings of config/nsl_kdd.yaml for clients who share its rows evenly; MLP 122-64-32-2, 3072 bits."""
    settings: Record = yaml.safe_load((ROOT / "config/nsl_kdd.yaml").read_text(encoding="utf-8"))
    everyone = dict.fromkeys(("num_clients", "min_available_clients"), clients)
    model = {"num_hidden_units": HIDDEN_UNITS, "he_key_length": 3072}
    return {**settings, **data_settings(clients), **everyone, "local_epochs": local_epochs, **model}


def _run(clients: int, local_epochs: int, scheme: str, num_rounds: int, run_seconds: float) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        settings = round_settings(clients, local_epochs) | {
            "num_rounds": num_rounds,
            "he_scheme": scheme,
            "client_wait_timeout": 300.0,  # a busy machine takes long to start
            "server_wait_timeout": 300.0,
            "server_address": f"127.0.0.1:{free_port()}",
            "log_dir": folder,
        }
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        with (Path(folder) / "output.txt").open("w+", encoding="utf-8") as output:
            scripts = ("orchestrator/run_server.py", "client/run_clients.py")
            started = [
                subprocess.Popen(
                    [sys.executable, script, "--config", str(config)], cwd=ROOT, stdout=output, stderr=output
                )
                for script in scripts
            ]
            try:
                codes = wait_for_run(started, Path(folder) / "latest" / "metrics.jsonl", run_seconds)
            finally:
                for process in started:
                    process.kill()
                    process.wait()  # it may be writing into the folder that is removed next
            if any(codes):
                output.seek(0)
                raise RuntimeError(f"a run with he_scheme {scheme} failed:\n{output.read()}")
        records = _finished(Path(folder) / "latest" / "metrics.jsonl")
    if any(record["contributors"] != clients for record in records):
        raise RuntimeError(f"a client was lost in a run with he_scheme {scheme}; its timings would mean nothing")
    return records


def wait_for_run(started: Sequence[subprocess.Popen[bytes]], metrics: Path, run_seconds: float) -> list[int]:
    """The exit codes; none where the time was up and the processes still run, with two rounds behind them."""
    start = time.perf_counter()
    while any(process.poll() is None for process in started):
        taken = time.perf_counter() - start
        if taken > _TIMEOUT_SECONDS:
            raise RuntimeError(f"a run of the benchmark has not ended within {_TIMEOUT_SECONDS:g} s")
        if taken > run_seconds and len(_finished(metrics)) >= 2:
            return []
        time.sleep(_POLL_SECONDS)
    return [process.returncode for process in started]


def _finished(metrics: Path) -> list[Record]:
    """The rounds whose line is complete."""
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
