"""Money and device time over time, by pool: the sums are the ledger's."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.budget.price import prices_over_time
from frugalbo.events import Ended, Outcome, Started
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.report import plots, spending
from frugalbo.report.html_tables import pools as pool_table
from frugalbo.report.spending import WHOLE
from frugalbo.space import Float, Space
from frugalbo.study import Study
from frugalbo.testing.studies import Recipe, make_study

PROBLEM = Problem("p", Space({"x": Float(0, 1)}), "no:job", Minimize("loss"), Fidelity("steps", 1, 3))


def study_of(segments, pools=None, budget="100s, 90 USD"):
    """A trial for each `(pool, start, end, held, used)`; a dollar a second; what has no end still runs."""
    study = Study(PROBLEM, Ledger(Budget.of(budget), pools))
    events = []
    for i, (pool, start, end, held, used) in enumerate(sorted(segments, key=lambda segment: segment[1])):
        events.append((start, 1, i, Started(i, 0, {"x": 0.5}, 0, 3, 3, Cost(held, held), f"{pool}/0", start, {}, pool)))
        if end is not None:
            events.append((end, 0, i, Ended(i, 0, Outcome.COMPLETED, Cost(used, used), end)))
    return study.replay(event for *_, event in sorted(events, key=lambda e: e[:3]))


@pytest.fixture
def by_hand():
    """Pool a: 8 s held from 0, 5 used at 4. Pool b: 6 held from 2, 3 used at 4; 7 held from 5, and running."""
    segments = [("a", 0.0, 4.0, 8.0, 5.0), ("b", 2.0, 4.0, 6.0, 3.0), ("b", 5.0, None, 7.0, None)]
    return study_of(segments, {"b": Budget(dollars=11)})


def test_each_change_is_at_its_time(by_hand):
    found = spending(by_hand, "dollars")
    assert list(found) == [WHOLE, "a", "b"]
    assert (found["a"].times, found["a"].spent, found["a"].held) == ((0, 4), (0, 5), (8, 0))
    assert (found["b"].times, found["b"].spent, found["b"].held) == ((2, 4, 5), (0, 3, 3), (6, 0, 7))
    assert (found[WHOLE].times, found[WHOLE].spent, found[WHOLE].held) == ((0, 2, 4, 5), (0, 0, 8, 8), (8, 14, 0, 7))
    assert [found[name].budget for name in found] == [90, None, 11]
    assert [row.tolist() for row in found["b"].at(np.array([1.0, 2.0, 4.5, 9.0]))] == [[0, 0, 3, 3], [0, 6, 0, 7]]


segments = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "b"]),
        st.integers(0, 50).map(lambda n: n / 8),
        st.one_of(st.none(), st.integers(0, 50).map(lambda n: n / 8)),
        st.floats(0, 3),
        st.floats(0, 3),
    ),
    max_size=17,
)


@settings(deadline=None, max_examples=80)
@given(segments=segments)
@example(segments=[("b", 4.125, None, 1e-9, 3.0), ("a", 4.0, 3.625, 1.75, 2.0)])  # next to nothing is held at the end
def test_the_last_amounts_are_the_ledgers_whatever_ran(segments):
    segments = [(p, start, None if took is None else start + took, h, u) for p, start, took, h, u in segments]
    # Ended at the instant of their start would be settled before they are held.
    segments = [(p, a, None if b is None else max(b, a + 0.125), h, u) for p, a, b, h, u in segments]
    study = study_of(segments, {"b": Budget(device_seconds=100)})
    balance = study.ledger.balance()
    for resource in ("device_seconds", "dollars"):
        found = spending(study, resource)
        for name, book in found.items():
            account = (balance if name == WHOLE else balance.pools[name])[resource]
            last = (book.spent[-1], book.held[-1]) if book.times else (0.0, 0.0)
            assert last == pytest.approx((account.spent, account.held), abs=1e-9)
            assert list(book.spent) == sorted(book.spent)
            assert min(book.held, default=0.0) >= 0
        if "" not in {pool for pool, *_ in segments}:
            parts = sum(book.spent[-1] for name, book in found.items() if name != WHOLE)
            assert parts == pytest.approx(balance[resource].spent, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), crashes=st.integers(0, 2), left=st.integers(0, 2))
def test_a_run_without_pools_has_the_account_of_the_whole(seed, crashes, left):
    study = make_study(Recipe(seed=seed, trials=13, budget="60 s", crashes=crashes, left_running=left))
    found = spending(study, "device_seconds")
    assert list(found) == [WHOLE]
    account = study.ledger.balance()["device_seconds"]
    assert (found[WHOLE].spent[-1], found[WHOLE].held[-1]) == pytest.approx((account.spent, account.held), abs=1e-9)


def test_the_panels_are_the_run_and_its_pools_with_their_budgets(by_hand):
    axes = plots.pools(by_hand).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["all of the run", "pool a", "pool b", "", "", ""]
    texts = [ax.texts[0].get_text().replace("\\", "") for ax in axes]
    assert texts == ["8 s of 100 s", "5 s", "3 s", "$8.00 of $90.00", "$5.00", "$3.00 of $11.00"]
    budgets = [[float(line.get_ydata()[0]) for line in ax.lines] for ax in axes]
    assert budgets == [[100], [], [], [90], [], [11]]


def test_what_is_drawn_ends_at_what_is_spent_and_held(by_hand):
    spent, held = plots.pools(by_hand).axes[5].collections
    assert spent.get_paths()[0].get_extents().y1 == 3.0
    assert held.get_paths()[0].get_extents().y1 == 3.0 + 7.0


def test_of_very_many_pools_those_that_spent_most_are_drawn_and_it_says_so():
    figure = plots.pools(study_of([(f"p{i}", float(i), i + 1.0, 1.0, 1.0 + i / 10) for i in range(8)]))
    assert [ax.get_title(loc="left") for ax in figure.axes[:6]] == [
        "all of the run",
        *(f"pool p{i}" for i in range(7, 2, -1)),
    ]
    assert figure.get_suptitle() == "The 5 of 8 pools that spent most"


def test_the_table_has_each_pool(by_hand):
    table = pool_table(by_hand)
    assert (
        "<th scope=row>a</th><td>1</td><td></td><td>5 s</td><td></td><td></td><td>$5.00</td><td></td><td></td>" in table
    )
    assert "<td>$3.00</td><td>$7.00</td><td>$11.00</td>" in table
    assert pool_table(study_of([])) == ""


@pytest.mark.parametrize("segments", [[], [("", 0.0, None, 0.0, 0.0)]])
def test_where_nothing_is_spent_the_picture_says_so(segments):
    assert plots.pools(study_of(segments)).get_label() in ("Nothing has run yet", "Nothing has been spent yet")


def test_prices_are_drawn_as_they_went_up_to_a_hundred_times(by_hand):
    points = prices_over_time(by_hand)
    assert [point.at for point in points] == [4.0]
    ax = plots.prices(by_hand).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    for name, price in points[-1].prices.items():
        [[*first], [when, drawn]] = lines[name.replace("_", " ")]
        assert first == [0.0, 1.0]
        assert when == 4.0
        assert drawn == pytest.approx(min(100.0, max(0.01, price)))
    assert "dollars of b" in lines  # 3 of 11 dollars, when a share of 8 / 90 of the run has passed: it is dearest
    assert "dollars of b were dearest" in ax.get_title(loc="left")


def test_a_budget_that_is_spent_has_a_cross_and_no_price():
    study = study_of([("b", 0.0, 1.0, 1.0, 1.0), ("b", 1.0, 3.0, 1.0, 1.0)], {"b": Budget(dollars=2)})
    ax = plots.prices(study).axes[0]
    [cross] = ax.collections
    assert cross.get_offsets().tolist()[0][0] == 3.0
    assert ax.get_title(loc="left") == "Spent: dollars of b"


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (study_of([]), "No price: nothing that has a budget was spent"),
        (study_of([("", 0.0, 1.0, 1.0, 1.0)], budget="9 s"), "One budget alone sets the pace of the run"),
    ],
)
def test_where_prices_tell_nothing_it_is_said(study, said):
    assert plots.prices(study).get_label().startswith(said)
