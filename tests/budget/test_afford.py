import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalbo.budget.afford import Quote, Refusal, quote, seconds_left
from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.cost import CostPrediction
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Outcome, Started
from frugalbo.problem import Minimize, Problem
from frugalbo.slot import Slot
from frugalbo.space import Float, Space
from frugalbo.study import Study

PROBLEM = Problem("p", Space({"x": Float(0, 1)}), "m:f", Minimize("loss"))
SLOT = Slot("cuda:0", "cuda", 0, devices=2, dollars_per_hour=36.0)


def _balance(**limits):
    return Ledger(Budget(**limits)).balance()


def test_what_is_more_likely_than_not_to_fit_is_affordable():
    # 100 device-seconds are 50 s on two devices; a median of 100 just fits, and the cap is all of it.
    found = quote(_balance(device_seconds=100), SLOT, CostPrediction(100.0, 300.0, 5))
    assert found == Quote(50.0, Cost(device_seconds=100.0, evaluations=1.0))
    found = quote(_balance(device_seconds=100), SLOT, CostPrediction(100.1, 300.0, 5))
    assert isinstance(found, Refusal)
    assert not found.hopeless
    assert "would take about 50 s" in found.reason


def test_dollars_are_seconds_at_the_price_of_the_slot():
    # Two devices at 36 USD an hour cost 2 cents a second: one dollar is 50 s.
    assert quote(_balance(dollars=1), SLOT, None).cap_s == pytest.approx(50)
    assert isinstance(quote(_balance(dollars=1), SLOT, CostPrediction(101.0, 200.0, 5)), Refusal)


def test_while_nothing_is_known_the_free_budget_is_shared_out():
    assert quote(_balance(device_seconds=120), SLOT, None, sharers=3).cap_s == 20
    assert quote(_balance(wall_seconds=120), SLOT, None, sharers=3).cap_s == 120


def test_where_no_configuration_would_do_it_is_said():
    ledger = Ledger(Budget(evaluations=1))
    ledger.hold("a", Cost(evaluations=1))
    assert quote(ledger.balance(), SLOT, None).hopeless


@given(
    free=st.floats(1e-3, 1e6), median=st.floats(1e-3, 1e6), factor=st.floats(1, 100), cap=st.floats(1e-3, 1e6),
    devices=st.integers(1, 7),
)  # fmt: skip
def test_what_is_quoted_can_be_held(free, median, factor, cap, devices):
    ledger = Ledger(Budget(device_seconds=free, dollars=free / 200))
    slot = Slot("s", "cpu", 0, devices=devices, dollars_per_hour=11.0)
    found = quote(ledger.balance(), slot, CostPrediction(median, factor * median, 3), trial_cap_s=cap)
    if isinstance(found, Quote):
        ledger.hold("a", found.held)
        assert found.cap_s <= cap
    else:
        assert median > min(free, free / 200 / 11.0 * 3600) * (1 - 1e-9)


def _study(budget, *, seconds=0.0, dollars=0.0, wall=0.0):
    study = Study(PROBLEM, Ledger(budget))
    study.apply(Started(0, 0, {"x": 0.5}, 0, 1, 1, Cost(), "s", 100.0))
    used = Cost(device_seconds=seconds, dollars=dollars)
    study.apply(Ended(0, 0, Outcome.COMPLETED, used, 100.0 + wall))
    study.ledger.pass_time(wall)
    return study


def test_what_is_left_for_one_trial():
    assert seconds_left(Study(PROBLEM)) == math.inf
    assert seconds_left(_study(Budget(evaluations=7), seconds=10)) == math.inf
    assert seconds_left(_study(Budget(device_seconds=100), seconds=30)) == 70
    # 30 s cost 3 USD; the 2 that are left buy 20 s.
    assert seconds_left(_study(Budget(device_seconds=100, dollars=5), seconds=30, dollars=3)) == pytest.approx(20)
    # 30 device-seconds took 10 s; the 40 s that are left on the clock are worth 120.
    assert seconds_left(_study(Budget(wall_seconds=50), seconds=30, wall=10)) == pytest.approx(120)


