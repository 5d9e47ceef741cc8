import logging

import pytest
from ladders import COST, Numbered, make_problem, play

from frugalbo.api import tune
from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.scheduler.automatic import AutoScheduler
from frugalbo.scheduler.base import Resume, Start
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.slot import Slot
from frugalbo.space import Float, Space
from frugalbo.stored import Settings
from frugalbo.study import Study

SLOT = Slot("cpu:0", "cpu", 0)
INDIVISIBLE = Problem("p", Space({"x": Float(0.0, 1.0)}), "m:f", Minimize("loss"))
BOUNDED = Problem(
    "p", Space({"x": Float(0.0, 1.0)}), "m:f", Minimize("loss"), make_problem(27).fidelity, constraints=["gib <= 1"]
)


def first_until(problem, budget, cost_model=COST):
    study = Study(problem, Ledger(Budget.of(budget)))
    (decision,) = AutoScheduler(Numbered(), cost_model).decide(study, study.ledger.balance(), [SLOT])
    return decision.until


@pytest.mark.parametrize(
    ("problem", "budget", "steps"),
    [
        (make_problem(27), 100, 1),
        (make_problem(27), 80, 27),  # fewer than three whole trials
        (make_problem(27), "10 trials", 27),
        (make_problem(27, schedule="replanned"), 100, 27),
        (make_problem(2), 100, 2),  # one rung
        (INDIVISIBLE, 100, 1),
        (BOUNDED, 100, 27),
    ],
)
def test_trials_are_held_where_that_may_pay(problem, budget, steps):
    assert first_until(problem, budget) == steps


def test_what_is_not_known_of_costs_is_nothing_against_it():
    assert first_until(make_problem(27), 30, None) == 1


@pytest.mark.parametrize("saved", [0, 1])
def test_a_job_without_checkpoints_is_run_to_its_end(saved):
    study = Study(make_problem(27), Ledger(Budget(device_seconds=1000)))
    for i in range(2):
        study.apply(Started(i, 0, {"x": i / 997}, 0, 1, 27, Cost(), "cpu:0", 0.0))
        study.apply(Reported(i, 0, 1, {"loss": 1.0}, 1.0))
        study.apply(Ended(i, 0, Outcome.PAUSED, Cost(), 1.0, saved))
    (decision,) = AutoScheduler(Numbered(), COST).decide(study, study.ledger.balance(), [SLOT])
    assert (type(decision), decision.until) == ((Start, 1) if saved else (Resume, 27))


def test_it_says_which_and_why_once(caplog):
    with caplog.at_level(logging.INFO, logger="frugalbo.scheduler.automatic"):
        play(AutoScheduler(Numbered(), COST), make_problem(9), budget=50)
        play(AutoScheduler(Numbered(), COST), make_problem(9), budget=20)
    assert [record.getMessage() for record in caplog.records] == [
        "trials are scheduled by freeze-thaw, because trials can be held and resumed",
        "trials are scheduled by fixed, because the budget pays for 2.2 whole trials only",
    ]


def test_a_price_is_one_of_whole_trials():
    assert type(Settings(min_gain="0.1 per trial").make_scheduler(Numbered(), None)) is FixedScheduler
    assert type(Settings().make_scheduler(Numbered(), None)) is AutoScheduler


def test_a_job_that_reports_only_at_its_end_loses_one_trial_and_is_run_to_its_end():
    problem = Problem("mute", Space({"x": Float(0, 1)}), "nothing:here", Minimize("loss"), Fidelity("steps", 1, 9))
    executor = SimulatedExecutor(
        problem, [Slot("s", "cpu", 0)], lambda params, planned, seed: Curve([planned], [9.0], [{"loss": params["x"]}])
    )
    study = tune(problem, budget="200s", method="random", executor=executor).study
    assert [trial.failure for trial in study.trials.values()].count(Failure.NO_RESULT) == 1
    assert len([trial for trial in study.trials.values() if trial.status == "completed"]) > 15
