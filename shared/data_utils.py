"""A client's data and the common test set, by `data_source`. Swap it for another task.

Every source turns records into the same two arrays: float32 features (rows, num_features) and int64 labels (rows,)
in which class 0 is benign.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.config import Config


@dataclass(frozen=True)
class Dataset:
    """Rows ready for the model.

    Attributes:
        features: float32, (rows, num_features).
        labels: int64, (rows,); class 0 is benign.
        families: the attack family of each row ("benign" for class 0), (rows,), for recall by family.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    families: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ClientData:
    """What one client has: rows to train on, and rows of its own that it never trains on."""

    train: Dataset
    holdout: Dataset


def load_client_data(config: Config, client_id: int) -> ClientData:
    """The rows of one client, split by `holdout_fraction`.

    Raises:
        DataError: the files are missing or malformed.
    """
    raise NotImplementedError


def load_test_data(config: Config) -> Dataset:
    """The common test set: the same rows for whoever asks.

    Raises:
        DataError: the files are missing or malformed.
    """
    raise NotImplementedError
