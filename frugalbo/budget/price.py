"""What a unit of each resource must bring now: one price for acquisitions, schedulers and pools.

The budget is a constraint, and a price its Lagrange multiplier. An action is worth doing if its value
exceeds price times cost; of several the one with the most left over is best.

| symbol | meaning |
|---|---|
| B_r | budget of the resource r |
| u_r | share of B_r that is spent |
| s | share of the run that has passed, by whatever clock the plan has: wall time, trials, batches |
| mu_r | price of one unit of r, in units of value |
| kappa | stiffness: how strongly the price answers; about the square root of the number of decisions |

To pace spending, the price rises where it runs ahead of the plan and falls where it lags behind. Source:
dual mirror descent with the entropy, Balseiro, Lu, Mirrokni, arXiv:2011.10124: after a request that costs b,
with T requests and rho = B / T,

    mu <- mu exp(-eta (rho - b) / rho),     eta = 1 / sqrt(T)

With a constant step this adds up: it is `mu_0 exp(kappa (u - s))` with `kappa = sqrt(T)`, whatever the path. The
regret against the offline optimum is O(sqrt(T)) where requests are drawn independently from one distribution,
and a fixed part of the optimum is kept where an adversary draws them. Some of the budget may be left.

Deviation: the plan is always for what is left, `rho = (B - spent) / (requests left)`, which adds up to

    mu_r = mu_r0 ((1 - s) / (1 - u_r))^kappa

For small u and s this is the above. It ends with the budget spent; and the price of a resource that is spent
is infinite, so that nothing which needs it is worth doing. Their proof does not cover this; the tests measure
that regret grows like sqrt(T) on stationary streams.

A price is a function of totals, so `Prices` can be computed again from the accounts of a study.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from frugalbo.errors import BudgetError

Amounts = Mapping[str, float]

_LARGEST = 700.0  # of a log: exp of a little more overflows


@dataclass(frozen=True, slots=True)
class Prices:
    """The price of each resource, as it follows from what was spent and what has passed.

    A resource is any name: those of `frugalbo.budget.amounts`, and `pool_resource(...)` for the budget that a
    pool has of its own. What has no budget has no price.

    Args:
        budgets: Of each resource, above 0.
        initial: The price of one unit at the beginning, above 0, for the same resources; `starting_prices` has a guess.
        stiffness: The kappa above, at least 0. At 0 prices stay as they are until a budget is spent.
        spent: So far.
        elapsed: The share of the run that has passed, in [0, 1].

    Raises:
        BudgetError: If an amount is outside its range, or the resources do not go together.
    """

    budgets: Amounts
    initial: Amounts
    stiffness: float
    spent: Amounts = field(default_factory=dict)
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        if set(self.initial) != set(self.budgets):
            raise BudgetError(
                f"expected a starting price for each of {sorted(self.budgets)}, got {sorted(self.initial)}"
            )
        for name, amounts in (("budget", self.budgets), ("starting price", self.initial)):
            for resource, amount in amounts.items():
                if not 0 < amount < math.inf:
                    raise BudgetError(f"expected a finite {name} above 0 for {resource}, got {amount!r}")
        for resource, amount in self.spent.items():
            if not 0 <= amount < math.inf:
                raise BudgetError(f"expected finite spending of at least 0 for {resource}, got {amount!r}")
        if not (0 <= self.stiffness < math.inf and 0 <= self.elapsed <= 1):
            raise BudgetError(
                "expected a stiffness of at least 0 and an elapsed share from 0 to 1, "
                f"got {self.stiffness!r} and {self.elapsed!r}"
            )
        for name in ("budgets", "initial", "spent"):
            object.__setattr__(self, name, dict(getattr(self, name)))

    def after(self, spent: Amounts, elapsed: float) -> Prices:
        """The prices after more spending, at another share of the run; in any order and any number of pieces."""
        total = {name: self.spent.get(name, 0.0) + spent.get(name, 0.0) for name in {*self.spent, *spent}}
        return replace(self, spent=total, elapsed=elapsed)

    def __getitem__(self, resource: str) -> float:
        """The price of one unit: 0 where there is no budget, infinite where it is spent."""
        if resource not in self.budgets:
            return 0.0
        left = 1.0 - self.spent.get(resource, 0.0) / self.budgets[resource]
        if left <= 0:
            return math.inf
        to_come = 1.0 - self.elapsed
        if to_come <= 0:
            return 0.0 if self.stiffness else self.initial[resource]
        log_price = math.log(self.initial[resource]) + self.stiffness * (math.log(to_come) - math.log(left))
        return math.exp(min(log_price, _LARGEST))

    def charge(self, cost: Amounts) -> float:
        """Price times cost; infinite if it needs anything that is spent."""
        return sum(self[resource] * amount for resource, amount in cost.items() if amount)

    def worth(self, value: float, cost: Amounts) -> float:
        """What an action brings beyond its price: `value - price . cost`; minus infinity if it cannot be had."""
        return value - self.charge(cost)

    def index(self, value: float, cost: Amounts) -> float:
        """Value over price times cost: worth it above 1. 0 if it cannot be had, infinite if it is free."""
        charge = self.charge(cost)
        return value / charge if charge else math.inf if value > 0 else 0.0


def starting_prices(budgets: Amounts, value: float) -> dict[str, float]:
    """Prices at which the whole budget costs what it is expected to bring, each resource having the same part in it.

    By duality no more than the total value can be the sum of `price x budget` at the optimum; prices
    then find their own parts.

    Args:
        budgets: Of each resource.
        value: Of the best use of all of them.
    """
    return {resource: value / len(budgets) / budget for resource, budget in budgets.items()}


def pool_resource(resource: str, pool: str) -> str:
    """The name of a resource in a pool that has a budget of its own, such as `"dollars of spot"`."""
    return f"{resource} of {pool}"


@dataclass(frozen=True, slots=True)
class Pool:
    """Machines of one kind, as far as prices need to know them.

    Args:
        name: As in its own budgets.
        speed: How many seconds' worth of work on a device of speed 1 it does in a second.
        devices: How many devices a job holds.
        dollars_per_hour: The price of one device.
        preemptions_per_hour: How often a running job is taken away.

    Raises:
        BudgetError: If there are no devices or speed, or a rate is negative.
    """

    name: str
    speed: float = 1.0
    devices: int = 1
    dollars_per_hour: float = 0.0
    preemptions_per_hour: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.speed < math.inf and self.devices >= 1):
            raise BudgetError(
                f"expected a pool with a speed above 0 and at least one device, got {self.speed!r} and {self.devices!r}"
            )
        for name in ("dollars_per_hour", "preemptions_per_hour"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BudgetError(f"expected {name} of at least 0, got {getattr(self, name)!r}")

    def survival(self, seconds: float) -> float:
        """The chance that a job of so many seconds at speed 1 is not taken away, at a constant rate."""
        return math.exp(-self.preemptions_per_hour * seconds / self.speed / 3600)

    def cost(self, seconds: float) -> dict[str, float]:
        """The expected cost of such a job, which ends early if it is taken away; once in all and once in the pool.

        The time until the end or the first pre-emption, whichever is first, is
        `(1 - exp(-rate t)) / rate` on average.
        """
        rate, here = self.preemptions_per_hour / 3600, seconds / self.speed
        held_s = -math.expm1(-rate * here) / rate if rate else here
        device_seconds = held_s * self.devices
        cost = {
            "wall_seconds": held_s,
            "device_seconds": device_seconds,
            "dollars": device_seconds * self.dollars_per_hour / 3600,
            "evaluations": 1.0,
        }
        return cost | {pool_resource(name, self.name): amount for name, amount in cost.items()}


def best_pool(value: float, seconds: float, pools: Iterable[Pool], prices: Prices) -> tuple[Pool | None, float]:
    """Where to run a job, and what that brings beyond its price: the most of `value P(it survives) - price . cost`.

    A job that is taken away counts as worth nothing. Per-pool budgets alone suffice for an optimal
    division among channels (Deng et al., arXiv:2302.01523), and prices are how they are kept: those of
    a pool rise as its budget is spent faster than planned, and a pool that is spent is never chosen.

    Args:
        value: Of the job done.
        seconds: That it takes at speed 1.
        pools: At equal worth the first is taken.
        prices: Of resources in all, and of pools that have budgets.

    Returns:
        The pool, None where no pool is worth it; and its worth, 0 for none.
    """
    best: tuple[Pool | None, float] = (None, 0.0)
    for pool in pools:
        worth = prices.worth(value * pool.survival(seconds), pool.cost(seconds))
        if worth > best[1]:
            best = (pool, worth)
    return best
