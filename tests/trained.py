"""A model that was trained quickly and in the open, with the bundle that a run would leave of it."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from client.training import TrainingSettings, train
from shared.bundle import ModelBundle, save_bundle
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data, load_test_data, load_validation_data
from shared.metrics import evaluate
from shared.model import build_model, get_parameters
from shared.preprocessing import Preprocessing


def train_bundle(config: Config, folder: Path, epochs: int = 3) -> ModelBundle:
    """Train on all clients' rows and leave `model.safetensors` and `bundle.json` in the folder."""
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # for models this small more threads only contend, with the other tests' above all
    rows = [load_client_data(config, client) for client in range(config.num_clients)]
    parts = [own.train for own in rows]
    preprocessing = Preprocessing.pooled(rows[0].schema, parts, config.scaling)
    model = build_model(config)
    pooled = preprocessing.apply(joined(parts))
    train(model, pooled, TrainingSettings(epochs, max(64, len(pooled) // 200), 0.05), seed=(config.seed,))
    parameters = dict(zip(model.state_dict(), get_parameters(model), strict=True))
    (folder / "model.safetensors").write_bytes(save(parameters))
    record = {"round": 3, **asdict(evaluate(model, preprocessing.apply(load_test_data(config))))}
    validation = preprocessing.apply(load_validation_data(config))
    return save_bundle(folder, config, preprocessing, parameters, validation, record, "a-run")


def joined(parts: list[Dataset]) -> Dataset:
    """All parts' rows, one part after the other."""
    return Dataset(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.families for part in parts]),
    )
