"""Which pools to leave idle, because what they would cost buys more in cheaper ones, later.

Where a run has both a budget and a limit on wall time, the most work for the budget is had by filling the pools from
the cheapest work to the dearest, each for all of the time that is left, until the budget is used up (the greedy
solution of a fractional knapsack, exact for one resource). So a pool is left idle while the pools with cheaper work
would spend what is left of some resource before the time is over; a pool with a budget of its own takes no more than
that. As time goes by and something remains unspent, dearer pools join in.

Without a limit on wall time every slot is used: nobody said that there is time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from frugalbo.budget.amounts import Resource
from frugalbo.budget.ledger import Balance
from frugalbo.budget.price import Market
from frugalbo.slot import Slot
from frugalbo.study import Status, Study

_RESOURCES: Final[tuple[Resource, ...]] = ("device_seconds", "dollars")


@dataclass(frozen=True, slots=True)
class _Lane:
    """A pool: one of its slots, and how many there are."""

    slot: Slot
    n: int

    def rate(self, resource: Resource) -> float:
        """What all of its slots spend in a second."""
        per_device = 1.0 if resource == "device_seconds" else self.slot.dollars_per_hour / 3600
        return self.n * self.slot.devices * per_device


def left_idle(study: Study, balance: Balance, slots: Sequence[Slot]) -> set[str]:
    """The pools in which nothing is to start now.

    Args:
        study: Tells which slots are busy; what a pool with no free slot costs is what was charged there.
        balance: Tells what is left.
        slots: Those that are free.
    """
    if not any(slot.pool for slot in slots) or math.isinf(wall_s := balance["wall_seconds"].free):
        return set()
    market, lanes = Market.of(balance, study.taken), _lanes(study, balance, slots)
    lanes.sort(key=lambda lane: market.charge(lane.slot, 3600.0))
    return {lane.slot.pool for i, lane in enumerate(lanes) if i and _is_spent_by(lanes[:i], balance, wall_s)}


def _is_spent_by(lanes: Sequence[_Lane], balance: Balance, wall_s: float) -> bool:
    """Whether these would spend what is left of a resource in the time that is left."""
    for resource in _RESOURCES:
        left = balance[resource].total - balance[resource].spent
        if math.isinf(left):
            continue
        spent = 0.0
        for lane in lanes:
            own = balance.pools.get(lane.slot.pool)
            most = math.inf if own is None else own[resource].total - own[resource].spent
            spent += min(most, lane.rate(resource) * wall_s)
        if spent >= left:
            return True
    return False


def _lanes(study: Study, balance: Balance, slots: Iterable[Slot]) -> list[_Lane]:
    """All pools of which the price is known."""
    known: dict[str, Slot] = {}
    names: dict[str, set[str]] = {}
    for slot in slots:
        known.setdefault(slot.pool, slot)
        names.setdefault(slot.pool, set()).add(slot.name)
    for trial in study.with_status(Status.RUNNING):
        start = trial.starts[-1]
        names.setdefault(start.pool, set()).add(start.slot)
        if start.pool not in known and (accounts := balance.pools.get(start.pool)) is not None:
            device_s, dollars = accounts["device_seconds"].spent, accounts["dollars"].spent
            if device_s > 0:
                per_hour = 3600 * dollars / device_s
                known[start.pool] = Slot(
                    start.slot, "cpu", 0, dollars_per_hour=per_hour, pool=start.pool, speed=start.speed
                )
    return [_Lane(known[pool], len(names[pool])) for pool in names if pool in known]
