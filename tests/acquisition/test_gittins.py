import math

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.models.deterministic import GenericDeterministicModel
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from hypothesis import given
from hypothesis import strategies as st

from frugalbo.acquisition.gittins import (
    LAMBDA_START,
    GittinsIndex,
    decayed_lambda,
    inverse_log_h,
    should_stop,
)
from frugalbo.acquisition.log_ei_per_cost import log_h
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.objective import fit_objective


class Known(GenericDeterministicModel):
    """Independent normal variables whose mean and standard deviation are functions of x."""

    def __init__(self, mean, sd):
        super().__init__(mean)
        self._sd = sd

    def posterior(self, X, *_, **__):
        mean = self._f(X)[..., 0]
        return GPyTorchPosterior(MultivariateNormal(mean, torch.diag_embed(self._sd(X)[..., 0] ** 2)))


def _constant(mean, sd):
    return Known(lambda X: 0 * X[..., :1] + mean, lambda X: 0 * X[..., :1] + sd)


def _cost(log_c):
    return GenericDeterministicModel(lambda X: 0 * X[..., :1] + log_c)


@pytest.fixture
def X():
    return torch.rand(7, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def objective():
    X = np.random.default_rng(0).random((13, 2))
    return fit_objective(X, ((X - 0.3) ** 2).sum(1), ())


def test_value_matches_the_closed_form(X):
    # h(0) = phi(0) = 0.398942, so with sd 2 the improvement over g = mean is 2 * 0.398942 = 0.797885:
    # at a price of 0.1 and a cost of 7.97885, the index of N(3, 2^2) is 3 itself.
    index = GittinsIndex(_constant(3.0, 2.0), _cost(math.log(7.97885)), 0.1)
    assert index(X).tolist() == pytest.approx([3.0] * 7, abs=1e-5)
    # h(1) = phi(1) + Phi(1) = 0.241971 + 0.841345 = 1.083316: one sd below the mean, if the cost is 2 * that.
    index = GittinsIndex(_constant(3.0, 2.0), _cost(math.log(21.66632)), 0.1)
    assert index(X).tolist() == pytest.approx([1.0] * 7, abs=1e-5)
    # The same when minimising: the mean plus one sd, negated.
    index = GittinsIndex(_constant(3.0, 2.0), _cost(math.log(21.66632)), 0.1, maximize=False)
    assert index(X).tolist() == pytest.approx([-5.0] * 7, abs=1e-5)


@pytest.mark.parametrize("maximize", [True, False])
def test_at_the_index_the_improvement_is_the_cost(objective, X, maximize):
    cost = GenericDeterministicModel(lambda X: X[..., :1] - 2 * X[..., 1:])
    index = GittinsIndex(objective.model, cost, 0.03, maximize=maximize)(X)
    for x, g in zip(X, index, strict=True):
        ei = LogExpectedImprovement(objective.model, g if maximize else -g, maximize=maximize)(x[None])
        assert ei.item() == pytest.approx(math.log(0.03) + float(x[0, 0] - 2 * x[0, 1]), abs=1e-6)


@given(y=st.floats(-1e14, 690))
def test_the_inverse_is_the_inverse(y):
    u = inverse_log_h(torch.tensor([y], dtype=torch.float64))
    assert log_h(u).item() == pytest.approx(y, rel=1e-9, abs=1e-9)


def test_the_gradient_of_the_inverse_is_that_of_its_value():
    y = torch.tensor([-300.0, -40.0, -3.0, -0.5, 0.3, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(inverse_log_h, y, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("maximize", [True, False])
def test_the_gradient_is_that_of_the_value(objective, X, maximize):
    feasibility = FeasibilityGP([[0.2, 0.2], [0.9, 0.9]], [True, False], ())
    cost = Known(lambda X: X[..., :1] ** 2 - X[..., 1:], lambda X: 0.3 + X[..., :1])
    index = GittinsIndex(objective.model, cost, 0.03, chances=[feasibility], maximize=maximize)
    assert torch.autograd.gradcheck(index, X.requires_grad_(True), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("maximize", [True, False])
def test_minimising_is_maximising_the_negative(X, maximize):
    up = GittinsIndex(Known(lambda X: X[..., :1], lambda X: 0.5 + X[..., 1:]), _cost(0.3), 0.05)
    down = GittinsIndex(Known(lambda X: -X[..., :1], lambda X: 0.5 + X[..., 1:]), _cost(0.3), 0.05, maximize=False)
    assert torch.allclose(up(X), down(X))


def test_at_equal_means_and_costs_the_less_known_is_looked_at(X):
    index = GittinsIndex(Known(lambda X: 0 * X[..., :1], lambda X: 0.1 + X[..., :1]), None, 0.01)
    assert index(X).argsort().tolist() == X[:, 0, 0].argsort().tolist()


def test_without_price_differences_dearer_is_lower_and_the_ends_are_as_they_should_be():
    # As the price falls to 0, any chance of improvement is worth it: g grows without bound; where it
    # is huge, one would have to be paid: g = mean - price * cost, as EI(g) = mean - g far below.
    P = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    values = [GittinsIndex(_constant(0.0, 1.0), None, price)(P).item() for price in (1e-30, 1e-6, 0.1, 1.0, 50.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 10
    assert values[-1] == pytest.approx(-50.0, abs=1e-9)


def test_an_unknown_cost_counts_by_its_expectation(X):
    # exp(N(0.3, 0.5^2)) is 0.3 + 0.125 in logarithms of its mean.
    unknown = GittinsIndex(_constant(0.0, 1.0), _constant(0.3, 0.5), 0.1)
    assert torch.allclose(unknown(X), GittinsIndex(_constant(0.0, 1.0), _cost(0.425), 0.1)(X))
    certain = GittinsIndex(_constant(0.0, 1.0), _constant(0.3, 1e-4), 0.1)
    assert torch.allclose(certain(X), GittinsIndex(_constant(0.0, 1.0), _cost(0.3), 0.1)(X))


def test_the_index_exceeds_the_best_exactly_where_the_improvement_exceeds_its_price(objective, X):
    # This is what links the stopping rule to expected improvement per cost.
    cost = GenericDeterministicModel(lambda X: X[..., :1])
    best = objective.best()
    log_ratio = LogExpectedImprovement(objective.model, best, maximize=False)(X) - X[:, 0, 0]
    for price in torch.exp(log_ratio.sort().values[:-1] + 1e-6).tolist():
        index = GittinsIndex(objective.model, cost, price, maximize=False)(X)
        assert torch.equal(index > -best, log_ratio > math.log(price))


def test_of_independent_boxes_the_rule_is_the_best_there_is():
    # Two boxes, N(0, 1) at cost 0.1 and N(-0.2, 2^2) at cost 0.5; the best policy by enumeration over
    # 400 quantiles of each: open none; one; or one, then the other if what it showed is below a threshold.
    means, sds, costs = (0.0, -0.2), (1.0, 2.0), (0.1, 0.5)
    z = torch.distributions.Normal(0, 1).icdf((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
    values = [m + s * z for m, s in zip(means, sds, strict=True)]
    P = torch.zeros(1, 1, 1, dtype=torch.float64)
    index = [
        GittinsIndex(_constant(m, s), _cost(math.log(c)), 1.0)(P).item()
        for m, s, c in zip(means, sds, costs, strict=True)
    ]

    def worth(first, threshold):
        second = 1 - first
        shown = values[first].clamp_min(0.0)
        both = torch.maximum(shown[:, None], values[second][None]).mean(1) - costs[second]
        return (torch.where(shown < threshold, both, shown)).mean().item() - costs[first]

    thresholds = np.linspace(-0.5, 4, 91)
    best = max(max(worth(first, t) for t in thresholds) for first in (0, 1))
    first = int(np.argmax(index))
    assert min(index) > 0  # so that both are worth opening to somebody who has nothing
    assert worth(first, index[1 - first]) == pytest.approx(best, abs=2e-3)
    assert worth(1 - first, index[first]) < best - 5e-3


def test_lambda_is_halved_until_something_is_worth_its_price():
    assert decayed_lambda(3.0) == LAMBDA_START == 0.1
    assert decayed_lambda(0.1) == 0.05  # at 0.1 itself nothing exceeds it
    assert decayed_lambda(0.04) == 0.025
    assert 0 < decayed_lambda(0.0) < 1e-8


def test_the_stopping_rule():
    assert should_stop(1.0, 1.0)
    assert not should_stop(1.1, 1.0)
    assert should_stop(-1.0, 0.9, maximize=False)
    assert not should_stop(-0.8, 0.9, maximize=False)


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_price_that_is_none_is_refused(price):
    with pytest.raises(ValueError, match="price"):
        GittinsIndex(_constant(0.0, 1.0), None, price)
