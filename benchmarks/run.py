"""Measure this project against its peers, as ratios.

    python benchmarks/run.py --quick --json quick.json     # two minutes: the nine ratios that matter
    python benchmarks/run.py --json bench.json --markdown docs/performance.md --picture docs/performance.png

Needs benchmarks/requirements.txt; `make bench` installs it and runs the long form, about half an hour.
"""

import argparse
import importlib.util
import json
from pathlib import Path

from benchmarks.comb import comb_over_limit
from benchmarks.machine import machine_facts
from benchmarks.measuring import Candidate, Passes, interleave
from benchmarks.memory import peaks
from benchmarks.report import draw, print_results, write_markdown
from benchmarks.results import Results
from benchmarks.rounds import round_cost
from benchmarks.schemes import HEU, HeuZPaillier, Ours, PheOnePerValue, TenSealCkks, delta_like
from shared.config import Config
from shared.console import console
from shared.he_utils import Vector

KEY_BITS = (2048, 3072)
RATIO_SIZE = 100_000  # parameters that `ratios` is about
SIZES = (1_000, 10_000, 100_000, 1_000_000)
LARGEST_SUBGROUP = 100_000  # beyond, the subgroup key's figures only grow in proportion
MEMORY_SIZES = (10_000, 100_000, 1_000_000)
SAMPLE = 24  # values that a peer of one ciphertext per value is measured on in a pass
COMB_PASSES = 60


def quick() -> Results:
    """The figures of `ratios` alone, for a machine that may be busy: sections stop early rather than late."""
    results = _new_results()
    vector = delta_like(RATIO_SIZE)
    candidates: list[Candidate] = [
        *(Ours(bits, "blum", vector, online=bits == 3072) for bits in KEY_BITS),
        *(PheOnePerValue(bits, vector, SAMPLE) for bits in KEY_BITS),
        TenSealCkks(vector),
    ]
    results.schemes = interleave(candidates, RATIO_SIZE, Passes(most=3, limit_seconds=28))
    results.combs = [comb_over_limit(3072, COMB_PASSES)]
    results.rounds = [round_cost(clients=3, local_epochs=5, passes=Passes(most=2, limit_seconds=40), rounds=3)]
    return results


def full() -> Results:
    """Everything."""
    results = _new_results()
    for size in SIZES:
        console.print(f"schemes, {size:,} parameters …")
        results.schemes += interleave(_candidates(delta_like(size), results), size, Passes(most=5, limit_seconds=60))
    console.print("comb …")
    results.combs = [comb_over_limit(bits, COMB_PASSES) for bits in KEY_BITS]
    for clients in (3, 10):
        for local_epochs in (5, 1):
            console.print(f"rounds of {clients} clients, {local_epochs} local epochs …")
            results.rounds.append(round_cost(clients, local_epochs, Passes(most=3, limit_seconds=60), rounds=3))
    for parameters in MEMORY_SIZES:
        console.print(f"memory, {parameters:,} parameters …")
        results.memory += peaks(parameters)
    return results


def _new_results() -> Results:
    config = Config()
    settings = {
        "ratio_parameters": RATIO_SIZE,
        "fractional_bits": config.he_precision_bits,
        "integer_bits": config.he_integer_bits,
        "max_contributors": config.num_clients,
        "phe": f"measured on {SAMPLE} values a pass and scaled to all of them",
        "round_model": "round_vs_plain is of an MLP 122-64-32-2 (10,018 parameters), whatever ratio_parameters says",
    }
    return Results(machine_facts(), settings)


def _candidates(vector: Vector, results: Results) -> list[Candidate]:
    kinds = ("blum", "subgroup") if len(vector) <= LARGEST_SUBGROUP else ("blum",)
    candidates: list[Candidate] = [Ours(bits, kind, vector) for bits in KEY_BITS for kind in kinds]
    candidates += [PheOnePerValue(bits, vector, SAMPLE) for bits in KEY_BITS]
    candidates.append(TenSealCkks(vector))
    try:
        candidates += [HeuZPaillier(bits, vector, SAMPLE) for bits in KEY_BITS]
    except Exception as error:  # a native library of another machine may fail in any way; the others still count
        results.notes.append(f"{HEU}, {len(vector):,} parameters: not measured, {type(error).__name__}: {error}")
    return candidates


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure this project against its peers, as ratios.")
    parser.add_argument("--quick", action="store_true", help="two minutes: only the ratios that matter")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--markdown", type=Path, help="put the tables into this page")
    parser.add_argument("--picture", type=Path, help="draw the ratios into this PNG file")
    args = parser.parse_args()
    missing = [name for name in ("tenseal", "psutil", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}; pip install -r benchmarks/requirements.txt")
    results = quick() if args.quick else full()
    if args.json:
        args.json.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        write_markdown(results, args.markdown)
    if args.picture:
        draw(results, args.picture)
    print_results(results)


if __name__ == "__main__":
    main()
