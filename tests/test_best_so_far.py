"""What a study answers while few trials, or none, have run to the end."""

from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.space import Float, Space
from frugalbo.study import Study

PROBLEM = Problem(
    "short", Space({"x": Float(0, 1)}), "m:f", Minimize("loss"), Fidelity("steps", 1, 9), constraints=["gib <= 8"]
)


def _study(*trials):
    """Each trial: how it ended, and (step, loss, gib) of each report; granted up to its last report."""
    study = Study(PROBLEM)
    for number, (outcome, *reports) in enumerate(trials):
        until = 9 if outcome in (Outcome.STOPPED, Outcome.FAILED) else reports[-1][0]
        study.apply(Started(number, 0, {"x": number / 97}, 0, until, 9, Cost(), "cpu:0", 0.0))
        for step, loss, gib in reports:
            study.apply(Reported(number, 0, step, {"loss": loss, "gib": gib}, float(step)))
        failure = Failure.ERROR if outcome == Outcome.FAILED else None
        study.apply(Ended(number, 0, outcome, Cost(), 9.0, 0, failure))
    return study


def test_the_furthest_rung_decides_while_nobody_has_run_to_the_end():
    study = _study(
        (Outcome.PAUSED, (1, 0.1, 1)),
        (Outcome.PAUSED, (1, 0.5, 1), (3, 0.4, 1)),
        (Outcome.PAUSED, (1, 0.6, 1), (3, 0.3, 1)),
    )
    assert (study.compared_at(), study.best().number, study.best_value()) == (3, 2, 0.3)
    assert study.value(study.best()) is None


def test_one_full_trial_comes_before_all_shorter_ones():
    study = _study((Outcome.PAUSED, (3, 0.1, 1)), (Outcome.COMPLETED, (9, 0.7, 1)))
    assert (study.compared_at(), study.best().number, study.best_value()) == (9, 1, 0.7)


def test_what_was_stopped_counts_where_it_was_stopped_and_what_failed_does_not():
    study = _study((Outcome.STOPPED, (1, 0.5, 1), (3, 0.4, 1)), (Outcome.FAILED, (1, 0.2, 1), (5, 0.1, 1)))
    assert (study.compared_at(), study.best().number, study.best_value()) == (3, 0, 0.4)


def test_a_constraint_is_judged_at_the_same_step():
    study = _study((Outcome.PAUSED, (3, 0.1, 9)), (Outcome.PAUSED, (3, 0.4, 7)))
    assert study.best().number == 1
    assert study.best_is_feasible()
    assert not study.is_feasible(study.trials[0], by=3)


def test_reports_between_rungs_count_at_the_rung_after():
    study = Study(PROBLEM)
    study.apply(Started(0, 0, {"x": 0.0}, 0, 3, 9, Cost(), "cpu:0", 0.0))
    study.apply(Reported(0, 0, 2, {"loss": 0.5, "gib": 1}, 1.0))
    assert study.value_by(study.trials[0], 3) is None  # it may still report there
    study.apply(Ended(0, 0, Outcome.PAUSED, Cost(), 2.0, 3))
    assert (study.compared_at(), study.value_by(study.trials[0], 3)) == (3, 0.5)


def test_nothing_is_the_best_of_nothing():
    study = _study((Outcome.FAILED, (1, 0.2, 1)))
    assert (study.compared_at(), study.best(), study.best_value(), study.best_is_feasible()) == (
        None,
        None,
        None,
        False,
    )
