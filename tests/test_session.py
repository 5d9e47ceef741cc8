"""ask / tell: a study that its user drives."""

import math
import time

import pytest

import frugalbo as fb
from frugalbo.events import Failure
from frugalbo.propose.sobol import SobolProposer
from frugalbo.session import OpenStudy
from frugalbo.study import Status


@pytest.fixture
def problem():
    return fb.Problem(
        name="bowl",
        space=fb.Space({"x": fb.Float(0, 1), "n": fb.Int(1, 5)}),
        job="nowhere:main",
        objective=fb.Minimize("loss"),
        defaults={"x": 0.9, "n": 2},
    )


def test_what_is_told_is_charged_and_the_best_is_found(problem):
    with fb.open_study(problem, budget="100s", method="sobol") as study:
        for expected_spent in (7.0, 14.0, 21.0):
            trial = study.ask()
            study.tell(trial, trial.params["x"], cost=7.0)
            assert study.balance()["device_seconds"].spent == expected_spent
        assert study.trials[0].params == problem.defaults
        assert study.best().params["x"] == min(t.params["x"] for t in study.trials.values())


def test_several_trials_may_be_pending_and_are_told_in_any_order(problem):
    with fb.open_study(problem, budget="5 trials", method="sobol") as study:
        trials = [study.ask() for _ in range(5)]
        assert len({(t.params["x"], t.params["n"]) for t in trials}) == 5
        with pytest.raises(fb.BudgetError, match="evaluations"):
            study.ask()
        for trial in reversed(trials):
            study.tell(trial, {"loss": trial.params["x"], "extra": 3})
        assert study.trials[3].reports[1] == {"loss": trials[3].params["x"], "extra": 3.0}


def test_a_hold_that_does_not_fit_is_refused_and_nothing_has_changed(problem):
    with fb.open_study(problem, budget="10s", method="sobol") as study:
        study.ask(hold="7s")
        with pytest.raises(fb.BudgetError, match="device seconds"):
            study.ask(hold=4.0)
        assert len(study.trials) == 1
        assert study.balance()["device_seconds"].held == 7


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_a_failure(problem, value):
    with fb.open_study(problem, budget="2 trials", method="sobol") as study:
        study.tell(study.ask(), value)
        assert study.trials[0].status == Status.FAILED
        assert study.trials[0].failure == Failure.DIVERGED
        assert study.best() is None


def test_a_failure_is_told_with_its_reason(problem):
    with fb.open_study(problem, budget="2 trials", method="sobol") as study:
        study.tell(study.ask().number, failed="the node lost power")
        assert study.trials[0].ends[0].message == "the node lost power"


@pytest.mark.parametrize(
    ("tell", "message"),
    [
        (lambda s: s.tell(7, 1.0), "trial 7 was never asked for"),
        (lambda s: s.tell(0), "expected a value of 'loss'"),
        (lambda s: s.tell(0, {"accuracy": 1.0}), "expected a value of 'loss'"),
        (lambda s: s.tell(0, "good"), "expected a number for 'loss'"),
        (lambda s: s.tell(0, 1.0, cost="3 parsecs"), "parsecs"),
        (lambda s: s.tell(0, 1.0, cost=-1.0), "at least 0"),
    ],
)
def test_a_wrong_tell_is_refused_and_the_trial_stays_pending(problem, tell, message):
    with fb.open_study(problem, budget="2 trials", method="sobol") as study:
        study.ask()
        with pytest.raises(fb.FrugalError, match=message):
            tell(study)
        assert study.trials[0].status == Status.RUNNING
        study.tell(0, 1.0)
        with pytest.raises(fb.StudyError, match="already completed"):
            study.tell(0, 2.0)


def test_a_stored_study_goes_on_where_it_was_left(problem, tmp_path):
    storage = tmp_path / "runs.db"
    with fb.open_study(problem, budget="6 trials", method="sobol", storage=storage, seed=3) as study:
        study.tell(study.ask(), 0.5, cost="1s")
        pending = study.ask()
    with fb.open_study(storage=storage) as again:
        assert again.trials[0].reports == {1: {"loss": 0.5}}
        again.tell(pending.number, 0.25)
        following = again.ask().params
    with fb.open_study(problem, budget="6 trials", method="sobol", seed=3) as uninterrupted:
        asked = [uninterrupted.ask() for _ in range(3)]
    assert following == asked[2].params


def test_only_one_may_write(problem, tmp_path):
    storage = tmp_path / "runs.db"
    with (
        fb.open_study(problem, budget="6 trials", storage=storage),
        pytest.raises(fb.LeaseError, match="process"),
    ):
        fb.open_study(storage=storage)


def test_an_unknown_method_is_refused_before_anything_is_written(problem, tmp_path):
    with pytest.raises(fb.FrugalError, match="unknown method 'magic'"):
        fb.open_study(problem, budget="6 trials", method="magic", storage=tmp_path / "runs.db")
    assert not (tmp_path / "runs.db").exists()


def test_a_budget_can_grow_but_not_shrink_below_what_is_spent(problem, tmp_path):
    storage = tmp_path / "runs.db"
    with fb.open_study(problem, budget="2 trials", method="sobol", storage=storage) as study:
        for _ in range(2):
            study.tell(study.ask(), 1.0)
    with fb.open_study(storage=storage, budget="3 trials") as study:
        study.tell(study.ask(), 1.0)
    with pytest.raises(fb.BudgetError, match="does not cover"):
        fb.open_study(storage=storage, budget="1 trial")
    with fb.open_study(storage=storage) as study, pytest.raises(fb.BudgetError):
        study.ask()


def test_what_could_not_be_written_does_not_count(problem):
    class Broken:
        def append(self, *events):
            raise fb.StorageError("the disk is full")

    study = OpenStudy(problem, fb.Budget(device_seconds=9.0), lease=Broken(), proposer=SobolProposer(seed=0))
    with pytest.raises(fb.StorageError, match="disk is full"):
        study.ask(hold=5.0)
    assert study.trials == {}
    assert study.balance()["device_seconds"].held == 0


def test_wall_time_is_that_which_passes_whatever_the_clock_on_the_wall_says(problem, monkeypatch):
    with fb.open_study(problem, budget="60s wall", method="sobol") as study:
        now = time.time
        for jump_s in (3600.0, -3600.0):
            monkeypatch.setattr(time, "time", lambda jump_s=jump_s: now() + jump_s)
            assert 0 <= study.balance()["wall_seconds"].spent < 30
            assert study.ask().starts[0].at == pytest.approx(now(), abs=30)
