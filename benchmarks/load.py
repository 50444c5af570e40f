"""Many clients on one machine: is every one accounted for, how long does a round take, how much memory is needed?

    python benchmarks/load.py                                 # 100 clients, 5 rounds, 2048 bits
    python benchmarks/load.py --clients 20 --rounds 2 --key_bits 3072
    python benchmarks/load.py --masked                        # enrolled clients, masked updates, TLS
    python benchmarks/load.py --mtls                          # the same, with and without client certificates, in turn

Two real processes, as in a person's two terminals: the server, and a launcher that runs the clients as threads. Writes
`load.json` and `load.md` below `--out` and exits with 1 unless every client contributed to every round.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml

from benchmarks.machine import free_port
from orchestrator.pki import provision

ROOT = Path(__file__).resolve().parent.parent
_POLL_SECONDS = 0.2


def settings(args: argparse.Namespace, folder: Path, *, masked: bool, mutual: bool) -> dict[str, Any]:
    """A run for so many clients; what is not named keeps its default.

    Args:
        args: of the command line.
        folder: with the identities in `pki`, where they are needed.
        masked: enrolled clients, masked updates, TLS.
        mutual: each client with a TLS certificate.
    """
    pki = folder / "pki"
    protected = {
        "secure_aggregation": "masked",
        "enrolled_clients": str(pki / "enrolled.json"),
        "client_identity": str(pki / "clients" / "client-{client_id}.key"),
        "tls_ca": str(pki / "ca.pem"),
        "tls_certificate": str(pki / "server.pem"),
        "tls_key": str(pki / "server.key"),
    }
    certified = {
        "tls_client_certificate": str(pki / "clients" / "client-{client_id}.tls.pem"),
        "tls_client_key": str(pki / "clients" / "client-{client_id}.tls.key"),
    }
    return {
        "server_address": f"127.0.0.1:{free_port()}",
        "num_clients": args.clients,
        "min_available_clients": args.clients,
        "num_rounds": args.rounds,
        "num_samples_per_client": 200,
        "he_key_length": args.key_bits,
        # One machine does the work of them all, so each of them takes long.
        "client_wait_timeout": 600.0,
        "server_wait_timeout": 600.0,
        "round_timeout": 600.0,
        "stage_timeout": 600.0,
        "log_dir": str(folder / "logs"),
        **(protected if masked else {}),
        **(certified if mutual else {}),
    }


def run(config: Path, limit_seconds: float) -> dict[str, Any]:
    """Start both scripts and watch them to their end.

    Returns:
        Exit codes, wall-clock seconds, CPU seconds and peak resident memory in bytes of each.
    """
    commands = {"server": ["orchestrator/run_server.py"], "launcher": ["client/run_clients.py", "--executor", "thread"]}
    start = time.perf_counter()
    processes = {
        name: psutil.Popen([sys.executable, *command, "--config", str(config)], cwd=ROOT)
        for name, command in commands.items()
    }
    figures: dict[str, dict[str, float]] = {
        name: {"peak_rss_bytes": 0, "cpu_seconds": 0.0, "threads": 0} for name in processes
    }
    try:
        while any(process.poll() is None for process in processes.values()):
            if time.perf_counter() - start > limit_seconds:
                raise SystemExit(f"still running after {limit_seconds:g} s")
            for name, process in processes.items():
                _sample(process, figures[name])
            time.sleep(_POLL_SECONDS)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
    seconds = time.perf_counter() - start
    return {
        "total_seconds": seconds,
        "exit_codes": {name: process.wait() for name, process in processes.items()},
        **figures,
    }


def _sample(process: psutil.Popen, figures: dict[str, float]) -> None:
    try:
        with process.oneshot():
            times = process.cpu_times()
            figures["peak_rss_bytes"] = max(figures["peak_rss_bytes"], process.memory_info().rss)
            figures["cpu_seconds"] = times.user + times.system
            figures["threads"] = max(figures["threads"], process.num_threads())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        pass  # it has just ended


def markdown(result: dict[str, Any]) -> str:
    """The result as two tables."""
    lines = [
        f"{result['clients']} clients, {result['rounds']} rounds, Paillier {result['key_bits']} bits packed, "
        f"{'masked over TLS' if result['masked'] else 'neither masks nor TLS'}, client certificates "
        f"{'required' if result['client_certificates'] else 'off'}, "
        f"{result['total_seconds']:.0f} s in all; {result['machine']}",
        "",
        "| round | contributors | failures | slowest encryption s | add s | decrypt s | round s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['round']} | {r['contributors']} | {r['failures']} | {r['encrypt_seconds'] or 0:.2f} | "
        f"{r['aggregate_seconds'] or 0:.2f} | {r['decrypt_seconds'] or 0:.2f} | {r['round_seconds']:.1f} |"
        for r in result["per_round"]
    ]
    lines += ["", "| process | peak memory (RSS) MB | CPU s | most threads |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {result[name]['peak_rss_bytes'] / 1e6:.0f} | {result[name]['cpu_seconds']:.0f} | "
        f"{result[name]['threads']} |"
        for name in ("server", "launcher")
    ]
    return "\n".join(lines) + "\n"


def measure(args: argparse.Namespace, *, masked: bool, mutual: bool) -> dict[str, Any]:
    """One federation from its start to its end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if masked:
            provision(folder / "pki", args.clients, [])
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(settings(args, folder, masked=masked, mutual=mutual)), encoding="utf-8")
        load_before = os.getloadavg()[0]
        measured = run(config, args.limit)
        metrics = (folder / "logs" / "latest" / "metrics.jsonl").read_text(encoding="utf-8")
    return {
        "clients": args.clients,
        "rounds": args.rounds,
        "key_bits": args.key_bits,
        "masked": masked,
        "client_certificates": mutual,
        "machine": f"{os.cpu_count()} cores, load {load_before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end, "
        f"Python {platform.python_version()}, flwr {version('flwr')}",
        **measured,
        "per_round": [json.loads(line) for line in metrics.splitlines()],
    }


