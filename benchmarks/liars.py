"""Orchestrators that lie about a sum, for `make peek` and the tests; the tenants are unaltered and audit each round.

Each lie is as good as the orchestrator can make it: it has the private key and changes its code as it likes, so the
proof that it shows is sound in all but the one thing that it lies about.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from client.auditing import Fault
from orchestrator.publishing import Publisher
from orchestrator.run import OpenRun, open_run
from orchestrator.simulation import make_tenants
from orchestrator.transport import MemoryTransport
from shared.config import Config
from shared.enrolment import Enrolment
from shared.he import openings
from shared.he.paillier import PaillierPrivate
from shared.identity import digest_arrays, identity_name
from shared.learners import make_learner
from shared.masking.opened import OpenedMasks
from shared.model import build_model, flatten, get_parameters, set_parameters
from shared.sum_proof import Contribution, SumProof, append_contribution, open_proof, proof_name, write_proof
from shared.wire import Header, dump_update, load_update, vector_encoding

VICTIM = "1"
SHIFT = 1 << 8  # what a lie adds to the lowest slot of the sum, in steps of the fixed point


class Lie(StrEnum):
    """What it does."""

    DROP = "drop"
    DOUBLE = "double"
    LEAVE_OUT = "leave-out"
    ADD_TWICE = "add-twice"
    ALTER = "alter"
    INVENT = "invent"
    DECRYPT = "decrypt"
    UNMASK = "unmask"
    STEP = "step"
    GO_ON = "go-on"
    SILENCE = "silence"


TITLES = {
    Lie.DROP: "it shows a proof without one tenant's contribution",
    Lie.DOUBLE: "it shows one tenant's contribution twice",
    Lie.LEAVE_OUT: "it decrypts a product that lacks one tenant's contribution",
    Lie.ADD_TWICE: "it decrypts a product that has one tenant's contribution twice",
    Lie.ALTER: "it adds a little to one tenant's ciphertexts",
    Lie.INVENT: "it adds a contribution of a tenant that there is not",
    Lie.DECRYPT: "it says that the product holds a little more than it does",
    Lie.UNMASK: "it takes off another mask than a tenant's",
    Lie.STEP: "it makes another model of the sum",
    Lie.GO_ON: "it proves the sum, and goes on with another model",
    Lie.SILENCE: "it shows no proof",
}
FOUND = {
    Lie.DROP: Fault.DROPPED, Lie.DOUBLE: Fault.DOUBLED, Lie.LEAVE_OUT: Fault.DROPPED, Lie.ADD_TWICE: Fault.DOUBLED,
    Lie.ALTER: Fault.ALTERED, Lie.INVENT: Fault.INVENTED, Lie.DECRYPT: Fault.DECRYPTION, Lie.UNMASK: Fault.MASKS,
    Lie.STEP: Fault.MODEL, Lie.GO_ON: Fault.MODEL, Lie.SILENCE: Fault.MODEL,
}  # fmt: skip


class LyingPublisher(Publisher):
    """Publishes a false proof of round 1, and makes the model that it would lead to.

    Args:
        run: whose orchestrator lies; `he_scheme: paillier`, packed.
        lie: how.
    """

    def __init__(self, run: OpenRun[Any], lie: Lie) -> None:
        config = run.coordinator._config
        super().__init__(run.folder, run.transport.seats, config.round_timeout, run.longest_message)
        self._config, self._model, self._lie = config, run.coordinator.model, lie
        keys = run.coordinator._rounds._aggregator._keys
        if not isinstance(keys, PaillierPrivate):
            raise TypeError("expected the Paillier scheme")
        self._keys = keys

    def finish(self, proof: SumProof) -> None:
        super().finish(proof)
        path = self._folder.audit / proof_name(proof.round_number)
        if proof.round_number != 1:
            return
        if self._lie is Lie.SILENCE:
            path.unlink()
        elif self._lie is Lie.GO_ON:
            self._move(proof, proof.before)
        else:
            with open_proof(path) as (honest, read):
                contributions = list(read)
            self._write(path, *LIES[self._lie](self, honest, contributions))

    def _write(self, path: Path, proof: SumProof, contributions: Sequence[Contribution]) -> None:
        with self._part.open("wb") as file:
            for contribution in contributions:
                append_contribution(file, contribution)
        write_proof(path, replace(proof, contributions=len(contributions)), self._part)

    def _move(self, proof: SumProof, to: list[np.ndarray[Any, np.dtype[np.float32]]]) -> str:
        """Make this the global model; its digest."""
        set_parameters(self._model._model, to)
        return digest_arrays(to)

    def consistent(self, proof: SumProof, count: int) -> SumProof:
        """With the model that these plaintexts lead to, which becomes the global one."""
        masks = OpenedMasks.decode(proof.masks).check(
            Enrolment.load(self._config.enrolled_clients).public_keys(), self._keys.public.modulus
        )
        vector = self._keys.public.encoding.unpack(
            masks.take_off(proof.plaintexts), flatten(proof.before).size, len(masks.seeds)
        )
        model = build_model(self._config)
        set_parameters(model, proof.before)
        learner = make_learner(self._config, model)
        learner.restore(proof.state)
        learner.step(vector, ["0"] * count)
        after = get_parameters(model)
        return replace(proof, after=self._move(proof, after))

    def numbers(self, contribution: Contribution, proof: SumProof) -> list[int]:
        """The ciphertexts of a contribution."""
        public = self._keys.public
        header, layout = self._form(proof)
        return public.numbers(public.from_bytes(load_update(contribution.payload, header, layout).ciphertexts))

    def shifted(self, contribution: Contribution, proof: SumProof, by: int) -> Contribution:
        """With so much more in the lowest slot of its first ciphertext."""
        header, layout = self._form(proof)
        n, square = self._keys.public.n, self._keys.public.n_square
        first, *rest = self.numbers(contribution, proof)
        numbers = [int(first * (1 + by * n) % square), *rest]
        payload = dump_update(header, [number.to_bytes(layout.width) for number in numbers])
        return replace(contribution, payload=payload)

    def _form(self, proof: SumProof) -> tuple[Header, Any]:
        public, size = self._keys.public, flatten(proof.before).size
        header = Header(public.name, proof.round_number, public.fingerprint(), size, vector_encoding(public, "weights"))
        return header, public.layout(size)

    def opening(self, product: Sequence[int]) -> tuple[list[int], list[int]]:
        """What such a product holds, truly."""
        public = self._keys.public
        ciphertexts = public.from_bytes([int(number).to_bytes(public.width) for number in product])
        return self._keys.decrypt_plaintexts(ciphertexts), openings.roots(self._keys._key, product)


Told = tuple[SumProof, Sequence[Contribution]]
Telling = Callable[[LyingPublisher, SumProof, list[Contribution]], Told]


def _victim(contributions: Sequence[Contribution]) -> Contribution:
    (found,) = [c for c in contributions if c.client == identity_name(VICTIM)]
    return found


def _drop(liar: LyingPublisher, proof: SumProof, contributions: list[Contribution]) -> Told:
    return proof, [c for c in contributions if c != _victim(contributions)]


def _double(liar: LyingPublisher, proof: SumProof, contributions: list[Contribution]) -> Told:
    return proof, [*contributions, _victim(contributions)]


def _product(power: int) -> Telling:
    """The victim's ciphertexts are in the product `power` times more than they should be."""

    def tell(liar: LyingPublisher, proof: SumProof, contributions: list[Contribution]) -> Told:
        square, product = int(liar._keys.public.n_square), [1] * len(proof.plaintexts)
        for contribution in contributions:
            times = 1 + power * (contribution.client == identity_name(VICTIM))
            product = [
                p * pow(c, times, square) % square
                for p, c in zip(product, liar.numbers(contribution, proof), strict=True)
            ]
        plaintexts, roots = liar.opening(product)
        return replace(proof, plaintexts=plaintexts, roots=roots), contributions

    return tell


