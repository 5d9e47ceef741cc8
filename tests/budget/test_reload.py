"""What it costs to go on from a checkpoint is learned apart from what steps cost."""

import math
from pathlib import Path

import numpy as np
import pytest

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.cost import LearnedCost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose.random import RandomProposer
from frugalbo.run import RunLoop
from frugalbo.scheduler import make_scheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Float, Space
from frugalbo.study import Study

PROBLEM = Problem("p", Space({"x": Float(0, 1)}), "nothing:here", Minimize("loss"), Fidelity("steps", 1, 27))


def a_study(reload_s, went_on, *, begun=9, per_step=1.0):
    """Trials of one step that took a second, give or take, and of which some went on for two more."""
    study = Study(PROBLEM, Ledger(Budget(device_seconds=1e6)))
    rng = np.random.default_rng(0)
    for n in range(begun):
        jitter = math.exp(0.05 * rng.standard_normal())
        study.apply(Started(n, 0, {"x": n / begun}, 0, 1, 27, Cost(), "s", 0.0))
        study.apply(Reported(n, 0, 1, {"loss": 0.5}, 1.0))
        study.apply(Ended(n, 0, Outcome.PAUSED, Cost(device_seconds=per_step * jitter), 1.0, checkpoint=1))
    for n in range(went_on):
        study.apply(Started(n, 1, {"x": n / begun}, 1, 3, 27, Cost(), "s", 2.0))
        study.apply(Reported(n, 1, 3, {"loss": 0.4}, 3.0))
        study.apply(Ended(n, 1, Outcome.PAUSED, Cost(device_seconds=reload_s + 2 * per_step), 3.0, checkpoint=3))
    return study


def test_the_first_to_go_on_are_not_capped_by_what_beginning_costs():
    predict = LearnedCost(0.98).predictor(a_study(5.0, 0))
    begin, go_on = predict({"x": 0.5}, 0, 2), predict({"x": 0.5}, 1, 3)
    assert begin.upper_s < 5
    assert (go_on.n, go_on.upper_s, go_on.median_s) == (0, math.inf, begin.median_s)


def test_the_reload_cost_is_learned_and_the_cost_of_steps_stays():
    predict = LearnedCost(0.98).predictor(a_study(5.0, 6))
    assert predict({"x": 0.5}, 1, 3).median_s == pytest.approx(7.0, rel=0.1)
    assert 7 < predict({"x": 0.5}, 1, 3).upper_s < 12
    assert predict({"x": 0.5}, 0, 2).median_s == pytest.approx(2.0, rel=0.15)
    assert 7 < predict({"x": 0.5}, 3, 9).median_s < 13


def test_what_costs_nothing_to_reload_is_predicted_as_before():
    predict = LearnedCost(0.98).predictor(a_study(0.0, 6))
    assert predict({"x": 0.5}, 1, 3).median_s == pytest.approx(predict({"x": 0.5}, 0, 2).median_s, rel=0.05)


def test_one_that_ran_into_its_cap_asks_for_twice_as_much():
    study = a_study(5.0, 5)
    study.apply(Started(6, 1, {"x": 6 / 9}, 1, 3, 27, Cost(), "s", 2.0))
    study.apply(Ended(6, 1, Outcome.FAILED, Cost(device_seconds=20.0), 22.0, failure=Failure.TIMEOUT))
    assert LearnedCost(0.98).predict(study, {"x": 0.5}, 1, 3).upper_s > 38


def test_promoted_trials_are_not_cut_down_by_a_reload_cost_that_nobody_knew():
    def simulate(params, planned, seed):
        steps = range(1, planned + 1)
        return Curve(steps, [float(i) for i in steps], [{"loss": params["x"] + 1 / i} for i in steps])

    for reload_s in (0.0, 2.0, 10.0):
        study, costs = OpenStudy(PROBLEM, Budget(device_seconds=400)), LearnedCost(0.98)
        executor = SimulatedExecutor(PROBLEM, [Slot("s", "cpu", 0)], simulate, reload_s=reload_s)
        scheduler = make_scheduler("asha", RandomProposer(seed=0), costs)
        RunLoop(study, scheduler, executor, costs, Path("unused")).run()
        ends = [end for trial in study.trials.values() for end in trial.ends]
        early = [end for end in ends if end.failure == Failure.TIMEOUT and end.at < 300]
        assert len(study.trials) > 20
        assert not early, reload_s
