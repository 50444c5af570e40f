"""Plays a dishonest orchestrator: with its private key and all it receives it tries to open one tenant's numbers.

    python benchmarks/peek.py [--only ATTACK,...]

A real server in this process (its code altered here, as its owner could: `benchmarks/dishonest.py`) and four real
clients in another, over Flower. Without masks it opens an update. With masks it does not, whatever it tries, and
clients that it lies to refuse. Then it lies about the sum (`benchmarks/liars.py`), and clients that audit find out; and
it asks for more than a client's own policy allows (`benchmarks/overriding.py`), and is refused. The last line says so,
and the exit status is 0 only if that is what happened.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.dishonest import CLIENTS, REVEALED, VICTIM, Attack, Loot, far_scaler, spies, z_scores
from benchmarks.liars import FOUND, Lie, who_finds
from benchmarks.liars import TITLES as LIES_TOLD
from benchmarks.machine import free_port
from benchmarks.overriding import override_policy
from client.training import TrainingSettings, train
from orchestrator.pki import identity_settings, provision
from orchestrator.report.run_data import read_run
from orchestrator.run_folder import RoundRecord
from orchestrator.server import run_server
from shared.config import Config, parse_config
from shared.console import console, setup_logging
from shared.data_sources.dataset import ClientData
from shared.data_sources.scaling import FeatureSums
from shared.data_utils import load_client_data
from shared.errors import NoSumError, OrchestratorError
from shared.evaluation_sum import EvaluationCode, EvaluationSums
from shared.feature_statistics import HISTOGRAM, MOMENTS, StatisticsCode
from shared.he.packing import PackingLayout
from shared.he.scheme import Vector
from shared.identity import identity_name
from shared.masking import EVALUATION, WEIGHTS
from shared.metrics import evaluate
from shared.model import build_model, flatten, get_parameters, set_parameters
from shared.preprocessing import FeatureHistogram, Preprocessing
from shared.refusals import spelt_out

ROOT = Path(__file__).resolve().parent.parent
SECOND_RUN = (Attack.SESSION, Attack.SET_BACK)
SETTINGS = {
    "num_clients": CLIENTS, "min_available_clients": CLIENTS, "min_fit_clients": CLIENTS - 1, "local_epochs": 1,
    "min_evaluate_clients": CLIENTS - 1, "fraction_evaluate": 1.0, "he_key_length": 2048,
    "client_wait_timeout": 300.0, "server_wait_timeout": 300.0,
    "scaling": "zscore",  # two sums of statistics and a scaler between them: more to attack than the one of quantiles
}  # fmt: skip
ROUNDING = 8  # last places of the fixed point: a difference of two sums of four rounded values is off by less


class Run:
    """One run of the altered server with real clients.

    Args:
        folder: with the identities in `pki`.
        mode: `secure_aggregation`, on both sides.
        plan: the attack of each round.
        clients: the script, with its arguments, that launches them.
    """

    def __init__(self, folder: Path, mode: str, plan: Sequence[Attack], clients: Sequence[str]) -> None:
        self.config = parse_config(
            {
                **SETTINGS, "server_address": f"127.0.0.1:{free_port()}", "num_rounds": len(plan),
                "secure_aggregation": mode, "log_dir": str(folder / mode), **identity_settings(folder / "pki"),
            }
        )  # fmt: skip
        path = folder / f"{mode}-{len(list(folder.glob('*.yaml')))}.yaml"
        path.write_text(self.config.as_yaml(), encoding="utf-8")
        self.loot = Loot(tuple(plan))
        with path.with_suffix(".log").open("w", encoding="utf-8") as log, ExitStack() as stack:
            started = subprocess.Popen(
                [sys.executable, *clients, "--config", str(path)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(started.wait)
            stack.callback(started.terminate)
            for target, spy in spies(self.loot):
                stack.enter_context(mock.patch(target, spy))
            self._records = _served(self.config)
            started.wait(timeout=30)

    @property
    def victim(self) -> ClientData:
        """The rows of the tenant whose numbers are wanted."""
        return load_client_data(self.config, int(VICTIM))

    @property
    def preprocessing(self) -> Preprocessing:
        """What scales the rows."""
        if self.loot.preprocessing is None:
            raise TypeError("expected features that are scaled")
        return self.loot.preprocessing

    def words(self, attack: Attack) -> dict[str, str]:
        """What each tenant that was left out said."""
        return self.loot.words.get(attack) or self._records[self.loot.plan.index(attack)].failed

    def true_delta(self, attack: Attack) -> Vector:
        """What the victim computed, (size,): its training is repeated here, with its own rows and seed."""
        torch.set_num_threads(1)
        model, before = build_model(self.config), self.loot.models[attack]
        set_parameters(model, before)
        number = self.loot.plan.index(attack) + 1
        rows = self.preprocessing.apply(self.victim.train)
        train(model, rows, TrainingSettings.of(self.config), (self.config.seed, int(VICTIM), number))
        return flatten(get_parameters(model)) - flatten(before)

    def sent(self, attack: Attack, bucket: str = WEIGHTS, *, mask_off: bool = False) -> Vector | None:
        """The values that the victim's decrypted vector holds, if it were not masked; None if it sent none."""
        plaintexts = self.loot.sent.get((attack, bucket, VICTIM))
        if plaintexts is None:
            return None
        if mask_off:
            mask = self.loot.masks.get((attack, identity_name(VICTIM)))
            plaintexts = mask.apply(plaintexts) if mask else plaintexts
        (keys,) = self.loot.keys
        layout = keys.public.encoding
        if not isinstance(layout, PackingLayout):
            raise TypeError("expected packed plaintexts")
        offset = 1 << layout.fixed_point.value_bits
        slots = [
            (int(m) >> k * layout.slot_bits) % (1 << layout.slot_bits) - offset
            for m in plaintexts
            for k in range(layout.slots_per_plaintext)
        ]
        return layout.fixed_point.decode(np.array(slots, dtype=np.int64))


