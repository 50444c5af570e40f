"""Private scaling: the tenants' feature statistics, added up encrypted before round 1, as their updates are later.

The orchestrator learns sums over all tenants that took part: rows and a histogram of each feature, and with `scaling:
zscore` mean and variance. It tells them the quantiles, or the mean and the variance, and nobody learns one tenant's.
"""

import logging
from collections.abc import Collection
from dataclasses import replace

from orchestrator.round import Job, Sum, SumRounds
from orchestrator.seats import Seats
from shared.config import Config
from shared.data_sources.scaling import AnyScaler, Scaler
from shared.data_sources.schema import FeatureSchema
from shared.errors import DataError, EncodingError, StatisticsError, TooFewContributorsError
from shared.exchange import Kind, Steps
from shared.feature_statistics import DENSITY, HISTOGRAM, MOMENTS, QUANTILES, StatisticsCode
from shared.masking.errors import RoundAbandonedError
from shared.preprocessing import Preprocessing

ATTEMPTS = 3  # at each sum of a run
_log = logging.getLogger("orchestrator")


class PrivateScaling:
    """Asks all tenants for their part of each sum; one that is lost or refuses is left out of the sum.

    Args:
        config: the settings.
        rounds: make the sums.
        seats: who is here.
        schema: of the raw features.

    Attributes:
        contributors: whose rows are in the last sum; empty after a restart.
    """

    def __init__(self, config: Config, rounds: SumRounds, seats: Seats, schema: FeatureSchema) -> None:
        self._config = config
        self._rounds, self._seats = rounds, seats
        self._schema = schema
        self.code = StatisticsCode(config, schema)
        self.contributors: list[str] = []

    def steps(self) -> Steps[Preprocessing]:
        """All sums that the settings `scaling`, `density` and `labels` take.

        Raises:
            StatisticsError: no sum came about.
            NetworkError: not enough tenants are connected.
        """
        try:
            if self._config.scaling == "quantile":
                result = yield from self._sum(QUANTILES, None)
                counts = self.code.decode_quantiles(result.total)
                preprocessing, how = Preprocessing.from_counts(counts, self._schema), "quantiles"
            else:  # one after the other: the bins of the histogram are of scaled features
                sums = self.code.decode_moments((yield from self._sum(MOMENTS, None)).total)
                scaler = Scaler.from_sums(sums, self._schema)
                histogram = self.code.decode_histogram((yield from self._sum(HISTOGRAM, scaler)).total)
                preprocessing, how = Preprocessing(scaler, histogram), "mean and variance"
        except (DataError, EncodingError) as error:
            raise StatisticsError(f"no scaling of the features: {error}") from None
        rows = f"{preprocessing.histogram.rows:,}"
        _log.info("features are scaled by the %s of %s rows of all clients together", how, rows)
        if self._config.makes_density:
            return (yield from self._with_density(preprocessing, result.contributors))
        return preprocessing

    def _with_density(self, preprocessing: Preprocessing, contributors: list[str]) -> Steps[Preprocessing]:
        """The same with the density of the benign rows; without it, where a model is trained that can do without.

        Raises:
            StatisticsError: nothing else is learned in this run, and no sum came about.
        """
        try:
            result = yield from self._sum(DENSITY, preprocessing.scaler, contributors)
            sums = self.code.decode_density(result.total)
        except (DataError, EncodingError, StatisticsError) as error:
            if self._config.density_alone:
                raise StatisticsError(f"no density of the clients' rows: {error}") from None
            _log.warning("no density of benign rows: %s", error)
            return preprocessing
        kind = "rows" if self._config.labels == "none" else "benign rows"
        _log.info("the density is that of %s %s of all clients together", f"{sums.rows:,}", kind)
        return replace(preprocessing, benign=sums)

    def _sum(self, statistic: str, scaler: AnyScaler | None, whom: Collection[str] = ()) -> Steps[Sum]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return (yield from self.attempt(statistic, scaler, attempt, whom))
            except (TooFewContributorsError, RoundAbandonedError) as error:
                reason = error
                _log.warning("feature %s, attempt %d of %d: no sum: %s", statistic, attempt, ATTEMPTS, error)
        raise StatisticsError(
            f"the features' {statistic} could not be added up in {ATTEMPTS} attempts, the last because of: {reason}; "
            "see above which clients were left out, and why"
        )

    def attempt(self, statistic: str, scaler: AnyScaler | None, number: int, whom: Collection[str] = ()) -> Steps[Sum]:
        """One sum over all tenants that are here, or over exactly those of `whom`.

        Raises:
            TooFewContributorsError, RoundAbandonedError: too few of them.
        """
        c = self._config
        present = self._seats.gather(max(c.min_fit_clients, c.fewest_contributors), c.client_wait_timeout)
        job = Job(
            kind=Kind.STATISTICS,
            bucket=statistic,
            number=number,
            size=self.code.sizes[statistic],
            about=self.code.digest(statistic, scaler),
            values={
                "statistic": statistic,
                "schema": self._schema.to_json(),
                "scaler": scaler.to_bytes() if scaler else b"",
            },
            whom=frozenset(whom) or None,
        )
        cohort = [tenant for tenant in present if not whom or tenant in whom][: c.num_clients]
        result = yield from self._rounds.steps(job, cohort, self.note_failure)
        self.contributors, count = result.contributors, len(result.contributors)
        _log.debug("feature %s: added %d encrypted vectors and decrypted their sum", statistic, count)
        return result

    def note_failure(self, tenant: str, reason: str) -> None:
        """A tenant that is left out of a sum."""
        _log.warning("feature statistics: client %s is left out: %s", tenant, reason)
