"""The closed list of words in which a masked tenant refuses: a code, and what the orchestrator shows for it.

An error's own text may depend on the tenant's rows ("the delta holds NaN" told, in twenty questions, the largest value
of a feature). So a masked tenant answers with a code of this list and nothing else; the whole text is in its own log.
"""

from typing import Final

from shared.errors import OrchestratorError, Reason
from shared.masking.errors import Rule
from shared.printable import printable

OTHER = "Refused"

SENTENCES: Final[dict[str, str]] = {
    OTHER: "it refuses; its own log says why",
    "audit: altered": "the proof has a contribution that its tenant did not sign",
    "audit: doubled": "a contribution is in the sum or its proof twice",
    "audit: dropped": "a contribution is missing from the sum or its proof",
    "audit: false decryption": "the sum was not decrypted truly",
    "audit: false masks": "the masks that were taken off are not the tenants'",
    "audit: false model": "the sum does not lead to the model",
    "audit: invented": "the proof has a contribution of nobody who takes part",
    "audit: no proof": "what it was shown is no proof of this round's sum",
    "EnrolmentError": "its list of enrolled tenants can't be read",
    "KeyMaterialError": "the public key is not the one that it accepts, or a file of its own keys can't be used",
    "PrivacyBudgetError": "the privacy budget of its rows is spent",
    "policy: audit_required": "its policy is against sums without proofs (audit: true)",
    "policy: dp_delta": "its policy allows a smaller dp_delta, with privacy: records",
    "policy: dp_target_epsilon": "its policy allows a smaller dp_target_epsilon, with privacy: records",
    "policy: evaluation": "its policy is against evaluations",
    "policy: least_cohort": "its policy asks for more tenants in a sum (min_contributors of the server)",
    "policy: local_epochs": "its policy allows fewer local_epochs",
    "policy: masked_required": "its policy is against updates without masks",
    "policy: model_parameters": "its policy allows smaller models only",
    "policy: pinned_key_fingerprint": "its policy insists on another public key",
    "policy: privacy_budget": "it has answered as many sums as its policy allows",
    "policy: privacy_required": "its policy is against sums without noise (privacy: records)",
    "policy: rounds_a_day": "it has answered as many rounds today as its policy allows",
    "policy: run_log_required": "its policy is against training without the head of the server's run log",
    "policy: statistics": "its policy is against sums over features",
    "RoundRefusedError": "what is asked does not fit its own settings; its own log says which",
    "RunLogError": "the server's run log does not go on from the head that it was given before",
    **{code: code.meaning for code in (*Reason, *Rule)},
}


def code_of(error: Exception) -> str:
    """The code to send for an error."""
    return error.code if isinstance(error, OrchestratorError) and error.code in SENTENCES else OTHER


def spelt_out(status: str) -> str:
    """A client's status text: a code with its sentence; what an unmasked client wrote is made printable."""
    return f"{status}: {SENTENCES[status]}" if status in SENTENCES else printable(status)
