"""Holds a tenant's policy against what it is asked, and counts what it answered.

What was answered is counted in `<client id>-policy.jsonl` of the tenant's memory, a line before each answer.
"""

from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from client.policy import Policy
from client.state import state_folder
from shared.config import Config
from shared.config_checks import CLIENT_ID
from shared.errors import PolicyError
from shared.identity import identity_name
from shared.line_memory import locked_lines


class Sum(StrEnum):
    """What a tenant's vector goes into."""

    TRAINING = "training"
    STATISTICS = "statistics"
    EVALUATION = "evaluation"


class PolicyKeeper:
    """Keeps a tenant's policy.

    Args:
        policy: the rules.
        config: the tenant's settings.
        name: the tenant's, as the roster has it.
        parameters: of the model that it would train.
        state: the folder of the tenant's memory.
    """

    def __init__(self, policy: Policy, config: Config, name: str, parameters: int, state: Path) -> None:
        self._policy, self._config, self._parameters = policy, config, parameters
        self._answered = state / f"{name}-policy.jsonl"

    @classmethod
    def of(cls, config: Config, client_id: int, parameters: int) -> "PolicyKeeper":
        """By the file that the settings name; without one nothing is refused.

        Raises:
            ConfigError: the file is missing, malformed, or not the tenant's own; or see `state_folder`.
        """
        path = config.tenant_policy.replace(CLIENT_ID, str(client_id))
        policy = Policy.load(Path(path)) if path else Policy()
        return cls(policy, config, identity_name(str(client_id)), parameters, state_folder(config, client_id))

    def check(self, kind: Sum, smallest: int) -> None:
        """Whether it takes part in a sum.

        Args:
            kind: of what.
            smallest: the fewest tenants that the sum may hold, as far as it is known.

        Raises:
            PolicyError: naming the rule that is against it.
        """
        p, c = self._policy, self._config
        if p.masked_required and not c.masked:
            raise PolicyError("masked_required", "updates without masks (secure_aggregation)")
        if p.least_cohort is not None and smallest < p.least_cohort:
            raise PolicyError("least_cohort", f"a sum of perhaps {smallest} tenants; it wants {p.least_cohort}")
        self._check_privacy()
        if p.audit_required and not c.audit:
            raise PolicyError("audit_required", "sums that nobody proves (audit: false)")
        if kind is Sum.TRAINING:
            _most("local_epochs", c.local_epochs, p.local_epochs)
        _most("model_parameters", self._parameters, p.model_parameters)
        if kind is Sum.STATISTICS and not p.statistics:
            raise PolicyError("statistics", "a sum over its features")
        if kind is Sum.EVALUATION and not p.evaluation:
            raise PolicyError("evaluation", "a sum over its held-out rows")
        if p.rounds_a_day is not None or p.privacy_budget is not None:
            self._look(kind, count=False)

    def _check_privacy(self) -> None:
        p, c = self._policy, self._config
        if p.privacy_required and c.privacy == "none":
            raise PolicyError("privacy_required", "sums without noise (privacy: none)")
        for rule, asked, most in (
            ("dp_target_epsilon", c.dp_target_epsilon, p.dp_target_epsilon),
            ("dp_delta", c.dp_delta, p.dp_delta),
        ):
            if most is not None and (c.privacy == "none" or asked > most):
                what = "sums without noise (privacy: none)" if c.privacy == "none" else f"{asked:g}"
                raise PolicyError(rule, f"{what}; it allows {most:g}")

    def check_run_log(self, kept: bool) -> None:
        """Whether it trains in a round.

        Args:
            kept: whether the head of the server's run log came with the request, and this tenant has it.

        Raises:
            PolicyError: it insists on one.
        """
        if self._policy.run_log_required and not kept:
            raise PolicyError("run_log_required", "a round without the head of the server's run log")

    def check_key(self, fingerprint: str) -> None:
        """Whether it encrypts under a public key.

        Raises:
            PolicyError: it insists on another.
        """
        pinned = self._policy.pinned_key_fingerprint
        if pinned and fingerprint not in pinned:
            raise PolicyError("pinned_key_fingerprint", f"the public key {fingerprint}; it wants {' or '.join(pinned)}")

    def count(self, kind: Sum) -> None:
        """Before an answer leaves: it counts, and it is the last one where a rule says so.

        Raises:
            PolicyError: there were as many as a rule allows, or what was answered can't be remembered.
        """
        if self._policy.rounds_a_day is not None or self._policy.privacy_budget is not None:
            self._look(kind, count=True)

    def _look(self, kind: Sum, *, count: bool) -> None:
        p, today = self._policy, datetime.now(UTC).date().isoformat()
        try:
            with locked_lines(self._answered) as lines:
                found = Counter((str(line["day"]), str(line["sum"])) for line in lines.records)
                if kind is Sum.TRAINING:
                    _most("rounds_a_day", found[today, kind.value] + 1, p.rounds_a_day)
                _most("privacy_budget", found.total() + 1, p.privacy_budget)
                if count:
                    lines.add({"day": today, "sum": kind.value})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise PolicyError(
                "privacy_budget" if p.privacy_budget is not None else "rounds_a_day",
                f"{self._answered}: {error}: what was answered can't be counted; restore it from a backup",
            ) from None


def _most(rule: str, asked: int, most: int | None) -> None:
    if most is not None and asked > most:
        raise PolicyError(rule, f"{asked:,}; it allows {most:,}")
