"""Which pools are left idle for the sake of cheaper ones."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ladders import COST, Numbered, make_problem

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.scheduler import make_scheduler
from frugalbo.scheduler.patience import left_idle
from frugalbo.slot import Slot
from frugalbo.study import Study

HOUR = 3600.0
# Work costs 1 USD an hour in the slow pool and 1.5 in the fast one; both slow slots together spend 2 USD an hour.
SLOW = [Slot(f"slow/{i}", "cpu", i, dollars_per_hour=1.0, pool="slow") for i in range(2)]
FAST = [Slot("fast/0", "cpu", 2, dollars_per_hour=3.0, pool="fast", speed=2.0)]


def idle(hours, slots=(*FAST, *SLOW), pools=None, study=None, **budget):
    wall = {} if hours is None else {"wall_seconds": hours * HOUR}
    ledger = Ledger(Budget(**{"dollars": 10.0, **budget}, **wall), pools)
    return left_idle(study or Study(make_problem(), ledger), ledger.balance(), slots)


def test_the_dear_pool_waits_while_the_cheap_one_would_spend_it_all():
    assert idle(5.01) == {"fast"}  # 2 USD an hour for 5 hours
    assert idle(4.99) == set()


def test_without_a_limit_on_wall_time_or_without_pools_no_slot_is_idle():
    assert idle(None) == set()
    assert idle(100.0, [replace(slot, pool="") for slot in (*FAST, *SLOW)]) == set()


def test_where_device_seconds_are_short_the_slow_pool_waits():
    # An hour of work takes an hour there and half an hour on the fast slot, which has 4 hours to spend 4 device-hours.
    limited = {"dollars": None, "device_seconds": 4 * HOUR}
    assert idle(4.01, **limited) == {"slow"}
    assert idle(3.99, **limited) == set()


def test_what_the_cheap_pool_may_not_spend_is_left_for_the_dear_one():
    assert idle(100.0, pools={"slow": Budget(dollars=9.0)}) == set()
    assert idle(100.0, pools={"slow": Budget(dollars=10.0)}) == {"fast"}


def test_what_a_busy_pool_costs_is_what_was_charged_there():
    ledger = Ledger(Budget(dollars=10.0, wall_seconds=100 * HOUR))
    study = Study(make_problem(), ledger)
    for trial in range(2):
        study.apply(Started(trial, 0, {"x": 0.1 * trial}, 0, 27, 27, Cost(), SLOW[0].name, 0.0, pool="slow"))
        if trial == 0:
            assert left_idle(study, ledger.balance(), FAST) == set()  # nothing is known of the slow pool
            study.apply(Reported(0, 0, 27, {"loss": 1.0}, HOUR))
            study.apply(Ended(0, 0, Outcome.COMPLETED, Cost(device_seconds=HOUR, dollars=1.0), HOUR))
    assert left_idle(study, ledger.balance(), FAST) == {"fast"}  # one slow slot has 100 hours for 9 USD


def test_a_scheduler_starts_nothing_there_and_goes_on_when_time_is_short():
    for hours, pools in ((6.0, {"slow"}), (3.0, {"slow", "fast"})):
        ledger = Ledger(Budget(dollars=10.0, wall_seconds=hours * HOUR))
        study = Study(make_problem(), ledger)
        decisions = make_scheduler("fixed", Numbered(), COST).decide(study, ledger.balance(), [*FAST, *SLOW])
        assert {decision.slot.pool for decision in decisions} == pools


@given(
    hours=st.floats(0.1, 1000), dollars=st.floats(0.1, 1000),
    kinds=st.lists(st.tuples(st.floats(0, 9), st.floats(0.1, 9), st.booleans()), min_size=1, max_size=5),
)  # fmt: skip
def test_some_pool_is_always_used(hours, dollars, kinds):
    slots = [
        Slot(f"p{i}/0", "cpu", i, pool=f"p{i}", dollars_per_hour=price, speed=speed, preemptible=preemptible)
        for i, (price, speed, preemptible) in enumerate(kinds)
    ]
    assert len(idle(hours, slots, dollars=dollars)) < len(slots)


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_slots_does_not_matter(order):
    assert idle(6.0, [*FAST, *SLOW][::order]) == {"fast"}
