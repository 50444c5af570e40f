"""The attacks of `benchmarks/attacks.py`: what their papers say of them, and what ByzFL makes of the same deltas."""

import numpy as np
import pytest

from benchmarks.attacks import VECTORS, Attack, inner_product, little_is_enough, min_max, scaling, sign_flip
from benchmarks.poisoning import ATTACKS, CLEAN, DEFENCES, Case, plan, sheets

HONEST = np.random.default_rng(5).normal(0.01, 0.05, (9, 40))


def test_min_max_is_no_farther_from_an_honest_delta_than_another_honest_one() -> None:
    sent = min_max(HONEST, 3)
    between = max(np.linalg.norm(HONEST - one, axis=1).max() for one in HONEST)
    assert 0.99 * between <= np.linalg.norm(HONEST - sent, axis=1).max() <= between


def test_little_is_enough_hides_among_the_honest() -> None:
    """In each coordinate more honest deltas than not are on its side of the mean, or beyond it."""
    sent = little_is_enough(HONEST, 3)
    assert ((sent > HONEST).sum(axis=0) >= 1).mean() > 0.8
    assert (sent < HONEST.mean(axis=0)).all()


def test_what_points_backwards_does() -> None:
    mean = HONEST.mean(axis=0)
    for attack in (sign_flip, scaling, inner_product):
        assert attack(HONEST, 3) @ mean < 0


# What byzfl 0.0.11 makes of the same deltas (it needs torchvision, so it is not installed here): `SignFlipping()`,
# `InnerProductManipulation(tau)` with 2 and 10, and `ALittleIsEnough` with minus the paper's z; the first three values.
BYZFL: dict[Attack, list[float]] = {
    sign_flip: [-0.01996503, -0.00799846, -0.00615552],
    inner_product: [-0.03993007, -0.01599692, -0.01231104],
    scaling: [-0.19965035, -0.07998461, -0.06155518],
    little_is_enough: [0.01149067, -0.00157795, 0.00043407],
}


@pytest.mark.parametrize("attack", BYZFL)
def test_byzfl_makes_the_same(attack: Attack) -> None:
    assert np.allclose(attack(HONEST, 3)[:3], BYZFL[attack], atol=5e-9)


def test_the_plan_has_each_attack_with_each_defence_once() -> None:
    cases = plan(quick=False)
    assert len(cases) == len(set(cases))
    assert {(case.attack, case.defence) for case in cases} == {(a, d) for a in ATTACKS for d in DEFENCES}
    assert all(len(case.bad) == round(case.share * case.tenants) for case in cases if case.attack != CLEAN)
    assert set(VECTORS) <= set(ATTACKS)
    assert sheets([]) == []


def test_a_case_is_a_federation_that_runs() -> None:
    assert Case(12, "even", 0.2, "ALIE", "groups, validation").config.groups == 4