def _served(config: Config) -> Sequence[RoundRecord]:
    """The records of a run to its last round, though not one came to a sum: that is what refusals come to."""
    try:
        return run_server(config)
    except NoSumError:
        records = read_run(Path(config.log_dir) / "latest").rounds
        if len(records) < config.num_rounds:
            raise
        return records


TITLES = {
    Attack.DECRYPT: "it decrypts the update as it came, then with the tenant's own mask off, which the others reveal",
    Attack.SPLIT_VIEW: "it tells two halves of the cohort different survivors, to get one share from each",
    Attack.BOTH_SHARES: "it asks for both shares of a tenant",
    Attack.SETTINGS: "it tells the others a learning rate of 1e-300, so that the sum is one update",
    Attack.MODEL: "it gives the others a model whose first layer can't move, so that the sum's is one tenant's",
    Attack.EVALUATION: "it has the others evaluate a model whose loss it knows",
    Attack.NAN: "it sends a model that overflows on a row that one tenant alone has",
    Attack.SCALER: "it has the others count their rows by a scaler that puts all of them into one bin",
    Attack.STATISTICS: "it asks for the features' sums again, over the cohort less one",
    Attack.FALSE_LOSS: "it says that the update was lost, so that the tenant's pair masks are revealed",
    Attack.SESSION: "with a new session and key it asks for the first round again, over the cohort less one",
    Attack.SET_BACK: "the tenants' machines are set back to a snapshot, and it asks for another set of masks",
}


def attack_unmasked(folder: Path, clients: Sequence[str]) -> bool:
    """Whether one update can be opened without masks."""
    say(f"secure_aggregation: none. The private key is tried on client {VICTIM}'s update:")
    run = Run(folder, "none", (Attack.DECRYPT,), clients)
    return compare(run.sent(Attack.DECRYPT), run.true_delta(Attack.DECRYPT))


def attack_masked(folder: Path, clients: Sequence[str], wanted: Sequence[Attack]) -> bool:
    """Whether one tenant's numbers can be opened, or a tenant be led to break a rule, with masks."""
    say(f"\nsecure_aggregation: masked. {len(wanted)} attacks on client {VICTIM}, a round each:")
    plan = [attack for attack in Attack if attack in wanted and attack not in SECOND_RUN]
    if Attack.SESSION in wanted and Attack.DECRYPT not in plan:
        plan.insert(0, Attack.DECRYPT)  # there is no second time without a first
    opened = []
    if plan:
        first = Run(folder, "masked", plan, clients)
        opened += [report(attack, first, first) for attack in plan if attack in wanted]
    if again := [attack for attack in SECOND_RUN if attack in wanted]:
        second = Run(folder, "masked", again, ("benchmarks/set_back.py", *clients))
        opened += [report(attack, second, first if plan else second) for attack in again]
    return any(opened)


