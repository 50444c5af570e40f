"""A client's part in private scaling: its own statistics for the encrypted sums, and its rows scaled by the result.

Free of Flower.
"""

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from client.budget import Budget
from shared.config import Config
from shared.data_sources.dataset import ClientData, Dataset
from shared.data_sources.scaling import AnyScaler, FeatureSums, read_scaler
from shared.data_sources.schema import FeatureSchema
from shared.density import BenignSums
from shared.dp import skellam
from shared.dp.plan import release_of_counts
from shared.errors import DataError, RoundRefusedError
from shared.feature_statistics import DENSITY, HISTOGRAM, MOMENTS, StatisticsCode
from shared.he.scheme import Vector
from shared.identity import digest_arrays
from shared.preprocessing import FeatureCounts, FeatureHistogram


class ScaledRows:
    """One client's rows, raw and as the model takes them.

    Args:
        config: the settings.
        data: the client's own rows, raw.
    """

    def __init__(self, config: Config, data: ClientData) -> None:
        self._config, self._data, self._scaling = config, data, config.scaling
        self._code = StatisticsCode(config, data.schema)
        self._scaler = b"none yet"
        self._scaled: tuple[Dataset, Dataset]

    @property
    def schema(self) -> FeatureSchema:
        """Of the raw features."""
        return self._data.schema

    @property
    def examples(self) -> int:
        """Rows that the client trains on."""
        return len(self._data.train)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows and labels in hex, by which this client's memory knows them; it stays here."""
        parts = (self._data.train, self._data.holdout)
        return digest_arrays([array for rows in parts for array in (rows.features, rows.labels)])

    @property
    def sizes(self) -> Mapping[str, int]:
        """Values of each vector of statistics, by its name."""
        return self._code.sizes

    def about(self, statistic: str, schema: str, scaler: bytes) -> str:
        """The digest of what a sum is about, if this client takes part in it.

        Args:
            statistic: one of `sizes`.
            schema: of the server's features, as JSON.
            scaler: of the histogram's or the density's features, as `Scaler.to_bytes` makes it; else empty.

        Raises:
            RoundRefusedError: the server's features are others, or it asks for something else.
        """
        theirs = _parsed(schema)
        if difference := self.schema.difference(theirs):
            raise RoundRefusedError(
                f"the server's features differ from this client's: {difference}; the settings of the data must be the "
                "same on both sides, and the files of the same form"
            )
        if statistic not in self.sizes:
            raise RoundRefusedError(
                f"the server asks for a statistic {statistic!r:.80}, and this client gives {', '.join(self.sizes)}; "
                "the settings scaling, density and labels must be the same on both sides"
            )
        return self._code.digest(statistic, self._scaler_of(scaler) if statistic in (HISTOGRAM, DENSITY) else None)

    def vector(self, statistic: str, scaler: bytes) -> Vector:
        """What this client adds to a sum that it takes part in; arguments as in `about`.

        Raises:
            DataError: the sums are too large.
        """
        rows = self._data.train.features
        if statistic == MOMENTS:
            return self._code.encode_moments(FeatureSums.of(rows, self.schema))
        if statistic == DENSITY:
            benign = rows[self._data.train.labels == 0]
            return self._code.encode_density(BenignSums.of(self._scaler_of(scaler).transform(benign)))
        if statistic != HISTOGRAM:
            return self._code.encode_quantiles(FeatureCounts.of(rows, self.schema))
        return self._code.encode_histogram(FeatureHistogram.of(self._scaler_of(scaler).transform(rows)))

    def noise(self, statistic: str, budget: Budget | None, sharers: Callable[[], int]) -> Vector:
        """This client's share of a statistic's noise, (size,); zeros without a budget.

        Raises:
            PrivacyBudgetError: the tenant's budget has not enough left.
        """
        size = self.sizes[statistic]
        if budget is None:
            return np.zeros(size)
        release = release_of_counts(self._config, len(self.schema))
        budget.pay(release.rdp())
        return self._code.in_steps(skellam.draw(release.variance / sharers(), size))

    def scaled(self, scaler: bytes) -> tuple[Dataset, Dataset]:
        """The rows to train on and the held-out ones, scaled; kept until another scaler comes.

        Raises:
            RoundRefusedError: it does not fit the features.
        """
        if scaler != self._scaler:
            transform = self._scaler_of(scaler).transform
            train, holdout = (
                Dataset(transform(rows.features), rows.labels, rows.families)
                for rows in (self._data.train, self._data.holdout)
            )
            self._scaled, self._scaler = (train, holdout), scaler
        return self._scaled

    def _scaler_of(self, scaler: bytes) -> AnyScaler:
        try:
            return read_scaler(self._scaling, scaler, self.schema)
        except DataError as error:
            raise RoundRefusedError(
                f"the server sent {error}; the data's settings must be the same on both sides"
            ) from None


def _parsed(schema: str) -> FeatureSchema:
    try:
        return FeatureSchema.from_json(schema)
    except DataError as error:
        raise RoundRefusedError(f"the server sent no feature schema: {error}") from None
