"""The benchmark's arithmetic and the form of its results, with tiny sizes. Nothing here asserts a time."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.auditing import AuditCost, audit_cost
from benchmarks.comb import CombCost, comb_over_limit
from benchmarks.forest_sums import ForestCost, forest_costs
from benchmarks.machine import free_port
from benchmarks.masked_round import MaskedCost, masked_cost
from benchmarks.masking_growth import STAGES, StageCost, growth
from benchmarks.measuring import Figures, Measured, Passes, interleave, medians, times_better
from benchmarks.memory import Peak
from benchmarks.pace import PARTS, Pace, pace
from benchmarks.picture import draw
from benchmarks.report import FIGURES_BEGIN, FIGURES_END, write_markdown
from benchmarks.results import OPERATIONS, Results, Section
from benchmarks.rounds import TIMES, RoundCost, summary, wait_for_run
from benchmarks.run import measure
from benchmarks.schemes import OURS, PHE, TENSEAL, HeuZPaillier, Ours, PheOnePerValue, TenSealCkks, delta_like
from benchmarks.training import TrainingCost, training_cost

MISSING = [name for name in ("tenseal", "heu", "matplotlib") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"benchmarks/requirements.txt has, but is not installed: {MISSING}"
)

RATIO_KEYS = [
    "encrypt_vs_phe_2048",
    "encrypt_vs_phe_3072",
    "online_encrypt_vs_phe_3072",
    "bytes_vs_phe_3072",
    "decrypt_vs_phe_2048",
    "decrypt_vs_phe_3072",
    "bytes_vs_tenseal",
    "kahe_encrypt_vs_tenseal",
    "kahe_decrypt_vs_tenseal",
    "kahe_bytes_vs_tenseal",
    "kahe_bytes_vs_float32",
    "kahe_encrypt_vs_packed",
    "kahe_decrypt_vs_packed",
    "comb_vs_limit_3072",
    "round_vs_plain_3_clients",
    "train_vs_before",
]


MACHINE = {
    "cpu": "c", "cores": 2, "system": "s", "python": "3", "libraries": {}, "load_average": [1.0], "date": "d",
}  # fmt: skip


class Counting:
    """A candidate whose figures are the numbers of its passes."""

    key_bits = 0
    how = "counted"

    def __init__(self, name: str, order: list[str]) -> None:
        self.name = name
        self._order = order
        self._figures: Iterator[int] = iter(range(1, 100))

    def measure(self) -> Figures:
        self._order.append(self.name)
        return {"encrypt": float(next(self._figures))}


def _measured(name: str, key_bits: int, factor: float) -> Measured:
    return Measured(
        name, key_bits, 10, 1, "made up", {operation: factor * (i + 1) for i, operation in enumerate(OPERATIONS)}
    )


def _results() -> Results:
    times, parts = dict.fromkeys(TIMES, 1.0), dict.fromkeys(("before", "fit", "after", "evaluation", "round"), 1.0)
    return Results(
        sections={"schemes": Section(MACHINE, 60.0), "comb": Section(MACHINE | {"cpu": "other"}, 1.0)},
        settings={"ratio_parameters": 10, "fractional_bits": 16, "max_contributors": 3},
        schemes=[
            _measured(OURS["blum"], 2048, 1.0),
            _measured(OURS["blum"], 3072, 2.0),
            _measured(OURS["kahe"], 3072, 0.5),
            _measured(PHE, 2048, 100.0),
            _measured(PHE, 3072, 600.0),
            _measured(TENSEAL, 0, 8.0),
        ],
        combs=[CombCost(2048, 1, 128, 1.0, 1.0, 9.0), CombCost(3072, 1, 192, 1.0, 1.0, 1.25)],
        rounds=[RoundCost(3, 1, "d", 1, 1, times, times, 7.0), RoundCost(3, 5, "d", 1, 1, times, times, 1.5)],
        memory=[Peak("orchestrator", 10, 3, 1.0, 1.0, 1.0, 1.0)],
        masked=[MaskedCost(3, 5, "d", 1, 1, parts, parts, 1.01, 1.0, 1.02, 1.01, {"upload": 9}, {"upload": 10})],
        training=[TrainingCost(9, 3, 1, 2.0, 3.0)],
        audits=[AuditCost("kahe", 9, 3, 1, 10, 30, 1.0, 0.5, 0.7)],
        paces=[Pace("memory", "kahe", 3, 0.5, dict.fromkeys(PARTS, 0.1))],
        forests=[ForestCost("kahe", "d", 3, 9, 30, 7, 1.0, 0.5, 1.4, 10, 5, 0.1, 2.0)],
        growth=[StageCost(3, 0, 1, 1, dict.fromkeys(STAGES, 1.0), dict.fromkeys(STAGES[:-1], 1.0), 1.0)],
    )


def test_passes_are_interleaved_and_their_median_is_kept() -> None:
    order: list[str] = []
    first, second = interleave([Counting("a", order), Counting("b", order)], size=1, passes=Passes(3, 60.0))
    assert order == ["a", "b"] * 3
    assert (first.median["encrypt"], second.median["encrypt"], first.passes) == (2.0, 2.0, 3)


def test_one_pass_is_made_when_the_time_is_up_already() -> None:
    assert list(Passes(most=5, limit_seconds=0.0)) == [0]


def test_medians_are_taken_by_operation() -> None:
    assert medians([{"a": 1.0, "b": 9.0}, {"a": 5.0, "b": 2.0}, {"a": 2.0, "b": 3.0}]) == {"a": 2.0, "b": 3.0}


def test_the_ratios_are_peer_over_ours_of_the_right_key() -> None:
    ratios = _results().ratios()
    assert list(ratios) == RATIO_KEYS
    assert ratios["encrypt_vs_phe_2048"] == ratios["decrypt_vs_phe_2048"] == 100.0
    assert ratios["encrypt_vs_phe_3072"] == ratios["bytes_vs_phe_3072"] == ratios["decrypt_vs_phe_3072"] == 300.0
    assert ratios["bytes_vs_tenseal"] == 4.0
    assert ratios["kahe_encrypt_vs_tenseal"] == ratios["kahe_bytes_vs_tenseal"] == 16.0
    assert ratios["kahe_encrypt_vs_packed"] == ratios["kahe_decrypt_vs_packed"] == 4.0
    assert ratios["kahe_bytes_vs_float32"] == 4 * 10 / (0.5 * 3), "bytes are the third of the operations"
    assert (ratios["comb_vs_limit_3072"], ratios["round_vs_plain_3_clients"]) == (1.25, 1.5)
    assert ratios["train_vs_before"] == 1.5


def test_online_is_compared_with_a_peers_encryption_where_the_peer_makes_nothing_ahead() -> None:
    ours = Measured("ours", 1, 1, 1, "", {"encrypt": 10.0, "online": 2.0})
    assert times_better(ours, Measured("peer", 1, 1, 1, "", {"encrypt": 6.0}), "online") == 3.0
    assert times_better(ours, Measured("peer", 1, 1, 1, "", {"encrypt": 6.0, "online": 4.0}), "online") == 2.0


def test_the_files_hold_every_ratio(tmp_path: Path) -> None:
    results = _results()
    assert list(json.loads(json.dumps(results.as_json()))["ratios"]) == RATIO_KEYS
    page = tmp_path / "page.md"
    page.write_text(f"before\n{FIGURES_BEGIN}\nold figures\n{FIGURES_END}\nafter\n", encoding="utf-8")
    write_markdown(results, page)
    text = page.read_text(encoding="utf-8")
    assert all(f"| {key} |" in text for key in RATIO_KEYS)
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old figures" not in text
    draw(results, tmp_path / "figures.png")
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_a_section_measured_anew_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(_results().as_json()), encoding="utf-8")
    results = Results.from_json(json.loads(path.read_text(encoding="utf-8")))
    assert results == _results()

    def slower(results: Results) -> None:
        results.combs = [CombCost(3072, 1, 192, 1.0, 1.0, 1.4)]

    measure({"comb": slower}, results, path)
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["ratios"] == _results().ratios() | {"comb_vs_limit_3072": 1.4}
    assert after["sections"]["schemes"] == {"machine": MACHINE, "seconds": 60.0}
    assert after["sections"]["comb"]["machine"]["cpu"] != "other"


def test_figures_from_before_there_was_kahe_have_the_other_ratios() -> None:
    results = _results()
    results.schemes = [measured for measured in results.schemes if measured.name != OURS["kahe"]]
    assert list(results.ratios()) == [key for key in RATIO_KEYS if not key.startswith("kahe")]


def test_a_size_that_one_variant_alone_was_measured_on_is_compared_with_nothing() -> None:
    results = _results()
    before = results.comparisons()
    results.schemes.append(Measured(OURS["kahe"], 3072, 99, 1, "", {"encrypt": 1.0}))
    assert results.comparisons() == before


def test_a_run_of_few_sections_has_their_ratios_alone() -> None:
    results = _results()
    results.schemes, results.rounds, results.training = [], [], []
    assert results.ratios() == {"comb_vs_limit_3072": 1.25}


@pytest.mark.long
def test_both_loops_of_training_are_measured() -> None:
    cost = training_cost(Passes(most=2, limit_seconds=60.0), rows=100)
    assert cost.passes == 2
    assert min(cost.seconds, cost.usual_seconds) > 0


def test_an_audit_and_tiny_rounds_are_measured() -> None:
    cost = audit_cost("kahe", 3, Passes(most=1, limit_seconds=1.0), features=4, key_bits=512)
    assert cost.proof_bytes > 3 * cost.upload_bytes
    assert min(cost.decrypt_seconds, cost.roots_seconds, cost.verify_seconds) > 0
    tiny = pace("memory", "paillier", rounds=2, key_bits=512)
    assert (tiny.rounds, sorted(tiny.parts)) == (2, sorted(PARTS))


def test_a_forest_is_grown_by_each_scheme_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"data_source": "synthetic", "num_samples_per_client": 200}
    monkeypatch.setattr("benchmarks.forest_sums.data_settings", lambda clients: rows)
    small = {"num_features": 6, "forest_trees": 2, "forest_parallel": 2, "forest_depth": 2, "num_rounds": 2}
    plain, paillier, kahe = forest_costs(90, 512, **small)
    assert [cost.scheme for cost in (plain, paillier, kahe)] == ["none", "paillier", "kahe"]
    assert {(cost.rows, cost.sums) for cost in (plain, paillier, kahe)} == {(90, 2)}
    assert min(paillier.vector_seconds, paillier.stage_seconds, paillier.cpu_seconds, paillier.decrypt_seconds) > 0
    assert min(paillier.sent_bytes, kahe.sent_bytes, paillier.received_bytes) > 0


@pytest.mark.parametrize("variant", list(OURS))
def test_ours_measures_every_operation(variant: str) -> None:
    figures = Ours(512, variant, delta_like(60)).measure()
    assert all(figures[operation] > 0 for operation in OPERATIONS)


def test_a_sampled_peer_is_scaled_to_the_whole_vector() -> None:
    key_bytes = 2 * 512 // 8
    figures = PheOnePerValue(512, delta_like(60), sample=6).measure()
    assert figures["bytes"] == pytest.approx(60 * key_bytes)


def test_the_peers_add_and_decrypt_rightly() -> None:
    # Each refuses to give figures when its decrypted sum is wrong.
    assert TenSealCkks(delta_like(5000)).measure()["bytes"] > 0
    assert HeuZPaillier(512, delta_like(10), sample=2).measure()["bytes"] > 0


def test_the_comb_needs_one_multiplication_for_8_bits_of_half_the_key() -> None:
    cost = comb_over_limit(512, passes=2)
    assert cost.multiplications == 512 // 2 // 8
    assert cost.over_limit == pytest.approx(cost.randomiser_seconds / (32 * cost.multiplication_seconds))


def test_no_connection_that_goes_out_takes_a_port_before_its_server_listens() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not given.exists():
        pytest.skip("this system does not say which ports it gives to connections")
    lowest = int(given.read_text().split()[0])
    assert all(free_port() < lowest for _ in range(100))


def test_the_parts_of_a_round_are_medians_over_rounds() -> None:
    records = [dict.fromkeys(TIMES, value) for value in (1.0, 5.0, 2.0)]
    assert summary(records) == dict.fromkeys(TIMES, 2.0)


@pytest.mark.parametrize(("rounds", "codes"), [(1, [3]), (2, [])])
def test_a_run_whose_time_is_up_is_left_as_soon_as_it_has_a_timed_round(
    tmp_path: Path, rounds: int, codes: list[int]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"round": 1}\n' * rounds + '{"round"', encoding="utf-8")  # the last line is being written
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys, time; time.sleep({60 if rounds == 2 else 0}); sys.exit(3)"]
    )
    try:
        assert wait_for_run([process], metrics, run_seconds=0.0) == codes
    finally:
        process.kill()
        process.wait()


def test_masked_and_plain_rounds_are_timed_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"num_clients": 3, "min_available_clients": 3, "num_samples_per_client": 20, "local_epochs": 1}
    key = {"he_key_length": 512, "allow_insecure_key": True}
    monkeypatch.setattr("benchmarks.masked_round.round_settings", lambda clients, local_epochs: {**small, **key})
    cost = masked_cost(3, local_epochs=1, passes=Passes(2, 60.0))
    assert cost.pairs == 2
    assert cost.lowest <= cost.over_plain <= cost.highest
    assert [stage for stage, size in cost.plain_bytes.items() if size] == ["upload", "evaluation"]
    assert all(cost.masked_bytes.values())


def test_the_stages_of_masking_are_measured_with_and_without_losses() -> None:
    whole, lossy = growth(4, Passes(1, 60.0))
    assert (whole.dropped, lossy.dropped) == (0, 1)
    assert all(lossy.server[stage] > 0 for stage in STAGES)
    assert whole.client_seconds == pytest.approx(sum(whole.client.values()))
    (three,) = growth(3, Passes(1, 60.0))
    assert three.dropped == 0
    assert whole.client_bytes > three.client_bytes
