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

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from frugalbo.budget.ledger import Account, Balance
from frugalbo.errors import BudgetError
from frugalbo.slot import Slot

if TYPE_CHECKING:
    from frugalbo.budget.amounts import Cost, Resource
    from frugalbo.study import Study

Amounts = Mapping[str, float]

_LARGEST = 700.0  # of a log: exp of a little more overflows
_STIFFNESS = 10.0  # of a run's prices: as for a hundred decisions
# Before anything is known a preemptible slot is expected to be taken away once a day, the longest that some lend.
_HOURS_UNTAKEN = 24.0


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

    def relative(self, resource: str) -> float:
        """The price as a multiple of what it was at the beginning."""
        return self[resource] / self.initial[resource]

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
class Market:
    """The prices in force: of the resources that the whole run has, and of those that pools have of their own.

    The clock of the plan is the resource of the whole run that is spent furthest. So the price of what binds
    stays where it began, that of what lags behind falls, and a pool that spends its own budget faster than
    the run goes forward becomes dearer.

    What a pool has of its own is a limit and no cost, until it is spent ahead of the plan: its price is a factor,
    at least 1, on all that is spent there. So a pool is not dear because its budget is small.

    Wall time has a price too, but no slot is charged for it: it passes for all of them at once, whatever is decided.

    Args:
        whole: In shares of the run: all of its budgets together cost 1 at the beginning.
        pools: As factors, 1 at the beginning, by the pool's name.
        taken_per_hour: How often a segment is taken away, in pools where that happens.
    """

    whole: Prices
    pools: Mapping[str, Prices] = field(default_factory=dict)
    taken_per_hour: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, balance: Balance, taken: Mapping[str, tuple[int, float]] | None = None) -> Market:
        """The prices that follow from the accounts, and from nothing else.

        Args:
            balance: What is spent counts; what is held does not, as it is mostly given back.
            taken: How many segments were taken away in a pool, and the seconds that segments ran there.
        """
        limited = _spendable(balance)
        elapsed = min(1.0, max((a.spent / a.total for a in limited.values()), default=0.0))
        budgets = {name: account.total for name, account in limited.items()}
        spent = {name: account.spent for name, account in limited.items()}
        whole = Prices(budgets, starting_prices(budgets, 1.0), _STIFFNESS, spent, elapsed)
        pools = {}
        for pool, accounts in balance.pools.items():
            if own := _spendable(accounts):
                totals, used = {n: a.total for n, a in own.items()}, {n: a.spent for n, a in own.items()}
                pools[pool] = Prices(totals, dict.fromkeys(own, 1.0), _STIFFNESS, used, elapsed)
        rates = {pool: (n + 1) / (seconds / 3600 + _HOURS_UNTAKEN) for pool, (n, seconds) in (taken or {}).items()}
        return cls(whole, pools, rates)

    def factor(self, pool: str) -> float:
        """How many times what is spent in a pool is charged, at least 1."""
        own = self.pools.get(pool)
        return 1.0 if own is None else max(1.0, *(own[resource] for resource in own.budgets))

    def of_a_second(self, slot: Slot) -> float:
        """What a second on a slot is charged, as a share of the run; infinite where the pool is spent."""
        cost = {"device_seconds": slot.devices, "dollars": slot.devices * slot.dollars_per_hour / 3600}
        charge, factor = self.whole.charge(cost), self.factor(slot.pool)
        return math.inf if math.isinf(factor) else charge * factor

    def seconds(self, slot: Slot, work_s: float) -> float:
        """The seconds on a slot after which work is expected to be done.

        Where segments are taken away at a constant rate and begin again from where they began,
        that is `(exp(rate t) - 1) / rate` for work of `t` seconds: what can be lost counts as lost.

        Args:
            slot: Where.
            work_s: Device-seconds on devices of speed 1.
        """
        seconds = work_s / (slot.devices * slot.speed)
        if not slot.preemptible:
            return seconds
        rate = self.taken_per_hour.get(slot.pool, 1 / _HOURS_UNTAKEN) / 3600
        return math.expm1(min(_LARGEST, rate * seconds)) / rate

    def charge(self, slot: Slot, work_s: float) -> float:
        """What work is charged on a slot, by the time that it is expected to take there, as a share of the run."""
        return self.of_a_second(slot) * self.seconds(slot, work_s)

    def ranked(self, slots: Iterable[Slot], work_s: float) -> list[Slot]:
        """Slots, the one first where work is charged least; of equals that where it costs less money, then less time.

        Those that are equal in everything keep their order. Per-pool budgets alone suffice for an optimal
        division among channels (Deng et al., arXiv:2302.01523), and prices are how they are kept.
        """

        def key(slot: Slot) -> tuple[float, float, float]:
            seconds = self.seconds(slot, work_s)
            return self.of_a_second(slot) * seconds, seconds * slot.devices * slot.dollars_per_hour, seconds

        return sorted(slots, key=key)


