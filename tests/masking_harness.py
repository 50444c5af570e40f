"""Runs masked rounds in memory, honest ones and others, with plain modular sums in place of Paillier."""

import random
from collections.abc import Callable, Iterable, Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.masking import ClientRound, RoundMemory, RoundTerms, ServerRound, VectorPlan, modulus_digest

MODULUS = 0xC3A5_96E7_D1B2_8F03_0D4B_77A1_5C69_E8F5  # 128 bits, odd; no masked sum cares how n factors
SESSION = bytes(range(16))
TASK, WORK = bytes(range(32)), bytes(range(32, 64))
NAMES = [f"client-{k:02}" for k in range(100)]
IDENTITIES = {name: Ed25519PrivateKey.generate() for name in NAMES}
ENROLLED = {name: key.public_key() for name, key in IDENTITIES.items()}

Lost = Callable[[str, str], str]  # (stage, client id) -> "", "request" or "response"


def make_terms(
    threshold: int,
    *,
    n_min: int = 3,
    ciphertexts: int = 4,
    modulus: int = MODULUS,
    bucket: str = "weights",
    round_number: int = 1,
    session: bytes = SESSION,
    task: bytes = TASK,
) -> RoundTerms:
    return RoundTerms(session, round_number, bucket, modulus_digest(modulus), threshold, n_min, ciphertexts, task)


def make_client(
    name: str,
    terms: RoundTerms,
    modulus: int = MODULUS,
    kind: type[ClientRound] = ClientRound,
    memory: RoundMemory | None = None,
) -> ClientRound:
    plan = VectorPlan(terms.bucket, modulus, terms.ciphertexts)
    return kind(name, IDENTITIES[name], ENROLLED, plan, memory or RoundMemory())


def never_lost(_stage: str, _name: str) -> str:
    return ""


class Simulation:
    """One round of `names` against an honest server; each step may be driven on its own.

    `memories`: what the clients remember of earlier rounds; nothing where there are none.
    """

    def __init__(
        self,
        count: int,
        terms: RoundTerms,
        *,
        modulus: int = MODULUS,
        kind: type[ClientRound] = ClientRound,
        lost: Lost = never_lost,
        tamper: Mapping[str, Callable[[str, bytes], bytes]] | None = None,
        memories: Mapping[str, RoundMemory] | None = None,
        work: bytes = WORK,
    ) -> None:
        self.modulus = modulus
        self.terms = terms
        self.server = ServerRound(terms, modulus, {name: ENROLLED[name] for name in NAMES[:count]})
        self.clients = {
            name: make_client(name, terms, modulus, kind, (memories or {}).get(name)) for name in NAMES[:count]
        }
        self.vectors = {name: [random.randrange(modulus) for _ in range(terms.ciphertexts)] for name in self.clients}
        self.masked: dict[str, list[int]] = {}
        self._lost = lost
        self._tamper = tamper or {}
        self._work = work

    def _collect(self, stage: str, ask: Callable[[ClientRound, str], bytes], add: Callable[[bytes], str]) -> None:
        for name in self.server.cohort:
            lost = self._lost(stage, name)
            if lost == "request":
                continue
            answer = ask(self.clients[name], name)
            if stage in self._tamper:
                answer = self._tamper[stage](name, answer)
            if lost != "response":
                add(answer)

    def advertise(self) -> bytes:
        announcement = self.server.announcement()
        self._collect("advertise", lambda client, _: client.advertise(announcement), self.server.add_advert)
        return self.server.close_adverts()

    def share(self) -> dict[str, bytes]:
        roster = self.advertise()
        self._collect("share", lambda client, _: client.share(roster), self.server.add_shares)
        return self.server.close_shares()

    def mask(self) -> bytes:
        boxes = self.share()
        for name in self.server.cohort:
            lost = self._lost("mask", name)
            if lost == "request":
                continue
            masked = self.clients[name].mask(boxes[name], self.vectors[name], TASK, self._work)
            if lost != "response":
                self.server.add_upload(name)
                self.masked[name] = masked
        return self.server.close_uploads()

    def confirm(self) -> bytes:
        survivors = self.mask()
        self._collect("confirm", lambda client, _: client.confirm(survivors), self.server.add_confirm)
        return self.server.close_confirms()

    def reveal(self) -> None:
        request = self.confirm()
        self._collect("reveal", lambda client, _: client.reveal(request), self.server.add_reveal)

    def run(self) -> list[int]:
        """The unmasked sum of those whose upload arrived."""
        self.reveal()
        return self.server.unmask(add_up(self.masked.values(), self.modulus))

    def expected(self) -> list[int]:
        """The plain sum of those whose upload arrived."""
        return add_up((self.vectors[name] for name in self.masked), self.modulus)


def add_up(vectors: Iterable[list[int]], modulus: int) -> list[int]:
    return [sum(column) % modulus for column in zip(*vectors, strict=True)]
