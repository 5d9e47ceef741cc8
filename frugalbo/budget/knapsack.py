"""The knapsack: which units to buy of many items, each worth less than the one before, and at what price.

    max sum_i v_i(n_i)   subject to   sum_i c_i n_i <= B,   low_i <= n_i <= high_i,   n_i whole

| symbol | meaning |
|---|---|
| v_i | value of an item, concave in its units; given by its gains `v_i(n) - v_i(n - 1)` |
| c_i | cost of one unit of the item |
| B | the budget |
| lambda | the price: what the next unit of budget would bring |

Because gains fall, the units whose gain per cost exceeds a price are the first ones of each item. So
there is one number to find, the Lagrange multiplier `lambda` at which these units just fit: everything
dearer is bought, nothing cheaper. `allocate` finds it among the gains themselves, halving each item's
open units at each trial price, so that it ends at the exact price and not within a tolerance.

What is guaranteed:

| costs | the result |
|---|---|
| all equal | optimal |
| not equal | at most `Allocation.gap` below the optimum, which is at most `lambda` times what is unspent |

`allocate_exactly` is optimal for whole costs and any values, concave or not, in time and memory that
grow with items x budget.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.errors import BudgetError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

Gain = Callable[[Ints, Ints], Floats]
"""`gain(items, n)`: what the n-th unit of each of `items` adds, both of shape k; must not rise with n."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What to buy, and at what price.

    Args:
        units: Of each item, shape m.
        price: The largest gain per cost that was left behind, 0 where nothing worth having was.
        spent: The cost of `units`.
        gap: How far the value is below the optimum, at most.
    """

    units: Ints
    price: float
    spent: float
    gap: float


def allocate(gain: Gain, lower: ArrayLike, upper: ArrayLike, budget: float, costs: ArrayLike = 1.0) -> Allocation:
    """The best units for a budget, by the price at which they just fit.

    Units that add nothing are not bought, so that a part of the budget may be left. Among equal gains
    per cost the items that come first are served first.

    Args:
        gain: The value curves.
        lower: Units that are bought in any case, shape m.
        upper: The most units of an item, shape m.
        budget: In the units of `costs`.
        costs: Of one unit of each item, shape m or one for all.

    Raises:
        BudgetError: If bounds cross or are negative, a cost is not above 0, or the lower bounds cost
            more than the budget.
    """
    taken, most, costs = _checked(lower, upper, costs)
    left = budget - float(costs @ taken)
    if not left >= -1e-9 * abs(budget):
        raise BudgetError(
            f"expected a budget of at least {costs @ taken:g}, the cost of the lower bounds; got {budget!r}"
        )
    if taken.size == 0:
        return Allocation(taken, 0.0, 0.0, 0.0)
    least = taken.copy()
    unit = float(costs[0])
    equal = bool((costs == unit).all())
    if equal:  # only whole units count, which makes what follows exact
        left = unit * math.floor(left / unit + 1e-9)

    def ratio(items: Ints, n: Ints) -> Floats:
        return gain(items, n) / costs[items]

    def cost_of(units: Ints) -> float:
        return float(costs @ (units - least))

    slack = 1e-12 * abs(budget)  # of the sums of costs
    most = _units_above(ratio, 0.0, taken, most, strictly=True)
    if cost_of(most) <= left + slack:
        return Allocation(most, 0.0, float(costs @ most), 0.0)
    # From here on `taken` fits, `most` does not, and the answer lies between them.
    while True:
        price = _trial_price(ratio, taken, most)
        above = _units_above(ratio, price, taken, most, strictly=True)
        if cost_of(above) > left + slack:
            most = above
            continue
        at_least = _units_above(ratio, price, above, most, strictly=False)
        if cost_of(at_least) > left + slack:
            break
        taken = at_least
    units = _first_come(above, at_least, costs, left - cost_of(above) + slack)
    unspent = left - cost_of(units)
    gap = 0.0
    if not equal:
        gained = _fill(ratio, units, np.maximum(units, np.asarray(upper, dtype=np.int64)), costs, unspent + slack)
        gap = max(0.0, price * unspent - gained)
    return Allocation(units, price, float(costs @ units), gap)


def allocate_exactly(values: ArrayLike, budget: int, costs: ArrayLike = 1) -> Ints:
    """The best units for a budget by dynamic programming, whatever the curves.

    Args:
        values: Shape m x (k + 1): of each item, the value of 0 to k units; minus infinity where that
            many cannot be.
        budget: A whole number.
        costs: Of one unit of each item, whole numbers above 0, shape m or one for all.

    Returns:
        The units of each item, shape m.

    Raises:
        BudgetError: If costs or budget are not whole, or no choice fits.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    whole = np.broadcast_to(np.asarray(costs), values.shape[:1])
    if budget != int(budget) or budget < 0 or (whole != whole.astype(np.int64)).any() or (whole < 1).any():
        raise BudgetError(f"expected whole costs above 0 and a whole budget, got {costs!r} and {budget!r}")
    size = int(budget) + 1
    best = np.zeros(size)  # by the budget that the items so far may use
    choice = np.zeros((len(values), size), dtype=np.int64)
    for i, (curve, cost) in enumerate(zip(values, whole.astype(np.int64).tolist(), strict=True)):
        longer = best + curve[0]
        for n in range(1, min(curve.size - 1, budget // cost) + 1):
            candidate = best[: size - n * cost] + curve[n]
            better = candidate > longer[n * cost :]
            longer[n * cost :][better] = candidate[better]
            choice[i, n * cost :][better] = n
        best = longer
    if best[-1] == -np.inf:
        raise BudgetError(f"no choice of units costs at most {budget}")
    units = np.zeros(len(values), dtype=np.int64)
    left = int(budget)
    for i in reversed(range(len(values))):
        units[i] = choice[i, left]
        left -= int(units[i] * whole[i])
    return units


def spread(total: int, n: int) -> Ints:
    """`total` parted evenly into `n`; the first ones have what is left over, one each."""
    each, more = divmod(total, n)
    return np.full(n, each, dtype=np.int64) + (np.arange(n) < more)


def _checked(lower: ArrayLike, upper: ArrayLike, costs: ArrayLike) -> tuple[Ints, Ints, Floats]:
    low, high, cost = np.broadcast_arrays(np.atleast_1d(lower), upper, costs)
    low, high, cost = low.astype(np.int64), high.astype(np.int64), cost.astype(np.float64)
    if wrong := np.flatnonzero((low < 0) | (high < low)).tolist():
        i = wrong[0]
        raise BudgetError(f"expected bounds with 0 <= lower <= upper, got {low[i]} and {high[i]} for item {i}")
    if not ((cost > 0) & np.isfinite(cost)).all():
        raise BudgetError(f"expected finite costs above 0, got {cost[~((cost > 0) & np.isfinite(cost))][0]!r}")
    return low, high, cost


def _units_above(ratio: Gain, price: float, low: Ints, high: Ints, *, strictly: bool) -> Ints:
    """Of each item, the last of its units from `low` to `high` whose gain per cost exceeds the price, or `low`."""
    low, high = low.copy(), high.copy()
    items = np.flatnonzero(low < high)
    while items.size:
        middle = _middle(low[items], high[items])
        found = ratio(items, middle)
        is_above = found > price if strictly else found >= price
        low[items] = np.where(is_above, middle, low[items])
        high[items] = np.where(is_above, high[items], middle - 1)
        items = items[low[items] < high[items]]
    return low


def _trial_price(ratio: Gain, taken: Ints, most: Ints) -> float:
    """The median of the gains per cost in the middles of what is open."""
    items = np.flatnonzero(taken < most)
    found = ratio(items, _middle(taken[items], most[items]))
    return float(np.partition(found, items.size // 2)[items.size // 2])


def _middle(low: Ints, high: Ints) -> Ints:
    return (low + high + 1) // 2


def _first_come(units: Ints, at_most: Ints, costs: Floats, left: float) -> Ints:
    """As many of the units up to `at_most`, all worth the same for their cost, as fit, item after item."""
    wanted = at_most - units
    before = np.concatenate([[0.0], np.cumsum(wanted * costs)[:-1]])
    return units + np.clip(np.floor((left - before) / costs), 0, wanted).astype(np.int64)


def _fill(ratio: Gain, units: Ints, upper: Ints, costs: Floats, left: float) -> float:
    """Adds to `units` the best that still fits, one unit at a time; returns what that gains."""

    def offers(items: Ints) -> list[tuple[float, int]]:
        return list(zip((-ratio(items, units[items] + 1)).tolist(), items.tolist(), strict=True))

    heap = [offer for offer in offers(np.flatnonzero((units < upper) & (costs <= left))) if offer[0] < 0]
    heapq.heapify(heap)
    gained = 0.0
    while heap:
        worth, item = heapq.heappop(heap)
        if costs[item] > left:
            continue
        units[item] += 1
        left -= costs[item]
        gained -= worth * costs[item]
        if units[item] < upper[item] and costs[item] <= left:
            [offer] = offers(np.array([item]))
            if offer[0] < 0:
                heapq.heappush(heap, offer)
    return float(gained)
