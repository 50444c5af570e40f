"""Why a tenant is left out, as one of a closed list of names: a label of a metric must not be anybody's free text."""

import re
from typing import Final

import shared.errors
import shared.masking.errors
from shared.refusals import SENTENCES

LOST: Final = "lost"
NOT_ENROLLED: Final = "not enrolled"
OTHER: Final = "other"
_STAGE = re.compile(r"at \w+: ")
_SENTENCES = {"it is not enrolled, or no longer": NOT_ENROLLED}  # of `orchestrator/masked_sum.py`

NAMES: Final = frozenset(
    {
        *SENTENCES, *shared.errors.Flaw, LOST, NOT_ENROLLED, OTHER,
        *(
            name
            for module in (shared.errors, shared.masking.errors)
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, shared.errors.OrchestratorError)
        ),
    }
)  # fmt: skip


def reason_name(reason: str) -> str:
    """The error's code or class, the code of a masked tenant, "lost", or "other" for whatever else a tenant may say.

    Args:
        reason: as the log has it, such as "at share: lost: no answer" or "update: signature: …".
    """
    reason = _STAGE.sub("", reason, count=1) if reason.startswith("at ") else reason
    head, _, rest = reason.partition(": ")
    code = f"{head}: {rest.partition(': ')[0]}"  # such as "policy: least_cohort"
    return next((name for name in (code, head, _SENTENCES.get(reason, "")) if name in NAMES), OTHER)
