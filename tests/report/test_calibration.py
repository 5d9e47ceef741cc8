"""How predictions held: counts by hand, what counts at all, words, and that a light report stays light."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.problem import Maximize, Minimize, Problem
from frugalbo.report import Report, calibration
from frugalbo.report.calibration import binomial_range
from frugalbo.space import Float, Space
from frugalbo.study import Study


def study_of(rows, objective=None):
    """A study of trials `(why, value or None, seconds, failure)`."""
    study = Study(
        Problem("p", Space({"x": Float(0, 1)}), "m:f", objective or Minimize("loss")),
        Ledger(Budget(device_seconds=1e6)),
    )
    for i, (why, value, seconds, failure) in enumerate(rows):
        study.apply(Started(i, 0, {"x": i / 100}, 0, 1, 1, Cost(), "s", float(i), why))
        if value is not None:
            study.apply(Reported(i, 0, 1, {study.problem.objective.metric: value}, i + 0.5))
        outcome = Outcome.FAILED if failure else Outcome.COMPLETED
        study.apply(Ended(i, 0, outcome, Cost(device_seconds=seconds), i + 0.75, failure=failure))
    return study


def why(predicted, low, high, cost=None, cost_low=None, cost_high=None):
    found = {"method": "bo", "predicted": predicted, "predicted_95": [low, high]}
    if cost is not None:
        found |= {"predicted_cost_s": cost, "predicted_cost_95": [cost_low, cost_high]}
    return found


ROWS = [
    ({"method": "sobol"}, 1.0, 3.0, None),  # nothing was predicted
    (why(1.0, 0.5, 1.5, 10, 8, 13), 1.25, 11.0, None),
    (why(1.0, 0.5, 1.5, 10, 8, 13), 0.5, 8.0, None),  # the ends belong to it
    (why(1.0, 0.5, 1.5, 10, 8, 13), 1.75, 14.0, None),  # outside in both
    (why(1.0, 0.5, 1.5, 10, 8, 13), None, 12.0, Failure.TIMEOUT),  # cut: who knows
    (why(1.0, 0.5, 1.5, 10, 8, 13), None, 20.0, Failure.TIMEOUT),  # cut beyond its interval
    (why(1.0, 0.5, 1.5, 10, 8, 13), None, 0.1, Failure.ERROR),  # says nothing of cost
    (why(1.0, 0.5, 1.5), 1.0, 5.0, None),
    (why(2.0, 1.5, 2.5, 10, 8, 13), 2.0, 10.0, None),
]


def test_predictions_are_counted_as_they_were_made():
    found = calibration(study_of(ROWS), leave_one_out=False)
    assert [p.trial for p in found.made.predictions] == [1, 2, 3, 7, 8]
    assert found.made.inside == 4
    assert found.made.typical_error == 0.25  # of 0.25, 0.5, 0.75, 0, 0
    assert [p.trial for p in found.cost.predictions] == [1, 2, 3, 5, 8]
    assert found.cost.inside == 3
    assert [p.trial for p in found.cost.predictions if p.is_bound] == [5]
    # The median of |log| of 1.1, 0.8, 1.4 and 1 is the mean of the middle two.
    assert found.cost.typical_error == pytest.approx(math.sqrt(1.1 / 0.8))


def test_in_words():
    found = calibration(study_of(ROWS), leave_one_out=False)
    assert (
        found.made.in_words()
        == "Of 5 predictions 4 fell within their 95 % interval, as they should (4 to 5 would be no surprise)."
    )
    assert found.cost.in_words() == (
        "Of 5 predicted costs 3 fell within their 95 % interval, where 4 to 5 would be no surprise: "
        "the model was too sure of itself."
    )
    assert "Of 5 predictions 4 fell within" in Report(study_of(ROWS)).summary()


def test_of_fewer_than_five_nothing_is_said():
    found = calibration(study_of(ROWS[:4]), leave_one_out=False)
    assert found.kinds == ()
    assert found.made.in_words() == "Too few to say: 3 predicted results, 5 are needed."
    assert found.to_json()["cost"] == {"predictions": 0, "reason": "Too few to say: 3 predicted costs, 5 are needed."}


def test_where_more_is_better_intervals_are_in_the_objectives_own_direction():
    rows = [(why(0.8, 0.7, 0.9), 0.75 + 0.01 * i, 1.0, None) for i in range(7)]
    found = calibration(study_of(rows, Maximize("accuracy")))
    assert found.made.inside == 7
    for p in found.left_out.predictions:
        assert p.low < p.predicted < p.high
        assert p.observed == pytest.approx(0.75 + 0.01 * p.trial)


@pytest.mark.parametrize(
    "bad",
    [
        {"predicted": 1.0},
        {"predicted": math.inf, "predicted_95": [0, 1]},
        {"predicted": 1.0, "predicted_95": [0.5]},
        {"predicted": 1.0, "predicted_95": None},
        {"predicted": None, "predicted_95": [0, 1]},
    ],
)
def test_what_others_wrote_into_why_is_passed_over(bad):
    found = calibration(study_of([(bad, 1.0, 1.0, None)] * 6), leave_one_out=False)
    assert found.made.predictions == ()


@pytest.mark.parametrize(("n", "expected"), [(5, (4, 5)), (20, (17, 20)), (100, (90, 99))])
def test_the_range_of_a_binomial(n, expected):
    from scipy.stats import binom

    assert binomial_range(n, 0.95) == expected
    low, high = expected
    assert binom.cdf(low - 1, n, 0.95) <= 0.025 < binom.cdf(low, n, 0.95)
    assert binom.sf(high, n, 0.95) <= 0.025


def test_the_figures_are_strict_json():
    rng = np.random.default_rng(0)
    rows = [(why(1.0, -1.0, 3.0, 5, 1, 9), 1 + float(rng.standard_normal()), 5.0, None) for _ in range(11)]
    report = Report(study_of(rows))
    found = json.loads(json.dumps(report.to_json(leave_one_out=True), allow_nan=False))["calibration"]
    assert found["left_out"]["predictions"] == found["made"]["predictions"] == 11
    assert found["made"]["trials"][3]["predicted"] == 1.0
    assert found["made"]["inside"] == sum(-1 <= value <= 3 for _, value, _, _ in rows)
    assert report.to_json()["calibration"]["left_out"] == {"predictions": 0, "reason": "It was not asked for."}


def test_the_page_has_the_table_and_the_sentence(tmp_path):
    rows = [(why(1.0, 0.0, 2.0, 5, 1, 9), 1 + 0.1 * i, 5.0, None) for i in range(7)]
    page = Report(study_of(rows)).write(tmp_path).read_text()
    assert "Of 7 predictions 7 fell within their 95 % interval" in page
    assert "results, left out" in page
    assert (tmp_path / "calibration.png").stat().st_size > 10_000
    few = Report(study_of(rows[:3])).write(tmp_path / "few").read_text()
    assert "Too few to say: 3 predicted results, 5 are needed" in few


def test_a_run_without_a_model_is_reported_without_torch():
    code = (
        "import sys; from frugalbo.report import Report; from frugalbo.testing.studies import RECIPES, make_study;"
        "Report(make_study(RECIPES['typical'])).to_json(leave_one_out=True); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
