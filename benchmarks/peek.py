"""Plays a dishonest orchestrator: with its private key and all it receives it tries to open one client's update.

    python benchmarks/peek.py

A real server in this process (its code altered here, as its owner could) and four real clients in another, over
Flower. Without masks it opens the update. With masks it stays closed, and clients that it lies to refuse. The last line
says so, and the exit status is 0 only if that is what happened.
"""

import logging
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.common import FitIns, Parameters
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from numpy.typing import NDArray

from client.training import TrainingSettings, train
from orchestrator.admission import SignedStatement, identity_name
from orchestrator.aggregator import Aggregate, Aggregator, RoundSum
from orchestrator.masked_round import MaskedAggregation
from orchestrator.provision import provision
from orchestrator.server import run_server
from orchestrator.strategy import EncryptedFedAvg
from shared.config import Config, parse_config
from shared.console import console, setup_logging
from shared.data_utils import load_client_data
from shared.errors import OrchestratorError, UpdateRejectedError
from shared.he.packing import PackingLayout
from shared.he.paillier import PaillierPrivate
from shared.he_utils import PrivateScheme, Unmask, Vector, make_keys
from shared.masking import WEIGHTS, ServerRound, agreement
from shared.masking.errors import RoundAbandonedError
from shared.masking.messages import RevealRequest, encode_survivors
from shared.masking.shamir import Rebuilder
from shared.masking.stream import MaskSum
from shared.model import build_model, flatten, get_parameters, set_parameters
from shared.preprocessing import Preprocessing
from shared.wire import load_update, unwrap_tensor

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 4  # of which a sum needs 3
CURIOUS, SPLIT_VIEW, BOTH_SHARES, FALSE_LOSS = 1, 2, 3, 4  # what the orchestrator does in which round
SETTINGS = {
    "num_clients": CLIENTS, "min_available_clients": CLIENTS, "min_fit_clients": CLIENTS, "local_epochs": 1,
    "fraction_evaluate": 0.0, "he_key_length": 2048, "client_wait_timeout": 300.0, "server_wait_timeout": 300.0,
}  # fmt: skip


@dataclass
class Loot:
    """What the orchestrator keeps, against the rules.

    Attributes:
        keys: its private key.
        preprocessing: how features are scaled.
        models: the global model of each round.
        updates: the plaintexts of one client's update, by (round, tenant).
        averages: the average delta that each round's sum yields, which it may know.
        masks: all that the revealed shares rebuild of a client's mask, ready to be taken off, by (round, name).
        words: what clients answered to each lie, by (round, name).
    """

    keys: list[PaillierPrivate] = field(default_factory=list)
    preprocessing: Preprocessing | None = None
    models: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    updates: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    averages: dict[int, Vector] = field(default_factory=dict)
    masks: dict[tuple[int, str], MaskSum] = field(default_factory=dict)
    words: dict[int, dict[str, str]] = field(default_factory=dict)

    def steal_keys(self, config: Config) -> PrivateScheme[Any]:
        keys = make_keys(config)
        if isinstance(keys, PaillierPrivate):
            self.keys.append(keys)
        return keys