def _alter(liar: LyingPublisher, proof: SumProof, contributions: list[Contribution]) -> Told:
    victim = _victim(contributions)
    told = [liar.shifted(c, proof, SHIFT) if c == victim else c for c in contributions]
    return _more(liar, proof, len(contributions)), told


def _invent(liar: LyingPublisher, proof: SumProof, contributions: list[Contribution]) -> Told:
    header, layout = liar._form(proof)
    ones = [(1).to_bytes(layout.width) for _ in range(layout.ciphertexts)]  # of nothing, and with r = 1
    nothing = Contribution("client-9", dump_update(header, ones), contributions[0].nonce, contributions[0].signature)
    return _more(liar, proof, len(contributions)), [*contributions, liar.shifted(nothing, proof, SHIFT)]


def _decrypt(liar: LyingPublisher, proof: SumProof, contributions: list[Contribution]) -> Told:
    return _more(liar, proof, len(contributions)), contributions


def _more(liar: LyingPublisher, proof: SumProof, count: int) -> SumProof:
    """With a little more in the sum, and the model that this makes."""
    first = (proof.plaintexts[0] + SHIFT) % liar._keys.public.modulus
    return liar.consistent(replace(proof, plaintexts=[first, *proof.plaintexts[1:]]), count)


def _unmask(liar: LyingPublisher, proof: SumProof, contributions: list[Contribution]) -> Told:
    masks = OpenedMasks.decode(proof.masks)
    seeds = {**masks.seeds, identity_name(VICTIM): bytes(32)}
    return replace(proof, masks=replace(masks, seeds=seeds).encode()), contributions


def _step(liar: LyingPublisher, proof: SumProof, contributions: list[Contribution]) -> Told:
    return replace(proof, after=liar._move(proof, proof.before)), contributions


LIES: dict[Lie, Telling] = {
    Lie.DROP: _drop, Lie.DOUBLE: _double, Lie.LEAVE_OUT: _product(-1), Lie.ADD_TWICE: _product(1), Lie.ALTER: _alter,
    Lie.INVENT: _invent, Lie.DECRYPT: _decrypt, Lie.UNMASK: _unmask, Lie.STEP: _step,
}  # fmt: skip


def who_finds(config: Config, lie: Lie) -> dict[str, str]:
    """Run an orchestrator that lies about round 1 over real, unaltered tenants: what each of them says of it.

    Args:
        config: masked, audited, of two rounds; the second shows who goes on all the same.
        lie: what is done.

    Returns:
        Tenant -> its words, of all that found the lie and went no further.
    """
    tenants = make_tenants(config)
    run = open_run(config, lambda seats: MemoryTransport(seats, tenants))
    try:
        run.transport.connect()
        run.coordinator._publisher = LyingPublisher(run, lie)
        run.coordinator.run()
        return dict(run.coordinator.records[1].failed)
    finally:
        run.close()
        for tenant in tenants.values():
            tenant.close()
