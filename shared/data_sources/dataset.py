"""Labelled rows, and what a source of them offers."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources.schema import FeatureSchema


@dataclass(frozen=True)
class Dataset:
    """Labelled rows.

    Attributes:
        features: float32, (rows, num_features); as `shared/preprocessing.py` scales them, raw before that.
        labels: int64, (rows,); class 0 is benign.
        families: the attack family of each row ("benign" for class 0), (rows,), for recall by family.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    families: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Dataset":
        """A copy of the rows at these positions, (len(rows),), in this order."""
        return Dataset(self.features[rows], self.labels[rows], self.families[rows])

    def unlabelled(self) -> "Dataset":
        """The same rows, all of them taken for benign."""
        return Dataset(self.features, np.zeros_like(self.labels), np.full(len(self), "benign"))


@dataclass(frozen=True)
class ClientData:
    """What one client has: raw rows to train on, and rows of its own that it never trains on."""

    schema: FeatureSchema
    train: Dataset
    holdout: Dataset


class DataSource(Protocol):
    """What a module under `shared/data_sources` offers. All features are raw: scaling needs every client's rows."""

    def schema(self, config: Config, client_id: int | None) -> FeatureSchema:
        """The columns of a client's rows; for None of the test set's, which must be the same."""

    def client_rows(self, config: Config, client_id: int) -> Dataset:
        """All rows of one client: the same on every call, whatever the other clients do."""

    def test_rows(self, config: Config) -> Dataset:
        """The common test set, which shares no row with any client."""

    def validation_rows(self, config: Config) -> Dataset:
        """Public rows that the orchestrator may choose by; they share none with any client or with the test set."""
