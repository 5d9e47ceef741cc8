import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import Component, FittedCost
from frugalbo.models.objective import fit_objective
from frugalbo.space import Choice, Float, Space

SPACE = Space({"a": Float(0, 1), "c": Choice(["x", "y", "z"]), "b": Float(0, 1)})
FEATURES = Features(SPACE)
P = 8  # 1, two slopes, two squares, three indicators


def _fitted(seed=0, startups=(0.0, 2.0)):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(len(startups)))
    return FittedCost(
        FEATURES,
        [
            Component(w, s, 0.3, rng.standard_normal(P), rng.standard_normal((P, P)), 0.1 * rng.random(P))
            for w, s in zip(weights, startups, strict=True)
        ],
        5,
    )


def _points(n, seed=0):
    U = np.random.default_rng(seed).random((n, 3))
    U[:, 1] = (np.floor(U[:, 1] * 3) + 0.5) / 3
    return torch.from_numpy(U).unsqueeze(-2)


def test_value_matches_the_closed_form():
    # Two components: log seconds 1 +- 0.5 after a start-up of 0 and 3 s, at weights 0.3 and 0.7.
    # Of 2 steps, within 10 s: Phi((log 5 - 1) / 0.5) = Phi(1.21888) = 0.88855 and
    # Phi((log 3.5 - 1) / 0.5) = Phi(0.50553) = 0.69340; 0.3 * 0.88855 + 0.7 * 0.69340 = 0.75195.
    mean = np.zeros(P)
    mean[0] = 1.0
    parts = [Component(w, s, 0.5, mean, np.eye(P), np.zeros(P)) for w, s in ((0.3, 0.0), (0.7, 3.0))]
    budget = HardBudget(FittedCost(FEATURES, parts, 3), 2.0, 10.0)
    assert budget.log_probability(_points(5)).exp().tolist() == pytest.approx([0.75195] * 5, abs=1e-5)


@given(seed=st.integers(0, 99), q=st.floats(0.01, 0.99), steps=st.sampled_from([1.0, 7.0]))
def test_it_is_the_inverse_of_the_models_quantile(seed, q, steps):
    fitted, X = _fitted(seed), _points(1, seed)
    seconds = fitted.quantile(X[0].numpy(), steps, q)
    assert HardBudget(fitted, steps, seconds).log_probability(X).exp().item() == pytest.approx(q, abs=1e-6)


def test_an_infinite_budget_is_no_factor_at_all():
    X = _points(7)
    model = fit_objective(_points(13, 1).squeeze(-2).numpy(), np.arange(13.0), (1,)).model
    without = LogEIPerCost(model, 0.0, None, 0.0, maximize=False)
    with_it = LogEIPerCost(model, 0.0, None, 0.0, chances=[HardBudget(_fitted(), 7, math.inf)], maximize=False)
    assert torch.equal(with_it(X), without(X))
    # Weights sum to 1 but for rounding, which shows in some of these.
    for seed in range(11):
        budget = HardBudget(_fitted(seed, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)), 7, math.inf)
        assert torch.equal(budget.log_probability(X), torch.zeros(7, dtype=torch.float64))


def test_it_is_a_factor_of_the_acquisition():
    X = _points(7)
    budget = HardBudget(_fitted(), 7, 20.0)
    model = fit_objective(_points(13, 1).squeeze(-2).numpy(), np.arange(13.0), (1,)).model
    without = LogEIPerCost(model, 0.0, None, 0.0, maximize=False)
    with_it = LogEIPerCost(model, 0.0, None, 0.0, chances=[budget], maximize=False)
    assert torch.allclose(with_it(X) - without(X), budget.log_probability(X))
    assert (budget.log_probability(X) < 0).all()


@pytest.mark.parametrize("left_s", [0.01, 1.0, 3.0, 1e3, 1e9])
def test_the_gradient_is_that_of_the_value_and_finite_far_out(left_s):
    budget = HardBudget(_fitted(), 7, left_s)
    X = _points(5).requires_grad_(True)
    if left_s == 3.0:
        assert torch.autograd.gradcheck(budget.log_probability, X, eps=1e-6, atol=1e-5)
    (gradient,) = torch.autograd.grad(budget.log_probability(X).sum(), X)
    assert torch.isfinite(gradient).all()


def test_less_money_is_less_likely_to_do():
    X = _points(11)
    values = [HardBudget(_fitted(), 7, s).log_probability(X) for s in (0.1, 1.0, 10.0, 100.0, 1e6)]
    assert all((a < b).all() for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("left_s", [0.0, -1.0, math.nan])
def test_nothing_left_is_refused(left_s):
    with pytest.raises(ValueError, match="above 0"):
        HardBudget(_fitted(), 1, left_s)
