"""Measure this project against its peers, as ratios.

    python benchmarks/run.py --quick --json quick.json     # under three minutes: the ratios that matter
    python benchmarks/run.py --json bench.json --markdown bench.md --picture bench.png
    python benchmarks/run.py --only memory,masked --json bench.json     # these anew, the others as the file has them

Needs benchmarks/requirements.txt; `make bench` installs it and runs the long form, about 25 minutes on 2 cores.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.auditing import audit_cost
from benchmarks.comb import comb_over_limit
from benchmarks.forest_sums import forest_costs
from benchmarks.machine import machine_facts
from benchmarks.masked_round import masked_cost
from benchmarks.masking_growth import growth
from benchmarks.measuring import Candidate, Passes, interleave
from benchmarks.memory import peaks
from benchmarks.pace import pace
from benchmarks.picture import draw
from benchmarks.report import print_results, write_markdown
from benchmarks.results import Results, Section
from benchmarks.rounds import round_cost
from benchmarks.schemes import HEU, HeuZPaillier, Ours, PheOnePerValue, TenSealCkks, delta_like
from benchmarks.training import training_cost
from shared.config import Config
from shared.console import console
from shared.he.scheme import Vector

KEY_BITS = (2048, 3072)
RATIO_SIZE = 100_000  # parameters that `ratios` is about
PASSES = {  # by the number of parameters; the last takes two minutes a pass
    1_000: Passes(most=7, limit_seconds=40),
    10_000: Passes(most=7, limit_seconds=40),
    RATIO_SIZE: Passes(most=5, limit_seconds=60),
    1_000_000: Passes(most=2, limit_seconds=200),
}
KAHE_SIZE = 10_000_000  # of which the others would take minutes and more
LARGEST_COMPLETE = RATIO_SIZE  # beyond, the online figures only grow in proportion
MEMORY = {10_000: (3, 10, 50), 100_000: (3, 10, 50), 1_000_000: (3, 10)}  # contributors by parameters
ROUNDS = (  # clients, local epochs, passes, timed rounds of each run
    (3, 5, Passes(most=2, limit_seconds=200), 3),
    (3, 1, Passes(most=2, limit_seconds=100), 3),
    (10, 5, Passes(most=1, limit_seconds=0), 3),
    (10, 1, Passes(most=2, limit_seconds=100), 3),
)
MASKED_PAIRS = (  # clients, local epochs, pairs of rounds: with one epoch training hides least of what masking costs
    (3, 1, Passes(most=9, limit_seconds=75)),
    (10, 1, Passes(most=9, limit_seconds=75)),
    (10, 5, Passes(most=3, limit_seconds=120)),
    (50, 1, Passes(most=9, limit_seconds=75)),
)
AUDITS = (("kahe", 3), ("kahe", 10), ("kahe", 50), ("paillier", 3))  # scheme, tenants
GROWTH_CLIENTS = (3, 10, 50, 100)
SAMPLE = 24  # values that a peer of one ciphertext per value is measured on in a pass
COMB_PASSES = 60
QUICK_RUN_SECONDS = 50.0  # of server and clients, start included; there are two such runs in the three minutes


def quick_schemes(results: Results) -> None:
    vector = delta_like(RATIO_SIZE)
    candidates: list[Candidate] = [
        *(Ours(bits, "blum", vector, online=bits == 3072) for bits in KEY_BITS),
        Ours(3072, "kahe", vector),
        *(PheOnePerValue(bits, vector, SAMPLE) for bits in KEY_BITS),
        TenSealCkks(vector),
    ]
    results.schemes = interleave(candidates, RATIO_SIZE, Passes(most=3, limit_seconds=25))


def quick_comb(results: Results) -> None:
    results.combs = [comb_over_limit(3072, COMB_PASSES)]


def quick_rounds(results: Results) -> None:
    results.rounds = [round_cost(3, 5, Passes(most=1, limit_seconds=0), rounds=3, run_seconds=QUICK_RUN_SECONDS)]


def schemes(results: Results) -> None:
    results.schemes, results.notes = [], []
    for size, passes in PASSES.items():
        console.print(f"schemes, {size:,} parameters …")
        results.schemes += interleave(_candidates(delta_like(size), results), size, passes)
    vector = delta_like(KAHE_SIZE)
    results.schemes += interleave([Ours(3072, "kahe", vector, online=False)], KAHE_SIZE, Passes(3, limit_seconds=30))


def comb(results: Results) -> None:
    results.combs = [comb_over_limit(bits, COMB_PASSES) for bits in KEY_BITS]


def rounds(results: Results) -> None:
    results.rounds = []
    for clients, local_epochs, passes, timed in ROUNDS:
        console.print(f"rounds of {clients} clients, {local_epochs} local epochs …")
        results.rounds.append(round_cost(clients, local_epochs, passes, timed))


def memory(results: Results) -> None:
    results.memory = []
    for parameters, contributors in MEMORY.items():
        console.print(f"memory, {parameters:,} parameters …")
        results.memory += peaks(parameters, contributors)


def masked(results: Results) -> None:
    results.masked, results.growth = [], []
    for clients, local_epochs, passes in MASKED_PAIRS:
        console.print(f"masked against plain rounds, {clients} clients, {local_epochs} local epochs …")
        results.masked.append(masked_cost(clients, local_epochs, passes))
    for clients in GROWTH_CLIENTS:
        console.print(f"the stages of masking, {clients} clients …")
        results.growth += growth(clients, Passes(most=3, limit_seconds=15))


def audit(results: Results) -> None:
    results.audits = [audit_cost(scheme, clients, Passes(most=3, limit_seconds=20)) for scheme, clients in AUDITS]


def tiny(results: Results) -> None:
    results.paces = [pace(transport, scheme) for transport in ("memory", "legacy") for scheme in ("paillier", "kahe")]


def forest(results: Results) -> None:
    results.forests = forest_costs()


def training(results: Results) -> None:
    results.training = [training_cost(Passes(most=7, limit_seconds=90))]


def quick_training(results: Results) -> None:
    results.training = [training_cost(Passes(most=3, limit_seconds=20))]


QUICK: dict[str, Callable[[Results], None]] = {
    "schemes": quick_schemes, "comb": quick_comb, "rounds": quick_rounds, "training": quick_training,
}  # fmt: skip
FULL: dict[str, Callable[[Results], None]] = {
    "schemes": schemes, "comb": comb, "rounds": rounds, "memory": memory, "masked": masked,
    "training": training, "audit": audit, "tiny": tiny, "forest": forest,
}  # fmt: skip


def settings() -> dict[str, object]:
    """What all figures have in common."""
    config = Config()
    return {
        "ratio_parameters": RATIO_SIZE,
        "fractional_bits": config.he_precision_bits,
        "integer_bits": config.he_integer_bits,
        "max_contributors": config.num_clients,
        "phe": f"measured on {SAMPLE} values a pass and scaled to all of them",
        "round_model": "round_vs_plain is of an MLP 122-64-32-2 (10,018 parameters), whatever ratio_parameters says",
    }


def measure(plan: Mapping[str, Callable[[Results], None]], results: Results, json_path: Path | None) -> None:
    """Run the sections of the plan, each in place of what the results have of it, and keep each as soon as it ends."""
    for name, section in plan.items():
        facts, start = machine_facts(), time.perf_counter()
        section(results)
        results.sections[name] = Section(facts, time.perf_counter() - start)
        console.print(f"{name}: {results.sections[name].seconds:.0f} s")
        if json_path:
            json_path.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")


def _candidates(vector: Vector, results: Results) -> list[Candidate]:
    complete = len(vector) <= LARGEST_COMPLETE
    ours = ("blum", "kahe")
    candidates: list[Candidate] = [Ours(bits, name, vector, online=complete) for bits in KEY_BITS for name in ours]
    candidates += [PheOnePerValue(bits, vector, SAMPLE) for bits in KEY_BITS]
    candidates.append(TenSealCkks(vector))
    try:
        candidates += [HeuZPaillier(bits, vector, SAMPLE) for bits in KEY_BITS]
    except Exception as error:  # a native library of another machine may fail in any way; the others still count
        results.notes.append(f"{HEU}, {len(vector):,} parameters: not measured, {type(error).__name__}: {error}")
    return candidates


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description="Measure this project against its peers, as ratios.")
    parser.add_argument("--quick", action="store_true", help="under three minutes: only the ratios that matter")
    parser.add_argument(
        "--only",
        default="",
        help=f"measure these sections alone, of {','.join(FULL)}; --json keeps the others' figures",
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file, after each section")
    parser.add_argument("--markdown", type=Path, help="put the tables into this page")
    parser.add_argument("--picture", type=Path, help="draw the ratios into this PNG file")
    args = parser.parse_args()
    missing = [name for name in ("tenseal", "psutil", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}; pip install -r benchmarks/requirements.txt")
    plan = QUICK if args.quick else FULL
    names = args.only.split(",") if args.only else list(plan)
    if unknown := set(names) - set(plan):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(plan)}")
    results = Results(settings())
    if args.only and args.json and args.json.exists():
        results = Results.from_json(json.loads(args.json.read_text(encoding="utf-8")))
    measure({name: plan[name] for name in plan if name in names}, results, args.json)
    if args.markdown:
        write_markdown(results, args.markdown, args.picture)
    if args.picture:
        draw(results, args.picture)
    print_results(results)
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    console.print(f"took {minutes}:{seconds:02} min")


if __name__ == "__main__":
    main()
