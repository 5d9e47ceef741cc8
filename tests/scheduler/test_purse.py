"""What the decisions of one moment may still spend."""

import pytest

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.cost import KnownCost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Outcome, Started
from frugalbo.problem import Minimize, Problem
from frugalbo.propose.base import Suggestion
from frugalbo.scheduler.base import Start
from frugalbo.scheduler.purse import Purse
from frugalbo.slot import Slot
from frugalbo.space import Float, Space
from frugalbo.study import Study

SLOTS = [Slot("cpu:0", "cpu", 0), Slot("cpu:1", "cpu", 1)]


def purse_of(budget: float) -> Purse:
    ledger = Ledger(Budget(device_seconds=budget))
    study = Study(Problem("p", Space({"x": Float(0, 100)}), "nothing:here", Minimize("loss")), ledger)
    return Purse(study, ledger.balance(), SLOTS, KnownCost(lambda params, start, until: params["x"]))


def test_what_was_too_dear_is_put_on_a_slot_that_is_still_free():
    purse = purse_of(10)
    placed = [purse.start(Suggestion({"x": x}), 1, 1) for x in (40.0, 8.0, 50.0)]
    assert placed == [False, True, False]
    begun = [(d.slot.name, d.params["x"]) for d in purse.closed() if isinstance(d, Start)]
    assert begun == [("cpu:0", 8.0), ("cpu:1", 40.0)]


def test_with_no_slot_left_what_was_too_dear_is_not_decided():
    purse = purse_of(10)
    assert [purse.start(Suggestion({"x": x}), 1, 1) for x in (50.0, 4.0, 4.0)] == [False, True, True]
    assert [d.params["x"] for d in purse.closed() if isinstance(d, Start)] == [4.0, 4.0]


SLOW = [Slot(f"slow/cpu:{i}", "cpu", i, 1, 1, 1.0, "slow", 1.0) for i in range(3)]
FAST = [Slot(f"fast/cpu:{i}", "cpu", i, 1, 1, 3.0, "fast", 2.0) for i in range(2)]


def placed(budget, slots, n, *, pools=None, events=(), seconds=10.0):
    """The pools of what is started one after the other, of trials that take so many seconds at speed 1."""
    ledger = Ledger(budget, pools)
    study = Study(Problem("p", Space({"x": Float(0, 100)}), "nothing:here", Minimize("loss")), ledger).replay(events)
    purse = Purse(study, ledger.balance(), slots, KnownCost(lambda *_: seconds))
    for _ in range(n):
        purse.start(Suggestion({"x": 0.5}), 1, 1)
    return [d.slot.pool for d in purse.decisions if isinstance(d, Start)]


def ended(trial, pool, used, outcome=Outcome.COMPLETED):
    """A trial that ran there and is over."""
    return [
        Started(trial, 0, {"x": float(trial)}, 0, 1, 1, Cost(), f"{pool}/cpu:0", 0.0, pool=pool),
        Ended(trial, 0, outcome, used, 3600.0),
    ]


@pytest.mark.parametrize("slots", [SLOW + FAST, FAST + SLOW])
@pytest.mark.parametrize(
    ("budget", "first"),
    [
        # Twice the speed at three times the price: fewer device-seconds, more money.
        (Budget(device_seconds=1e6), "fast"),
        (Budget(dollars=1e6), "slow"),
        (Budget(evaluations=1e6), "slow"),
        # 10 s of 1000 and 10/1200 of 1 USD against 5 s and 15/3600: 1 % and 0.3 % against 0.5 % and 0.4 %.
        (Budget(device_seconds=1000, dollars=1), "fast"),
        (Budget(device_seconds=1000, dollars=0.1), "slow"),  # 1 % and 2.8 % against 0.5 % and 4.2 %
    ],
)
def test_work_goes_where_it_is_charged_least_and_then_where_there_is_room(slots, budget, first):
    other = {"fast": "slow", "slow": "fast"}[first]
    n = {"slow": 3, "fast": 2}[first]
    assert placed(budget, slots, 4) == [first] * n + [other] * (4 - n)


def test_a_pool_that_is_ahead_of_the_plan_is_taken_last():
    budget, own = Budget(device_seconds=1000), {"fast": Budget(dollars=1)}
    assert placed(budget, SLOW + FAST, 1, pools=own) == ["fast"]
    spent = ended(0, "fast", Cost(device_seconds=60, dollars=0.5))
    assert placed(budget, SLOW + FAST, 5, pools=own, events=spent) == ["slow"] * 3 + ["fast"] * 2
    # Once the others have caught up, it is not.
    rest = ended(1, "slow", Cost(device_seconds=500))
    assert placed(budget, SLOW + FAST, 1, pools=own, events=[*spent, *rest]) == ["fast"]


def test_what_the_better_pool_cannot_pay_for_goes_to_the_other():
    # 5 s a trial on the fast one, whose own budget pays for one of them.
    pools = {"fast": Budget(device_seconds=7)}
    assert placed(Budget(device_seconds=1000), SLOW + FAST, 4, pools=pools) == ["fast"] + ["slow"] * 3


def test_a_spot_pool_is_taken_for_what_it_costs_with_what_is_lost():
    spot = [Slot("spot/cpu:0", "cpu", 0, 1, 1, 0.9, "spot", 1.0, preemptible=True)]
    budget = Budget(dollars=1e6)
    assert placed(budget, SLOW + spot, 1) == ["spot"]
    assert placed(budget, SLOW + spot, 1, seconds=12 * 3600.0) == ["slow"]  # 24 (e^.5 - 1) = 15.6 hours, times 0.9
    # Taken away once in 2 hours, and once in 24 before, so every 13: 0.9 * 13 expm1(t / 13) is 0.94 h and 4.2 h.
    taken = [e for i in range(2) for e in ended(i, "spot", Cost(), Outcome.INTERRUPTED if i else Outcome.COMPLETED)]
    assert placed(budget, SLOW + spot, 1, events=taken, seconds=3600.0) == ["spot"]
    assert placed(budget, SLOW + spot, 1, events=taken, seconds=4 * 3600.0) == ["slow"]


def test_without_pools_slots_are_taken_in_line_whatever_they_cost():
    slots = [Slot("a", "cpu", 0, devices=1, dollars_per_hour=9.0), Slot("b", "cpu", 1, devices=2)]
    ledger = Ledger(Budget(dollars=1e6))
    study = Study(Problem("p", Space({"x": Float(0, 100)}), "nothing:here", Minimize("loss")), ledger)
    purse = Purse(study, ledger.balance(), slots, KnownCost(lambda *_: 10.0))
    purse.start(Suggestion({"x": 0.5}), 1, 1)
    assert [d.slot.name for d in purse.decisions if isinstance(d, Start)] == ["a"]
