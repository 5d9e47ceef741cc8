"""The race's own code: pools, regrets and the same start for all."""

import itertools

import numpy as np
import pytest

from benchmarks import race_metabo as race


@pytest.mark.parametrize("name", race.FUNCTIONS)
def test_pools_are_points_of_the_cube_with_losses(name):
    X, losses = race.pool_of(name)
    assert X.shape[0] == len(losses) == 500
    assert 0 <= X.min() <= X.max() <= 1
    assert np.isfinite(losses).all()


def test_regret_is_nothing_at_the_best_and_one_at_the_median_or_worst():
    losses = np.array([1.0, 2.0, 3.0, 7.0, 9.0])
    assert race.regret_of("function/branin", losses, losses).tolist() == [0, 0.5, 1, 1, 1]
    assert race.regret_of("nap/20", losses, losses).tolist() == [0, 0.125, 0.25, 0.75, 1]


def test_all_methods_start_at_the_same_points_and_never_get_worse():
    curves = [race.run_cell("function/branin", m, 1, 8)["regret"] for m in race.METHODS]
    curves.append(race.random_regret("function/branin", 1, 8))
    assert len({round(c[0], 6) for c in curves}) == 1
    for curve in curves:
        assert len(curve) == 4
        assert all(b <= a for a, b in itertools.pairwise(curve))


def test_the_mean_of_random_orders_is_the_closed_form():
    """Of the best of one more point: the mean over the pool of the least of it and what was reached."""
    _, losses = race.pool_of("function/slope2")
    first = np.random.default_rng([2, 99]).permutation(500)[:5]
    rest = np.setdiff1d(np.arange(500), first)
    expected = race.regret_of("", losses, np.minimum(losses[rest], losses[first].min())).mean()
    assert race.random_regret("function/slope2", 2, 6)[1] == pytest.approx(expected, abs=0.02)
