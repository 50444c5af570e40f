"""What a round costs by the engine that carries it: in memory, in two terminals, and on Flower's SuperLink.

    python benchmarks/engines.py              # the machine as it is
    python benchmarks/engines.py --busy 2     # beside so many processes that do nothing but work

3 masked tenants with 200 made-up rows each, two local epochs, a model of 370 parameters, keys of 3072 bits; the engines
of one run are measured one after the other. The deployment has TLS, node keys and three agents. Prints lines of a
markdown table.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.deployments import Deployment
from benchmarks.machine import free_port
from benchmarks.pace import in_memory, in_two_terminals
from orchestrator.pki import add_node_keys, identity_settings, provision
from shared.config import Config, parse_config

CLIENTS, ROUNDS = 3, 6
_SKIPPED = 1  # the first round, in which processes start and libraries are loaded


def settings(folder: Path, evaluated: bool) -> Config:
    """Of one run, in its own folder."""
    provision(folder / "pki", CLIENTS, [])
    return parse_config(
        {
            "num_clients": CLIENTS, "he_key_length": 3072, "num_rounds": ROUNDS, "num_samples_per_client": 200,
            "local_epochs": 2, "min_fit_clients": CLIENTS, "fraction_evaluate": float(evaluated),
            "server_address": f"127.0.0.1:{free_port()}", "client_wait_timeout": 600.0, "server_wait_timeout": 600.0,
            "log_dir": str(folder), **identity_settings(folder / "pki"),
        }
    )  # fmt: skip


def on_superlink(config: Config, folder: Path) -> None:
    """One run of the app on a SuperLink with three SuperNodes and agents."""
    add_node_keys(folder / "pki")
    deployment = Deployment(config, folder)
    try:
        deployment.start_link()
        for number in range(CLIENTS):
            deployment.start_agent(number)
            deployment.register(number)
            deployment.start_node(number)
        deployment.run("run")
        deployment.wait_for("run", "everything of this run is in", seconds=3600.0)
    finally:
        deployment.close()


ENGINES = {"memory": in_memory, "two terminals": in_two_terminals, "SuperLink": on_superlink}


def round_seconds(engine: str, evaluated: bool) -> list[float]:
    """Of each round but the first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = settings(folder, evaluated)
        (folder / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
        ENGINES[engine](config, folder)
        lines = (folder / "latest" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["round_seconds"] for line in lines[_SKIPPED:]]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that take all the time they get."""
    others = [multiprocessing.Process(target=_work, daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _work() -> None:
    while True:
        pass


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="What a round costs by the engine that carries it.")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processes that take time beside the runs")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which of them (default: %(default)s)")
    args = parser.parse_args(argv)
    print("| engine | evaluation by tenants | busy processes | load average | rounds | median s a round | from – to |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with busy(args.busy):
        for engine in args.engines.split(","):
            for evaluated in (False, True):
                seconds = round_seconds(engine, evaluated)
                print(
                    f"| {engine} | {'yes' if evaluated else 'no'} | {args.busy} | {os.getloadavg()[0]:.1f} | "
                    f"{len(seconds)} | {statistics.median(seconds):.2f} | {min(seconds):.2f} – {max(seconds):.2f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
