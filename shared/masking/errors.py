"""The errors of masked aggregation.

What a client raises is a `RoundRefusedError`: it takes no further part in the round and its secrets are gone. What the
server raises about one message is an `UpdateRejectedError`: that client counts as dropped out. Some are both, because
both sides read the same bytes. `RoundAbandonedError` ends the round on the server, without any result.
"""

from shared.errors import OrchestratorError, RoundRefusedError, UpdateRejectedError


class MalformedMessageError(RoundRefusedError, UpdateRejectedError):
    """The bytes are not the one canonical form of the message that was expected."""


class ReplayedMessageError(RoundRefusedError, UpdateRejectedError):
    """A well-formed message of another session, round, bucket or of other terms."""


class BadSignatureError(RoundRefusedError, UpdateRejectedError):
    """A signature does not verify under the key that was enrolled for its sender."""


class UnknownPeerError(RoundRefusedError, UpdateRejectedError):
    """A client that was never enrolled."""


class FalseSecretError(RoundRefusedError):
    """A seed or a mask key that is shown for a client is not the one that it committed to."""


class RepeatedAdvertError(RoundRefusedError, UpdateRejectedError):
    """One identity or one key stands for two clients of a round (a Sybil)."""


class WeakKeyError(RoundRefusedError, UpdateRejectedError):
    """An X25519 key of low order: the shared secret would be known to everybody."""


class ConsistencyError(RoundRefusedError, UpdateRejectedError):
    """Not all see the same roster, boxes and survivors: the split-view attack, or a faulty server."""


class OutOfOrderError(RoundRefusedError, UpdateRejectedError):
    """A stage was called before the one that precedes it, or a message came after its stage was closed."""


class TermsMismatchError(RoundRefusedError):
    """The round is for another public key, another vector or another number of ciphertexts than the client has."""


class TaskMismatchError(RoundRefusedError):
    """The client was given another model, scaler, key or settings than the round's terms name."""


class WorkRepeatedError(RoundRefusedError):
    """The client's answer was in a sum before, and this sum is to be over other clients."""


class CohortSwapError(RoundRefusedError):
    """Tenants were exchanged since the session's last sum, by too few to hide in the difference."""


class ThresholdTooLowError(RoundRefusedError):
    """t < floor(2N/3) + 1: two disjoint halves of the cohort could each be made to reveal."""


class CohortTooSmallError(RoundRefusedError):
    """Fewer clients than max(t, n_min) at some stage: the sum would hide too little."""


class OwnAdvertError(RoundRefusedError):
    """The roster lacks the client's own advert, or shows another one in its place."""


class SubsetError(RoundRefusedError):
    """A set of clients is not inside the set of the stage before it."""


class OwnUpdateMissingError(RoundRefusedError):
    """The survivors don't include this client, which has then no business in confirming them."""


class BothSharesError(RoundRefusedError):
    """The server asks for both shares of one peer, which together open that peer's update."""


class ShareRequestError(RoundRefusedError):
    """The server asks for a share that the confirmed survivors don't call for."""


class RepeatedStageError(RoundRefusedError):
    """A second upload, confirm or reveal (or another stage) in one round."""


class RoundOverError(RoundRefusedError):
    """The client has refused this round already; its keys and secrets are erased."""


class StaleRoundError(RoundRefusedError):
    """The client has been in this round, or in a later one, before."""


class RoundMemoryError(RoundRefusedError):
    """The file that remembers rounds can't be read or written; without it no round is safe."""


class RepeatedMessageError(UpdateRejectedError):
    """A second message of one client at one stage; the first one stands."""


class OutsideCohortError(UpdateRejectedError):
    """A message of a client that is not, or no longer, in the round, or about such a client."""


class RoundAbandonedError(OrchestratorError):
    """The round ends without a sum; nothing was unmasked. The next round may well work."""


class CorruptSharesError(RoundAbandonedError):
    """No tried set of t shares rebuilds a secret that fits its commitment."""