def lie_about_sums(folder: Path) -> bool:
    """Whether every client finds every lie about a sum."""
    say(f"\naudit: true. {len(Lie)} lies about the sum of a round, to {CLIENTS} clients that are shown its proof:")
    found = []
    for number, lie in enumerate(Lie, start=1):
        config = Config(
            num_clients=CLIENTS, min_available_clients=CLIENTS, min_fit_clients=CLIENTS - 1, local_epochs=1,
            fraction_evaluate=0.0, min_evaluate_clients=CLIENTS - 1, num_rounds=2, num_samples_per_client=200,
            audit=True, log_dir=str(folder / lie), **identity_settings(folder / "pki"),
        )  # fmt: skip
        words = who_finds(config, lie)
        expected = spelt_out(f"audit: {FOUND[lie]}")
        finders = sorted(client for client, said in words.items() if said == expected)
        found.append(len(finders) == CLIENTS)
        say(f"\n{number:2}. {lie}: {LIES_TOLD[lie]}")
        say(f"    clients {', '.join(finders) or 'NONE'}: {expected}")
    return all(found)


def report(attack: Attack, run: Run, first: Run) -> bool:
    """Print what came of one attack; whether it opened anything. `first`: the run whose rounds it asks for again."""
    say(f"\n{list(Attack).index(attack) + 1:2}. {attack}: {TITLES[attack]}")
    opened = False
    if attack in (Attack.SPLIT_VIEW, Attack.BOTH_SHARES):
        opened = REVEALED in run.words(attack).values()
        say(f"    it got {'SHARES OF BOTH KINDS' if opened else 'no share'}")
    elif attack is Attack.NAN:
        opened = tells_apart(run)
    else:
        for recovered, truth in FINDINGS[attack](run, first):
            opened |= compare(recovered, truth)
    grouped: dict[str, list[str]] = {}
    for tenant, words in sorted(run.words(attack).items()):
        grouped.setdefault(words, []).append(tenant)
    for words, tenants in grouped.items():
        say(f"    client{'s'[: len(tenants) > 1]} {', '.join(tenants)}: {words}")
    return opened


Findings = Sequence[tuple[Vector | None, Vector]]  # what it recovered, if anything, and the truth


def of_update(attack: Attack) -> Callable[[Run, Run], Findings]:
    """The sum, if the others' part of it is nothing; else the update as it came."""

    def find(run: Run, _first: Run) -> Findings:
        truth = run.true_delta(attack)
        if attack is Attack.MODEL:
            truth = truth[: run.loot.models[attack][0].size]
        return [(run.loot.sums.get((attack, WEIGHTS), run.sent(attack)), truth)]

    return find


def of_masks(attack: Attack) -> Callable[[Run, Run], Findings]:
    """The update with whatever masks could be rebuilt taken off."""

    def find(run: Run, _first: Run) -> Findings:
        truth = run.true_delta(attack)
        unmasked = [(run.sent(attack, mask_off=True), truth)]
        return [(run.sent(attack), truth), *unmasked] if attack is Attack.DECRYPT else unmasked

    return find


def of_evaluation(run: Run, _first: Run) -> Findings:
    """The mean loss in the clear; from the sum, in which the others' is ln 2 a row; or from the masked vector."""
    config, loot, code = run.config, run.loot, EvaluationCode(run.config)
    model = build_model(config)
    set_parameters(model, loot.models[Attack.EVALUATION])
    holdout = run.preprocessing.apply(run.victim.holdout)
    metrics, rows = evaluate(model, holdout), len(holdout)
    truth = np.array([metrics.loss])
    findings: list[tuple[Vector | None, Vector]] = [(np.array([loot.losses[VICTIM]]), truth)]
    total = loot.sums.get((Attack.EVALUATION, EVALUATION))
    if total is None:
        correct = round(metrics.accuracy * rows)
        vector = code.encode(EvaluationSums(metrics.loss * rows, correct, rows))
        return [*findings, (run.sent(Attack.EVALUATION, EVALUATION), vector)]
    sums = code.decode(total)
    others = np.log(config.num_classes) * sums.rows * (CLIENTS - 1) / CLIENTS
    return [*findings, (np.array([(sums.loss - others) / rows]), truth)]


def of_histogram(run: Run, _first: Run) -> Findings:
    """All counts less those of the others' one bin."""
    config, scaler, rows = run.config, z_scores(run.preprocessing), run.victim.train.features
    code, mine = StatisticsCode(config, scaler.schema), FeatureHistogram.of(scaler.transform(rows))
    total = run.loot.sums.get((Attack.SCALER, HISTOGRAM))
    if total is None:
        return [(run.sent(Attack.SCALER, HISTOGRAM), code.encode_histogram(mine))]
    others = FeatureHistogram.of(far_scaler(scaler).transform(rows)).counts * (CLIENTS - 1)
    found = code.decode_histogram(total).counts - others
    return [(found.ravel().astype(np.float64), mine.counts.ravel().astype(np.float64))]


