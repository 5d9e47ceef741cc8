import itertools
import math

import numpy as np
import pytest

from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import _segments, fit_cost
from frugalbo.budget.cost_features import Features, Residual
from frugalbo.events import Ended, Failure, Outcome, Started
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.space import Choice, Float, Space
from frugalbo.study import Study

SPACE = Space({"a": Float(0, 1), "c": Choice(["x", "y", "z"]), "b": Float(0, 1)})
PROBLEM = Problem("p", SPACE, "m:f", Minimize("loss"), fidelity=Fidelity("steps", 1, 1000))
TAUS = (0.3, 1.0, 2.0, 4.0)


def _end(study, params, seconds):
    number = len(study.trials)
    study.apply(Started(number, 0, params, 0, 1, 1, Cost(), "s", 0.0))
    study.apply(Ended(number, 0, Outcome.COMPLETED, Cost(device_seconds=seconds), 0.0))


def _study(n, log_seconds, seed=0):
    study, rng = Study(PROBLEM), np.random.default_rng(seed)
    for _ in range(n):
        params = SPACE.sample(rng)
        _end(study, params, math.exp(log_seconds(params) + 0.05 * rng.standard_normal()))
    return study, rng


def _corner(params):  # an interaction with a kink, of which slopes, squares and indicators know nothing
    return 3.0 * max(0.0, params["a"] - 0.4) * (params["b"] > 0.5) * (params["c"] != "x")


def _linear(params):
    return 2.0 * params["a"] - params["b"] + (params["c"] == "y")


def _matern(U, V, lengthscale):
    """By hand, of a (0), c (1) and b (2): squared distances are shares of the three dimensions."""
    square = ((U[:, None, [0, 2]] - V[None][:, :, [0, 2]]) ** 2).sum(-1) + (abs(U[:, None, 1] - V[None, :, 1]) > 0.1)
    r = np.sqrt(5 * square / 3) / lengthscale
    return (1 + r + r**2 / 3) * np.exp(-r)


def test_each_setting_is_the_gaussian_process_done_by_hand():
    study, rng = _study(13, _corner)
    fitted, features = fit_cost(study), Features(SPACE)
    U = np.array([SPACE.encode(t.params) for t in study.trials.values()])
    y = np.log([t.used("device_seconds") for t in study.trials.values()])
    X = np.array([SPACE.encode(SPACE.sample(rng)) for _ in range(5)])
    checked = set()
    for c in fitted.components:
        if c.residual is None or c.startup_s > 0:
            continue
        sd = [
            np.linalg.norm(c.basis[1]) * s for s in (1, 0.125, 0.5)
        ]  # slopes tau, squares tau / 8, indicators tau / 2
        assert min(abs(sd[0] - t) for t in TAUS) < 1e-9
        V = np.diag(np.array([3.0, sd[0], sd[0], sd[1], sd[1], sd[2], sd[2], sd[2]]) ** 2)
        matches = []
        for lengthscale in (0.2, 0.4):
            K = features(U) @ V @ features(U).T + _matern(U, U, lengthscale) + c.sigma**2 * np.eye(13)
            k = features(X) @ V @ features(U).T + _matern(X, U, lengthscale)
            prior = np.diag(features(X) @ V @ features(X).T) + 1
            level = np.median(y)
            mean = level + k @ np.linalg.solve(K, y - level)
            deviation = np.sqrt(c.sigma**2 + prior - np.einsum("ij,ji->i", k, np.linalg.solve(K, k.T)))
            found = c.log_rest(features(X), 1.0)
            matches.append(np.allclose(found[0], mean, atol=1e-3) and np.allclose(found[1], deviation, atol=1e-3))
        assert sum(matches) == 1
        checked.add((matches[0], c.sigma))
    assert len(checked) > 3


def _residual_weight(fitted):
    return sum(c.weight for c in fitted.components if c.residual is not None)


def test_the_evidence_weighs_process_and_regression():
    # Priors are 1/2 each. Where the regression has the whole truth, the process only costs.
    assert _residual_weight(fit_cost(_study(61, _corner)[0])) > 0.95
    assert _residual_weight(fit_cost(_study(61, _linear)[0])) < 0.1


def test_what_no_regression_can_say_is_learned():
    study, rng = _study(97, _corner)  # more points than a process has features
    fitted = fit_cost(study)
    params = [SPACE.sample(rng) for _ in range(200)]
    U, truth = np.array([SPACE.encode(p) for p in params]), np.array([_corner(p) for p in params])
    regression = [c for c in fitted.components if c.residual is None]
    assert not regression or _residual_weight(fitted) > 0.99
    phi = fitted.features(U)
    seen = np.array([SPACE.encode(t.params) for t in study.trials.values()])
    y = np.log([t.used("device_seconds") for t in study.trials.values()])
    plain = phi @ np.linalg.lstsq(fitted.features(seen), y, rcond=1e-6)[0]
    error = np.sqrt(np.mean((fitted.log_seconds(U, 1.0) - truth) ** 2))
    assert error < 0.7 * np.sqrt(np.mean((plain - truth) ** 2))