def complete(result: dict[str, Any]) -> bool:
    """Whether every client contributed to every round."""
    everyone = [r["contributors"] == result["clients"] and r["failures"] == 0 for r in result["per_round"]]
    return len(everyone) == result["rounds"] and all(everyone) and not any(result["exit_codes"].values())


def ratios(without: dict[str, Any], certified: dict[str, Any]) -> dict[str, float]:
    """What client certificates cost: of the median round, of the whole run, and of both processes' CPU time."""

    def of(result: dict[str, Any]) -> tuple[float, float, float]:
        cpu = sum(result[name]["cpu_seconds"] for name in ("server", "launcher"))
        return median(r["round_seconds"] for r in result["per_round"]), result["total_seconds"], cpu

    names = ("median_round", "total_seconds", "cpu_seconds")
    return {name: b / a for name, a, b in zip(names, of(without), of(certified), strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Many clients on one machine.")
    parser.add_argument("--clients", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--key_bits", type=int, default=2048, help="(default: %(default)s)")
    parser.add_argument("--masked", action="store_true", help="enrolled clients, masked updates, TLS")
    parser.add_argument("--mtls", action="store_true", help="masked, without client certificates and then with them")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds until it gives up (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "logs" / "load", help="folder (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    masked = args.masked or args.mtls
    results = [measure(args, masked=masked, mutual=mutual) for mutual in ((False, True) if args.mtls else (False,))]
    text = "\n".join(map(markdown, results))
    made: dict[str, Any] = results[0]
    if args.mtls:
        made = {"runs": results, "with_over_without": ratios(*results)}
        said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in made["with_over_without"].items())
        text += f"\nwith client certificates over without: {said}\n"
    (args.out / "load.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
    (args.out / "load.md").write_text(text, encoding="utf-8")
    print(text)
    accounted = all(map(complete, results))
    print("all accounted for" if accounted else "NOT all accounted for")
    return 0 if accounted else 1


if __name__ == "__main__":
    sys.exit(main())
