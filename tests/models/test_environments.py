import math

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.acquisition.risk_measures import CVaR, Expectation, VaR, WorstCase
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.errors import FrugalWarning, ModelError
from frugalbo.models.environments import WeightedRisk, fit_environments

SEEDS = ("s0", "s1", "s2")


def _loss(X, w):
    return 4 * (X[:, 0] - 0.4) ** 2 + 0.5 * np.sin(3 * X[:, 1] + w) + 0.2 * w


def _data(n=37, seed=0):
    rng = np.random.default_rng(seed)
    X, w = rng.random((n, 2)), rng.integers(0, 3, n)
    return X, [SEEDS[i] for i in w], _loss(X, w)


def test_the_mean_over_environments_is_predicted_where_no_point_saw_them_all():
    env = fit_environments(*_data(), weights={"s0": 2, "s1": 1, "s2": 1})
    T = np.random.default_rng(9).random((101, 2))
    truth = 0.5 * _loss(T, 0) + 0.25 * _loss(T, 1) + 0.25 * _loss(T, 2)
    predicted = env.mean.posterior(torch.from_numpy(T).unsqueeze(-2))
    error = predicted.mean.numpy().ravel() - env.outcome(truth)
    assert np.sqrt(np.mean(error**2)) < 0.15
    assert np.mean(np.abs(error) < 2 * predicted.variance.sqrt().numpy().ravel()) > 0.85


def test_the_mean_is_that_of_samples_of_all_environments():
    env = fit_environments(*_data(), weights={"s0": 3, "s1": 1})
    x = torch.tensor([[0.3, 0.6], [0.9, 0.2]], dtype=torch.float64)
    torch.manual_seed(0)
    samples = (
        env.spread.posterior(x).rsample(torch.Size([40001])).reshape(-1, 2, 2) @ torch.tensor([0.75, 0.25]).double()
    )
    exact = env.mean.posterior(x)
    # 40001 samples: the mean is known to 0.5 % of a standard deviation, covariances to 1 %.
    scale = exact.variance.max().sqrt().item()
    assert samples.mean(0).tolist() == pytest.approx(exact.mean.ravel().tolist(), abs=0.03 * scale)
    covariance = exact.distribution.covariance_matrix
    assert torch.allclose(samples.T.cov(), covariance, atol=0.04 * scale**2)


def test_a_loss_of_every_environment_alike_needs_no_environments():
    X, w, _ = _data()
    env = fit_environments(X, w, _loss(X, 0))
    T = np.random.default_rng(9).random((31, 2))
    means = torch.stack([env.model.mean(env.look(T, label)) for label in SEEDS])
    assert float((means.max(0).values - means.min(0).values).max()) < 0.05


def test_the_expected_reduction_of_variance_is_what_a_look_brings():
    env = fit_environments(*_data())
    x = torch.tensor([[0.31, 0.65]], dtype=torch.float64)
    for label, gain in env.variance_reductions(x).items():
        more = env.model.with_data(env.look(x, label), torch.tensor([5.0], dtype=torch.float64))
        after = type(env.mean)(more, env.mean.features, env.mean.weights).moments(x)[1]
        assert gain == pytest.approx(float(env.mean.moments(x)[1] - after), rel=1e-5)


def test_the_next_environment_is_the_one_that_was_not_seen_unless_it_is_dear():
    X = np.random.default_rng(0).random((23, 2))
    w = [i % 2 for i in range(23)]
    env = fit_environments(X, w, _loss(X, np.array(w)), weights={0: 1, 1: 1, 2: 1})
    assert env.next_environment([0.5, 0.5]) == 2
    assert env.next_environment([0.5, 0.5], cost={0: 1.0, 1: 1.0, 2: 1e9}) != 2
    with pytest.raises(ModelError, match="positive cost"):
        env.next_environment([0.5, 0.5], cost={0: 1.0})


def test_a_heavier_environment_is_worth_more_looks():
    X = np.random.default_rng(0).random((24, 2))
    w = [i % 2 for i in range(24)]
    env = fit_environments(X, w, _loss(X, np.array(w)), weights={0: 9, 1: 1})
    gains = env.variance_reductions([0.5, 0.5])
    assert gains[0] > gains[1]