def test_at_most_so_many_points_carry_a_residual_and_they_are_spread():
    corners = np.array(list(itertools.product([0.0, 1.0], [1 / 6, 0.5, 5 / 6], [0.0, 1.0])))
    near = corners[0] + 0.01 * np.random.default_rng(0).random((97, 3)) * [1, 0, 1]
    features = Features(SPACE)
    residual = Residual(features, features(np.concatenate([near, corners])), 0.3)
    assert residual.size == 48
    # Each corner is among the chosen, so nothing of its prior variance is left out.
    assert residual.missing(residual(features(corners))).max() < 1e-5
    assert residual.missing(residual(features(np.array([[0.5, 0.5, 0.5]]))))[0] > 0.1


def test_asked_again_it_is_not_fitted_again_until_something_has_ended():
    study, rng = _study(7, _linear)
    first = fit_cost(study)
    study.apply(Started(7, 0, SPACE.sample(rng), 0, 1, 1, Cost(), "s", 0.0))
    assert fit_cost(study) is first
    study.apply(Ended(7, 0, Outcome.COMPLETED, Cost(device_seconds=9.0), 0.0))
    assert fit_cost(study) is not first
    assert fit_cost(study).n == 8
    assert fit_cost(_study(7, _linear)[0]).log_seconds(np.full((1, 3), 0.5), 1.0) == first.log_seconds(
        np.full((1, 3), 0.5), 1.0
    )


@pytest.mark.parametrize("space", [Space({"c": Choice(["x"])}), Space({"a": Float(0, 1)})])
def test_spaces_of_none_and_of_one_dimension(space):
    study = Study(Problem("p", space, "m:f", Minimize("loss")))
    for seconds in (1.0, 1.2, 1.1):
        params = space.sample(np.random.default_rng(int(10 * seconds)))
        _end(study, params, seconds)
    fitted = fit_cost(study)
    assert fitted.quantile(space.encode(params)[None], 1, 0.5) == pytest.approx(1.1, rel=0.1)


def _grow(n, *, capped=()):
    """A study to which segments are added one by one: yields it after each; those in `capped` ran into their caps."""
    rng = np.random.default_rng(3)
    study = Study(Problem("p", SPACE, "m:f", Minimize("loss")))
    for i in range(n):
        params = SPACE.sample(rng)
        seconds = float(np.exp(2 * SPACE.encode(params)[0]))
        outcome, failure = (Outcome.FAILED, Failure.TIMEOUT) if i in capped else (Outcome.COMPLETED, None)
        study.apply(Started(i, 0, params, 0, 1, 1, Cost(), "s", float(i)))
        study.apply(Ended(i, 0, outcome, Cost(device_seconds=seconds), float(i), failure=failure))
        yield study


def test_of_many_segments_the_model_is_fitted_as_they_grow_by_a_twentieth():
    fits = [fit_cost(study).n for study in _grow(211)]
    assert fits[:40] == list(range(1, 41))
    due = sorted(set(fits[40:]))
    assert 20 < len(due) < 40  # log(211 / 40) / log(1.05) = 34
    assert all(n >= fitted and n - fitted < 0.06 * n + 1 for n, fitted in enumerate(fits, 1))
    # Who asks for the first time in the end has the model that others have, whenever they asked.
    whole = list(_grow(211))[-1]
    u = np.full((1, 3), 0.4)
    often = fit_cost([s for s in _grow(211) if fit_cost(s)][-1])
    assert (often.n, often.quantile(u, 3, 0.9)) == (fit_cost(whole).n, fit_cost(whole).quantile(u, 3, 0.9))


def test_a_segment_that_ran_into_its_cap_is_learned_from_at_once():
    calm = [fit_cost(study).n for study in _grow(101)]
    n = next(n for n in range(60, 101) if calm[n - 1] == calm[n - 2] == calm[n] < n)  # nothing is due
    shocked = [fit_cost(study).n for study in _grow(101, capped=[n - 1])]
    assert calm[n - 1] < shocked[n - 1] == n
    assert shocked[: n - 1] == calm[: n - 1]


def test_of_very_many_segments_it_sees_some_and_the_newest():
    study = list(_grow(1009))[-1]
    data = _segments(study, 1009)
    assert len(data.steps) == 400
    newest = SPACE.encode(study.trials[1008].params)
    assert (newest == data.U).all(axis=1).any()
    # All of the run, not only its end: in each tenth of it about a tenth of them.
    places = [i for i in range(1009) if (SPACE.encode(study.trials[i].params) == data.U).all(axis=1).any()]
    assert np.histogram(places, 10)[0] == pytest.approx(np.full(10, 40), abs=2)
