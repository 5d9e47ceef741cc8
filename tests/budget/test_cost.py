import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import KnownCost, LearnedCost, fit_cost
from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.budget.cost_process import _families, _posterior, _settings
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.space import Choice, Float, Int, Space
from frugalbo.study import Study

SPACE = Space({"width": Int(16, 1024, log=True), "lr": Float(1e-4, 1, log=True), "kind": Choice(["a", "b", "c"])})
PROBLEM = Problem("p", SPACE, "m:f", Minimize("loss"), fidelity=Fidelity("steps", 1, 1000))


def _run(study, params, seconds, *, until=100, outcome=Outcome.COMPLETED, failure=None, reached=None):
    number = len(study.trials)
    study.apply(Started(number, 0, params, 0, until, until, Cost(), "s", 0.0))
    if reached is not None:
        study.apply(Reported(number, 0, reached, {"loss": 1.0}, 0.0))
    study.apply(Ended(number, 0, outcome, Cost(device_seconds=seconds), 0.0, failure=failure))


def _seconds(params, steps, rng, noise=0.1):
    slow = {"a": 1.0, "b": 2.0, "c": 0.5}[params["kind"]]
    return 0.01 * steps * slow * params["width"] / 100 * math.exp(noise * rng.standard_normal())


def _study(n, seed=0, noise=0.1, until=100):
    study, rng = Study(PROBLEM), np.random.default_rng(seed)
    for _ in range(n):
        params = SPACE.sample(rng)
        _run(study, params, _seconds(params, until, rng, noise), until=until)
    return study, rng


def test_nothing_is_known_before_a_segment_has_ended():
    study = Study(PROBLEM)
    params = SPACE.sample(np.random.default_rng(0))
    assert LearnedCost().predict(study, params, 0, 100) is None
    study.apply(Started(0, 0, params, 0, 100, 100, Cost(), "s", 0.0))
    assert LearnedCost().predict(study, params, 0, 100) is None


def test_after_one_segment_the_same_again_is_expected_to_cost_the_same():
    study = Study(PROBLEM)
    params = SPACE.sample(np.random.default_rng(0))
    _run(study, params, 7.0)
    found = LearnedCost().predict(study, params, 0, 100)
    assert found.median_s == pytest.approx(7.0, rel=0.1)
    assert 7.0 * 1.2 < found.upper_s < 7.0 * 10
    assert found.n == 1


def test_the_bound_is_wider_far_from_what_was_seen():
    study = Study(PROBLEM)
    near, far = ({"width": w, "lr": lr, "kind": "a"} for w, lr in ((32, 1e-3), (1024, 0.9)))
    _run(study, near, 7.0)
    assert LearnedCost().predict(study, far, 0, 100).upper_s > 2 * LearnedCost().predict(study, near, 0, 100).upper_s


def test_the_posterior_is_the_regression_done_by_hand():
    # One ordered dimension at u = 0 and 1: phi = (1, -+0.5, 4 (0.25 - 1/12) = 2/3). The normal
    # equations are solved here without the eigenbasis; prior sd 3, tau, tau / 8.
    space = Space({"x": Float(0, 1)})
    features = Features(space)
    phi = features(np.array([[0.0], [1.0]]))
    assert phi == pytest.approx(np.array([[1, -0.5, 2 / 3], [1, 0.5, 2 / 3]]))
    study = Study(Problem("p", space, "m:f", Minimize("loss")))
    _run(study, {"x": 0.0}, math.exp(1.0), until=1)
    _run(study, {"x": 1.0}, math.exp(3.0), until=1)
    fitted = fit_cost(study)
    for c in fitted.components:
        if c.startup_s == 0.0 and c.residual is None:
            taus = [t for t in (0.3, 1.0, 2.0, 4.0) if np.isclose(np.linalg.norm(c.basis[1]), t)]
            prior = np.diag(np.array([3.0, taus[0], taus[0] / 8]) ** 2)
            gain = prior @ phi.T @ np.linalg.inv(phi @ prior @ phi.T + c.sigma**2 * np.eye(2))
            assert c.mean == pytest.approx(np.array([2.0, 0, 0]) + gain @ np.array([-1.0, 1.0]), abs=1e-8)
            covariance = prior - gain @ phi @ prior
            _, sd = c.log_rest(np.array([[1.0, 0.2, 0.1]]), 1.0)
            v = np.array([1.0, 0.2, 0.1])
            assert sd[0] == pytest.approx(math.sqrt(c.sigma**2 + v @ covariance @ v), abs=1e-8)
    assert sum(c.weight for c in fitted.components) == pytest.approx(1)


