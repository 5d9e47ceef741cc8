"""The subset of observations that a model is of, where there are many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import tell

from frugalbo.problem import Minimize, Problem
from frugalbo.propose.bo import MODEL_OF, BayesianProposer
from frugalbo.propose.local import nearest_and_spread, subset
from frugalbo.space import Float, Space
from frugalbo.study import Study


def _cloud(n, d=3, seed=0):
    X = np.random.default_rng(seed).random((n, d))
    return X, ((X - 0.3) ** 2).sum(1)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 200), most=st.integers(4, 61), seed=st.integers(0, 99), same=st.booleans())
def test_a_subset_has_its_size_each_row_once_and_the_best(n, most, seed, same):
    X, losses = _cloud(n, seed=seed)
    if same:  # many observations of one point
        X[n // 2 :] = X[0]
    for rows in (subset(X, losses, np.ones(3), (), most), nearest_and_spread(X, X[:2], most)):
        assert len(rows) == min(n, most)
        assert (np.diff(rows) > 0).all()
    assert losses.argmin() in subset(X, losses, np.ones(3), (), most)


def test_half_are_nearest_a_quarter_are_the_best_and_a_quarter_spread_out():
    # On a line: the best point is 0, the loss rises to the right but falls to -0.5 at x in (0.9, 0.95).
    # Of 20: 10 nearest to the best five, five best of the rest (from the second valley), five far apart.
    x = np.linspace(0, 1, 101)
    losses = np.where((x > 0.895) & (x < 0.955), -0.5, x)
    losses[:5] = -1.0
    rows = subset(x[:, None], losses, np.ones(1), (), 20)
    # nearest to rows 0 to 4, the lower row first where two are as near: 0 ... 9
    assert rows[:10].tolist() == list(range(10))
    assert set(range(90, 95)) <= set(rows.tolist())
    spread = sorted(set(rows.tolist()) - set(range(10)) - set(range(90, 95)))
    # Between 9 and 90 the middle comes first (49), then the middles of the halves (69 or 70; 29), then quarters.
    assert len(spread) == 5
    assert 49 in spread
    assert 29 in spread
    assert min(np.diff([9, *spread, 90])) >= 10


def test_distance_is_in_units_of_lengthscales_and_categories_only_differ():
    # The best is the origin. (0.2, 0) is 2 lengthscales away, (0, 0.9) one; a third dimension of
    # categories puts (0, 0, 0.3) and (0, 0, 0.9) equally far.
    rng = np.random.default_rng(0)
    far = 0.6 + 0.4 * rng.random((40, 3))
    X = np.concatenate([[[0, 0, 0]] * 2, [[0.2, 0, 0]] * 2, [[0, 0.9, 0]] * 2, [[0, 0, 0.9]] * 2, far])
    losses = np.concatenate([[0, 0], np.full(len(X) - 2, 1.0)])
    # One centre (8 // 4 = 2 of the same place), the 4 nearest of a model of 8.
    rows = subset(X, losses, np.array([0.1, 0.9, 0.7]), (2,), 8)
    assert {0, 1, 4, 5} <= set(rows.tolist())  # 1 / 1 = 1 for the second, 1 / 0.7^2 = 2 for the third, 4 for the first
    rows = subset(X, losses, np.array([0.1, 0.9, 2.0]), (2,), 8)
    assert {0, 1, 6, 7} <= set(rows.tolist())


def _study(n, seed=0):
    study = Study(Problem("p", Space({f"x{i}": Float(0, 1) for i in range(6)}), "m:f", Minimize("loss")))
    rng = np.random.default_rng(seed)
    for _ in range(n):
        params = study.problem.space.sample(rng)
        tell(study, params, _loss(params))
    return study


def _loss(params):
    x = np.array(list(params.values()))
    return float(((x - 0.4) ** 2).sum() + 0.3 * np.sin(9 * x[0] * x[1]))


def test_why_says_of_how_many_the_model_was():
    study = _study(150)
    (part,) = BayesianProposer(seed=0, model_of=100).propose(study, 1)
    (whole,) = BayesianProposer(seed=0, model_of=150).propose(study, 1)
    assert (part.why["observed"], part.why["model_of"]) == (150, 100)
    assert "model_of" not in whole.why
    tell(study, part.params, 1.0)
    study.trials[150].why = part.why
    assert "The model knew 150 results and was of 100 of them." in study.explain(150)


def test_a_model_of_too_few_is_refused():
    with pytest.raises(ValueError, match="at least 80 observations, got 79"):
        BayesianProposer(seed=0, model_of=79)


def test_what_was_tried_is_not_suggested_though_the_model_does_not_know_it():
    study = _study(130)
    proposer = BayesianProposer(seed=0, model_of=80)
    tried = {tuple(t.params.values()) for t in study.trials.values()}
    found = proposer.propose(study, 5)
    assert not tried & {tuple(s.params.values()) for s in found}
    assert len({tuple(s.params.values()) for s in found}) == 5


@pytest.mark.slow
def test_the_model_of_a_subset_suggests_points_as_good_as_those_of_the_model_of_all():
    # 500 random observations; the true loss of one suggestion each. Over 8 seeds the subset's are not
    # worse in the median by more than a tenth of what lies between the best known and the optimum.
    gaps = []
    for seed in range(8):
        study = _study(500, seed)
        best = min(study.value(t) for t in study.trials.values())
        part, whole = (
            _loss(BayesianProposer(seed=seed, method="ei", model_of=m).propose(study, 1)[0].params)
            for m in (MODEL_OF // 2, 1000)
        )
        gaps.append((part - whole) / (best - -0.2))
    assert np.median(gaps) < 0.1


@pytest.mark.slow
def test_two_thousand_trials_with_failures_take_about_a_second():
    study = _study(1000)
    rng = np.random.default_rng(1)
    for _ in range(1000):
        params = study.problem.space.sample(rng)
        tell(study, params, None if params["x0"] > 0.9 else _loss(params), seconds=1 + params["x1"])
    proposer = BayesianProposer(seed=0)
    proposer.propose(study, 1)
    (s,) = proposer.propose(study, 1)
    assert s.why["model_of"] == MODEL_OF
    assert s.why["seconds"] < 5  # 0.4 s when alone
