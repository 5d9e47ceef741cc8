"""The initial design: Sobol's points, but for what is too dear."""

import pytest
from studies import tell

from frugalbo.budget.amounts import Budget
from frugalbo.budget.ledger import Ledger
from frugalbo.problem import Minimize, Problem
from frugalbo.propose.initial import InitialDesign
from frugalbo.propose.sobol import SobolProposer
from frugalbo.space import Float, Int, Space
from frugalbo.study import Study

SPACE = Space({"x": Float(0, 1), "width": Int(1, 1000)})


def _study(budget="100s", cost=None):
    return Study(Problem("p", SPACE, "m:f", Minimize("loss"), cost=cost), Ledger(Budget.of(budget)))


def _params(proposer, study, n):
    return [s.params for s in proposer(seed=3).propose(study, n)]


@pytest.mark.parametrize(("budget", "cost"), [("100s", None), ("9 trials", "width"), ("1000000s", "width")])
def test_where_nothing_is_known_or_limited_or_dear_it_is_sobols_walk(budget, cost):
    study = _study(budget, cost)
    assert _params(InitialDesign, study, 5) == _params(SobolProposer, study, 5)


def test_points_that_would_take_more_than_a_tenth_of_the_budget_give_way():
    study = _study("3000s", "width")
    walk = _params(SobolProposer, study, 13)
    cheap = [p for i, p in enumerate(walk) if i == 0 or p["width"] <= 300]  # the centre stays
    assert 2 < len(cheap) < 13
    found = _params(InitialDesign, study, 5)
    assert found[: len(cheap)] == cheap


def test_if_all_are_dear_the_cheapest_of_the_next_few_are_taken():
    study = _study("0.01s", "width")
    walk = _params(SobolProposer, study, 11)
    assert _params(InitialDesign, study, 3) == [walk[0], *sorted(walk[1:], key=lambda p: p["width"])[:2]]


def test_what_ran_teaches_what_is_dear():
    study = _study("2000s")
    for width in (10, 200, 400, 500, 700, 900):
        tell(study, {"x": 0.5, "width": width}, 1.0, seconds=10 ** (width / 333))
    ours, walk = _params(InitialDesign, study, 4), _params(SobolProposer, study, 12)
    assert max(p["width"] for p in walk[:8]) > 850  # 480 s, where about 350 s are left for ten trials
    assert all(p["width"] < 700 for p in ours)
    assert ours == [p for p in walk if p in ours]


def test_asked_for_more_it_begins_with_the_same():
    study = _study("3000s", "width")
    assert _params(InitialDesign, study, 6)[:2] == _params(InitialDesign, study, 2)
