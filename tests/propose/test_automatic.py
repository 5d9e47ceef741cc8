"""Which acquisition `auto` picks: the rule, and that the reason is told."""

import logging

import numpy as np
import pytest
from studies import tell

from frugalbo.budget.amounts import Budget
from frugalbo.budget.ledger import Ledger
from frugalbo.problem import Minimize, Problem
from frugalbo.propose.bo import BayesianProposer
from frugalbo.space import Float, Space
from frugalbo.study import Study

SPACE = Space({"x": Float(0, 1), "y": Float(0, 1)})


def _study(budget, seconds, noise=0.0, n=12):
    """`n` results of a bowl, which took `seconds(x)` each."""
    study, rng = (
        Study(Problem("p", SPACE, "m:f", Minimize("loss")), Ledger(Budget.of(budget))),
        np.random.default_rng(0),
    )
    for _ in range(n):
        params = SPACE.sample(rng)
        loss = (params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2 + noise * rng.standard_normal()
        tell(study, params, loss, seconds=seconds(params["x"]))
    return study


def _picked(study, **settings):
    (suggestion,) = BayesianProposer(seed=1, method="auto", **settings).propose(study, 1)
    return suggestion.why["method"], suggestion.why["because"]


def test_where_costs_differ_they_count():
    method, because = _picked(_study("1000s", lambda x: 10.0**x))
    assert method == "pbgi"
    assert "factor of about" in because


def test_near_the_end_of_a_budget_of_seconds_it_says_so():
    _, because = _picked(_study("1000s", lambda x: 10.0**x))
    assert "what is left" not in because
    study = _study("60s", lambda x: 10.0**x)  # of which 12 trials of 1 to 10 s leave a little
    method, because = _picked(study)
    assert method == "pbgi"
    assert "what is left pays for" in because


@pytest.mark.parametrize(("left", "method"), [(1, "ei"), (2, "bmsei"), (3, "bmsei"), (4, "ei")])
def test_two_or_three_equal_trials_are_looked_ahead(left, method):
    picked, because = _picked(_study(f"{left} trials", lambda x: 5.0))  # `tell` takes none of them
    assert picked == method
    assert (f"pays for {left} more trials" in because) == (method == "bmsei")
    assert _picked(_study(f"{5.0 * (12 + left) + 1}s", lambda x: 5.0))[0] == method


def test_the_later_members_of_a_batch_are_averaged_over():
    suggestions = BayesianProposer(seed=1).propose(_study("99 trials", lambda x: 5.0), 6)
    assert [s.why["method"] for s in suggestions] == ["ei"] * 4 + ["qei"] * 2
    assert "5 trials are pending" in suggestions[-1].why["because"]


@pytest.mark.parametrize(("budget", "seconds"), [("1000s", lambda x: 5.0), ("50 trials", lambda x: 10.0**x)])
def test_where_a_trial_is_a_trial_improvement_counts(budget, seconds):
    assert _picked(_study(budget, seconds))[0] == "ei"


def test_results_that_are_mostly_noise_are_averaged():
    method, because = _picked(_study("99 trials", lambda x: 5.0, noise=0.3, n=60))
    assert method == "nei"
    assert "noise" in because


def test_the_choice_is_logged_and_explained(caplog):
    study = _study("1000s", lambda x: 10.0**x)
    with caplog.at_level(logging.INFO, logger="frugalbo"):
        (suggestion,) = BayesianProposer(seed=1).propose(study, 1)
    assert "pbgi" in caplog.text
    assert suggestion.why["because"] in caplog.text
