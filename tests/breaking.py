"""What a test expects that breaks a rule: one class stands for many rules, and a test means one of them."""

import pytest

from shared.errors import EnrolmentError, Flaw, OrchestratorError, Reason, RoundRefusedError, UpdateRejectedError
from shared.masking.errors import BrokenRuleError, Rule

_CLASSES: dict[type[Rule | Flaw | Reason], tuple[type[OrchestratorError], ...]] = {
    Rule: (BrokenRuleError,),
    Flaw: (UpdateRejectedError,),
    Reason: (EnrolmentError, RoundRefusedError),
}


def breaks(*codes: Rule | Flaw | Reason, match: str | None = None) -> pytest.RaisesExc[OrchestratorError]:
    """As `pytest.raises`, for an error of exactly one of these codes, in a class that carries such codes."""
    classes = _CLASSES[type(codes[0])]
    return pytest.RaisesExc(classes, match=match, check=lambda error: error.code in codes)
