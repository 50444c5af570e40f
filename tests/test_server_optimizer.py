"""FedAvgM: the formula, and that a resumed run is the undisturbed one."""

import numpy as np
import pytest

from shared.server_optimizer import ServerOptimizer

DELTAS = [np.array([1.0, 0.0]), np.array([0.0, 2.0]), np.array([-1.0, 1.0])]


def test_momentum_zero_is_fedavg_and_has_no_state() -> None:
    optimizer = ServerOptimizer(0.0)
    vector = np.array([0.1, 0.2])
    for delta in DELTAS:
        expected = vector + delta
        vector = optimizer.step(vector, delta)
        assert np.array_equal(vector, expected)
    assert optimizer.velocity is None


def test_each_step_carries_on_the_last() -> None:
    optimizer = ServerOptimizer(0.5)
    vector = np.zeros(2)
    seen = []
    for delta in DELTAS:
        vector = optimizer.step(vector, delta)
        seen.append(vector.tolist())
    # v = (1, 0), (0.5, 2), (-0.75, 2)
    assert seen == [[1.0, 0.0], [1.5, 2.0], [0.75, 4.0]]


def test_a_constant_delta_is_magnified_by_one_over_one_minus_momentum() -> None:
    optimizer = ServerOptimizer(0.9)
    vector = np.zeros(1)
    for _ in range(300):
        before, vector = vector, optimizer.step(vector, np.ones(1))
    assert vector[0] - before[0] == pytest.approx(10.0)


def test_what_it_was_given_stays_as_it_was() -> None:
    optimizer = ServerOptimizer(0.9)
    vector, delta = np.ones(2), np.ones(2)
    optimizer.step(optimizer.step(vector, delta), delta)
    assert np.array_equal(vector, np.ones(2))
    assert np.array_equal(delta, np.ones(2))


def test_going_on_from_a_saved_velocity_equals_never_having_stopped() -> None:
    whole, first = ServerOptimizer(0.9), ServerOptimizer(0.9)
    undisturbed = vector = np.zeros(2)
    for delta in DELTAS:
        undisturbed = whole.step(undisturbed, delta)
    for delta in DELTAS[:2]:
        vector = first.step(vector, delta)
    second = ServerOptimizer(0.9)
    second.velocity = first.velocity
    assert np.array_equal(second.step(vector, DELTAS[2]), undisturbed)
