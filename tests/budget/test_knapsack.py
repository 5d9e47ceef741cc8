import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from frugalbo.budget.knapsack import allocate, allocate_exactly, spread
from frugalbo.errors import BudgetError

ITEMS, MOST = 5, 7


def gain_of(tables):
    """The gains of a table whose column n has the value of n units."""
    return lambda items, n: tables[items, n] - tables[items, n - 1]


def total(tables, units):
    return tables[np.arange(len(tables)), units].sum()


@st.composite
def concave(draw, whole=False):
    """Values of 0 to 7 units of five items, concave, with many ties if whole."""
    # Of so few binary digits that sums and differences are exact, and equal gains equal.
    number = st.integers(0, 4) if whole else st.integers(0, 2**20).map(lambda n: n / 2**20)
    gains = draw(st.lists(st.lists(number, min_size=MOST, max_size=MOST), min_size=ITEMS, max_size=ITEMS))
    return np.concatenate([np.zeros((ITEMS, 1)), np.cumsum(-np.sort(-np.array(gains, dtype=float)), axis=1)], axis=1)


bounds = st.lists(st.tuples(st.integers(0, MOST), st.integers(0, MOST)).map(sorted), min_size=ITEMS, max_size=ITEMS)


@settings(max_examples=100)
@given(tables=concave() | concave(whole=True), bounds=bounds, more=st.integers(0, ITEMS * MOST))
def test_with_equal_costs_it_is_as_good_as_dynamic_programming(tables, bounds, more):
    low, high = np.array(bounds).T
    budget = int(low.sum()) + more
    found = allocate(gain_of(tables), low, high, budget)
    n = np.arange(MOST + 1)
    allowed = np.where((n < low[:, None]) | (n > high[:, None]), -np.inf, tables)
    assert total(tables, found.units) == pytest.approx(total(tables, allocate_exactly(allowed, budget)), abs=1e-9)
    assert found.spent == found.units.sum() <= budget
    assert ((found.units >= low) & (found.units <= high)).all()
    assert found.gap == 0


@settings(max_examples=100)
@given(
    tables=concave() | concave(whole=True), bounds=bounds, more=st.integers(0, 150),
    costs=st.lists(st.integers(1, 11), min_size=ITEMS, max_size=ITEMS),
)  # fmt: skip
def test_with_other_costs_it_is_within_its_gap_of_dynamic_programming(tables, bounds, more, costs):
    low, high = np.array(bounds).T
    budget = int(low @ costs) + more
    found = allocate(gain_of(tables), low, high, budget, costs)
    n = np.arange(MOST + 1)
    allowed = np.where((n < low[:, None]) | (n > high[:, None]), -np.inf, tables)
    best = total(tables, allocate_exactly(allowed, budget, costs))
    assert best - found.gap - 1e-9 <= total(tables, found.units) <= best + 1e-9
    assert found.spent == found.units @ costs <= budget
    # No dearer than one unit: the price times what a unit costs is what the first unit left behind adds.
    assert found.gap <= found.price * max(costs) + 1e-9


@given(tables=concave(), budget=st.integers(0, ITEMS * MOST))
def test_the_price_parts_what_is_bought_from_what_is_left(tables, budget):
    found = allocate(gain_of(tables), np.zeros(ITEMS), np.full(ITEMS, MOST), budget)
    gains = np.diff(tables, axis=1)
    is_bought = np.arange(MOST) < found.units[:, None]
    assert (gains[is_bought] >= found.price).all()
    assert (gains[~is_bought] <= found.price).all()
    assert found.price == 0 or found.price in gains[~is_bought]


def test_the_price_is_the_dual_of_the_linear_programme():
    # The units of concave curves are bought in the right order by the linear programme itself.
    rng = np.random.default_rng(3)
    gains = -np.sort(-rng.uniform(size=(ITEMS, MOST)), axis=1)
    tables = np.concatenate([np.zeros((ITEMS, 1)), np.cumsum(gains, axis=1)], axis=1)
    costs = rng.uniform(0.5, 2, ITEMS)
    budget = 11.3
    solved = linprog(-gains.ravel(), A_ub=np.repeat(costs, MOST)[None], b_ub=[budget], bounds=(0, 1))
    found = allocate(gain_of(tables), np.zeros(ITEMS), np.full(ITEMS, MOST), budget, costs)
    assert found.price == pytest.approx(-solved.ineqlin.marginals[0], rel=1e-9)
    assert total(tables, found.units) + found.gap >= -solved.fun - 1e-9


