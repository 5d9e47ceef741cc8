"""The ledger: money is held before it is spent, and settled when it is known.

For each limited resource `spent + held <= total` is true after every hold, but for rounding. A settlement may
exceed what was held, by as much as an executor lets a job outlive its cap; the excess is shown
as `overrun` and nothing more is lent until it fits again. The ledger is a fold: replaying the
same holds and settlements gives the same balance. It does not know what trials are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
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
    def overrun(self) -> float:
        """What was spent beyond the total."""
        return max(0.0, self.spent - self.total)


@dataclass(frozen=True, slots=True)
class Balance:
    """All accounts at one moment."""

    accounts: Mapping[Resource, Account]

    def __getitem__(self, resource: Resource) -> Account:
        return self.accounts[resource]

    @property
    def limited(self) -> dict[Resource, Account]:
        """The accounts that have a limit."""
        return {name: a for name, a in self.accounts.items() if a.total < float("inf")}

    def lacks(self, cost: Cost) -> Resource | None:
        """The first resource of which `cost` asks more than is free; None if all of it fits."""
        for name, amount in cost.items():
            account = self.accounts[name]
            # Measured against the total and not from `free`, which ends at 0: crumbs must not add up.
            room = account.total * (1 + _ROUNDING) - account.spent - account.held
            if amount and amount > room:
                return name
        return None


class Ledger:
    """Holds and settles costs against a budget; counts what is not limited, too."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._spent: dict[Resource, float] = dict.fromkeys(RESOURCES, 0.0)
        self._held: dict[Hashable, Cost] = {}

    def hold(self, key: Hashable, cost: Cost) -> None:
        """Set `cost` aside under `key`.

        Raises:
            BudgetError: If something of it is not free, or `key` already holds.
        """
        self.check(key, cost)
        self._held[key] = cost

    def check(self, key: Hashable, cost: Cost) -> None:
        """Refuse what `hold` would refuse; changes nothing."""
        if key in self._held:
            raise BudgetError(f"{key} already holds {self._held[key].to_json()}")
        balance = self.balance()
        if (lacking := balance.lacks(cost)) is not None:
            wanted, free = getattr(cost, lacking), balance[lacking].free
            raise BudgetError(f"cannot hold {wanted:.6g} {lacking.replace('_', ' ')}, {free:.6g} is free")

    def settle(self, key: Hashable, used: Cost) -> None:
        """Release what `key` holds and charge what was used. Wall time is not charged here: it passes.

        Raises:
            BudgetError: If `key` holds nothing.
        """
        if key not in self._held:
            raise BudgetError(f"{key} holds nothing that could be settled")
        del self._held[key]
        for name, amount in used.items():
            if name not in (_RETURNED, _CLOCK):
                self._spent[name] += amount

    def pass_time(self, wall_seconds: float) -> None:
        """Set the wall time that has passed in the life of the run; it never goes back."""
        self._spent[_CLOCK] = max(self._spent[_CLOCK], wall_seconds)

    def balance(self) -> Balance:
        """What was there, is spent, and is held now. Wall time passes for all holders at once, so none is held."""
        limits = self.budget.limits()
        held = dict.fromkeys(RESOURCES, 0.0)
        for cost in self._held.values():
            for name, amount in cost.items():
                held[name] = held[name] + amount if name != _CLOCK else 0.0
        return Balance(
            {name: Account(limits.get(name, float("inf")), self._spent[name], held[name]) for name in RESOURCES}
        )
