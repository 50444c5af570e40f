"""Masked rounds on the client: `shared/masking`'s rules, kept between the calls that Flower makes.

Free of Flower. The order of the calls and everything that the server says is judged in `shared/masking/client.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.aggregation import Aggregation, PlainAggregation
from client.ledger import Ledger
from shared.config import Config
from shared.enrolment import Enrolment
from shared.errors import ConfigError, RoundRefusedError
from shared.he.paillier import PaillierPublic
from shared.he_utils import Encrypted, Progress, PublicScheme, Vector
from shared.identity import ClientIdentity
from shared.masking import ClientRound, RoundTerms, VectorPlan
from shared.private_files import make_private_folder
from shared.task import Task


def make_aggregation(config: Config, identity: ClientIdentity | None) -> Aggregation:
    """The aggregation that the client's own settings ask for; the server has no say in it.

    Raises:
        ConfigError: masked, and without an identity.
        EnrolmentError, KeyFileError: the list of peers or the folder of the rounds' memory is not to be had.
    """
    if not config.masked:
        return PlainAggregation()
    if identity is None:
        raise ConfigError("client_identity = '': a masked client signs its messages; set it to the client's key file")
    return MaskedAggregation(config, identity)


class MaskedAggregation:
    """One client's rounds, one after the other; a refused or broken one leaves nothing behind for the next.

    Args:
        config: the settings. What was answered is remembered in `<log_dir>/state/<client id>.jsonl`, which one process
            at a time may have open.
        identity: who this client is.

    Raises:
        RoundMemoryError: another process of this client runs, or the file can't be used.
    """

    def __init__(self, config: Config, identity: ClientIdentity) -> None:
        self._config = config
        self._identity = identity
        folder = Path(config.log_dir) / "state"
        make_private_folder(folder)
        self._memory = Ledger(folder / f"{identity.client_id}.jsonl")
        self._round: ClientRound | None = None
        self._round_number, self._bucket = 0, ""
        self._modulus = 0
        Enrolment.load(config.enrolled_clients)  # a missing or malformed list is told at the start

    def close(self) -> None:
        """Give the memory's file back to the next process of this client."""
        self._memory.close()

    def enter(self, announcement: bytes, scheme: PublicScheme[Any], sizes: Mapping[str, int]) -> bytes:
        """Stage 0, with fresh keys."""
        c = self._config
        self._round = None  # whatever goes wrong from here on, nothing of an earlier round is left to go on with
        terms, self._modulus = RoundTerms.decode(announcement), int(_paillier(scheme).n)
        self._round_number, self._bucket = terms.round_number, terms.bucket
        if terms.bucket not in sizes:
            raise RoundRefusedError(f"the server asks for a vector {terms.bucket!r:.80}; is it of the same version?")
        plan = VectorPlan(terms.bucket, self._modulus, scheme.layout(sizes[terms.bucket])[0], c.fewest_contributors)
        # Read anew each round: who was enrolled or revoked meanwhile counts from now on.
        peers = Enrolment.load(c.enrolled_clients).public_keys()
        self._round = ClientRound(self._identity.client_id, self._identity.signing_key, peers, plan, self._memory)
        return self._round.advertise(announcement)

    def answer(self, stage: str, payload: bytes) -> bytes:
        """Stages 1, 3 and 4."""
        current = self._current()
        if stage == "share":
            return current.share(payload)
        if stage == "confirm":
            return current.confirm(payload)
        if stage == "reveal":
            return current.reveal(payload)
        raise RoundRefusedError(f"the server asks for a stage {stage!r:.80}; is it of the same version?")

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
        paillier, current = _paillier(scheme), self._current()
        if (task.bucket, round_number, int(paillier.n)) != (self._bucket, self._round_number, self._modulus):
            raise RoundRefusedError(
                "the server asks for another vector, or one of another round or key, than its masks are for"
            )
        plaintexts, saturated = paillier.encoding.pack(vector)
        masked = current.mask(boxes, [int(plaintext) for plaintext in plaintexts], task.digest(), work)
        return Encrypted(paillier.encrypt_plaintexts(masked, progress), saturated)

    def _current(self) -> ClientRound:
        if self._round is None:
            raise RoundRefusedError("this client is in no masked round; expected the stage 'advertise' first")
        return self._round


def _paillier(scheme: PublicScheme[Any]) -> PaillierPublic:
    if not isinstance(scheme, PaillierPublic):
        raise ConfigError(f"he_scheme = {scheme.name!r}: its updates can't be masked; use paillier")
    return scheme
