"""The closed list of words in which a masked tenant refuses: a code, and what the orchestrator shows for it.

An error's own text may depend on the tenant's rows ("the delta holds NaN" told, in twenty questions, the largest value
of a feature). So a masked tenant answers with a code of this list and nothing else; the whole text is in its own log.
"""

from shared.errors import OrchestratorError
from shared.printable import printable

OTHER = "Refused"

SENTENCES = {
    OTHER: "it refuses; its own log says why",
    "audit: altered": "the proof has a contribution that its tenant did not sign",
    "audit: doubled": "a contribution is in the sum or its proof twice",
    "audit: dropped": "a contribution is missing from the sum or its proof",
    "audit: false decryption": "the sum was not decrypted truly",
    "audit: false masks": "the masks that were taken off are not the tenants'",
    "audit: false model": "the sum does not lead to the model",
    "audit: invented": "the proof has a contribution of nobody who takes part",
    "audit: no proof": "what it was shown is no proof of this round's sum",
    "BadSignatureError": "a signature does not verify",
    "BothSharesError": "both shares of one tenant are asked for",
    "CohortSwapError": "tenants were exchanged since the last sum, by too few to hide in the difference",
    "CohortTooSmallError": "the cohort is smaller than it allows",
    "ConsistencyError": "not all tenants see the same round",
    "EnrolmentError": "its list of enrolled tenants can't be read",
    "EvaluationOffError": "it takes no part in evaluations (fraction_evaluate)",
    "KeyMaterialError": "the public key is not the one that it accepts",
    "MalformedMessageError": "a message is not of the expected form",
    "OutOfOrderError": "a stage of the round comes too early",
    "OwnAdvertError": "the roster is without its own advert",
    "OwnUpdateMissingError": "the survivors are without itself",
    "PrivacyBudgetError": "the privacy budget of its rows is spent",
    "RepeatedAdvertError": "one identity or key stands for two tenants",
    "RepeatedStageError": "a stage of the round is asked for twice",
    "policy: evaluation": "its policy is against evaluations",
    "policy: least_cohort": "its policy asks for more tenants in a sum (min_contributors of the server)",
    "policy: local_epochs": "its policy allows fewer local_epochs",
    "policy: masked_required": "its policy is against updates without masks",
    "policy: model_parameters": "its policy allows smaller models only",
    "policy: pinned_key_fingerprint": "its policy insists on another public key",
    "policy: privacy_budget": "it has answered as many sums as its policy allows",
    "policy: rounds_a_day": "it has answered as many rounds today as its policy allows",
    "policy: statistics": "its policy is against sums over features",
    "ReplayedMessageError": "a message is of another session, round, bucket or of other terms",
    "RosterRolledBackError": "its list of enrolled tenants is older than one that it has seen",
    "RosterSignatureError": "its list of enrolled tenants is not signed by whom it goes by",
    "RoundMemoryError": "its memory of earlier rounds can't be read or written",
    "RoundOverError": "it has refused this round before",
    "RoundRefusedError": "what is asked does not fit its own settings; its own log says which",
    "RunLogError": "the server's run log does not go on from the head that it was given before",
    "SettingsMismatchError": "the settings of the training differ from its own",
    "ShareRequestError": "shares are asked for that the survivors don't call for",
    "StaleRoundError": "it was in this round, or a later one, before",
    "SubsetError": "a set of tenants is not inside the one before it",
    "TaskMismatchError": "it was given another task than the round's terms name",
    "TermsMismatchError": "the terms are for another key or vector",
    "ThresholdTooLowError": "the threshold is lower than it allows",
    "UnknownPeerError": "a tenant is not enrolled",
    "WeakKeyError": "a tenant's key is weak",
    "WorkRepeatedError": "its answer to this was in a sum over other tenants before",
}


def code_of(error: Exception) -> str:
    """The code to send for an error."""
    name = getattr(error, "code", type(error).__name__)
    return name if isinstance(error, OrchestratorError) and name in SENTENCES else OTHER


def spelt_out(status: str) -> str:
    """A client's status text: a code with its sentence; what an unmasked client wrote is made printable."""
    return f"{status}: {SENTENCES[status]}" if status in SENTENCES else printable(status)
