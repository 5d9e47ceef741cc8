import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import BudgetError

USED_UP = ("device_seconds", "dollars", "evaluations")
AMOUNT = st.one_of(st.just(0.0), st.floats(0, 1e-6), st.floats(0, 50))
COSTS = st.builds(Cost, device_seconds=AMOUNT, dollars=AMOUNT, evaluations=AMOUNT, memory_bytes=AMOUNT)
STEPS = st.lists(st.tuples(st.sampled_from(["hold", "settle"]), st.integers(0, 4), COSTS), max_size=40)


def play(ledger, steps, note=lambda ledger: None):
    """Do what is allowed of `steps`; returns what was done. A settlement never exceeds its hold."""
    done, held = [], {}
    for action, key, cost in steps:
        try:
            if action == "hold":
                ledger.hold(key, cost)
                held[key] = cost
            else:
                if key in held:
                    cost = Cost(**{k: min(v, getattr(held[key], k)) for k, v in cost.items()})
                ledger.settle(key, cost)
                del held[key]
        except BudgetError:
            continue
        done.append((action, key, cost))
        note(ledger)
    return done


@settings(max_examples=100)
@given(total=st.floats(1e-3, 200), dollars=st.floats(1e-3, 200), steps=STEPS)
def test_spent_and_held_never_exceed_the_total(total, dollars, steps):
    def check(ledger):
        for account in ledger.balance().limited.values():
            assert account.spent + account.held <= account.total * (1 + 2e-9)
            assert account.free >= 0

    play(Ledger(Budget(device_seconds=total, dollars=dollars, memory_bytes=100)), steps, check)


def test_a_thousand_crumbs_do_not_add_up_to_an_overdraft():
    ledger = Ledger(Budget(dollars=1e-6))
    ledger.hold("all", Cost(dollars=1e-6))
    for key in range(1000):
        with suppress(BudgetError):
            ledger.hold(key, Cost(dollars=1e-15))
    assert ledger.balance()["dollars"].held <= 1e-6 * (1 + 2e-9)


@given(steps=STEPS)
def test_the_same_movements_give_the_same_balance(steps):
    budget = Budget(device_seconds=100, evaluations=77)
    ledger, again = Ledger(budget), Ledger(budget)
    done = play(ledger, steps)
    assert play(again, done) == done
    assert again.balance() == ledger.balance()


@given(steps=STEPS)
def test_spent_is_the_sum_of_settlements_and_held_that_of_open_holds(steps):
    ledger = Ledger(Budget(device_seconds=100))
    done = play(ledger, steps)
    held = {}
    for action, key, cost in done:
        if action == "hold":
            held[key] = cost
        else:
            del held[key]
    for name in USED_UP:
        account = ledger.balance()[name]
        assert account.spent == pytest.approx(math.fsum(getattr(c, name) for a, _, c in done if a == "settle"))
        assert account.held == pytest.approx(math.fsum(getattr(c, name) for c in held.values()))
    memory = ledger.balance()["memory_bytes"]
    assert memory.spent == 0
    assert memory.held == pytest.approx(math.fsum(c.memory_bytes for c in held.values()))


@given(total=st.floats(1e-3, 1e12), parts=st.lists(st.floats(0, 1), max_size=20))
def test_everything_that_is_left_can_be_held(total, parts):
    ledger = Ledger(Budget(device_seconds=total))
    for key, part in enumerate(parts):
        ledger.hold(key, Cost(device_seconds=ledger.balance()["device_seconds"].free * part))
        ledger.settle(key, Cost(device_seconds=ledger.balance()["device_seconds"].held * 0.3))
    ledger.hold("rest", Cost(device_seconds=ledger.balance()["device_seconds"].free))
    assert ledger.balance()["device_seconds"].free <= 1e-9 * total


def test_a_budget_in_three_parts_pays_for_three():
    # 0.1 has no finite binary form: three of them sum to 0.30000000000000004
    ledger = Ledger(Budget(dollars=0.3))
    for key in range(3):
        ledger.hold(key, Cost(dollars=0.1))
    with pytest.raises(BudgetError):
        ledger.hold("one more", Cost(dollars=0.1))


def test_what_does_not_fit_is_refused_and_changes_nothing():
    ledger = Ledger(Budget(device_seconds=10, dollars=3))
    ledger.hold("a", Cost(device_seconds=7, dollars=1))
    before = ledger.balance()
    with pytest.raises(BudgetError, match="cannot hold 4 device seconds, 3 is free"):
        ledger.hold("b", Cost(device_seconds=4, dollars=1))
    with pytest.raises(BudgetError, match=r"cannot hold 2\.5 dollars, 2 is free"):
        ledger.hold("b", Cost(device_seconds=3, dollars=2.5))
    with pytest.raises(BudgetError, match=r"a already holds \{'device_seconds': 7"):
        ledger.hold("a", Cost(device_seconds=1))
    assert ledger.balance() == before


