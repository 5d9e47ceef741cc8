"""Which acquisition `auto` picks: the rule, and that the reason is told."""

import logging

import numpy as np
import pytest
from studies import tell

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Outcome, Started
from frugalbo.problem import Minimize, Problem
from frugalbo.propose.bo import BayesianProposer
from frugalbo.propose.fit import besides_s
from frugalbo.space import Float, Space
from frugalbo.study import Study

SPACE = Space({"x": Float(0, 1), "y": Float(0, 1)})


def _study(budget, seconds, noise=0.0, n=12, evaluations=0.0):
    """`n` results of a bowl, which took `seconds(x)` each."""
    study, rng = (
        Study(Problem("p", SPACE, "m:f", Minimize("loss")), Ledger(Budget.of(budget))),
        np.random.default_rng(0),
    )
    for _ in range(n):
        params = SPACE.sample(rng)
        loss = (params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2 + noise * rng.standard_normal()
        tell(study, params, loss, seconds=seconds(params["x"]), evaluations=evaluations)
    return study


def _picked(study, **settings):
    (suggestion,) = BayesianProposer(seed=1, method="auto", **settings).propose(study, 1)
    return suggestion.why["method"], suggestion.why["because"]


def test_where_costs_differ_they_count():
    method, because = _picked(_study("1000s", lambda x: 10.0**x))
    assert method == "pbgi"
    assert "factor of about" in because


@pytest.mark.parametrize(("trials", "method"), [(20, "ei"), (2000, "pbgi")])
def test_where_trials_run_out_before_seconds_costs_do_not_count(trials, method):
    both = {"device_seconds": 1000, "evaluations": trials}  # of which 12 trials take less than 120 s
    assert _picked(_study(both, lambda x: 10.0**x, evaluations=1.0))[0] == method


@pytest.mark.parametrize(
    ("n", "seconds", "expected"),
    [
        (0, 0.0, 0.0),
        (1, 10.0, 10.0),  # on plan: a tenth of each, so a trial is worth a tenth of the seconds
        (2, 1.0, 10.0 * (0.98 / 0.8) ** 10),  # seconds lag behind
        (2, 40.0, 10.0 * (0.2 / 0.8) ** 10),  # trials do
    ],
)
def test_what_a_trial_is_charged_for_being_one_by_hand(n, seconds, expected):
    study = _study({"device_seconds": 100, "evaluations": 10}, lambda x: seconds, n=n, evaluations=1.0)
    assert besides_s(study) == pytest.approx(expected)
    assert besides_s(_study("100s", lambda x: seconds, n=n, evaluations=1.0)) == 0


def test_what_a_trial_is_charged_for_being_one_is_in_device_seconds_whatever_is_limited():
    in_dollars = _study({"dollars": 50, "evaluations": 10}, lambda x: 3.0, n=0)
    for number in range(2):
        in_dollars.apply(Started(number, 0, {"x": 0.5, "y": 0.5}, 0, 1, 1, Cost(), "slot", 0.0))
        in_dollars.apply(Ended(number, 0, Outcome.STOPPED, Cost(3.0, 5.0, evaluations=1), 0.0))
    assert besides_s(in_dollars) == pytest.approx(3.0)  # on plan: a trial is worth 5 USD, which 3 s cost


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
