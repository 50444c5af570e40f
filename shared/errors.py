"""Every error this project raises on purpose, in one tree.

The message of each says what was wrong, what was expected and what to do; the scripts print it as one line and
exit non-zero. Whatever is not an `OrchestratorError` is a bug.
"""

from shared.printable import LONGEST_ERROR, printable


class OrchestratorError(Exception):
    """Root of the tree: catch this to catch all of them.

    Its text is one printable line, as it may quote what came over the network or stood in a file.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), LONGEST_ERROR)


class ConfigError(OrchestratorError):
    """The YAML file has an unknown key, a wrong type, a value out of range, or a combination that can't work."""


class DataError(OrchestratorError):
    """A data file is missing or malformed."""


class OddFileError(DataError):
    """One file of several is empty, damaged or cut off; the others are still worth reading."""


class NoLogError(DataError):
    """None of the files of a folder is a log of the kind that is looked for."""


class StoreError(DataError):
    """An object store can't be reached, or refuses to list or to give what is in it."""


class SinkError(OrchestratorError):
    """A place that alerts are sent to can't be reached or refuses them; they are kept."""


class FollowStateError(OrchestratorError):
    """What remembers which logs were read and which alerts were sent is in use, damaged, or can't be written."""


class RuleError(OrchestratorError):
    """A folder of Sigma rules is missing or has none for the source, or a file in it holds no Sigma rule."""


class MissingDependencyError(OrchestratorError):
    """A library that the chosen settings need is not installed."""


class KeyMaterialError(OrchestratorError):
    """A cryptographic key is malformed, or not the one that was expected."""


class EncodingError(OrchestratorError):
    """A vector can't be represented in fixed point, or a sum of so many can't."""


class TooFewContributorsError(OrchestratorError):
    """Fewer valid updates than `min_contributors`: nothing may be decrypted."""


class TooFewClientsError(OrchestratorError):
    """Not enough clients connected within `client_wait_timeout`."""


class NoSumError(OrchestratorError):
    """Several rounds in a row came to no sum; going on would change nothing."""


class StatisticsError(OrchestratorError):
    """The clients' feature statistics could not be added up, so there is nothing to scale by."""


class PrivacyBudgetError(OrchestratorError):
    """What is asked for would take more of the rows' privacy budget than there is."""


class RolledBackError(OrchestratorError):
    """The orchestrator's validation rows speak against what a sum made of the model."""


class FrameError(OrchestratorError):
    """Bytes from another process are no request or answer of this project."""


class AgentError(OrchestratorError):
    """A tenant's agent can't listen on its socket, or can't be reached there."""


class EngineError(OrchestratorError):
    """Flower's engine was asked for something that it must not do here, such as a tenant's work on a real node."""


class AddressInUseError(OrchestratorError):
    """The server can't listen on `server_address`."""


class ServerUnreachableError(OrchestratorError):
    """A client found no server within `server_wait_timeout`.

    Attributes:
        reason: what the last try came to.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ChannelError(OrchestratorError):
    """The two sides do not agree on TLS, or the server's certificate is not to be trusted."""


class ResumeError(OrchestratorError):
    """There is no checkpoint to go on from, or it belongs to other settings."""


class RunInUseError(OrchestratorError):
    """Another server is at work on this run; two would write over each other's checkpoint."""


class RunLogError(OrchestratorError):
    """The log chain of a run was changed after it was written, or does not hold a head that was given out."""


class ReportError(OrchestratorError):
    """A run's folder holds no run, or a file in it is damaged, so that no report can be made of it."""


class AlertRateError(OrchestratorError):
    """The validation rows are too few to mean a rate of false alerts, so that no threshold stands for it."""


class BundleError(OrchestratorError):
    """What a run left of its model is missing, damaged, or does not fit together; nothing is scored with it."""


class RefusedByServerError(OrchestratorError):
    """The server does not take this client; its message says why."""


class RoundRefusedError(OrchestratorError):
    """A client will not take part in this round, because of what the server asked for."""


class SettingsMismatchError(RoundRefusedError):
    """The server asks for a training with other settings than the client's own."""


class PolicyError(RoundRefusedError):
    """A rule of the tenant's own policy is against what it is asked.

    Attributes:
        code: what a masked tenant says, `policy: <rule>`, a code of `shared/refusals.py`.
    """

    def __init__(self, rule: str, asked: str) -> None:
        super().__init__(f"the rule {rule} of this tenant's policy is against {asked}")
        self.code = f"policy: {rule}"


class EvaluationOffError(RoundRefusedError):
    """The client's own settings, or its refusal of this server's rounds, keep it out of evaluations."""


class UpdateRejectedError(OrchestratorError):
    """A client's update is left out of the round; the sum is as if the client had never answered."""


class PayloadLengthError(UpdateRejectedError):
    """The payload does not have the exact length that the model, the key and the packing imply."""


class MalformedPayloadError(UpdateRejectedError):
    """The bytes are not the pickled header and list of ciphertexts that they should be."""


class HeaderMismatchError(UpdateRejectedError):
    """The header is well-formed but of another round, key, scheme, size or format."""


class CiphertextError(UpdateRejectedError):
    """A number in the list is not a valid ciphertext under this key."""


class DuplicateUpdateError(UpdateRejectedError):
    """A second update of one client in one round."""


class ContributorLimitError(UpdateRejectedError):
    """One contributor more than the slots of the packing were sized for."""


class KeyFileError(KeyMaterialError):
    """A key's file is missing, unreadable, open to other users of the machine, or would be overwritten."""


class PassphraseError(KeyMaterialError):
    """An encrypted key file has no passphrase to open it, or one that does not open it."""


class EnrolmentError(OrchestratorError):
    """The list of enrolled clients is missing or malformed, or the change asked of it can't be made."""


class RosterSignatureError(EnrolmentError):
    """The list of enrolled clients is not signed, or by somebody else than the one that this side goes by."""


class RosterRolledBackError(EnrolmentError):
    """The list of enrolled clients is older than one that this side has seen, or another one of the same number."""


class EnrolmentRequestError(EnrolmentError):
    """A tenant's request to be enrolled, renewed or given another key is malformed, forged, or not of this roster."""


class NotEnrolledError(UpdateRejectedError):
    """The client's id is not in the list of enrolled clients."""


class RevokedClientError(UpdateRejectedError):
    """The client was enrolled, and its identity was revoked."""


class ExpiredClientError(UpdateRejectedError):
    """The client's enrolment has ended."""


class BadSignatureError(UpdateRejectedError):
    """There is no signature of the enrolled client for this very request and payload."""
