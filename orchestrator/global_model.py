"""The global model: what it learns by, how good it is, and the state that the next round needs.

Free of Flower, and of whatever is encrypted.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from orchestrator.checkpoint import Checkpoint
from orchestrator.early_stopping import EarlyStopping
from orchestrator.report.evaluation import Evaluation, evaluate_final
from orchestrator.run_folder import LoggedRounds, RoundRecord
from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_sources.schema import FeatureSchema
from shared.density import Density
from shared.dp.plan import PrivacyPlan
from shared.errors import DataError, ResumeError, StatisticsError
from shared.exchange import Model
from shared.fusion import Gate, judge
from shared.learner import State
from shared.learners import make_learner
from shared.metrics import attack_thresholds, evaluate, predict_probabilities, score
from shared.model import build_model, get_parameters, set_parameters
from shared.preprocessing import Preprocessing

_log = logging.getLogger("orchestrator")
Named = dict[str, NDArray[np.float32]]


class GlobalModel:
    """The model between two rounds.

    Args:
        config: the settings.
        validation_data: the orchestrator's own rows that early stopping and thresholds go by; raw before `scale_by`.
        test_data: its rows that the figures of each round are measured on; the same.

    Attributes:
        validation_data: see above.
        learner: moves the model by the sums over the tenants.
        preprocessing: how features are scaled; None before the tenants' statistics are added up.
        privacy_plan: what the sums cost; None where they have no noise.
        gate: whether the density of benign rows takes part in alerts; None where there is none.
    """

    def __init__(self, config: Config, validation_data: Dataset, test_data: Dataset) -> None:
        self._config = config
        self.validation_data, self._test_data = validation_data, test_data
        self._model = build_model(config)
        self.learner = make_learner(config, self._model)
        self._early_stopping = EarlyStopping(config.early_stopping_rounds)
        self.preprocessing: Preprocessing | None = None
        parameters = sum(p.size for p in self.parameters)
        self.privacy_plan = (
            PrivacyPlan.of(config, parameters, config.num_features) if config.privacy == "records" else None
        )
        self.gate: Gate | None = None

    @property
    def parameters(self) -> Model:
        """In the order of the model's `state_dict`."""
        return get_parameters(self._model)

    @property
    def named(self) -> Named:
        """The same by the names of the tensors."""
        return dict(zip(self._model.state_dict(), self.parameters, strict=True))

    @property
    def final(self) -> Named:
        """The model that the run would leave if it ended now: the best one under early stopping, else the last."""
        return self._early_stopping.final(self.named)

    @property
    def best_round(self) -> int:
        """The round that `final` is of under early stopping; 0 where it is off."""
        return self._early_stopping.best_round

    @property
    def finished(self) -> str:
        """Why no further round would help; empty while one may."""
        if self.learner.finished:
            return "the density is whole" if isinstance(self._model, Density) else "all trees are grown"
        patience = self._config.early_stopping_rounds
        return f"no lower validation loss for {patience} rounds" if self._early_stopping.exhausted else ""

    @property
    def scaler(self) -> bytes:
        """As a tenant takes it.

        Raises:
            StatisticsError: the features' statistics are not known yet.
        """
        if self.preprocessing is None:
            raise StatisticsError("a round begins before the features' statistics are known; call `scale_by` first")
        return self.preprocessing.scaler.to_bytes()

    def scale_by(self, preprocessing: Preprocessing) -> None:
        """Scale the orchestrator's own rows, once, and have the tenants scale theirs alike."""
        self.preprocessing = preprocessing
        self.learner.scale_by(preprocessing.scaler, preprocessing.schema)
        self.validation_data = preprocessing.apply(self.validation_data)
        self._test_data = preprocessing.apply(self._test_data)
        if preprocessing.benign is None:
            return
        if isinstance(self._model, Density):
            self._model.fill(preprocessing.benign)
            return
        self.gate = judge(Density.of(preprocessing.benign), self.validation_data)
        _log.info("%s", self.gate.in_words())

    def validation_loss(self) -> float:
        """Of the present model, on the orchestrator's own rows."""
        return score(predict_probabilities(self._model, self.validation_data.features), self.validation_data).loss

    def roll_back(self, parameters: Model, state: State) -> None:
        """Be again where a round began."""
        set_parameters(self._model, parameters)
        self.learner.restore(state)

    def score(self, record: RoundRecord) -> None:
        """Measure the model on the orchestrator's own rows; thresholds and early stopping go by validation alone."""
        validation = self.validation_data
        probabilities = predict_probabilities(self._model, validation.features)
        record.validation_loss = score(probabilities, validation).loss
        if record.skipped is None:  # a round without an update says nothing about whether training still helps
            self._early_stopping.note(record.round, record.validation_loss, self.named)
        thresholds = attack_thresholds(1.0 - probabilities[validation.labels == 0, 0])
        for name, value in asdict(evaluate(self._model, self._test_data, thresholds)).items():
            setattr(record, name, value)

    def final_evaluation(self) -> Evaluation:
        """What the report shows of the model that the run leaves: curves, and each family at the alert threshold."""
        set_parameters(self._model, list(self.final.values()))
        preprocessing = self.preprocessing
        benign = preprocessing.benign if preprocessing else None
        return evaluate_final(self._config, self._model, self.validation_data, self._test_data, benign)

    def checkpoint(self, finished: LoggedRounds) -> Checkpoint:
        """All that the next round depends on, after these rounds."""
        return Checkpoint(
            self.named,
            finished,
            self.learner.state(),
            self._early_stopping.best_parameters,
            self.preprocessing.arrays() if self.preprocessing else None,
        )

    def restore(self, checkpoint: Checkpoint, records: Sequence[RoundRecord], schema: FeatureSchema) -> None:
        """Go on from here as if the run had never been interrupted.

        Args:
            checkpoint: of the run.
            records: of its finished rounds.
            schema: of the raw features.

        Raises:
            ResumeError: the checkpoint does not fit the settings.
        """
        shapes = {name: array.shape for name, array in self.named.items()}
        for model in (checkpoint.parameters, checkpoint.best_parameters or checkpoint.parameters):
            if {name: array.shape for name, array in model.items()} != shapes:
                raise ResumeError("the checkpoint's model has other shapes than the settings say; start a new run")
        set_parameters(self._model, [checkpoint.parameters[name] for name in shapes])
        best = checkpoint.best_parameters  # a file keeps its tensors by name; what they are put into keeps an order
        self._early_stopping.restore(records, best and {name: best[name] for name in shapes})
        if checkpoint.preprocessing is not None:
            try:
                self.scale_by(Preprocessing.from_arrays(schema, checkpoint.preprocessing))
            except DataError as error:
                raise ResumeError(f"the checkpoint does not fit the features: {error}; start a new run") from None
        try:
            self.learner.restore(checkpoint.learner)
        except (KeyError, ValueError) as error:
            raise ResumeError(f"the checkpoint does not say how to go on: {error}; start a new run") from None
