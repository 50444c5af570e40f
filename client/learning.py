"""What a tenant computes in a round of training, from the global model and its own rows: the vector of one sum.

Each kind of model has its own: the delta of local training, or the sums of a level of trees.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from client.scaled_rows import ScaledRows
from client.training import TrainingSettings, train
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_sources.scaling import Quantiles, read_scaler
from shared.density import Density
from shared.errors import EncodingError, RoundRefusedError
from shared.exchange import Model
from shared.forest.bins import Bins, Columns, binned, edges_of
from shared.forest.model import ThreatForest, flaw_of
from shared.forest.plan import BATCH, ForestPlan
from shared.forest.sums import LevelCode, count
from shared.he.scheme import PublicScheme, Vector
from shared.identity import digest_model
from shared.masking import WEIGHTS
from shared.model import flatten, get_parameters
from shared.weighting import encrypted_size, weigh

OnEpoch = Callable[[int], None]


@dataclass(frozen=True)
class Contribution:
    """What is asked for in a round.

    Attributes:
        title: of the training, for the log.
        epochs: that it takes.
        bucket: which vector it is.
        nothing: the vector of a tenant whose rows say nothing, (size,).
        compute: makes the vector, (size,); it is called once with what to call after each epoch.
        work: by which this tenant's memory knows the work, as bucket and `Task.about`; None: as the task has them.
    """

    title: str
    epochs: int
    bucket: str
    nothing: Vector
    compute: Callable[[OnEpoch], Vector]
    work: tuple[str, str] | None = None


class Learning(Protocol):
    """A tenant's part in the training of one kind of model."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Values of each vector, by bucket."""

    def contribution(self, round_number: int, given: Model, scaler: bytes, scheme: PublicScheme[Any]) -> Contribution:
        """What this round asks for.

        Args:
            round_number: from 1.
            given: the global model, which the tenant's model holds by now.
            scaler: of the features, as the server sent it.
            scheme: that the vector will be encrypted with.

        Raises:
            RoundRefusedError: the server's model is none to learn from.
        """


def make_learning(config: Config, client_id: int, model: nn.Module, rows: ScaledRows) -> Learning:
    """The part that this tenant's settings ask for."""
    if isinstance(model, Density):
        return NothingToLearn()
    if isinstance(model, ThreatForest):
        return LevelSums(config, model, rows)
    return LocalTraining(config, client_id, model, rows)


class LocalTraining:
    """Steps 4 to 6 of the flow: train on the own rows, and take the delta."""

    def __init__(self, config: Config, client_id: int, model: nn.Module, rows: ScaledRows) -> None:
        self._config, self._client_id, self._model, self._rows = config, client_id, model, rows

    @property
    def sizes(self) -> Mapping[str, int]:
        return {WEIGHTS: encrypted_size(sum(p.size for p in get_parameters(self._model)), self._config.weighting)}

    def contribution(self, round_number: int, given: Model, scaler: bytes, scheme: PublicScheme[Any]) -> Contribution:
        rows, _ = self._rows.scaled(scaler)
        before, c = flatten(given), self._config

        def train_and_weigh(on_epoch: OnEpoch) -> Vector:
            train(self._model, rows, TrainingSettings.of(c), (c.seed, self._client_id, round_number), on_epoch)
            delta = flatten(get_parameters(self._model)) - before  # (size,)
            if not np.isfinite(delta).all():
                raise EncodingError(
                    "the delta holds NaN or infinity: local training diverged; lower learning_rate or check the data"
                )
            return weigh(delta, self._rows.examples, c, scheme)

        title, nothing = f"local epochs: {c.local_epochs}", weigh(np.zeros(before.size), 0, c, scheme)
        return Contribution(title, c.local_epochs, WEIGHTS, nothing, train_and_weigh)


class LevelSums:
    """Rows, gradients and hessians of the nodes that are to be split next; `shared/forest` grows the trees.

    All sums of a batch of trees are one work, and so are over one set of tenants: the sum of a node is that of its
    children, and of two such sums over different tenants the difference is the rows of whoever is in one alone.
    """

    def __init__(self, config: Config, model: ThreatForest, rows: ScaledRows) -> None:
        self._config, self._forest, self._rows = config, model, rows
        self._plan, self._code = ForestPlan.of(config), LevelCode(config)
        self._columns = Columns.of(self._plan, rows.schema)
        self._binned: tuple[bytes, Bins] | None = None  # by scaler

    @property
    def sizes(self) -> Mapping[str, int]:
        return {turn.bucket: self._code.size(turn, self._columns) for turn in self._plan.levels()}

    def contribution(self, round_number: int, given: Model, scaler: bytes, scheme: PublicScheme[Any]) -> Contribution:
        rows, _ = self._rows.scaled(scaler)
        grown = int(self._forest.grown)
        flaw = flaw_of(dict(zip(self._forest.state_dict(), given, strict=True)), rows.features.shape[1])
        if flaw or grown >= self._plan.sums:
            raise RoundRefusedError(f"the server sent {flaw or 'a forest that is grown, and asks for more of it'}")
        turn = self._plan.turn(grown)

        def add_up(on_epoch: OnEpoch) -> Vector:
            counts = count(self._forest, turn, rows, self._bins(scaler, rows), self._columns)
            on_epoch(1)
            return self._code.encode(counts)

        # Of the batch that is being grown nothing counts: its splits may differ, and the rows are asked for again.
        before = [array[: turn.trees.start] for array in given[:-1]]
        nothing = np.zeros(self._code.size(turn, self._columns))
        title = f"adding up: level {turn.level} of trees {turn.trees.start + 1} to {turn.trees.stop}"
        return Contribution(title, 1, turn.bucket, nothing, add_up, (BATCH, digest_model(before, scaler)))

    def _bins(self, scaler: bytes, rows: Dataset) -> Bins:
        if self._binned is None or self._binned[0] != scaler:
            quantiles = read_scaler("quantile", scaler, self._rows.schema)
            assert isinstance(quantiles, Quantiles)  # noqa: S101 - what `read_scaler` reads by that name
            self._binned = scaler, binned(rows.features, edges_of(quantiles, self._plan.bins))
        return self._binned[1]


class NothingToLearn:
    """The part of a tenant whose detector is a density: what it adds to that is a statistic of its features."""

    @property
    def sizes(self) -> Mapping[str, int]:
        return {}

    def contribution(self, round_number: int, given: Model, scaler: bytes, scheme: PublicScheme[Any]) -> Contribution:
        raise RoundRefusedError(
            "the server asks for training, and this client takes part in the features' statistics and the density "
            "alone (labels: none, or model: density)"
        )
