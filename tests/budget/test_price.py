import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.knapsack import allocate
from frugalbo.budget.ledger import Ledger
from frugalbo.budget.price import Market, Prices, pool_resource, starting_prices
from frugalbo.errors import BudgetError
from frugalbo.slot import Slot

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
    wanted = {"s": cost, "usd": 0.5}
    found = other.worth(value * scale, {"usd": 0.5, "s": cost * unit}) / scale
    # The worth is a difference, which may be about 0.
    assert found == pytest.approx(one.worth(value, wanted), abs=1e-9 * (value + one.charge(wanted)))


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


def test_a_stream_of_jobs_is_divided_among_pools_as_the_linear_programme_would():
    """At least 95 % of its value, in at least 9 of 10 streams, and no budget exceeded in any."""
    pools = {"fast": (3, 9), "cheap": (1, 2), "large": (2, 5)}  # speeds and dollars an hour
    n, hits = 500, 0

    def cost(pool, seconds):
        speed, price = pools[pool]
        return {"dollars": seconds / speed * price / HOUR, pool_resource("wall_seconds", pool): seconds / speed}

    for seed in range(10):
        rng = np.random.default_rng(seed)
        values, seconds = rng.uniform(0.5, 2, n), rng.uniform(0.2, 2, n) * HOUR
        budgets = {"dollars": 1.2 * n, **{pool_resource("wall_seconds", p): 0.2 * n * HOUR for p in pools}}
        costs = np.array([[[cost(p, s).get(r, 0.0) for r in budgets] for p in pools] for s in seconds])
        solved = linprog(
            -np.repeat(values, len(pools)), bounds=(0, 1),
            A_ub=np.vstack([costs.reshape(-1, len(budgets)).T, np.kron(np.eye(n), np.ones(len(pools)))]),
            b_ub=[*budgets.values(), *np.ones(n)],
        )  # fmt: skip
        prices = Prices(budgets, starting_prices(budgets, 0.5 * n), math.sqrt(n))
        gained = 0.0
        for i in range(n):
            wanted = min((cost(p, seconds[i]) for p in pools), key=prices.charge)
            fits = all(prices.spent.get(r, 0) + amount <= budgets[r] for r, amount in wanted.items())
            is_bought = fits and prices.worth(values[i], wanted) > 0
            gained += values[i] * is_bought
            prices = prices.after(wanted if is_bought else {}, (i + 1) / n)
        hits += gained >= 0.95 * -solved.fun
        assert all(prices.spent[r] <= b for r, b in budgets.items())
    assert hits >= 9


# --- a run's prices -------------------------------------------------------------------------------


def slot(pool, price=0.0, speed=1.0, *, devices=1, preemptible=False):
    return Slot(f"{pool}/cpu:0", "cpu", 0, 1, devices, price, pool, speed, preemptible)


def balance(limits, spent=None, **pools):
    """Accounts with these limits and spending; by pool a pair of the same."""
    ledger = Ledger(Budget(**limits), {name: Budget(**own) for name, (own, _) in pools.items()})
    charged = {"": spent or {}, **{name: used for name, (_, used) in pools.items()}}
    for name, used in charged.items():
        ledger.hold(name, Cost(), name)
        ledger.settle(name, Cost(**used))
    return ledger.balance()


def test_the_prices_of_a_run_by_hand():
    # Half of the 200 s are spent, so half of the run has passed; a quarter of the 8 USD, so they are 3/2 of what
    # they should be, and cost (1/2 / 3/4)^10 of what they did.
    market = Market.of(balance({"device_seconds": 200, "dollars": 8}, {"device_seconds": 100, "dollars": 2}))
    assert market.whole.elapsed == 0.5
    assert market.whole["device_seconds"] == pytest.approx(0.5 / 200)
    assert market.whole["dollars"] == pytest.approx(0.5 / 8 * (2 / 3) ** 10)
    here = slot("a", 7200, 4.0, devices=3)  # 2 USD a second and device; 12 s of work in a second
    assert market.of_a_second(here) == pytest.approx(3 * 0.0025 + 6 / 16 * (2 / 3) ** 10)
    assert market.charge(here, 36) == pytest.approx(3 * market.of_a_second(here))


def test_a_pool_that_spends_its_own_ahead_of_the_run_is_dearer_and_one_that_lags_is_not_cheaper():
    # A fifth of the run has passed. "a" has spent half of its own, "b" a tenth.
    found = balance(
        {"device_seconds": 1000}, {"device_seconds": 40},
        a=({"dollars": 10}, {"dollars": 5, "device_seconds": 100}), b=({"device_seconds": 600}, {"device_seconds": 60}),
    )  # fmt: skip
    market = Market.of(found)
    assert market.whole.elapsed == 0.2
    assert market.factor("a") == pytest.approx((0.8 / 0.5) ** 10)
    assert market.factor("b") == market.factor("c") == market.factor("") == 1
    assert market.of_a_second(slot("a")) == pytest.approx((0.8 / 0.5) ** 10 / 1000)
    assert market.of_a_second(slot("b")) == pytest.approx(1 / 1000)


