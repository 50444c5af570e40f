"""Which learner a model has."""

from torch import nn

from shared.config import Config
from shared.density import Density
from shared.dp.learner import NoisySteps
from shared.forest.learner import GrownForest
from shared.forest.model import ThreatForest
from shared.given_density import GivenDensity
from shared.learner import AveragedDeltas, Learner


def make_learner(config: Config, model: nn.Module) -> Learner:
    """What a model of these settings learns by."""
    if config.privacy == "records":
        return NoisySteps(config, model)
    if isinstance(model, Density):
        return GivenDensity()
    return GrownForest(config, model) if isinstance(model, ThreatForest) else AveragedDeltas(config, model)