def test_the_median_learns_what_costs():
    study, rng = _study(41)
    for _ in range(17):
        params = SPACE.sample(rng)
        found = LearnedCost().predict(study, params, 0, 100)
        assert found.median_s == pytest.approx(_seconds(params, 100, rng, 0.0), rel=0.35)


@pytest.mark.parametrize(("n", "at_most"), [(3, 60), (11, 3.5), (31, 2.0)])
def test_the_bound_is_hardly_ever_too_low_and_not_absurdly_high(n, at_most):
    # 200 predictions over 20 studies at 98 %; they are not independent within a study, so we ask
    # for 180: even if each study's ten stood and fell together, 3 or more of 20 falling at 2 % each
    # has a chance of 0.7 %.
    inside, ratios = 0, []
    for seed in range(20):
        study, rng = _study(n, seed)
        for _ in range(10):
            params = SPACE.sample(rng)
            actual = _seconds(params, 100, rng)
            upper = LearnedCost().predict(study, params, 0, 100).upper_s
            inside += upper >= actual
            ratios.append(upper / actual)
    assert inside >= 180
    assert np.median(ratios) < at_most


def test_start_up_is_told_from_steps_where_lengths_differ():
    # 20 s to start and 0.1 s a step: a model without start-up says 2 s for 10 steps less than it takes.
    study, rng = Study(PROBLEM), np.random.default_rng(3)
    for until in (10, 50, 200, 1000) * 4:
        params = SPACE.sample(rng)
        _run(study, params, (20 + 0.1 * until) * math.exp(0.05 * rng.standard_normal()), until=until)
    params = SPACE.sample(rng)
    assert LearnedCost().predict(study, params, 0, 20).median_s == pytest.approx(22, rel=0.2)
    assert LearnedCost().predict(study, params, 0, 800).median_s == pytest.approx(100, rel=0.2)


def test_another_length_is_less_certain_while_nothing_tells_start_up_from_steps():
    study = Study(PROBLEM)
    params = {"width": 100, "lr": 0.1, "kind": "a"}
    for seconds in (10.0, 10.1, 9.9, 10.05, 9.95):
        _run(study, params, seconds)
    same, shorter = (LearnedCost().predict(study, params, 0, steps) for steps in (100, 5))
    assert same.upper_s / same.median_s < 1.3
    # Of 5 steps: 10 s if all of it is starting up, 0.5 s if none is.
    assert shorter.upper_s > 7
    assert fit_cost(study).quantile(SPACE.encode(params)[None], 5, 0.1) < 3


def test_a_time_out_is_a_lower_bound():
    study, _ = _study(7)
    slow = {"width": 1024, "lr": 0.1, "kind": "b"}
    before = LearnedCost().predict(study, slow, 0, 100)
    cap = 3 * before.upper_s
    _run(study, slow, cap, outcome=Outcome.FAILED, failure=Failure.TIMEOUT)
    after = LearnedCost().predict(study, slow, 0, 100)
    assert after.upper_s > cap
    assert after.median_s > 1.5 * before.median_s


def test_a_short_life_does_not_make_a_configuration_cheap():
    study, rng = _study(11)
    params = SPACE.sample(rng)
    before = LearnedCost().predict(study, params, 0, 100)
    _run(study, params, 1e-3, outcome=Outcome.FAILED, failure=Failure.ERROR)
    after = LearnedCost().predict(study, params, 0, 100)
    assert after.median_s == pytest.approx(before.median_s, rel=0.25)


