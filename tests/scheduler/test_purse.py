"""What the decisions of one moment may still spend."""

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import KnownCost
from frugalbo.budget.ledger import Ledger
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
