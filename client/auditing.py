"""The check of a round's sum by a tenant: that the orchestrator added what the tenants sent, and decrypted it truly.

What `verify` establishes, from a file that anybody may have written, the tenant's own settings and its own list of
enrolled tenants:

1. The masked round was about this very task, and at least t of its tenants confirmed who is in the sum.
2. Each of these, and nobody else, contributed exactly one vector, signed for this session, round, request and task.
3. The product of their ciphertexts holds the plaintexts that the orchestrator says it does: n-th roots prove it.
4. The masks that come off are those that the tenants committed to, and what is left is a sum of so many vectors.
5. It leads from the model that the round began with to the next, to the last bit.

So a contribution that was dropped, doubled, altered or invented, a false decryption and a false model are each found.
It does not say that a tenant's vector is an honest one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from gmpy2 import mpz

from shared.config import Config
from shared.data_sources.scaling import read_scaler
from shared.data_sources.schema import FeatureSchema
from shared.enrolment import Enrolment
from shared.errors import (
    ConfigError,
    DataError,
    EncodingError,
    Flaw,
    FrameError,
    KeyMaterialError,
    OrchestratorError,
    RoundRefusedError,
    UpdateRejectedError,
)
from shared.he.openings import imbalance
from shared.he.scheme import MaskablePublic, PublicScheme
from shared.identity import UpdateStatement, client_number, digest_arrays, digest_model
from shared.learner import Wanted, digest_state
from shared.learners import make_learner
from shared.masking.opened import OpenedMasks, SumMasks
from shared.model import build_model, get_parameters, set_parameters
from shared.sum_proof import Contribution, SumProof, open_proof
from shared.task import Task, training_settings
from shared.wire import Header, load_update, vector_encoding


class Fault(StrEnum):
    """What is wrong with a sum."""

    DROPPED = "dropped"  # a contribution that should be in it is not
    DOUBLED = "doubled"  # one is in it more than once
    ALTERED = "altered"  # one is not what its tenant signed
    INVENTED = "invented"  # one is of nobody who takes part
    DECRYPTION = "false decryption"  # the product of the contributions does not hold what it is said to hold
    MASKS = "false masks"  # who is in the sum, or a mask that was taken off it, is not what the tenants signed
    MODEL = "false model"  # the sum does not lead to the next global model
    FORM = "no proof"  # it can't be read, or is about something else


class AuditError(OrchestratorError):
    """A round's sum is not what it is said to be; its code is `audit: <fault>`.

    Attributes:
        fault: what is wrong.
    """

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(f"{fault}: {text}", f"audit: {fault}")
        self.fault = fault

    @property
    def coded(self) -> str:
        return f"audit: {self}"


class Place(NamedTuple):
    """Where a run is: digests of the global model and of the learner's state."""

    model: str
    state: str


class Accepted(NamedTuple):
    """What a tenant goes by, beside its settings.

    Attributes:
        scheme_of: makes the scheme under a public key, for the most vectors of a sum, if it is a key that it accepts.
        schema: of its raw features.
    """

    scheme_of: Callable[[bytes, int], PublicScheme[Any]]
    schema: FeatureSchema


@dataclass(frozen=True)
class Verified:
    """A sum that was made truly.

    Attributes:
        proof: of it.
        contributors: who is in it, by their names in the enrolled list, ascending.
        after: where it led.
        skipped: where a round without a sum leads from there.
    """

    proof: SumProof
    contributors: list[str]
    after: Place
    skipped: Place


def verify(path: Path, config: Config, enrolment: Enrolment, accepted: Accepted) -> Verified:
    """Check a proof; time and bytes grow with the contributions, memory does not.

    Args:
        path: the file.
        config: the tenant's own settings.
        enrolment: its own list.
        accepted: what else it goes by.

    Raises:
        AuditError: what is wrong with the sum.
    """
    try:
        with open_proof(path) as (proof, contributions):
            return _verify(path, proof, contributions, config, enrolment, accepted)
    except FrameError as error:
        raise AuditError(Fault.FORM, str(error)) from None
    except OSError as error:
        raise AuditError(Fault.FORM, f"{path}: can't be read: {error.strerror or error}") from None


def _verify(
    path: Path,
    proof: SumProof,
    contributions: Iterator[Contribution],
    config: Config,
    enrolment: Enrolment,
    accepted: Accepted,
) -> Verified:
    try:
        scheme = accepted.scheme_of(proof.public_key, proof.max_contributors)
    except (KeyMaterialError, ConfigError, EncodingError) as error:
        raise AuditError(Fault.FORM, f"no key that this tenant accepts: {error}") from None
    if not isinstance(scheme, MaskablePublic):
        raise AuditError(Fault.FORM, f"he_scheme {scheme.name}: its sums can't be proven")
    checked = _Checked(proof, config, enrolment, scheme, accepted.schema)
    total = checked.add(contributions)
    checked.check_opening(total, path)
    after, skipped = checked.check_model(total)
    return Verified(proof, sorted(checked.masks.seeds), after, skipped)