def test_what_others_hold_is_not_left():
    study = _study(Budget(device_seconds=100), seconds=30)
    study.apply(Started(1, 0, {"x": 0.1}, 0, 1, 1, Cost(device_seconds=25.0), "s", 0.0))
    assert seconds_left(study) == 45


@pytest.mark.parametrize(
    ("n", "median", "cap"),
    [
        (1, 2.0, 25.0),  # a quarter of the 100 s that two devices have
        (3, 46.0, 50.0 / 0.9),  # its upper cost is below two and a half medians
        (3, 24.0, 30.0),  # two and a half medians of 12 s are more than a quarter of 100 s
        (4, 2.0, 50.0 / 0.9),  # enough is known
        (0, 2.0, 25.0),  # stated, give or take, and nothing seen yet
    ],
)
def test_while_little_is_known_a_segment_may_take_a_share_only(n, median, cap):
    found = quote(_balance(device_seconds=200), SLOT, CostPrediction(median, 100.0, n))
    assert found.cap_s == pytest.approx(cap)


def test_where_no_seconds_are_limited_no_job_is_ended_for_taking_longer_than_those_before_it():
    learned, stated = CostPrediction(2.0, 3.0, 40), CostPrediction(2.0, 3.0, 0, is_certain=True)
    trials, wall = _balance(evaluations=9), _balance(evaluations=9, wall_seconds=1000)
    assert quote(trials, SLOT, learned) == Quote(math.inf, Cost(evaluations=1.0))
    assert quote(trials, SLOT, learned, trial_cap_s=100.0).cap_s == 100
    assert quote(trials, SLOT, stated).cap_s == pytest.approx(1.5 / 0.9)
    assert quote(wall, SLOT, learned).cap_s == pytest.approx(1.5 / 0.9)


def test_a_cost_function_of_the_users_is_taken_as_it_is_from_the_first_segment():
    found = quote(_balance(device_seconds=200), SLOT, CostPrediction(2.0, 100.0, 0, is_certain=True))
    assert found.cap_s == pytest.approx(50.0 / 0.9)


def test_a_fast_device_needs_fewer_seconds():
    # 90 s of work at the upper end, on two devices of speed 3: 15 s each, and a tenth for last words.
    slot = Slot("a/0", "cpu", 0, devices=2, speed=3.0, pool="a")
    found = quote(_balance(device_seconds=100), slot, CostPrediction(60.0, 90.0, 9))
    assert found.cap_s == pytest.approx(15 / 0.9)
    assert found.held.device_seconds == pytest.approx(30 / 0.9)


def test_a_slot_has_what_its_pool_has():
    slots = [Slot("a/0", "cpu", 0, pool="a", dollars_per_hour=3600.0), Slot("b/0", "cpu", 0, pool="b")]
    balance = Ledger(Budget(device_seconds=100), {"a": Budget(dollars=7)}).balance()
    predicted = CostPrediction(10.0, 90.0, 9)
    assert isinstance(quote(balance, slots[0], predicted), Refusal)
    assert quote(balance, slots[1], predicted).cap_s == 100
    assert quote(balance, slots[0], CostPrediction(5.0, 90.0, 9)).held == Cost(
        device_seconds=7, dollars=7, evaluations=1
    )


def test_what_is_left_is_what_the_richest_pool_can_do():
    study = Study(PROBLEM, Ledger(Budget(device_seconds=100), {"a": Budget(dollars=7), "b": Budget(device_seconds=9)}))
    study.apply(Started(0, 0, {"x": 0.5}, 0, 1, 1, Cost(), "a/0", 100.0, pool="a", speed=2.0))
    assert seconds_left(study) == 200
    study.apply(Ended(0, 0, Outcome.COMPLETED, Cost(device_seconds=20.0, dollars=4.0), 120.0))
    # In a: 3 USD are 15 s at the past price, worth 30 at speed 2; in b 9 s.
    assert seconds_left(study) == pytest.approx(30)