@given(tables=concave(), budget=st.integers(0, ITEMS * MOST - 1))
def test_more_budget_is_never_worth_less(tables, budget):
    less, more = (allocate(gain_of(tables), np.zeros(ITEMS), np.full(ITEMS, MOST), b) for b in (budget, budget + 1))
    assert total(tables, less.units) <= total(tables, more.units) + 1e-9
    assert more.price <= less.price
    # One more unit brings what the price said.
    assert total(tables, more.units) - total(tables, less.units) == pytest.approx(less.price, abs=1e-9)


@given(tables=concave(), order=st.permutations(range(ITEMS)), scale=st.sampled_from([1e-6, 3.0, 1e7]))
def test_neither_the_order_of_items_nor_the_unit_of_cost_matters(tables, order, scale):
    costs, budget = np.array([1.0, 2, 3, 5, 7]), 31.0
    tables = tables + np.arange(MOST + 1) * np.array([[1e-3, 3.1e-3, 2.3e-3, 7.9e-3, 4.7e-3]]).T * np.e  # no ties
    one = allocate(gain_of(tables), np.zeros(ITEMS), np.full(ITEMS, MOST), budget, costs)
    other = allocate(
        gain_of(tables[order]), np.zeros(ITEMS), np.full(ITEMS, MOST), scale * budget, scale * costs[order]
    )
    assert total(tables[order], other.units) == pytest.approx(total(tables, one.units))
    assert other.price == pytest.approx(one.price / scale)


def test_equals_are_served_in_order():
    tables = np.tile(np.array([0.0, 1, 1.5, 1.75]), (3, 1))
    assert allocate(gain_of(tables), [0] * 3, [3] * 3, 4).units.tolist() == [2, 1, 1]


def test_what_adds_nothing_is_not_bought():
    tables = np.array([[0.0, 1, 1, 1], [0, 0, 0, 0]])
    found = allocate(gain_of(tables), [0, 1], [3, 3], 6)
    assert found.units.tolist() == [1, 1]
    assert (found.price, found.spent) == (0, 2)


def test_the_gap_is_that_of_the_classic_trap():
    # By value per cost the small item is first; it fits, and then the large one does not.
    tables = np.array([[0.0, 2], [0, 10]])
    found = allocate(gain_of(tables), [0, 0], [1, 1], 10, [1, 10])
    assert found.units.tolist() == [1, 0]
    assert found.price == 1  # of the large one: 10 for 10
    assert found.gap == pytest.approx(9)
    assert allocate_exactly(tables, 10, [1, 10]).tolist() == [0, 1]


def test_what_is_left_is_filled_with_what_fits():
    tables = np.array([[0.0, 3, 3], [0, 9, 9], [0, 1, 1.5]])
    found = allocate(gain_of(tables), [0] * 3, [2] * 3, 5, [1, 9, 2])
    assert found.units.tolist() == [1, 0, 2]
    # 3 are bought at 3 each, the price is 9 for 9; of the 4 left 1.5 are made.
    assert found.gap == pytest.approx(4 - 1.5)


def test_nothing_to_buy_is_no_error():
    found = allocate(lambda items, n: np.zeros(len(items)), [], [], 3)
    assert found.units.size == 0
    assert found.spent == 0


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"lower": [2, 2], "upper": [3, 3], "budget": 3}, "at least 4"),
        ({"lower": [2, 3], "upper": [3, 2], "budget": 9}, "got 3 and 2 for item 1"),
        ({"lower": [-1, 0], "upper": [3, 2], "budget": 9}, "got -1 and 3 for item 0"),
        ({"lower": [0, 0], "upper": [3, 2], "budget": 9, "costs": [1, 0]}, "above 0"),
        ({"lower": [0, 0], "upper": [3, 2], "budget": float("nan")}, "nan"),
    ],
)
def test_what_cannot_be_is_refused(kwargs, said):
    with pytest.raises(BudgetError, match=said):
        allocate(lambda items, n: 1.0 / n, **kwargs)


def test_dynamic_programming_needs_whole_costs_and_a_choice_that_fits():
    with pytest.raises(BudgetError, match="whole"):
        allocate_exactly(np.ones((2, 3)), 5, [0.5, 1])
    with pytest.raises(BudgetError, match="at most 1"):
        allocate_exactly([[-np.inf, -np.inf, 1]], 1)


def test_dynamic_programming_takes_curves_that_are_not_concave():
    # Two of the first or none: 5 for 2 beats 2 + 2.
    assert allocate_exactly([[0.0, 0, 5], [0, 2, 4]], 2).tolist() == [2, 0]


def test_a_total_is_spread_to_the_last_unit():
    assert spread(11, 4).tolist() == [3, 3, 3, 2]