def test_a_segment_cut_half_way_counts_for_the_steps_it_did():
    study = Study(PROBLEM)
    params = {"width": 100, "lr": 0.1, "kind": "a"}
    _run(study, params, 50.0, until=100, outcome=Outcome.STOPPED, reached=50)
    assert LearnedCost().predict(study, params, 0, 100).median_s == pytest.approx(100, rel=0.1)


def test_bounds_alone_are_still_something():
    study = Study(PROBLEM)
    params = {"width": 100, "lr": 0.1, "kind": "a"}
    _run(study, params, 50.0, outcome=Outcome.FAILED, failure=Failure.TIMEOUT)
    assert LearnedCost().predict(study, params, 0, 100).upper_s > 50


def test_a_known_cost_is_taken_as_it_is():
    known = KnownCost(lambda params, start, until: 0.5 * (until - start) * params["width"], margin=1.2)
    found = known.predict(Study(PROBLEM), {"width": 16, "lr": 0.1, "kind": "a"}, 10, 30)
    assert (found.median_s, found.upper_s) == (160.0, 192.0)
    with pytest.raises(ValueError, match="seconds above 0"):
        KnownCost(lambda *_: math.nan).predict(Study(PROBLEM), {"width": 16}, 0, 1)


@pytest.mark.parametrize("confidence", [0.5, 1.0, math.nan])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence"):
        LearnedCost(confidence)


@settings(max_examples=40, deadline=None)
@given(
    seconds=st.lists(st.floats(0, 1e9), min_size=1, max_size=7),
    capped=st.integers(0, 3),
    until=st.sampled_from([1, 13, 1000]),
)
def test_predictions_are_finite_and_in_order_whatever_was_charged(seconds, capped, until):
    study, rng = Study(PROBLEM), np.random.default_rng(0)
    for i, s in enumerate(seconds):
        failed = i < capped
        outcome = Outcome.FAILED if failed else Outcome.COMPLETED
        _run(study, SPACE.sample(rng), s, until=until, outcome=outcome, failure=Failure.TIMEOUT if failed else None)
    found = LearnedCost().predict(study, SPACE.sample(rng), 0, 100)
    if found is not None:
        assert 0 < found.median_s <= found.upper_s < math.inf


def test_predicting_twice_gives_the_same():
    study, rng = _study(11)
    params = SPACE.sample(rng)
    assert LearnedCost().predict(study, params, 0, 77) == LearnedCost().predict(study, params, 0, 77)


def test_values_of_a_choice_that_were_never_seen_may_share_a_feature():
    # A priori all values are alike and independent, so the prediction at any one of them is the same.
    space = Space({"c": Choice(list(range(31))), "x": Float(0, 1)})
    problem = Problem("p", space, "m:f", Minimize("loss"))
    rng = np.random.default_rng(0)
    U = np.array([space.encode({"c": int(rng.integers(5)), "x": float(rng.random())}) for _ in range(13)])
    seconds = 1 + 3 * U[:, 0] + U[:, 1]
    found = []
    for seen in (U, None):
        features = Features(space, seen=seen)
        settings = _settings(features, problem)
        families = _families(settings, features, features(U))
        found.append(FittedCost(features, _posterior(families, None, np.ones(13), seconds), 13))
    assert found[0].features(U).shape[1] < found[1].features(U).shape[1]
    for c in (0, 3, 17, 30):
        u = space.encode({"c": c, "x": 0.3})[None]
        for q in (0.5, 0.99):
            assert found[0].quantile(u, 1.0, q) == pytest.approx(found[1].quantile(u, 1.0, q), rel=1e-6)


def test_seconds_on_a_fast_slot_count_as_those_of_a_slow_one():
    def predict(speed):
        study = Study(PROBLEM)
        for number in range(5):
            params = SPACE.decode(np.full(3, 0.1 + 0.2 * number))
            study.apply(Started(number, 0, params, 0, 1, 1, Cost(), "s", 0.0, speed=speed))
            study.apply(Ended(number, 0, Outcome.COMPLETED, Cost(device_seconds=12.0 / speed), 9.0))
        return LearnedCost().predict(study, params, 0, 1)

    assert predict(4.0) == predict(1.0)
