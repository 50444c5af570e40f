"""Who takes part: reproducible, another choice each round, and where sums are masked none that a tenant refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cohorts import choose, choose_masked
from shared.masking import RoundMemory
from shared.masking.errors import BrokenRuleError, Rule
from tests.federations import make_tenants, masked_settings, open_in_memory

SESSION = bytes(16)
SIZES = [(connected, count) for connected in range(3, 25) for count in range(3, connected + 1)]


def named(chosen: list[int]) -> frozenset[str]:
    return frozenset(map(str, chosen))


def refusals(pick: Callable[[int, int, int], list[int]]) -> int:
    """How many rounds an honest tenant refuses, as they follow each other."""
    refused = 0
    for connected, count in SIZES:
        memory = RoundMemory()
        for server_round in range(1, 9):
            cohort = named(pick(connected, count, server_round))
            try:
                memory.check_cohort(SESSION, "weights", cohort, 3)
            except BrokenRuleError as error:
                if error.code != Rule.COHORT_SWAP:
                    raise
                refused += 1
            memory.open_sum(SESSION, "weights", server_round.to_bytes(32), cohort, cohort)
    return refused


def test_masked_cohorts_are_never_refused_and_random_ones_are() -> None:
    assert refusals(lambda connected, count, r: choose_masked(connected, count, 1, r, 3)) == 0
    assert refusals(lambda connected, count, r: choose(connected, count, 1, r)) > 0


def masked_of_three(connected: int, count: int, seed: int, server_round: int) -> list[int]:
    return choose_masked(connected, count, seed, server_round, 3)


@pytest.mark.parametrize("pick", [choose, masked_of_three])
def test_a_choice_has_its_size_and_follows_from_seed_and_round(pick: Callable[..., list[int]]) -> None:
    for connected, count in SIZES:
        chosen = pick(connected, count, 1, 2)
        assert chosen == pick(connected, count, 1, 2) == sorted(set(chosen))
        assert set(chosen) <= set(range(connected))
        assert len(chosen) in {count, connected}
    assert len({tuple(pick(20, 5, 1, r)) for r in range(1, 5)}) == 4
    assert pick(20, 5, 1, 1) != pick(20, 5, 2, 1)


def test_everybody_has_a_turn_in_masked_rounds() -> None:
    assert set().union(*(choose_masked(20, 5, 1, r, 3) for r in range(4))) == set(range(20))


def test_a_masked_run_with_a_part_of_the_tenants_each_round_has_a_sum_in_each(tmp_path: Path) -> None:
    config = masked_settings(
        tmp_path, 4, fraction_fit=0.75, num_rounds=4, num_features=4, num_samples_per_client=40, local_epochs=1
    )
    run = open_in_memory(config, make_tenants(config))
    run.coordinator.run()
    assert [(r.skipped, r.contributor_ids) for r in run.coordinator.records] == [(None, ["0", "1", "2", "3"])] * 4
