"""The benchmark's own code: it measures what it says."""

import numpy as np
import pytest

from benchmarks import knapsack
from frugalbo.rollouts import rules
from frugalbo.rollouts.value import value


def test_the_plain_implementation_finds_what_the_rule_finds():
    rate = np.random.default_rng(1).integers(0, 9, 61) / 8
    found = knapsack.plain(rate, 8 * 61)
    known = np.ones(61, dtype=bool)
    ours = rules.knapsack(rate, known, 8 * 61, knapsack.LOWER, knapsack.UPPER, as_released=True)
    assert found.sum() == ours.sum() == 8 * 61
    assert (found == ours)[(rate == 0) | (rate == 1)].all()
    assert value(found, rate).sum() == pytest.approx(value(ours, rate).sum())


def test_a_step_is_the_policy_gradient_by_hand():
    # Two prompts, one skill each. Four rollouts, one success: advantages 3 / sqrt(3) and -1 / sqrt(3) in units of
    # the group's (biased) deviation, so sum_j A_j r_j = sqrt(3). Six rollouts, all alike: nothing.
    x, ids, n, k = np.eye(2), np.array([0, 1]), np.array([4, 6]), np.array([1, 6])
    unit = knapsack.SKILLS * 0.5 * np.sqrt(3)
    assert knapsack.step(x, "tokens", 0.5, ids, n, k).tolist() == pytest.approx([unit / 10, 0])
    assert knapsack.step(x, "groups", 0.5, ids, n, k).tolist() == pytest.approx([unit / 4 / 2, 0])


def test_noise_is_that_of_the_rollouts_with_an_advantage():
    # Four of ten rollouts are in a group with a gradient: sum_j A_j^2 = 4, over (the sum of n)^2, or n^2 and groups^2.
    n, k = np.array([4, 6]), np.array([1, 6])
    unit = knapsack.NOISE / np.sqrt(knapsack.SKILLS)
    assert knapsack.noise_sd("tokens", n, k) == pytest.approx(unit * np.sqrt(4 / 100))
    assert knapsack.noise_sd("groups", n, k) == pytest.approx(unit * np.sqrt(4 / 16 / 4))
