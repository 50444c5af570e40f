"""A client's data and the common validation and test sets, by `data_source`. Swap it for another task.

Every source turns records into the same two arrays: float32 features (rows, num_features) and int64 labels (rows,)
in which class 0 is benign. A new source is a module with the functions of `DataSource` and a branch in `_source`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources.streams import Stream, generator
from shared.errors import DataError


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

    def take(self, rows: NDArray[np.int64]) -> "Dataset":
        """A copy of the rows at these positions, (len(rows),), in this order."""
        return Dataset(self.features[rows], self.labels[rows], self.families[rows])


@dataclass(frozen=True)
class ClientData:
    """What one client has: rows to train on, and rows of its own that it never trains on."""

    train: Dataset
    holdout: Dataset


class DataSource(Protocol):
    """What a module under `shared/data_sources` offers."""

    def client_rows(self, config: Config, client_id: int) -> Dataset:
        """All rows of one client: the same on every call, whatever the other clients do."""

    def test_rows(self, config: Config) -> Dataset:
        """The common test set, which shares no row with any client."""

    def validation_rows(self, config: Config) -> Dataset:
        """Public rows that the orchestrator may choose by; they share none with any client or with the test set."""


def load_client_data(config: Config, client_id: int) -> ClientData:
    """The rows of one client, split by `holdout_fraction` into two parts that are never empty.

    Raises:
        DataError: `client_id` is not from 0 to num_clients - 1, the files are missing or malformed, or they can't be
            shared out among so many clients.
    """
    if not 0 <= client_id < config.num_clients:
        raise DataError(
            f"client_id = {client_id}: expected 0 to {config.num_clients - 1}; raise num_clients to have more clients"
        )
    rows = _source(config).client_rows(config, client_id)
    if len(rows) < 2:
        raise DataError(
            f"client {client_id} has {len(rows)} rows: expected at least 2, to train on one part and evaluate on the "
            "other; give it more data or lower num_clients"
        )
    shuffled = generator(config.seed, Stream.HOLDOUT, client_id).permutation(len(rows))
    held_out = min(max(round(len(rows) * config.holdout_fraction), 1), len(rows) - 1)
    return ClientData(train=rows.take(shuffled[held_out:]), holdout=rows.take(shuffled[:held_out]))


def load_test_data(config: Config) -> Dataset:
    """The common test set: the same rows for whoever asks.

    Raises:
        DataError: the files are missing or malformed.
    """
    return _source(config).test_rows(config)


def load_validation_data(config: Config) -> Dataset:
    """What the orchestrator stops by and sets thresholds by, so that the test set decides nothing that it measures.

    Raises:
        DataError: the files are missing or malformed.
    """
    return _source(config).validation_rows(config)


def _source(config: Config) -> DataSource:
    # Imported on demand: a source may need libraries that a run on another source should not pay for.
    match config.data_source:
        case "synthetic":
            from shared.data_sources import synthetic

            return synthetic
        case "nsl_kdd":
            from shared.data_sources import nsl_kdd

            return nsl_kdd
    raise DataError(f"data_source = {config.data_source!r}: no such source; config/config.yaml lists the choices")