def test_a_hold_is_settled_once():
    ledger = Ledger(Budget(device_seconds=10))
    with pytest.raises(BudgetError, match="a holds nothing"):
        ledger.settle("a", Cost())
    ledger.hold("a", Cost(device_seconds=7))
    ledger.settle("a", Cost(device_seconds=2))
    with pytest.raises(BudgetError, match="a holds nothing"):
        ledger.settle("a", Cost(device_seconds=2))
    account = ledger.balance()["device_seconds"]
    assert (account.spent, account.held, account.free) == (2, 0, 8)
    ledger.hold("a", Cost(device_seconds=8))


def test_an_overrun_is_shown_and_stops_lending():
    ledger = Ledger(Budget(device_seconds=10))
    ledger.hold("a", Cost(device_seconds=10))
    ledger.settle("a", Cost(device_seconds=10.7))
    account = ledger.balance()["device_seconds"]
    assert (account.free, account.overrun) == (0, pytest.approx(0.7))
    with pytest.raises(BudgetError, match=r"cannot hold 0\.001 device seconds, 0 is free"):
        ledger.hold("b", Cost(device_seconds=0.001))
    ledger.hold("free of charge", Cost())


def test_memory_is_lent_and_comes_back():
    ledger = Ledger(Budget(evaluations=7, memory_bytes=100))
    ledger.hold("a", Cost(memory_bytes=60))
    with pytest.raises(BudgetError, match="cannot hold 50 memory bytes, 40 is free"):
        ledger.hold("b", Cost(memory_bytes=50))
    ledger.settle("a", Cost(memory_bytes=60))
    ledger.hold("b", Cost(memory_bytes=100))


def test_wall_time_passes_for_all_at_once():
    ledger = Ledger(Budget(wall_seconds=10))
    ledger.hold("a", Cost(wall_seconds=10))
    ledger.hold("b", Cost(wall_seconds=10))  # beside it, not after it
    ledger.pass_time(4)
    ledger.pass_time(3)
    assert ledger.balance()["wall_seconds"].spent == 4
    ledger.settle("a", Cost(wall_seconds=9))
    assert ledger.balance()["wall_seconds"].spent == 4
    with pytest.raises(BudgetError, match="cannot hold 7 wall seconds, 6 is free"):
        ledger.hold("c", Cost(wall_seconds=7))


def test_what_is_not_limited_is_counted():
    ledger = Ledger(Budget(evaluations=7))
    ledger.hold("a", Cost(device_seconds=1e30))
    ledger.settle("a", Cost(device_seconds=5))
    assert ledger.balance()["device_seconds"].spent == 5
    assert ledger.balance()["device_seconds"].free == math.inf
    assert list(ledger.balance().limited) == ["evaluations"]


def test_a_pool_is_held_against_its_own_accounts_and_the_whole():
    ledger = Ledger(Budget(device_seconds=10), {"spot": Budget(device_seconds=4, dollars=1)})
    ledger.hold("a", Cost(device_seconds=3), "spot")
    with pytest.raises(BudgetError, match="cannot hold 2 device seconds in the pool 'spot', 1 is free"):
        ledger.hold("b", Cost(device_seconds=2), "spot")
    ledger.hold("b", Cost(device_seconds=6))
    with pytest.raises(BudgetError, match=r"cannot hold 1\.1 device seconds, 1 is free"):
        ledger.hold("c", Cost(device_seconds=1.1), "other")
    ledger.settle("a", Cost(device_seconds=2, dollars=0.25))
    spot = ledger.balance().pools["spot"]
    assert (spot["device_seconds"].spent, spot["device_seconds"].held, spot["device_seconds"].free) == (2, 0, 2)
    assert (spot["dollars"].spent, spot["dollars"].free) == (0.25, 0.75)
    assert ledger.balance()["device_seconds"].free == 2


def test_in_a_pool_the_scarcer_account_binds():
    ledger = Ledger(Budget(device_seconds=10, dollars=2), {"spot": Budget(device_seconds=4, dollars=5)})
    assert [ledger.balance().within("spot")[name].free for name in ("device_seconds", "dollars")] == [4, 2]
    ledger.hold("a", Cost(device_seconds=7))
    assert [ledger.balance().within("spot")[name].free for name in ("device_seconds", "dollars")] == [3, 2]
    assert ledger.balance().within("another") == ledger.balance()


def test_what_is_spent_in_a_pool_without_a_budget_is_counted():
    ledger = Ledger(Budget(device_seconds=10))
    ledger.hold("a", Cost(device_seconds=3), "spot")
    ledger.settle("a", Cost(device_seconds=2, dollars=7))
    assert ledger.balance().pools["spot"]["dollars"].spent == 7
    assert ledger.balance().pools["spot"].limited == {}


@given(steps=STEPS, pools=st.lists(st.sampled_from(["", "p", "q"]), min_size=5, max_size=5))
def test_less_is_what_holding_leaves(steps, pools):
    ledger = Ledger(Budget(device_seconds=100, evaluations=77), {"p": Budget(device_seconds=31)})
    for action, key, cost in steps:
        expected = ledger.balance().less(cost, pools[key])
        with suppress(BudgetError):
            if action == "settle":
                ledger.settle(key, Cost())
            else:
                ledger.hold(key, cost, pools[key])
                found = ledger.balance()
                assert found.accounts == expected.accounts
                assert {k: found.pools[k] for k in expected.pools} == expected.pools
