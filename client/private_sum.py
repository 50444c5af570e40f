"""A tenant's part in an encrypted sum: one vector as ciphertexts, plain or masked.

A masked part keeps `shared/masking`'s rules between the stages of a sum. The order of the calls and everything that the
orchestrator says is judged in `shared/masking/client.py`.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from client.grouping import Grouping
from client.ledger import Ledger
from client.request_values import data, integer, text
from client.state import state_folder
from shared.config import Config
from shared.errors import ConfigError, RoundRefusedError
from shared.exchange import Kind, Values
from shared.frames import decode_values, encode_values
from shared.he.scheme import Encrypted, MaskablePublic, Progress, PublicScheme, Vector
from shared.identity import ClientIdentity, client_number
from shared.masking import WEIGHTS, ClientRound, RoundTerms, VectorPlan
from shared.private_files import make_private_folder
from shared.roster import Roster
from shared.task import Task

_UNLIKE = (
    "the server masks updates and this client doesn't; both sides need the same secure_aggregation, and masking needs "
    "enrolled_clients and client_identity"
)


class Part(Protocol):
    """A tenant's part. Whatever is raised, the tenant is out of this sum."""

    group: str  # label of the group that the sum under way is over; empty: all tenants

    def enter(self, announcement: bytes, scheme: PublicScheme[Any], sizes: Mapping[str, int], values: Values) -> bytes:
        """Enter a masked sum for which this tenant will encrypt one of its vectors with `scheme`.

        Args:
            announcement: the round's terms; they name the vector.
            scheme: what it will encrypt with.
            values: what the server sent beside them: the draws of groups, where there are any.
            sizes: values of each vector that it has, by name ("weights", "evaluation" and those of
                `shared/feature_statistics.py`).

        Raises:
            OrchestratorError: the tenant refuses.
        """

    def answer(self, kind: Kind, payload: bytes) -> bytes:
        """One of the later stages.

        Raises:
            OrchestratorError: the tenant refuses.
        """

    def encrypt(
        self,
        scheme: PublicScheme[Any],
        vector: Vector,
        round_number: int,
        boxes: object,
        progress: Progress,
        task: Task,
        work: bytes,
    ) -> Encrypted[Any]:
        """The vector, (size,), as the ciphertexts to send.

        Args:
            scheme: what to encrypt with.
            vector: the delta, weighted; or statistics, or the sums of an evaluation.
            round_number: which round it answers.
            boxes: what the server sent along for masking; None where it sent nothing.
            progress: called with the number of ciphertexts just made.
            task: what this tenant was really given and asked to do.
            work: what it computed from which rows; see `Task.work`.

        Raises:
            OrchestratorError: the tenant refuses.
        """

    def sharers(self) -> int:
        """How many honest tenants are sure to be in the masked sum that is under way: who shares its noise.

        Raises:
            RoundRefusedError: it is in none.
        """

    def close(self) -> None:
        """Give back what no other process may have open meanwhile; twice is fine."""

    def suspend(self) -> bytes:
        """Close, and return what another process needs to go on in the middle of a sum: secrets of that sum."""

    def resume(self, suspended: bytes) -> None:
        """Go on where `suspend` stopped, here or in another process; empty: in no sum.

        Raises:
            OrchestratorError: they are not such bytes, or the tenant's memory is not to be had.
        """


class PlainPart:
    """Nothing but ciphertexts: the holder of the private key could open each of them."""

    group = ""

    def sharers(self) -> int:
        raise RoundRefusedError("no sum without masks is sure to have any honest tenant in it")

    def close(self) -> None:
        """There is nothing to give back."""

    def suspend(self) -> bytes:
        return b""

    def resume(self, suspended: bytes) -> None:
        """A plain sum has one stage: there is nothing to go on with."""

    def enter(self, announcement: bytes, scheme: PublicScheme[Any], sizes: Mapping[str, int], values: Values) -> bytes:
        raise RoundRefusedError(_UNLIKE)

    def answer(self, kind: Kind, payload: bytes) -> bytes:
        raise RoundRefusedError(_UNLIKE)

    def encrypt(
        self,
        scheme: PublicScheme[Any],
        vector: Vector,
        round_number: int,
        boxes: object,
        progress: Progress,
        task: Task,
        work: bytes,
    ) -> Encrypted[Any]:
        return scheme.encrypt(vector, task.digest(), progress)


def make_part(config: Config, identity: ClientIdentity | None) -> Part:
    """The part that the tenant's own settings ask for; the server has no say in it.

    Raises:
        ConfigError: masked, and without an identity.
        EnrolmentError, KeyMaterialError: the list of peers or the folder of the rounds' memory is not to be had.
    """
    if not config.masked:
        return PlainPart()
    if identity is None:
        raise ConfigError("client_identity = '': a masked client signs its messages; set it to the client's key file")
    return MaskedPart(config, identity)


