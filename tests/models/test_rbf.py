"""The squared exponential beside the Matern kernel: the same formulas with another function of the distance."""

import math

import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from gpytorch.kernels import RBFKernel

from frugalbo.models.kernel import MixedMatern, lengthscale_prior
from frugalbo.models.map_fit import Hyperparameters, fit_map, log_posterior
from frugalbo.models.objective import ObjectiveGP, fit_objective

PRIOR = lengthscale_prior(3)


def _points(n=13):
    rng = np.random.default_rng(0)
    X = rng.random((n, 3))
    X[:, 1] = (np.floor(X[:, 1] * 3) + 0.5) / 3
    return X, rng.standard_normal(n)


def test_the_kernel_is_gpytorchs():
    X = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = MixedMatern(3, (), PRIOR, family="rbf").double(), RBFKernel(ard_num_dims=3).double()
    for kernel in (ours, theirs):
        kernel.lengthscale = torch.tensor([0.2, 0.5, 1.1], dtype=torch.float64)
    assert torch.allclose(ours(X).to_dense(), theirs(X).to_dense(), atol=1e-12)


@pytest.mark.parametrize("categorical", [(), (1,)])
def test_the_log_posterior_is_gpytorchs(categorical):
    X, y = _points()
    differences = []
    for theta in (np.array([0.1, -0.4, 0.7, -3.0]), np.array([-1.0, 0.3, 0.2, -5.0])):
        ours, _, mean = log_posterior(X, y, categorical, PRIOR, theta, kernel="rbf")
        model = ObjectiveGP(torch.from_numpy(X), torch.from_numpy(y)[:, None], categorical, 3, kernel="rbf")
        model.set_hyperparameters(Hyperparameters(np.exp(theta[:-1]), math.exp(theta[-1]), mean, 0.0, 0))
        mll = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        model.train()
        differences.append(ours - float(mll(model(*model.train_inputs), model.train_targets)) * len(y))
    assert differences[0] == pytest.approx(differences[1], abs=1e-5)


@pytest.mark.parametrize("categorical", [(), (1,)])
def test_the_gradient_is_that_of_the_value(categorical):
    X, y = _points()
    theta, h = np.array([0.3, -0.6, 0.9, -3.0]), 1e-6
    gradient = log_posterior(X, y, categorical, PRIOR, theta, kernel="rbf")[1]
    numeric = [
        (
            log_posterior(X, y, categorical, PRIOR, theta + h * e, kernel="rbf")[0]
            - log_posterior(X, y, categorical, PRIOR, theta - h * e, kernel="rbf")[0]
        )
        / (2 * h)
        for e in np.eye(4)
    ]
    assert gradient == pytest.approx(np.array(numeric), rel=1e-6, abs=1e-6)


def test_smooth_losses_are_predicted_better_than_by_matern():
    better = 0
    T = np.random.default_rng(99).random((101, 2))
    for seed in range(5):
        X = np.random.default_rng(seed).random((23, 2))
        errors = {}
        for kernel in ("rbf", "matern52"):
            objective = fit_objective(X, np.sin(4 * X).sum(1), (), kernel=kernel)
            mean = objective.model.posterior(torch.from_numpy(T).unsqueeze(-2)).mean.numpy().ravel()
            errors[kernel] = np.abs(mean - objective.outcome(np.sin(4 * T).sum(1))).mean()
        better += errors["rbf"] < errors["matern52"]
    assert better >= 4  # 6 in 32 by chance


def test_all_ways_to_the_posterior_keep_the_family():
    X, y = _points(11)
    objective = fit_objective(X, y, (1,), kernel="rbf")
    P = torch.from_numpy(X[:5] * 0.9).unsqueeze(-2)
    short, long = objective.model.posterior(P), SingleTaskGP.posterior(objective.model, P)
    assert torch.allclose(short.mean, long.mean, atol=1e-8)
    assert torch.allclose(objective.model.negated().posterior(P).variance, short.variance, atol=1e-8)
    believing = objective.believing(P[0])
    assert believing.model.posterior(P[:1]).mean.item() == pytest.approx(short.mean[0].item(), abs=1e-6)


def test_other_families_are_refused():
    X, y = _points(5)
    with pytest.raises(ValueError, match="matern52 or rbf"):
        fit_objective(X, y, (), kernel="cubic")


def test_the_default_is_matern():
    X, y = _points()
    assert fit_map(X, y, (), PRIOR).value == fit_map(X, y, (), PRIOR, kernel="matern52").value
    assert fit_map(X, y, (), PRIOR).value != fit_map(X, y, (), PRIOR, kernel="rbf").value
