"""How fast new CSV flow records are scored on one core, end to end, and that memory does not grow with the input.

    python benchmarks/scoring.py --rows 500000

The records have the columns of UNSW-NB15, generated. This project's `score_files` (read, encode, scale, model, alerts)
and its peers, pandas' `read_csv` alone and `read_csv` with scikit-learn's HistGradientBoosting, run in turn, each in a
process of its own, on one core and with one thread. Rates are by that process's own CPU time, so that a busy machine
does not count against any of them; the wall clock is beside it.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from benchmarks.machine import machine_facts
from shared.config import Config, load_config
from shared.console import console

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = """
    id dur proto service state spkts dpkts sbytes dbytes rate sttl dttl sload dload sloss dloss sinpkt dinpkt sjit djit
    swin stcpb dtcpb dwin tcprtt synack ackdat smean dmean trans_depth response_body_len ct_srv_src ct_state_ttl
    ct_dst_ltm ct_src_dport_ltm ct_dst_sport_ltm ct_dst_src_ltm is_ftp_login ct_ftp_cmd ct_flw_http_mthd ct_src_ltm
    ct_srv_dst is_sm_ips_ports attack_cat label
""".split()  # noqa: SIM905 (one name per line would fill a screen)
NAMES = {"proto": ("tcp", "udp", "arp", "ospf"), "service": ("-", "http", "dns", "ftp"), "state": ("FIN", "INT", "CON")}
TRAIN_ROWS = 20_000
Figures = dict[str, float]  # seconds of CPU and wall, MB at the peak


def write_flows(path: Path, rows: int, seed: int) -> None:
    """Generated flows; one in twenty is an attack, which moves a third of the numbers."""
    random = np.random.default_rng(seed)
    for first in range(0, rows, 100_000):
        count = min(100_000, rows - first)
        attack = random.random(count) < 0.05
        columns: dict[str, object] = {}
        for index, name in enumerate(COLUMNS):
            if name in NAMES:
                columns[name] = random.choice(NAMES[name], count)
            else:
                numbers = random.exponential(100, count) * np.where(attack & (index % 3 == 0), 5, 1)
                columns[name] = numbers.round(6) if index % 2 else numbers.astype(np.int64)
        columns |= {"id": np.arange(first, first + count), "attack_cat": np.where(attack, "DoS", "Normal")}
        columns["label"] = attack.astype(int)
        pd.DataFrame(columns).to_csv(path, index=False, header=first == 0, mode="w" if first == 0 else "a")


def settings(path: Path) -> Config:
    """Those of config/csv_flows.yaml, on these files."""
    return load_config(ROOT / "config/csv_flows.yaml").replace(data_path=str(path), test_path="", partition="even")


def make_bundle(folder: Path, path: Path) -> None:
    """A model that learned from all clients' rows, as a run leaves it."""
    from safetensors.numpy import save

    from client.training import TrainingSettings, train
    from shared.bundle import save_bundle
    from shared.data_sources.dataset import Dataset
    from shared.data_utils import load_client_data, load_validation_data
    from shared.model import build_model, get_parameters
    from shared.preprocessing import Preprocessing

    config = settings(path)
    clients = [load_client_data(config, client) for client in range(config.num_clients)]
    preprocessing = Preprocessing.pooled(clients[0].schema, [client.train for client in clients], config.scaling)
    model = build_model(config)
    for client in clients:
        rows: Dataset = preprocessing.apply(client.train)
        train(model, rows, TrainingSettings(1, 256, 0.05), seed=(config.seed,))
    parameters = dict(zip(model.state_dict(), get_parameters(model), strict=True))
    (folder / "model.safetensors").write_bytes(save(parameters))
    validation = preprocessing.apply(load_validation_data(config))
    save_bundle(folder, config, preprocessing, parameters, validation, {"round": 1}, "benchmark")


def ours(folder: Path, path: Path) -> Callable[[], object]:
    """Reading to alerts, by this project."""
    from client.scoring import score_files
    from shared.bundle import ModelBundle

    bundle = ModelBundle.load(folder)
    return lambda: score_files(bundle, [path], path.with_suffix(".jsonl"), bundle.threshold.required())


def pandas_read(folder: Path, path: Path) -> Callable[[], object]:
    """Reading alone, by pandas."""
    return lambda: len(pd.read_csv(path))


def gradient_boosting(folder: Path, path: Path) -> Callable[[], object]:
    """Reading by pandas, scores by scikit-learn."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    def load(file: Path) -> pd.DataFrame:
        return pd.read_csv(file, dtype=dict.fromkeys(NAMES, "category"))

    known = load(folder / "train.csv")
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=100)
    unused = ["id", "attack_cat", "label"]
    model.fit(known.drop(columns=unused), known["label"])
    return lambda: model.predict_proba(load(path).drop(columns=unused))[:, 1]


CANDIDATES = {"score_files": ours, "pandas.read_csv": pandas_read, "read_csv + HistGradientBoosting": gradient_boosting}


def measure(name: str, folder: Path, path: Path) -> Figures:
    """One candidate on one file; to be called in a new process."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with threadpool_limits(1):
        work = CANDIDATES[name](folder, path)
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6
    return {"cpu_s": cpu, "wall_s": wall, "peak_mb": peak}


def in_new_process(name: str, folder: Path, path: Path) -> Figures:
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure, name, folder, path).result()


def main() -> None:
    parser = argparse.ArgumentParser(description="Records a second on one core, and peak memory.")
    parser.add_argument("--rows", type=int, default=500_000, help="(default: %(default)s); memory is also for 4 times")
    parser.add_argument("--passes", type=int, default=3, help="of which the median counts (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_flows(folder / "train.csv", TRAIN_ROWS, seed=1)
        make_bundle(folder, folder / "train.csv")
        path, larger = folder / "new.csv", folder / "larger.csv"
        write_flows(path, args.rows, seed=2)
        passes = [{name: in_new_process(name, folder, path) for name in CANDIDATES} for _ in range(args.passes)]
        write_flows(larger, 4 * args.rows, seed=2)
        four_times = in_new_process("score_files", folder, larger)
    table = Table(title=f"{args.rows:,} records with {len(COLUMNS)} columns, one core, median of {args.passes}")
    for column in ("", "records per CPU second", "records per second", "peak MB"):
        table.add_column(column, justify="right")
    figures: dict[str, object] = {"machine": machine_facts(), "rows": args.rows, "passes": passes}
    for candidate in CANDIDATES:
        cpu, wall, peak = (
            float(np.median([one[candidate][what] for one in passes])) for what in ("cpu_s", "wall_s", "peak_mb")
        )
        table.add_row(candidate, f"{args.rows / cpu:,.0f}", f"{args.rows / wall:,.0f}", f"{peak:,.0f}")
    table.add_row(
        "score_files, 4 times the records", f"{4 * args.rows / four_times['cpu_s']:,.0f}",
        f"{4 * args.rows / four_times['wall_s']:,.0f}", f"{four_times['peak_mb']:,.0f}",
    )  # fmt: skip
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(figures | {"four_times": four_times}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
