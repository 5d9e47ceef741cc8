import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from frugalbo.budget.knapsack import allocate
from frugalbo.budget.price import Pool, Prices, best_pool, pool_resource, starting_prices
from frugalbo.errors import BudgetError

HOUR = 3600.0


def paced(values, costs, budget, prices):
    """Takes each request that is worth its price and fits; returns the gain and the spending after each."""
    gained, spent, path = 0.0, 0.0, []
    for i, (value, cost) in enumerate(zip(values.tolist(), costs.tolist(), strict=True), start=1):
        bought = {}
        if prices.worth(value, {"s": cost}) > 0 and spent + cost <= budget:
            gained, spent, bought = gained + value, spent + cost, {"s": cost}
        prices = prices.after(bought, i / len(values))
        path.append(spent)
    return gained, np.array(path)


def stream(n, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, n), rng.uniform(0.2, 1.8, n), 0.3 * n


def offline(values, costs, budget):
    units = allocate(lambda items, n: values[items], np.zeros(values.size), np.ones(values.size), budget, costs).units
    return values[units > 0].sum()


def test_a_price_by_hand():
    prices = Prices({"s": 100, "usd": 8}, {"s": 0.5, "usd": 2}, stiffness=3, spent={"s": 60}, elapsed=0.2)
    assert prices["s"] == pytest.approx(0.5 * (0.8 / 0.4) ** 3)
    assert prices["usd"] == pytest.approx(2 * 0.8**3)
    assert prices["wall"] == 0
    assert prices.charge({"s": 2, "usd": 1, "wall": 9}) == pytest.approx(8 + 1.024)
    assert prices.worth(10, {"s": 2}) == pytest.approx(2)
    assert prices.index(10, {"s": 2}) == pytest.approx(10 / 8)
    assert prices.index(1, {"wall": 5}) == math.inf
    assert prices.index(0, {}) == 0


def test_at_first_it_is_dual_mirror_descent():
    # mu exp(-eta (rho - b) / rho) for each of ten of a million requests, eta = 1 / 1000, in units where rho = 1.
    eta, costs, mu = 1e-3, [3.0, 0, 1, 0, 2, 2, 0, 5, 0, 1], 0.7
    for b in costs:
        mu *= math.exp(-eta * (1 - b))
    prices = Prices({"s": 1e6}, {"s": 0.7}, stiffness=1e3).after({"s": sum(costs)}, 10 / 1e6)
    assert prices["s"] == pytest.approx(mu, rel=1e-7)


@given(
    pieces=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 0.2)), min_size=1, max_size=5),
    elapsed=st.floats(0, 0.99), stiffness=st.floats(0, 50),
)  # fmt: skip
def test_a_price_is_a_fold_that_does_not_know_its_path(pieces, elapsed, stiffness):
    start = Prices({"s": 17, "usd": 3}, {"s": 0.2, "usd": 5}, stiffness)
    folded = start
    for i, (seconds, dollars) in enumerate(pieces):
        folded = folded.after({"s": seconds, "usd": dollars}, elapsed * i / len(pieces))
    folded = folded.after({}, elapsed)
    total = {"s": sum(s for s, _ in pieces), "usd": sum(d for _, d in pieces)}
    for resource in total:
        assert folded[resource] == pytest.approx(start.after(total, elapsed)[resource], rel=1e-9)


@given(
    spent=st.floats(0, 30), more=st.floats(0, 5), elapsed=st.floats(0, 1), later=st.floats(0, 1),
    stiffness=st.floats(0, 1e4),
)  # fmt: skip
def test_prices_are_never_negative_and_rise_with_spending_and_fall_with_time(spent, more, elapsed, later, stiffness):
    start = Prices({"s": 23}, {"s": 0.2}, stiffness)
    price = start.after({"s": spent}, elapsed)["s"]
    assert price >= 0
    assert start.after({"s": spent + more}, elapsed)["s"] >= price
    assert start.after({"s": spent}, max(elapsed, later))["s"] <= price
    assert (price == math.inf) == (spent >= 23)


@given(
    unit=st.sampled_from([1e-6, 7.0, 1e9]), scale=st.sampled_from([1e-5, 3.0]), spent=st.floats(0, 90),
    elapsed=st.floats(0, 1), cost=st.floats(0, 5), value=st.floats(0, 9),
)  # fmt: skip
def test_neither_units_nor_the_order_of_resources_matter(unit, scale, spent, elapsed, cost, value):
    one = Prices({"s": 100, "usd": 3}, {"s": 0.1, "usd": 2}, 5, {"s": spent, "usd": 1}, elapsed)
    other = Prices(
        {"usd": 3, "s": 100 * unit},
        {"usd": 2 * scale, "s": 0.1 * scale / unit},
        5,
        {"usd": 1, "s": spent * unit},
        elapsed,
    )
    expected = one.worth(value, {"s": cost, "usd": 0.5})
    assert other.worth(value * scale, {"usd": 0.5, "s": cost * unit}) / scale == pytest.approx(expected, rel=1e-6)


