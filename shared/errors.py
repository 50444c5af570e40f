"""Every error this project raises on purpose, in one tree.

The message of each says what was wrong, what was expected and what to do; the scripts print it as one line and
exit non-zero. Whatever is not an `OrchestratorError` is a bug. A class is what somebody catches apart from others, or
what decides an exit code; what else there is to tell apart is in `code`.
"""

from enum import StrEnum
from typing import Self

from shared.printable import LONGEST_ERROR, printable


class Code(StrEnum):
    """A closed list of codes, for machines, of which each member also has a meaning, in a line, for people."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class Reason(Code):
    """Why a tenant takes no part, where the class of the error does not say it."""

    OTHER_SETTINGS = "round: other settings", "the settings of the training differ from its own"
    NO_EVALUATION = "round: no evaluation", "it takes no part in evaluations (fraction_evaluate)"
    ROSTER_SIGNATURE = "roster: bad signature", "its list of enrolled tenants is not signed by whom it goes by"
    ROSTER_ROLLED_BACK = "roster: rolled back", "its list of enrolled tenants is older than one that it has seen"


class Flaw(StrEnum):
    """What is wrong with an update."""

    LENGTH = "update: length"  # not the exact one that the model, the key and the packing imply
    MALFORMED = "update: malformed"  # not the pickled header and list of ciphertexts that it should be
    HEADER = "update: header"  # well-formed, but of another round, key, scheme, size, encoding or format
    CIPHERTEXT = "update: ciphertext"  # a number in the list is not a valid one under this key
    REPEATED = "update: repeated"  # the second one of a client in a round
    TOO_MANY = "update: too many"  # one contributor more than the slots of the packing were sized for
    NOT_ENROLLED = "update: not enrolled"  # the client's id is not in the list of enrolled clients
    REVOKED = "update: revoked"  # the client was enrolled, and its identity was revoked
    EXPIRED = "update: expired"  # the client's enrolment has ended
    SIGNATURE = "update: signature"  # there is none of the enrolled client for this very request and payload


class OrchestratorError(Exception):
    """Root of the tree: catch this to catch all of them.

    Its text is one printable line, as it may quote what came over the network or stood in a file.

    Args:
        message: the text.
        code: see below; empty: the name of the class.

    Attributes:
        code: what it is called where a machine reads it: in a log, in a metric, and in what a masked tenant answers,
            which is no more than that (`shared/refusals.py`).
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code or type(self).__name__

    def __str__(self) -> str:
        return printable(super().__str__(), LONGEST_ERROR)

    @property
    def coded(self) -> str:
        """The code and the text."""
        return f"{self.code}: {self}"


class ConfigError(OrchestratorError):
    """The YAML file has an unknown key, a wrong type, a value out of range, or a combination that can't work."""


class DataError(OrchestratorError):
    """A file of data, or of a run that is to be reported on, is missing or malformed."""


class OddFileError(DataError):
    """One file of several is empty, damaged or cut off; the others are still worth reading."""


class NoLogError(DataError):
    """None of the files of a folder is a log of the kind that is looked for."""


class StoreError(DataError):
    """An object store can't be reached, or refuses to list or to give what is in it."""


class MissingDependencyError(OrchestratorError):
    """A library that the chosen settings need is not installed."""


class KeyMaterialError(OrchestratorError):
    """A cryptographic key is malformed or not the one that was expected, or its file can't be used.

    A file can't be used that is missing, unreadable, open to other users of the machine, or would be overwritten.
    """


class PassphraseError(KeyMaterialError):
    """An encrypted key file has no passphrase to open it, or one that does not open it."""


class EncodingError(OrchestratorError):
    """A vector can't be represented in fixed point, or a sum of so many can't."""


class TooFewContributorsError(OrchestratorError):
    """Fewer valid updates than `min_contributors`: nothing may be decrypted."""


class NoSumError(OrchestratorError):
    """Several rounds in a row came to no sum; going on would change nothing."""


class StatisticsError(OrchestratorError):
    """The clients' feature statistics could not be added up, so there is nothing to scale by."""


class PrivacyBudgetError(OrchestratorError):
    """What is asked for would take more of the tenant's privacy budget than there is."""


class RolledBackError(OrchestratorError):
    """The orchestrator's validation rows speak against what a sum made of the model."""


class FrameError(OrchestratorError):
    """Bytes from another process are no request or answer of this project."""


class NetworkError(OrchestratorError):
    """An address can't be listened on, or the other side can't be reached, is not to be trusted, or refuses."""


class ServerUnreachableError(NetworkError):
    """A client found no server within `server_wait_timeout`.

    Attributes:
        reason: what the last try came to.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ResumeError(OrchestratorError):
    """There is nothing to go on from, or it is damaged, of other settings, or in use by another process.

    That is a run's checkpoint and log, or what a follower of logs remembers.
    """


class RunLogError(OrchestratorError):
    """The log chain of a run was changed after it was written, or does not hold a head that was given out."""


class AlertRateError(OrchestratorError):
    """The validation rows are too few to mean a rate of false alerts, so that no threshold stands for it."""


class BundleError(OrchestratorError):
    """What a run left of its model is missing, damaged, or does not fit together; nothing is scored with it."""


class EnrolmentError(OrchestratorError):
    """The list of enrolled clients or a request to be in it is malformed or forged, or the change can't be made."""


class RoundRefusedError(OrchestratorError):
    """A client will not take part in this round, because of what the server asked for."""


class PolicyError(RoundRefusedError):
    """A rule of the tenant's own policy is against what it is asked; its code is `policy: <rule>`."""

    def __init__(self, rule: str, asked: str) -> None:
        super().__init__(f"the rule {rule} of this tenant's policy is against {asked}", f"policy: {rule}")


class UpdateRejectedError(OrchestratorError):
    """A client's update is left out of the round; the sum is as if the client had never answered.

    Args:
        flaw: a member of `Flaw`, or of a protocol's own list; it is the code.
        message: the text.
    """

    def __init__(self, flaw: StrEnum, message: str) -> None:
        super().__init__(message, flaw)