def spies(loot: Loot) -> Iterable[tuple[str, Any]]:
    """The altered parts of the server: what to replace, by what."""

    class CuriousSum(RoundSum):
        """Decrypts each update beside the sum."""

        def add(self, client_id: str, tensor: bytes, signed: SignedStatement | None = None) -> None:
            super().add(client_id, tensor, signed)
            blobs = load_update(unwrap_tensor(tensor, self.header, self.layout), self.header, self.layout)
            (keys,) = loot.keys
            loot.updates[self.header.round, client_id] = keys.decrypt_plaintexts(keys.public.from_bytes(blobs))

        def decrypt_average(self, unmask: Unmask | None = None) -> Aggregate:
            aggregate = super().decrypt_average(unmask)
            loot.averages[self.header.round] = aggregate.average_delta
            return aggregate

    class CuriousAggregator(Aggregator):
        def open_round(self, round_number: int, size: int, task_sha256: str = "", bucket: str = WEIGHTS) -> RoundSum:
            kind = CuriousSum if bucket == WEIGHTS else RoundSum
            return kind(self._keys, self, round_number, size, task_sha256, bucket)

    class CuriousStrategy(EncryptedFedAvg):
        """Remembers each round's model."""

        def configure_fit(
            self, server_round: int, parameters: Parameters, client_manager: ClientManager
        ) -> list[tuple[ClientProxy, FitIns]]:
            loot.models[server_round] = get_parameters(self._model)
            loot.preprocessing = self.preprocessing
            return super().configure_fit(server_round, parameters, client_manager)

    class CuriousRound(ServerRound):
        """Keeps every mask that the revealed shares rebuild, by client."""

        def unmask(self, masked_sum: Sequence[int]) -> list[int]:
            if self._terms.bucket != WEIGHTS:
                return super().unmask(masked_sum)
            rebuilder = Rebuilder(self._terms.threshold)
            for name in self._uploads:
                mask = self._mask_of(name)
                mask.subtract(agreement.self_mask_key(self._seed(rebuilder, name), self._context, name))
            for name in self._dropped():
                mask = self._mask_of(name)
                private = X25519PrivateKey.from_private_bytes(self._mask_key(rebuilder, name))
                for peer in sorted(set(self._shares) - {name}):
                    common = agreement.exchange(private, self._adverts[peer].mask_key)
                    key = agreement.pair_mask_key(common, self._context, name, peer)
                    (mask.subtract if name < peer else mask.add)(key)
            return super().unmask(masked_sum)

        def _mask_of(self, name: str) -> MaskSum:
            mask = MaskSum(self._modulus, self._terms.ciphertexts)
            return loot.masks.setdefault((self._terms.round_number, name), mask)

        def all_uploads(self, names: Iterable[str]) -> bytes:
            """Honestly whose updates came; returns the context that each later message carries."""
            for name in names:
                self.add_upload(name)
            self.close_uploads()
            return self._context

    class LyingAggregation(MaskedAggregation):
        """Honest in round 1; then it lies about who is in the sum, each round in another way."""

        def finish(self, contributors: Sequence[str]) -> Unmask:
            number = self._opening.round_number
            if self._opening.bucket != WEIGHTS or number == CURIOUS:
                return super().finish(contributors)
            if number == FALSE_LOSS:
                # "The last one's update never came": its masks are rebuilt, in front of its update.
                return super().finish(contributors[:-1])
            names = [identity_name(tenant) for tenant in contributors]
            lie = self._split_view if number == SPLIT_VIEW else self._ask_both_shares
            loot.words[number] = lie(names)
            raise RoundAbandonedError("the orchestrator lied and got nothing")

        def _split_view(self, names: list[str]) -> dict[str, str]:
            """One half is told that the last client is lost, the other that the first is: each half gives one share."""
            context = self._server.all_uploads(names)
            views = {name: names[:-1] if name in names[: CLIENTS // 2] else names[1:] for name in names}
            signatures = {
                name: self._request(name, "confirm", encode_survivors(frozenset(view), context))[-64:]
                for name, view in views.items()
            }
            words = {}
            for name, view in views.items():
                signed = {signer: signatures[signer] for signer in view}
                request = RevealRequest(frozenset(view), frozenset(names) - frozenset(view), signed)
                words[name] = self._answer(name, request.encode(context))
            return words

        def _ask_both_shares(self, names: list[str]) -> dict[str, str]:
            """All have confirmed that all are in the sum; then the last one is said to be lost as well."""
            context = self._server.all_uploads(names)
            survivors = encode_survivors(frozenset(names), context)
            signatures = {name: self._request(name, "confirm", survivors)[-64:] for name in names}
            request = RevealRequest(frozenset(names), frozenset(names[-1:]), signatures).encode(context)
            return {name: self._answer(name, request) for name in names}

        @property
        def _server(self) -> CuriousRound:
            if not isinstance(self._round, CuriousRound):
                raise TypeError("the spies are not in place")
            return self._round

        def _answer(self, name: str, request: bytes) -> str:
            try:
                self._request(name, "reveal", request)
            except UpdateRejectedError as error:
                return str(error)
            return "it revealed its shares"

    return [
        ("orchestrator.server.make_keys", loot.steal_keys),
        ("orchestrator.server.Aggregator", CuriousAggregator),
        ("orchestrator.server.EncryptedFedAvg", CuriousStrategy),
        ("orchestrator.server.MaskedAggregation", LyingAggregation),
        ("orchestrator.masked_round.ServerRound", CuriousRound),
        ("orchestrator.server._ROUNDS_WITHOUT_SUM", FALSE_LOSS + 1),  # its lies cost it rounds; it goes on
    ]


def run_federation(folder: Path, mode: str, rounds: int, clients: Sequence[str]) -> tuple[Config, Loot]:
    """One run of the altered server with real clients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = parse_config(
        {
            **SETTINGS, "server_address": address, "num_rounds": rounds, "secure_aggregation": mode,
            "log_dir": str(folder / mode), "enrolled_clients": str(folder / "pki/enrolled.json"),
            "client_identity": str(folder / "pki/clients/client-{client_id}.key"),
        }
    )  # fmt: skip
    path = folder / f"{mode}.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    loot = Loot()
    with (folder / f"{mode}.log").open("w", encoding="utf-8") as log, ExitStack() as stack:
        started = subprocess.Popen(
            [sys.executable, *clients, "--config", str(path)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
        stack.callback(started.wait)
        stack.callback(started.terminate)
        for target, spy in spies(loot):
            stack.enter_context(mock.patch(target, spy))
        run_server(config)
        started.wait(timeout=30)
    return config, loot


def true_delta(config: Config, loot: Loot, tenant: int, number: int) -> Vector:
    """What the client computed, (size,): its training is repeated here, with its own rows and seed."""
    torch.set_num_threads(1)
    model = build_model(config)
    set_parameters(model, loot.models[number])
    settings = TrainingSettings(config.local_epochs, config.batch_size, config.learning_rate)
    if loot.preprocessing is None:
        raise TypeError("expected features that are scaled")
    rows = loot.preprocessing.apply(load_client_data(config, tenant).train)
    train(model, rows, settings, (config.seed, tenant, number))
    return flatten(get_parameters(model)) - flatten(loot.models[number])


def read_slots(loot: Loot, plaintexts: Sequence[int], size: int) -> Vector:
    """The values, (size,), that the plaintexts of one update would hold if they were not masked; checks nothing."""
    (keys,) = loot.keys
    layout = keys.public.encoding
    if not isinstance(layout, PackingLayout):
        raise TypeError("expected packed plaintexts")
    offset = 1 << layout.fixed_point.value_bits
    slots = [
        (int(m) >> k * layout.slot_bits) % (1 << layout.slot_bits) - offset
        for m in plaintexts
        for k in range(layout.slots_per_plaintext)
    ]
    return layout.fixed_point.decode(np.array(slots[:size], dtype=np.int64))


def compare(what: str, recovered: Vector, truth: Vector, config: Config) -> bool:
    """Print a guess beside the truth; whether it is the truth, to the fixed point's last bit."""
    error = np.abs(recovered - truth)
    opened = bool(error.max() <= 2.0**-config.he_precision_bits)
    say(f"  {what}:")
    for name, vector in (("recovered", recovered), ("true", truth)):
        say(f"    {name:9} " + " ".join(f"{value:+.5f}" for value in vector[:6]) + " ...")
    say(f"    off by {error.mean():.6f} on average, {error.max():.6f} at most: {'OPENED' if opened else 'not opened'}")
    return opened


def attack_unmasked(folder: Path, clients: Sequence[str]) -> bool:
    """Whether one update can be opened without masks."""
    say("secure_aggregation: none. The private key is tried on client 0's update:")
    config, loot = run_federation(folder, "none", 1, clients)
    truth = true_delta(config, loot, 0, 1)
    return compare("decrypted", read_slots(loot, loot.updates[1, "0"], truth.size), truth, config)


def attack_masked(folder: Path, clients: Sequence[str]) -> bool:
    """Whether one update can be opened, or one client be led to break a rule, with masks."""
    say("\nsecure_aggregation: masked. Four rounds, one attack in each:")
    config, loot = run_federation(folder, "masked", FALSE_LOSS, clients)
    broken = False
    last = CLIENTS - 1
    for what, tenant, number, off in (
        ("round 1, client 0's update decrypted as it came", 0, CURIOUS, False),
        ("the same, with client 0's own mask taken off, which the cohort reveals", 0, CURIOUS, True),
        (f"round 4, client {last} falsely declared lost, so that its pair masks are revealed", last, FALSE_LOSS, True),
    ):
        plaintexts = loot.updates[number, str(tenant)]
        if off:
            plaintexts = loot.masks[number, identity_name(str(tenant))].apply(plaintexts)
        truth = true_delta(config, loot, tenant, number)
        broken |= compare(what, read_slots(loot, plaintexts, truth.size), truth, config)
    if CURIOUS in loot.averages:  # clients that mask wrongly leave it without one
        error = np.abs(loot.averages[CURIOUS] - true_delta(config, loot, 0, CURIOUS)).mean()
        say(f"  for comparison: the average of all, which it is meant to know, is off by {error:.6f} on average")
    for number, lie in ((SPLIT_VIEW, "tells two halves of the cohort different survivors"),
                        (BOTH_SHARES, f"asks for both shares of client {last}")):  # fmt: skip
        say(f"  round {number}: it {lie}; the clients answer:")
        for name, words in loot.words[number].items():
            say(f"    {name}: {words}")
            broken |= not words.startswith("refused: ")
    return broken


def say(line: str) -> None:
    print(line, flush=True)


def main(clients: Sequence[str] = ("client/run_clients.py",)) -> int:
    """Both federations; `clients` is the script, with its arguments, that launches them."""
    setup_logging(bars=False)
    logging.getLogger("orchestrator").propagate = False  # its log is in the run's folder; here only the attacks speak
    console.quiet = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provision(folder / "pki", CLIENTS, [])
        try:
            unmasked, masked = attack_unmasked(folder, clients), attack_masked(folder, clients)
        except OrchestratorError as error:
            say(f"the federation did not run: {error}")
            for log in sorted(folder.glob("*.log")):
                say(log.read_text(encoding="utf-8"))
            return 2
    say(f"\npeek: unmasked={'opened' if unmasked else 'refused'} masked={'opened' if masked else 'refused'}")
    return 0 if unmasked and not masked else 1


if __name__ == "__main__":
    sys.exit(main())
