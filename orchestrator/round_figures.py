"""What a round's record says of its sum: whose vectors are in it, what they cost, and how much of it is noise."""

import logging
import math
from collections.abc import Sequence

from orchestrator.round import Sum
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.dp.plan import PrivacyPlan
from shared.errors import PrivacyBudgetError
from shared.exchange import Values
from shared.masking import least_honest, minimum_threshold

_FIRST_SUMS, _LEAST_SIGNAL = 5, 0.1
_MOST = 1e12  # no client's seconds or saturated values are more

_log = logging.getLogger("orchestrator")


def note_sum(record: RoundRecord, result: Sum, cohort: int, *, masked: bool) -> None:
    """Who contributed and what it cost.

    Args:
        record: of the round.
        result: its sum.
        cohort: tenants that were asked.
        masked: whether a tenant says nothing of its own seconds.
    """
    record.contributor_ids, record.contributors = result.contributors, len(result.contributors)
    record.failures = cohort - record.contributors
    # Who was lost after its update had arrived is in the model all the same.
    record.failed = {t: why for t, why in record.failed.items() if t not in result.contributors}
    record.fit_seconds = result.wait_seconds
    record.aggregate_seconds, record.decrypt_seconds = result.add_seconds, result.decrypt_seconds
    record.upload_bytes_per_client = result.payload_bytes
    if not masked:
        record.train_seconds = max(figure(said, "train_seconds") for said in result.said.values())
        record.encrypt_seconds = max(figure(said, "encrypt_seconds") for said in result.said.values())
    record.saturated = int(sum(figure(said, "saturated") for said in result.said.values()))
    _log.debug(
        "round %d: added %d encrypted updates in %.2f s, decrypted their sum in %.2f s",
        record.round, record.contributors, result.add_seconds, result.decrypt_seconds,
    )  # fmt: skip


def figure(said: Values, key: str) -> float:
    """A tenant's own figure of its work, for the log alone; 0 where it sent none or nonsense.

    Bounded, so that no sum of them is infinite: JSON has no such number, and the round's line could not be written.
    """
    value = said.get(key)
    return float(value) if isinstance(value, int | float) and 0 <= value <= _MOST else 0.0


def epsilon_so_far(plan: PrivacyPlan, rounds: int, repeated: int) -> float:
    """At most what the run has spent: no tenant answers beyond the target.

    Args:
        plan: of the whole run.
        rounds: that were asked for, skipped and rolled back ones among them.
        repeated: how many of them may have been asked for once more, by a server that went on with the run.
    """
    return min(plan.epsilon, plan.spent(rounds + repeated))


def note_privacy(
    record: RoundRecord, result: Sum, cohort: int, config: Config, plan: PrivacyPlan, earlier: Sequence[RoundRecord]
) -> None:
    """What the run has cost of the privacy budget, and how much of the round's sum is noise.

    Args:
        record: of the round; it has the epsilon.
        result: its sum.
        cohort: tenants that were asked.
        config: the settings.
        plan: of the whole run.
        earlier: the records of the rounds before.

    Raises:
        PrivacyBudgetError: the first sums of the run are next to nothing but noise.
    """
    sharers = least_honest(max(minimum_threshold(cohort), config.fewest_contributors), cohort)
    record.signal_to_noise = plan.signal_to_noise(result.total, len(result.contributors), sharers)
    _log.info(
        "round %d: epsilon %.3f of %g, delta %g; signal to noise %.2f",
        record.round, record.epsilon, config.dp_target_epsilon, config.dp_delta, record.signal_to_noise,
    )  # fmt: skip
    heard = [r.signal_to_noise for r in (*earlier, record) if r.signal_to_noise is not None]
    signal = math.sqrt(sum(ratio * ratio for ratio in heard) / len(heard))
    if len(heard) == _FIRST_SUMS and signal < _LEAST_SIGNAL and not config.dp_force:
        raise PrivacyBudgetError(
            f"the first {_FIRST_SUMS} sums are noise, with a signal of {signal:.2f} of its length; raise "
            "dp_target_epsilon or dp_sampling_rate, lower num_rounds, or go on all the same with dp_force: true"
        )