@pytest.mark.parametrize("small", [1e-3, 1.0, 1e3])
def test_a_pool_is_not_dear_because_its_budget_is_small(small):
    market = Market.of(balance({"dollars": 100}, fast=({"dollars": small}, {})))
    fast, slow = slot("fast", 3, 2.0), slot("slow", 2)
    assert market.ranked([slow, fast], 60) == [fast, slow]


def test_a_pool_that_is_spent_has_no_price_that_could_be_paid():
    found = balance({"device_seconds": 1000}, {}, a=({"evaluations": 2}, {"evaluations": 2}))
    market = Market.of(found)
    assert market.of_a_second(slot("a")) == market.charge(slot("a"), 1) == math.inf
    assert market.ranked([slot("a", speed=9), slot("b")], 1)[0].pool == "b"


@given(
    speeds=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=1, max_size=5), price=st.sampled_from([0.0, 2.0]),
    work=st.floats(1e-3, 1e5),
)  # fmt: skip
def test_where_everything_is_equal_the_order_stays(speeds, price, work):
    market = Market.of(balance({"device_seconds": 100}))
    slots = [slot(f"p{i}", price, speed) for i, speed in enumerate(speeds)]
    ranked = market.ranked(slots, work)
    for speed in set(speeds):
        assert [s for s in ranked if s.speed == speed] == [s for s in slots if s.speed == speed]
    assert [s.speed for s in ranked] == sorted(speeds, reverse=True)  # the faster, the fewer device-seconds


def test_where_no_budget_counts_it_money_decides_and_then_time():
    market = Market.of(balance({"evaluations": 100}))
    slots = [slot("dear", 4, 3.0), slot("slow", 1), slot("fast", 2, 2.0), slot("faster", 3, 3.0)]
    assert [s.pool for s in market.ranked(slots, 60)] == ["faster", "fast", "slow", "dear"]


def test_work_that_may_be_taken_away_takes_longer_by_what_is_lost():
    # Taken away 3 times in 12 hours, and 1 in 24 before: 4 in 36. (exp(1/9 * 18) - 1) * 9 hours for 18.
    market = Market.of(balance({"device_seconds": 1e9}), {"spot": (3, 12 * HOUR)})
    assert market.seconds(slot("spot", preemptible=True), 18 * HOUR) == pytest.approx(9 * math.expm1(2) * HOUR)
    assert market.seconds(slot("spot", preemptible=True), 1) == pytest.approx(1, rel=1e-4)
    assert market.seconds(slot("spot"), 18 * HOUR) == 18 * HOUR
    # What the closed form says, by throwing dice: of 20,000 pieces of work the mean is within 3 %.
    rng, took = np.random.default_rng(5), np.zeros(20_000)
    todo = np.ones(len(took), dtype=bool)
    while todo.any():
        until = rng.exponential(9.0, len(took))
        took[todo] += np.minimum(until, 18)[todo]
        todo &= until < 18
    assert took.mean() * HOUR == pytest.approx(9 * math.expm1(2) * HOUR, rel=0.03)


def test_cheap_and_unsafe_for_short_work_dear_and_safe_for_long():
    market = Market.of(balance({"dollars": 100}))
    safe, spot = slot("safe", 2), slot("spot", 1, preemptible=True)
    # 24 (exp(t / 24) - 1) = 2 t at t = 30.2 hours.
    assert market.ranked([safe, spot], 30 * HOUR) == [spot, safe]
    assert market.ranked([safe, spot], 30.5 * HOUR) == [safe, spot]


def test_a_long_run_asks_for_nothing_that_overflows():
    market = Market.of(balance({"device_seconds": 1e12}), {"spot": (10**6, 1.0)})
    assert math.isfinite(market.charge(slot("spot", 1, preemptible=True), 1e9))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Prices({"s": 1}, {}, 1), r"for each of \['s'\], got \[\]"),
        (lambda: Prices({"s": 0}, {"s": 1}, 1), "budget above 0 for s, got 0"),
        (lambda: Prices({"s": 1}, {"s": -1}, 1), "starting price above 0 for s, got -1"),
        (lambda: Prices({"s": 1}, {"s": 1}, -1), "stiffness of at least 0"),
        (lambda: Prices({"s": 1}, {"s": 1}, 1).after({"s": -1}, 0), "spending of at least 0 for s, got -1"),
        (lambda: Prices({"s": 1}, {"s": 1}, 1).after({}, 1.1), r"got 1 and 1\.1"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(BudgetError, match=said):
        make()
