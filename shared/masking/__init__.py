"""Masked aggregation: the holder of the Paillier private key learns the cohort's sum and no single update.

Two state machines, `ClientRound` and `ServerRound`, with plain bytes between them and no network code in either.
"""

from shared.masking.client import ClientRound
from shared.masking.memory import RoundMemory
from shared.masking.messages import (
    EVALUATION,
    MIN_COHORT,
    SESSION_BYTES,
    WEIGHTS,
    RoundTerms,
    least_honest,
    minimum_threshold,
    modulus_digest,
)
from shared.masking.plan import VectorPlan
from shared.masking.server import ServerRound

__all__ = [
    "EVALUATION",
    "MIN_COHORT",
    "SESSION_BYTES",
    "WEIGHTS",
    "ClientRound",
    "RoundMemory",
    "RoundTerms",
    "ServerRound",
    "VectorPlan",
    "least_honest",
    "minimum_threshold",
    "modulus_digest",
]
