"""The benchmark's arithmetic and the form of its results, with tiny sizes. Nothing here asserts a time."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.comb import CombCost, comb_over_limit
from benchmarks.measuring import Figures, Measured, Passes, interleave, medians, times_better
from benchmarks.report import FIGURES_BEGIN, FIGURES_END, draw, write_markdown
from benchmarks.results import OPERATIONS, Results
from benchmarks.rounds import TIMES, RoundCost, summary
from benchmarks.schemes import OURS, PHE, TENSEAL, HeuZPaillier, Ours, PheOnePerValue, TenSealCkks, delta_like

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
    "comb_vs_limit_3072",
    "round_vs_plain_3_clients",
]


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
    times = dict.fromkeys(TIMES, 1.0)
    return Results(
        machine={
            "cpu": "c",
            "cores": 2,
            "system": "s",
            "python": "3",
            "libraries": {},
            "load_average": [],
            "date": "d",
        },
        settings={"ratio_parameters": 10, "fractional_bits": 16, "max_contributors": 3},
        schemes=[
            _measured(OURS["blum"], 2048, 1.0),
            _measured(OURS["blum"], 3072, 2.0),
            _measured(PHE, 2048, 100.0),
            _measured(PHE, 3072, 600.0),
            _measured(TENSEAL, 0, 8.0),
        ],
        combs=[CombCost(2048, 1, 128, 1.0, 1.0, 9.0), CombCost(3072, 1, 192, 1.0, 1.0, 1.25)],
        rounds=[RoundCost(3, 1, "d", 1, 1, times, times, 7.0), RoundCost(3, 5, "d", 1, 1, times, times, 1.5)],
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
    assert (ratios["comb_vs_limit_3072"], ratios["round_vs_plain_3_clients"]) == (1.25, 1.5)


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


@pytest.mark.parametrize("kind", ["blum", "subgroup"])
def test_ours_measures_every_operation(kind: str) -> None:
    figures = Ours(512, kind, delta_like(60)).measure()
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


def test_the_parts_of_a_round_are_medians_over_rounds() -> None:
    records = [dict.fromkeys(TIMES, value) for value in (1.0, 5.0, 2.0)]
    assert summary(records) == dict.fromkeys(TIMES, 2.0)
