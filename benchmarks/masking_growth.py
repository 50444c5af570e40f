"""How the work of masking grows with the number of clients: the two state machines alone, each call timed.

No training and no Paillier: what is measured is what a masked round has in addition. One thread does the work of all
parties in turn, so that the server's seconds and one client's can be told apart.
"""

import secrets
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from benchmarks.measuring import Passes, seconds
from benchmarks.rounds import PARAMETERS
from client.ledger import Ledger
from shared.config import Config
from shared.he.fixed_point import FixedPoint
from shared.he.packing import PackingLayout
from shared.masking import (
    WEIGHTS,
    ClientRound,
    RoundTerms,
    ServerRound,
    VectorPlan,
    minimum_threshold,
    modulus_digest,
)

KEY_BITS = 3072
STAGES = ("advertise", "share", "mask", "confirm", "reveal", "unmask")
_SESSION = bytes(16)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class StageCost:
    """Medians over `rounds` masked rounds of one vector as large as an update of an MLP 122-64-32-2.

    Attributes:
        clients: N.
        dropped: clients that are lost after they gave out shares, before their update; their masks are rebuilt.
        ciphertexts: plaintexts of 3072 bits that an update has.
        server: the server's seconds, by stage.
        client: one client's seconds, the mean over those that stay to the end, by stage.
        client_bytes: what one client that stays sends and gets beside its update, the mean.
    """

    clients: int
    dropped: int
    rounds: int
    ciphertexts: int
    server: dict[str, float]
    client: dict[str, float]
    client_bytes: float

    @property
    def server_seconds(self) -> float:
        """All stages of a round."""
        return sum(self.server.values())

    @property
    def client_seconds(self) -> float:
        """The same for one client."""
        return sum(self.client.values())


def growth(clients: int, passes: Passes) -> list[StageCost]:
    """The cost without losses, and with as many as the threshold allows where it allows any."""
    most = clients - minimum_threshold(clients)
    return [stage_cost(clients, dropped, passes) for dropped in sorted({0, most})]


def stage_cost(clients: int, dropped: int, passes: Passes) -> StageCost:
    """Run masked rounds in memory, the first `dropped` clients lost before their update.

    Raises:
        ArithmeticError: an unmasked sum is not the plain sum; its timings would mean nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        cohort = _Cohort(clients, dropped, Path(folder))
        rounds = [cohort.round(number) for number in passes]
    last = rounds[0]
    return StageCost(
        clients, dropped, len(rounds), cohort.ciphertexts,
        {stage: statistics.median(r.server[stage] for r in rounds) for stage in STAGES},
        {stage: statistics.median(r.client[stage] for r in rounds) / (clients - dropped) for stage in STAGES[:-1]},
        last.bytes / (clients - dropped),
    )  # fmt: skip


class _Cohort:
    """The same identities in each round, all else new."""

    def __init__(self, clients: int, dropped: int, folder: Path) -> None:
        names = [f"client-{i:03}" for i in range(clients)]
        self._lost, self._stay = names[:dropped], names[dropped:]
        self._identities = {name: Ed25519PrivateKey.generate() for name in names}
        self.enrolled: dict[str, Ed25519PublicKey] = {name: k.public_key() for name, k in self._identities.items()}
        self._modulus = secrets.randbits(KEY_BITS) | 1 << (KEY_BITS - 1) | 1  # how n factors plays no part in a mask
        config = Config()
        fixed_point = FixedPoint(config.he_precision_bits, config.he_integer_bits)
        self.ciphertexts = PackingLayout(KEY_BITS - 1, fixed_point, clients).plaintexts_for(PARAMETERS)
        self._memories = {name: Ledger(folder / f"{name}.jsonl") for name in names}

    def round(self, number: int) -> "_Clock":
        """One round, timed."""
        modulus, least = self._modulus, minimum_threshold(len(self.enrolled))
        terms = RoundTerms(_SESSION, number, WEIGHTS, modulus_digest(modulus), least, 3, self.ciphertexts, bytes(32))
        plan = VectorPlan(WEIGHTS, modulus, self.ciphertexts)
        server, clock = ServerRound(terms, modulus, self.enrolled), _Clock(set(self._stay))
        clients = {
            name: ClientRound(name, identity, self.enrolled, plan, self._memories[name])
            for name, identity in self._identities.items()
        }
        vectors = {name: [secrets.randbelow(modulus) for _ in range(self.ciphertexts)] for name in self._stay}
        everyone = [*self._lost, *self._stay]

        clock.ask("advertise", everyone, server.announcement(), lambda name: clients[name].advertise, server.add_advert)
        roster = clock.serve("advertise", server.close_adverts)
        clock.ask("share", everyone, roster, lambda name: clients[name].share, server.add_shares)
        boxes = clock.serve("share", server.close_shares)
        masked = {}
        for name in self._stay:
            masked[name] = clock.work(
                "mask", name, partial(clients[name].mask, boxes[name], vectors[name], terms.task, number.to_bytes(32))
            )
            clock.bytes += len(boxes[name])
            server.add_upload(name)
        survivors = clock.serve("mask", server.close_uploads)
        clock.ask("confirm", self._stay, survivors, lambda name: clients[name].confirm, server.add_confirm)
        request = clock.serve("confirm", server.close_confirms)
        clock.ask("reveal", self._stay, request, lambda name: clients[name].reveal, server.add_reveal)
        masked_sum = _add_up(masked.values(), modulus)
        if clock.serve("unmask", partial(server.unmask, masked_sum)) != _add_up(vectors.values(), modulus):
            raise ArithmeticError("the unmasked sum is not the plain sum")
        return clock


class _Clock:
    """Seconds of the server and of the clients that stay, by stage, and these clients' bytes."""

    def __init__(self, counted: set[str]) -> None:
        self._counted = counted
        self.server: defaultdict[str, float] = defaultdict(float)
        self.client: defaultdict[str, float] = defaultdict(float)
        self.bytes = 0

    def serve(self, stage: str, work: Callable[[], Answer]) -> Answer:
        """A step of the server."""
        answers: list[Answer] = []
        self.server[stage] += seconds(lambda: answers.append(work()))
        return answers[0]

    def work(self, stage: str, name: str, work: Callable[[], Answer]) -> Answer:
        """A step of one client."""
        answers: list[Answer] = []
        taken = seconds(lambda: answers.append(work()))
        if name in self._counted:
            self.client[stage] += taken
        return answers[0]

    def ask(
        self,
        stage: str,
        names: Sequence[str],
        message: bytes,
        ask: Callable[[str], Callable[[bytes], bytes]],
        add: Callable[[bytes], str],
    ) -> None:
        """The same message to each of the clients, and their answers to the server."""
        for name in names:
            answer = self.work(stage, name, partial(ask(name), message))
            self.serve(stage, partial(add, answer))
            if name in self._counted:
                self.bytes += len(message) + len(answer)


def _add_up(vectors: Iterable[list[int]], modulus: int) -> list[int]:
    return [sum(column) % modulus for column in zip(*vectors, strict=True)]
