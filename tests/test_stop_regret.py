"""Runs that stop when the model leaves no room for anything much better."""

import math
import sqlite3

import numpy as np
import pytest
import torch

import frugalbo as fb
from frugalbo.acquisition.registry import Situation
from frugalbo.cli import main
from frugalbo.errors import BudgetError
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.models.objective import fit_objective
from frugalbo.propose import MethodError
from frugalbo.propose.points import Points
from frugalbo.propose.regret import RegretBound
from frugalbo.slot import Slot
from frugalbo.store import Store
from frugalbo.stored import Settings

PROBLEM = fb.Problem(
    "hill", fb.Space({"x": fb.Float(0, 1), "y": fb.Float(0, 1)}), "nowhere:train", fb.Maximize("score")
)
REACHED = "the bound on regret is reached"


def _executor(function, *, slots=1, seconds=10.0):
    def simulate(params, planned, seed):
        return Curve([1], [seconds], [{"score": function(params)}])

    return SimulatedExecutor(PROBLEM, [Slot(f"cpu:{i}", "cpu", i) for i in range(slots)], simulate)


def _hill(params):
    return 5 - 100 * ((params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2)


def _noise(params):
    return 3 + 1e-3 * math.sin(1e4 * params["x"] + 1e5 * params["y"])


def _tune(function, stop_regret, *, budget=400, seed=0, slots=1, **fields):
    executor = _executor(function, slots=slots)
    return fb.tune(PROBLEM, budget=budget, stop_regret=stop_regret, seed=seed, executor=executor, **fields)


def test_the_bound_is_the_gap_between_the_confidence_bounds():
    X = np.random.default_rng(2).random((7, 1))
    objective = fit_objective(X, np.sin(7 * X[:, 0]), ())
    grid = torch.linspace(0, 1, 2003, dtype=torch.float64).reshape(-1, 1)
    space = fb.Space({"x": fb.Float(0, 1)})
    situation = Situation(objective, objective, grid[:0], grid[::100], None, 0.0, None, None, 0)
    # By hand: beta = 0.4 log(d n^2 pi^2 / 0.6), the least upper bound of the seven and the least lower one of all.
    root = math.sqrt(0.4 * math.log(1 * 7**2 * math.pi**2 / 0.6))
    with torch.no_grad():
        at, seen = objective.model.marginals(grid), objective.model.marginals(objective.model.seen)
    lower = objective.outcome.inverse(float((at.mean - root * at.variance.sqrt()).min()))
    upper = objective.outcome.inverse(float((seen.mean + root * seen.variance.sqrt()).min()))
    assert upper - lower > 0.01
    nothing = np.empty((0, 1)), np.empty(0)

    def missing(threshold):
        return RegretBound(threshold, "loss", varies=True).missing(situation, Points(space), *nothing)

    assert missing(0.999 * (upper - lower)) == ""
    assert missing(1.001 * (upper - lower)).startswith(f"{REACHED}: at most {upper - lower:.2g} of loss")


@pytest.mark.slow
def test_a_run_stops_when_hardly_anything_can_be_gained_and_says_what_it_saved():
    report = _tune(_hill, 0.5)
    assert report.stop_reason.startswith(REACHED)
    trials = len(report.study.trials)
    assert 6 <= trials < 40
    assert report.stop_reason.endswith(f"; saved {400 - 10 * trials} of 400 device-seconds")
    assert report.study.value(report.best) > 4.5  # the top is 5
    assert REACHED in report.summary()


def test_where_nothing_varies_it_stops_as_soon_as_it_is_asked():
    report = _tune(lambda _: 3.0, 1e-9)
    assert report.stop_reason.startswith(f"{REACHED}: at most 0 of score")
    assert len(report.study.trials) == 6


def test_without_it_the_budget_is_spent():
    report = _tune(_noise, None, budget="9 trials")
    assert "regret" not in report.stop_reason
    assert len(report.study.trials) == 9


@pytest.mark.slow
def test_a_stored_run_repeats_why_it_stopped(tmp_path, monkeypatch, capsys):
    storage = tmp_path / "runs.db"
    first = _tune(_noise, 1.0, storage=storage)
    assert first.stop_reason.startswith(REACHED)
    with Store(storage) as store:
        assert store.stop_reason(first.run_id) == first.stop_reason
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--storage", str(storage)]) == 0
    assert first.stop_reason in capsys.readouterr().out
    # The resumed run stops there too, until it is told to go on; the last word counts.
    again = fb.resume(storage=storage, problem=PROBLEM, executor=_executor(_noise))
    assert (again.stop_reason, len(again.study.trials)) == (first.stop_reason, 6)
    more = fb.resume(
        storage=storage, problem=PROBLEM, stop_regret="none", budget="9 trials", executor=_executor(_noise)
    )
    assert len(more.study.trials) == 9
    with Store(storage) as store:
        assert store.stop_reason(first.run_id) == more.stop_reason != first.stop_reason


def test_a_journal_from_before_there_were_reasons_has_none(tmp_path):
    storage = tmp_path / "runs.db"
    report = fb.tune(PROBLEM, budget="2 trials", method="random", storage=storage, executor=_executor(_noise))
    with sqlite3.connect(storage) as connection:
        connection.execute("DROP TABLE frugalbo_endings")
        connection.execute("UPDATE frugalbo_schema SET version = 1")
    connection.close()
    with Store(storage) as store:
        assert store.stop_reason(report.run_id) is None
    more = fb.resume(storage=storage, problem=PROBLEM, budget="3 trials", executor=_executor(_noise))
    with Store(storage) as store:
        assert store.stop_reason(report.run_id) == more.stop_reason
        with store.lease(report.run_id):  # a controller that is killed leaves no word
            pass
        assert store.stop_reason(report.run_id) is None


def test_settings_survive_json_and_old_ones_have_none():
    record = Settings("ei", stop_regret=0.5).to_json()
    assert Settings(**record) == Settings("ei", stop_regret=0.5)
    del record["stop_regret"]
    assert Settings(**record).stop_regret is None


@pytest.mark.parametrize("wrong", [0, -1.0, math.inf, math.nan, "much", True])
def test_a_threshold_that_is_none_is_refused(wrong):
    with pytest.raises(BudgetError, match="stop_regret above 0"):
        _tune(_noise, wrong)


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_a_method_without_a_model_has_no_bound(method):
    with pytest.raises(MethodError, match="stop_regret needs a method with a model"):
        _tune(_noise, 0.1, method=method)


def test_a_loop_of_ones_own_is_told_when_the_bound_is_reached(tmp_path):
    where = {"storage": tmp_path / "runs.db"}
    with fb.open_study(PROBLEM, budget="20 trials", stop_regret=1e-9, **where) as study:
        for _ in range(6):
            study.tell(study.ask(), 3.0)  # nothing varies
        with pytest.raises(BudgetError, match=f"{REACHED}: at most 0 of score is left to be gained"):
            study.ask()
    with fb.open_study(stop_regret="none", **where) as study:
        assert study.ask().number == 6


def test_a_loop_of_ones_own_refuses_a_bound_that_makes_no_sense():
    with pytest.raises(BudgetError, match="expected stop_regret above 0, in units of the objective, got -1"):
        fb.open_study(PROBLEM, budget="5 trials", stop_regret=-1)
