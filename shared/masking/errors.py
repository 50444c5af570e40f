"""The errors of masked aggregation.

A client that raises one takes no further part in the round, and its secrets are gone. A client about whose message the
server raises one counts as dropped out. Both read the same bytes by the same rules, so one class serves both sides.
`RoundAbandonedError` ends the round on the server, without any result.
"""

from enum import unique

from shared.errors import Code, OrchestratorError, RoundRefusedError, UpdateRejectedError


@unique
class Rule(Code):
    """The rules of the protocol, by what breaks them."""

    MALFORMED_MESSAGE = "masking: malformed message", "a message is not of the expected form"  # the one canonical one
    REPLAYED_MESSAGE = (
        "masking: replayed message", "a message is of another session, round, bucket or of other terms",
    )  # fmt: skip
    BAD_SIGNATURE = "masking: bad signature", "a signature does not verify"
    UNKNOWN_PEER = "masking: unknown peer", "a tenant is not enrolled"
    FALSE_SECRET = "masking: false secret", "a secret is not the one that its tenant committed to"
    REPEATED_ADVERT = "masking: repeated advert", "one identity or key stands for two tenants"  # a Sybil
    # An X25519 key of low order: the shared secret would be known to everybody.
    WEAK_KEY = "masking: weak key", "a tenant's key is weak"
    # Of roster, boxes and survivors: the split-view attack, or a faulty server.
    CONSISTENCY = "masking: consistency", "not all tenants see the same round"
    OUT_OF_ORDER = "masking: out of order", "a stage of the round comes too early"  # or a message of one too late
    OTHER_TERMS = "masking: other terms", "the terms are for another key or vector"
    OTHER_TASK = "masking: other task", "it was given another task than the round's terms name"
    REPEATED_WORK = "masking: repeated work", "its answer to this was in a sum over other tenants before"
    COHORT_SWAP = (
        "masking: cohort swap", "tenants were exchanged since the last sum, by too few to hide in the difference",
    )  # fmt: skip
    # t < floor(2N/3) + 1: two disjoint halves of the cohort could each be made to reveal.
    LOW_THRESHOLD = "masking: low threshold", "the threshold is lower than it allows"
    # Fewer than max(t, n_min) at some stage: the sum would hide too little.
    SMALL_COHORT = "masking: small cohort", "the cohort is smaller than it allows"
    OWN_ADVERT = "masking: own advert", "the roster is without its own advert"
    SUBSET = "masking: subset", "a set of tenants is not inside the one before it"
    OWN_UPDATE = "masking: own update", "the survivors are without itself"
    BOTH_SHARES = "masking: both shares", "both shares of one tenant are asked for"  # which open that tenant's update
    SHARE_REQUEST = "masking: share request", "shares are asked for that the survivors don't call for"
    REPEATED_STAGE = "masking: repeated stage", "a stage of the round is asked for twice"
    ROUND_OVER = "masking: round over", "it has refused this round before"
    STALE_ROUND = "masking: stale round", "it was in this round, or a later one, before"
    ROUND_MEMORY = "masking: round memory", "its memory of earlier rounds can't be read or written"
    REPEATED_MESSAGE = "masking: repeated message", "a second message of one tenant at one stage"  # the first stands
    OUTSIDE_COHORT = (
        "masking: outside cohort", "a message of, or about, a tenant that is not, or no longer, in the round",
    )  # fmt: skip


class BrokenRuleError(RoundRefusedError, UpdateRejectedError):
    """A rule of the protocol is broken: `code` says which."""

    def __init__(self, rule: Rule, message: str) -> None:
        UpdateRejectedError.__init__(self, rule, message)


class RoundAbandonedError(OrchestratorError):
    """The round ends without a sum; nothing was unmasked. The next round may well work."""
