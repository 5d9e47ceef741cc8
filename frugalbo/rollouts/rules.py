"""How a batch's rollouts are shared out among its prompts, given what is known of them.

Each rule returns the rollouts of each prompt, shape m, which add up to the budget.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.budget.knapsack import Gain, allocate, spread
from frugalbo.errors import BudgetError
from frugalbo.rollouts.value import gains, published_gains

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_CHANCE = 0.9  # as published: of a gradient, for what a prompt "costs"


def uniform(m: int, budget: int) -> Ints:
    """The same for all; the first prompts have what is left over, one each."""
    return spread(budget, m)


def filtering(is_dull: Bools, budget: int, lower: int, upper: int) -> Ints:
    """The lower bound for prompts whose last group was all alike, and the same for all others, up to the upper.

    Dynamic filtering by the past. Deviation from DAPO (arXiv:2503.14476): there a prompt is dropped
    *after* its rollouts were all alike, and more prompts are sampled until the batch is full, so that
    a step has no fixed number of rollouts. Here its next group is small, and the budget is kept.

    Raises:
        BudgetError: If the budget is outside the bounds for m prompts.
    """
    _check_total(budget, is_dull.size, lower, upper)
    low = np.full(is_dull.size, lower)
    units = allocate(_evenly, low, np.where(is_dull, lower, upper), budget).units
    return allocate(_evenly, units, np.full(is_dull.size, upper), budget).units


def knapsack(rate: Floats, is_known: Bools, budget: int, lower: int, upper: int, *, as_released: bool = False) -> Ints:
    """The published allocation: values at the estimated rates, and a fallback for rates of 0 and 1.

    Source: Knapsack RL, arXiv:2509.25849, and its released code:

    1. A prompt that is not known has the mean number of rollouts. Rates of 0 and 1 have the lower bound, for now.
    2. Of the rest, the others (the *effective* ones) can use `min(upper, ln 0.1 / ln max(p, 1 - p))`
       each: a chance of 0.9 of a gradient. What is beyond goes evenly to prompts with a rate of 0
       (unknown ones among them, whose rate is 0), or if there are none, to those of a rate of 1.
    3. The knapsack shares out the remainder among the effective ones. If it does not take all of it, they
       have the rest evenly, above the upper bound.

    Without effective prompts all goes evenly to those with a rate of 0, or to all.

    Deviations: exact values (theirs count a prompt at its lower bound as worth nothing; `as_released=True`
    does too), and the lower bound is the same for all three kinds of prompt.

    Raises:
        BudgetError: If the budget does not reach for the lower bounds and the unknown prompts.
    """
    m = rate.size
    is_effective = is_known & (rate > 0) & (rate < 1)
    units = np.where(is_known, lower, budget // m)
    left = budget - int(units.sum())
    if left < 0:
        raise BudgetError(f"expected a budget of at least {units.sum()} rollouts for {m} prompts, got {budget}")
    if not is_effective.any():
        is_served = rate == 0 if (rate == 0).any() else np.ones(m, dtype=np.bool_)
        units[is_served] += spread(left, int(is_served.sum()))
        return units
    p = rate[is_effective]
    useful = int(np.minimum(upper, math.log(1 - _CHANCE) / np.log(np.maximum(p, 1 - p))).astype(np.int64).sum())
    is_served = ~is_effective & (rate == 0) if (~is_effective & (rate == 0)).any() else ~is_effective
    if useful < left and is_served.any():
        units[is_served] += spread(left - useful, int(is_served.sum()))
        left = useful
    low = units[is_effective]
    gain = published_gains(p, lower) if as_released else gains(p)
    found = allocate(gain, low, np.maximum(low, upper), int(low.sum()) + left)
    units[is_effective] = found.units + spread(left - int((found.units - low).sum()), p.size)
    return units


def by_value(gain: Gain, m: int, budget: float, lower: int, upper: int, costs: ArrayLike = 1.0) -> Ints:
    """The best total value.

    Args:
        gain: Of each prompt's rollouts.
        m: How many prompts.
        budget: In the units of `costs`.
        lower: At least 1, from where on values are concave.
        upper: The most rollouts of a prompt.
        costs: Of one rollout of each prompt, such as its expected tokens. If they differ, the cost of
            the allocation can be below the budget by less than that of one rollout.

    Raises:
        BudgetError: If the budget is outside the bounds for m prompts.
    """
    costs = np.broadcast_to(np.asarray(costs, dtype=np.float64), m)
    _check_total(budget, costs.sum(), lower, upper)
    low, high = np.full(m, lower), np.full(m, upper)
    units = allocate(gain, low, high, budget, costs).units
    return allocate(_evenly, units, high, budget, costs).units  # where gains are too small for a float


def _evenly(items: Ints, n: Ints) -> Floats:
    """Gains with which the prompts that have the fewest rollouts are served first."""
    return 1.0 / n


def _check_total(budget: float, one_each: float, lower: int, upper: int) -> None:
    if not lower * one_each <= budget <= upper * one_each:
        raise BudgetError(
            f"expected a budget from {lower * one_each:g} to {upper * one_each:g}, "
            f"{lower} to {upper} rollouts for each prompt; got {budget:g}"
        )
