"""A tenant's policy: what it agrees to, in a file that it alone writes, whatever the common YAML file says.

    least_cohort: 5             # tenants that a sum must hold
    masked_required: true       # no update without masks
    privacy_required: true      # no sum without the noise of `privacy: records`
    dp_target_epsilon: 4.0      # most, of that noise; without noise it is more than any
    dp_delta: 0.000001          # most, likewise
    audit_required: true        # no sum in a run without proofs of its sums (`audit: true`)
    run_log_required: true      # no training without the signed head of the server's run log
    pinned_key_fingerprint: ""  # of the public key that it encrypts under, or a list of which it is one
    local_epochs: 10            # most
    model_parameters: 100000    # most
    rounds_a_day: 200           # most sums of training that it answers on one day, UTC
    statistics: true            # false: no sums over its features
    evaluation: true            # false: no sums over its held-out rows
    privacy_budget: 5000        # most sums of whatever kind that it answers, ever

A rule that is left out does not hold it back. `tenant_policy` of the settings names the file, which is read once, at
the start. What was answered is counted in `<log_dir>/state/<client id>-policy.jsonl`, a line before each answer.
"""

import os
import stat
from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shared.bounded_files import open_regular, read_at_most
from shared.config import Config, listed_pins
from shared.errors import ConfigError, PolicyError
from shared.line_memory import locked_lines
from shared.yaml_values import parse_yaml

_MOST_BYTES: Final = 1 << 16
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Bound = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
_Fingerprint = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Sum(StrEnum):
    """What a tenant's vector goes into."""

    TRAINING = "training"
    STATISTICS = "statistics"
    EVALUATION = "evaluation"


class Policy(BaseModel):
    """The rules; None: none of that kind."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    least_cohort: Annotated[int, Field(ge=2, le=10_000)] | None = None
    masked_required: bool = False
    privacy_required: bool = False
    dp_target_epsilon: _Bound | None = None
    dp_delta: _Bound | None = None
    audit_required: bool = False
    run_log_required: bool = False
    pinned_key_fingerprint: Annotated[tuple[_Fingerprint, ...], BeforeValidator(listed_pins)] = ()
    local_epochs: _Count | None = None
    model_parameters: _Count | None = None
    rounds_a_day: _Count | None = None
    statistics: bool = True
    evaluation: bool = True
    privacy_budget: _Count | None = None

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read a policy's file.

        Raises:
            ConfigError: missing, not YAML, an unknown or malformed rule, another user's, or open to others' writing.
        """
        try:
            _check_owner(path, path.lstat())
            with open_regular(path) as file:
                _check_owner(path, os.fstat(file.fileno()))
                raw: Any = parse_yaml(read_at_most(file, _MOST_BYTES, str(path)).decode())
            return cls.model_validate({} if raw is None else raw)
        except OSError as error:
            raise ConfigError(
                f"tenant_policy = {str(path)!r}: {error.strerror}; write it, or leave the setting out"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigError(
                f"{path}: {where}: {first['msg']}; expected the rules {', '.join(cls.model_fields)}"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{path}: {error}; expected rules such as 'least_cohort: 5'") from None


class PolicyKeeper:
    """Keeps a tenant's policy.

    Args:
        policy: the rules.
        config: the tenant's settings.
        name: the tenant's, as the roster has it.
        parameters: of the model that it would train.
    """

    def __init__(self, policy: Policy, config: Config, name: str, parameters: int) -> None:
        self._policy, self._config, self._parameters = policy, config, parameters
        self._answered = Path(config.log_dir) / "state" / f"{name}-policy.jsonl"

    @classmethod
    def of(cls, config: Config, client_id: int, parameters: int) -> "PolicyKeeper":
        """By the file that the settings name; without one nothing is refused.

        Raises:
            ConfigError: the file is missing, malformed, or not the tenant's own.
        """
        path = config.tenant_policy.replace("{client_id}", str(client_id))
        return cls(Policy.load(Path(path)) if path else Policy(), config, f"client-{client_id}", parameters)

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


def _check_owner(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path}: belongs to another user (id {status.st_uid}), who could loosen it; write a file of your own"
        )
    if not stat.S_ISLNK(status.st_mode) and mode & 0o022:
        raise ConfigError(f"{path}: mode {mode:04o} lets other users loosen it; run: chmod go-w {path}")
