"""The whole round, encrypted and in the clear: the real server and client launcher, as a person starts them."""

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measuring import Passes

ROOT = Path(__file__).resolve().parent.parent
HIDDEN_UNITS = [64, 32]
PARAMETERS = sum(w * v + v for w, v in itertools.pairwise([122, *HIDDEN_UNITS, 2]))
NSL_KDD_ROWS = 125_973  # of KDDTrain+, shared out among the clients
TIMES = ("round_seconds", "train_seconds", "encrypt_seconds", "aggregate_seconds", "decrypt_seconds")
_TIMEOUT_SECONDS = 600.0

Record = dict[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class RoundCost:
    """Medians over the rounds of as many encrypted as plain runs, in turn.

    Attributes:
        data: where the rows came from.
        parameters: of the model, an MLP 122-64-32-2.
        rounds: timed, of each kind.
        left_out: a run's first rounds that do not count, since they load and tabulate what the later ones have.
        encrypted, plain: median seconds of the round and of its parts; train and encrypt are the slowest client's.
        over_plain: encrypted round seconds / plain round seconds.
    """

    clients: int
    local_epochs: int
    data: str
    parameters: int
    rounds: int
    left_out: int
    encrypted: dict[str, float]
    plain: dict[str, float]
    over_plain: float


def round_cost(clients: int, local_epochs: int, passes: Passes, rounds: int, left_out: int = 1) -> RoundCost:
    """Run the same training encrypted (3072 bits) and in the clear, in turn, `rounds` timed rounds a run."""
    records: dict[str, list[Record]] = {"none": [], "paillier": []}
    for _ in passes:
        for scheme, collected in records.items():
            collected += _run(clients, local_epochs, scheme, left_out + rounds)[left_out:]
    encrypted, plain = summary(records["paillier"]), summary(records["none"])
    return RoundCost(
        clients, local_epochs, data_settings(clients)["data_source"], PARAMETERS, len(records["none"]), left_out,
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


def _run(clients: int, local_epochs: int, scheme: str, num_rounds: int) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        settings = round_settings(clients, local_epochs) | {
            "num_rounds": num_rounds,
            "he_scheme": scheme,
            "client_wait_timeout": 300.0,  # a busy machine takes long to start
            "server_wait_timeout": 300.0,
            "server_address": f"127.0.0.1:{_free_port()}",
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
                codes = [process.wait(timeout=_TIMEOUT_SECONDS) for process in started]
            finally:
                for process in started:
                    process.kill()
            if any(codes):
                output.seek(0)
                raise RuntimeError(f"a run with he_scheme {scheme} failed:\n{output.read()}")
        text = (Path(folder) / "latest" / "metrics.jsonl").read_text(encoding="utf-8")
    records: list[Record] = [json.loads(line) for line in text.splitlines()]
    if any(record["contributors"] != clients for record in records):
        raise RuntimeError(f"a client was lost in a run with he_scheme {scheme}; its timings would mean nothing")
    return records


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
