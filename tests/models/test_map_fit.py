import math

import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from gpytorch.kernels import MaternKernel
from scipy.linalg import lapack

from frugalbo.models.kernel import Group, MixedMatern, lengthscale_prior
from frugalbo.models.map_fit import Hyperparameters, fit_map, log_posterior
from frugalbo.models.objective import ObjectiveGP, fit_objective

PRIOR = lengthscale_prior(3)


def _points(n=13, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.random((n, d))
    X[:, 1] = (np.floor(X[:, 1] * 3) + 0.5) / 3
    return X, rng.standard_normal(n)


def _model(X, y, categorical, theta, mean):
    model = ObjectiveGP(torch.from_numpy(X), torch.from_numpy(y)[:, None], categorical, X.shape[1])
    model.set_hyperparameters(Hyperparameters(np.exp(theta[:-1]), math.exp(theta[-1]), mean, 0.0, 0))
    return model


@pytest.mark.parametrize("categorical", [(), (1,)])
def test_the_log_posterior_is_gpytorchs(categorical):
    X, y = _points()
    differences = []
    for theta in (np.array([0.1, -0.4, 0.7, -3.0]), np.array([-1.0, 0.3, 0.2, -5.0])):
        ours, _, mean = log_posterior(X, y, categorical, PRIOR, theta)
        model = _model(X, y, categorical, theta, mean)
        mll = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        model.train()
        theirs = float(mll(model(*model.train_inputs), model.train_targets)) * len(y)
        differences.append(ours - theirs)
    # The priors' normalising constants are left out: equal up to one constant, and to GPyTorch's float32 priors.
    assert differences[0] == pytest.approx(differences[1], abs=1e-5)


@pytest.mark.parametrize("categorical", [(), (1,)])
def test_the_gradient_is_that_of_the_value(categorical):
    X, y = _points()
    theta = np.array([0.3, -0.6, 0.9, -3.0])
    _, gradient, _ = log_posterior(X, y, categorical, PRIOR, theta)
    h = 1e-6

    def value(step):
        return log_posterior(X, y, categorical, PRIOR, theta + step)[0]

    numeric = [(value(h * e) - value(-h * e)) / (2 * h) for e in np.eye(4)]
    assert gradient == pytest.approx(np.array(numeric), rel=1e-6, abs=1e-6)


def test_the_mean_is_where_the_likelihood_is_largest():
    # Two points so far apart that they are independent: the generalised mean is the plain mean.
    X, y = np.array([[0.0], [1.0]]), np.array([1.0, 4.0])
    theta = np.array([math.log(0.03), math.log(0.1)])
    assert log_posterior(X, y, (), PRIOR, theta)[2] == pytest.approx(2.5)


def test_the_value_matches_the_closed_form_for_two_independent_points():
    # y = (1, 4) about 2.5, variance 1.1 each: -1/2 (2 * 1.5^2 / 1.1 + 2 log 1.1 + 2 log 2 pi)
    # = -1/2 (4.09091 + 0.19062 + 3.67575) = -3.97864. Priors of l = 0.03 and noise 0.1:
    # -(-3.50656 - m)^2 / 6 + 3.50656 with m = sqrt 2 + log(3)/2 = 1.96352 gives -1.48041;
    # -(-2.30259 + 4)^2 / 2 + 2.30259 = 0.86199. Sum -4.59706.
    X, y = np.array([[0.0], [1.0]]), np.array([1.0, 4.0])
    theta = np.array([math.log(0.03), math.log(0.1)])
    assert log_posterior(X, y, (), PRIOR, theta)[0] == pytest.approx(-4.59706, abs=2e-5)


def test_a_dimension_that_matters_gets_the_shorter_lengthscale():
    rng = np.random.default_rng(1)
    X = rng.random((31, 2))
    y = np.sin(7 * X[:, 0])
    found = fit_map(X, (y - y.mean()) / y.std(), (), lengthscale_prior(2))
    assert found.lengthscales[0] < found.lengthscales[1] / 2
    assert found.noise < 0.01


def test_fitting_twice_gives_the_same():
    X, y = _points(n=101)
    a, b = (fit_map(X, y, (1,), PRIOR) for _ in range(2))
    assert a.lengthscales.tolist() == b.lengthscales.tolist()
    assert a.noise == b.noise


def test_a_likelihood_that_fails_everywhere_is_told(monkeypatch):
    monkeypatch.setattr(lapack, "dpotrf", lambda K, **_: (K, 1))
    X, y = _points()
    assert "likelihood" in fit_map(X, y, (), PRIOR).problem


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_without_categories_is_gpytorchs_matern(dtype):
    X = torch.rand(7, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    ours, theirs = MixedMatern(3, (), PRIOR).to(X), MaternKernel(nu=2.5, ard_num_dims=3).to(X)
    for kernel in (ours, theirs):
        kernel.lengthscale = torch.tensor([0.2, 0.5, 1.1], dtype=dtype)
    assert torch.allclose(ours(X).to_dense(), theirs(X).to_dense(), atol=1e-9 if dtype == torch.float64 else 1e-5)
    assert torch.allclose(ours(X, diag=True), torch.ones(7, dtype=dtype))


def test_categories_are_one_hot_vectors_to_the_kernel():
    # One category apart at lengthscale 2: r = 1/2, so k = (1 + 1.118034 + 0.416667) exp(-1.118034) = 0.828649.
    kernel = MixedMatern(2, (1,), PRIOR).double()
    kernel.lengthscale = torch.tensor([0.5, 2.0], dtype=torch.float64)
    a, b, c = (torch.tensor([[0.3, u]], dtype=torch.float64) for u in (1 / 6, 0.5, 5 / 6))
    assert kernel(a, b).to_dense().item() == pytest.approx(0.828649, abs=1e-6)
    assert kernel(a, c).to_dense().item() == pytest.approx(0.828649, abs=1e-6)
    assert kernel(a, a).to_dense().item() == pytest.approx(1)


GROUP = Group((0, 2, 3), 4)


def _cells(n=17, seed=3):
    """Points of three choices among four values (0, 2, 3), an ordered dimension and a single choice among three."""
    rng = np.random.default_rng(seed)
    X = (np.floor(rng.random((n, 5)) * 4) + 0.5) / 4
    X[:, 1] = rng.random(n)
    X[:, 4] = (np.floor(rng.random(n) * 3) + 0.5) / 3
    return X, rng.standard_normal(n)


def test_counts_are_how_often_each_value_was_chosen():
    X = torch.tensor([[0.125, 0.9, 0.125, 0.875], [0.375, 0.1, 0.625, 0.375]])
    assert GROUP.counts(X).tolist() == pytest.approx(np.array([[2, 0, 0, 1], [0, 2, 1, 0]]) * 2 / 3)


def test_the_kernel_of_counts_does_not_see_where_a_value_stands():
    kernel = MixedMatern(5, (0, 2, 3, 4), PRIOR, [GROUP]).double()
    kernel.lengthscale = torch.full((5,), 0.8, dtype=torch.float64)
    a = torch.tensor([[0.125, 0.5, 0.375, 0.625, 0.5]], dtype=torch.float64)
    swapped = a[:, [3, 1, 0, 2, 4]]
    changed = torch.tensor([[0.125, 0.5, 0.375, 0.875, 0.5]], dtype=torch.float64)  # one value for another
    kernel.set_counts(1.0, 2.0)
    assert kernel(a, swapped).to_dense().item() == pytest.approx(1)
    # Two counts differ by 1, times 2/3: r^2 = 2 (2/3)^2 / 4 = 2/9.
    r = math.sqrt(5 * 2 / 9)
    assert kernel(a, changed).to_dense().item() == pytest.approx((1 + r + r * r / 3) * math.exp(-r))
    kernel.set_counts(0.0, 2.0)
    plain = MixedMatern(5, (0, 2, 3, 4), PRIOR).double()
    plain.lengthscale = torch.full((5,), 0.8, dtype=torch.float64)
    assert torch.equal(kernel(a, swapped).to_dense(), plain(a, swapped).to_dense())


@pytest.mark.parametrize("theta", [[0.1, -0.4, 0.7, 0.2, 0.5, 0.3, -0.8, -3.0], [-1, 0.3, 0.2, -0.5, 0, -0.7, 1.5, -5]])
def test_with_counts_value_and_gradient_are_right(theta):
    X, y = _cells()
    theta, categorical = np.array(theta, float), (0, 2, 3, 4)

    def value(step):
        return log_posterior(X, y, categorical, PRIOR, theta + step, [GROUP])[0]

    ours, gradient, mean = log_posterior(X, y, categorical, PRIOR, theta, [GROUP])
    numeric = [(value(1e-6 * e) - value(-1e-6 * e)) / 2e-6 for e in np.eye(8)]
    assert gradient == pytest.approx(np.array(numeric), rel=1e-5, abs=1e-5)
    kernel = MixedMatern(5, categorical, PRIOR, [GROUP]).double()
    kernel.lengthscale = torch.from_numpy(np.exp(theta[:5]))
    kernel.set_counts(1 / (1 + math.exp(-theta[6])), math.exp(theta[5]))
    kernel.requires_grad_(False)
    points = torch.from_numpy(X)
    K = kernel(points).to_dense() + math.exp(theta[-1]) * torch.eye(len(y), dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(torch.full((len(y),), mean, dtype=torch.float64), K)
    priors = -((theta[:5] - PRIOR[0]) ** 2) / 2 / PRIOR[1] ** 2 - theta[:5]
    rest = -((theta[-1] + 4) ** 2) / 2 - theta[-1] - theta[5] ** 2 / 2 - theta[6] ** 2 / 2
    assert ours == pytest.approx(float(normal.log_prob(torch.from_numpy(y))) + priors.sum() + rest, abs=1e-8)


def test_counts_are_used_where_they_are_all_that_matters_and_not_where_places_do():
    rng = np.random.default_rng(0)
    X = (np.floor(rng.random((40, 4)) * 4) + 0.5) / 4
    group = [Group((0, 1, 2, 3), 4)]
    how_often = (X < 0.25).sum(axis=1) + 0.5 * (X > 0.75).sum(axis=1)
    where = (X[:, 0] < 0.5) + 2.0 * (X[:, 1] < 0.5)
    weights = []
    for y in (how_often, where):
        found = fit_map(X, (y - y.mean()) / y.std(), (0, 1, 2, 3), lengthscale_prior(4), group)
        assert found.counts is not None
        weights.append(found.counts[0])
    assert weights[0] > 0.9
    assert weights[1] < 0.25


def test_beliefs_and_negation_keep_the_kernel_of_counts():
    X, y = _cells()
    objective = fit_objective(X, y, (0, 2, 3, 4), 5, [GROUP])
    at = torch.from_numpy(_cells(4, seed=9)[0]).unsqueeze(-2)
    with torch.no_grad():
        mean = objective.model.posterior(at).mean
        assert torch.allclose(objective.model.negated().posterior(at).mean, -mean)
        # What is believed to come out as predicted changes no prediction.
        assert torch.allclose(objective.believing(at[:2, 0].numpy()).model.posterior(at).mean, mean, atol=1e-6)


@pytest.mark.parametrize("categorical", [(), (1,)])
def test_the_short_way_to_the_posterior_is_the_long_way(categorical):
    X, y = _points(n=17)
    objective = fit_objective(X, y, categorical)
    P = torch.rand(5, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    P[:, :, 1] = 0.5
    short, long = objective.model.posterior(P), SingleTaskGP.posterior(objective.model, P)
    assert torch.allclose(short.mean, long.mean, atol=1e-8)
    assert torch.allclose(short.variance, long.variance, atol=1e-8)
    # Many points jointly, and the same points alone.
    joint = objective.model.posterior(P[:, 0])
    assert torch.allclose(joint.mean[:, 0], short.mean[:, 0, 0], atol=1e-8)


def test_a_fantasy_model_does_not_answer_from_the_old_factor():
    X, y = _points(n=11)
    model = fit_objective(X, y, ()).model
    P = torch.full((1, 1, 3), 0.5, dtype=torch.float64)
    before = model.posterior(P)
    new = model.condition_on_observations(P[0], torch.tensor([[3.0]], dtype=torch.float64))
    assert new.posterior(P).mean.item() > before.mean.item() + 0.3
    assert new.posterior(P).variance.item() < before.variance.item()


def test_believed_points_keep_the_mean_and_lose_variance():
    X, y = _points(n=11)
    objective = fit_objective(X, y, ())
    P = torch.tensor([[[0.9, 0.1, 0.5]]], dtype=torch.float64)
    believing = objective.believing(P[0])
    assert believing.model.posterior(P).mean.item() == pytest.approx(objective.model.posterior(P).mean.item(), abs=1e-6)
    assert believing.model.posterior(P).variance.item() < 0.5 * objective.model.posterior(P).variance.item()
