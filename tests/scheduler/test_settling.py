"""Reports right after a resume: how many are set aside, and where."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ladders import COST, Numbered, make_problem, simulate_with

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.errors import ExecutorError, ProblemError
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.executors.base import Segment
from frugalbo.executors.simulated import Curve, Disturbance, Hazards, SimulatedExecutor
from frugalbo.problem import Fidelity, Maximize, Problem
from frugalbo.run import RunLoop
from frugalbo.scheduler import make_scheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.study import Study


def problem_of(settle=None, high=27):
    return replace(make_problem(high), fidelity=Fidelity("steps", 1, high, settle=settle))


def go(study, trial, start, losses, checkpoint=None, until=None):
    """A segment that reports these losses at the steps after `start`, and is paused."""
    known = study.trials.get(trial)
    segment = 0 if known is None else len(known.starts)
    until = start + len(losses) if until is None else until
    study.apply(Started(trial, segment, {"x": trial / 997}, start, until, 27, Cost(), "s", 0.0))
    for i, loss in enumerate(losses, 1):
        study.apply(Reported(trial, segment, start + i, {"loss": loss}, float(start + i)))
    outcome = Outcome.PAUSED if until == start + len(losses) else Outcome.INTERRUPTED
    study.apply(Ended(trial, segment, outcome, Cost(), 99.0, start + len(losses) if checkpoint is None else checkpoint))


def resumed(before, after, n, settle=None):
    study = Study(problem_of(settle))
    for trial in range(n):
        go(study, trial, 0, before)
        go(study, trial, len(before), after)
    return study


def test_a_jump_that_decays_is_found_out_at_the_tenth_resume():
    # (5/3)^9 = 99.2 and (5/3)^10 = 165.4; the second report is below the bar, 3.0, and bets there are lost.
    before, after = [3.0, 2.0], [5.0, 2.5, 1.0]
    assert resumed(before, after, 9).settling.reports == 0
    assert resumed(before, after, 10).settling.reports == 1
    assert resumed(before, [5.0, 4.0, 1.0], 10).settling.reports == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([3.0, 2.0], [1.9, 1.8, 1.7]),  # falls on
        ([3.0, 2.0], [2.9, 2.5, 1.0]),  # rises, but not above both of the last two
        ([2.0, 3.0], [4.0, 5.0, 6.0]),  # rises for good
        ([2.0], [4.0, 3.0, 1.0]),  # one report before: it may have been lucky
        ([3.0, 2.0], [5.0]),  # nothing to decay to
    ],
)
def test_what_is_no_jump_that_decays_is_not_taken_for_one(before, after):
    assert resumed(before, after, 97).settling.reports == 0


def test_a_repeated_step_is_held_against_what_it_had_shown():
    study = Study(problem_of())
    for trial in range(10):
        go(study, trial, 0, [5.0, 4.0, 3.0, 2.0], checkpoint=2, until=9)
        go(study, trial, 2, [3.5, 2.5, 1.5])  # below both of the last two of step 2, above what 3 and 4 had shown
    assert study.settling.reports == 2
    assert study.trials[0].reports[3] == {"loss": 3.0}  # repeats are dropped, as ever
    assert study.trials[0].since_resume == {5: 3}  # and have passed


@pytest.mark.parametrize("falls", [0.0, 0.02, 0.3])
def test_where_a_resume_changes_nothing_hardly_ever_anything_is_set_aside(falls):
    # The best of four goes on, so its last report was lucky. False alarms: 1 of 100 at most, at any time; of 30
    # studies two or more with a chance of 1 - .99^30 - 30 (.01) .99^29 = 0.036 for each of three slopes.
    alarms = 0
    for seed in range(30):
        rng, study = np.random.default_rng([seed, round(100 * falls)]), Study(problem_of())
        for four in range(50):
            curves = rng.normal(size=(4, 9)) - falls * np.arange(9)
            best = int(curves[:, 2].argmin())
            go(study, four, 0, curves[best, :3].tolist())
            go(study, four, 3, curves[best, 3:].tolist())
        alarms += study.settling.reports > 0
    assert alarms <= 1


def test_what_has_not_settled_does_not_count_short_of_the_end():
    study = Study(problem_of(settle=2))
    go(study, 0, 0, [5.0, 4.0, 3.0])
    go(study, 0, 3, [9.0, 8.0, 1.0])
    trial = study.trials[0]
    assert [study.value_by(trial, step) for step in (3, 4, 5, 6)] == [3.0, 3.0, 3.0, 1.0]
    assert study.best_value() == 1.0
    go(study, 1, 0, [5.0] * 26)
    go(study, 1, 26, [7.0])
    assert study.value_by(study.trials[1], 27) == study.value(study.trials[1]) == 7.0


def test_a_rung_is_not_decided_by_a_report_that_has_not_settled():
    # Trial 0 is interrupted at step 8 and disturbed at 9, the rung; trial 1 is worse, and was not.
    study = Study(problem_of(settle=1))
    for trial, loss in enumerate((1.0, 2.0, 3.0, 4.0)):
        for start, until in ((0, 1), (1, 3)):
            go(study, trial, start, [loss] * (until - start))
        if trial:
            go(study, trial, 3, [loss] * 6)
    go(study, 0, 3, [1.0] * 5, until=9)
    go(study, 0, 8, [50.0])
    (decision, *_) = make_scheduler("freeze-thaw", Numbered(), COST).decide(study, OpenStudy(
        study.problem, Budget(device_seconds=1000.0)
    ).balance(), [Slot("s", "cpu", 0)])  # fmt: skip
    assert (decision.trial, decision.until) == (0, 27)


def play(name, settle, size, seed=0, budget=150.0):
    problem, events = problem_of(settle), []
    study = OpenStudy(problem, Budget(device_seconds=budget))
    record = study.record
    study.record = lambda *new: (record(*new), events.extend(new))
    slots = [Slot(f"s{i}", "cpu", i, preemptible=True) for i in range(3)]
    executor = SimulatedExecutor(
        problem, slots, simulate_with(seed), hazards=Hazards(preemptions_per_hour=400, seed=seed),
        disturbance=Disturbance(size, 3, seed) if size else None,
    )  # fmt: skip
    RunLoop(study, make_scheduler(name, Numbered(), COST), executor, COST, Path("unused")).run()
    return study, events


@pytest.mark.parametrize("name", ["asha", "freeze-thaw", "asha-stop", "median", "hyperband"])
def test_where_nothing_is_disturbed_learning_changes_no_decision(name):
    learned, none = play(name, None, 0.0), play(name, 0, 0.0)
    assert learned[1] == none[1]
    assert learned[0].settling.reports == 0


@pytest.fixture(scope="module")
def disturbed():
    return play("asha", None, 3.0, budget=700.0)


@pytest.mark.parametrize("name", ["asha", "freeze-thaw", "asha-stop", "median"])
def test_who_has_followed_a_study_decides_as_who_sees_it_first(name, disturbed):
    ended, events = disturbed
    study, follows, set_aside = Study(ended.problem), make_scheduler(name, Numbered(), COST), set()
    balance, slots = OpenStudy(study.problem, Budget(device_seconds=1000.0)).balance(), [Slot("s", "cpu", 0)]
    for i, event in enumerate(events):
        study.apply(event)
        set_aside.add(study.settling.reports)
        if i % 97 == 0:
            fresh = make_scheduler(name, Numbered(), COST)
            assert follows.decide(study, balance, slots) == fresh.decide(study, balance, slots)
            if hasattr(fresh, "watch"):
                assert follows.watch(study) == fresh.watch(study)
    assert len(set_aside) > 1  # it has changed on the way


def test_a_disturbance_raises_the_loss_of_the_first_steps_and_fades():
    problem = Problem("p", {"x": make_problem().space.parameters["x"]}, "m:f", Maximize("score"), Fidelity("s", 1, 9))
    executor = SimulatedExecutor(
        problem, [Slot("s", "cpu", 0)],
        lambda params, planned, seed: Curve(range(1, 10), [float(i) for i in range(1, 10)], [{"score": 1.0}] * 9),
        disturbance=Disturbance(0.5, 4, seed=3),
    )  # fmt: skip

    def reports(number, start):
        segment = Segment(0, number, {"x": 0.5}, 0, start, 9, 9, executor.slots[0], math.inf, None, None)
        executor.submit(segment)
        found = []
        while not any(isinstance(event, Ended) for event in found):
            found += executor.wait()
        return [event.metrics["score"] for event in found[:-1]]

    size = 0.5 * np.random.default_rng([3, 0, 1, 1]).exponential()
    with executor:
        assert reports(0, 0) == [1.0] * 9
        # 5 steps after the resume: size x 4/4, 3/4, 2/4, 1/4, 0
        assert reports(1, 4) == pytest.approx([1 - size, 1 - size * 0.75, 1 - size * 0.5, 1 - size * 0.25, 1.0])


@pytest.mark.parametrize(("size", "steps"), [(-0.1, 1), (math.nan, 1), (1.0, 0)])
def test_a_disturbance_that_makes_no_sense_is_refused(size, steps):
    with pytest.raises(ExecutorError, match="expected a disturbance"):
        Disturbance(size, steps)


@pytest.mark.parametrize("settle", [-1, 33, 1.5, True, "2"])
def test_a_number_of_reports_that_makes_no_sense_is_refused(settle):
    with pytest.raises(ProblemError, match="a fidelity's settle is a number of reports from 0 to 32, or None"):
        Fidelity("steps", 1, 9, settle=settle)


@pytest.mark.parametrize("settle", [None, 0, 5])
def test_what_a_fidelity_says_of_it_is_stored(settle):
    problem = problem_of(settle)
    assert Problem.from_json(problem.to_json()).fidelity == problem.fidelity
    assert ("settle" in problem.to_json()["fidelity"]) == (settle is not None)  # as in runs stored before it was there
