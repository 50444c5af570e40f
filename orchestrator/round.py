"""One encrypted sum over a cohort of tenants, as a generator: steps 2, 3 and 9 to 10 of the flow.

A round of training, an evaluation and each statistic of the features are uses of it. It knows neither threads nor
Flower: it yields exchanges, and whoever drives it carries them.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from orchestrator.aggregator import Aggregator
from orchestrator.masked_sum import Masking, Opening, explained
from orchestrator.publishing import Publisher
from shared.config import Config
from shared.console import wait_for
from shared.errors import TooFewContributorsError, UpdateRejectedError
from shared.exchange import Exchange, Kind, Lost, Model, Outcome, Refusal, Request, Steps, Values
from shared.he.scheme import Unmask, Vector
from shared.task import Settings, Task

_log = logging.getLogger("orchestrator")


@dataclass(frozen=True)
class Job:
    """What the tenants of one sum are asked for.

    Attributes:
        kind: of the request for the vector.
        bucket: which vector it is.
        number: of the round; of the feature statistics it counts the attempts.
        size: values of the vector.
        about: digest of the global model and the scaler, or of the statistic, as `Task` wants it.
        values: what each request holds beside what every sum needs.
        model: the global model; empty where it plays no part.
        settings: of the training; empty for other vectors.
        whom: the tenants that the sum has to be over, all of them and no others; None: whoever sends a vector.
        group: the group that it is over, as its terms name it; empty: all tenants.
        opening: what the first stage of a masked sum brings in addition.
        shown: whether a person sees the wait for the vectors.
    """

    kind: Kind
    bucket: str
    number: int
    size: int
    about: str
    values: Values
    model: Model = field(default_factory=list)
    settings: Settings = field(default_factory=dict)
    whom: frozenset[str] | None = None
    group: str = ""
    opening: Values = field(default_factory=dict)
    shown: bool = True


@dataclass(frozen=True)
class Sum:
    """The decrypted sum, and what it cost.

    Attributes:
        total: (size,).
        contributors: whose vectors are in it, ascending.
        said: what each of them sent beside its vector.
        payload_bytes: of the longest of their vectors, as it travelled.
        wait_seconds: from the request to the last vector, `add_seconds` within it.
        add_seconds: checking and adding them as they arrive.
        decrypt_seconds: of decryption and unmasking.
        opened: what the product of the vectors held, and the proof of it; None where nobody asked for it.
    """

    total: Vector
    contributors: list[str]
    said: Mapping[str, Values]
    payload_bytes: int
    wait_seconds: float
    add_seconds: float
    decrypt_seconds: float
    opened: "Opened | None" = None


@dataclass(frozen=True)
class Opened:
    """What shows that a sum was decrypted truly; see `shared/sum_proof.py`.

    Attributes:
        masks: evidence of the masks.
        plaintexts: of the product, masked.
        roots: the proof of them.
    """

    masks: bytes
    plaintexts: list[int]
    roots: list[int]


class SumRounds:
    """Makes sums, one after the other or side by side.

    Args:
        config: the settings.
        aggregator: checks, adds, and decrypts the sum alone.
        make_masking: the stages around the vectors, of one sum.
    """

    def __init__(self, config: Config, aggregator: Aggregator, make_masking: Callable[[], Masking]) -> None:
        self._config, self._aggregator, self._make_masking = config, aggregator, make_masking
        public = aggregator.public
        self._encryption: Values = {
            "public_key": public.public_bytes(),
            "encoding": public.encoding_name,
            "max_contributors": config.num_clients,
        }

    @property
    def public_key(self) -> bytes:
        """As it goes to the tenants."""
        return self._aggregator.public.public_bytes()

    def steps(
        self,
        job: Job,
        cohort: Sequence[str],
        note_failure: Callable[[str, str], None],
        publisher: Publisher | None = None,
    ) -> Steps[Sum]:
        """Ask the cohort, add what comes, and decrypt the sum.

        Args:
            job: what is asked for.
            cohort: whom.
            note_failure: takes a tenant and why its vector is not in the sum.
            publisher: keeps what shows that the sum was made truly, of a masked one; None: nothing is kept.

        Raises:
            TooFewContributorsError, RoundAbandonedError: too few tenants; nothing was decrypted.
            EncodingError: the sum is beyond what honest vectors add up to.
            EnrolmentError: the enrolled list can't be read.
        """
        _check_whom(job, cohort)
        c, public = self._config, self._aggregator.public
        task = Task(job.bucket, job.about, public.fingerprint(), c.num_clients, job.settings, job.group).digest()
        masking = self._make_masking()
        running = self._aggregator.open_round(job.number, job.size, task.hex(), job.bucket)
        opening = {**self._encryption, **job.opening}
        extras = yield from masking.open(
            Opening(job.number, cohort, running.layout.ciphertexts, opening, note_failure, task, job.bucket)
        )
        said: dict[str, Values] = {}
        longest = 0

        def add(tenant: str, outcome: Outcome) -> None:
            nonlocal longest
            arrived(1)
            if isinstance(outcome, Refusal | Lost):
                note_failure(tenant, explained(outcome))
                return
            try:
                running.add(tenant, outcome.payload, outcome.values.get("signature"))
            except UpdateRejectedError as error:
                note_failure(tenant, error.coded)
            else:
                said[tenant], longest = outcome.values, max(longest, len(outcome.payload))
                if publisher is not None:
                    nonce, signature = running.nonce_for(tenant), outcome.values.get("signature")
                    publisher.note(tenant, outcome.payload, nonce, signature)

        common = {"round": job.number, "cohort": len(cohort), **job.values, **self._encryption}
        requests = {
            tenant: Request(job.kind, {**common, **extra, "nonce": running.nonce_for(tenant)}, job.model)
            for tenant, extra in extras.items()
        }
        asked = time.perf_counter()
        if publisher is not None:
            publisher.begin()
        with self._shown(job, len(requests)) as arrived:
            yield Exchange(job.kind, requests, c.round_timeout, "round_timeout", add)
        waited = time.perf_counter() - asked
        _check_whom(job, running.contributors)
        unmask = yield from masking.close(running.contributors)
        start = time.perf_counter()
        plaintexts: list[int] = []
        if unmask is not None:
            unmask = _noting(unmask, plaintexts)
        total = running.decrypt_sum(unmask)
        seconds = time.perf_counter() - start
        opened = Opened(masking.evidence(), plaintexts, running.roots()) if publisher is not None else None
        return Sum(total, running.contributors, said, longest, waited, running.seconds, seconds, opened)

    def _shown(self, job: Job, tenants: int) -> AbstractContextManager[Callable[[int], None]]:
        """What a person sees of the wait for vectors: training alone takes long enough to be shown."""
        if job.kind is not Kind.TRAIN or not job.shown:
            return nullcontext(lambda _: None)
        return wait_for(_log, f"round {job.number} of {self._config.num_rounds}: {tenants} clients train", tenants)


def _noting(unmask: Unmask, plaintexts: list[int]) -> Unmask:
    """The same, which keeps what it was given."""

    def noted(masked: Sequence[int]) -> list[int]:
        plaintexts[:] = masked
        return unmask(masked)

    return noted


def _check_whom(job: Job, tenants: Sequence[str]) -> None:
    if missing := sorted((job.whom or frozenset()).difference(tenants)):
        raise TooFewContributorsError(f"this sum goes on from one with client {', '.join(missing)} in it")