def test_what_is_spent_has_no_price_that_could_be_paid():
    prices = Prices({"s": 10, "usd": 1}, {"s": 1, "usd": 1}, 4, spent={"s": 10}, elapsed=1)
    assert prices.worth(1e300, {"s": 1e-9}) == -math.inf
    assert prices.index(1e300, {"s": 1e-9}) == 0
    assert prices.worth(1, {"usd": 0.5, "s": 0}) == 1  # at the end what is left is free


@pytest.mark.parametrize("wrong", [0.1, 1, 10])
def test_a_budget_is_spent_evenly_and_to_the_end(wrong):
    """Of 20 streams at least 18: never a tenth of the budget off the plan, and less than one request left."""
    n, hits = 1600, 0
    for seed in range(20):
        values, costs, budget = stream(n, seed)
        prices = Prices({"s": budget}, {"s": 0.6 * wrong}, math.sqrt(n))
        path = paced(values, costs, budget, prices)[1]
        assert path[-1] <= budget
        off = np.abs(path / budget - np.arange(1, n + 1) / n).max()
        hits += off < 0.1 and budget - path[-1] < 1.8
    assert hits >= 18


def test_regret_against_the_offline_optimum_grows_like_the_square_root():
    """16 times the requests: 4 times the regret, give or take a factor of 1.9; 16 times would be linear."""

    def regret(n, stiffness):
        found = []
        for seed in range(10):
            values, costs, budget = stream(n, seed)
            gained = paced(values, costs, budget, Prices({"s": budget}, {"s": 2.0}, stiffness))[0]
            found.append(offline(values, costs, budget) - gained)
        return np.mean(found)

    few, many = regret(200, math.sqrt(200)), regret(3200, math.sqrt(3200))
    assert 4 / 1.9 < many / few < 4 * 1.9
    # The twin that does not answer to spending is far worse, and linear.
    few_deaf, many_deaf = regret(200, 0), regret(3200, 0)
    assert many_deaf > 5 * many
    assert many_deaf / few_deaf > 4 * 1.9


def test_prices_find_the_duals_of_the_linear_programme():
    """Complementary slackness: the scarce resources have the dual price, what is plenty costs nothing."""
    values = np.array([5.0, 4, 3, 3, 2])
    costs = np.array([[3.0, 1, 1], [1, 3, 0], [2, 0, 2], [0, 2, 3], [1, 1, 1]])
    n = 4000
    budgets = np.array([0.8, 0.7, 2.0]) * n
    rates = np.full(5, n / 5)
    solved = linprog(-values, A_ub=costs.T, b_ub=budgets, bounds=list(zip(np.zeros(5), rates, strict=True)))
    duals = -solved.ineqlin.marginals
    assert (duals[:2] > 0.1).all()
    assert duals[2] == 0
    names = ["a", "b", "c"]
    named = dict(zip(names, budgets.tolist(), strict=True))
    prices = Prices(named, starting_prices(named, -solved.fun), math.sqrt(n))
    rng = np.random.default_rng(3)
    seen, gained, spent = [], 0.0, np.zeros(3)
    for i in range(n):
        kind = rng.integers(5)
        cost = dict(zip(names, costs[kind].tolist(), strict=True))
        bought = {}
        if prices.worth(values[kind], cost) > 0 and (spent + costs[kind] <= budgets).all():
            gained, spent, bought = gained + values[kind], spent + costs[kind], cost
        prices = prices.after(bought, (i + 1) / n)
        if n // 4 <= i < 3 * n // 4:
            seen.append([prices[name] for name in names])
    found = np.mean(seen, axis=0)
    assert found[:2] == pytest.approx(duals[:2], rel=0.2)
    assert found[2] < 0.01
    assert gained > 0.95 * -solved.fun
    assert (duals * (1 - spent / budgets) < 0.02 * duals.max()).all()


# --- pools ----------------------------------------------------------------------------------------


def test_the_cost_of_a_job_by_hand():
    pool = Pool("big", speed=4, devices=2, dollars_per_hour=6)
    cost = pool.cost(2 * HOUR)
    assert cost["wall_seconds"] == HOUR / 2
    assert cost["device_seconds"] == cost[pool_resource("device_seconds", "big")] == HOUR
    assert cost["dollars"] == pytest.approx(6)
    assert pool.survival(2 * HOUR) == 1


