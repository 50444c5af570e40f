"""What a client is ready to upload in a masked round. Terms that say anything else are refused."""

from dataclasses import dataclass

from shared.errors import ConfigError
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.messages import MIN_COHORT, RoundTerms, modulus_digest


@dataclass(frozen=True)
class VectorPlan:
    """The vector that a client means to upload, and the least sum that it may be part of.

    Attributes:
        bucket: which vector it is.
        modulus: the Paillier modulus n that it will encrypt under.
        ciphertexts: length of the vector of plaintexts.
        n_min: the least number of clients that a sum may cover, at least 3.

    Raises:
        ConfigError: n_min below 3.
    """

    bucket: str
    modulus: int
    ciphertexts: int
    n_min: int = MIN_COHORT

    def __post_init__(self) -> None:
        if self.n_min < MIN_COHORT:
            raise ConfigError(f"n_min = {self.n_min}: expected at least {MIN_COHORT}; a smaller sum shows an update")

    def check(self, terms: RoundTerms) -> None:
        """Refuse a round that is about another vector.

        Raises:
            BrokenRuleError of OTHER_TERMS: another public key, bucket or number of ciphertexts than planned.
            BrokenRuleError of SMALL_COHORT: the announced n_min is below the client's own.
        """
        if terms.modulus_digest != modulus_digest(self.modulus):
            raise BrokenRuleError(
                Rule.OTHER_TERMS, "the round is for another public key than the one this client encrypts under"
            )
        if (terms.bucket, terms.ciphertexts) != (self.bucket, self.ciphertexts):
            raise BrokenRuleError(
                Rule.OTHER_TERMS,
                f"the round is for {terms.ciphertexts} ciphertexts of {terms.bucket!r}; "
                f"expected {self.ciphertexts} of {self.bucket!r}",
            )
        if terms.n_min < self.n_min:
            raise BrokenRuleError(Rule.SMALL_COHORT, f"n_min = {terms.n_min}; expected at least {self.n_min}")