class _Checked:
    """A proof whose masks and task are checked; the methods go through the rest of it.

    Attributes:
        masks: that were in the sum.
    """

    def __init__(
        self,
        proof: SumProof,
        config: Config,
        enrolment: Enrolment,
        scheme: MaskablePublic[Any],
        schema: FeatureSchema,
    ) -> None:
        self._proof, self._config, self._enrolment, self._scheme = proof, config, enrolment, scheme
        self._model = build_model(config)
        self._learner = make_learner(config, self._model)
        wanted = self._start(schema)
        self._size = wanted.size
        if wanted.bucket != proof.bucket:
            raise AuditError(Fault.FORM, f"a sum of {proof.bucket!r:.40}, where {wanted.bucket!r} comes next")
        self.masks = self._check_masks()
        self._task = self._check_task()
        self._header = Header(
            scheme=scheme.name, round=proof.round_number, key=scheme.fingerprint(), size=self._size,
            encoding=vector_encoding(scheme, proof.bucket),
        )  # fmt: skip

    def _start(self, schema: FeatureSchema) -> Wanted:
        """Put model and learner where the round began; the sum that they ask for."""
        proof = self._proof
        try:
            set_parameters(self._model, proof.before)
            self._learner.scale_by(read_scaler(self._config.scaling, proof.scaler, schema), schema)
            self._learner.restore(proof.state)
            return self._learner.wanted()
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError, DataError, ConfigError) as error:
            raise AuditError(Fault.FORM, f"the round began with no model of mine: {error}") from None

    def _check_masks(self) -> SumMasks:
        try:
            opened = OpenedMasks.decode(self._proof.masks)
            return opened.check(self._enrolment.public_keys(), self._scheme.modulus)
        except RoundRefusedError as error:
            raise AuditError(Fault.MASKS, str(error)) from None

    def _check_task(self) -> bytes:
        """The round is about what the proof shows, and this tenant would train so, too."""
        proof, terms, c = self._proof, self.masks.terms, self._config
        said = (terms.session.hex(), terms.round_number, terms.bucket)
        if said != (proof.session, proof.round_number, proof.bucket):
            raise AuditError(Fault.FORM, f"the masks are of session, round and vector {said}, not of this round's")
        task = Task(
            proof.bucket, digest_model(proof.before, proof.scaler), self._scheme.fingerprint(), proof.max_contributors,
            training_settings(c),
        ).digest()  # fmt: skip
        if task != terms.task:
            raise AuditError(
                Fault.MODEL,
                "the tenants worked on another model, scaler, key or settings than are shown; if the settings of both "
                "sides differ, make them the same",
            )
        return task

    def add(self, contributions: Iterator[Contribution]) -> Any:
        """The product of the contributions, once each of them is checked."""
        seen: set[str] = set()
        total: Any = None
        for contribution in contributions:
            client = contribution.client
            if client in seen:
                raise AuditError(Fault.DOUBLED, f"two contributions of {client!r:.80}")
            seen.add(client)
            if client not in self.masks.seeds:
                raise AuditError(
                    Fault.INVENTED, f"a contribution of {client!r:.80}, whom the tenants did not confirm to be in it"
                )
            vector = self._vector(contribution)
            total = vector if total is None else self._scheme.add(total, vector)
        if missing := sorted(self.masks.seeds.keys() - seen):
            raise AuditError(Fault.DROPPED, f"no contribution of {', '.join(missing)}, confirmed to be in the sum")
        return total

    def _vector(self, contribution: Contribution) -> Any:
        proof, client = self._proof, contribution.client
        try:
            statement = UpdateStatement(
                session=proof.session, server_round=proof.round_number, nonce=contribution.nonce,
                key_fingerprint=self._header.key, task_sha256=self._task.hex(), payload=contribution.payload,
            )  # fmt: skip
            self._enrolment.verify(client, statement, contribution.signature)
            parts = load_update(contribution.payload, self._header, self._scheme.layout(self._size))
            return self._scheme.from_bytes(*parts)
        except (UpdateRejectedError, RoundRefusedError) as error:
            if error.code in (Flaw.NOT_ENROLLED, Flaw.REVOKED):
                raise AuditError(Fault.INVENTED, str(error)) from None
            raise AuditError(Fault.ALTERED, f"the contribution of {client}: {error}") from None

    def check_opening(self, total: Any, path: Path) -> None:
        """The plaintexts are those of the product; if not, whose contribution it is that makes the difference."""
        proof, scheme = self._proof, self._scheme
        try:
            found = imbalance(mpz(scheme.modulus), scheme.numbers(total), proof.plaintexts, proof.roots)
        except ValueError as error:
            raise AuditError(Fault.DECRYPTION, str(error)) from None
        if found.none:
            return
        with open_proof(path) as (_, contributions):
            for contribution in contributions:
                numbers = scheme.numbers(self._vector(contribution))
                if found.without(numbers):
                    raise AuditError(Fault.DROPPED, f"what was decrypted is the sum without {contribution.client}")
                if found.with_again(numbers):
                    raise AuditError(Fault.DOUBLED, f"what was decrypted is the sum with {contribution.client} twice")
        raise AuditError(Fault.DECRYPTION, "the product of the contributions does not hold what is said to be in it")

    def check_model(self, total: Any) -> tuple[Place, Place]:
        """Steps 10 to 12 of the flow once more: where the sum led, and where a round without a sum leads from there."""
        try:
            plaintexts = self.masks.take_off(self._proof.plaintexts)
            vector = self._scheme.decode_sum(total, plaintexts, self._size, len(self.masks.seeds), self._task)
            self._learner.step(vector, sorted(map(client_number, self.masks.seeds), key=int))
        except EncodingError as error:
            raise AuditError(Fault.MODEL, f"the sum is none that leads to a model: {error}") from None
        after = self._place()
        if after.model != self._proof.after:
            raise AuditError(
                Fault.MODEL,
                "the sum leads to another model than the next one; if settings of the training differ between the two "
                "sides, make them the same",
            )
        self._learner.skip()
        return after, self._place()

    def _place(self) -> Place:
        return Place(digest_arrays(get_parameters(self._model)), digest_state(self._learner.state()))
