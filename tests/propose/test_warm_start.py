import numpy as np
import pytest
from studies import tell

from frugalbo.models import map_fit, objective
from frugalbo.models.kernel import Group
from frugalbo.models.objective import fit_objective
from frugalbo.problem import Minimize, Problem
from frugalbo.propose import fit
from frugalbo.propose.bo import BayesianProposer
from frugalbo.space import Choice, Float, Space
from frugalbo.study import Study

SPACE = Space({"a": Float(0, 1), "b": Float(0, 1), "c": Choice(["x", "y", "z"]), "d": Choice(["x", "y", "z"])})


def _loss(params):
    return (params["a"] - 0.3) ** 2 + 0.3 * np.sin(7 * params["b"]) + 0.2 * (params["c"] == params["d"])


def _study(n, seed=0):
    study, rng = Study(Problem("p", SPACE, "m:f", Minimize("loss"))), np.random.default_rng(seed)
    for _ in range(n):
        params = SPACE.sample(rng)
        tell(study, params, _loss(params) + 0.05 * rng.standard_normal())
    return study


def _arrays(n):
    trials = list(_study(n).trials.values())
    X = np.array([SPACE.encode(t.params) for t in trials])
    return X, np.array([t.reports[1]["loss"] for t in trials])


def test_from_where_it_ended_a_fit_goes_nowhere():
    X, losses = _arrays(41)
    groups = [Group((2, 3), 3)]
    cold = fit_objective(X, losses, (2, 3), groups=groups)
    again = fit_objective(X, losses, (2, 3), groups=groups, start=cold.fit)
    assert again.fit.evaluations <= 3
    assert again.fit.value == pytest.approx(cold.fit.value, abs=1e-3)
    assert again.fit.lengthscales == pytest.approx(cold.fit.lengthscales, rel=0.05)
    assert again.fit.counts == pytest.approx(cold.fit.counts, rel=0.05)


def test_from_the_first_64_the_fit_of_97_is_as_good_as_from_the_fixed_starts():
    X, losses = _arrays(97)
    cold = fit_objective(X, losses, (2, 3))
    warm = fit_objective(X, losses, (2, 3), start=fit_objective(X[:64], losses[:64], (2, 3)).fit)
    assert warm.fit.value > cold.fit.value - 0.1


@pytest.mark.parametrize("n", [97, 421])
def test_what_is_suggested_depends_on_the_study_alone(n):
    study = _study(n)
    fit._firsts.clear()
    (fresh,) = BayesianProposer(method="ei", seed=0).propose(study, 1)
    for other in (_study(83, 1), study):
        (found,) = BayesianProposer(method="ei", seed=0).propose(other, 1)
    assert found.params == fresh.params


def test_the_fit_of_the_first_is_done_once_and_only_where_there_are_many(monkeypatch):
    fit._firsts.clear()
    sizes, original = [], map_fit.fit_map
    monkeypatch.setattr(objective, "fit_map", lambda X, *a, **k: sizes.append(len(X)) or original(X, *a, **k))
    study, rng = _study(80), np.random.default_rng(5)
    for _ in range(3):
        BayesianProposer(method="ei", seed=0).propose(study, 1)
        tell(study, SPACE.sample(rng), float(rng.random()))
    assert sizes == [80, 64, 81, 82]


def test_of_powers_of_two_it_is_the_last_before():
    assert [fit._power_below(n) for n in (81, 128, 129, 256, 257, 400)] == [64, 64, 128, 128, 256, 256]
