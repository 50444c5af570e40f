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

A rule that is left out does not hold it back. `tenant_policy` of the settings names the file, which is read at the
start. `state_dir` is no rule, but the folder of the tenant's memory (`client/state.py`).
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shared.bounded_files import open_regular, read_at_most
from shared.config import listed_pins
from shared.errors import ConfigError
from shared.yaml_values import parse_yaml

_MOST_BYTES: Final = 1 << 16
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Bound = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
_Fingerprint = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Policy(BaseModel):
    """The rules; None: none of that kind. `state_dir` is a path, from the file's own folder on."""

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
    state_dir: str = ""

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
                text = read_at_most(file, _MOST_BYTES, str(path)).decode()
            if not text.strip():  # as a full disk or a copy that broke off leaves it
                raise ConfigError(f"{path}: empty; write the rules again, or {{}} for a policy without any")
            raw: Any = parse_yaml(text)
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


def _check_owner(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path}: belongs to another user (id {status.st_uid}), who could loosen it; write a file of your own"
        )
    if not stat.S_ISLNK(status.st_mode) and mode & 0o022:
        raise ConfigError(f"{path}: mode {mode:04o} lets other users loosen it; run: chmod go-w {path}")