class MaskedPart:
    """One client's rounds, one after the other; a refused or broken one leaves nothing behind for the next.

    Args:
        config: the settings. What was answered is remembered in `<client id>.jsonl`, which one process at a time may
            have open.
        identity: who this client is.

    Raises:
        BrokenRuleError of ROUND_MEMORY: another process of this client runs, or the file can't be used.
    """

    def __init__(self, config: Config, identity: ClientIdentity) -> None:
        self._config = config
        self._identity = identity
        number = client_number(identity.client_id)
        folder = state_folder(config, number)
        make_private_folder(folder)
        self._ledger = folder / f"{identity.client_id}.jsonl"
        self._memory = Ledger(self._ledger)
        self._round: ClientRound | None = None
        self._round_number, self._bucket = 0, ""
        self._modulus = 0
        self._roster = Roster.of(config, logging.getLogger(f"client.{number}"), folder)
        self._roster.read()  # a missing or malformed list is told at the start
        self._grouping = Grouping(config, identity, self._roster)
        self.group = ""
        self._peers: frozenset[str] | None = None  # who may be in the sum under way; None: whoever is enrolled

    def close(self) -> None:
        """Give the memory's file back to the next process of this client."""
        self._memory.close()

    def suspend(self) -> bytes:
        self.close()
        current, self._round = self._round, None
        state: Values = {"tossed": self._grouping.tossed} if self._grouping.tossed else {}
        if current is not None:
            state = {
                **state, "round": self._round_number, "modulus": hex(self._modulus), "bucket": self._bucket,
                "ciphertexts": current.plan.ciphertexts, "state": current.suspend(),
            }  # fmt: skip
            if self._peers is not None:
                state = {**state, "group": self.group, "peers": ",".join(sorted(self._peers))}
        return encode_values(state) if state else b""

    def resume(self, suspended: bytes) -> None:
        self.close()
        self._memory, self._round, self._grouping.tossed = Ledger(self._ledger), None, b""
        if not suspended:
            return
        values = decode_values(suspended)
        self._grouping.tossed = data(values, "tossed") if "tossed" in values else b""
        if "state" not in values:
            return
        self.group, self._peers = "", None
        if "peers" in values:
            self.group, self._peers = text(values, "group"), frozenset(text(values, "peers").split(","))
        self._round_number, self._bucket = integer(values, "round"), text(values, "bucket")
        self._modulus = int(text(values, "modulus"), 16)
        self._round = self._new_round(integer(values, "ciphertexts"))
        self._round.resume(data(values, "state"))

    def enter(self, announcement: bytes, scheme: PublicScheme[Any], sizes: Mapping[str, int], values: Values) -> bytes:
        """Stage 0, with fresh keys."""
        self._round = None  # whatever goes wrong from here on, nothing of an earlier round is left to go on with
        terms, self._modulus = RoundTerms.decode(announcement), _maskable(scheme).modulus
        self._round_number, self._bucket = terms.round_number, terms.bucket
        if terms.bucket not in sizes:
            raise RoundRefusedError(f"the server asks for a vector {terms.bucket!r:.80}; is it of the same version?")
        self.group, self._peers = "", None
        if terms.bucket == WEIGHTS and self._config.groups > 1:
            group = self._grouping.find(values, terms)
            self.group = group.label
            self._peers = frozenset(filter(group.has, self._roster.read().public_keys()))
        self._round = self._new_round(scheme.layout(sizes[terms.bucket]).ciphertexts)
        return self._round.advertise(announcement)

    def sharers(self) -> int:
        return self._current().sharers

    def _new_round(self, ciphertexts: int) -> ClientRound:
        c, identity = self._config, self._identity
        plan = VectorPlan(self._bucket, self._modulus, ciphertexts, c.fewest_contributors)
        # Read anew each round: who was enrolled or revoked meanwhile counts from now on.
        peers = self._roster.read().public_keys()
        if self._peers is not None:
            peers = {name: key for name, key in peers.items() if name in self._peers}
        return ClientRound(identity.client_id, identity.signing_key, peers, plan, self._memory)

    def answer(self, kind: Kind, payload: bytes) -> bytes:
        """Stages 1, 3 and 4 of a sum, and the two of a draw of groups."""
        if kind is Kind.TOSS:
            return self._grouping.toss(payload)
        if kind is Kind.DRAW:
            return self._grouping.reveal(payload, self._memory)
        current = self._current()
        if kind is Kind.SHARE:
            return current.share(payload)
        if kind is Kind.CONFIRM:
            return current.confirm(payload)
        if kind is Kind.REVEAL:
            return current.reveal(payload)
        raise RoundRefusedError(f"the server asks for {kind.value!r} as a stage; is it of the same version?")

    def encrypt(
        self,
        scheme: PublicScheme[Any],
        vector: Vector,
        round_number: int,
        boxes: object,
        progress: Progress,
        task: Task,
        work: bytes,
    ) -> Encrypted[Any]:
        """Stage 2: mask the plaintexts, then encrypt them."""
        if type(boxes) is not bytes:
            raise RoundRefusedError(
                "the server asks for an update without masks, which it could open; this client masks all its updates "
                "(secure_aggregation)"
            )
        maskable, current = _maskable(scheme), self._current()
        if (task.bucket, round_number, maskable.modulus) != (self._bucket, self._round_number, self._modulus):
            raise RoundRefusedError(
                "the server asks for another vector, or one of another round or key, than its masks are for"
            )
        digest = task.digest()

        def mask(plaintexts: Sequence[int]) -> list[int]:
            return current.mask(boxes, plaintexts, digest, work)

        return maskable.encrypt_masked(vector, mask, digest, progress)

    def _current(self) -> ClientRound:
        if self._round is None:
            raise RoundRefusedError("this client is in no masked round; expected the stage 'advertise' first")
        return self._round


def _maskable(scheme: PublicScheme[Any]) -> MaskablePublic[Any]:
    if not isinstance(scheme, MaskablePublic):
        raise ConfigError(f"he_scheme = {scheme.name!r}: its updates can't be masked; use paillier or kahe")
    return scheme
