"""Outcome constraints: how they are read, what they make of trials, and what is stored."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import frugalbo as fb
from frugalbo.constraint import OutcomeConstraint
from frugalbo.events import Outcome

SPACE = {"x": fb.Float(0, 1)}


def problem(*constraints, objective=None):
    return fb.Problem("p", SPACE, "m:f", objective or fb.Minimize("loss"), constraints=constraints)


def told(*results, constraints=("peak_gib <= 8",), objective=None):
    """A study with these metrics."""
    study = fb.Study(problem(*constraints, objective=objective))
    for number, metrics in enumerate(results):
        study.apply(fb.Started(number, 0, {"x": 0.1 * number}, 0, 1, 1, fb.Cost(), "slot", 0.0))
        study.apply(fb.Reported(number, 0, 1, metrics, 0.0))
        study.apply(fb.Ended(number, 0, Outcome.COMPLETED, fb.Cost(), 0.0))
    return study


@pytest.mark.parametrize(("text", "expected"), [
    ("peak_gib <= 8", ("peak_gib", "<=", 8.0)),
    ("accuracy>=0.9", ("accuracy", ">=", 0.9)),
    ("  val/top-5 >= -1e-3 ", ("val/top-5", ">=", -1e-3)),
    ("größe <= 1e300", ("größe", "<=", 1e300)),
])  # fmt: skip
def test_a_metric_a_sense_and_a_number_are_read(text, expected):
    found = OutcomeConstraint.parse(text)
    assert (found.metric, found.sense, found.bound) == expected


@given(
    metric=st.sampled_from(["peak_gib", "val/top-5", "a.b@c:d"]),
    sense=st.sampled_from(["<=", ">="]),
    bound=st.floats(allow_nan=False, allow_infinity=False),
)
def test_the_text_of_a_constraint_is_read_back_exactly(metric, sense, bound):
    constraint = OutcomeConstraint(metric, sense, bound)
    assert OutcomeConstraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize("text", [
    "", "peak_gib", "peak_gib < 8", "peak_gib == 8", "8 >= peak_gib", "a + b <= 3", "0 <= a <= 1", "a <= b",
    "peak_gib <= 8 GiB", "peak_gib <= 8GiB", "a <= nan", "a <= inf", "<= 3", "a <=", 8, None, "a <= 1 and b <= 2",
])  # fmt: skip
def test_anything_else_is_refused_with_what_came(text):
    with pytest.raises(fb.ProblemError, match="constraint") as caught:
        problem(text)
    assert repr(text) in str(caught.value) or "finite" in str(caught.value)


def test_constraints_that_make_no_sense_together_are_refused():
    with pytest.raises(fb.ProblemError, match="objective"):
        problem("loss <= 3")
    with pytest.raises(fb.ProblemError, match="keep one"):
        problem("a <= 3", "a <= 4")
    with pytest.raises(fb.ProblemError, match="contradict"):
        problem("a <= 3", "a >= 4")
    with pytest.raises(fb.ProblemError, match="list"):
        fb.Problem("p", SPACE, "m:f", fb.Minimize("loss"), constraints="a <= 3")
    assert len(problem("a <= 3", "a >= 3").constraints) == 2


def test_a_problem_with_constraints_survives_json_and_one_stored_before_there_were_any_loads():
    constrained = problem("peak_gib <= 8", "accuracy >= 0.1")
    again = fb.Problem.from_json(json.loads(json.dumps(constrained.to_json())))
    assert again == constrained
    old = problem().to_json()
    del old["constraints"]
    assert fb.Problem.from_json(old).constraints == ()
    assert replace(constrained, name="other").constraints == constrained.constraints


def test_a_bound_is_met_at_the_bound_itself_and_the_excess_is_in_units_of_the_metric():
    at_most, at_least = OutcomeConstraint("g", "<=", 8.0), OutcomeConstraint("g", ">=", 0.5)
    assert [at_most.excess(v) for v in (8.0, 9.25, 7.0)] == [0.0, 1.25, -1.0]
    assert [at_least.excess(v) for v in (0.5, 0.25, 0.75)] == [0.0, 0.25, -0.25]
    assert at_most.excess(None) == at_most.excess(math.nan) == at_least.excess(math.inf) == math.inf


def test_the_best_is_the_best_of_those_that_meet_all_constraints():
    study = told(
        {"loss": 1.0, "peak_gib": 9.0, "accuracy": 0.95},  # needs too much
        {"loss": 2.0, "peak_gib": 7.0, "accuracy": 0.5},  # is not accurate
        {"loss": 4.0, "peak_gib": 8.0, "accuracy": 0.9},
        {"loss": 3.0, "peak_gib": 2.0, "accuracy": 0.99},
        constraints=("peak_gib <= 8", "accuracy >= 0.9"),
    )
    assert study.best().number == 3
    assert [study.is_feasible(t) for t in study.trials.values()] == [False, False, True, True]
    assert study.violations(study.trials[0]) == {"peak_gib <= 8": 1.0}
    assert study.violation(study.trials[1]) == pytest.approx(0.4 / 0.9)


def test_when_nothing_is_feasible_the_least_violation_is_the_best_and_of_equals_the_better_value():
    study = told({"loss": 1.0, "peak_gib": 16.0}, {"loss": 3.0, "peak_gib": 10.0}, {"loss": 2.0, "peak_gib": 10.0})
    assert study.best().number == 2
    assert not study.is_feasible(study.best())
    assert study.violation(study.best()) == 0.25
    up = told(
        {"loss": 1.0, "peak_gib": 10.0}, {"loss": 3.0, "peak_gib": 10.0}, objective=fb.Maximize("loss"),
    )  # fmt: skip
    assert up.best().number == 1


def test_violations_of_metrics_in_different_units_are_shares_of_their_bounds():
    # 2 of 8 GiB too much is less than 0.3 of 0.9 too little: a quarter against a third.
    constraints = ("peak_gib <= 8", "accuracy >= 0.9")
    study = told(
        {"loss": 1.0, "peak_gib": 8.0, "accuracy": 0.6}, {"loss": 9.0, "peak_gib": 10.0, "accuracy": 0.9},
        constraints=constraints,
    )  # fmt: skip
    assert study.best().number == 1


def test_a_metric_that_is_missing_or_not_finite_does_not_meet_its_bound():
    study = told(
        {"loss": 1.0, "peak_gib": math.nan}, {"loss": 2.0, "peak_gib": math.inf}, {"loss": 3.0, "peak_gib": 99}
    )
    assert study.best().number == 2
    assert study.violations(study.trials[0]) == {"peak_gib <= 8": math.inf}
    assert not study.is_feasible(study.trials[1])


def test_who_tells_a_value_without_the_metric_is_asked_for_it():
    with fb.open_study(problem("peak_gib <= 8"), budget="9 trials", method="random") as study:
        trial = study.ask()
        with pytest.raises(fb.StudyError, match=r"peak_gib <= 8"):
            study.tell(trial, 0.5)
        study.tell(trial, {"loss": 0.5, "peak_gib": math.nan})
        assert not study.is_feasible(trial)
        study.tell(study.ask(), failed="out of memory")  # what failed need not have been measured
        assert study.trials[1].status == "failed"


def test_without_constraints_whatever_has_a_value_is_feasible():
    study = told({"loss": 1.0}, {"other": 1.0}, constraints=())
    assert study.is_feasible(study.trials[0])
    assert not study.is_feasible(study.trials[1])


def test_the_metric_counts_at_the_step_of_the_objectives_value():
    stepped = replace(problem("peak_gib <= 8"), fidelity=fb.Fidelity("steps", 1, 3))
    slot = fb.Slot("cpu:0", "cpu", 0)

    def simulate(params, planned, seed):
        del params, planned, seed
        return fb.Curve((1, 3), (1.0, 3.0), ({"loss": 9.0, "peak_gib": 9.0}, {"loss": 1.0, "peak_gib": 7.0}))

    executor = fb.SimulatedExecutor(stepped, [slot], simulate)
    report = fb.tune(stepped, budget="2 trials", executor=executor, method="random")
    assert report.is_feasible
    assert report.study.measured(report.best, "peak_gib") == 7.0
    assert report.study.measured(report.best, "peak_gib", at=1) == 9.0


def test_a_run_is_not_resumed_with_other_constraints(tmp_path):
    storage = tmp_path / "runs.db"
    one = problem("peak_gib <= 8")
    with fb.open_study(one, budget="3 trials", method="random", storage=storage) as study:
        study.tell(study.ask(), {"loss": 1.0, "peak_gib": 9.0})
    with pytest.raises(fb.ProblemError, match="another constraint"):
        fb.resume(storage=storage, problem=problem("peak_gib <= 10"))
    with pytest.raises(fb.ProblemError, match="another constraint"):
        fb.resume(storage=storage, problem=problem())
    with fb.open_study(storage=storage) as study:
        assert study.violations(study.best()) == {"peak_gib <= 8": 1.0}
