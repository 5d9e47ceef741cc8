import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from frugalbo.bandits import LagrangeBwK, UCBBwK
from frugalbo.bandits.linear_program import best_mixture
from frugalbo.errors import BanditError
from frugalbo.testing.bandit_games import Shop, play
from frugalbo.testing.bandits import KnapsackConformance

tenths = st.integers(0, 10).map(lambda i: i / 10)  # many ties and zeros: degenerate programs
thousandths = st.integers(0, 1000).map(lambda i: i / 1000)  # costs near 1e-9 are nothing to scipy


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n_arms=st.integers(1, 7), d=st.integers(1, 3), unit=st.sampled_from([tenths, thousandths]))
def test_the_mixture_is_as_good_as_the_one_of_scipy(data, n_arms, d, unit):
    values, rates = (np.array(data.draw(st.lists(unit, min_size=n, max_size=n))) for n in (n_arms, d))
    costs = np.array(data.draw(st.lists(st.lists(unit, min_size=n_arms, max_size=n_arms), min_size=d, max_size=d)))
    p = best_mixture(values, costs, rates)
    assert (p >= 0).all()
    assert p.sum() <= 1 + 1e-9
    assert (costs @ p <= rates + 1e-9).all()
    assert np.count_nonzero(p) <= d + 1
    theirs = linprog(-values, A_ub=np.vstack([costs, np.ones(n_arms)]), b_ub=np.append(rates, 1))
    assert values @ p == pytest.approx(-theirs.fun, abs=1e-6)


def test_the_mixture_by_hand():
    # Arm 0 takes both resources, arms 1 and 2 one each: half of either is worth 0.7, arm 0 alone 0.45.
    p = best_mixture(np.array([0.9, 0.7, 0.7]), np.array([[1.0, 1, 0], [1, 0, 1]]), np.array([0.5, 0.5]))
    assert p == pytest.approx([0, 0.5, 0.5])


def test_intervals_of_ucb_by_hand():
    # c = 0.1 ln(2 * 2 * 100) = 0.59915. Arm 0 after 4 pulls of reward 1/2 and cost 1/4 of its cap of 8:
    # radius of the reward sqrt(c * 0.5 / 4) + c / 4 = 0.27366 + 0.14979 = 0.42345.
    bandit = UCBBwK(2, 100, [80.0], [[8.0], [4.0]])
    for _ in range(4):
        bandit.update(0, 0.5, [2.0])
    assert bandit.radius(np.array([0.5]), np.array([4]))[0] == pytest.approx(0.42345, abs=1e-5)
    assert bandit.probabilities().tolist() == [0, 1]
    bandit.update(1, 0.2, [4.0])
    assert bandit.left.tolist() == [68.0]


def test_prices_rise_where_the_budget_goes():
    bandit = LagrangeBwK(2, 200, [100.0, 100.0], [1.0, 1.0])
    assert bandit.prices == pytest.approx([1 / 3] * 3)
    for _ in range(60):
        bandit.update(0, 0.5, [1.0, 0.0])
    first, second, time = bandit.prices
    assert first > time > second
    # What arm 0 takes is dear now, arm 1 was not tried: it looks better.
    assert bandit.probabilities()[1] > 0.9


def test_the_ends_of_unequal_budgets_are_spent():
    """Two arms that take one resource each, which is all the bandit can do with it."""
    for kind in (UCBBwK, LagrangeBwK):
        bandit = kind(2, 400, [100.0, 50.0], [[1.0, 0.0], [0.0, 1.0]])
        play(bandit, Shop([0.5, 0.5], [[1, 0], [0, 1]], 0), 400, 0)
        assert bandit.spent.tolist() == [100, 50]


def test_what_is_held_is_not_there_for_others():
    bandit = UCBBwK(2, 10, [1.0], [[0.6], [0.3]])
    bandit.hold(0)
    assert bandit.affordable.tolist() == [False, True]
    bandit.hold(1)
    assert bandit.is_over
    bandit.update(0, 1.0, [0.1])
    assert bandit.left == pytest.approx([0.6])
    assert not bandit.is_over


def test_pulls_that_run_count_against_the_horizon():
    bandit = UCBBwK(2, 2, [9.0], [1.0])
    bandit.hold(0)
    bandit.hold(1)
    assert bandit.is_over
    bandit.update(1, 1.0, [1.0])
    assert bandit.is_over


class Generous(UCBBwK):
    """Asks after what is left, but not whether a cap fits into it."""

    @property
    def affordable(self):
        return np.ones(self.n_arms, bool) & (self.left > 0).all()


def test_without_the_caps_it_would_overspend():
    class Suite(KnapsackConformance):
        def make_with(self, n_arms, horizon, budgets, caps):
            return Generous(n_arms, horizon, budgets, caps)

    check = KnapsackConformance.test_nothing_is_overspent.hypothesis.inner_test  # for one case of our own
    with pytest.raises(AssertionError):
        check(Suite(), budgets=[1.0, 1.0], caps=[[0.7, 0.7]] * 3, slots=2, seed=0)
    with pytest.raises(AssertionError):
        check(Suite(), budgets=[1.0, 1.0], caps=[[0.7, 0.7]] * 3, slots=1, seed=3)


@pytest.mark.parametrize("confidence", [0.0, -1.0, math.nan])
def test_wrong_confidence_is_refused(confidence):
    with pytest.raises(BanditError, match="expected confidence"):
        UCBBwK(2, 9, [1.0], [1.0], confidence=confidence)
