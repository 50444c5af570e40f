"""The detector: a perceptron, a forest, a class of a person's own, or a density; and its parameters as one vector."""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.config import FOREST, MLP, Config
from shared.density import Density
from shared.forest.model import ThreatForest
from shared.own_model import check_all_trained, make_own_model


class ThreatDetector(nn.Module):
    """`num_features` -> hidden layers with ReLU -> `num_classes` logits."""

    def __init__(self, num_features: int, num_hidden_units: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        widths = [num_features, *num_hidden_units]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layers(features)  # (B, num_features) -> (B, num_classes)
        return logits


def build_model(config: Config) -> nn.Module:
    """A detector with initial weights that follow from `seed` alone, without touching torch's global generator.

    Raises:
        ConfigError: `model` names a class that is not there, or that can't work (`shared/own_model.py`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.density_alone:
            return Density(config.num_features)
        if config.model == FOREST:
            return ThreatForest(config.forest_trees, config.forest_depth)
        if config.model != MLP:
            model = make_own_model(config.model, config.num_features, config.num_classes)
            if config.privacy == "records":
                check_all_trained(config.model, model)
            return model
        return ThreatDetector(config.num_features, config.num_hidden_units, config.num_classes)


def get_parameters(model: nn.Module) -> list[NDArray[np.float32]]:
    """The parameters as float32 arrays, in `state_dict` order."""
    return [tensor.detach().cpu().numpy().copy() for tensor in model.state_dict().values()]


def set_parameters(model: nn.Module, parameters: list[NDArray[np.float32]]) -> None:
    """Load what `get_parameters` gave; shapes must agree (torch raises RuntimeError where they don't)."""
    names = model.state_dict().keys()
    model.load_state_dict({name: torch.from_numpy(np.array(p)) for name, p in zip(names, parameters, strict=True)})


def flatten(parameters: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """All parameters as one float64 vector, (size,)."""
    return np.concatenate([p.ravel() for p in parameters]).astype(np.float64)


def unflatten(vector: NDArray[np.float64], like: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """The vector, (size,), cut into float32 arrays with the shapes of `like`."""
    ends = np.cumsum([p.size for p in like])
    if vector.size != ends[-1]:
        raise ValueError(f"a vector of {vector.size} values for a model of {ends[-1]} parameters")
    parts = np.split(vector, ends[:-1])
    return [part.reshape(p.shape).astype(np.float32) for part, p in zip(parts, like, strict=True)]
