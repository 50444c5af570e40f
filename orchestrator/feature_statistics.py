"""Private scaling: the clients' feature statistics, added up encrypted before round 1, as their updates are later.

The orchestrator learns sums over all clients that took part: rows, mean, variance and histogram of each feature. It
tells them the mean and the variance, and nobody learns one client's.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from flwr.common import Scalar

from orchestrator.admission import SignedStatement
from orchestrator.aggregation import Aggregation, Opening, ask
from orchestrator.aggregator import Aggregator
from orchestrator.roster import Roster
from shared.config import Config
from shared.data_sources.scaling import Scaler
from shared.data_sources.schema import FeatureSchema
from shared.errors import DataError, EncodingError, StatisticsError, TooFewContributorsError, UpdateRejectedError
from shared.feature_statistics import HISTOGRAM, MOMENTS, StatisticsCode
from shared.he_utils import Vector
from shared.masking.errors import RoundAbandonedError
from shared.preprocessing import Preprocessing
from shared.task import Task

ATTEMPTS = 3  # at each sum of a run
_log = logging.getLogger("orchestrator")


class StatisticsCollector:
    """Asks all clients for their part of each sum; one that is lost or refused is left out of the sum.

    Args:
        config: the settings.
        aggregator: checks, adds and decrypts.
        aggregation: masks each sum, where updates are masked.
        roster: who is connected.
        schema: of the raw features.
        encryption: what a client has to know to encrypt, as `FitIns.config` holds it.
    """

    def __init__(
        self,
        config: Config,
        aggregator: Aggregator,
        aggregation: Aggregation,
        roster: Roster,
        schema: FeatureSchema,
        encryption: Mapping[str, Scalar],
    ) -> None:
        self._config = config
        self._aggregator, self._aggregation, self._roster = aggregator, aggregation, roster
        self._schema = schema
        self._encryption = encryption
        self._code = StatisticsCode(config, schema)

    def collect(self) -> Preprocessing:
        """Both sums, one after the other: the bins of the histogram are of scaled features.

        Raises:
            StatisticsError: no sum came about.
            TooFewClientsError: not enough clients are connected.
        """
        try:
            sums = self._code.decode_moments(self._sum(MOMENTS, None))
            scaler = Scaler.from_sums(sums, self._schema)
            histogram = self._code.decode_histogram(self._sum(HISTOGRAM, scaler))
        except (DataError, EncodingError) as error:
            raise StatisticsError(f"no scaling of the features: {error}") from None
        _log.info("features are scaled by the mean and variance of %s rows of all clients together", f"{sums.count:,}")
        return Preprocessing(scaler, histogram)

    def _sum(self, statistic: str, scaler: Scaler | None) -> Vector:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(statistic, scaler, attempt)
            except (TooFewContributorsError, RoundAbandonedError) as error:
                reason = error
                _log.warning("feature %s, attempt %d of %d: no sum: %s", statistic, attempt, ATTEMPTS, error)
        raise StatisticsError(
            f"the features' {statistic} could not be added up in {ATTEMPTS} attempts, the last because of: {reason}; "
            "see above which clients were left out, and why"
        )

    def _attempt(self, statistic: str, scaler: Scaler | None, attempt: int) -> Vector:
        c = self._config
        present = self._roster.gather(max(c.min_fit_clients, c.fewest_contributors), c.client_wait_timeout)
        clients = {self._roster.tenant_of(client): client for client in present[: c.num_clients]}
        size = self._code.sizes[statistic]
        about, key = self._code.digest(statistic, scaler), self._aggregator.public.fingerprint()
        task = Task(statistic, about, key, c.num_clients).digest()
        round_sum = self._aggregator.open_round(attempt, size, task.hex(), statistic)
        opening = Opening(attempt, clients, round_sum.layout[0], self._encryption, _note_failure, task, statistic)
        extras = self._aggregation.begin(opening)
        settings: dict[str, Scalar] = {
            "stage": "statistics",
            "statistic": statistic,
            "round": attempt,
            "cohort": len(clients),
            "schema": self._schema.to_json(),
            "scaler": scaler.to_bytes() if scaler else b"",
            **self._encryption,
        }
        requests = {
            tenant: {**settings, **extra, "nonce": round_sum.nonce_for(tenant)} for tenant, extra in extras.items()
        }
        with ThreadPoolExecutor(max_workers=max(1, len(requests))) as pool:
            answers = {
                tenant: pool.submit(ask, clients[tenant], request, c.round_timeout, "round_timeout", attempt)
                for tenant, request in requests.items()
            }
        for tenant, answer in answers.items():
            try:
                payload, properties = answer.result()
                signed = SignedStatement(properties.get("statement"), properties.get("signature"))
                round_sum.add_payload(tenant, payload, signed)
            except UpdateRejectedError as error:
                _note_failure(tenant, f"{type(error).__name__}: {error}")
        unmask = self._aggregation.finish(round_sum.contributors)
        aggregate = round_sum.decrypt_average(unmask)
        count = len(aggregate.contributors)
        _log.info("feature %s: added %d encrypted vectors and decrypted their sum", statistic, count)
        return np.asarray(aggregate.average_delta * count)


def _note_failure(tenant: str, reason: str) -> None:
    _log.warning("feature statistics: client %s is left out: %s", tenant, reason)
