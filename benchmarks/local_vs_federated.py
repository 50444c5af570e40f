"""One detector for all tenants against one of each tenant's own, on the common test set.

    python benchmarks/local_vs_federated.py --config config/nsl_kdd.yaml

The federated model is that of a real run of the two scripts. Each local model starts from the same weights and sees its
tenant's rows as often as the federated run does: `num_rounds * local_epochs` epochs.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from rich.table import Table
from safetensors.torch import load_file

from client.training import TrainingSettings, train
from shared.config import Config, load_config
from shared.console import console
from shared.data_utils import load_client_data, load_schema, load_test_data
from shared.metrics import Metrics, evaluate
from shared.model import build_model
from shared.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parent.parent


def local_model(config: Config, client_id: int, scaling: Preprocessing) -> Metrics:
    """Train one tenant's own detector and score it on the common test set."""
    model = build_model(config)
    epochs = config.num_rounds * config.local_epochs
    settings = TrainingSettings(epochs, config.batch_size, config.learning_rate)
    train(model, scaling.apply(load_client_data(config, client_id).train), settings, seed=(config.seed, client_id))
    return evaluate(model, scaling.apply(load_test_data(config)))


def federated_model(config: Config, config_path: Path, scaling: Preprocessing) -> Metrics:
    """Run server and clients, then score the model that the run left."""
    server = subprocess.Popen([sys.executable, "orchestrator/run_server.py", "--config", config_path], cwd=ROOT)
    try:
        subprocess.run([sys.executable, "client/run_clients.py", "--config", config_path], cwd=ROOT, check=True)
        if server.wait(timeout=60) != 0:
            raise SystemExit("the server failed; see its output above")
    finally:
        server.kill()
    model = build_model(config)
    model.load_state_dict(load_file(ROOT / config.log_dir / "latest" / "model.safetensors"))
    return evaluate(model, scaling.apply(load_test_data(config)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Federated against local training, on the common test set.")
    parser.add_argument("--config", type=Path, default=ROOT / "config/nsl_kdd.yaml")
    torch.set_num_threads(1)  # for models this small, more threads only contend
    path = parser.parse_args().config.resolve()
    config = load_config(path)
    clients = [load_client_data(config, client_id).train for client_id in range(config.num_clients)]
    scaling = Preprocessing.pooled(load_schema(config), clients)  # what the run makes from encrypted sums
    rows = {"federated": federated_model(config, path, scaling)}
    local = [local_model(config, client_id, scaling) for client_id in range(config.num_clients)]
    rows |= {f"client {i} alone": metrics for i, metrics in enumerate(local)}
    table = Table(title=f"{config.data_source}, partition {config.partition}, seed {config.seed}")
    names = ("loss", "accuracy", "roc_auc", "pr_auc", "fpr")
    for column in ("model", *names):
        table.add_column(column, justify="left" if column == "model" else "right")
    for label, metrics in rows.items():
        table.add_row(label, *(f"{getattr(metrics, name):.4f}" for name in names))
    means = [sum(getattr(m, name) for m in local) / len(local) for name in names]
    table.add_row("mean of the clients alone", *(f"{mean:.4f}" for mean in means))
    console.print(table)


if __name__ == "__main__":
    main()
