"""Jobs that do not do what a scheduler of rungs needs: clear failures, or a stated recovery."""

import pytest

from frugalbo.api import tune
from frugalbo.executors.inline import InlineExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.space import Float, Space


def _tune(job, *, low=1, scheduler="asha", budget="30 trials"):
    problem = Problem("wrong", Space({"x": Float(0.0, 1.0)}), job, Minimize("loss"), Fidelity("steps", low, 9))
    return tune(problem, budget=budget, method="random", scheduler=scheduler, executor=InlineExecutor(problem))


def runs_past_its_end(context):
    for step in range(context.start + 1, context.planned + 1):
        context.report(step, loss=context.params["x"])


def begins_anew(context):
    for step in range(1, context.until + 1):
        context.report(step, loss=context.params["x"])
    context.save(context.until, lambda path: path.write_text("done"))


def goes_backwards(context):
    for step in (context.until, context.until - 1):
        context.report(step, loss=1.0)


def reports_something_else(context):
    context.report(context.until, accuracy=1.0)


def reports_nothing(context):
    pass


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (runs_past_its_end, "the last granted step, 1, was reported, yet there came step 2"),
        (goes_backwards, "the last granted step, 1, was reported, yet there came step 0"),
        (reports_something_else, "without reporting 'loss' at step 1; its last report was accuracy at step 1"),
        (reports_nothing, "without reporting 'loss' at step 1; it reported nothing"),
    ],
)
@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "sh"])
def test_a_job_that_does_not_keep_to_its_steps_fails_and_says_so(job, message, scheduler):
    report = _tune(job, scheduler=scheduler)
    assert {trial.status for trial in report.study.trials.values()} == {"failed"}
    assert message in report.stop_reason
    assert report.best is None


def test_a_job_that_begins_anew_when_it_is_resumed_fails_where_it_is_resumed():
    report = _tune(begins_anew)
    failed = [trial for trial in report.study.trials.values() if trial.status == "failed"]
    assert failed
    messages = {t.ends[-1].message.partition(" (")[0] for t in failed}
    assert messages <= {f"ValueError: expected a report for a step from {n + 1} to {3 * n}, got step 1" for n in (1, 3)}
    assert all(len(trial.ends) == 2 for trial in failed)


def every_second_step(context):
    for step in range(context.start + 1, context.until + 1):
        if step % 2 == 0 or step == context.planned:
            context.report(step, loss=context.params["x"] / step)
    context.save(context.until, lambda path: path.write_text("done"))


def test_reports_between_rungs_count_at_the_rung_after_them():
    report = _tune(every_second_step, low=2)
    study = report.study
    # On a busy machine one may run into its cap: then it is worth nothing at any rung.
    at_three = [t for t in study.trials.values() if t.starts[0].until == 3 and t.status != "failed"]
    assert len(at_three) > len(study.trials) // 2
    assert all(t.reports.keys() >= {2} and 3 not in t.reports for t in at_three)
    assert [study.value_by(t, 3) for t in at_three] == [t.reports[2]["loss"] for t in at_three]
    done = [t for t in study.trials.values() if t.status == "completed"]
    assert done
    assert all([(s.start, s.until) for s in t.starts] == [(0, 3), (3, 9)] for t in done)


def test_a_job_that_never_reports_by_its_first_rung_fails_there():
    report = _tune(every_second_step, low=1)  # the first rung is step 1
    assert "without reporting 'loss' at step 1; it reported nothing" in report.stop_reason


def stops_short(context):
    for step in range(context.start + 1, min(context.until, 5) + 1):
        context.report(step, loss=context.params["x"])
    context.save(min(context.until, 5), lambda path: path.write_text("done"))


def test_a_trial_that_ends_before_its_full_steps_has_failed():
    report = _tune(stops_short)
    far = [t for t in report.study.trials.values() if t.starts[-1].until == 9]
    assert far
    assert {t.status for t in far} == {"failed"}
    assert "without reporting 'loss' at step 9; its last report was loss at step 5" in far[0].ends[-1].message


def test_the_best_is_told_with_its_step_while_no_trial_has_run_to_the_end():
    report = _tune(stops_short, budget="5 trials")
    assert report.compared_at in (1, 3)
    assert report.best is not None
    assert report.best_value == report.best.params["x"]
    assert f"at step {report.compared_at} of 9 (no trial has run to the end)" in report.summary()
    assert report.to_json()["best"]["step"] == report.compared_at


def test_full_length_comes_first_however_good_shorter_ones_look():
    def longer_is_worse(context):
        for step in range(context.start + 1, context.until + 1):
            context.report(step, loss=context.params["x"] + step)
        context.save(context.until, lambda path: path.write_text("done"))

    report = _tune(longer_is_worse)
    assert report.compared_at == 9
    assert report.best.status == "completed"
    assert "no trial has run" not in report.summary()