def of_moments(run: Run, _first: Run) -> Findings:
    """The first sums less the second."""
    schema = run.preprocessing.schema
    code, mine = StatisticsCode(run.config, schema), FeatureSums.of(run.victim.train.features, schema)
    less = run.loot.sums.get((Attack.STATISTICS, MOMENTS))
    if less is None:
        return [(None, mine.total)]
    whole = code.decode_moments(run.loot.sums[None, MOMENTS])
    return [(whole.total - code.decode_moments(less).total, mine.total)]


def of_difference(run: Run, first: Run) -> Findings:
    """The first run's sum less the second's."""
    whole, less = first.loot.sums.get((Attack.DECRYPT, WEIGHTS)), run.loot.sums.get((Attack.SESSION, WEIGHTS))
    return [(None if whole is None or less is None else whole - less, first.true_delta(Attack.DECRYPT))]


FINDINGS: dict[Attack, Callable[[Run, Run], Findings]] = {
    Attack.DECRYPT: of_masks(Attack.DECRYPT),
    Attack.FALSE_LOSS: of_masks(Attack.FALSE_LOSS),
    Attack.SETTINGS: of_update(Attack.SETTINGS),
    Attack.MODEL: of_update(Attack.MODEL),
    Attack.EVALUATION: of_evaluation,
    Attack.SCALER: of_histogram,
    Attack.STATISTICS: of_moments,
    Attack.SESSION: of_difference,
    Attack.SET_BACK: of_masks(Attack.SET_BACK),
}


def tells_apart(run: Run) -> bool:
    """Print whether the tenant on whose row the model fails answers unlike the others."""
    seen = run.loot.seen
    alone = list(seen.values()).count(seen[run.loot.fails]) == 1
    say(f"    client {run.loot.fails} has that row; its answer is {'UNLIKE' if alone else 'like'} the others'")
    return alone


def compare(recovered: Vector | None, truth: Vector) -> bool:
    """Print a guess beside the truth; whether it is the truth, to the fixed point's rounding."""
    if recovered is None:
        say("    it got no sum, and nothing to subtract")
        return False
    error = np.abs(recovered[: truth.size] - truth)
    opened = bool(error.max() <= ROUNDING * 2.0 ** -Config().he_precision_bits)
    for name, vector in (("recovered", recovered[: truth.size]), ("true", truth)):
        shown = " ".join(f"{value:+.5f}" for value in vector[:6])
        say(f"    {name:9} {shown}{' ...' if vector.size > 6 else ''}")
    say(f"    off by {error.mean():.6f} on average, {error.max():.6f} at most: {'OPENED' if opened else 'not opened'}")
    return opened


def say(line: str) -> None:
    """Print at once, as the run takes a while."""
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None, clients: Sequence[str] = ("client/run_clients.py",)) -> int:
    """Both modes; `clients` is the script, with its arguments, that launches the clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help=f"these attacks alone, of: {', '.join(Attack)}")
    try:
        only = parser.parse_args(arguments).only
        wanted = [Attack(name) for name in only.split(",")] if only else list(Attack)
    except ValueError as error:
        parser.error(str(error))
    setup_logging(bars=False)
    logging.getLogger("orchestrator").propagate = False  # its log is in the run's folder; here only the attacks speak
    console.quiet = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provision(folder / "pki", CLIENTS, [])
        try:
            unmasked, masked = attack_unmasked(folder, clients), attack_masked(folder, clients, wanted)
            lies = only != "" or lie_about_sums(folder)
            kept = only != "" or override_policy(folder / "policy", say)
        except OrchestratorError as error:
            say(f"the federation did not run: {error}")
            for log in sorted(folder.glob("*.log")):
                say(log.read_text(encoding="utf-8"))
            return 2
    told = "" if only else f" lies={'found' if lies else 'believed'} policy={'kept' if kept else 'overridden'}"
    say(f"\npeek: unmasked={'opened' if unmasked else 'refused'} masked={'opened' if masked else 'refused'}{told}")
    return 0 if unmasked and not masked and lies and kept else 1


if __name__ == "__main__":
    sys.exit(main())
