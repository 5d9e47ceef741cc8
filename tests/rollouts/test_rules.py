import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalbo.errors import BudgetError
from frugalbo.rollouts import rules
from frugalbo.rollouts.value import chance_of_gradient, expected_gains, gains, signal_gains


def toy():
    """256 prompts: 40 % always succeed, 20 % never, the others at k/16."""
    return np.concatenate([np.ones(102), np.zeros(51), np.random.default_rng(0).integers(1, 16, 103) / 16])


def effective_ratio(n, p):
    """The share of rollouts that are in groups with a gradient, expected."""
    return (n * chance_of_gradient(n, p)).sum() / n.sum()


def test_the_arithmetic_toy_goes_from_335_to_628():
    """Knapsack RL, arXiv:2509.25849, on exact success rates with its rules and an exact optimiser."""
    p = toy()
    known = np.ones(p.size, dtype=bool)
    n = rules.knapsack(p, known, 2048, 2, 128)
    assert effective_ratio(rules.uniform(256, 2048), p) == pytest.approx(0.335, abs=5e-4)
    assert effective_ratio(n, p) == pytest.approx(0.628, abs=5e-4)
    means = {k: round(n[p == k / 16].mean()) for k in (1, 2, 4, 8, 12, 14, 15)}
    assert means == {1: 31, 2: 25, 4: 16, 8: 9, 12: 12, 14: 10, 15: 2}
    assert n[p == 0].mean() == pytest.approx(2 + 7.3, abs=0.05)
    assert n.sum() == 2048


def test_signal_goes_with_the_square_of_the_expected_gain():
    # Rates known well: n in proportion to (p q^2)^2, here .144^2 : .096^2 = 9 : 4.
    a, b = 1e8 * np.array([0.4, 0.6]), 1e8 * np.array([0.6, 0.4])
    assert rules.by_value(signal_gains(a, b), 2, 130, 1, 128).tolist() == [90, 40]


def test_what_never_failed_may_yet_fail():
    # Seen 16 of 16, and 8 of 16. At the plug-in of 1 the first has no value, and the second has all there is.
    seen = np.array([1.0, 0.5])
    assert rules.knapsack(seen, np.ones(2, dtype=bool), 10, 2, 128).tolist() == [5, 5]  # by the fallback
    assert rules.by_value(gains(seen), 2, 40, 2, 128).tolist() == [2, 38]
    assert rules.by_value(expected_gains([17.0, 9.0], [1.0, 9.0]), 2, 40, 2, 128).min() > 10


def test_filtering_keeps_the_budget():
    dull = np.array([True, False, True, False, False])
    assert rules.filtering(dull, 40, 2, 128).tolist() == [2, 12, 2, 12, 12]
    assert rules.filtering(dull, 40, 2, 9).tolist() == [7, 9, 6, 9, 9]  # beyond the upper bound all are alike
    assert rules.filtering(np.ones(3, dtype=bool), 11, 2, 128).tolist() == [4, 4, 3]


@pytest.mark.parametrize(
    ("rate", "known", "budget", "expected"),
    [
        # Nobody is known: all the same.
        ([0, 0, 0], [0, 0, 0], 25, [9, 8, 8]),
        # No effective prompts: the rest goes to those that always failed.
        ([0, 1, 0], [1, 1, 1], 24, [11, 2, 11]),
        ([1, 1, 1], [1, 1, 1], 25, [9, 8, 8]),
        # One effective prompt can use ln .1 / ln .5 = 3 of the 20 left: 17 go to the failing one.
        ([0.5, 0, 1], [1, 1, 1], 26, [5, 19, 2]),
        # Without a failing one they go to those that always succeed.
        ([0.5, 1, 1], [1, 1, 1], 26, [5, 11, 10]),
        # An unknown one counts as failing, on top of its mean number.
        ([0.5, 0, 1], [1, 0, 1], 27, [5, 20, 2]),
        # All effective: the knapsack has it all, above the upper bound too.
        ([0.5, 0.5], [1, 1], 300, [150, 150]),
    ],
)
def test_the_published_fallback(rate, known, budget, expected):
    found = rules.knapsack(np.array(rate, dtype=float), np.array(known, dtype=bool), budget, 2, 128)
    assert found.tolist() == expected
    assert found.sum() == budget


rates = st.lists(st.sampled_from([0.0, 1.0, 0.02, 0.3, 0.5, 0.97]), min_size=7, max_size=7)
flags = st.lists(st.booleans(), min_size=7, max_size=7)


@given(rate=rates, known=flags, budget=st.integers(7 * 2, 7 * 128), released=st.booleans())
def test_every_rule_spends_the_budget_to_the_last_rollout(rate, known, budget, released):
    rate, known = np.array(rate), np.array(known)
    a, b = 8 * rate + 0.3, 8 * (1 - rate) + 0.7
    found = [
        rules.uniform(7, budget),
        rules.filtering(rate % 1 == 0, budget, 2, 128),
        rules.knapsack(rate * known, known, budget, 2, 128, as_released=released),
        rules.by_value(expected_gains(a, b), 7, budget, 2, 128),
        rules.by_value(signal_gains(a, b), 7, budget, 2, 128),
    ]
    for n in found:
        assert n.sum() == budget
        assert n.min() >= 2


@given(rate=rates, order=st.permutations(range(7)))
def test_the_order_of_prompts_does_not_matter_but_for_ties(rate, order):
    rate = np.array(rate) * 0.9 + np.arange(7) * 0.01
    for gain in (expected_gains, signal_gains):
        n, other = (rules.by_value(gain(8 * p + 0.3, 8 * (1 - p) + 0.7), 7, 111, 2, 128) for p in (rate, rate[order]))
        assert other.tolist() == n[list(order)].tolist()


def test_dear_prompts_get_fewer_rollouts():
    a, b = np.full(5, 3.0), np.full(5, 5.0)
    costs = np.array([100.0, 100, 100, 400, 400])
    n = rules.by_value(expected_gains(a, b), 5, 9000, 2, 128, costs)
    assert n[:3].min() > n[3:].max()
    assert 9000 - 100 < costs @ n <= 9000


@pytest.mark.parametrize(("budget", "said"), [(13, "from 14 to 35"), (36, "from 14 to 35")])
def test_a_budget_outside_the_bounds_is_refused(budget, said):
    with pytest.raises(BudgetError, match=said):
        rules.by_value(expected_gains(np.ones(7), np.ones(7)), 7, budget, 2, 5)
    with pytest.raises(BudgetError, match=said):
        rules.filtering(np.ones(7, dtype=bool), budget, 2, 5)


def test_a_budget_below_the_lower_bounds_is_refused():
    with pytest.raises(BudgetError, match="at least 6"):
        rules.knapsack(np.array([0.5, 0, 1]), np.ones(3, dtype=bool), 5, 2, 128)
