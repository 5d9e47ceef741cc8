"""The ledger: money is held before it is spent, and settled when it is known.

For each limited resource `spent + held <= total` is true after every hold, but for rounding. A settlement may
exceed what was held, by as much as an executor lets a job outlive its cap; the excess is shown
as `overrun` and nothing more is lent until it fits again. The ledger is a fold: replaying the
same holds and settlements gives the same balance. It does not know what trials are.

A part of the slots may have a budget of its own, a pool: what is held there is held against the pool's
accounts as well as against the whole, and what was spent there is counted there, limited or not.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from frugalbo.budget.amounts import RESOURCES, Budget, Cost, Resource
from frugalbo.errors import BudgetError

_RETURNED: Final[Resource] = "memory_bytes"
_CLOCK: Final[Resource] = "wall_seconds"
# Sums of floats drift by some units in the last place; a hold of all that is left must succeed.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Account:
    """One resource: what there is, what is used up, what is lent. Infinite where unlimited."""

    total: float
    spent: float
    held: float

    @property
    def free(self) -> float:
        """What may still be held, never below 0."""
        return max(0.0, self.total - self.spent - self.held)

    @property
    def room(self) -> float:
        """As `free`, but for rounding, and below 0 after an overrun: crumbs must not add up."""
        return self.total * (1 + _ROUNDING) - self.spent - self.held

    @property
    def overrun(self) -> float:
        """What was spent beyond the total."""
        return max(0.0, self.spent - self.total)


@dataclass(frozen=True, slots=True)
class Balance:
    """All accounts at one moment: of the whole, and of each pool."""

    accounts: Mapping[Resource, Account]
    pools: Mapping[str, Balance] = field(default_factory=dict)

    def __getitem__(self, resource: Resource) -> Account:
        return self.accounts[resource]

    @property
    def limited(self) -> dict[Resource, Account]:
        """The accounts that have a limit."""
        return {name: a for name, a in self.accounts.items() if a.total < float("inf")}

    def exhausted(self, *, to_go_on: bool = False) -> Resource | None:
        """The first resource of which nothing is left to start anything with; lent memory comes back, and is none.

        Args:
            to_go_on: Whether there are trials that may go on, which takes no evaluation.
        """
        free_of_charge = (_RETURNED, "evaluations") if to_go_on else (_RETURNED,)
        return next((name for name, a in self.limited.items() if a.free <= 0 and name not in free_of_charge), None)

    def lacks(self, cost: Cost) -> Resource | None:
        """The first resource of which `cost` asks more than is free; None if all of it fits."""
        return next((name for name, amount in cost.items() if amount and amount > self.accounts[name].room), None)

    def within(self, pool: str) -> Balance:
        """The accounts that bind in `pool`: of each resource the whole's or its own, whichever has less room."""
        if (own := self.pools.get(pool)) is None:
            return self
        return Balance({name: min(a, own[name], key=lambda account: account.room) for name, a in self.accounts.items()})

    def less(self, cost: Cost, pool: str = "") -> Balance:
        """The balance with `cost` held as well; wall time passes and is never held."""
        accounts = dict(self.accounts)
        for name, amount in cost.items():
            if amount and name != _CLOCK:
                accounts[name] = replace(accounts[name], held=accounts[name].held + amount)
        pools = self.pools if pool not in self.pools else {**self.pools, pool: self.pools[pool].less(cost)}
        return Balance(accounts, pools)


class Ledger:
    """Holds and settles costs against a budget; counts what is not limited, too.

    Args:
        pools: The budgets of pools that have one.
    """

    def __init__(self, budget: Budget, pools: Mapping[str, Budget] | None = None) -> None:
        self.budget = budget
        self._whole = _Book(budget)
        self._pools = {name: _Book(own) for name, own in (pools or {}).items()}
        self._held: dict[Hashable, tuple[Cost, str]] = {}  # with the pool

    def hold(self, key: Hashable, cost: Cost, pool: str = "") -> None:
        """Set `cost` aside under `key`, in a pool too if one is named.

        Raises:
            BudgetError: If something of it is not free, or `key` already holds.
        """
        self.check(key, cost, pool)
        self._held[key] = cost, pool
        for book in self._books(pool):
            book.hold(cost)

    def check(self, key: Hashable, cost: Cost, pool: str = "") -> None:
        """Refuse what `hold` would refuse; changes nothing."""
        if key in self._held:
            raise BudgetError(f"{key} already holds {self._held[key][0].to_json()}")
        for book, where in ((self._whole, ""), (self._pools.get(pool), f" in the pool {pool!r}")):
            balance = None if book is None else Balance(book.accounts())
            if balance is not None and (lacking := balance.lacks(cost)) is not None:
                wanted, free = getattr(cost, lacking), balance[lacking].free
                raise BudgetError(f"cannot hold {wanted:.6g} {lacking.replace('_', ' ')}{where}, {free:.6g} is free")

    def settle(self, key: Hashable, used: Cost) -> None:
        """Release what `key` holds and charge what was used. Wall time is not charged here: it passes.

        Raises:
            BudgetError: If `key` holds nothing.
        """
        if key not in self._held:
            raise BudgetError(f"{key} holds nothing that could be settled")
        held, pool = self._held.pop(key)
        for book in self._books(pool):
            book.settle(held, used)

    def pass_time(self, wall_seconds: float) -> None:
        """Set the wall time that has passed in the life of the run; it never goes back."""
        self._whole.spent[_CLOCK] = max(self._whole.spent[_CLOCK], wall_seconds)

    def balance(self) -> Balance:
        """What was there, is spent, and is held now. Wall time passes for all holders at once, so none is held."""
        return Balance(self._whole.accounts(), {name: Balance(book.accounts()) for name, book in self._pools.items()})

    def _books(self, pool: str) -> list[_Book]:
        if not pool:
            return [self._whole]
        if pool not in self._pools:
            self._pools[pool] = _Book(None)
        return [self._whole, self._pools[pool]]


class _Book:
    """The sums of one set of accounts, kept as holds come and go: a run on many devices asks for them all the time."""

    def __init__(self, budget: Budget | None) -> None:
        self.limits = {} if budget is None else budget.limits()
        self.spent: dict[Resource, float] = dict.fromkeys(RESOURCES, 0.0)
        self.held: dict[Resource, float] = dict.fromkeys(RESOURCES, 0.0)
        self._holders = 0

    def hold(self, cost: Cost) -> None:
        self._holders += 1
        for name, amount in cost.items():
            if name != _CLOCK:
                self.held[name] += amount

    def settle(self, held: Cost, used: Cost) -> None:
        self._holders -= 1
        for name, amount in held.items():
            # What comes and goes leaves crumbs of rounding, until nobody holds anything.
            self.held[name] = max(0.0, self.held[name] - amount) if self._holders and name != _CLOCK else 0.0
        for name, amount in used.items():
            if name not in (_RETURNED, _CLOCK):
                self.spent[name] += amount

    def accounts(self) -> dict[Resource, Account]:
        limits, spent, held = self.limits, self.spent, self.held
        return {name: Account(limits.get(name, float("inf")), spent[name], held[name]) for name in RESOURCES}
