"""No suggestion takes for ever: what takes its place, and what was prepared for that."""

import math
import time

import numpy as np
import pytest
from studies import start, tell

from frugalbo.errors import FrugalWarning
from frugalbo.problem import Minimize, Problem
from frugalbo.propose import bo, make_proposer, preload
from frugalbo.propose.bo import BayesianProposer
from frugalbo.propose.deadline import Deadline, OutOfTime
from frugalbo.propose.maximise import make_pool, maximise
from frugalbo.propose.points import Points
from frugalbo.propose.sobol import SobolProposer
from frugalbo.space import Choice, Float, Space
from frugalbo.study import Study

SQUARE = Space({"x": Float(0, 1), "y": Float(0, 1)})
NO_TIME = 1e-9


def _study(n=11, space=SQUARE):
    study, rng = Study(Problem("p", space, "m:f", Minimize("loss"))), np.random.default_rng(0)
    for _ in range(n):
        params = space.sample(rng)
        tell(study, params, float(((space.encode(params) - 0.3) ** 2).sum()))
    return study


def never():
    return False


def test_a_deadline_passes_with_time_or_when_it_is_over():
    Deadline(60).check()
    with pytest.raises(OutOfTime):
        Deadline(NO_TIME).check()
    answers = [False, True]
    deadline = Deadline(60, lambda: answers.pop(0))
    deadline.check()
    with pytest.raises(OutOfTime):
        deadline.check()


@pytest.mark.parametrize("method", ["bo", "kg"])
def test_without_time_a_sobol_point_takes_the_place_and_says_so(method):
    study = _study()
    with pytest.warns(FrugalWarning, match="no suggestion within 1e-09 s; a Sobol point took its place"):
        found = BayesianProposer(seed=0, method=method, time_limit_s=NO_TIME).propose(study, 2)
    assert [s.params for s in found] == [s.params for s in SobolProposer(seed=0).propose(study, 2)]
    assert [(s.why["method"], s.why["instead_of"]) for s in found] == [("sobol", method)] * 2
    assert all("within 1e-09 s" in s.why["reason"] for s in found)


def test_what_was_prepared_takes_the_place_of_a_late_suggestion_once():
    study = _study()
    proposer = BayesianProposer(seed=0, method="bo")
    running = start(study, {"x": 0.9, "y": 0.9})
    (expected,) = proposer.propose(study, 1)
    proposer.prepare(study, never)
    study.trials.pop(running)
    tell(study, {"x": 0.9, "y": 0.9}, 0.7)
    proposer.time_limit_s = NO_TIME
    with pytest.warns(FrugalWarning, match="one that was prepared before took its place"):
        first, second = proposer.propose(study, 2)
    assert first.params == expected.params
    assert (first.why["method"], first.why["instead_of"]) == ("bo", "bo")
    assert "prepared before, from 11 results" in first.why["reason"]
    assert second.why["method"] == "sobol"
    tell(study, first.params, 0.5)
    with pytest.warns(FrugalWarning, match="a Sobol point took its place"):
        (third,) = proposer.propose(study, 1)
    assert third.why["method"] == "sobol"


def test_what_was_prepared_for_another_space_is_not_used():
    proposer = BayesianProposer(seed=0)
    proposer.prepare(_study(), never)
    proposer.time_limit_s = NO_TIME
    with pytest.warns(FrugalWarning, match="a Sobol point"):
        (s,) = proposer.propose(_study(space=Space({"a": Float(0, 1)})), 1)
    assert set(s.params) == {"a"}


def test_preparing_changes_no_suggestion_that_is_in_time():
    study = _study()
    plain = BayesianProposer(seed=3)
    ready = BayesianProposer(seed=3)
    ready.prepare(study, never)
    tell(study, {"x": 0.2, "y": 0.6}, -0.1)
    ready.prepare(study, never)
    one, two = plain.propose(study, 2), ready.propose(study, 2)
    assert [{**s.why, "seconds": 0, "params": s.params} for s in one] == [
        {**s.why, "seconds": 0, "params": s.params} for s in two
    ]


def test_preparing_leaves_off_when_it_is_told_to():
    calls = []

    def after_three():
        calls.append(1)
        return len(calls) > 3

    proposer = BayesianProposer(seed=0)
    proposer.prepare(_study(), after_three)
    assert len(calls) == 4
    proposer.time_limit_s = NO_TIME
    with pytest.warns(FrugalWarning, match="a Sobol point"):
        proposer.propose(_study(), 1)


def test_preparing_needs_two_results_and_the_imports():
    BayesianProposer(seed=0).prepare(_study(1), never)
    preload()
    late = make_proposer("auto", _study().problem, seed=0)
    asked = []
    late.prepare(_study(), lambda: bool(asked.append(1)))
    assert asked


def test_suggestions_that_were_in_time_stay(monkeypatch):
    study = _study()
    (alone,) = BayesianProposer(seed=0).propose(study, 1)
    choose, calls = bo.choose, []

    def slow_later(*args):
        calls.append(1)
        if len(calls) > 1:
            raise OutOfTime
        return choose(*args)

    monkeypatch.setattr(bo, "choose", slow_later)
    with pytest.warns(FrugalWarning, match="a Sobol point"):
        first, second, third = BayesianProposer(seed=0).propose(study, 3)
    assert first.params == alone.params
    assert [s.why["method"] for s in (second, third)] == ["sobol"] * 2
    assert len({tuple(s.params.values()) for s in (first, second, third)}) == 3


def test_a_search_that_is_cut_short_gives_the_best_so_far_and_says_so():
    points = Points(SQUARE)
    pool = make_pool(points, np.array([[0.5, 0.5]]), np.random.default_rng(0))
    nobody, far = np.empty((0, 2)), np.empty(0)
    calls = []

    def after(limit):
        def check():
            calls.append(1)
            if len(calls) > limit:
                raise OutOfTime

        calls.clear()
        return check

    def peak(X):
        return -((X[..., 0, :] - 0.321) ** 2).sum(-1)

    full = maximise(peak, points, pool, nobody, far)
    cut = maximise(peak, points, pool, nobody, far, check=after(2))
    assert full.problem == ""
    assert "ran out of time" in cut.problem
    assert cut.value == pytest.approx(-((pool - 0.321) ** 2).sum(1).min())
    assert full.value > cut.value
    with pytest.raises(OutOfTime):
        maximise(peak, points, pool, nobody, far, check=after(0))


@pytest.mark.parametrize("limit", [0, -1, math.nan])
def test_a_limit_that_is_no_time_is_refused(limit):
    with pytest.raises(ValueError, match="time limit above 0 s"):
        BayesianProposer(seed=0, time_limit_s=limit)


def test_a_slow_fit_ends_at_its_limit(monkeypatch):
    from frugalbo.models import map_fit

    evaluate, now = map_fit._negative_log_posterior, [0.0]

    def slowly(theta, task):
        now[0] += 0.05
        return evaluate(theta, task)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(map_fit, "_negative_log_posterior", slowly)
    space = Space({"x": Float(0, 1), "k": Choice(["a", "b", "c"])})
    with pytest.warns(FrugalWarning, match="within 0.2 s"):
        BayesianProposer(seed=0, time_limit_s=0.2).propose(_study(space=space), 1)
    assert now == [pytest.approx(0.2)]  # some 50 evaluations would take 2.5 s