def test_described_environments_borrow_from_those_near_them():
    rng = np.random.default_rng(2)
    X, size = rng.random((53, 2)), rng.choice([0.0, 0.3, 1.0], 53)
    losses = (X[:, 0] - size) ** 2
    rows = {s: [s] for s in (0.0, 0.3, 0.5, 1.0)}
    env = fit_environments(X, list(size), losses, weights={0.5: 1}, descriptors=rows)
    T = rng.random((101, 2))
    predicted = env.mean.posterior(torch.from_numpy(T).unsqueeze(-2)).mean.numpy().ravel()
    assert np.corrcoef(predicted, (T[:, 0] - 0.5) ** 2)[0, 1] > 0.9


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("mean", lambda n, a: Expectation(n)),
        ("value-at-risk", lambda n, a: VaR(a, n)),
        ("cvar", lambda n, a: CVaR(a, n)),
        ("worst", lambda n, a: WorstCase(n)),
    ],
)
@given(n=st.integers(1, 7), alpha=st.floats(0.05, 1.0))
@settings(max_examples=20, deadline=None)
def test_with_equal_weights_risks_are_botorchs(kind, theirs, n, alpha):
    # Where n alpha is an integer in exact arithmetic, rounding decides which atom is the value at risk.
    if abs(n * alpha - round(n * alpha)) < 1e-6:
        alpha = round(n * alpha) / n
        if math.ceil(n * alpha) != round(n * alpha):
            return
    samples = torch.randn(5, 3 * n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    ours = WeightedRisk(kind, weights, alpha)(samples)
    assert ours.shape == (5, 3)
    assert torch.allclose(ours, theirs(n, alpha)(-samples))


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=4), alpha=st.sampled_from([0.13, 0.47, 0.71, 1.0]))
@settings(max_examples=30, deadline=None)
def test_a_weight_of_two_is_an_environment_twice(counts, alpha):
    losses = torch.randn(3, len(counts), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    repeated = losses.repeat_interleave(torch.tensor(counts), dim=1)
    weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    equal = torch.full((sum(counts),), 1 / sum(counts), dtype=torch.float64)
    for kind in ("mean", "mean-variance", "value-at-risk", "worst"):
        a, b = WeightedRisk(kind, weights, alpha)(losses), WeightedRisk(kind, equal, alpha)(repeated)
        assert torch.allclose(a, b)


def test_the_risks_of_three_environments_by_hand():
    # Losses 1, 5, 2 with probabilities .5, .2, .3. Mean .5 + 1 + .6 = 2.1, variance
    # .5 * 1.21 + .2 * 8.41 + .3 * .01 = 2.29. At .75 the value at risk is 2, and the mean of 2 and 5
    # by their weights (.6 + 1) / .5 = 3.2.
    losses = torch.tensor([[[1.0], [5.0], [2.0]]]).double()
    p = torch.tensor([0.5, 0.2, 0.3]).double()
    expected = {"mean": -2.1, "mean-variance": -2.1 - 2 * 2.29, "value-at-risk": -2.0, "cvar": -3.2, "worst": -5.0}
    for kind, value in expected.items():
        assert WeightedRisk(kind, p, 0.75, aversion=2.0)(losses).item() == pytest.approx(value)


@pytest.mark.parametrize("kind", ["mean", "mean-variance", "value-at-risk", "cvar", "worst"])
def test_acquisitions_take_risks(kind):
    X, w, losses = _data()
    env = fit_environments(X, w, losses)
    x = torch.rand(3, 2, 2, dtype=torch.float64, requires_grad=True)
    pending = torch.rand(1, 2, dtype=torch.float64)
    risk = env.risk(kind)
    baseline = torch.from_numpy(X[:5])
    values = [
        qLogExpectedImprovement(env.spread, 0.0, objective=risk, X_pending=pending)(x),
        qLogNoisyExpectedImprovement(env.spread, baseline, objective=risk, prune_baseline=False)(x),
    ]
    for value in values:
        assert value.shape == (3,)
        assert torch.isfinite(torch.autograd.grad(value.sum(), x)[0]).all()


def test_acquisitions_take_the_mean():
    env = fit_environments(*_data())
    x = torch.rand(3, 1, 2, dtype=torch.float64)
    theirs = LogExpectedImprovement(env.mean, best_f=0.0, maximize=False)(x)
    assert torch.allclose(theirs, LogEIPerCost(env.mean, 0.0, maximize=False)(x))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"losses": [1.0, math.nan]}, "row 1"),
        ({"environment": ["a"]}, "2 points, got 1"),
        ({"weights": {}}, "weights"),
        ({"weights": {"a": -1.0, "b": 2.0}}, "weights"),
        ({"descriptors": {"a": [0.1]}}, r"none of \['b'\]"),
        ({"descriptors": {"a": [0.1], "b": [0.1, 0.2]}}, "one length"),
        ({"descriptors": {"a": [0.1], "b": [2.0]}}, r"in \[0, 1\]"),
    ],
)
def test_bad_environments_are_refused(arguments, said):
    good = {"X": [[0.1], [0.2]], "environment": ["a", "b"], "losses": [1.0, 2.0]}
    with pytest.raises(ModelError, match=said):
        fit_environments(**{**good, **arguments})


def test_bad_questions_are_refused():
    env = fit_environments([[0.1], [0.2]], ["a", "b"], [1.0, 2.0])
    with pytest.raises(ModelError, match="'c'"):
        env.look([0.3], "c")
    for kind, alpha, aversion in (("vibes", 0.5, 1.0), ("cvar", 0.0, 1.0), ("cvar", 1.1, 1.0), ("mean", 0.5, -1.0)):
        with pytest.raises(ModelError, match="expected"):
            env.risk(kind, alpha, aversion)


@pytest.mark.parametrize("losses", [[1.0], [2.0, 2.0, 2.0]])
def test_little_data_gives_a_finite_model(losses):
    X = np.random.default_rng(0).random((len(losses), 2))
    env = fit_environments(X, list(range(len(losses))), losses)
    posterior = env.mean.posterior(torch.rand(5, 1, 2, dtype=torch.float64))
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.variance > 0).all()


def test_tails_that_forbid_means_are_told():
    X = np.random.default_rng(0).random((7, 2))
    with pytest.warns(FrugalWarning, match="transformed losses"):
        fit_environments(X, ["a", "b"] * 3 + ["a"], [1.0, 2.0, 3.0, 4.0, 1e18, 1.5, 2.5])
