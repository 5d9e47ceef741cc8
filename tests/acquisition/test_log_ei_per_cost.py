import math

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.acquisition.analytic import _log_ei_helper
from botorch.models.deterministic import GenericDeterministicModel
from botorch.optim import optimize_acqf

from frugalbo.acquisition.log_cost import learned_log_cost, learned_log_mean_cost, regressed_cost
from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost, log_h
from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import Component, FittedCost
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.objective import fit_objective
from frugalbo.space import Choice, Float, Space

LOG_COST = GenericDeterministicModel(lambda X: 0.6 + 0 * X[..., :1])


@pytest.fixture
def objective():
    rng = np.random.default_rng(0)
    X = rng.random((13, 2))
    return fit_objective(X, ((X - 0.3) ** 2).sum(1), ())


@pytest.fixture
def X():
    return torch.rand(7, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _gaussian(mean, sd):
    class Known(GenericDeterministicModel):
        def posterior(self, X, *_, **__):
            from botorch.posteriors import GPyTorchPosterior
            from gpytorch.distributions import MultivariateNormal

            shape = X.shape[:-1]
            cov = torch.diag_embed(torch.full(shape, sd**2, dtype=X.dtype))
            return GPyTorchPosterior(MultivariateNormal(torch.full(shape, mean, dtype=X.dtype), cov))

    return Known(lambda X: X[..., :1])


def test_value_matches_the_closed_form(X):
    # EI for minimising at best_f = 0 with mu = -0.5, sigma = 1:
    # phi(0.5) + 0.5 Phi(0.5) = 0.35207 + 0.5 * 0.69146 = 0.69780
    acquisition = LogEIPerCost(_gaussian(-0.5, 1.0), 0.0, LOG_COST, 0.5, maximize=False)
    assert acquisition(X)[0].item() == pytest.approx(math.log(0.69780) - 0.5 * 0.6, abs=1e-4)


def test_the_chance_of_success_is_a_factor(objective, X):
    feasibility = FeasibilityGP([[0.2, 0.2], [0.9, 0.9]], [True, False], ())
    with_it = LogEIPerCost(objective.model, 0.0, None, 0.0, chances=[feasibility], maximize=False)
    without = LogEIPerCost(objective.model, 0.0, None, 0.0, maximize=False)
    assert torch.allclose(with_it(X) - without(X), feasibility.log_probability(X))


@pytest.mark.parametrize("maximize", [True, False])
def test_alpha_zero_is_log_ei_exactly(objective, X, maximize):
    ours = LogEIPerCost(objective.model, -0.3, LOG_COST, 0.0, maximize=maximize)
    theirs = LogExpectedImprovement(objective.model, torch.tensor(-0.3, dtype=torch.float64), maximize=maximize)
    assert torch.allclose(ours(X), theirs(X), rtol=1e-9)


def test_the_best_value_keeps_its_digits():
    # At a standard deviation of 1e-4 and a mean 1e-4 above the best, log EI is log h(1) - log 1e4. In float32
    # the best, -0.3, is -0.300000012: log h(1.00012).
    log_h_of_1 = math.log(math.exp(-0.5) / math.sqrt(2 * math.pi) + 0.5 * (1 + math.erf(math.sqrt(0.5))))
    acquisition = LogEIPerCost(_gaussian(-0.3 + 1e-4, 1e-4), -0.3)
    assert acquisition(torch.zeros(1, 1, 2).double()).item() == pytest.approx(log_h_of_1 - math.log(1e4), abs=1e-6)


def test_a_constant_factor_in_the_cost_only_shifts(objective, X):
    costs = [GenericDeterministicModel(lambda X, c=c: X[..., :1] + c) for c in (0.0, math.log(3600))]
    a, b = (LogEIPerCost(objective.model, -0.3, cost, 0.7, maximize=False)(X) for cost in costs)
    assert torch.allclose(a - b, torch.full_like(a, 0.7 * math.log(3600)))


def test_the_gradient_is_that_of_the_value(objective, X):
    feasibility = FeasibilityGP([[0.2, 0.2], [0.9, 0.9]], [True, False], ())
    cost = GenericDeterministicModel(lambda X: X[..., :1] ** 2 - X[..., 1:])
    acquisition = LogEIPerCost(objective.model, -0.3, cost, 0.7, chances=[feasibility], maximize=False)
    assert torch.autograd.gradcheck(acquisition, X.requires_grad_(True), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_out_of_range_is_refused(objective, alpha):
    with pytest.raises(ValueError, match="alpha in"):
        LogEIPerCost(objective.model, 0.0, None, alpha)


def test_botorchs_own_optimiser_takes_it(objective):
    acquisition = LogEIPerCost(objective.model, -0.3, LOG_COST, 1.0, maximize=False)
    bounds = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    candidate, _ = optimize_acqf(acquisition, bounds, q=1, num_restarts=2, raw_samples=16)
    assert candidate.shape == (1, 2)


def test_the_learned_cost_is_the_same_in_torch_and_numpy():
    space = Space({"a": Float(0, 1), "c": Choice(["x", "y", "z"]), "b": Float(0, 1)})
    features = Features(space)
    p = features(np.full((1, 3), 0.5)).shape[1]
    rng = np.random.default_rng(0)
    parts = [
        Component(weight, startup, 0.1, rng.standard_normal(p), np.eye(p), np.ones(p))
        for weight, startup in ((0.3, 0.0), (0.7, 2.0))
    ]
    fitted = FittedCost(features, parts, 5)
    U = rng.random((11, 3))
    U[:, 1] = (np.floor(U[:, 1] * 3) + 0.5) / 3
    torch_side = learned_log_cost(fitted, 7).posterior(torch.from_numpy(U).unsqueeze(-2)).mean[:, 0, 0]
    assert torch_side.numpy() == pytest.approx(fitted.log_seconds(U, 7), abs=1e-10)


def test_a_known_cost_is_seen_through_its_features():
    space = Space({"a": Float(1, 100, log=True), "b": Float(0, 1)})
    U = np.random.default_rng(0).random((61, 2))
    model = learned_log_cost(regressed_cost(space, U, 100 ** U[:, 0]), 1)
    P = torch.tensor([[[0.0, 0.5]], [[1.0, 0.5]]], dtype=torch.float64)
    low, high = model.posterior(P).mean[:, 0, 0].tolist()
    assert high - low == pytest.approx(math.log(100), rel=0.05)


def test_the_mean_of_a_log_normal_is_above_its_median():
    # Two components at weights 0.3 and 0.7, log seconds per step 1 +- sqrt(0.25 + 0.11), start-up 0 and 3 s.
    # Of 2 steps: 2 exp(1 + 0.18) = 6.50875 each, so 0.3 * 6.50875 + 0.7 * 9.50875 = 8.60875.
    space = Space({"a": Float(0, 1)})
    features = Features(space)
    mean, variance = np.array([1.0, 0.0, 0.0]), np.array([0.11, 0.0, 0.0])
    parts = [Component(w, s, 0.5, mean, np.eye(3), variance) for w, s in ((0.3, 0.0), (0.7, 3.0))]
    fitted = FittedCost(features, parts, 5)
    X = torch.full((3, 1, 1), 0.7, dtype=torch.float64)
    assert learned_log_mean_cost(fitted, 2.0)(X).exp().reshape(-1).tolist() == pytest.approx([8.60875] * 3, rel=1e-5)
    level = math.log(2.0)
    assert learned_log_mean_cost(fitted, 2.0, level=level)(X).exp()[0].item() == pytest.approx(8.60875 / 2, rel=1e-5)


def test_log_h_and_its_gradient_are_right_from_far_left_to_far_right():
    # h(0) = phi(0), slope Phi(0) / phi(0) = 1.253314; to the right h is u. To the left by Mills' ratio
    # h = phi / u^2 (1 - 3 / u^2 + ...), so log h falls with the slope -u - 2 / u + ...
    u = torch.tensor([-1e6, -20000.0, -9999.0, -30.0, -1.0, 0.0, 1.0, 300.0], dtype=torch.float64, requires_grad=True)
    value = log_h(u)
    assert torch.equal(value, _log_ei_helper(u))
    (slope,) = torch.autograd.grad(value.sum(), u)
    assert value[5].item() == pytest.approx(math.log(0.39894228))
    assert slope[5].item() == pytest.approx(1.253314, rel=1e-6)
    # Phi(-1) / (phi(-1) - Phi(-1)) = 0.1586553 / 0.0833155
    assert slope[4].item() == pytest.approx(1.904270, rel=1e-5)
    assert slope[:4].tolist() == pytest.approx([1e6, 20000.0, 9999.0002, 30.066], rel=1e-4)
    assert slope[7].item() == pytest.approx(1 / 300)


def test_the_gradient_of_log_h_is_that_of_its_value():
    u = torch.linspace(-37, 7, 23, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_h, u, eps=1e-6, atol=1e-6, rtol=1e-5)
