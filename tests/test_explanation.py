import numpy as np
import pytest

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import StudyError
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.explanation import in_words
from frugalbo.problem import Minimize, Problem
from frugalbo.propose import METHODS, make_proposer
from frugalbo.space import Float, Space
from frugalbo.study import Study

PROBLEM = Problem("p", Space({"x": Float(0, 1), "y": Float(0, 1)}), "m:f", Minimize("loss"), defaults={"x": 1, "y": 0})


def _studied(method, trials):
    study = Study(PROBLEM, Ledger(Budget(device_seconds=100)))
    proposer = make_proposer(method, PROBLEM, seed=0)
    for i in range(trials):
        (s,) = proposer.propose(study, 1)
        study.apply(Started(i, 0, s.params, 0, 1, 1, Cost(), "s", 0.0, s.why))
        study.apply(Reported(i, 0, 1, {"loss": float(np.sum((PROBLEM.space.encode(s.params) - 0.3) ** 2))}, 1.0))
        study.apply(Ended(i, 0, Outcome.COMPLETED, Cost(device_seconds=2.5), 1.0))
    return study


def test_the_sentences_say_what_was_written_down():
    why = {
        "method": "bo", "predicted": 0.25, "predicted_95": [0.125, 0.5], "best": 0.75, "success": 0.81,
        "predicted_cost_s": 12.0, "within_budget": 0.625, "alpha": 0.5, "observed": 13, "pending": 2, "passed_over": 3,
    }  # fmt: skip
    assert in_words(why, "loss") == [
        "It was the largest expected improvement for its price (method bo).",
        "Predicted was loss = 0.25, between 0.125 and 0.5 at 95 %; the best that the model knew of was 0.75.",
        "Its cost was predicted as 12 device-seconds, which what was left would cover with a chance of 62%.",
        "Cost counted with the power 0.5, the share of the budget that was left.",
        "From the failures so far, it was given a chance of 81% to run at all.",
        "The model knew 13 results, with 2 more under way.",
        "3 suggestions before it would have cost more than was left.",
    ]


def test_what_took_the_place_of_a_suggestion_says_so():
    said = in_words({"method": "sobol", "instead_of": "jes", "reason": "the model could not be fitted"}, "loss")
    assert said[1] == "It took the place of a suggestion by jes: the model could not be fitted."


@pytest.mark.parametrize("why", [{}, {"method": "of my own", "other": [1]}, {"resumed": "from step 3"}])
def test_whatever_a_proposer_wrote_is_survived(why):
    assert in_words(why, "loss")


@pytest.mark.parametrize("method", METHODS)
def test_each_trial_of_each_method_is_explained(method):
    study = _studied(method, 6)
    told = study.explain(5)
    assert f"(method {'ei' if method == 'auto' else method})" in told
    assert ("That method was picked because what trials are charged hardly differs." in told) == (method == "auto")
    assert "its own rule" not in told
    assert told.endswith("after 2.5 device-seconds.")
    if method not in ("sobol", "random"):
        assert "Predicted was loss = " in told
        assert "The model knew 5 results." in told


def test_the_defaults_are_named_and_a_trial_that_is_not_there_is_refused():
    study = _studied("bo", 2)
    assert study.explain(study.trials[0]).startswith("It was the problem's defaults (method sobol).")
    with pytest.raises(StudyError, match="no trial 2, but 2"):
        study.explain(2)


def test_a_lookahead_says_how_far_it_looked():
    ahead = in_words({"method": "bmsei", "depth": 2, "horizon_s": 12.0}, "loss")
    assert ahead[1] == "Up to 2 later trials were in view, with 12 device-seconds for it and them."
    assert in_words({"method": "bmsei", "depth": 0, "horizon_s": 12.0}, "loss")[1] == "No later trial was in view."