@dataclass(frozen=True, slots=True)
class PricePoint:
    """The prices right after a segment had ended.

    Args:
        at: When, in the seconds of the study's events.
        elapsed: The share of the run that had passed, in [0, 1].
        prices: By resource, such as `"dollars"`, or `"dollars of spot"` for what a pool has of its own: each as
            a multiple of what it was at the beginning. 1 is on plan, above 1 is ahead of it; infinite where
            the budget is spent.
    """

    at: float
    elapsed: float
    prices: Mapping[str, float]


def prices_over_time(study: Study, *, most: int = 1000) -> list[PricePoint]:
    """How the prices went, at the instants in which segments ended; empty without a budget.

    A fold of the journal: a study that is read again gives the same. Wall time, which the journal does
    not tell, is taken to pass while any segment is at work.

    Args:
        study: With its ledger.
        most: The points, evenly chosen from all that there are, the last of them included.
    """
    if study.ledger is None:
        return []
    limits, at_work = study.ledger.balance(), _time_at_work(study)
    ends = [(e.at, s.pool, e.used) for t in study.trials.values() for s, e in zip(t.starts, t.ends, strict=False)]
    instants = [(at, list(ended)) for at, ended in itertools.groupby(sorted(ends, key=_first), key=_first)]
    every = -(-len(instants) // most) if instants else 1
    spent: dict[str, dict[str, float]] = {}
    points: list[PricePoint] = []
    for number, (at, ended) in enumerate(instants):
        for _, pool, used in ended:
            for where in {"", pool}:
                account = spent.setdefault(where, {})
                for name, amount in used.items():
                    account[name] = account.get(name, 0.0) + amount
        if (len(instants) - 1 - number) % every:
            continue
        spent[""]["wall_seconds"] = at_work(at)
        market = Market.of(_as_spent(limits, spent))
        prices = {name: market.whole.relative(name) for name in market.whole.budgets}
        prices |= {pool_resource(n, pool): own.relative(n) for pool, own in market.pools.items() for n in own.budgets}
        points.append(PricePoint(at, market.whole.elapsed, prices))
    return points


def _first(item: tuple[float, str, Cost]) -> float:
    return item[0]


def _spendable(balance: Balance) -> dict[str, Account]:
    """The limited accounts of what is used up, or passes."""
    return {name: account for name, account in balance.limited.items() if name != "memory_bytes"}


def _as_spent(limits: Balance, spent: Mapping[str, Mapping[str, float]], pool: str = "") -> Balance:
    """The accounts with other amounts spent, by pool."""
    used = spent.get(pool, {})
    accounts: dict[Resource, Account] = {
        name: Account(a.total, used.get(name, 0.0), 0.0) for name, a in limits.accounts.items()
    }
    return Balance(accounts, {name: _as_spent(own, spent, name) for name, own in limits.pools.items()})


def _time_at_work(study: Study) -> Callable[[float], float]:
    """Until a given instant, the seconds in which any segment was at work."""
    spans = [
        (started.at, ended.at if ended else math.inf)
        for trial in study.trials.values()
        for started, ended in itertools.zip_longest(trial.starts, trial.ends)
    ]
    begins, ends, before = [], [], []  # of the stretches without a gap, and what was at work before each
    for begin, end in sorted(spans):
        if begins and begin <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            before.append(before[-1] + ends[-1] - begins[-1] if begins else 0.0)
            begins.append(begin)
            ends.append(end)

    def until(at: float) -> float:
        k = bisect.bisect_right(begins, at) - 1
        return before[k] + min(at, ends[k]) - begins[k] if k >= 0 else 0.0

    return until
