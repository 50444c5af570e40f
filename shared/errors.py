"""Every error this project raises on purpose, in one tree.

The message of each says what was wrong, what was expected and what to do; the scripts print it as one line and
exit non-zero. Whatever is not an `OrchestratorError` is a bug.
"""


class OrchestratorError(Exception):
    """Root of the tree: catch this to catch all of them."""


class ConfigError(OrchestratorError):
    """The YAML file has an unknown key, a wrong type, a value out of range, or a combination that can't work."""


class DataError(OrchestratorError):
    """A data file is missing or malformed."""


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


class AddressInUseError(OrchestratorError):
    """The server can't listen on `server_address`."""


class ServerUnreachableError(OrchestratorError):
    """A client found no server within `server_wait_timeout`."""


class RefusedByServerError(OrchestratorError):
    """The server does not take this client; its message says why."""


class RoundRefusedError(OrchestratorError):
    """A client will not take part in this round, because of what the server asked for."""


class UpdateRejectedError(OrchestratorError):
    """A client's update is left out of the round; the sum is as if the client had never answered."""


class PayloadLengthError(UpdateRejectedError):
    """The payload does not have the exact length that the model, the key and the packing imply."""


class ForbiddenOpcodeError(UpdateRejectedError):
    """The pickle holds an opcode that a header and a list of ciphertexts never need."""


class ForbiddenGlobalError(ForbiddenOpcodeError):
    """The pickle names a module's attribute: the way that pickles run code."""


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