@given(rate=st.floats(1e-9, 5), seconds=st.floats(1, 1e5), speed=st.floats(0.5, 9))
def test_a_job_that_may_be_taken_away_costs_less_and_at_most_what_it_would(rate, seconds, speed):
    spot, safe = Pool("p", speed, preemptions_per_hour=rate), Pool("p", speed)
    assert 0 < spot.cost(seconds)["wall_seconds"] <= safe.cost(seconds)["wall_seconds"]
    # What it is expected to hold is the integral of its chance of living, here by a fine sum.
    t = (np.arange(5003) + 0.5) / 5003 * seconds / speed
    assert spot.cost(seconds)["wall_seconds"] == pytest.approx(
        np.exp(-rate * t / HOUR).mean() * seconds / speed, rel=1e-3
    )


def test_cheap_and_unsafe_for_short_jobs_dear_and_safe_for_long_ones():
    pools = [Pool("safe", dollars_per_hour=3), Pool("spot", dollars_per_hour=1, preemptions_per_hour=0.5)]
    prices = Prices({"dollars": 100}, {"dollars": 1}, 3)
    # Half an hour: 10 - 1.5 against 10 exp(-.25) - (1 - exp(-.25)) / .5; less valuable jobs are worth the risk.
    assert best_pool(10, HOUR / 2, pools, prices) == (pools[0], pytest.approx(8.5))
    assert best_pool(3, HOUR / 2, pools, prices) == (
        pools[1], pytest.approx(3 * math.exp(-0.25) - (1 - math.exp(-0.25)) / 0.5),
    )  # fmt: skip
    assert best_pool(1, 2 * HOUR, pools, prices) == (None, 0)


def test_an_exhausted_pool_is_never_chosen():
    pools = [Pool("fast", speed=9), Pool("slow")]
    own = pool_resource("device_seconds", "fast")
    prices = Prices({own: 100, "device_seconds": 1e6}, {own: 1e-9, "device_seconds": 1e-3}, 3)
    assert best_pool(1, 60, pools, prices)[0] == pools[0]
    assert best_pool(1, 60, pools, prices.after({own: 100}, 0))[0] == pools[1]


def test_a_stream_of_jobs_is_divided_among_pools_as_the_linear_programme_would():
    """At least 95 % of its value, in at least 9 of 10 streams, and no budget exceeded in any."""
    pools = [Pool("fast", 3, dollars_per_hour=9), Pool("cheap", 1, dollars_per_hour=2), Pool("spot", 2, 1, 1, 0.2)]
    n, hits = 500, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values, seconds = rng.uniform(0.5, 2, n), rng.uniform(0.2, 2, n) * HOUR
        budgets = {"dollars": 1.2 * n, **{pool_resource("wall_seconds", p.name): 0.2 * n * HOUR for p in pools}}
        gains = np.array([[v * p.survival(s) for p in pools] for v, s in zip(values, seconds, strict=True)])
        costs = np.array([[[p.cost(s).get(r, 0.0) for r in budgets] for p in pools] for s in seconds])
        solved = linprog(
            -gains.ravel(), bounds=(0, 1),
            A_ub=np.vstack([costs.reshape(-1, len(budgets)).T, np.kron(np.eye(n), np.ones(len(pools)))]),
            b_ub=[*budgets.values(), *np.ones(n)],
        )  # fmt: skip
        prices = Prices(budgets, starting_prices(budgets, 0.5 * n), math.sqrt(n))
        gained = 0.0
        for i in range(n):
            pool = best_pool(values[i], seconds[i], pools, prices)[0]
            cost = pool.cost(seconds[i]) if pool else {}
            if pool and all(prices.spent.get(r, 0) + cost.get(r, 0) <= b for r, b in budgets.items()):
                gained += values[i] * pool.survival(seconds[i])
                prices = prices.after({r: cost[r] for r in budgets if r in cost}, (i + 1) / n)
            else:
                prices = prices.after({}, (i + 1) / n)
        hits += gained >= 0.95 * -solved.fun
        assert all(prices.spent[r] <= b for r, b in budgets.items())
    assert hits >= 9


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Prices({"s": 1}, {}, 1), r"for each of \['s'\], got \[\]"),
        (lambda: Prices({"s": 0}, {"s": 1}, 1), "budget above 0 for s, got 0"),
        (lambda: Prices({"s": 1}, {"s": -1}, 1), "starting price above 0 for s, got -1"),
        (lambda: Prices({"s": 1}, {"s": 1}, -1), "stiffness of at least 0"),
        (lambda: Prices({"s": 1}, {"s": 1}, 1).after({"s": -1}, 0), "spending of at least 0 for s, got -1"),
        (lambda: Prices({"s": 1}, {"s": 1}, 1).after({}, 1.1), r"got 1 and 1\.1"),
        (lambda: Pool("p", speed=0), "speed above 0"),
        (lambda: Pool("p", devices=0), "at least one device"),
        (lambda: Pool("p", dollars_per_hour=-1), "dollars_per_hour of at least 0, got -1"),
        (lambda: Pool("p", preemptions_per_hour=math.inf), "preemptions_per_hour of at least 0, got inf"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(BudgetError, match=said):
        make()
